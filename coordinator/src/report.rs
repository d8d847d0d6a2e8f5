//! What came of a run: for every server, where the time went, what is left to do.
//!
//! Pure: made from a run's record alone, so that a finished run and one that was cut off anywhere are told alike.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use umsid_common::digest::Digest;
use umsid_common::name::{ClusterName, RunId, ServerName, SiteName};
use umsid_proto::failure::Code;
use umsid_proto::model::{Effect, RawOutput};

use crate::exit::{self, Exit};
use crate::journal::RunLog;
use crate::plan::{Kind, Purpose, RestartScope, What, touched};
use crate::run::{Ending, Event, HaltKind, Recorded, Standing, State, StepResult};
use crate::survey::{Proof, SyncState};

mod critical_path;
mod text;

pub use critical_path::{Link, critical_path};
pub use text::raw_output;
pub(crate) use text::seconds;

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The run; `None`: there was nothing to run.
    pub run: Option<RunId>,
    /// The cluster.
    pub cluster: ClusterName,
    /// How it stands.
    pub outcome: Outcome,
    /// Milliseconds from the beginning of the survey, without the time a person took to say yes.
    pub elapsed_ms: u64,
    /// Milliseconds of those spent waiting for the UMS, along the critical path.
    pub ums_ms: u64,
    /// The others.
    pub overhead_ms: u64,
    /// Every server that took part.
    pub servers: BTreeMap<ServerName, ServerReport>,
    /// Why it stands still.
    pub halt: Option<Standstill>,
    /// Why it went back.
    pub turned_back: Option<String>,
    /// Attempts that came to no good end, and were not made good by a later one.
    pub failures: Vec<FailedStep>,
    /// What is not as it should stay, one sentence each.
    pub left_over: Vec<String>,
    /// The steps no other work could have hidden, in order.
    pub critical_path: Vec<Link>,
    /// What to type next, and what it does.
    pub next: Vec<Advice>,
    #[serde(skip)]
    by_request: bool,
}

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every server that was to be synchronized is verified synchronized.
    Synchronized,
    /// Carried out, but of some servers it could not be verified.
    Unverified,
    /// It stands still.
    Halted,
    /// The servers that had been touched are as they were.
    RolledBack,
    /// What was asked for is done.
    Done,
    /// There was nothing to do.
    NothingToDo,
}

impl Outcome {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synchronized => "synchronized",
            Self::Unverified => "unverified",
            Self::Halted => "halted",
            Self::RolledBack => "rolled back",
            Self::Done => "done",
            Self::NothingToDo => "nothing to do",
        }
    }
}

/// One server in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerReport {
    /// Where it stands.
    pub site: Option<SiteName>,
    /// Whether it was the first to be synchronized.
    pub canary: bool,
    /// Its state before the run.
    pub before: SyncState,
    /// Its state as far as the run knows.
    pub after: SyncState,
    /// Whether a UMS ID was restored on it.
    pub restored: bool,
    /// Whether it was put back as it was.
    pub put_back: bool,
    /// Whether its UMS Server was restarted.
    pub restarted: bool,
    /// What its state after the run rests on.
    pub proof: String,
    /// Milliseconds its steps took.
    pub ms: u64,
    /// What its steps had to tell.
    pub remarks: Vec<String>,
}

/// Why a run stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standstill {
    /// For programs.
    pub kind: HaltKind,
    /// For people.
    pub why: String,
    /// The code of the failure behind it.
    pub code: Option<Code>,
    /// What to do about that.
    pub remedy: String,
    /// Whether it stands still on its way back: then a person has to look.
    pub on_the_way_back: bool,
}

/// An attempt at a step that came to no good end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedStep {
    /// The step.
    pub step: u32,
    /// The attempt.
    pub attempt: u32,
    /// Where; `None`: the cluster.
    pub server: Option<ServerName>,
    /// What it was to do.
    pub what: String,
    /// The failure's code; `None`: what it did is not known.
    pub code: Option<Code>,
    /// The chain of causes, or what could be found out.
    pub causes: Vec<String>,
    /// What to do about it.
    pub remedy: String,
    /// Whether something may have changed on the server all the same.
    pub may_have_changed: bool,
    /// What the program that failed printed.
    pub raw: Option<RawOutput>,
}

