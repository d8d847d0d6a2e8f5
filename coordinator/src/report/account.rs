//! What a run did on each server, what went wrong there, and what it left behind.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use umsid_common::digest::Digest;
use umsid_common::name::{ServerName, SiteName};
use umsid_proto::failure::Code;
use umsid_proto::model::{Effect, RawOutput};

use crate::plan::{Kind, Purpose, RestartScope, What, touched};
use crate::run::{Ending, Event, Recorded, Standing, State, StepResult};
use crate::survey::{Proof, SyncState};

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

pub(super) fn servers(state: &State, events: &[Recorded]) -> BTreeMap<ServerName, ServerReport> {
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

pub(super) fn failures(state: &State, events: &[Recorded]) -> Vec<FailedStep> {
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

pub(super) fn left_over(state: &State) -> Vec<String> {
    let plan = state.plan();
    let mut left = Vec::new();
    let given_up = *state.standing() == Standing::Ended(Ending::GivenUp);
    if given_up || !matches!(state.standing(), Standing::Ended(_)) {
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
                    "; its own UMS ID was saved in its agent's vault: {}…",
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
