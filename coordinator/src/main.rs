//! The command `umsid`. See the library for its story.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use umsid::cli::{self, Umsid};
use umsid::exit;

fn main() -> ExitCode {
    let umsid = match Umsid::try_parse() {
        Ok(umsid) => umsid,
        Err(error) => return ExitCode::from(cli::misread(&error)),
    };
    umsid_common::memory::close_to_others();
    umsid.start_logging();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(anyhow::Error::new(error).context("cannot start"))),
    };
    let ending = runtime.block_on(umsid.run());
    // Whatever still runs in the background has no effect that matters.
    runtime.shutdown_background();
    ended(ending)
}

/// The one place where errors are printed.
fn ended(ending: anyhow::Result<u8>) -> ExitCode {
    let exit = ending.unwrap_or_else(|error| {
        // A reader that left, as `head` does, is not told about it; the exit code still is not 0.
        if !exit::is_reader_gone(&error) {
            let mut stderr = std::io::stderr().lock();
            // With standard error gone there is nobody left to tell.
            let _ = exit::print(&error, &mut stderr).and_then(|()| stderr.flush());
        }
        exit::of(&error).code()
    });
    ExitCode::from(exit)
}
