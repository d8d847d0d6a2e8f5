//! `umsid`: the command an administrator runs.
//!
//! It knows the servers ([`inventory`]), may speak to their agents ([`agents`]) and keeps what it knows in
//! one directory ([`home`]).

pub mod agents;
pub mod home;
pub mod inventory;
