//! Several administrators share one state in PostgreSQL: real `umsid` in a directory each, real agents, a server of PostgreSQL
//! that is the test's own. Where there is none to be had, these are counted as ignored, with the reason.

#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

#[cfg(unix)]
#[path = "../support/place.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod place;
#[cfg(unix)]
#[path = "../support/trials.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod trials;

#[cfg(unix)]
mod documents;
#[cfg(unix)]
mod joining;
#[cfg(unix)]
mod moving;
#[cfg(unix)]
mod runs;
#[cfg(unix)]
mod team;

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    let tests = [documents::TESTS, joining::TESTS, moving::TESTS, runs::TESTS].concat();
    trials::run(tests, 8)
}

#[cfg(not(unix))]
fn main() {}
