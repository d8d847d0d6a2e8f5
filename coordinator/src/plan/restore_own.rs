//! The way back: the steps that put servers as they were.

use std::collections::BTreeSet;

use umsid_common::name::ServerName;

use super::{Purpose, Step, What};
use crate::run::State;

/// The servers on which a restore may have changed something, and that have not been put back and verified since: they
/// may hold another UMS ID than before, or run on one.
pub fn touched(state: &State) -> Vec<ServerName> {
    let mut touched: Vec<ServerName> = Vec::new();
    for step in state.all_steps().filter(|step| state.may_have_effect(step.no)) {
        match &step.what {
            What::Restore { server } if !touched.contains(server) => touched.push(server.clone()),
            // A rehearsal that is done has changed nothing: that is what it was to prove.
            What::RestoreOwn { server, purpose: Purpose::Rehearsal }
                if !state.is_done(step.no) && !touched.contains(server) =>
            {
                touched.push(server.clone());
            }
            What::VerifyOwn { server } if state.is_done(step.no) => {
                touched.retain(|other| other != server);
            }
            _ => {}
        }
    }
    touched
}

/// The steps that put these servers as they were, one server after another: each its own safety backup, and a restart,
/// because the UMS reads its ID at start and may have been left stopped. At the end, what was transferred is removed from
/// all servers `involved`. `next` is the number of the first new step.
pub fn roll_back(servers: &[ServerName], involved: &[ServerName], next: u32) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for server in servers {
        let restore = What::RestoreOwn { server: server.clone(), purpose: Purpose::Rollback };
        let restart = What::Restart { server: server.clone() };
        let verify = What::VerifyOwn { server: server.clone() };
        for (what, why) in [
            (restore, "to put it back as it was"),
            (restart, "it reads its UMS ID at start"),
            (verify, "it must hold the UMS ID it had before"),
        ] {
            let after: BTreeSet<u32> = steps.last().map(|step| step.no).into_iter().collect();
            let no = steps.last().map_or(next, |step| step.no + 1);
            steps.push(Step { no, what, why: why.to_owned(), after, downtime_s: None });
        }
    }
    let after: BTreeSet<u32> = steps.last().map(|step| step.no).into_iter().collect();
    for server in involved {
        let no = steps.last().map_or(next, |step| step.no + 1);
        let what = What::Discard { server: server.clone() };
        let why = "nothing of the backup stays behind".to_owned();
        steps.push(Step { no, what, why, after: after.clone(), downtime_s: None });
    }
    steps
}
