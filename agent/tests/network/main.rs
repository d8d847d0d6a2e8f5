//! The agent over real sockets, with a throwaway CA and a UMS that lives in memory.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

mod enrolment;
mod epochs;
mod fake_ums;
mod gateway;
#[cfg(unix)]
mod helper;
mod house;
mod journals;
mod leases;
mod operations;
mod recovery;
mod restore;
mod roles;
mod start;
mod transfer;
mod trust;
mod tunnel;
mod twice;
