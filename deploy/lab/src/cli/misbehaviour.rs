//! What a program does that should not: hanging, flooding, leaving children behind, talking out of turn.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::time::Duration;

use crate::layout::ServerDir;
use crate::process;
use crate::settings::Settings;

/// The argument that makes `umsid-lab-server` hold its output and do nothing else.
const HOLD: &str = "hold-output";

/// The end of every hanging, in case nobody ends it.
const LIMIT: Duration = Duration::from_secs(600);

/// What happens before a sub-command does anything: perhaps nothing ever comes after.
pub(crate) fn before(settings: &Settings, sub_command: &str) {
    if settings.flood.has(sub_command) {
        flood();
    }
    if settings.hang.has(sub_command) {
        hang_as_told(settings);
    }
}

/// What happens when a sub-command has had its effect.
pub(crate) fn after_effect(settings: &Settings, sub_command: &str) {
    if settings.hangs_after_effect.has(sub_command) {
        hang_as_told(settings);
    }
}

fn hang_as_told(settings: &Settings) {
    if settings.hang_forks_child {
        let program = std::env::current_exe().unwrap_or_default().with_file_name(crate::service::PROGRAM);
        // A child that cannot be had leaves the plain hang.
        let _ = process::start_holding_output(&program, &[HOLD]);
    }
    hang();
}

/// Leaves a child behind, in a process group of its own, that holds stdout and stderr.
pub(crate) fn leave_child(server: &ServerDir) {
    let program = server.lab().bin().join(crate::service::PROGRAM);
    // A child that cannot be had leaves a call that behaves.
    let _ = process::start_holding_output_apart(&program, &[HOLD]);
}

/// Holds stdout and stderr for as long as a hang lasts.
pub fn hold() {
    hang();
}

/// Does nothing for ten minutes, SIGTERM or not.
fn hang() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        tokio::select! {
            () = tokio::time::sleep(LIMIT) => {}
            never = deaf() => match never {},
        }
    });
}

#[cfg(unix)]
async fn deaf() -> Infallible {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    loop {
        terminate.recv().await;
    }
}

#[cfg(not(unix))]
async fn deaf() -> Infallible {
    std::future::pending().await
}

/// Prints until nobody reads any more.
fn flood() {
    let line = "2026-08-12 10:15:32,481 DEBUG [main] d.i.u.a.Cli - nothing to see here\n".repeat(100);
    while io::stdout().write_all(line.as_bytes()).is_ok() {}
}

/// Lines a logging framework and a JVM would add.
pub(super) fn add_noise(stdout: &mut String, stderr: &mut String) {
    *stdout = format!(
        "2026-08-12 10:15:32,481 INFO  [main] d.i.u.a.Cli - session 7f3a9c0e5b1d4e62a8f04c7d9b3e1a55 opened\n\
         2026-08-12 10:15:32,490 INFO  [main] d.i.u.a.Cli - build 351b4da62d5a304c5b86401fb2c49091490ea5ae\n\
         {stdout}\
         2026-08-12 10:15:33,007 INFO  [main] d.i.u.a.Cli - session 7f3a9c0e5b1d4e62a8f04c7d9b3e1a55 closed\n"
    );
    *stderr = format!(
        "WARNING: An illegal reflective access operation has occurred\n\
         WARNING: All illegal access operations will be denied in a future release\n{stderr}"
    );
}
