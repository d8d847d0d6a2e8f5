//! Servers this run has restarted, and that were healthy then: one that comes up and dies a little later is seen before
//! the next one is touched, and before all is called well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;
use umsid_common::name::{OperationId, ServerName};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, Inspection, UmsIds};

use super::{End, Patience, Shift, deadline_in};
use crate::plan::{Step, What};
use crate::run::{State, StepResult};
use crate::survey::complaint;

/// How long a server may be unwell before that is a failure: an answer may be lost, and a service manager may start again
/// what has died.
const UNWELL: Duration = Duration::from_secs(60);

/// Between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// How old a look may be that counts.
const FRESH: Duration = Duration::from_millis(500);

/// See [`UNWELL`]; who has no patience for a server out of reach has none for an unwell one.
pub(super) fn patience(shift: &Shift) -> Duration {
    UNWELL.min(shift.pace.contact)
}

/// What a server complains of that was restarted by this run for the last time; `None` if nothing, or if it was not.
pub(super) fn complaint_of(state: &State, server: &ServerName, seen: &Inspection) -> Option<String> {
    let done = state.steps().filter(|step| disturbs(step, server) && state.is_done(step.no));
    let was_healthy = done.last().is_some_and(|step| matches!(step.what, What::Restart { .. }));
    complaint(seen).filter(|_| was_healthy)
}

/// A server was healthy after its restart, and is not any more.
pub(super) fn relapse(server: &ServerName, complaint: &str) -> Failure {
    let what = format!("{server} was healthy after its restart and is not any more: {complaint}");
    Failure::new(Code::NotHealthy, what).remedy(format!(
        "read the log of the UMS Server on {server}; when it is up, `umsid resume` goes on, `umsid rollback` goes back"
    ))
}

/// Before another server is disturbed, those this run has restarted must be up: each that dies after it was called healthy
/// would be followed by the next. On the way back nothing is held up by a server that is to be put back.
pub(super) async fn await_others(shift: &Shift, state: &State, step: &Step, attempt: u32) -> Result<(), End> {
    let Some(own) = step.what.server().filter(|own| disturbs(step, own)) else { return Ok(()) };
    if state.turned_back().is_some() {
        return Ok(());
    }
    let id = OperationId { run: shift.run.clone(), step: step.no, attempt };
    let others = up(state, step.no).into_iter();
    let mut looks: FuturesUnordered<_> = others
        .filter(|other| *other != own && !shift.sighted.is_fresh(other))
        .map(|other| await_other(shift, own, other, &id))
        .collect();
    while let Some(looked) = looks.next().await {
        if looked? == Look::Begun {
            return Ok(());
        }
    }
    Ok(())
}

/// What a look at another server came to.
#[derive(PartialEq, Eq)]
enum Look {
    /// It is up, or what is wrong with it is told by another step.
    Up,
    /// What was to wait for it has begun already.
    Begun,
}

async fn await_other(
    shift: &Shift,
    own: &ServerName,
    other: &ServerName,
    id: &OperationId,
) -> Result<Look, End> {
    let until = Instant::now() + patience(shift);
    let (mut contact, mut own_contact) =
        (Patience::new(shift.pace.contact), Patience::new(shift.pace.contact));
    loop {
        let complaint = match shift.agent(other)?.inspect(true).await {
            Ok(seen) => complaint(&seen),
            Err(error) if error.is_transient() => {
                contact.spend(shift, id.step, other, &error).await?;
                continue;
            }
            // What is wrong with its agent is told by the step that needs it.
            Err(_) => return Ok(Look::Up),
        };
        let Some(complaint) = complaint else {
            shift.sighted.well(other);
            return Ok(Look::Up);
        };
        // What was begun before this process was there is brought to its end, whoever is unwell.
        match shift.agent(own)?.operations(Some(&shift.run)).await {
            Ok(known) if known.iter().any(|operation| operation.id == *id) => return Ok(Look::Begun),
            Ok(_) => {}
            Err(error) if error.is_transient() => {
                own_contact.spend(shift, id.step, own, &error).await?;
                continue;
            }
            // It is told by the step itself.
            Err(_) => return Ok(Look::Begun),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let failure = relapse(other, &complaint);
            return Err(End::Result(StepResult::Failed { ums_ms: 0, failure, effect: Effect::None }));
        }
        shift.doing(id.step, format!("waiting for {other} to be healthy: {complaint}"), deadline_in(left));
        pause(shift, left).await?;
    }
}

