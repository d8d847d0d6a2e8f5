//! What a run does next: a pure function of its state.

use std::collections::BTreeSet;

use umsid_proto::failure::Code;

use super::event::{Ending, Halt, HaltKind, StepResult, Stuck};
use super::state::{Standing, State, Status};
use crate::plan::{Kind, RestartScope, Step, What, roll_back, touched};
use crate::survey::Proof;

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Begin these attempts: step and attempt, to be journalled first.
    Start(Vec<(u32, u32)>),
    /// Take up again what was begun before and has no result on record.
    TakeUp(Vec<(u32, u32)>),
    /// These steps are not needed.
    Skip(Vec<(u32, String)>),
    /// Go back: the canary failed.
    TurnBack {
        /// Why.
        why: String,
        /// The way back.
        steps: Vec<Step>,
    },
    /// Wait for a running step.
    Wait,
    /// Stand still.
    Halt(Halt),
    /// It is over.
    End(Ending),
    /// Nothing can be done without a lease, or any more.
    Over,
}

/// What a run does next, given the steps that are being carried out by this process.
pub fn next(state: &State, running: &BTreeSet<u32>) -> Next {
    if *state.standing() != Standing::Going {
        return Next::Over;
    }
    let status = |no: u32| state.progress(no).map(|progress| (&progress.status, progress.attempt));
    let adrift: Vec<(u32, u32)> = state
        .steps()
        .filter(|step| !running.contains(&step.no))
        .filter_map(|step| match status(step.no)? {
            (Status::Begun, attempt) if state.waits_for(step).is_none() => Some((step.no, attempt)),
            _ => None,
        })
        .collect();
    if !adrift.is_empty() {
        return Next::TakeUp(adrift);
    }
    if let Some((step, result)) = state.trouble() {
        if state.may_try_again(step.no) && !state.is_needless(step) {
            let attempt = state.progress(step.no).map_or(1, |progress| progress.attempt + 1);
            return Next::Start(vec![(step.no, attempt)]);
        }
        // What else is going on is brought to its end first.
        return if running.is_empty() { give_up(state, step, result) } else { Next::Wait };
    }
    let needless = needless(state);
    if !needless.is_empty() {
        return Next::Skip(needless);
    }
    let ready: Vec<(u32, u32)> = state
        .steps()
        .filter_map(|step| match status(step.no)? {
            (Status::Waiting, attempt) if state.waits_for(step).is_none() => Some((step.no, attempt + 1)),
            _ => None,
        })
        .collect();
    match (ready.is_empty(), running.is_empty()) {
        (false, _) => Next::Start(ready),
        (true, false) => Next::Wait,
        (true, true) => state.steps().find(|step| !state.is_settled(step.no)).map_or_else(
            || ending(state),
            // No plan of ours has such a step; one that does is not called done.
            |step| {
                let why = format!("step {} ({}) waits for what never comes", step.no, step.what.title());
                Next::Halt(Halt { kind: HaltKind::Unknown, why, failure: None, stuck: None })
            },
        ),
    }
}

/// Whether a failure on record sends the run back.
pub(super) fn turns_back(state: &State) -> bool {
    let trouble = state.trouble().filter(|(step, _)| !state.may_try_again(step.no));
    trouble.is_some_and(|(step, result)| matches!(give_up(state, step, result), Next::TurnBack { .. }))
}

fn needless(state: &State) -> Vec<(u32, String)> {
    // With hundreds of steps it is not to be looked for at each of them.
    if !state.any_in_sync_already() {
        return Vec::new();
    }
    let waits = |no| state.progress(no).is_some_and(|progress| progress.status == Status::Waiting);
    let needless = state.steps().filter(|step| waits(step.no) && state.is_needless(step));
    needless.map(|step| (step.no, "a restart was enough".to_owned())).collect()
}

fn give_up(state: &State, step: &Step, result: &StepResult) -> Next {
    let place = step.what.server().map_or(String::new(), |server| format!("{server}: "));
    let (kind, what, failure) = match result {
        StepResult::Failed { failure, .. } => {
            (HaltKind::Failed, format!("failed: {failure}"), Some(failure.clone()))
        }
        StepResult::Unknown { finding, .. } => {
            (HaltKind::Unknown, format!("has an unknown outcome: {finding}"), None)
        }
        StepResult::Done { .. } => (HaltKind::Unknown, "is done".to_owned(), None),
    };
    let why = format!("{place}step {} ({}) {what}", step.no, step.what.title());
    // A full disk says nothing of a UMS ID. With room on it the step can be done after all; without, nothing could be put
    // back either.
    if failure.as_ref().is_some_and(|failure| failure.code == Code::DiskFull) {
        return Next::Halt(Halt { kind, why, failure, stuck: None });
    }
    // Where nothing is known, nothing is overwritten: that is for a person to decide.
    if kind == HaltKind::Failed && state.turned_back().is_none() && concerns_canary(state, step) {
        let servers = touched(state);
        if !servers.is_empty() {
            return Next::TurnBack {
                why,
                steps: roll_back(&servers, &state.plan().involved(), state.next_number()),
            };
        }
    }
    match stuck_on(state, step) {
        Some(stuck) => Next::Halt(Halt { kind: HaltKind::Stuck, why, failure, stuck: Some(stuck) }),
        None => Next::Halt(Halt { kind, why, failure, stuck: None }),
    }
}

/// The server that cannot be put back as it was, if this step was to do it.
fn stuck_on(state: &State, step: &Step) -> Option<Stuck> {
    let (What::RestoreOwn { server, .. } | What::Restart { server } | What::VerifyOwn { server }) =
        &step.what
    else {
        return None;
    };
    let had = state.plan().servers.get(server).and_then(|facts| facts.baseline.local);
    state.turned_back().map(|_| Stuck { server: server.clone(), had, shows: None })
}

/// Whether this step is the canary's own, after something was restored on it and before any other server is touched.
fn concerns_canary(state: &State, step: &Step) -> bool {
    let Some(canary) = state.canary() else { return false };
    let own = matches!(
        &step.what,
        What::Restore { server } | What::Restart { server } | What::Verify { server } if server == canary
    );
    own && touched(state) == std::slice::from_ref(canary)
}

fn ending(state: &State) -> Next {
    if state.turned_back().is_some() {
        let left: Vec<String> = touched(state).iter().map(ToString::to_string).collect();
        if left.is_empty() {
            return Next::End(Ending::RolledBack);
        }
        let why = format!("{} may still hold the restored UMS ID", left.join(", "));
        return Next::Halt(Halt { kind: HaltKind::Partial, why, failure: None, stuck: None });
    }
    if state.plan().request.kind != Kind::Sync {
        return Next::End(Ending::Done);
    }
    // Without restarts, the UMS Servers run on with the UMS IDs they read at their start.
    let restarted = state.plan().request.restart != RestartScope::None;
    let verified =
        |server: &_| state.in_sync_already(server) || matches!(state.proof(server), Some(Proof::Yes(_)));
    let all = restarted && state.plan().targets.iter().all(verified);
    Next::End(if all { Ending::Synchronized } else { Ending::Unverified })
}
