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
/// twice in a moment. The time the UMS took for it was told then. The canary is looked at in any case, because on it depends what
/// becomes of all others, and so is who is put back: nobody looks at him again.
pub(super) fn known(shift: &Shift, state: &State, step: &Step) -> Option<StepResult> {
    let yields = match &step.what {
        What::Verify { server } if state.canary() != Some(server) => {
            match prove_main(shift, state, server, &shift.sighted.shown(server)?) {
                good @ Proof::Yes(_) => Yield::Proved(good),
                Proof::No(_) | Proof::Unknown(_) => return None,
            }
        }
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
    let all = state.plan().servers.keys().all(|server| shift.survey.report(server).is_some());
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::SignedDuration;
    use tokio_util::sync::CancellationToken;
    use umsid_common::name::RunId;
    use umsid_proto::model::LeaseRef;

    use super::*;
    use crate::plan::{Kind, Request};
    use crate::run::tests::{begun, good, plan};
    use crate::run::{Event, Pace};
    use crate::step::well::Sighted;
    use crate::survey::stage::{Stage, labelled, name};

    /// What a run of `plan`, a sync by default, begins with.
    fn shift() -> Shift {
        let servers = [("ums1", "a"), ("ums2", "b"), ("ums3", "c"), ("ums4", "d")];
        let mut survey = Stage::new(&servers.map(|(server, local)| (server, labelled(local, "a")))).survey;
        survey.taken = Timestamp::now();
        let run = RunId::new(Timestamp::now());
        Shift {
            lease: LeaseRef { run: run.clone(), epoch: 1 },
            run,
            agents: BTreeMap::new(),
            survey,
            pace: Pace::default(),
            tell: Arc::new(|_| {}),
            stop: CancellationToken::new(),
            sighted: Sighted::default(),
        }
    }

    fn begin(request: &Request) -> State {
        let mut state = State::begin(&begun(plan(request))).unwrap();
        state.apply(&Event::Leased { epoch: 1, by: "anna".into() }).unwrap();
        state
    }

    fn first(state: &State, what: &What) -> Step {
        state.steps().find(|step| step.what == *what).unwrap().clone()
    }

    #[test]
    fn main_is_confirmed_for_the_first_time_by_the_survey_the_run_begins_with() {
        let (mut shift, mut state) = (shift(), begin(&Request::sync()));
        let confirm = first(&state, &What::ConfirmMain);
        assert!(known(&shift, &state, &confirm).is_some());
        // Too old, or from a clock that was set since.
        let taken = shift.survey.taken;
        for off in [SignedDuration::from_secs(-3), SignedDuration::from_secs(60)] {
            shift.survey.taken = taken + off;
            assert!(known(&shift, &state, &confirm).is_none());
        }
        shift.survey.taken = Timestamp::now();
        // It shows another Main: then all are asked, so that what is said is how things stand.
        let mut other = shift.survey.clone();
        for answer in other.servers.values_mut() {
            answer.report.as_mut().unwrap().inspection.ums_ids = labelled("b", "b");
        }
        let right = std::mem::replace(&mut shift.survey, other);
        assert!(known(&shift, &state, &confirm).is_none());
        shift.survey = right;
        let answered = shift.survey.servers.remove(&name("ums4")).unwrap();
        assert!(known(&shift, &state, &confirm).is_none(), "one has not answered");
        shift.survey.servers.insert(name("ums4"), answered);
        assert!(known(&shift, &state, &confirm).is_some());
        // Before something is restored all are asked.
        let steps: Vec<Step> = state.steps().cloned().collect();
        let last = steps.iter().rfind(|step| step.what == What::ConfirmMain).unwrap();
        assert_ne!(last.no, confirm.no);
        for step in steps.iter().take_while(|step| step.no != last.no) {
            state.apply(&Event::Started { step: step.no, attempt: 1 }).unwrap();
            let result = good(&step.what);
            state.apply(&Event::Finished { step: step.no, attempt: 1, result }).unwrap();
        }
        assert!(known(&shift, &state, last).is_none());
    }

    #[test]
    fn what_its_restart_brought_to_light_proves_the_ums_id_and_nothing_else_does() {
        let (shift, state) = (shift(), begin(&Request::sync()));
        let server = name("ums3");
        let verify = first(&state, &What::Verify { server: server.clone() });
        assert!(known(&shift, &state, &verify).is_none(), "nobody has looked");
        shift.sighted.restarted(&server, labelled("c", "a"));
        assert!(known(&shift, &state, &verify).is_none(), "it shows another one");
        let canary = state.canary().unwrap().clone();
        shift.sighted.restarted(&canary, labelled("a", "a"));
        assert!(known(&shift, &state, &verify).is_none(), "it was another server");
        let verify_canary = first(&state, &What::Verify { server: canary });
        assert!(known(&shift, &state, &verify_canary).is_none(), "the canary is looked at in any case");
        shift.sighted.restarted(&server, labelled("a", "a"));
        let proved = known(&shift, &state, &verify);
        assert!(matches!(
            proved,
            Some(StepResult::Done { ums_ms: 0, yields: Yield::Proved(Proof::Yes(_)), .. })
        ));
        // A step that does something is done.
        let restart = first(&state, &What::Restart { server });
        assert!(known(&shift, &state, &restart).is_none());
        let restarts = begin(&Request { kind: Kind::Restart, ..Request::sync() });
        assert!(
            restarts.steps().all(|step| known(&shift, &restarts, step).is_none() || !step.what.disturbs())
        );
    }
}
