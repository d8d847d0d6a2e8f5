//! What did not work: a code for programs, the chain of causes and the remedy for people.

use std::error::Error;
use std::fmt;

use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::model::{Invalid, LeaseState, RawOutput, line};
use crate::wire;

/// Why something did not work, for programs to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request itself is malformed.
    InvalidRequest,
    /// The caller's role does not allow this.
    NotAllowed,
    /// Agent and coordinator have no protocol version in common.
    Protocol,
    /// Another run holds the lease.
    LeaseHeld,
    /// The caller does not hold the lease (any more).
    LeaseLost,
    /// The agent has granted a higher epoch since.
    StaleEpoch,
    /// Another operation is going on.
    Busy,
    /// The same operation id was used for something else.
    OperationConflict,
    /// No such operation, file or safety backup here.
    NotFound,
    /// No verified safety backup of this server.
    NoSafetyBackup,
    /// A UMS ID is not the one it had to be.
    WrongIdentity,
    /// What it is about belongs to another cluster.
    WrongCluster,
    /// A backup that is empty, too large, altered, or no backup.
    BadBackup,
    /// The backup's password is wrong.
    WrongPassword,
    /// Bytes arrived that are not what was announced.
    DigestMismatch,
    /// No room on the disk.
    DiskFull,
    /// A program that is needed is not there.
    CommandMissing,
    /// A program failed.
    CommandFailed,
    /// A program did not end in time and was killed.
    CommandTimeout,
    /// A program said success, but nothing happened.
    NoEffect,
    /// The service could not be queried, stopped or started.
    ServiceControl,
    /// After the restart the same process is still there, or none.
    NotRestarted,
    /// The server did not become healthy in time.
    NotHealthy,
    /// The agent was stopped in the middle.
    Interrupted,
    /// Enrolment was refused: wrong, used or expired code.
    EnrolmentRefused,
    /// A journal with a hole, a fork or an altered record, or larger than is kept.
    BadJournal,
    /// A certificate, key or revocation list is of no use.
    Certificate,
    /// A gateway does not reach the server behind it.
    Unreachable,
    /// Anything else: a defect, or the operating system.
    Internal,
}

const CODES: &[(Code, &str, tonic::Code)] = &[
    (Code::InvalidRequest, "invalid-request", tonic::Code::InvalidArgument),
    (Code::NotAllowed, "not-allowed", tonic::Code::PermissionDenied),
    (Code::Protocol, "protocol", tonic::Code::FailedPrecondition),
    (Code::LeaseHeld, "lease-held", tonic::Code::FailedPrecondition),
    (Code::LeaseLost, "lease-lost", tonic::Code::FailedPrecondition),
    (Code::StaleEpoch, "stale-epoch", tonic::Code::FailedPrecondition),
    (Code::Busy, "busy", tonic::Code::FailedPrecondition),
    (Code::OperationConflict, "operation-conflict", tonic::Code::AlreadyExists),
    (Code::NotFound, "not-found", tonic::Code::NotFound),
    (Code::NoSafetyBackup, "no-safety-backup", tonic::Code::FailedPrecondition),
    (Code::WrongIdentity, "wrong-identity", tonic::Code::FailedPrecondition),
    (Code::WrongCluster, "wrong-cluster", tonic::Code::FailedPrecondition),
    (Code::BadBackup, "bad-backup", tonic::Code::DataLoss),
    (Code::WrongPassword, "wrong-password", tonic::Code::FailedPrecondition),
    (Code::DigestMismatch, "digest-mismatch", tonic::Code::DataLoss),
    (Code::DiskFull, "disk-full", tonic::Code::ResourceExhausted),
    (Code::CommandMissing, "command-missing", tonic::Code::FailedPrecondition),
    (Code::CommandFailed, "command-failed", tonic::Code::Internal),
    (Code::CommandTimeout, "command-timeout", tonic::Code::DeadlineExceeded),
    (Code::NoEffect, "no-effect", tonic::Code::Internal),
    (Code::ServiceControl, "service-control", tonic::Code::Internal),
    (Code::NotRestarted, "not-restarted", tonic::Code::Internal),
    (Code::NotHealthy, "not-healthy", tonic::Code::Internal),
    (Code::Interrupted, "interrupted", tonic::Code::Aborted),
    (Code::EnrolmentRefused, "enrolment-refused", tonic::Code::PermissionDenied),
    (Code::BadJournal, "bad-journal", tonic::Code::DataLoss),
    (Code::Certificate, "certificate", tonic::Code::FailedPrecondition),
    (Code::Unreachable, "unreachable", tonic::Code::FailedPrecondition),
    (Code::Internal, "internal", tonic::Code::Internal),
];

