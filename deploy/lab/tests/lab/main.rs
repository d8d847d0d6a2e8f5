//! The lab tried as an administrator, an agent and a test would use it: real programs, real processes.

#![cfg(unix)]

mod call;
mod dialects;
mod installation;
mod licensing;
mod listings;
mod misbehaviour;
mod server;
