//! Restarting the UMS Server: done only when another process runs and is healthy.

use std::time::Duration;

use jiff::Timestamp;
use umsid_proto::failure::Failure;
use umsid_proto::model::{Effect, Success, Trouble};

use super::{Before, Job};
use crate::host::blocking;
use crate::ums::Restart;

pub(super) async fn restart(job: &Job, deadline: Option<Duration>) -> Result<Success, Trouble> {
    let before = job.ums(job.host.ums.service()).await.process;
    job.begin(Before::Process(before))?;
    let tell = |text: String, within: Option<Duration>| job.tell(text, within);
    let restart = job.ums(job.host.ums.restart(deadline, &tell)).await?;
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
