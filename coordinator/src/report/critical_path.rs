//! Where a run's time went: from its last step back through whatever each step had to wait for longest.

use std::collections::BTreeMap;

use serde::Serialize;
use umsid_common::name::ServerName;

use super::durations;
use crate::run::{Event, Recorded, State, StepResult};

/// One step of the critical path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The step.
    pub step: u32,
    /// Where; `None`: the cluster.
    pub server: Option<ServerName>,
    /// What it did.
    pub what: String,
    /// Milliseconds it took.
    pub ms: u64,
    /// Milliseconds of those spent waiting for the UMS.
    pub ums_ms: u64,
}

/// When a step was settled, by the number of the event, and what it waited for the UMS.
#[derive(Clone, Copy, Default)]
struct Settled {
    number: u64,
    ums_ms: u64,
}

/// The steps no other work could have hidden, in order: from the last one to be settled back through the one, of those
/// it had to wait for, that was settled last. `events` are those of one session; what an earlier one did took no time in
/// this one.
pub fn critical_path(state: &State, events: &[Recorded]) -> Vec<Link> {
    let (settled, turned) = settled(events);
    let durations = durations(events);
    let mut path = Vec::new();
    let mut at = last(&settled, u64::MAX);
    while let Some(no) = at {
        let here = settled.get(&no).copied().unwrap_or_default();
        let Some(step) = state.step(no) else { break };
        let ms = durations.get(&no).copied().unwrap_or_default();
        // A step that was not needed took no time, but what it waited for did.
        if ms > 0 || here.ums_ms > 0 {
            let (server, what) = (step.what.server().cloned(), step.what.title());
            path.push(Link { step: no, server, what, ms, ums_ms: here.ums_ms });
        }
        at = if step.after.is_empty() {
            // The first step of the way back waits for what made the run turn.
            turned.filter(|number| here.number > *number).and_then(|number| last(&settled, number))
        } else {
            let before = step.after.iter().filter_map(|before| Some((settled.get(before)?.number, *before)));
            before.max().map(|(_, before)| before)
        };
    }
    path.reverse();
    path
}

/// The last step settled before this event.
fn last(settled: &BTreeMap<u32, Settled>, before: u64) -> Option<u32> {
    let earlier = settled.iter().filter(|(_, settled)| settled.number < before);
    earlier.max_by_key(|(_, settled)| settled.number).map(|(no, _)| *no)
}

/// When each step was settled, and the number of the event by which the run turned back.
fn settled(events: &[Recorded]) -> (BTreeMap<u32, Settled>, Option<u64>) {
    let mut settled: BTreeMap<u32, Settled> = BTreeMap::new();
    let mut turned = None;
    for recorded in events {
        let number = recorded.number;
        match &recorded.event {
            Event::Finished { step, result, .. } => {
                let entry = settled.entry(*step).or_default();
                entry.number = number;
                let (StepResult::Done { ums_ms, .. }
                | StepResult::Failed { ums_ms, .. }
                | StepResult::Unknown { ums_ms, .. }) = result;
                // What an agent tells of its waiting may be any number.
                entry.ums_ms = entry.ums_ms.saturating_add(*ums_ms);
            }
            Event::Skipped { step, .. } => settled.entry(*step).or_default().number = number,
            Event::TurnedBack { .. } => turned = Some(number),
            _ => {}
        }
    }
    (settled, turned)
}
