//! What an agent can be told to do, and what came of it.

use super::{
    Deserialize, Digest, Fingerprint, Health, Invalid, OperationId, Recipient, RunId, Serialize, ServerName,
    ServiceProcess, Timestamp, UmsIds, digest, fingerprint, line, moment, named, required, wire,
};
use crate::failure::Failure;

/// The closed set of what an agent does to its server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum Action {
    /// Back up this server's own UMS ID, sealed to this server, into its vault.
    SafetyBackup,
    /// Back up this server's UMS ID, sealed to others, for download.
    Backup(Handover),
    /// Restore a UMS ID here.
    Restore {
        /// What.
        source: RestoreSource,
        /// The fingerprint the signed manifest must carry and this server must show afterwards; `None` only where
        /// the evidence settles no fingerprint at all.
        expected: Option<Fingerprint>,
        /// The server whose agent must have signed the manifest.
        source_server: ServerName,
        /// The safety backup of this server that allows this restore.
        safety_net: Digest,
        /// No restart follows: a UMS Server that ran before, and was stopped for the restore or by it, is started again.
        #[serde(default)]
        keeps_running: bool,
    },
    /// Restart the UMS Server and wait until it is healthy.
    Restart {
        /// Milliseconds until it must be healthy; `None`: the agent's own setting.
        deadline_ms: Option<u64>,
    },
    /// Remove what this run uploaded or left for download here.
    Discard,
}

/// A restore of what was backed up on another server.
const RESTORE: &str = "restore";

/// A restore of what was backed up on the server itself.
const RESTORE_OWN: &str = "restore-own";

impl Action {
    /// One word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SafetyBackup | Self::Backup(_) => "backup",
            Self::Restore { source: RestoreSource::Uploaded(_), .. } => RESTORE,
            Self::Restore { source: RestoreSource::SafetyBackup(_), .. } => RESTORE_OWN,
            Self::Restart { .. } => "restart",
            Self::Discard => "discard",
        }
    }
}

/// A backup that leaves its server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Exactly those who may open it; never empty.
    pub recipients: Vec<Recipient>,
    /// The fingerprint this server's UMS ID must have; `None` only where the evidence settles none.
    pub expected: Option<Fingerprint>,
}

/// What is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreSource {
    /// A sealed backup this run uploaded.
    Uploaded(Digest),
    /// A safety backup in this server's vault.
    SafetyBackup(Digest),
}

/// Proof of the right to change a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRef {
    /// The run that holds the lease.
    pub run: RunId,
    /// Its epoch.
    pub epoch: u64,
}

/// An operation as the agent has it on record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Which.
    pub id: OperationId,
    /// How far.
    pub state: OperationState,
    /// Present when finished.
    pub outcome: Option<Outcome>,
    /// Index of the newest event.
    pub last_event: u64,
    /// "backup", "restore", "restore-own", "restart", "discard"
    pub kind: String,
    /// When it was recorded.
    pub recorded: Timestamp,
}

impl Operation {
    /// Whether it is one that changes a UMS ID.
    pub fn is_restore(&self) -> bool {
        self.is_of_another() || self.kind == RESTORE_OWN
    }

    /// Whether it gives the server the UMS ID of another.
    pub fn is_of_another(&self) -> bool {
        self.kind == RESTORE
    }
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationState {
    /// On record, nothing done yet.
    Accepted,
    /// May have had an effect.
    Started,
    /// Has its outcome.
    Finished,
}

/// What came of an operation. Done, failed and unknown are three answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Milliseconds spent waiting for the UMS: `umsadmin-cli`, restart, health.
    pub ums_ms: u64,
    /// What.
    pub result: Result<Success, Trouble>,
}

/// Not done, or not known whether done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trouble {
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
        /// What may have changed all the same.
        effect: Effect,
    },
    /// Neither done nor failed; what could be found out.
    Unknown(String),
}

/// Done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Success {
    /// A backup is there.
    BackedUp {
        /// SHA-256 of the sealed file.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// The UMS ID in it, where the evidence settles that.
        fingerprint: Option<Fingerprint>,
    },
    /// A UMS ID was restored.
    Restored {
        /// What the evidence says now.
        ums_ids: UmsIds,
        /// Deviations worth telling.
        remarks: Vec<String>,
    },
    /// Another process runs and is healthy.
    Restarted {
        /// The process before, if one ran.
        before: Option<ServiceProcess>,
        /// The process now.
        after: Option<ServiceProcess>,
        /// Its health.
        health: Health,
        /// What the evidence says now.
        ums_ids: UmsIds,
    },
    /// Nothing of the run is left here.
    Discarded {
        /// Files removed.
        files: u32,
    },
}

/// What a failed operation may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// The server is as it was.
    None,
    /// The server may have changed.
    Possible,
}

/// One event of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Rises by one.
    pub index: u64,
    /// When.
    pub at: Timestamp,
    /// Doing what now, or what came of it.
    pub what: Result<Outcome, Phase>,
}