/// A command to type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// The command.
    pub command: String,
    /// What it does.
    pub does: String,
}

/// One process's work on a run, measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopwatch {
    /// Events that were on record before.
    pub events_before: usize,
    /// Milliseconds from the beginning of the survey.
    pub elapsed_ms: u64,
    /// Milliseconds of the survey that were spent waiting for the UMS.
    pub survey_ums_ms: u64,
}

impl Report {
    /// What a run's record says; `by_request`: going back is what was asked for.
    pub fn of(log: &RunLog, watch: Stopwatch, by_request: bool) -> Self {
        Self::from_record(log.run(), log.state(), log.events(), watch, by_request)
    }

    /// The same, from the parts of a record.
    pub fn from_record(
        run: &RunId,
        state: &State,
        events: &[Recorded],
        watch: Stopwatch,
        by_request: bool,
    ) -> Self {
        let session = events.get(watch.events_before..).unwrap_or_default();
        let path = critical_path(state, session);
        let ums_ms = watch.survey_ums_ms + path.iter().map(|link| link.ums_ms).sum::<u64>();
        let halt = standstill(state);
        Self {
            run: Some(run.clone()),
            cluster: state.plan().cluster.clone(),
            outcome: outcome(state),
            elapsed_ms: watch.elapsed_ms,
            ums_ms,
            overhead_ms: watch.elapsed_ms.saturating_sub(ums_ms),
            servers: servers(state, events),
            turned_back: state.turned_back().map(ToOwned::to_owned),
            failures: failures(state, events),
            left_over: left_over(state),
            critical_path: path,
            next: advice(run, state),
            halt,
            by_request,
        }
    }

    /// There was nothing to do.
    pub fn nothing_to_do(cluster: ClusterName, watch: Stopwatch) -> Self {
        Self {
            run: None,
            cluster,
            outcome: Outcome::NothingToDo,
            elapsed_ms: watch.elapsed_ms,
            ums_ms: watch.survey_ums_ms,
            overhead_ms: watch.elapsed_ms.saturating_sub(watch.survey_ums_ms),
            servers: BTreeMap::new(),
            halt: None,
            turned_back: None,
            failures: Vec::new(),
            left_over: Vec::new(),
            critical_path: Vec::new(),
            next: Vec::new(),
            by_request: false,
        }
    }

    /// How the program ends: 0 only if what was asked for is done and verified.
    pub fn exit(&self) -> Exit {
        match self.outcome {
            Outcome::Synchronized | Outcome::Done | Outcome::NothingToDo => Exit::Success,
            Outcome::Unverified => Exit::NotInSync,
            Outcome::RolledBack if self.by_request => Exit::Success,
            Outcome::RolledBack => Exit::Failed,
            // What was asked for is done; what is left is named.
            Outcome::Halted
                if self.by_request
                    && self.halt.as_ref().is_some_and(|halt| halt.kind == HaltKind::Partial) =>
            {
                Exit::Success
            }
            Outcome::Halted => self.halt.as_ref().map_or(Exit::Failed, Standstill::exit),
        }
    }
}

impl Standstill {
    fn exit(&self) -> Exit {
        match self.kind {
            HaltKind::Interrupted => Exit::Interrupted,
            HaltKind::LeaseLost => Exit::Locked,
            HaltKind::Unreachable => Exit::Unreachable,
            HaltKind::Unknown | HaltKind::Partial => Exit::NeedsOperator,
            HaltKind::Failed if self.on_the_way_back => Exit::NeedsOperator,
            HaltKind::Failed => self.code.map_or(Exit::Failed, exit::of_code),
        }
    }
}

/// How a run stands, in one word.
pub fn outcome(state: &State) -> Outcome {
    match state.standing() {
        Standing::Ended(Ending::Synchronized) => Outcome::Synchronized,
        Standing::Ended(Ending::Unverified) => Outcome::Unverified,
        Standing::Ended(Ending::Done) => Outcome::Done,
        Standing::Ended(Ending::RolledBack) => Outcome::RolledBack,
        Standing::Open | Standing::Going | Standing::Halted(_) => Outcome::Halted,
    }
}

