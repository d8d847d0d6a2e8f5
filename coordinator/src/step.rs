//! Carrying out one step: on an agent (`operation`), through the coordinator ([`relay`]), or by looking (`check`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use umsid_common::name::{RunId, ServerName};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, LeaseRef};

use crate::agents::{Agent, AgentError};
use crate::plan::What;
use crate::printout::count;
use crate::relay;
use crate::run::{Notice, Pace, State, StepResult, Tell, Yield};
use crate::survey::Survey;

mod check;
mod operation;
mod well;

pub use well::Sighted;

/// What all steps of a session share.
pub struct Shift {
    /// The run.
    pub run: RunId,
    /// The right to change its servers.
    pub lease: LeaseRef,
    /// The servers that take part.
    pub agents: BTreeMap<ServerName, Agent>,
    /// The survey the session began with: by which fingerprints certificates are known.
    pub survey: Survey,
    /// Time limits.
    pub pace: Pace,
    /// Where notices go.
    pub tell: Tell,
    /// Cancelled when nothing new is to be begun.
    pub stop: CancellationToken,
    /// When servers were last seen to be well.
    pub sighted: Sighted,
}

/// How an attempt at a step came to its end for this process.
#[derive(Debug)]
pub enum End {
    /// With a result, to be journalled.
    Result(StepResult),
    /// Without: the server could not be reached for too long; what it did is not known.
    OutOfReach {
        /// Which.
        server: ServerName,
        /// The last error.
        why: String,
    },
    /// Without: the agent answers, and what it says tells nothing of what it did.
    NoOutcome {
        /// Where.
        server: ServerName,
        /// What is wrong with it.
        why: String,
    },
    /// Without: the agent does not obey this run any more.
    Fenced(Failure),
    /// Without: one side does not accept the other's certificate any more. That says nothing of the step.
    Barred {
        /// Which.
        server: ServerName,
        /// Why.
        failure: Failure,
    },
    /// Without: it was asked to stop while it only waited.
    Stopped,
}

impl Shift {
    fn doing(&self, step: u32, what: impl Into<String>, deadline: Option<Timestamp>) {
        (self.tell)(Notice::Doing { step, what: what.into(), deadline });
    }

    fn agent(&self, server: &ServerName) -> Result<&Agent, End> {
        self.agents
            .get(server)
            .ok_or_else(|| End::OutOfReach { server: server.clone(), why: "it is not connected".to_owned() })
    }
}

/// What a step comes to that only looks, where that is known already.
pub fn known(shift: &Shift, state: &State, no: u32) -> Option<StepResult> {
    check::known(shift, state, state.step(no)?)
}

/// Carries out an attempt at a step, or takes it up again.
pub async fn carry_out(shift: &Arc<Shift>, state: &State, no: u32, attempt: u32) -> End {
    let Some(step) = state.step(no) else {
        return failed(Failure::new(Code::Internal, format!("there is no step {no}")));
    };
    let ended = match &step.what {
        What::Restart { server }
        | What::SafetyBackup { server }
        | What::Backup { server }
        | What::Restore { server }
        | What::RestoreOwn { server, .. }
        | What::Discard { server } => operation::carry_out(shift, state, step, attempt, server).await,
        What::Transfer { from, .. } => transfer(shift, state, no, from).await,
        What::Recheck { server } => check::recheck(shift, state, no, server).await,
        What::ConfirmMain => check::confirm_main(shift, state, no).await,
        What::Verify { server } => check::verify(shift, state, no, server).await,
        What::VerifyOwn { server } => check::verify_own(shift, state, no, server).await,
        What::VerifyCluster => check::verify_cluster(shift, state, no).await,
        What::Settle { seconds } => settle(shift, no, *seconds).await,
    };
    ended.unwrap_or_else(|end| end)
}

async fn settle(shift: &Shift, no: u32, seconds: u64) -> Result<End, End> {
    let wait = Duration::from_secs(seconds);
    shift.doing(no, "waiting for messages between servers", deadline_in(wait));
    tokio::select! {
        () = shift.stop.cancelled() => Err(End::Stopped),
        // This wait is the UMS's, not ours.
        () = tokio::time::sleep(wait) => Ok(done(seconds.saturating_mul(1000), Yield::Nothing)),
    }
}

