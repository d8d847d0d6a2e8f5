//! Operations: what the agent does to its server, one at a time, each on record before it can have an effect.
//!
//! ```text
//! accepted ──▶ started ──▶ finished: done │ failed (as it was │ perhaps changed) │ unknown
//!     └──────────────────────▲   refused before anything was begun
//! ```
//!
//! The same id again gives what is on record and never a second effect. An operation runs in a task of its own and
//! survives the call that started it. One found *started, without outcome* is neither done nor failed:
//! [`recovery`] finds out what is true, and until that is known nothing new is begun.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use umsid_common::digest::Fingerprint;
use umsid_common::durable::DurableError;
use umsid_common::name::{OperationId, RunId};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{
    Action, CertificateSeen, Effect, LeaseRef, Operation, Outcome, Service, ServiceProcess, Success, Trouble,
};

use crate::host::Host;
use crate::lease::Engaged;
use crate::state::{StateError, damage};
use crate::ums::Failed;

mod backup;
mod discard;
mod record;
mod recovery;
mod restart;
mod restore;

use record::{Before, Record};
pub(crate) use record::{Entry, bound_ids};

/// How many operations are kept on record.
const KEPT: usize = 200;

/// The operations of this server.
pub(crate) struct Operations {
    host: Arc<Host>,
    dir: PathBuf,
    desk: Mutex<Desk>,
    idle: watch::Sender<bool>,
}

struct Desk {
    entries: BTreeMap<OperationId, Arc<Entry>>,
    /// What is going on; new operations are refused meanwhile.
    current: Option<String>,
    closing: bool,
}

/// What is wrong with the records in this directory.
pub(crate) fn damage(dir: &Path) -> Vec<StateError> {
    damage::within::<OperationId>(dir, record::damage)
}

impl Operations {
    /// Reads the records; [`Operations::recover`] must follow.
    pub(crate) fn load(host: Arc<Host>) -> Result<Arc<Self>, StateError> {
        let dir = host.state.operations();
        let failed = |source| StateError::Directory { doing: "list", path: dir.clone(), source };
        let mut entries = BTreeMap::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let Ok(id) = name.parse::<OperationId>() else { continue };
            match Entry::load(path.clone())? {
                Some(entry) => drop(entries.insert(id, Arc::new(entry))),
                // Whoever asks for it again puts it on record anew.
                None => tracing::warn!(%id, "was not begun: the agent was stopped while it put it on record"),
            }
        }
        let desk = Desk { entries, current: None, closing: false };
        Ok(Arc::new(Self { host, dir, desk: Mutex::new(desk), idle: watch::Sender::new(true) }))
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation in a task of its own, or tells what became of it. To be called within a runtime.
    pub(crate) fn start(
        self: &Arc<Self>,
        id: &OperationId,
        lease: &LeaseRef,
        action: Action,
        caller: String,
    ) -> Result<Operation, Failure> {
        if id.run != lease.run {
            let what = format!("operation {id} is not of run {}, which the lease is for", lease.run);
            return Err(Failure::new(Code::InvalidRequest, what));
        }
        let mut desk = self.lock();
        let engaged = self.host.leases.engage(lease)?;
        if let Some(entry) = desk.entries.get(id) {
            if *entry.action() == action {
                return Ok(entry.operation());
            }
            let what =
                format!("operation {id} is on record here as something else: {}", entry.action().kind());
            return Err(Failure::new(Code::OperationConflict, what));
        }
        if desk.closing {
            return Err(
                Failure::new(Code::Busy, "the agent is stopping").remedy("try again when it runs again")
            );
        }
        if let Some(current) = &desk.current {
            return Err(Failure::new(Code::Busy, format!("another operation is going on: {current}"))
                .remedy("wait until it has ended"));
        }
        let kind = action.kind();
        let last = desk.entries.values().map(|entry| entry.order().0).max().unwrap_or_default();
        let record = Record::new(id.clone(), last + 1, lease.epoch, caller, action);
        let entry = Entry::create(&self.dir, record).map_err(|error| not_stored(&error))?;
        let entry = Arc::new(entry);
        tracing::info!(%id, kind, "operation accepted");
        desk.entries.insert(id.clone(), entry.clone());
        desk.current = Some(id.to_string());
        self.idle.send_replace(false);
        prune(&mut desk);
        let operation = entry.operation();
        tokio::spawn(self.clone().run(entry, engaged));
        Ok(operation)
    }

