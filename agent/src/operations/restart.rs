//! Restarting the UMS Server: done only when another process runs and is healthy.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use umsid_proto::failure::Failure;
use umsid_proto::model::{Action, Effect, ServiceProcess, Success, Trouble};

use super::{Before, Entry, Job};
use crate::exec;
use crate::host::blocking;
use crate::ums::{Restart, Running};

pub(super) async fn restart(job: &Job, deadline: Option<Duration>) -> Result<Success, Trouble> {
    let before = job.ums(job.host.ums.service()).await.process;
    job.begin(Before::Process(before))?;
    let tell = |text: String, within: Option<Duration>| job.tell(text, within);
    let started = |running: Running| job.entry.running(running);
    let restart = job.ums(job.host.ums.restart(deadline, &started, &tell)).await?;
    restarted(job, restart).await
}

/// What there is to say after a restart; and if the server is in sync now, that is the mark safety backups are kept by.
pub(super) async fn restarted(job: &Job, restart: Restart) -> Result<Success, Trouble> {
    job.tell("reading the UMS IDs", None);
    let ums_ids = job.ums(job.host.ums.ids()).await;
    if ums_ids.local.is_some() && ums_ids.local == ums_ids.main {
        let host = job.host.clone();
        blocking(move || host.vault.in_sync(Timestamp::now()))
            .await
            .map_err(|error| Trouble::Failed { failure: Failure::from(error), effect: Effect::Possible })?;
    }
    let Restart { before, after, health } = restart;
    Ok(Success::Restarted { before, after, health, ums_ids })
}

/// Whether a restore that may have had an effect is not followed by a start of the UMS Server, whose process now is
/// `process`: then it may run on another UMS ID than the one on disk.
pub(super) fn due(entries: &[Arc<Entry>], process: Option<ServiceProcess>) -> bool {
    let Some(restored) = entries.iter().filter_map(|entry| restored(entry)).max() else { return false };
    if entries.iter().any(|entry| started_since(entry, restored, process)) {
        return false;
    }
    // The start of a process is known to the second.
    process.is_none_or(|process| process.started.as_second() < restored.as_second())
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

/// Whether this is a restart from after that moment, and the process there now, or another one, was started by it.
fn started_since(entry: &Entry, moment: Timestamp, now: Option<ServiceProcess>) -> bool {
    let Some(started) = entry.started().filter(|started| started.at >= moment) else { return false };
    let Before::Process(before) = started.before else { return false };
    match now {
        Some(now) => before.is_none_or(|before| !exec::same_process(&before, &now)),
        None => matches!(
            entry.ended(),
            Some((_, outcome)) if matches!(outcome.result, Ok(Success::Restarted { .. }))
        ),
    }
}