async fn transfer(shift: &Arc<Shift>, state: &State, no: u32, from: &ServerName) -> Result<End, End> {
    let Some((digest, size)) = state.sealed() else {
        return Ok(failed(Failure::new(Code::Internal, "there is no backup to transfer")));
    };
    let targets = state.remaining_targets();
    let source = shift.agent(from)?;
    let mut to = Vec::new();
    for target in &targets {
        to.push((target.clone(), shift.agent(target)?.clone()));
    }
    let mut patience = Patience::new(shift.pace.contact);
    let mut altered = 0;
    let servers = count(to.len(), "server");
    loop {
        shift.doing(no, format!("streaming {size} bytes to {servers}"), None);
        match relay::relay(source, &shift.lease, digest, size, &to).await {
            Ok(()) => return Ok(done(0, Yield::Nothing)),
            Err(fault) => match fault.error {
                AgentError::Failure(failure) if crate::run::is_fence(&failure) => {
                    return Err(End::Fenced(*failure));
                }
                // Once is an accident on the way; twice is memory, disk or somebody.
                AgentError::Failure(failure) if failure.code == Code::DigestMismatch && altered == 0 => {
                    altered += 1;
                    tracing::warn!(server = %fault.server, %failure, "altered on the way, once more");
                }
                error if error.is_transient() => {
                    patience.spend(shift, no, &fault.server, &error).await?;
                }
                error => return Err(barred(&fault.server, &error).unwrap_or_else(|| failed(refusal(&error)))),
            },
        }
    }
}

/// How long a server may stay out of reach, with a growing wait between attempts.
struct Patience {
    limit: Duration,
    since: Option<Instant>,
    wait: Duration,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, since: None, wait: Duration::from_millis(50) }
    }

    /// The server answered.
    fn restore(&mut self) {
        *self = Self::new(self.limit);
    }

    /// Waits before the next attempt; gives up when the limit is reached, or the run is to stop.
    async fn spend(
        &mut self,
        shift: &Shift,
        no: u32,
        server: &ServerName,
        error: &AgentError,
    ) -> Result<(), End> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let left = self.limit.saturating_sub(since.elapsed());
        let why = chain(error);
        if left.is_zero() {
            return Err(End::OutOfReach { server: server.clone(), why });
        }
        shift.doing(no, format!("waiting for the agent on {server}: {why}"), deadline_in(left));
        tokio::select! {
            () = shift.stop.cancelled() => return Err(End::Stopped),
            () = tokio::time::sleep(self.wait.min(left)) => {}
        }
        self.wait = (self.wait * 2).min(Duration::from_secs(5));
        Ok(())
    }
}

fn deadline_in(wait: Duration) -> Option<Timestamp> {
    Timestamp::now().checked_add(SignedDuration::try_from(wait).ok()?).ok()
}

fn done(ums_ms: u64, yields: Yield) -> End {
    End::Result(StepResult::Done { ums_ms, yields, remarks: Vec::new() })
}

/// It failed before anything could change.
fn failed(failure: Failure) -> End {
    End::Result(StepResult::Failed { ums_ms: 0, failure, effect: Effect::None })
}

/// What ends a step without a word about it, because the certificates at the two ends of a connection do not fit.
fn barred(server: &ServerName, error: &AgentError) -> Option<End> {
    let failure = match error {
        AgentError::Failure(failure) if failure.code == Code::NotAllowed => (**failure).clone(),
        AgentError::Connect(_) if !error.is_transient() => refusal(error),
        AgentError::Failure(_)
        | AgentError::Connect(_)
        | AgentError::Lost { .. }
        | AgentError::Nonsense(_) => {
            return None;
        }
    };
    Some(End::Barred { server: server.clone(), failure })
}

/// An agent's no as a failure.
fn refusal(error: &AgentError) -> Failure {
    match error {
        AgentError::Failure(failure) => (**failure).clone(),
        AgentError::Connect(fault) => Failure::of(Code::Certificate, fault)
            .remedy("`umsid doctor` shows what is wrong with the connection or the certificate"),
        other => Failure::of(Code::Internal, other),
    }
}

fn chain(error: &AgentError) -> String {
    crate::run::chain_of(error)
}
