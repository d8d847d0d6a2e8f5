//! What happened in a run: the only thing that is ever stored of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use umsid_common::digest::{Digest, Fingerprint};
use umsid_common::name::ServerName;
use umsid_proto::failure::Failure;
use umsid_proto::model::Effect;

use crate::plan::{Plan, Step};
use crate::survey::Proof;

/// One record of a run's journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The first of every run.
    Begun {
        /// What is to be done.
        plan: Box<Plan>,
        /// Who began it: "coordinator anna (anna@admin1)".
        by: String,
        /// Version of umsid.
        version: String,
    },
    /// The run holds every server it may change, under this epoch. Opens a session: the first, or a resumed one.
    Leased {
        /// Higher than any before.
        epoch: u64,
        /// Who took it.
        by: String,
    },
    /// In this session servers are disturbed whatever the windows of their sites.
    WindowsIgnored {
        /// Who wants it so.
        by: String,
    },
    /// A step is about to be carried out: written before anything is done.
    Started {
        /// Its number.
        step: u32,
        /// From 1.
        attempt: u32,
    },
    /// What came of it.
    Finished {
        /// Its number.
        step: u32,
        /// The attempt.
        attempt: u32,
        /// What.
        result: StepResult,
    },
    /// A step is not needed any more.
    Skipped {
        /// Its number.
        step: u32,
        /// Why.
        why: String,
    },
    /// From here on the run goes back: these steps are carried out, those not begun are not.
    TurnedBack {
        /// Why.
        why: String,
        /// The way back.
        steps: Vec<Step>,
    },
    /// The run stands still until somebody resumes it or rolls it back.
    Halted(Halt),
    /// The last of every run.
    Ended {
        /// How.
        outcome: Ending,
    },
    /// The last of a run that somebody ended as it stood.
    GivenUp {
        /// Who.
        by: String,
        /// The servers that may not be as they were, and are not verified.
        left: Vec<ServerName>,
    },
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum StepResult {
    /// Done.
    Done {
        /// Milliseconds spent waiting for the UMS.
        ums_ms: u64,
        /// What later steps build on.
        yields: Yield,
        /// Worth telling.
        remarks: Vec<String>,
    },
    /// Failed.
    Failed {
        /// Milliseconds spent waiting for the UMS.
        ums_ms: u64,
        /// Why.
        failure: Failure,
        /// What may have changed all the same.
        effect: Effect,
    },
    /// Neither done nor failed.
    Unknown {
        /// Milliseconds spent waiting for the UMS.
        ums_ms: u64,
        /// What could be found out.
        finding: String,
    },
}

/// What a step leaves for later ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "yield", content = "of")]
pub enum Yield {
    /// Nothing.
    Nothing,
    /// A sealed backup: its digest, and its bytes.
    Sealed(Digest, u64),
    /// Whether a server holds the UMS ID it should.
    Proved(Proof),
    /// The server is in sync already; the rest of its steps is not needed.
    InSyncAlready,
}

/// Why a run stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// For programs.
    pub kind: HaltKind,
    /// For people.
    pub why: String,
    /// The failure behind it, where there is one.
    pub failure: Option<Failure>,
    /// The server it is stuck on, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Stuck>,
}

/// A server that could not be put back as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Which.
    pub server: ServerName,
    /// Its UMS ID before the run, where that was known.
    pub had: Option<Fingerprint>,
    /// The one it shows now, where that can be told.
    pub shows: Option<Fingerprint>,
}

/// Kinds of standing still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HaltKind {
    /// A step failed.
    Failed,
    /// What a step did is not known.
    Unknown,
    /// A server could not be reached for too long.
    Unreachable,
    /// A server's certificate is not accepted any more, or ours.
    Certificate,
    /// Another run took the lease.
    LeaseLost,
    /// Somebody asked it to stop.
    Interrupted,
    /// The servers that were to be rolled back are; others are not.
    Partial,
    /// On the way back a server could not be put as it was: a person has to look.
    Stuck,
    /// The windows of the servers that come next are closed, or too little of them is left.
    Window,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Every server that was to be synchronized is verified synchronized.
    Synchronized,
    /// All steps were carried out, but of some servers it could not be verified.
    Unverified,
    /// What was asked for is done (restarts, safety backups).
    Done,
    /// The servers that had been touched are as they were.
    RolledBack,
    /// Somebody ended it as it stood: servers may not be as they were.
    GivenUp,
}

impl Event {
    /// Its name with its step and attempt, as `started 7.1`: the same in every run of the same plan.
    pub fn label(&self) -> String {
        match self {
            Self::Begun { .. } => "begun".to_owned(),
            Self::Leased { .. } => "leased".to_owned(),
            Self::WindowsIgnored { .. } => "windows ignored".to_owned(),
            Self::Started { step, attempt } => format!("started {step}.{attempt}"),
            Self::Finished { step, attempt, .. } => format!("finished {step}.{attempt}"),
            Self::Skipped { step, .. } => format!("skipped {step}"),
            Self::TurnedBack { .. } => "turned back".to_owned(),
            Self::Halted(_) => "halted".to_owned(),
            Self::Ended { .. } => "ended".to_owned(),
            Self::GivenUp { .. } => "given up".to_owned(),
        }
    }
}

impl Ending {
    /// In kebab case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synchronized => "synchronized",
            Self::Unverified => "unverified",
            Self::Done => "done",
            Self::RolledBack => "rolled-back",
            Self::GivenUp => "given-up",
        }
    }
}

/// An event as the journal holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// From 1, without gaps.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
