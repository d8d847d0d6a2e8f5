//! Steps that only look.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use umsid_common::name::ServerName;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, Inspection, Operation, UmsIds};

use super::operation::{accept, prove_main, prove_own, told_before};
use super::{End, Patience, Shift, barred, deadline_in, done, failed, refusal, well};
use crate::agents::AgentError;
use crate::plan::{Step, What};
use crate::run::{State, Status, StepResult, Yield, is_fence};
use crate::survey::{MainServer, Proof, SilenceKind, Survey, SyncState, assess, complaint, take_again};

/// Between two looks at a server whose UMS ID is not yet what it should be.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// How long a UMS ID that could be told before the run is looked for when it cannot be told now: right after a restart
/// a command may fail that works a moment later.
const UNTOLD: Duration = Duration::from_secs(60);

/// How old the survey may be that a run begins with, to count for its first question.
const RECENT: Duration = Duration::from_secs(2);

/// What a look at a server came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It shows what it should.
    Enough,
    /// It shows something else: not yet, as messages between servers lag (UMS_FACTS §6).
    NotYet,
    /// It cannot be told, but could before.
    Untold,
    /// It was healthy after its restart, and is not.
    Unwell,
}

/// Looks at a server until `judge` says that it is enough, or until the settle time has passed. Gives the last look, and
/// the time the UMS took for all of them.
async fn look(
    shift: &Shift,
    state: &State,
    no: u32,
    server: &ServerName,
    judge: impl Fn(&Inspection) -> Look + Send,
) -> Result<(Inspection, u64), End> {
    let agent = shift.agent(server)?;
    let settle = Duration::from_secs(state.plan().request.settle_s);
    let begun = Instant::now();
    let mut patience = Patience::new(shift.pace.contact);
    let mut ums_ms = 0_u64;
    let mut limit = settle;
    loop {
        let deadline = deadline_in(limit.saturating_sub(begun.elapsed()));
        shift.doing(no, format!("looking at the UMS ID of {server}"), deadline);
        match agent.inspect(false).await {
            Ok(inspection) => {
                patience.restore();
                ums_ms = ums_ms.saturating_add(inspection.ums_ms);
                let found = judge(&inspection);
                limit = match found {
                    Look::Enough | Look::NotYet => settle,
                    Look::Untold => settle.max(UNTOLD.min(shift.pace.contact)),
                    Look::Unwell => settle.max(well::patience(shift)),
                };
                if found == Look::Enough || begun.elapsed() + BETWEEN_LOOKS > limit {
                    return Ok((inspection, ums_ms));
                }
                let wanted = if found == Look::Unwell { "be healthy" } else { "show the UMS ID" };
                shift.doing(no, format!("waiting for {server} to {wanted}"), deadline);
                let wait = Instant::now();
                tokio::select! {
                    () = shift.stop.cancelled() => return Err(End::Stopped),
                    () = tokio::time::sleep(BETWEEN_LOOKS) => {
                        let waited = u64::try_from(wait.elapsed().as_millis()).unwrap_or(u64::MAX);
                        ums_ms = ums_ms.saturating_add(waited);
                    }
                }
            }
            Err(AgentError::Failure(failure)) if is_fence(&failure) => return Err(End::Fenced(*failure)),
            Err(error) if error.is_transient() => patience.spend(shift, no, server, &error).await?,
            Err(error) => return Err(barred(server, &error).unwrap_or_else(|| failed(refusal(&error)))),
        }
    }
}

fn judged(state: &State, server: &ServerName, proof: &Proof, seen: &Inspection) -> Look {
    match proof {
        _ if well::complaint_of(state, server, seen).is_some() => Look::Unwell,
        Proof::No(_) => Look::NotYet,
        Proof::Unknown(_) if told_before(state, Some(server)) => Look::Untold,
        Proof::Yes(_) | Proof::Unknown(_) => Look::Enough,
    }
}

/// Whether the first remedy was enough.
pub(super) async fn recheck(shift: &Shift, state: &State, no: u32, server: &ServerName) -> Result<End, End> {
    // A look taken again, because its result was lost with a coordinator, must not take the run's own deeds for the
    // restart's.
    if went_on(shift, no, server).await? {
        return Ok(done(0, Yield::Nothing));
    }
    let holds = |ids: &UmsIds| matches!(prove_main(shift, state, server, ids), Proof::Yes(_));
    let judge = |seen: &Inspection| if holds(&seen.ums_ids) { Look::Enough } else { Look::NotYet };
    let (seen, ums_ms) = look(shift, state, no, server, judge).await?;
    let yields = if holds(&seen.ums_ids) { Yield::InSyncAlready } else { Yield::Nothing };
    Ok(done(ums_ms, yields))
}

