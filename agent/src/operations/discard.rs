//! Removing what a run left here.

use umsid_proto::model::{Success, Trouble};

use super::{Job, untouched};
use crate::host::blocking;

/// Nothing of it is the UMS's: whatever happens, the server is as it was.
pub(super) async fn discard(job: &Job) -> Result<Success, Trouble> {
    let (host, run) = (job.host.clone(), job.id.run.clone());
    let files = blocking(move || host.spool.discard(&run)).await.map_err(untouched)?;
    Ok(Success::Discarded { files })
}
