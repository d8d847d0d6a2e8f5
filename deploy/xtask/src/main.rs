//! What the repository does for itself: `cargo demo`, `cargo xtask …`.

use std::process::ExitCode;

use clap::Parser;

mod demo;
mod faults;
mod fuzz;
mod program;

/// What the repository does for itself
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    Demo(demo::Demo),
    Faults(faults::Faults),
    Fuzz(fuzz::Fuzz),
}

fn main() -> ExitCode {
    let task = Task::parse();
    let outcome = program::surviving_ctrl_c(|| match task {
        Task::Demo(demo) => demo.run(),
        Task::Faults(faults) => faults.run(),
        Task::Fuzz(fuzz) => fuzz.run(),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            program::talk(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
