//! The edges of the coordinator: the real command, real agents, real sockets. Refusals first of all.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

mod enrolment;
mod house;
mod impostor;
mod joining;
mod looking;
mod state;
