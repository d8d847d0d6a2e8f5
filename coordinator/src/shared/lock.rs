//! Locks that end with the connection that holds them: PostgreSQL's advisory locks.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use umsid_common::name::ClusterName;

use super::{Shared, SharedError};
use crate::database;
use crate::home::{Home, HomeLock};

/// How long to wait for another administrator who changes what is shared: for a few round trips to one agent at most.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How often to look whether a lock is free.
const POLL: Duration = Duration::from_millis(50);

/// A server needs a moment to notice that a connection is gone, and with it the lock of whoever just ended.
const MOMENT: Duration = Duration::from_millis(500);

/// A lock in the database; free when dropped.
#[derive(Debug)]
pub(super) struct Lock(pub(super) PgConnection);

impl Shared {
    /// Takes the lock of this name, waiting so long for whoever has it; `None`: it did not become free.
    pub(super) async fn lock(&self, name: &str, patience: Duration) -> Result<Option<Lock>, SharedError> {
        let (mut connection, since) = (self.connect().await?, Instant::now());
        loop {
            let asked = sqlx::query("SELECT pg_try_advisory_lock($1) AS taken").bind(key(name));
            let row =
                database::answer(asked.fetch_one(&mut connection)).await.map_err(self.failed("lock"))?;
            if row.try_get("taken").map_err(self.failed("lock"))? {
                return Ok(Some(Lock(connection)));
            }
            if since.elapsed() > patience {
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The number PostgreSQL knows a lock by.
fn key(name: &str) -> i64 {
    let digest = Sha256::digest(format!("umsid {name}"));
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

/// The right to carry out runs of a cluster, here and, where state is shared, everywhere.
#[derive(Debug)]
pub struct ClusterLock {
    _here: HomeLock,
    _everywhere: Option<Lock>,
}

/// Takes the right to carry out runs of a cluster; `None`: another umsid has it, and is at work. It tells a run that goes on
/// from one whose umsid died.
pub async fn lock_cluster(home: &Home, cluster: &ClusterName) -> Result<Option<ClusterLock>, SharedError> {
    lock_within(home, cluster, MOMENT).await
}

/// Whether an umsid is at work on a cluster now; who cannot be asked is not known to be.
pub async fn is_at_work(home: &Home, cluster: &ClusterName) -> bool {
    matches!(lock_within(home, cluster, POLL).await, Ok(None))
}

async fn lock_within(
    home: &Home,
    cluster: &ClusterName,
    patience: Duration,
) -> Result<Option<ClusterLock>, SharedError> {
    let Some(here) = home.lock_cluster(cluster)? else { return Ok(None) };
    let Some(shared) = Shared::of(home)? else {
        return Ok(Some(ClusterLock { _here: here, _everywhere: None }));
    };
    let lock = shared.lock(&format!("cluster {cluster}"), patience).await?;
    Ok(lock.map(|lock| ClusterLock { _here: here, _everywhere: Some(lock) }))
}