    async fn run(self: Arc<Self>, entry: Arc<Entry>, engaged: Engaged) {
        let mut job = Job::new(self.host.clone(), entry.clone());
        job.earlier = self.earlier(&job.id);
        let job = Arc::new(job);
        let task = job.clone();
        let performed = tokio::spawn(async move {
            // Nobody else calls the UMS meanwhile.
            let _turn = task.host.turn.lock().await;
            discard::overtaken(&task).await;
            task.perform().await
        });
        let result = performed.await.unwrap_or_else(|error| {
            Err(Trouble::Unknown(format!(
                "the agent failed in the middle ({error}); look at this server's UMS ID"
            )))
        });
        self.end(&job, result, Some(engaged));
    }

    /// The attempt at the same step before this one that was begun, if there is one and nothing was restored since.
    fn earlier(&self, id: &OperationId) -> Option<Arc<Entry>> {
        let desk = self.lock();
        let same = desk.entries.iter().filter(|(other, entry)| {
            (&other.run, other.step) == (&id.run, id.step)
                && other.attempt < id.attempt
                && entry.started().is_some()
        });
        let (_, earlier) = same.max_by_key(|(other, _)| other.attempt)?;
        let restored = |(other, entry): (&OperationId, &Arc<Entry>)| {
            other != id && matches!(entry.action(), Action::Restore { .. }) && entry.order() > earlier.order()
        };
        (!desk.entries.iter().any(restored)).then(|| earlier.clone())
    }

    /// Whoever sees the outcome may start the next operation at once, and may give the lease back.
    fn end(&self, job: &Job, result: Result<Success, Trouble>, engaged: Option<Engaged>) {
        let mut desk = self.lock();
        drop(engaged);
        job.entry.finish(job.outcome(result));
        desk.current = None;
        drop(desk);
        self.idle.send_replace(true);
    }

    /// An operation on record.
    pub(crate) fn entry(&self, id: &OperationId) -> Result<Arc<Entry>, Failure> {
        let found = self.lock().entries.get(id).cloned();
        found
            .ok_or_else(|| Failure::new(Code::NotFound, format!("there is no operation {id} on record here")))
    }

    /// What is on record, of one run or of all; oldest first.
    pub(crate) fn list(&self, run: Option<&RunId>) -> Vec<Operation> {
        let mut entries: Vec<_> = self.lock().entries.values().cloned().collect();
        entries.sort_by_key(|entry| entry.order());
        let operations = entries.iter().map(|entry| entry.operation());
        operations.filter(|operation| run.is_none_or(|run| operation.id.run == *run)).collect()
    }

    /// Whether the UMS Server still has to be restarted after a restore: this is its service.
    pub(crate) fn restart_due(&self, service: &Service) -> bool {
        let entries: Vec<_> = self.lock().entries.values().cloned().collect();
        restart::due(&entries, service.process)
    }

    /// From now on nothing new is begun.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
    }

    /// Returns when nothing is going on.
    pub(crate) async fn idle(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.idle.subscribe().wait_for(|idle| *idle).await;
    }
}

/// Forgets the oldest finished operations beyond what is kept.
fn prune(desk: &mut Desk) {
    let mut finished: Vec<_> = desk
        .entries
        .values()
        .map(|entry| (entry.order(), entry.operation()))
        .filter(|(_, operation)| operation.outcome.is_some())
        .map(|(order, operation)| (order, operation.id))
        .collect();
    finished.sort();
    let surplus = desk.entries.len().saturating_sub(KEPT).min(finished.len());
    for (_, id) in finished.drain(..surplus) {
        if let Some(entry) = desk.entries.remove(&id)
            && let Err(error) = entry.remove()
        {
            tracing::warn!(%id, %error, "cannot remove an old record");
        }
    }
}

