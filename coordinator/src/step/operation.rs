//! A step that is an operation of an agent: started under an id that never has a second effect, watched to its outcome
//! over as many connections as it takes.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt as _;
use umsid_common::fault;
use umsid_common::name::{OperationId, ServerName};
use umsid_common::seal::Recipient;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{
    Action, Effect, Handover, Invalid, Outcome, RestoreSource, Success, Trouble, UmsIds,
};

use super::{End, Patience, Shift, barred, chain, failed, well};
use crate::agents::{Agent, AgentError};
use crate::plan::{Purpose, RestartScope, Step, What};
use crate::run::{State, StepResult, Yield, is_fence};
use crate::survey::{Baseline, Proof, SyncState, prove};

/// More than the longest operation ever tells, twice a second for six hours.
const MOST_EVENTS: u32 = 50_000;

/// Starts the operation, or takes it up again, and waits for its outcome.
pub(super) async fn carry_out(
    shift: &Arc<Shift>,
    state: &State,
    step: &Step,
    attempt: u32,
    server: &ServerName,
) -> Result<End, End> {
    let action = match action(state, &step.what) {
        Ok(action) => action,
        Err(failure) => return Ok(failed(failure)),
    };
    let id = OperationId { run: shift.run.clone(), step: step.no, attempt };
    well::await_others(shift, state, step, attempt).await?;
    let agent = shift.agent(server)?;
    let mut patience = Patience::new(shift.pace.contact);
    let mut watch = Watch { accepted: false, from_event: 0, told: 0 };
    // Whatever an agent says of its progress and its deadlines, there is an end to it.
    let end = Instant::now() + shift.pace.operation;
    loop {
        let followed = timeout_at(end, follow(shift, agent, &id, &action, &mut watch, &mut patience)).await;
        let Ok(followed) = followed else {
            let why = format!("nothing within {:?} (--operation-timeout)", shift.pace.operation);
            return Err(End::NoOutcome { server: server.clone(), why });
        };
        match followed {
            Ok((outcome, told)) => {
                if let (Told::AsItCame, Ok(Success::Restarted { ums_ids, .. })) = (told, &outcome.result) {
                    shift.sighted.restarted(server, ums_ids.clone());
                }
                return Ok(End::Result(judge(shift, state, &step.what, outcome)));
            }
            Err(AgentError::Failure(failure)) if is_fence(&failure) => return Err(End::Fenced(*failure)),
            // Something else is going on there, of an earlier session or a recovery; it comes to its end.
            Err(error) if error.is_transient() || error.failure().is_some_and(|it| it.code == Code::Busy) => {
                patience.spend(shift, step.no, server, &error).await?;
            }
            Err(error) if let Some(end) = barred(server, &error) => return Err(end),
            // The agent's own no to a new operation is the one proof that nothing has happened.
            Err(AgentError::Failure(failure)) if !watch.accepted => {
                return Ok(failed(*failure));
            }
            // Started perhaps, without an outcome: neither done nor failed.
            Err(error) => return Err(End::NoOutcome { server: server.clone(), why: chain(&error) }),
        }
    }
}

/// How far the watching of an operation has come.
struct Watch {
    /// The agent has it on record.
    accepted: bool,
    /// The next event wanted.
    from_event: u64,
    /// Events so far.
    told: u32,
}

/// How an outcome came to be known.
#[derive(Clone, Copy)]
enum Told {
    /// It was watched until it came.
    AsItCame,
    /// It was on record, for how long nobody knows.
    OnRecord,
}

