//! Restarting the UMS Server: done only when another process runs and is healthy. One that an earlier attempt started, and
//! that has come up since, is not restarted again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use umsid_proto::failure::Failure;
use umsid_proto::model::{Action, Effect, ServiceProcess, Success, Trouble};

use super::{Before, Entry, Job};
use crate::exec;
use crate::host::blocking;
use crate::ums::{Previous, Restart, Running, Started};

pub(super) async fn restart(job: &Job, deadline: Option<Duration>) -> Result<Success, Trouble> {
    let tell = |text: String, within: Option<Duration>| job.tell(text, within);
    if let Some(before) = come_up_since(job).await {
        job.begin(Before::Server(before), None)?;
        let restart = job.ums(job.host.ums.await_restarted(before, deadline, &tell)).await?;
        return restarted(job, restart).await;
    }
    let before = job.ums(job.host.ums.service()).await.process;
    job.begin(Before::Server(Previous::now(before)), None)?;
    let told = |running: Running| job.entry.running(running);
    let mark = job.id.to_string();
    let started = Started { mark: &mark, told: &told };
    let restart = job.ums(job.host.ums.restart(deadline, started, &tell)).await?;
    restarted(job, restart).await
}

/// The process before an earlier attempt, if that one has brought another and all it wanted was time.
async fn come_up_since(job: &Job) -> Option<Previous> {
    let Before::Server(before) = job.earlier.as_ref()?.started()?.before else { return None };
    job.tell("looking whether the UMS Server has come up since", None);
    let findings = job.ums(job.host.ums.look(true)).await;
    let process = findings.service.process?;
    let is_good = job.host.ums.is_good(findings.health.status);
    (is_good && before.is_followed_by(&process)).then_some(before)
}

/// What there is to say after a restart; and if the server is in sync now, that is the mark safety backups are kept by.
pub(super) async fn restarted(job: &Job, restart: Restart) -> Result<Success, Trouble> {
    job.tell("reading the UMS IDs", None);
    let ums_ids = job.ums(job.host.ums.ids()).await;
    if ums_ids.local.is_some() && ums_ids.local == ums_ids.main {
        let host = job.host.clone();
        // Without the mark older safety backups are kept for longer: no reason to call a restart failed that was none, nor for
        // anybody to wait for it.
        tokio::spawn(async move {
            if let Err(error) = blocking(move || host.vault.in_sync(Timestamp::now())).await {
                tracing::warn!(why = %Failure::from(error), "that this server is in sync cannot be noted");
            }
        });
    }
    let Restart { before, after, health } = restart;
    Ok(Success::Restarted { before, after, health, ums_ids })
}

/// Whether a restore that may have had an effect is not followed by a start of the UMS Server, whose process now is
/// `process`: then it may run on another UMS ID than the one on disk. What came first is told by the order of the
/// records, not by the clock, which may have been set in between.
pub(super) fn due(entries: &[Arc<Entry>], process: Option<ServiceProcess>) -> bool {
    let restores = entries.iter().filter_map(|entry| Some((entry.order(), restored(entry)?, entry)));
    let Some((order, ended, restore)) = restores.max_by_key(|(order, ..)| *order) else { return false };
    if entries.iter().any(|entry| entry.order() > order && started(entry, process)) {
        return false;
    }
    let Some(process) = process else { return true };
    let before = restore.started().and_then(|started| started.service);
    before.is_some_and(|before| exec::same_process(&before, &process))
        // The start of a process is known to the second.
        || exec::by_the_clock(process.started).as_second() < ended.as_second()
}

/// When this restore ended, if it may have had an effect.
fn restored(entry: &Entry) -> Option<Timestamp> {
    let Action::Restore { .. } = entry.action() else { return None };
    let (at, outcome) = entry.ended()?;
    match outcome.result {
        Err(Trouble::Failed { effect: Effect::None, .. }) => None,
        Ok(_) | Err(Trouble::Failed { effect: Effect::Possible, .. } | Trouble::Unknown(_)) => Some(at),
    }
}

/// Whether this is a restart, and the process there now, or another one, was started by it.
fn started(entry: &Entry, now: Option<ServiceProcess>) -> bool {
    let Some(started) = entry.started() else { return false };
    let Before::Server(before) = started.before else { return false };
    match now {
        Some(now) => before.is_followed_by(&now),
        None => matches!(
            entry.ended(),
            Some((_, outcome)) if matches!(outcome.result, Ok(Success::Restarted { .. }))
        ),
    }
}