fn standstill(state: &State) -> Option<Standstill> {
    let on_the_way_back = state.turned_back().is_some();
    match state.standing() {
        Standing::Ended(_) => None,
        Standing::Halted(halt) => Some(Standstill {
            kind: halt.kind,
            why: halt.why.clone(),
            code: halt.failure.as_ref().map(|failure| failure.code),
            remedy: halt.failure.as_ref().map(|failure| failure.remedy.clone()).unwrap_or_default(),
            on_the_way_back,
        }),
        Standing::Open | Standing::Going => Some(Standstill {
            kind: HaltKind::Interrupted,
            why: "its record has no end: umsid was stopped in the middle, or is at it now".to_owned(),
            code: None,
            remedy: String::new(),
            on_the_way_back,
        }),
    }
}

fn servers(state: &State, events: &[Recorded]) -> BTreeMap<ServerName, ServerReport> {
    let plan = state.plan();
    let durations = durations(events);
    let report = |server: &ServerName| {
        let facts = plan.servers.get(server)?;
        let own: Vec<_> = state.all_steps().filter(|step| step.what.server() == Some(server)).collect();
        let done = |wanted: &dyn Fn(&What) -> bool| {
            own.iter().any(|step| wanted(&step.what) && state.is_done(step.no))
        };
        let put_back = done(&|what| matches!(what, What::RestoreOwn { purpose: Purpose::Rollback, .. }));
        let (after, proof) = after(state, server, facts.state);
        Some(ServerReport {
            site: facts.site.clone(),
            canary: plan.canary() == Some(server),
            before: facts.state,
            after,
            restored: done(&|what| matches!(what, What::Restore { .. })),
            put_back,
            restarted: done(&|what| matches!(what, What::Restart { .. })),
            proof,
            ms: own.iter().filter_map(|step| durations.get(&step.no)).sum(),
            remarks: own.iter().flat_map(|step| remarks(state, step.no)).collect(),
        })
    };
    plan.servers.keys().filter_map(|server| Some((server.clone(), report(server)?))).collect()
}

fn remarks(state: &State, no: u32) -> Vec<String> {
    match state.result(no) {
        Some(StepResult::Done { remarks, .. }) => remarks.clone(),
        _ => Vec::new(),
    }
}

