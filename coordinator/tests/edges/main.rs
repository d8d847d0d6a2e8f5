//! The edges of the coordinator: the real command, real agents, real sockets. Refusals first of all.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

mod ansible;
mod checking;
mod enrolment;
#[cfg(target_os = "linux")]
mod flood;
mod hostile;
mod house;
mod identities;
mod impostor;
mod joining;
mod looking;
#[cfg(target_os = "linux")]
#[path = "../support/place.rs"]
#[allow(dead_code, reason = "shared with the tests of whole runs")]
mod place;
#[cfg(target_os = "linux")]
mod receivers;
#[cfg(target_os = "linux")]
mod service_manager;
mod state;
#[cfg(target_os = "linux")]
mod watching;
