//! Bad input and bad circumstances, each through the real `umsid`, real agents and a lab: what the exit code is, that
//! standard error says what, why and what to do, and that nothing has changed on any server.
//!
//! Tried end to end elsewhere: unknown clusters and hosts, servers out of reach (`sync/refusals.rs`); two names for one
//! server, wrong and used pairing codes (`edges/enrolment.rs`); a canary that comes back with its old UMS ID
//! (`sync/back.rs`). Clocks that differ cannot be had on one machine: `plan/tests.rs` and `agents/tests.rs` have them.

#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

#[path = "../support/place.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod place;

mod backups;
mod certificates;
mod cluster;
mod main_server;
mod programs;
mod return_trip;

use std::path::PathBuf;

use umsid_common::durable::{self, Access};

use crate::place::{Place, Ran};

/// What every test here asks for.
const SYNC: [&str; 4] = ["sync", "--yes", "--settle", "0"];

/// A command that must be refused with nothing changed on any server: no UMS ID, no process, no restore tried.
#[track_caller]
fn refused(place: &Place, arguments: &[&str], code: i32) -> Ran {
    let before = place.lab.truth().unwrap();
    let ran = place.umsid(arguments).exits(code).says("what to do: ");
    assert_eq!(place.lab.truth().unwrap(), before, "{}", ran.err);
    for server in place.lab.servers() {
        assert_eq!(place.calls(&server.name, "licensing restore"), 0, "on {}", server.name);
    }
    ran
}

/// The same for a `sync` that must not even get as far as a run.
#[track_caller]
fn refused_before_a_run(place: &Place, more: &[&str], code: i32) -> Ran {
    let ran = refused(place, &[&SYNC, more].concat(), code);
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 0, "{runs:#}");
    ran
}

/// Makes sure that standard error says each of these.
#[track_caller]
fn says(ran: &Ran, what: &[&str]) {
    for part in what {
        assert!(ran.err.contains(part), "{part:?} is not in:\n{}", ran.err);
    }
}

fn agent_dir(place: &Place, server: &str) -> PathBuf {
    place.dir.path().join(format!("agent-{server}"))
}

/// Changes the inventory as a person with an editor would.
fn edit_inventory(place: &Place, change: impl FnOnce(&str) -> String) {
    let path = place.state().join("inventory.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = change(&text);
    assert_ne!(changed, text, "nothing to change");
    durable::replace(&path, changed.as_bytes(), Access::Private).unwrap();
}
