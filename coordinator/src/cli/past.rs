//! What the journal tells of clusters to whoever only looks: it is opened once, however many they are.

use std::collections::BTreeMap;

use umsid_common::name::{ClusterName, ServerName};

use super::Context;
use super::runs::open_journal;
use super::unfinished::{Unfinished, unfinished};
use crate::journal::JournalError;

/// What is told of each cluster.
#[derive(Debug, Default)]
pub(super) struct Past {
    clusters: BTreeMap<ClusterName, Told>,
}

/// What is told of one; of a cluster without runs, nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The Main server of its newest synchronization.
    pub(super) main: Option<ServerName>,
    /// Its runs that are not over.
    pub(super) unfinished: Vec<Unfinished>,
}

impl Past {
    /// Of these clusters. Where there is no journal, there was no run.
    ///
    /// # Errors
    /// If the journal cannot be read: then nothing is known of any.
    pub(super) async fn read<'a>(
        context: &Context,
        clusters: impl IntoIterator<Item = &'a ClusterName>,
    ) -> Result<Self, JournalError> {
        let mut past = Self::default();
        if !context.has_journal() {
            return Ok(past);
        }
        let journal = open_journal(context).await?;
        let runs = journal.runs().await?;
        for name in clusters {
            let main = journal.last_main(name).await?;
            let unfinished = unfinished(context, &journal, &runs, name).await?;
            past.clusters.insert(name.clone(), Told { main, unfinished });
        }
        Ok(past)
    }

    /// Of this cluster.
    pub(super) fn of(&self, cluster: &ClusterName) -> Told {
        self.clusters.get(cluster).cloned().unwrap_or_default()
    }
}
