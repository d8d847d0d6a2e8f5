//! Steps that only look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use umsid_common::name::ServerName;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, UmsIds};

use super::operation::{accept, prove_main, prove_own, told_before};
use super::{End, Patience, Shift, deadline_in, done, failed, refusal};
use crate::agents::AgentError;
use crate::run::{State, StepResult, Yield, is_fence};
use crate::survey::{Proof, Survey, SyncState, assess, take_again};

/// Between two looks at a server whose UMS ID is not yet what it should be.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// How long a UMS ID that could be told before the run is looked for when it cannot be told now: right after a restart
/// a command may fail that works a moment later.
const UNTOLD: Duration = Duration::from_secs(60);

/// What a look at a server came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It shows what it should.
    Enough,
    /// It shows something else: not yet, as messages between servers lag (UMS_FACTS §6).
    NotYet,
    /// It cannot be told, but could before.
    Untold,
}

/// Looks at a server until `judge` says that it is enough, or until the settle time has passed. Gives the last look, and
/// the time the UMS took for all of them.
async fn look(
    shift: &Shift,
    state: &State,
    no: u32,
    server: &ServerName,
    judge: impl Fn(&UmsIds) -> Look + Send,
) -> Result<(UmsIds, u64), End> {
    let agent = shift.agent(server)?;
    let settle = Duration::from_secs(state.plan().request.settle_s);
    let begun = Instant::now();
    let mut patience = Patience::new(shift.pace.contact);
    let mut ums_ms = 0;
    let mut limit = settle;
    loop {
        let deadline = deadline_in(limit.saturating_sub(begun.elapsed()));
        shift.doing(no, format!("looking at the UMS ID of {server}"), deadline);
        match agent.inspect(false).await {
            Ok(inspection) => {
                patience.restore();
                ums_ms += inspection.ums_ms;
                let found = judge(&inspection.ums_ids);
                limit =
                    if found == Look::Untold { settle.max(UNTOLD.min(shift.pace.contact)) } else { settle };
                if found == Look::Enough || begun.elapsed() + BETWEEN_LOOKS > limit {
                    return Ok((inspection.ums_ids, ums_ms));
                }
                shift.doing(no, format!("waiting for {server} to show the UMS ID"), deadline);
                let wait = Instant::now();
                tokio::select! {
                    () = shift.stop.cancelled() => return Err(End::Stopped),
                    () = tokio::time::sleep(BETWEEN_LOOKS) => {
                        ums_ms += u64::try_from(wait.elapsed().as_millis()).unwrap_or(u64::MAX);
                    }
                }
            }
            Err(AgentError::Failure(failure)) if is_fence(&failure) => return Err(End::Fenced(*failure)),
            Err(error) if error.is_transient() => patience.spend(shift, no, server, &error).await?,
            Err(error) => return Err(failed(refusal(&error))),
        }
    }
}

fn judged(state: &State, server: &ServerName, proof: &Proof) -> Look {
    match proof {
        Proof::No(_) => Look::NotYet,
        Proof::Unknown(_) if told_before(state, Some(server)) => Look::Untold,
        Proof::Yes(_) | Proof::Unknown(_) => Look::Enough,
    }
}

/// Whether the first remedy was enough.
pub(super) async fn recheck(shift: &Shift, state: &State, no: u32, server: &ServerName) -> Result<End, End> {
    let holds = |ids: &UmsIds| matches!(prove_main(shift, state, server, ids), Proof::Yes(_));
    let judge = |ids: &UmsIds| if holds(ids) { Look::Enough } else { Look::NotYet };
    let (ids, ums_ms) = look(shift, state, no, server, judge).await?;
    let yields = if holds(&ids) { Yield::InSyncAlready } else { Yield::Nothing };
    Ok(done(ums_ms, yields))
}

/// Whether a target holds the Main UMS ID.
pub(super) async fn verify(shift: &Shift, state: &State, no: u32, server: &ServerName) -> Result<End, End> {
    let proof = |ids: &UmsIds| prove_main(shift, state, server, ids);
    let (ids, ums_ms) = look(shift, state, no, server, |ids| judged(state, server, &proof(ids))).await?;
    Ok(End::Result(accept(state, Some(server), proof(&ids), ums_ms, Vec::new())))
}