impl Code {
    /// Its name on the wire and in JSON, in kebab case.
    pub fn as_str(self) -> &'static str {
        CODES.iter().find(|(code, ..)| *code == self).map_or("internal", |(_, name, _)| name)
    }

    fn from_str(name: &str) -> Self {
        CODES.iter().find(|(_, known, _)| *known == name).map_or(Self::Internal, |(code, ..)| *code)
    }

    fn status(self) -> tonic::Code {
        CODES.iter().find(|(code, ..)| *code == self).map_or(tonic::Code::Internal, |(.., status)| *status)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What did not work, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// What and why: the chain of causes, outermost first; never empty.
    pub causes: Vec<String>,
    /// What to do; empty if nothing better is known than what the causes say.
    pub remedy: String,
    /// Output of the program that failed, where one did.
    pub raw: Option<RawOutput>,
    /// The lease that stands in the way, where one does.
    pub held: Option<LeaseState>,
}

impl Failure {
    /// A failure with one cause.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, causes: vec![what.into()], remedy: String::new(), raw: None, held: None }
    }

    /// A failure with an error's whole chain of causes.
    pub fn of(code: Code, error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(code, error.to_string());
        let mut source = error.source();
        while let Some(error) = source {
            failure.causes.push(error.to_string());
            source = error.source();
        }
        failure
    }

    /// Says what to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Keeps the output of the program that failed.
    pub fn raw(mut self, raw: RawOutput) -> Self {
        self.raw = Some(raw);
        self
    }

    /// Names the lease in the way.
    pub fn held(mut self, lease: LeaseState) -> Self {
        self.held = Some(lease);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.causes.join(": "))
    }
}

impl Error for Failure {}

impl From<Failure> for wire::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code.as_str().to_owned(),
            causes: failure.causes,
            remedy: failure.remedy,
            raw: failure.raw.map(Into::into),
            held: failure.held.map(Into::into),
        }
    }
}

impl TryFrom<wire::Failure> for Failure {
    type Error = Invalid;

    fn try_from(wire: wire::Failure) -> Result<Self, Invalid> {
        if wire.causes.is_empty() {
            return Err(Invalid::new("failure.causes", "it is empty"));
        }
        Ok(Self {
            code: Code::from_str(&wire.code),
            causes: wire.causes.iter().map(|cause| line(cause)).collect(),
            remedy: line(&wire.remedy),
            raw: wire.raw.map(Into::into),
            held: wire.held.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<Failure> for tonic::Status {
    /// `Status` means: your call failed. The failure goes along whole, as the status's details, unless the output in
    /// it is too long for a header; then without that output.
    fn from(failure: Failure) -> Self {
        let (code, text) = (failure.code.status(), failure.to_string());
        let mut wire = wire::Failure::from(failure);
        if wire.encoded_len() > 6 << 10 {
            wire.raw = None;
            wire.causes.iter_mut().for_each(|cause| *cause = cause.chars().take(500).collect());
        }
        tonic::Status::with_details(
            code,
            text.chars().take(1000).collect::<String>(),
            wire.encode_to_vec().into(),
        )
    }
}

impl From<&tonic::Status> for Failure {
    /// The failure inside a status an agent of ours sent, or what any other status says.
    fn from(status: &tonic::Status) -> Self {
        let whole = wire::Failure::decode(status.details()).ok().filter(|_| !status.details().is_empty());
        if let Some(failure) = whole.and_then(|wire| Self::try_from(wire).ok()) {
            return failure;
        }
        let code = match status.code() {
            tonic::Code::InvalidArgument => Code::InvalidRequest,
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Code::NotAllowed,
            tonic::Code::NotFound => Code::NotFound,
            _ => Code::Internal,
        };
        let said = status.message();
        Self::new(code, line(if said.is_empty() { status.code().description() } else { said }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_comes_back_over_the_wire() {
        for (code, name, _) in CODES {
            assert_eq!(Code::from_str(name), *code);
            assert_eq!(serde_name(*code), *name);
            let failure = Failure::new(*code, "it broke").remedy("mend it");
            assert_eq!(Failure::from(&tonic::Status::from(failure.clone())), failure);
        }
    }

    fn serde_name(code: Code) -> String {
        let known: Result<Code, serde::de::value::Error> =
            Code::deserialize(code.as_str().into_deserializer());
        known.map_or_else(|error| error.to_string(), |known| known.as_str().to_owned())
    }

    use serde::de::IntoDeserializer;

    #[test]
    fn long_output_does_not_break_the_status() {
        let raw = RawOutput { stdout: "x".repeat(1 << 20), ..RawOutput::default() };
        let status = tonic::Status::from(Failure::new(Code::CommandFailed, "it broke").raw(raw));
        assert!(status.details().len() < 8 << 10);
        assert_eq!(Failure::from(&status).code, Code::CommandFailed);
    }
}