/// Whether this run has saved or restored this server's UMS ID in a later step.
async fn went_on(shift: &Shift, no: u32, server: &ServerName) -> Result<bool, End> {
    let agent = shift.agent(server)?;
    let mut patience = Patience::new(shift.pace.contact);
    loop {
        match agent.operations(Some(&shift.run)).await {
            Ok(operations) => {
                let later = |operation: &Operation| {
                    operation.id.step > no && (operation.kind == "backup" || operation.is_restore())
                };
                return Ok(operations.iter().any(later));
            }
            Err(error) if error.is_transient() => patience.spend(shift, no, server, &error).await?,
            Err(error) => return Err(failed(refusal(&error))),
        }
    }
}

/// Whether a target holds the Main UMS ID.
pub(super) async fn verify(shift: &Shift, state: &State, no: u32, server: &ServerName) -> Result<End, End> {
    let mut end = verify_by(shift, state, no, server, |ids| prove_main(shift, state, server, ids)).await?;
    if let End::Result(StepResult::Failed { failure, .. }) = &mut end
        && failure.code == Code::WrongIdentity
    {
        failure.remedy = format!(
            "the log of the UMS Server on {server} may tell what became of the restored one; `umsid resume` looks again and \
             restores nothing again: `umsid rollback` goes back, and a new `umsid sync` begins anew"
        );
    }
    Ok(end)
}

async fn verify_by(
    shift: &Shift,
    state: &State,
    no: u32,
    server: &ServerName,
    proof: impl Fn(&UmsIds) -> Proof + Send + Sync,
) -> Result<End, End> {
    let judge = |seen: &Inspection| judged(state, server, &proof(&seen.ums_ids), seen);
    let (seen, ums_ms) = look(shift, state, no, server, judge).await?;
    let verified = accept(state, Some(server), proof(&seen.ums_ids), ums_ms, Vec::new());
    Ok(End::Result(match (well::complaint_of(state, server, &seen), verified) {
        (Some(complaint), StepResult::Done { .. }) => {
            let failure = well::relapse(server, &complaint);
            StepResult::Failed { ums_ms, failure, effect: Effect::Possible }
        }
        (_, verified) => verified,
    }))
}

/// Whether a server holds the UMS ID it had before the run.
pub(super) async fn verify_own(
    shift: &Shift,
    state: &State,
    no: u32,
    server: &ServerName,
) -> Result<End, End> {
    verify_by(shift, state, no, server, |ids| prove_own(shift, state, server, ids)).await
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
        if matches!(silence.kind, SilenceKind::Certificate | SilenceKind::WrongServer) {
            let failure = Failure::new(Code::Certificate, silence.causes.join(": ")).remedy(silence.remedy());
            return Err(End::Barred { server: server.clone(), failure });
        }
        let lost = AgentError::Lost { what: silence.causes.join(": ") };
        patience.spend(shift, no, server, &lost).await?;
    }
}

/// What a step that only looks comes to, where that was seen a moment ago and is all that is wanted; nobody need be asked the same
/// twice in a moment. The time the UMS took for it was told then.
pub(super) fn known(shift: &Shift, state: &State, step: &Step) -> Option<StepResult> {
    let shows = |server, proof: &dyn Fn(&UmsIds) -> Proof| match proof(&shift.sighted.shown(server)?) {
        good @ Proof::Yes(_) => Some(Yield::Proved(good)),
        Proof::No(_) | Proof::Unknown(_) => None,
    };
    let yields = match &step.what {
        What::Verify { server } => shows(server, &|ids| prove_main(shift, state, server, ids))?,
        What::VerifyOwn { server } => shows(server, &|ids| prove_own(shift, state, server, ids))?,
        What::ConfirmMain => {
            let planned = state.plan().main.as_ref()?;
            let survey = just_asked(shift, state, step.no)?;
            main_now(state, planned, survey).is_ok().then_some(Yield::Nothing)?
        }
        _ => return None,
    };
    Some(StepResult::Done { ums_ms: 0, yields, remarks: Vec::new() })
}

