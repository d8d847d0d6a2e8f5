//! The edges of the coordinator: the real command, real agents, real sockets. Refusals first of all.

mod enrolment;
mod house;
mod impostor;
mod joining;
mod looking;
mod state;
