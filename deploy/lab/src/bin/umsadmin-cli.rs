//! The stand-in for the vendor's `umsadmin-cli`. The scripts in a lab's servers call it; it is of no use by itself.

use std::process::ExitCode;

use umsid_lab::programs;

#[expect(clippy::print_stderr, reason = "the one thing said by a program whose lab is broken")]
fn main() -> ExitCode {
    let argv: Vec<_> = std::env::args_os().collect();
    match programs::server_from_environment().and_then(|server| programs::umsadmin_cli(server, &argv)) {
        Ok(exit) => ExitCode::from(exit),
        Err(error) => {
            eprintln!("umsadmin-cli: {error}");
            ExitCode::FAILURE
        }
    }
}