/// What was seen of servers a moment ago.
#[derive(Debug, Default)]
pub struct Sighted(Mutex<BTreeMap<ServerName, Sight>>);

#[derive(Debug, Default)]
struct Sight {
    /// When it was last asked and well.
    well: Option<Instant>,
    /// What it showed after its restart, and when.
    shown: Option<(Instant, UmsIds)>,
}

impl Sighted {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<ServerName, Sight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is well now.
    fn well(&self, server: &ServerName) {
        self.seen().entry(server.clone()).or_default().well = Some(Instant::now());
    }

    /// It shows this now, after its restart. That it stays up is for others to see.
    pub(super) fn restarted(&self, server: &ServerName, ums_ids: UmsIds) {
        self.seen().entry(server.clone()).or_default().shown = Some((Instant::now(), ums_ids));
    }

    /// Whether it was well so short a time ago that asking again would be asking the same: with fifty servers, each is otherwise asked
    /// a hundred times.
    fn is_fresh(&self, server: &ServerName) -> bool {
        self.seen().get(server).and_then(|sight| sight.well).is_some_and(|at| at.elapsed() < FRESH)
    }

    /// What it showed so short a time ago.
    pub(super) fn shown(&self, server: &ServerName) -> Option<UmsIds> {
        let seen = self.seen();
        let (at, ums_ids) = seen.get(server)?.shown.as_ref()?;
        (at.elapsed() < FRESH).then(|| ums_ids.clone())
    }
}

/// Waits until the next look.
pub(super) async fn pause(shift: &Shift, left: Duration) -> Result<(), End> {
    tokio::select! {
        () = shift.stop.cancelled() => Err(End::Stopped),
        () = tokio::time::sleep(BETWEEN_LOOKS.min(left)) => Ok(()),
    }
}

/// Whether a step may take this server's UMS Server away for a while.
fn disturbs(step: &Step, server: &ServerName) -> bool {
    step.what.disturbs() && step.what.server() == Some(server)
}

/// The servers this run has restarted, where all else that is to be done to them is among the steps that wait for this one.
fn up(state: &State, no: u32) -> Vec<&ServerName> {
    let waiting = waiting_for(state, no);
    let mut servers: BTreeMap<&ServerName, (bool, bool)> = BTreeMap::new();
    for step in state.steps().filter(|step| step.what.disturbs()) {
        let Some(server) = step.what.server() else { continue };
        let (restarted, waits) = servers.entry(server).or_insert((false, true));
        *restarted |= matches!(step.what, What::Restart { .. }) && state.is_done(step.no);
        *waits &= state.is_settled(step.no) || waiting.contains(&step.no);
    }
    let up = servers.into_iter().filter(|(_, (restarted, waits))| *restarted && *waits);
    up.map(|(server, _)| server).collect()
}

/// The steps that cannot begin before this one is settled. Each waits only for steps before it.
fn waiting_for(state: &State, no: u32) -> BTreeSet<u32> {
    let mut waiting = BTreeSet::new();
    for step in state.steps() {
        if step.after.iter().any(|before| *before == no || waiting.contains(before)) {
            waiting.insert(step.no);
        }
    }
    waiting
}

#[cfg(test)]
mod tests {
    use super::*;
    use umsid_proto::model::HealthStatus;

