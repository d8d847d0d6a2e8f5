//! What running programs is like on Windows: `.bat` without a shell's traps, and jobs that end as a whole.

use std::path::Path;
use std::time::Duration;

use super::{CommandLine, ExecError, Program, Rules, find_process};
use crate::config::Config;

const LONG: Duration = Duration::from_secs(60);

fn rules() -> Rules {
    Rules { grace: Duration::from_millis(100), ..Rules::of(&Config::default()) }
}

fn batch(dir: &Path, text: &str) -> CommandLine {
    let place = dir.join("with space & ü");
    std::fs::create_dir(&place).unwrap();
    let path = place.join("umsadmin-cli.bat");
    umsid_common::durable::replace(&path, text.as_bytes(), umsid_common::durable::Access::Private).unwrap();
    CommandLine::program(&path)
}

#[tokio::test]
async fn a_batch_file_gets_arguments_as_they_are() {
    let dir = umsid_testkit::scratch();
    let us = std::env::current_exe().unwrap();
    // As a vendor's does: it hands all it was given to a program.
    let text = format!(
        "@echo off\r\nset REPEATER=1\r\n\"{}\" --exact exec::windows_tests::repeater --nocapture %*\r\n",
        us.display()
    );
    let command = batch(dir.path(), &text);
    let arguments = [r"C:\Program Files\a & b\c.ksbak", "one|two>three", "x (y)"];
    let rules = rules();
    let ran = Program::new(command.with(arguments), &rules, LONG).run().await.unwrap().succeeded().unwrap();
    for argument in arguments {
        assert!(ran.raw.stdout.contains(&format!("[{argument}]")), "{argument}: {ran:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_told_to_a_batch_file_is_not_tried() {
    let dir = umsid_testkit::scratch();
    let command = batch(dir.path(), "@echo off\r\necho ran\r\n");
    let rules = rules();
    let error = Program::new(command.with(["two\r\nlines"]), &rules, LONG).run().await.unwrap_err();
    assert!(matches!(error, ExecError::Spawn { .. }), "{error:?}");
}

#[tokio::test]
async fn at_the_deadline_all_that_was_started_ends() {
    let dir = umsid_testkit::scratch();
    let us = std::env::current_exe().unwrap();
    let mark = format!("{}", dir.path().display());
    let text = format!(
        "@echo off\r\nset SLEEPER=1\r\n\"{}\" --exact exec::windows_tests::sleeper --nocapture \"{mark}\"\r\n",
        us.display()
    );
    let command = batch(dir.path(), &text);
    let rules = rules();
    let waiting = Program::new(command, &rules, Duration::from_secs(3));
    let seen = async {
        while find_process(&["windows_tests::sleeper", &mark]).is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (ended, started) = tokio::join!(waiting.run(), tokio::time::timeout(LONG, seen));
    started.expect("what the batch file starts was never there");
    assert!(matches!(ended, Err(ExecError::TimedOut { .. })), "{ended:?}");
    // Far from the end it would come to by itself.
    umsid_testkit::wait_for("its end", LONG / 3, || {
        let gone = find_process(&["windows_tests::sleeper", &mark]).is_none();
        async move { gone.then_some(()) }
    })
    .await;
}

/// Not a test: what the batch file above starts.
#[test]
fn sleeper() {
    if std::env::var_os("SLEEPER").is_some() {
        std::thread::sleep(LONG * 5);
    }
}

/// Not a test: what the batch file above hands its arguments to.
#[test]
fn repeater() {
    if std::env::var_os("REPEATER").is_some() {
        for argument in std::env::args().skip(4) {
            println!("[{argument}]");
        }
    }
}
