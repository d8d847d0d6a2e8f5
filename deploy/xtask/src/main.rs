//! What the repository does for itself: `cargo demo`, `cargo xtask …`.

use std::process::ExitCode;

use clap::Parser;

#[cfg(unix)]
mod bench;
mod demo;
#[cfg(unix)]
mod dist;
mod enrolling;
mod faults;
#[cfg(unix)]
mod files;
mod fuzz;
#[cfg(unix)]
mod hosts;
#[cfg(unix)]
mod packages;
mod program;
#[cfg(unix)]
mod system;
#[cfg(unix)]
mod told;
#[cfg(unix)]
mod windows;

/// What the repository does for itself
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    #[cfg(unix)]
    Bench(bench::Bench),
    Demo(demo::Demo),
    #[cfg(unix)]
    Dist(dist::Dist),
    Faults(faults::Faults),
    Fuzz(fuzz::Fuzz),
    #[cfg(unix)]
    Hosts(hosts::Hosts),
    #[cfg(unix)]
    Packages(packages::Packages),
    #[cfg(unix)]
    Windows(windows::Windows),
}

fn main() -> ExitCode {
    let task = Task::parse();
    let outcome = program::surviving_ctrl_c(|| match task {
        #[cfg(unix)]
        Task::Bench(bench) => bench.run(),
        Task::Demo(demo) => demo.run(),
        #[cfg(unix)]
        Task::Dist(dist) => dist.run(),
        Task::Faults(faults) => faults.run(),
        Task::Fuzz(fuzz) => fuzz.run(),
        #[cfg(unix)]
        Task::Hosts(hosts) => hosts.run(),
        #[cfg(unix)]
        Task::Packages(packages) => packages.run(),
        #[cfg(unix)]
        Task::Windows(windows) => windows.run(),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            program::talk(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