/// What an operation does now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// As "waiting for health: init, 2 of 3 good probes".
    pub text: String,
    /// Until when it may take.
    pub deadline: Option<Timestamp>,
}

impl From<&LeaseRef> for wire::LeaseRef {
    fn from(model: &LeaseRef) -> Self {
        Self { run: model.run.to_string(), epoch: model.epoch }
    }
}

impl TryFrom<wire::LeaseRef> for LeaseRef {
    type Error = Invalid;

    fn try_from(wire: wire::LeaseRef) -> Result<Self, Invalid> {
        Ok(Self { run: named("lease.run", &wire.run)?, epoch: wire.epoch })
    }
}

impl From<Action> for wire::start_operation_request::What {
    fn from(model: Action) -> Self {
        match model {
            Action::SafetyBackup => Self::Backup(wire::Backup { handover: None }),
            Action::Backup(handover) => Self::Backup(wire::Backup {
                handover: Some(wire::Handover {
                    recipients: handover.recipients.into_iter().map(String::from).collect(),
                    expected: handover.expected.map(Into::into),
                }),
            }),
            Action::Restore { source, expected, source_server, safety_net, keeps_running } => {
                Self::Restore(wire::Restore {
                    source: Some(match source {
                        RestoreSource::Uploaded(digest) => {
                            wire::restore::Source::Uploaded(digest.as_bytes().to_vec())
                        }
                        RestoreSource::SafetyBackup(digest) => {
                            wire::restore::Source::SafetyBackup(digest.as_bytes().to_vec())
                        }
                    }),
                    expected: expected.map(Into::into),
                    source_server: source_server.into(),
                    safety_net: safety_net.as_bytes().to_vec(),
                    keeps_running,
                })
            }
            Action::Restart { deadline_ms } => {
                Self::Restart(wire::Restart { deadline_ms: deadline_ms.unwrap_or_default() })
            }
            Action::Discard => Self::Discard(wire::Discard {}),
        }
    }
}

impl TryFrom<wire::start_operation_request::What> for Action {
    type Error = Invalid;

    fn try_from(wire: wire::start_operation_request::What) -> Result<Self, Invalid> {
        use wire::start_operation_request::What;
        let expected = |wire: Option<wire::Fingerprint>| {
            wire.as_ref().map(|wire| fingerprint("expected", wire)).transpose()
        };
        Ok(match wire {
            What::Backup(wire::Backup { handover: None }) => Self::SafetyBackup,
            What::Backup(wire::Backup { handover: Some(handover) }) => {
                if handover.recipients.is_empty() {
                    return Err(Invalid::new("handover.recipients", "it is empty"));
                }
                let recipient = |text: &String| named("handover.recipients", text);
                Self::Backup(Handover {
                    recipients: handover.recipients.iter().map(recipient).collect::<Result<_, _>>()?,
                    expected: expected(handover.expected)?,
                })
            }
            What::Restore(restore) => Self::Restore {
                source: match required("restore.source", restore.source)? {
                    wire::restore::Source::Uploaded(bytes) => {
                        RestoreSource::Uploaded(digest("restore.uploaded", &bytes)?)
                    }
                    wire::restore::Source::SafetyBackup(bytes) => {
                        RestoreSource::SafetyBackup(digest("restore.safety_backup", &bytes)?)
                    }
                },
                expected: expected(restore.expected)?,
                source_server: named("restore.source_server", &restore.source_server)?,
                safety_net: digest("restore.safety_net", &restore.safety_net)?,
                keeps_running: restore.keeps_running,
            },
            What::Restart(restart) => {
                Self::Restart { deadline_ms: Some(restart.deadline_ms).filter(|&deadline| deadline > 0) }
            }
            What::Discard(wire::Discard {}) => Self::Discard,
        })
    }
}

impl From<Operation> for wire::Operation {
    fn from(model: Operation) -> Self {
        let state = match model.state {
            OperationState::Accepted => wire::OperationState::Accepted,
            OperationState::Started => wire::OperationState::Started,
            OperationState::Finished => wire::OperationState::Finished,
        };
        Self {
            id: model.id.to_string(),
            state: state.into(),
            outcome: model.outcome.map(Into::into),
            last_event: model.last_event,
            kind: model.kind,
            recorded_unix_ms: model.recorded.as_millisecond(),
        }
    }
}

impl TryFrom<wire::Operation> for Operation {
    type Error = Invalid;