async fn follow(
    shift: &Shift,
    agent: &Agent,
    id: &OperationId,
    action: &Action,
    watch: &mut Watch,
    patience: &mut Patience,
) -> Result<(Outcome, Told), AgentError> {
    let operation = agent.start(id, &shift.lease, action.clone()).await.inspect_err(|error| {
        // Without an answer it may have arrived.
        watch.accepted |= error.failure().is_none();
    })?;
    watch.accepted = true;
    patience.restore();
    fault::moment(format_args!("operation {}.{} accepted", id.step, id.attempt));
    if let Some(outcome) = operation.outcome {
        return Ok((outcome, Told::OnRecord));
    }
    let mut events = agent.watch(id, watch.from_event).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        watch.told += 1;
        if watch.told > MOST_EVENTS {
            return Err(Invalid::new("events", "there is no end of them").into());
        }
        if event.what.is_err() && event.index < watch.from_event {
            let why = format!("{} comes where {} was due", event.index, watch.from_event);
            return Err(Invalid::new("event.index", why).into());
        }
        watch.from_event = event.index.saturating_add(1);
        match event.what {
            Ok(outcome) => return Ok((outcome, Told::AsItCame)),
            Err(phase) => shift.doing(id.step, phase.text, phase.deadline),
        }
    }
    Err(AgentError::Lost { what: "its report ended before the outcome".to_owned() })
}

/// What the agent is told, from the plan and what earlier steps left.
fn action(state: &State, what: &What) -> Result<Action, Failure> {
    let plan = state.plan();
    let missing = |what: &str| Failure::new(Code::Internal, format!("{what} is not on record"));
    let safety = |server| state.safety_backup(server).ok_or_else(|| missing("its safety backup"));
    Ok(match what {
        What::Restart { .. } => Action::Restart { deadline_ms: None },
        What::SafetyBackup { .. } => Action::SafetyBackup,
        What::Backup { .. } => {
            let targets = state.remaining_targets();
            let recipients =
                targets.iter().filter_map(|server| Some(plan.servers.get(server)?.recipient.clone()));
            let recipients: Vec<Recipient> = recipients.chain(plan.escrow.clone()).collect();
            let expected = plan.main.as_ref().and_then(|main| main.fingerprint);
            Action::Backup(Handover { recipients, expected })
        }
        What::Restore { server } => {
            let main = plan.main.as_ref().ok_or_else(|| missing("the Main server"))?;
            let (digest, _) = state.sealed().ok_or_else(|| missing("the backup"))?;
            Action::Restore {
                source: RestoreSource::Uploaded(digest),
                expected: main.fingerprint,
                source_server: main.server.clone(),
                safety_net: safety(server)?,
                keeps_running: plan.request.restart == RestartScope::None,
            }
        }
        What::RestoreOwn { server, purpose } => {
            let own = safety(server)?;
            Action::Restore {
                source: RestoreSource::SafetyBackup(own),
                expected: plan.servers.get(server).and_then(|facts| facts.baseline.local),
                source_server: server.clone(),
                safety_net: own,
                // The way back restarts it.
                keeps_running: *purpose == Purpose::Rehearsal,
            }
        }
        What::Discard { .. } => Action::Discard,
        other => return Err(Failure::new(Code::Internal, format!("{} is no operation", other.title()))),
    })
}

/// What an outcome means for the run.
fn judge(shift: &Shift, state: &State, what: &What, outcome: Outcome) -> StepResult {
    let ums_ms = outcome.ums_ms;
    let done = |yields, remarks| StepResult::Done { ums_ms, yields, remarks };
    if let Ok(success) = &outcome.result
        && !is_of(what, success)
    {
        let finding = format!("its agent tells of something else than to {}", what.title());
        return StepResult::Unknown { ums_ms, finding };
    }
    match outcome.result {
        Ok(Success::BackedUp { digest, size, .. }) => done(Yield::Sealed(digest, size), Vec::new()),
        Ok(Success::Restored { ums_ids, remarks }) => {
            let proof = match what {
                What::Restore { server } => prove_main(shift, state, server, &ums_ids),
                What::RestoreOwn { server, .. } => prove_own(shift, state, server, &ums_ids),
                _ => Proof::Unknown("nothing was to be restored".to_owned()),
            };
            accept(state, what.server(), proof, ums_ms, remarks)
        }
        Ok(Success::Restarted { .. } | Success::Discarded { .. }) => done(Yield::Nothing, Vec::new()),
        Err(Trouble::Failed { failure, effect }) if no_effect_on(what, &failure) => {
            if state.plan().request.verify_after_restart {
                return done(
                    Yield::Proved(Proof::Unknown("it shows only after the restart".to_owned())),
                    Vec::new(),
                );
            }
            let failure = failure.remedy(
                "if this UMS shows a restored UMS ID only after a restart, begin again with --verify-after-restart",
            );
            StepResult::Failed { ums_ms, failure, effect }
        }
        Err(Trouble::Failed { failure, effect }) if failure.code == Code::NoSafetyBackup => {
            let failure = match what {
                // Trying again cannot help, and a new safety backup would hold what the server has now.
                What::RestoreOwn { server, .. } => failure.remedy(format!(
                    "{server} cannot be put back: leave it as it is and restart it with `umsid restart --only {server}`; \
                     put others back by name: `umsid rollback RUN SERVER`"
                )),
                _ => failure,
            };
            StepResult::Failed { ums_ms, failure, effect }
        }
        Err(Trouble::Failed { failure, effect }) => StepResult::Failed { ums_ms, failure, effect },
        Err(Trouble::Unknown(finding)) => StepResult::Unknown { ums_ms, finding },
    }
}