/// One operation at work.
struct Job {
    host: Arc<Host>,
    entry: Arc<Entry>,
    id: OperationId,
    /// The attempt before this one, if there was one.
    earlier: Option<Arc<Entry>>,
    /// Microseconds spent waiting for the UMS.
    waited: AtomicU64,
}

impl Job {
    fn new(host: Arc<Host>, entry: Arc<Entry>) -> Self {
        let id = entry.operation().id;
        Self { host, entry, id, earlier: None, waited: AtomicU64::new(0) }
    }

    async fn perform(&self) -> Result<Success, Trouble> {
        match self.entry.action() {
            Action::SafetyBackup => backup::safety(self).await,
            Action::Backup(handover) => backup::hand_over(self, handover).await,
            Action::Restore { source, expected, source_server, safety_net, keeps_running } => {
                let wanted = restore::Wanted {
                    source: *source,
                    expected: *expected,
                    source_server,
                    safety_net,
                    keeps_running: *keeps_running,
                };
                restore::restore(self, &wanted).await
            }
            Action::Restart { deadline_ms } => {
                restart::restart(self, deadline_ms.map(Duration::from_millis)).await
            }
            Action::Discard => discard::discard(self).await,
        }
    }

    fn outcome(&self, result: Result<Success, Trouble>) -> Outcome {
        Outcome { ums_ms: self.waited.load(Ordering::Relaxed) / 1000, result }
    }

    /// Waits for the UMS, on the account of this operation.
    async fn ums<T>(&self, work: impl Future<Output = T>) -> T {
        let since = Instant::now();
        let result = work.await;
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waited.fetch_add(micros, Ordering::Relaxed);
        result
    }

    /// Says what is being done now, and how long that may take.
    fn tell(&self, text: impl Into<String>, within: Option<Duration>) {
        self.entry.tell(text.into(), within);
    }

    /// From here on there may be an effect. If that cannot be recorded, nothing is done. `service`: the process of the UMS
    /// Server that may have to be restarted afterwards.
    fn begin(&self, before: Before, service: Option<ServiceProcess>) -> Result<(), Trouble> {
        self.entry.begin(before, service).map_err(|error| untouched(not_stored(&error)))
    }
}

fn not_stored(error: &DurableError) -> Failure {
    let code = if error.is_disk_full() { Code::DiskFull } else { Code::Internal };
    let failure = Failure::of(code, error);
    if code == Code::DiskFull { failure.remedy("make room where the agent keeps its state") } else { failure }
}

/// It failed, and the server is as it was.
fn untouched(failure: impl Into<Failure>) -> Trouble {
    Trouble::Failed { failure: failure.into(), effect: Effect::None }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        Self::Failed { failure: failed.failure, effect: failed.effect }
    }
}

/// Whether two fingerprints are of one certificate; `None` if that cannot be said: one is SHA-1, the other SHA-256, and
/// no certificate was seen that has both.
fn same(a: Fingerprint, b: Fingerprint, seen: &[CertificateSeen]) -> Option<bool> {
    let (long, short) = match (a, b) {
        (Fingerprint::Sha256(_), Fingerprint::Sha1(_)) => (a, b),
        (Fingerprint::Sha1(_), Fingerprint::Sha256(_)) => (b, a),
        _ => return Some(a == b),
    };
    seen.iter()
        .find(|seen| seen.sha256 == long || seen.sha1 == short)
        .map(|seen| seen.sha256 == long && seen.sha1 == short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_of_two_kinds_are_one_only_if_a_certificate_has_both() {
        let (long, short) = (Fingerprint::sha256_of, Fingerprint::sha1_of);
        let seen = [CertificateSeen { sha256: long(b"a"), sha1: short(b"a") }];
        assert_eq!(same(long(b"a"), long(b"a"), &[]), Some(true));
        assert_eq!(same(long(b"a"), long(b"b"), &seen), Some(false));
        assert_eq!(same(long(b"a"), short(b"a"), &[]), None);
        assert_eq!(same(long(b"a"), short(b"a"), &seen), Some(true));
        assert_eq!(same(short(b"b"), long(b"a"), &seen), Some(false));
        assert_eq!(same(short(b"a"), long(b"b"), &seen), Some(false));
        assert_eq!(same(short(b"b"), long(b"b"), &seen), None);
    }
}
