//! `umsid`: the command an administrator runs.
//!
//! It knows the servers ([`inventory`]), may speak to their agents ([`authority`], [`agents`]) and keeps what it knows in
//! one directory ([`home`]).

pub mod agents;
pub mod authority;
pub mod cli;
pub mod enrolment;
pub mod exit;
pub mod home;
pub mod inventory;
pub mod journal;
pub mod plan;
pub mod progress;
pub mod relay;
pub mod report;
pub mod run;
pub mod step;
pub mod survey;