/// Milliseconds each step took, all its attempts together.
pub fn durations(events: &[Recorded]) -> BTreeMap<u32, u64> {
    let mut begun: BTreeMap<u32, Timestamp> = BTreeMap::new();
    let mut durations = BTreeMap::new();
    for recorded in events {
        match &recorded.event {
            Event::Started { step, .. } => {
                begun.insert(*step, recorded.at);
            }
            Event::Finished { step, .. } => {
                if let Some(since) = begun.remove(step) {
                    let ms = recorded.at.duration_since(since).as_millis();
                    *durations.entry(*step).or_default() += u64::try_from(ms).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
    durations
}

/// A server's state as far as the run knows, and what that rests on.
fn after(state: &State, server: &ServerName, before: SyncState) -> (SyncState, String) {
    let plan = state.plan();
    if !plan.targets.contains(server) {
        return (before, String::new());
    }
    if state.in_sync_already(server) {
        return (SyncState::InSync, "a restart was enough".to_owned());
    }
    let restore =
        state.all_steps().find(|step| matches!(&step.what, What::Restore { server: to } if to == server));
    let begun = restore.is_some_and(|step| state.was_begun(step.no));
    let without_effect = restore.is_some_and(|step| {
        let first = state.progress(step.no).is_some_and(|progress| progress.attempt == 1);
        first && matches!(state.result(step.no), Some(StepResult::Failed { effect: Effect::None, .. }))
    });
    if !begun || without_effect {
        return (before, "it was not touched".to_owned());
    }
    let is_touched = touched(state).contains(server);
    match state.proof(server) {
        Some(Proof::Yes(why)) if !is_touched => (before, why.clone()),
        Some(Proof::Yes(_)) if plan.request.restart == RestartScope::None => {
            (SyncState::Unknown, "restored, but not in use until it is restarted".to_owned())
        }
        Some(Proof::Yes(why)) => (SyncState::InSync, why.clone()),
        Some(Proof::No(why)) => (SyncState::NotInSync, why.clone()),
        Some(Proof::Unknown(why)) => (SyncState::Unknown, why.clone()),
        None => (SyncState::Unknown, "it was touched, and not verified since".to_owned()),
    }
}

fn failures(state: &State, events: &[Recorded]) -> Vec<FailedStep> {
    let mut failures: BTreeMap<u32, FailedStep> = BTreeMap::new();
    for recorded in events {
        let Event::Finished { step, attempt, result } = &recorded.event else { continue };
        let Some(what) = state.step(*step).map(|step| &step.what) else { continue };
        let failed = |code, causes, remedy, may_have_changed, raw| FailedStep {
            step: *step,
            attempt: *attempt,
            server: what.server().cloned(),
            what: what.title(),
            code,
            causes,
            remedy,
            may_have_changed,
            raw,
        };
        match result {
            StepResult::Done { .. } => {
                failures.remove(step);
            }
            StepResult::Failed { failure, effect, .. } => {
                let it = failure.clone();
                let changed = *effect == Effect::Possible;
                failures.insert(*step, failed(Some(it.code), it.causes, it.remedy, changed, it.raw));
            }
            StepResult::Unknown { finding, .. } => {
                let remedy =
                    "look at that server yourself; `umsid status --raw` shows what its UMS prints".to_owned();
                failures.insert(*step, failed(None, vec![finding.clone()], remedy, true, None));
            }
        }
    }
    failures.into_values().collect()
}

fn left_over(state: &State) -> Vec<String> {
    let plan = state.plan();
    let mut left = Vec::new();
    if !matches!(state.standing(), Standing::Ended(_)) {
        let open: Vec<String> =
            state.steps().filter(|step| !state.is_settled(step.no)).map(|step| step.no.to_string()).collect();
        if !open.is_empty() {
            left.push(format!("steps not done: {}", open.join(", ")));
        }
        for server in touched(state) {
            if matches!(state.proof(&server), Some(Proof::Yes(_))) && state.turned_back().is_none() {
                continue;
            }
            let own = state.safety_backup(&server).map(|digest: Digest| digest.to_string());
            let own = own.map_or(String::new(), |digest| {
                format!(
                    "; its own UMS ID is in its agent's vault: {}…",
                    digest.chars().take(16).collect::<String>()
                )
            });
            left.push(format!("{server} was begun to be restored, and is not verified{own}"));
        }
    }
    let had_it: BTreeSet<ServerName> = state
        .all_steps()
        .filter(|step| state.was_begun(step.no))
        .flat_map(|step| match &step.what {
            What::Backup { server } => vec![server.clone()],
            What::Transfer { to, .. } => to.clone(),
            _ => Vec::new(),
        })
        .collect();
    let discarded: BTreeSet<ServerName> = state
        .all_steps()
        .filter(|step| state.is_done(step.no))
        .filter_map(|step| match &step.what {
            What::Discard { server } => Some(server.clone()),
            _ => None,
        })
        .collect();
    let still: Vec<String> = had_it.difference(&discarded).map(ToString::to_string).collect();
    if !still.is_empty() {
        left.push(format!("the sealed backup of this run is still on {}", still.join(", ")));
    }
    if plan.request.kind == Kind::Sync
        && plan.request.restart == RestartScope::None
        && !touched(state).is_empty()
    {
        left.push(
            "no server was restarted: `umsid restart` makes the restored UMS ID the one in use".to_owned(),
        );
    }
    left
}

fn advice(run: &RunId, state: &State) -> Vec<Advice> {
    if matches!(state.standing(), Standing::Ended(_)) {
        return Vec::new();
    }
    let advise = |command: String, does: String| Advice { command, does };
    let back = state.turned_back().is_some();
    let mut advice = vec![advise(
        format!("umsid resume {run}"),
        if back { "goes on putting servers back as they were" } else { "goes on where it stands" }.to_owned(),
    )];
    let touched: Vec<String> = touched(state).iter().map(ToString::to_string).collect();
    if !back && !touched.is_empty() {
        advice.push(advise(
            format!("umsid rollback {run}"),
            format!("puts {} back as before the run", touched.join(", ")),
        ));
    }
    advice.push(advise(format!("umsid runs show {run}"), "shows everything that was recorded".to_owned()));
    advice
}

#[cfg(test)]
mod tests;