    use crate::plan::{Kind, Request, RestartScope};
    use crate::run::Event;
    use crate::run::tests::{begun, good, plan};
    use crate::survey::stage::{Stage, labelled, name};

    /// A run of this request with everything done that comes before this step.
    fn before(request: &Request, step: &What) -> (State, u32) {
        let plan = plan(request);
        let steps = plan.steps.clone();
        let mut state = State::begin(&begun(plan)).unwrap();
        state.apply(&Event::Leased { epoch: 1, by: "anna".into() }).unwrap();
        for done in steps.iter().take_while(|other| other.what != *step) {
            state.apply(&Event::Started { step: done.no, attempt: 1 }).unwrap();
            let result = good(&done.what);
            state.apply(&Event::Finished { step: done.no, attempt: 1, result }).unwrap();
        }
        let no = steps.iter().find(|other| other.what == *step).unwrap().no;
        (state, no)
    }

    fn up_before(request: &Request, step: &What) -> Vec<String> {
        let (state, no) = before(request, step);
        up(&state, no).into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_was_restarted_for_good_must_be_up_before_the_next_is_disturbed() {
        let sync = Request::sync();
        assert!(up_before(&sync, &What::Restore { server: name("ums2") }).is_empty());
        assert_eq!(up_before(&sync, &What::Restore { server: name("ums3") }), ["ums2"]);
        assert_eq!(up_before(&sync, &What::Restart { server: name("ums3") }), ["ums2"]);
        assert_eq!(up_before(&sync, &What::Restart { server: name("ums1") }), ["ums2", "ums3", "ums4"]);
        let restart = Request { kind: Kind::Restart, ..Request::sync() };
        assert_eq!(up_before(&restart, &What::Restart { server: name("ums3") }), ["ums2"]);
    }

    #[test]
    fn a_look_counts_for_a_moment_and_a_restart_is_none() {
        let (sighted, server) = (Sighted::default(), name("ums2"));
        assert!(!sighted.is_fresh(&server) && sighted.shown(&server).is_none());
        sighted.restarted(&server, labelled("a", "a"));
        assert!(!sighted.is_fresh(&server) && sighted.shown(&server).is_some());
        sighted.well(&server);
        assert!(sighted.is_fresh(&server) && sighted.shown(&server).is_some());
        let past = Instant::now().checked_sub(FRESH).unwrap();
        let sight = Sight { well: Some(past), shown: Some((past, labelled("a", "a"))) };
        sighted.seen().insert(server.clone(), sight);
        assert!(!sighted.is_fresh(&server) && sighted.shown(&server).is_none());
    }

    #[test]
    fn who_may_be_disturbed_at_the_same_time_is_not_waited_for() {
        let request = Request { restart_first: true, batch: 2, ..Request::sync() };
        // It is restarted again, but not before this one.
        assert_eq!(up_before(&request, &What::Restart { server: name("ums3") }), ["ums2"]);
        // ums4 was restarted too, and may be restored at this very moment.
        assert_eq!(up_before(&request, &What::Restore { server: name("ums3") }), ["ums2"]);
    }

    #[test]
    fn only_who_was_restarted_last_has_to_be_well() {
        let mut stage = Stage::new(&[("ums2", labelled("a", "a"))]);
        stage.inspection("ums2").health.status = HealthStatus::Unreachable;
        let mut complains = |request: &Request, step: &What| {
            let (state, _) = before(request, step);
            complaint_of(&state, &name("ums2"), &stage.inspection("ums2").clone()).is_some()
        };
        let (sync, verify) = (Request::sync(), What::Verify { server: name("ums2") });
        assert!(complains(&sync, &verify));
        assert!(!complains(&sync, &What::Restart { server: name("ums2") }));
        let first = Request { restart_first: true, restart: RestartScope::None, ..Request::sync() };
        assert!(!complains(&first, &verify), "the restore may have left it stopped");
    }
}
