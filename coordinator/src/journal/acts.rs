//! What administrators did outside of runs: in the journal before it is done, and chained like the events of a run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use umsid_common::chain;
use umsid_common::digest::Digest;
use umsid_common::name::{ClusterName, RunId, ServerName};
use umsid_proto::failure::Failure;
use umsid_proto::model::LeaseState;

use super::{Journal, JournalError};
use crate::database::Query;

/// How often the next number is tried: others write acts of other clusters.
const TRIES: usize = 5;

/// Something an administrator did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "act")]
pub enum Act {
    /// Leases are about to be broken.
    Unlocking {
        /// Who does it: "coordinator anna (anna@admin1)".
        by: String,
        /// An id of its own.
        id: RunId,
        /// Above all that were granted.
        epoch: u64,
        /// The leases that were found.
        found: BTreeMap<ServerName, LeaseState>,
        /// The servers that did not answer.
        silent: Vec<ServerName>,
    },
    /// What came of that.
    Unlocked {
        /// The id it was begun under.
        id: RunId,
        /// The servers on which nobody holds a lease any more.
        free: Vec<ServerName>,
        /// The others, and why.
        refused: BTreeMap<ServerName, Failure>,
    },
}

/// An act as the journal holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordedAct {
    /// From 1, without gaps.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// Of which cluster.
    pub cluster: ClusterName,
    /// What.
    #[serde(flatten)]
    pub act: Act,
}

fn link(previous: &Digest, number: u64, at: &str, cluster: &str, body: &str) -> Digest {
    chain::link(previous, number, format!("{at}\n{cluster}\n{body}").as_bytes())
}

impl Journal {
    /// Writes down an act; when this returns it is on disk.
    pub async fn record_act(&self, cluster: &ClusterName, act: &Act) -> Result<(), JournalError> {
        let body = serde_json::to_string(act).expect("an act is plain data: it can be written as JSON");
        let mut tries = TRIES;
        loop {
            let (number, previous) = self.newest_act().await?;
            let (number, at) = (number + 1, Timestamp::now().to_string());
            let link = link(&previous, number, &at, cluster.as_str(), &body);
            let next =
                Query::new("INSERT INTO acts (number, at, cluster, body, link) VALUES ($1, $2, $3, $4, $5)")
                    .number(number)
                    .text(at)
                    .text(cluster.as_str())
                    .text(&body)
                    .text(link.to_string());
            let written = self.database.execute(next).await;
            tries -= 1;
            match written {
                Ok(_) => return Ok(()),
                Err(error)
                    if tries > 0 && error.as_database_error().is_some_and(|e| e.is_unique_violation()) => {}
                Err(error) => return Err(self.failed("write")(error)),
            }
        }
    }

    async fn newest_act(&self) -> Result<(u64, Digest), JournalError> {
        let newest = self.acts().await?.pop();
        Ok(newest.map_or((0, chain::genesis()), |(act, link)| (act.number, link)))
    }

    /// All acts of a cluster, or of all; oldest first, every link of their chain checked.
    pub async fn history_of_acts(
        &self,
        cluster: Option<&ClusterName>,
    ) -> Result<Vec<RecordedAct>, JournalError> {
        let acts = self.acts().await?.into_iter().map(|(act, _)| act);
        Ok(acts.filter(|act| cluster.is_none_or(|cluster| act.cluster == *cluster)).collect())
    }

    async fn acts(&self) -> Result<Vec<(RecordedAct, Digest)>, JournalError> {
        let failed = self.failed("read");
        let all = Query::new("SELECT number, at, cluster, body, link FROM acts ORDER BY number");
        let rows = self.database.fetch(all).await.map_err(&failed)?;
        let (mut acts, mut previous) = (Vec::new(), chain::genesis());
        for (number, row) in (1..).zip(&rows) {
            let corrupt = |why: &str| JournalError::CorruptActs { number, why: why.to_owned() };
            let text = |column: &str| row.text(column).map_err(&failed);
            if row.number("number").map_err(&failed)? != number {
                return Err(corrupt("one before it is missing"));
            }
            let (at, cluster, body) = (text("at")?, text("cluster")?, text("body")?);
            previous = link(&previous, number, &at, &cluster, &body);
            if text("link")? != previous.to_string() {
                return Err(corrupt("its hash does not match"));
            }
            let at = at.parse().map_err(|_| corrupt("its time is unreadable"))?;
            let cluster = cluster.parse().map_err(|_| corrupt("its cluster is unreadable"))?;
            let act = serde_json::from_str(&body).map_err(|_| corrupt("it is unreadable"))?;
            acts.push((RecordedAct { number, at, cluster, act }, previous));
        }
        Ok(acts)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::on_both;
    use super::*;

    fn begun(id: &str) -> Act {
        let id = id.parse().unwrap();
        Act::Unlocking { by: "anna".into(), id, epoch: 8, found: BTreeMap::new(), silent: Vec::new() }
    }

    #[tokio::test]
    async fn acts_are_chained_and_an_altered_one_is_told() {
        on_both(async |bench| {
            let journal = bench.journal().await;
            let (here, there): (ClusterName, ClusterName) =
                ("hamburg".parse().unwrap(), "berlin".parse().unwrap());
            let ids = ["20261122t204512-00000a", "20261122t204512-00000b", "20261122t204512-00000c"];
            for (cluster, id) in [&here, &there, &here].into_iter().zip(ids) {
                journal.record_act(cluster, &begun(id)).await.unwrap();
            }
            let of_it = journal.history_of_acts(Some(&here)).await.unwrap();
            let numbers: Vec<u64> = of_it.iter().map(|act| act.number).collect();
            assert_eq!(numbers, [1, 3]);
            assert_eq!(of_it[1].act, begun(ids[2]));
            let damages = [
                ("UPDATE acts SET body = replace(body, 'anna', 'bert') WHERE number = 2", 2),
                ("UPDATE acts SET cluster = 'bremen' WHERE number = 1", 1),
                ("DELETE FROM acts WHERE number = 1", 1),
            ];
            for (damage, at) in damages {
                bench.tamper(damage).await;
                let error = journal.history_of_acts(None).await.unwrap_err();
                assert!(matches!(error, JournalError::CorruptActs { number, .. } if number == at), "{error}");
                // Nothing is added to what cannot be trusted.
                journal.record_act(&here, &begun(ids[0])).await.unwrap_err();
            }
        })
        .await;
    }
}
