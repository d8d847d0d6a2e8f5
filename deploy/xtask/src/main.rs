//! What the repository does for itself: `cargo demo`, `cargo xtask …`.

use std::process::ExitCode;

use clap::Parser;

mod demo;
mod program;

/// What the repository does for itself
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    Demo(demo::Demo),
}

fn main() -> ExitCode {
    let task = Task::parse();
    let outcome = program::surviving_ctrl_c(|| match task {
        Task::Demo(demo) => demo.run(),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            program::talk(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
