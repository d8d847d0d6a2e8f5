//! `umsid`: the command an administrator runs.
//!
//! [`cli`] reads the command line, one sub-command in one file; [`exit`] says how it ends. What is known is in one
//! directory, [`home`]: the servers ([`inventory`]), the right to speak to their agents ([`authority`]), the journal of
//! runs ([`journal`]), in a [`database`]; several administrators have a [`shared`] one. [`enrolment`] is how a server gets in,
//! many at once from what [`ansible`] knows of them. If the journal is lost, the agents have [`copies`].
//!
//! Only [`agents`] dials. A [`survey`] asks all agents of a cluster at once and is then judged; survey and request become a
//! [`plan`], a value that can be printed and compared. A [`run`] carries it out, [`step`] by step, each in the journal
//! before it is begun; [`relay`] passes sealed backups on without being able to open them. [`progress`] is what a person
//! sees meanwhile, [`report`] what is left to say. A [`window`] says when it may be done without a person.
//!
//! A [`condition`] is a survey judged for whoever watches from afar; [`metrics`] shows it, and [`watch`] tells when it changes.
//!
//! What a coordinator cannot do: open a backup, take silence for success, or take up a step that is not on record.

pub mod agents;
pub mod ansible;
pub mod authority;
pub mod cli;
pub mod condition;
pub mod copies;
pub mod database;
pub mod enrolment;
pub mod exit;
pub mod home;
pub mod inventory;
pub mod journal;
pub mod metrics;
pub mod plan;
pub mod printout;
pub mod progress;
pub mod relay;
pub mod report;
pub mod run;
pub mod shared;
pub mod step;
pub mod survey;
pub mod watch;
pub mod window;