/// What all answered just before the run was begun, if nothing was done since and it is asked again before anything is restored.
fn just_asked<'a>(shift: &'a Shift, state: &State, no: u32) -> Option<&'a Survey> {
    let age = Timestamp::now().duration_since(shift.survey.taken);
    let recent = !age.is_negative() && age.unsigned_abs() < RECENT;
    let first = state.steps().all(|step| {
        step.no == no || state.progress(step.no).is_some_and(|progress| progress.status == Status::Waiting)
    });
    let again = state.steps().any(|step| step.no > no && step.what == What::ConfirmMain);
    let all = shift.agents.keys().all(|server| shift.survey.report(server).is_some());
    (recent && first && again && all && state.turned_back().is_none()).then_some(&shift.survey)
}

/// Whether Main is still the server and UMS ID it was.
pub(super) async fn confirm_main(shift: &Arc<Shift>, state: &State, no: u32) -> Result<End, End> {
    let Some(planned) = &state.plan().main else {
        return Ok(failed(Failure::new(Code::Internal, "the plan names no Main server")));
    };
    let survey = survey(shift, no).await?;
    let Err(found) = main_now(state, planned, &survey) else {
        return Ok(done(survey.ums_ms(), Yield::Nothing));
    };
    let failure =
        Failure::new(Code::WrongIdentity, format!("Main is not {} any more: {found}", planned.server))
            .remedy("see `umsid status`; when the servers agree again, begin a new `umsid sync`");
    Ok(End::Result(StepResult::Failed { ums_ms: survey.ums_ms(), failure, effect: Effect::None }))
}

/// Whether a survey shows the Main server that was planned with; what it shows instead.
fn main_now(state: &State, planned: &MainServer, survey: &Survey) -> Result<(), String> {
    let mut named = state.plan().named.clone();
    named.remembered = Some(planned.server.clone());
    match assess(survey, &named).main {
        Ok(main) if main.server == planned.server && main.fingerprint == planned.fingerprint => Ok(()),
        Ok(main) => Err(match main.fingerprint {
            Some(print) => format!("it is {} with {} now", main.server, print.short()),
            None => format!("it is {} now", main.server),
        }),
        Err(trouble) => Err(trouble.to_string()),
    }
}

/// Whether every target is synchronized, no other server has become worse, and all are up.
pub(super) async fn verify_cluster(shift: &Arc<Shift>, state: &State, no: u32) -> Result<End, End> {
    let begun = Instant::now();
    loop {
        let survey = survey(shift, no).await?;
        let left = well::patience(shift).saturating_sub(begun.elapsed());
        let unwell = unwell(state, &survey);
        if unwell.is_empty() || left.is_zero() {
            return Ok(verified(state, shift, &survey, &unwell));
        }
        let who: Vec<&str> = unwell.iter().map(|(server, _)| server.as_str()).collect();
        shift.doing(no, format!("waiting for {} to be healthy", who.join(", ")), deadline_in(left));
        well::pause(shift, left).await?;
    }
}

/// The servers that complain although they were healthy: after their restart, or, where they are no targets, before the
/// run.
fn unwell(state: &State, survey: &Survey) -> Vec<(ServerName, String)> {
    let plan = state.plan();
    let complains = |server: &ServerName| {
        let seen = &survey.report(server)?.inspection;
        let complaint = match plan.targets.contains(server) {
            true => well::complaint_of(state, server, seen),
            false => complaint(seen),
        };
        Some((server.clone(), complaint?))
    };
    plan.servers.keys().filter_map(complains).collect()
}

fn verified(state: &State, shift: &Shift, survey: &Survey, unwell: &[(ServerName, String)]) -> End {
    let plan = state.plan();
    let mut named = plan.named.clone();
    named.remembered = plan.main.as_ref().map(|main| main.server.clone());
    let assessment = assess(survey, &named);
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
    let code = if wrong.is_empty() { Code::NotHealthy } else { Code::WrongIdentity };
    wrong.extend(unwell.iter().map(|(server, why)| format!("{server} is not healthy any more: {why}")));
    if wrong.is_empty() {
        return done(survey.ums_ms(), Yield::Nothing);
    }
    let failure = Failure::new(code, wrong.join("; "))
        .remedy("`umsid status` shows how the servers stand; `umsid resume` verifies again, `umsid rollback` goes back");
    End::Result(StepResult::Failed { ums_ms: survey.ums_ms(), failure, effect: Effect::Possible })
}
