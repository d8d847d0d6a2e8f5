//! Moments at which this process can be ended or frozen on purpose, to see what that leaves behind.
//!
//! They are in the programs that are shipped, so that what is tested is what runs. Whoever starts the process arms them
//! through its environment, and they can do no more than end or stop the process, which whoever starts it could do
//! anyway. Unarmed, a moment costs one look at a variable.
//!
//! | variable | meaning |
//! |---|---|
//! | `UMSID_FAULT` | `ACTION@MOMENT#N`, several apart by commas: what happens when the moment comes for the Nth time (`#1` may be left out); `abort` ends the process as a crash would, `stop` freezes it until it gets SIGCONT (Unix) |
//! | `UMSID_FAULT_TRACE` | a file to which every moment is added as it comes, one `MOMENT#N` a line |

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::fs::File;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A moment has come: if it is armed, this process ends or stops here.
///
/// # Panics
/// If `UMSID_FAULT` cannot be understood or the file of `UMSID_FAULT_TRACE` cannot be opened: a test that arms nothing must
/// not look like one that passes.
pub fn moment(name: impl Display) {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Armed::of(variable("UMSID_FAULT").as_deref(), variable("UMSID_FAULT_TRACE").as_deref())
    });
    if let Some(armed) = armed {
        armed.reach(&name.to_string());
    }
}

struct Armed {
    faults: Vec<Fault>,
    reached: Mutex<Reached>,
}

#[derive(Default)]
struct Reached {
    counts: HashMap<String, u32>,
    trace: Option<File>,
}

impl Armed {
    fn of(faults: Option<&str>, trace: Option<&str>) -> Option<Self> {
        if faults.is_none() && trace.is_none() {
            return None;
        }
        let faults: Vec<Fault> = faults
            .map_or("", |text| text)
            .split(',')
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().unwrap_or_else(|error| panic!("UMSID_FAULT: {error}")))
            .collect();
        let trace = trace.map(|path| {
            let file = File::options().create(true).append(true).open(path);
            file.unwrap_or_else(|error| panic!("UMSID_FAULT_TRACE: {path}: {error}"))
        });
        if !faults.is_empty() {
            tracing::warn!(?faults, "armed to fail on purpose");
        }
        Some(Self { faults, reached: Mutex::new(Reached { counts: HashMap::new(), trace }) })
    }

    fn reach(&self, name: &str) {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let count = reached.counts.entry(name.to_owned()).or_default();
        *count += 1;
        let count = *count;
        if let Some(trace) = &mut reached.trace {
            // One write, so that lines of several processes do not mix.
            let _ = trace.write_all(format!("{name}#{count}\n").as_bytes());
        }
        drop(reached);
        for fault in self.faults.iter().filter(|fault| fault.moment == name && fault.count == count) {
            match fault.action {
                Action::Abort => std::process::abort(),
                Action::Stop => stop(),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Abort,
    Stop,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    action: Action,
    moment: String,
    count: u32,
}

#[derive(Debug)]
struct NotAFault(String);

impl Display for NotAFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not abort@MOMENT#N or stop@MOMENT#N", self.0)
    }
}

impl FromStr for Fault {
    type Err = NotAFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let not = || NotAFault(text.to_owned());
        let (action, moment) = text.split_once('@').ok_or_else(not)?;
        let action = match action {
            "abort" => Action::Abort,
            "stop" => Action::Stop,
            _ => return Err(not()),
        };
        let (moment, count) = match moment.rsplit_once('#') {
            Some((moment, count)) => (moment, count.parse().ok().filter(|count| *count > 0).ok_or_else(not)?),
            None => (moment, 1),
        };
        if moment.is_empty() { Err(not()) } else { Ok(Self { action, moment: moment.to_owned(), count }) }
    }
}

#[cfg(unix)]
fn stop() {
    use rustix::process::{Signal, getpid, kill_process};
    kill_process(getpid(), Signal::STOP).expect("a process may signal itself");
    // The signal reaches the other threads within moments; this one goes no further until it has.
    std::thread::sleep(std::time::Duration::from_millis(20));
}

#[cfg(not(unix))]
fn stop() {
    panic!("UMSID_FAULT: stop is only there on Unix");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        let fault = |action, moment: &str, count| Fault { action, moment: moment.to_owned(), count };
        assert_eq!("abort@a b".parse::<Fault>().unwrap(), fault(Action::Abort, "a b", 1));
        assert_eq!("stop@a#3".parse::<Fault>().unwrap(), fault(Action::Stop, "a", 3));
        for wrong in ["", "abort", "abort@", "kill@a", "abort@a#0", "abort@a#x", "@a"] {
            assert!(wrong.parse::<Fault>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_moment_is_traced_and_counted() {
        let directory = umsid_testkit::scratch();
        let path = directory.path().join("trace");
        let armed = Armed::of(Some("abort@b#3"), path.to_str()).unwrap();
        for name in ["a", "b", "a", "b"] {
            armed.reach(name);
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a#1\nb#1\na#2\nb#2\n");
    }

    #[test]
    fn without_the_variables_nothing_is_armed() {
        assert!(Armed::of(None, None).is_none());
    }
}