    fn try_from(wire: wire::Operation) -> Result<Self, Invalid> {
        let state = match wire.state() {
            wire::OperationState::Accepted => OperationState::Accepted,
            wire::OperationState::Started => OperationState::Started,
            wire::OperationState::Finished => OperationState::Finished,
            wire::OperationState::Unspecified => {
                return Err(Invalid::new("operation.state", "it is missing"));
            }
        };
        let outcome = wire.outcome.map(Outcome::try_from).transpose()?;
        if (state == OperationState::Finished) != outcome.is_some() {
            return Err(Invalid::new("operation.outcome", "it must be there when, and only when, finished"));
        }
        Ok(Self {
            id: named("operation.id", &wire.id)?,
            state,
            outcome,
            last_event: wire.last_event,
            kind: line(&wire.kind),
            recorded: moment("operation.recorded", wire.recorded_unix_ms)?,
        })
    }
}

impl From<Outcome> for wire::Outcome {
    fn from(model: Outcome) -> Self {
        use wire::outcome::Result as Wire;
        let result = match model.result {
            Ok(Success::BackedUp { digest, size, fingerprint }) => Wire::BackedUp(wire::BackedUp {
                digest: digest.as_bytes().to_vec(),
                size,
                fingerprint: fingerprint.map(Into::into),
            }),
            Ok(Success::Restored { ums_ids, remarks }) => {
                Wire::Restored(wire::Restored { ums_ids: Some(ums_ids.into()), remarks })
            }
            Ok(Success::Restarted { before, after, health, ums_ids }) => Wire::Restarted(wire::Restarted {
                before: before.map(Into::into),
                after: after.map(Into::into),
                health: Some(health.into()),
                ums_ids: Some(ums_ids.into()),
            }),
            Ok(Success::Discarded { files }) => Wire::Discarded(wire::Discarded { files }),
            Err(Trouble::Failed { failure, effect }) => Wire::Failed(wire::OperationFailure {
                failure: Some(failure.into()),
                effect: match effect {
                    Effect::None => wire::Effect::None,
                    Effect::Possible => wire::Effect::Possible,
                }
                .into(),
            }),
            Err(Trouble::Unknown(finding)) => Wire::Unknown(wire::OperationUnknown { finding }),
        };
        Self { ums_ms: model.ums_ms, result: Some(result) }
    }
}

impl TryFrom<wire::Outcome> for Outcome {
    type Error = Invalid;

    fn try_from(wire: wire::Outcome) -> Result<Self, Invalid> {
        use wire::outcome::Result as Wire;
        let result = match required("outcome.result", wire.result)? {
            Wire::BackedUp(done) => Ok(Success::BackedUp {
                digest: digest("backed_up.digest", &done.digest)?,
                size: done.size,
                fingerprint: done
                    .fingerprint
                    .map(|wire| fingerprint("backed_up.fingerprint", &wire))
                    .transpose()?,
            }),
            Wire::Restored(done) => Ok(Success::Restored {
                ums_ids: required("restored.ums_ids", done.ums_ids)?.try_into()?,
                remarks: done.remarks.iter().map(|remark| line(remark)).collect(),
            }),
            Wire::Restarted(done) => Ok(Success::Restarted {
                before: done.before.map(TryInto::try_into).transpose()?,
                after: done.after.map(TryInto::try_into).transpose()?,
                health: required("restarted.health", done.health)?.try_into()?,
                ums_ids: required("restarted.ums_ids", done.ums_ids)?.try_into()?,
            }),
            Wire::Discarded(done) => Ok(Success::Discarded { files: done.files }),
            Wire::Failed(failed) => Err(Trouble::Failed {
                effect: match failed.effect() {
                    wire::Effect::None => Effect::None,
                    // What is not said to be harmless is not.
                    wire::Effect::Possible | wire::Effect::Unspecified => Effect::Possible,
                },
                failure: required("failed.failure", failed.failure)?.try_into()?,
            }),
            Wire::Unknown(unknown) => Err(Trouble::Unknown(line(&unknown.finding))),
        };
        Ok(Self { ums_ms: wire.ums_ms, result })
    }
}

impl From<Progress> for wire::OperationEvent {
    fn from(model: Progress) -> Self {
        use wire::operation_event::What;
        let what = match model.what {
            Ok(outcome) => What::Outcome(outcome.into()),
            Err(phase) => What::Phase(wire::Phase {
                text: phase.text,
                deadline_unix_ms: phase.deadline.map_or(0, Timestamp::as_millisecond),
            }),
        };
        Self { index: model.index, at_unix_ms: model.at.as_millisecond(), what: Some(what) }
    }
}

impl TryFrom<wire::OperationEvent> for Progress {
    type Error = Invalid;

    fn try_from(wire: wire::OperationEvent) -> Result<Self, Invalid> {
        use wire::operation_event::What;
        let what = match required("event.what", wire.what)? {
            What::Outcome(outcome) => Ok(outcome.try_into()?),
            What::Phase(phase) => Err(Phase {
                text: line(&phase.text),
                deadline: match phase.deadline_unix_ms {
                    0 => None,
                    unix_ms => Some(moment("phase.deadline", unix_ms)?),
                },
            }),
        };
        Ok(Self { index: wire.index, at: moment("event.at", wire.at_unix_ms)?, what })
    }
}
