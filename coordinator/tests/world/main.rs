//! Faults in the world around real processes: networks that fall silent, slow lines, frozen processes, clocks that move,
//! certificates that expire, hosts that lose power, full disks, UMS Servers and an `umsadmin-cli` that misbehave. After each, every server is as it was or in sync, the user has
//! been told which, and `umsid resume` finishes once the fault is gone.
//!
//! Some tests need root and programs of the system. Where those are missing they are counted as ignored, with the
//! reason, which is why this target has a harness of its own.

#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

#[cfg(unix)]
#[path = "../support/place.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod place;
#[cfg(unix)]
#[path = "../support/tmpfs.rs"]
mod tmpfs;
#[cfg(unix)]
#[path = "../support/trials.rs"]
mod trials;

#[cfg(unix)]
#[path = "../support/eavesdropper.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod eavesdropper;

#[cfg(unix)]
mod certificates;
#[cfg(unix)]
mod clocks;
#[cfg(unix)]
mod disk;
#[cfg(unix)]
mod frozen;
#[cfg(unix)]
mod gateway;
#[cfg(unix)]
mod helper;
#[cfg(unix)]
mod link;
#[cfg(unix)]
mod network;
#[cfg(unix)]
mod partition;
#[cfg(unix)]
mod processes;
#[cfg(unix)]
mod reboot;
#[cfg(unix)]
mod secrets;
#[cfg(unix)]
mod site;
#[cfg(unix)]
mod slow_link;
#[cfg(unix)]
mod ums_server;
#[cfg(unix)]
mod umsadmin_cli;
#[cfg(unix)]
mod world;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    network::own();
    let tests = [
        certificates::TESTS,
        clocks::TESTS,
        disk::TESTS,
        frozen::TESTS,
        gateway::TESTS,
        gateway::AT_HOME,
        helper::TESTS,
        partition::TESTS,
        reboot::TESTS,
        secrets::TESTS,
        site::TESTS,
        slow_link::TESTS,
        ums_server::TESTS,
        umsadmin_cli::TESTS,
    ]
    .concat();
    // They wait more than they work.
    trials::run(tests, 16)
}

#[cfg(not(unix))]
fn main() {}