/// Whether a server holds the UMS ID it had before the run.
pub(super) async fn verify_own(
    shift: &Shift,
    state: &State,
    no: u32,
    server: &ServerName,
) -> Result<End, End> {
    let proof = |ids: &UmsIds| prove_own(shift, state, server, ids);
    let (ids, ums_ms) = look(shift, state, no, server, |ids| judged(state, server, &proof(ids))).await?;
    Ok(End::Result(accept(state, Some(server), proof(&ids), ums_ms, Vec::new())))
}

/// Asks all servers of the run, until every one has answered.
async fn survey(shift: &Shift, no: u32) -> Result<Survey, End> {
    let mut patience = Patience::new(shift.pace.contact);
    loop {
        shift.doing(no, "asking every server", None);
        let survey = take_again(&shift.survey, &shift.agents).await;
        let silent = survey.servers.iter().find_map(|(server, answer)| {
            let asked = shift.agents.contains_key(server);
            answer.report.as_ref().err().filter(|_| asked).map(|silence| (server, silence))
        });
        let Some((server, silence)) = silent else { return Ok(survey) };
        let lost = AgentError::Lost { what: silence.causes.join(": ") };
        patience.spend(shift, no, server, &lost).await?;
    }
}

/// Whether Main is still the server and UMS ID it was.
pub(super) async fn confirm_main(shift: &Arc<Shift>, state: &State, no: u32) -> Result<End, End> {
    let Some(planned) = &state.plan().main else {
        return Ok(failed(Failure::new(Code::Internal, "the plan names no Main server")));
    };
    let survey = survey(shift, no).await?;
    let mut named = state.plan().named.clone();
    named.remembered = Some(planned.server.clone());
    let found = match assess(&survey, &named).main {
        Ok(main) if main.server == planned.server && main.fingerprint == planned.fingerprint => {
            return Ok(done(survey.ums_ms(), Yield::Nothing));
        }
        Ok(main) => match main.fingerprint {
            Some(print) => format!("it is {} with {} now", main.server, print.short()),
            None => format!("it is {} now", main.server),
        },
        Err(trouble) => trouble.to_string(),
    };
    let failure =
        Failure::new(Code::WrongIdentity, format!("Main is not {} any more: {found}", planned.server))
            .remedy("see `umsid status`; when the servers agree again, begin a new `umsid sync`");
    Ok(End::Result(StepResult::Failed { ums_ms: survey.ums_ms(), failure, effect: Effect::None }))
}

/// Whether every target is synchronized, and no other server has become worse.
pub(super) async fn verify_cluster(shift: &Arc<Shift>, state: &State, no: u32) -> Result<End, End> {
    let survey = survey(shift, no).await?;
    let plan = state.plan();
    let mut named = plan.named.clone();
    named.remembered = plan.main.as_ref().map(|main| main.server.clone());
    let assessment = assess(&survey, &named);
    let mut wrong = Vec::new();
    for (server, facts) in &plan.servers {
        let Some(report) = survey.report(server) else {
            wrong.push(format!("{server} did not answer"));
            continue;
        };
        let ids = &report.inspection.ums_ids;
        if plan.targets.contains(server) {
            match accept(state, Some(server), prove_main(shift, state, server, ids), 0, Vec::new()) {
                StepResult::Done { .. } => {}
                StepResult::Failed { failure, .. } => wrong.push(format!("{server}: {failure}")),
                StepResult::Unknown { finding, .. } => wrong.push(format!("{server}: {finding}")),
            }
            continue;
        }
        let now = assessment.servers.get(server).map_or(SyncState::Unknown, |verdict| verdict.state);
        let was_well = matches!(facts.state, SyncState::Main | SyncState::InSync);
        if was_well && !matches!(now, SyncState::Main | SyncState::InSync) {
            let why = assessment.servers.get(server).map_or("", |verdict| verdict.evidence.as_str());
            wrong.push(format!("{server} was {}, is {now}: {why}", facts.state));
        }
    }
    if wrong.is_empty() {
        return Ok(done(survey.ums_ms(), Yield::Nothing));
    }
    let failure = Failure::new(Code::WrongIdentity, wrong.join("; "))
        .remedy("`umsid status` shows how the servers stand; `umsid resume` verifies again, `umsid rollback` goes back");
    Ok(End::Result(StepResult::Failed { ums_ms: survey.ums_ms(), failure, effect: Effect::Possible }))
}
