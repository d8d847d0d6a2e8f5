//! Removing what a run left here, and what those before it left that are overtaken by it.

use umsid_proto::failure::Failure;
use umsid_proto::model::{Success, Trouble};

use super::{Job, untouched};
use crate::host::blocking;

/// Nothing of it is the UMS's: whatever happens, the server is as it was.
pub(super) async fn discard(job: &Job) -> Result<Success, Trouble> {
    let (host, run) = (job.host.clone(), job.id.run.clone());
    let files = blocking(move || host.spool.discard(&run)).await.map_err(untouched)?;
    Ok(Success::Discarded { files })
}

/// A run that halted and was never taken up again has nobody who removes what it left. With an operation of another run
/// on record it cannot go on any more, and to go back it needs nothing of that. That it could not be removed is no reason to do less for this one.
pub(super) async fn overtaken(job: &Job) {
    let (host, run) = (job.host.clone(), job.id.run.clone());
    if !host.spool.has_of_others(&run) {
        return;
    }
    // With files of its gone and nothing here that says why, it would be thought to go on.
    if let Err(error) = job.entry.keep() {
        tracing::warn!(%error, "what overtaken runs left is not removed");
        return;
    }
    match blocking(move || host.spool.discard_others(&run)).await {
        Ok(files) => tracing::info!(files, "removed what overtaken runs left"),
        Err(error) => {
            tracing::warn!(error = %Failure::from(error), "cannot remove what overtaken runs left");
        }
    }
}
