//! This server, as everything in the agent shares it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use umsid_common::seal::SealKey;
use umsid_common::tls::Tls;
use umsid_proto::model::{Disk, Inspection, Service};

use crate::certificates::Renewal;
use crate::exec;
use crate::journals::Journals;
use crate::lease::Leases;
use crate::server::Deadlines;
use crate::spool::Spool;
use crate::state::{Enrolment, StateDir};
use crate::ums::Ums;
use crate::vault::Vault;

/// How long an inspection waits for another caller of the UMS before it does without.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything an operation or a call works with.
pub(crate) struct Host {
    pub(crate) me: Enrolment,
    pub(crate) tls: Arc<Tls>,
    pub(crate) key: Arc<SealKey>,
    pub(crate) ums: Arc<dyn Ums>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) spool: Spool,
    pub(crate) vault: Vault,
    pub(crate) journals: Journals,
    pub(crate) state: StateDir,
    pub(crate) max_backup: u64,
    pub(crate) deadlines: Deadlines,
    pub(crate) renewal: Renewal,
    /// One caller of `umsadmin-cli` at a time: whether two would lock each other out is not documented (UMS_FACTS §3).
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// As last seen, for manifests.
    pub(crate) ums_version: Mutex<String>,
}

impl Host {
    /// Everything that can be found out now. While an operation has the UMS, no `umsadmin-cli` is run. `restart_due`
    /// tells whether the UMS Server still has to be restarted after a restore.
    pub(crate) async fn inspect(
        &self,
        quick: bool,
        restart_due: impl FnOnce(&Service) -> bool,
    ) -> Inspection {
        let turn = if quick { None } else { tokio::time::timeout(PATIENCE, self.turn.lock()).await.ok() };
        let mut findings = self.ums.look(turn.is_none()).await;
        if turn.is_none() && !quick {
            findings.problems.push("an operation is going on: the UMS IDs were not read".into());
        }
        drop(turn);
        if let Some(version) = &findings.ums_version {
            version.clone_into(&mut self.ums_version.lock().unwrap_or_else(PoisonError::into_inner));
        }
        let disk = disk(self.vault.dir());
        if disk.is_none() {
            findings.problems.push("the room on the disk could not be read".into());
        }
        let (safety_backups, damaged) = self.vault.list();
        findings.problems.extend(damaged);
        let (lease, epoch) = self.leases.current();
        let restart_due = restart_due(&findings.service);
        if let Some(process) = &mut findings.service.process {
            process.started = exec::by_the_clock(process.started);
        }
        Inspection {
            server: self.me.server.clone(),
            cluster: self.me.cluster.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            ums_version: findings.ums_version,
            ums_ids: findings.ums_ids,
            service: findings.service,
            health: findings.health,
            update_mode: findings.update_mode,
            distributed: findings.distributed,
            license: findings.license,
            clock: Timestamp::now(),
            disk,
            certificate_not_after: self.tls.current().validity().1,
            lease,
            safety_backups,
            epoch,
            ums_ms: u64::try_from(findings.waited.as_millis()).unwrap_or(u64::MAX),
            problems: findings.problems,
            restart_due,
        }
    }
}

/// Runs what waits for a disk where waiting holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is ending, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

/// Room on the disk this path is on.
#[cfg(unix)]
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let found = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Some(Disk { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
}

/// Room on the disk this path is on.
#[cfg(windows)]
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let found = umsid_windows::disk::room(path).ok()?;
    Some(Disk { free: found.free, total: found.total })
}
