//! What the steps of a run have yielded, and what follows from that.

use umsid_common::digest::Digest;
use umsid_common::name::ServerName;

use super::super::event::Yield;
use super::State;
use crate::plan::{Step, What};
use crate::survey::Proof;

/// Whether a step of this kind, done, can have left that.
pub(super) fn is_of(what: &What, yields: &Yield) -> bool {
    match what {
        What::SafetyBackup { .. } | What::Backup { .. } => matches!(yields, Yield::Sealed(..)),
        // A server that holds another UMS ID than it should is a failure.
        What::Restore { .. } | What::RestoreOwn { .. } | What::Verify { .. } | What::VerifyOwn { .. } => {
            matches!(yields, Yield::Proved(Proof::Yes(_) | Proof::Unknown(_)))
        }
        What::Recheck { .. } => matches!(yields, Yield::Nothing | Yield::InSyncAlready),
        What::Restart { .. }
        | What::ConfirmMain
        | What::Transfer { .. }
        | What::Settle { .. }
        | What::VerifyCluster
        | What::Discard { .. } => *yields == Yield::Nothing,
    }
}

impl State {
    /// What the newest done step of this kind yields.
    fn yielded(&self, kind: impl Fn(&What) -> bool) -> Option<&Yield> {
        self.all_steps().filter(|step| kind(&step.what)).filter_map(|step| self.done(step.no)).last()
    }

    /// The sealed backup of the Main UMS ID: digest and bytes.
    pub fn sealed(&self) -> Option<(Digest, u64)> {
        match self.yielded(|what| matches!(what, What::Backup { .. }))? {
            Yield::Sealed(digest, size) => Some((*digest, *size)),
            _ => None,
        }
    }

    /// This server's safety backup.
    pub fn safety_backup(&self, server: &ServerName) -> Option<Digest> {
        match self.yielded(|what| matches!(what, What::SafetyBackup { server: other } if other == server))? {
            Yield::Sealed(digest, _) => Some(*digest),
            _ => None,
        }
    }

    /// What is proved of this server, by the newest look at it.
    pub fn proof(&self, server: &ServerName) -> Option<&Proof> {
        let yields = self.yielded(|what| {
            matches!(what, What::Verify { server: other } | What::VerifyOwn { server: other } if other == server)
        })?;
        match yields {
            Yield::Proved(proof) => Some(proof),
            _ => None,
        }
    }

    /// Whether a look found this target in sync before anything was restored on it.
    pub fn in_sync_already(&self, server: &ServerName) -> bool {
        let yields = self.yielded(|what| matches!(what, What::Recheck { server: other } if other == server));
        matches!(yields, Some(Yield::InSyncAlready))
    }

    /// Whether a look found any target so.
    pub fn any_in_sync_already(&self) -> bool {
        let looks = self.all_steps().filter(|step| matches!(step.what, What::Recheck { .. }));
        looks.filter_map(|step| self.done(step.no)).any(|yields| *yields == Yield::InSyncAlready)
    }

    /// The targets something is still to be restored on.
    pub fn remaining_targets(&self) -> Vec<ServerName> {
        self.plan.targets.iter().filter(|server| !self.in_sync_already(server)).cloned().collect()
    }

    /// The first server something is restored on: the first target that no restart has brought back.
    pub fn canary(&self) -> Option<&ServerName> {
        self.plan.targets.iter().find(|server| !self.in_sync_already(server))
    }

    /// What a restore waits for besides the steps before it; `None`: nothing.
    ///
    /// That the server's own UMS ID is saved, whatever the plan says; that Main is confirmed in this session; and that no other server is touched before the canary is verified. The
    /// plan orders it so; but when a restart was enough for the planned canary, the next target takes its place, out
    /// of the middle of a batch.
    pub fn held_back(&self, step: &Step) -> Option<&'static str> {
        let (What::Restore { server } | What::RestoreOwn { server, .. }) = &step.what else { return None };
        if self.safety_backup(server).is_none() {
            return Some("a safety backup of that server");
        }
        let What::Restore { .. } = &step.what else { return None };
        if self.last_confirmation().is_some_and(|confirm| !self.is_settled(confirm)) {
            return Some("Main to be confirmed");
        }
        let canary = self.canary()?;
        (server != canary && self.proof(canary).is_none()).then_some("the canary")
    }

    /// Whether a step that waits is not needed: it is of a target that turned out to be in sync already, or every target
    /// is, and it only serves them.
    pub fn is_needless(&self, step: &Step) -> bool {
        let nothing_left = || !self.plan.targets.is_empty() && self.canary().is_none();
        match &step.what {
            What::SafetyBackup { server }
            | What::Restore { server }
            | What::RestoreOwn { server, .. }
            | What::Verify { server } => self.in_sync_already(server),
            What::Restart { server } => self.in_sync_already(server) || nothing_left(),
            What::ConfirmMain | What::Backup { .. } | What::Transfer { .. } | What::Discard { .. } => {
                nothing_left()
            }
            What::Recheck { .. } | What::VerifyOwn { .. } | What::Settle { .. } | What::VerifyCluster => {
                false
            }
        }
    }

    pub(super) fn last_confirmation(&self) -> Option<u32> {
        self.plan.steps.iter().filter(|step| step.what == What::ConfirmMain).map(|step| step.no).next_back()
    }
}
