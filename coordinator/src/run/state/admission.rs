//! The steps a run takes in: a plan's, or those of a way back.
//!
//! A journal is read from agents' copies too, and a plan from a file: what no plan of ours holds is refused at the door,
//! so that nothing after it has to reckon with steps that contradict each other.

use std::collections::BTreeSet;

use umsid_common::name::ServerName;

use super::State;
use crate::plan::{Kind, Plan, Purpose, Step, What, touched};

/// Says why a run cannot be begun with this plan.
pub(super) fn of_plan(plan: &Plan) -> Result<(), String> {
    if plan.steps.is_empty() {
        return Ok(());
    }
    in_order(&plan.steps, 1)?;
    let main = plan.main.as_ref().map(|main| &main.server);
    among(plan, main.into_iter().chain(&plan.targets))?;
    for (at, target) in plan.targets.iter().enumerate() {
        if Some(target) == main || plan.targets[..at].contains(target) {
            return Err(format!("{target} is a target, and Main or a target before"));
        }
    }
    for step in &plan.steps {
        among(plan, servers(&step.what))?;
        if !belongs(plan, &step.what) {
            return Err(format!("step {} ({}) is none of such a plan", step.no, step.what.title()));
        }
        if !may_be_repeated(&step.what) {
            once(&plan.steps, step)?;
        }
    }
    for step in &plan.steps {
        comes_after(&plan.steps, step, |before| wanted_before(&step.what, before))?;
    }
    // What a restore cannot do without: the way back, a last look at who is Main, and what is to be restored.
    let confirm = plan.steps.iter().rfind(|step| step.what == What::ConfirmMain).map(|step| step.no);
    let transfer = |what: &What| matches!(what, What::Transfer { .. });
    for step in plan.steps.iter().filter(|step| matches!(step.what, What::Restore { .. })) {
        let before = before(&plan.steps, step);
        let own =
            |what: &What| matches!(what, What::SafetyBackup { .. }) && what.server() == step.what.server();
        let has = |wanted: &dyn Fn(&What) -> bool| plan.steps.iter().any(|step| wanted(&step.what));
        let lacks = match () {
            () if !has(&own) => "a safety backup",
            () if !confirm.is_some_and(|confirm| before.contains(&confirm)) => "a last look at who is Main",
            () if !has(&transfer) => "what is to be restored",
            () => continue,
        };
        return Err(format!("step {} comes without {lacks}", step.no));
    }
    Ok(())
}

/// Says why a run cannot go back by these steps.
pub(super) fn of_way_back(state: &State, steps: &[Step]) -> Result<(), String> {
    in_order(steps, state.next_number())?;
    let touched = touched(state);
    for step in steps {
        among(state.plan(), servers(&step.what))?;
        once(steps, step)?;
        let own = match &step.what {
            What::RestoreOwn { server, purpose: Purpose::Rollback }
            | What::Restart { server }
            | What::VerifyOwn { server } => Some(server),
            What::Discard { .. } => None,
            _ => return Err(format!("step {} ({}) is none of a way back", step.no, step.what.title())),
        };
        if let Some(as_it_was) = own.filter(|server| !touched.contains(server)) {
            return Err(format!("{as_it_was} is as it was"));
        }
        comes_after(steps, step, |before| wanted_back_before(&step.what, before))?;
    }
    let put_back = |server: &ServerName| {
        let kinds = [
            What::RestoreOwn { server: server.clone(), purpose: Purpose::Rollback },
            What::Restart { server: server.clone() },
            What::VerifyOwn { server: server.clone() },
        ];
        kinds.iter().all(|kind| steps.iter().any(|step| step.what == *kind))
    };
    let half = steps.iter().filter(|step| !matches!(step.what, What::Discard { .. }));
    match half.filter_map(|step| step.what.server()).find(|server| !put_back(server)) {
        Some(server) => Err(format!("{server} is put back by half")),
        None => Ok(()),
    }
}

/// Numbered one after another, and each waits only for earlier ones: of its own way, because of what a run has turned
/// back from nothing more is done.
fn in_order(steps: &[Step], first: u32) -> Result<(), String> {
    for (step, no) in steps.iter().zip(first..) {
        if step.no != no {
            return Err(format!("step {} stands where step {no} should", step.no));
        }
        if let Some(before) = step.after.iter().find(|before| !(first..no).contains(before)) {
            return Err(format!("step {no} waits for step {before}, which is none before it"));
        }
    }
    Ok(())
}

