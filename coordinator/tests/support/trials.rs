//! Test programs with a harness of their own: what cannot run here is counted as ignored, with the reason.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

/// One test.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    /// Its name, with its file's.
    pub(crate) name: &'static str,
    /// What is missing to run it here.
    pub(crate) missing: fn() -> Option<String>,
    /// It.
    pub(crate) run: fn(),
}

/// The tests of a file, by what they need; under another name than `TESTS` where a file has two lists.
#[macro_export]
macro_rules! tests {
    ($needs:expr; $($test:ident),+ $(,)?) => { $crate::tests! { TESTS: $needs; $($test),+ } };
    ($list:ident: $needs:expr; $($test:ident),+ $(,)?) => {
        pub(crate) const $list: &[$crate::trials::Test] = &[$($crate::trials::Test {
            name: concat!(module_path!(), "::", stringify!($test)),
            missing: $needs,
            run: $test,
        }),+];
    };
}

/// For tests that need nothing.
pub(crate) fn nothing() -> Option<String> {
    None
}

/// Runs them, so many at once unless the command line says otherwise.
pub(crate) fn run(tests: Vec<Test>, at_once: usize) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(at_once);
    let trials = tests.into_iter().map(|test| {
        let (_, name) = test.name.split_once("::").expect("a path has the name of its program first");
        Trial::ignorable_test(name, move || match (test.missing)() {
            Some(reason) => Ok(Completion::ignored_with(reason)),
            None => {
                (test.run)();
                Ok(Completion::Completed)
            }
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}
