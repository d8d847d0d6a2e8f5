//! The agent: a small server beside one UMS Server, that backs up, restores and restarts by the vendor's own tools.
//!
//! A call comes in through [`server`], over TLS with both certificates. [`peer`] decides who may do what, on every call
//! and in one place. `rpc` turns the request into what it means and calls one thing: [`host`](Agent) to look,
//! `lease` for the right of one run to change this server, `operations` to change it, `spool` for sealed backups on
//! their way, `journals` for copies of what a run recorded, `certificates` for trust and renewal.
//!
//! An operation is on record before anything is done, runs in a task of its own, and has at most one effect, however
//! often it is asked for. Before anything is restored, `vault` must hold a safety backup that was really opened.
//! What happens to the UMS goes through one trait, [`ums::Ums`]; where the agent has no rights itself, a helper has them.
//!
//! [`manager`] is how a service manager learns how it is. All that outlives the agent is in its [`state`] directory;
//! [`owner`] is whose that is. [`enroll`] is how it gets its certificate.
//!
//! What an agent cannot do: run a command it is told, read or write a file it is told, take a path from the network,
//! obey another agent.

pub mod config;
pub mod doctor;
pub mod enroll;
pub mod exec;
#[cfg(unix)]
pub mod helper;
pub mod manager;
pub mod owner;
pub mod peer;
pub mod server;
pub mod service;
pub mod state;
pub mod ums;

mod certificates;
mod gateway;
mod host;
mod journals;
mod lease;
mod operations;
mod rpc;
#[cfg(windows)]
mod scm;
mod spool;
mod tunnel;
mod vault;

pub use config::Config;
pub use server::Agent;
