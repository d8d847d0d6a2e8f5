//! Whatever dies, every server ends as it was or synchronized: not a belief, a matrix.
//!
//! For every kind of run, one run is left in peace with all its moments traced: those of `umsid` and of every agent. Each
//! moment of each process is one case: the process dies there, is started again, the run is taken up, and what came of it
//! must be what came of the run left in peace. Nothing is listed by hand: a new step brings its moments with it.
//!
//! The matrix has one fault at a time. A *schedule* (`schedule.rs`) has several, one upon the other, of processes, people and
//! the UMS itself, drawn by a seed.
//!
//! | variable | meaning |
//! |---|---|
//! | `UMSID_FAULTS` | how many cases and schedules: `slice` (a few; the default), `sample` (a part that fits into CI), `whole` |
//! | `UMSID_FAULTS_SEED` | which part, and in which order: the same number gives the same again |
//! | `UMSID_FAULTS_ONLY` | only cases and schedules whose name holds this text: a failed one alone |

#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

#[path = "../support/place.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod place;

#[path = "../support/tmpfs.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod tmpfs;
#[path = "../support/trials.rs"]
mod trials;

mod case;
mod ground;
mod kind;
mod matrix;
mod observed;
mod schedule;
mod story;

fn main() -> std::process::ExitCode {
    // Each plays at several places at once by itself.
    trials::run([matrix::DEATHS, matrix::DISKS, schedule::TESTS].concat(), 1)
}