fn among<'a>(plan: &Plan, mut servers: impl Iterator<Item = &'a ServerName>) -> Result<(), String> {
    let stranger = servers.find(|server| !plan.servers.contains_key(*server));
    stranger.map_or(Ok(()), |server| Err(format!("{server} takes no part in it")))
}

fn servers(what: &What) -> impl Iterator<Item = &ServerName> {
    let (from, to) = match what {
        What::Transfer { from, to } => (Some(from), to.as_slice()),
        _ => (what.server(), &[][..]),
    };
    from.into_iter().chain(to)
}

/// Whether a plan like this has such a step.
fn belongs(plan: &Plan, what: &What) -> bool {
    let is_main = |server: &ServerName| plan.main.as_ref().is_some_and(|main| main.server == *server);
    match plan.request.kind {
        Kind::Restart => matches!(what, What::Restart { .. }),
        Kind::Backup => matches!(what, What::SafetyBackup { .. }),
        Kind::Sync => match what {
            What::Recheck { server }
            | What::SafetyBackup { server }
            | What::Restore { server }
            | What::RestoreOwn { server, purpose: Purpose::Rehearsal }
            | What::Verify { server } => plan.targets.contains(server),
            What::Backup { server } => is_main(server),
            What::Transfer { from, to } => is_main(from) && *to == plan.targets,
            What::RestoreOwn { purpose: Purpose::Rollback, .. } | What::VerifyOwn { .. } => false,
            What::Restart { .. }
            | What::ConfirmMain
            | What::Settle { .. }
            | What::VerifyCluster
            | What::Discard { .. } => true,
        },
    }
}

/// A server is restarted, and Main looked at, more than once; of anything else, a second would undo what the first is
/// for: a second safety backup would hold what was restored.
fn may_be_repeated(what: &What) -> bool {
    matches!(what, What::Restart { .. } | What::ConfirmMain | What::Settle { .. })
}

fn once(steps: &[Step], step: &Step) -> Result<(), String> {
    match steps.iter().find(|other| other.no < step.no && other.what == step.what) {
        Some(first) => Err(format!("step {} is step {} once more", step.no, first.no)),
        None => Ok(()),
    }
}

/// Whether a step of a plan must not be begun before that other one of the same plan is settled.
fn wanted_before(what: &What, before: &What) -> bool {
    let same = what.server().is_some() && what.server() == before.server();
    match what {
        What::SafetyBackup { .. } => same && matches!(before, What::Recheck { .. }),
        What::RestoreOwn { .. } => same && matches!(before, What::Recheck { .. } | What::SafetyBackup { .. }),
        What::Restore { .. } => match before {
            What::Recheck { .. } | What::SafetyBackup { .. } | What::RestoreOwn { .. } => same,
            What::Backup { .. } | What::Transfer { .. } => true,
            _ => false,
        },
        What::Verify { .. } => same && matches!(before, What::Restore { .. }),
        What::Transfer { .. } => matches!(before, What::Backup { .. }),
        What::Discard { .. } => match before {
            What::Restore { .. } => same,
            What::Backup { .. } | What::Transfer { .. } => true,
            _ => false,
        },
        _ => false,
    }
}

/// The same, of a way back.
fn wanted_back_before(what: &What, before: &What) -> bool {
    let same = what.server() == before.server();
    match what {
        What::Restart { .. } => same && matches!(before, What::RestoreOwn { .. }),
        What::VerifyOwn { .. } => same && matches!(before, What::Restart { .. }),
        _ => false,
    }
}

fn comes_after(steps: &[Step], step: &Step, wanted: impl Fn(&What) -> bool) -> Result<(), String> {
    let mut wanted = steps.iter().filter(|other| wanted(&other.what)).peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    let before = before(steps, step);
    match wanted.find(|other| !before.contains(&other.no)) {
        Some(other) => {
            Err(format!("step {} ({}) does not wait for step {}", step.no, step.what.title(), other.no))
        }
        None => Ok(()),
    }
}

/// The steps that are settled when this one is begun.
fn before(steps: &[Step], step: &Step) -> BTreeSet<u32> {
    let first = steps.first().map_or(1, |step| step.no);
    let (mut open, mut before) = (vec![step], BTreeSet::new());
    while let Some(step) = open.pop() {
        for no in &step.after {
            let earlier = no.checked_sub(first).and_then(|at| steps.get(usize::try_from(at).ok()?));
            open.extend(earlier.filter(|_| before.insert(*no)));
        }
    }
    before
}