/// Whether this success is one of that kind of operation.
fn is_of(what: &What, success: &Success) -> bool {
    match success {
        Success::BackedUp { .. } => matches!(what, What::Backup { .. } | What::SafetyBackup { .. }),
        Success::Restored { .. } => matches!(what, What::Restore { .. } | What::RestoreOwn { .. }),
        Success::Restarted { .. } => matches!(what, What::Restart { .. }),
        Success::Discarded { .. } => matches!(what, What::Discard { .. }),
    }
}

/// Whether a restore said it succeeded, and the UMS shows what it showed before.
fn no_effect_on(what: &What, failure: &Failure) -> bool {
    matches!(what, What::Restore { .. } | What::RestoreOwn { .. }) && failure.code == Code::NoEffect
}

/// Whether a server holds the Main UMS ID.
pub(super) fn prove_main(shift: &Shift, state: &State, server: &ServerName, now: &UmsIds) -> Proof {
    let plan = state.plan();
    let Some(facts) = plan.servers.get(server) else {
        return Proof::Unknown("it is not in the plan".to_owned());
    };
    prove(&shift.survey, &facts.baseline, now, plan.main.as_ref().and_then(|main| main.fingerprint))
}

/// Whether a server holds the UMS ID it had before the run.
pub(super) fn prove_own(shift: &Shift, state: &State, server: &ServerName, now: &UmsIds) -> Proof {
    let Some(facts) = state.plan().servers.get(server) else {
        return Proof::Unknown("it is not in the plan".to_owned());
    };
    if facts.baseline.local.is_some() {
        return prove(&shift.survey, &Baseline::default(), now, facts.baseline.local);
    }
    let shown = Baseline::of(&shift.survey, now).shown;
    if !shown.is_empty() && shown == facts.baseline.shown {
        return Proof::Yes("it shows what it showed before".to_owned());
    }
    Proof::Unknown(now.reason.clone())
}

/// A proof as a result. What could not be told before the run need not be told after it: those servers were named by a
/// person, and are reported as unknown in the end. Where it could be told before, it must be now.
pub(super) fn accept(
    state: &State,
    server: Option<&ServerName>,
    proof: Proof,
    ums_ms: u64,
    remarks: Vec<String>,
) -> StepResult {
    match proof {
        Proof::No(why) => StepResult::Failed {
            ums_ms,
            failure: Failure::new(Code::WrongIdentity, why),
            effect: Effect::Possible,
        },
        Proof::Unknown(why) if told_before(state, server) => {
            StepResult::Unknown { ums_ms, finding: format!("its UMS ID cannot be told any more: {why}") }
        }
        proof => StepResult::Done { ums_ms, yields: Yield::Proved(proof), remarks },
    }
}

/// Whether the evidence settled this server's UMS ID before the run.
pub(super) fn told_before(state: &State, server: Option<&ServerName>) -> bool {
    let facts = server.and_then(|server| state.plan().servers.get(server));
    facts.is_none_or(|facts| facts.state != SyncState::Unknown)
}
