//! Whether what comes next may be begun at this moment: pure, as [`next`](super::next) is. On the way back nothing is bound to
//! windows, and what was begun is taken up whatever the time.

use std::collections::BTreeSet;

use jiff::Zoned;

use super::event::{Halt, HaltKind};
use super::next::Next;
use super::state::{State, Status};
use crate::plan::{Opening, Step, hours};

/// What comes next with what may not be begun now taken out of it; where nothing else is left to do, the run stands still.
pub fn in_time(state: &State, next: Next, running: &BTreeSet<u32>, now: &Zoned) -> Next {
    let Next::Start(list) = next else { return next };
    if is_free(state) {
        return Next::Start(list);
    }
    let closed = |no: u32| state.step(no).is_some_and(|step| state.plan().opening(step, now) != Opening::Now);
    let (waiting, open): (Vec<_>, Vec<_>) = list.into_iter().partition(|(no, _)| closed(*no));
    if !open.is_empty() {
        return Next::Start(open);
    }
    if !running.is_empty() {
        return Next::Wait;
    }
    let why =
        waiting.iter().filter_map(|(no, _)| state.step(*no)).filter_map(|step| closing(state, step, now));
    let why = why.collect::<Vec<_>>().join("; ");
    Next::Halt(Halt { kind: HaltKind::Window, why, failure: None, stuck: None })
}

/// The step a run that stands still would wait at, before anything else on a server is disturbed, and when it may be begun.
/// `None`: it need not wait.
pub fn waits_at<'a>(state: &'a State, now: &Zoned) -> Option<(&'a Step, Opening)> {
    if is_free(state) {
        return None;
    }
    let step = state.steps().find(|step| state.plan().bound(step).is_some() && !state.is_settled(step.no))?;
    let begun = state.progress(step.no).is_some_and(|progress| progress.status == Status::Begun);
    let opening = state.plan().opening(step, now);
    (!begun && opening != Opening::Now).then_some((step, opening))
}

/// Why a step may not be begun now, in words; `None`: it may.
pub fn closing(state: &State, step: &Step, now: &Zoned) -> Option<String> {
    let (bound, takes) = state.plan().bound(step)?;
    let server = step.what.server().map_or("", |server| server.as_str());
    let place = format!("{server}: step {} ({})", step.no, step.what.title());
    match bound.opening(now, takes) {
        Opening::Now => None,
        Opening::At(opens) => Some(hours::closed(&place, bound, takes, &opens)),
        Opening::Never => Some(format!("{place} never fits into its window, {bound}: it may take {takes:#}")),
    }
}

fn is_free(state: &State) -> bool {
    state.plan().hours.is_empty() || state.turned_back().is_some() || state.windows_are_ignored()
}
