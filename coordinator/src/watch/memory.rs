//! What was seen of a cluster and what of it was told: when a change of state is one.
//!
//! Something bad is told when it was seen in several surveys in a row, so that a restart or a lost packet wakes nobody. That
//! it is over is told at once; but silence is no recovery: what a server cannot say just now stands as it stood.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use umsid_common::name::ServerName;

use crate::condition::{Condition, Finding, Kind, Level};
use crate::survey::SyncState;

/// One thing that was seen, and how often in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Where; `None`: the cluster as a whole.
    pub server: Option<ServerName>,
    /// What it is about.
    pub kind: Kind,
    /// How grave it was the last time.
    pub level: Level,
    /// In a few words.
    pub what: String,
    /// In so many surveys in a row, this one among them.
    pub seen: u32,
    /// In so many of them as grave as the last time.
    pub as_grave: u32,
    /// As how grave it was told; `None`: not yet.
    pub told: Option<Level>,
}

/// What is remembered of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// What is not as it should be.
    pub sightings: Vec<Sighting>,
    /// Since when it is as it was told.
    pub since: Option<Timestamp>,
    /// When a synchronization without a person was begun last.
    #[serde(default)]
    pub tried: Option<Timestamp>,
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The state told before.
    pub before: Level,
    /// The state now.
    pub now: Level,
    /// What is told for the first time, or as of another gravity.
    pub news: Vec<String>,
    /// What was told and is over.
    pub over: Vec<String>,
}

impl Sighting {
    fn is_of(&self, finding: &Finding) -> bool {
        self.server == finding.server && self.kind == finding.kind
    }

    /// With the server.
    pub fn text(&self) -> String {
        match &self.server {
            Some(server) => format!("{server} {}", self.what),
            None => self.what.clone(),
        }
    }

    /// Whether a survey in which it was not seen says nothing about it.
    fn is_hidden(&self, condition: &Condition) -> bool {
        if condition.servers.is_empty() {
            return true;
        }
        let Some(server) = &self.server else {
            return self.kind == Kind::Run
                && condition.findings.iter().any(|found| found.kind == Kind::Journal);
        };
        // One that was removed is nobody's trouble any more.
        let Some(standing) = condition.servers.get(server) else { return false };
        match self.kind {
            Kind::NoAnswer => false,
            Kind::NotInSync => standing.state == SyncState::Unknown,
            _ => !standing.answered,
        }
    }
}

impl Remembered {
    /// The state as it was told.
    pub fn told(&self) -> Level {
        self.sightings.iter().filter_map(|sighting| sighting.told).max().unwrap_or_default()
    }

    /// In how many surveys in a row all servers that are not in sync now were so; 0: none is.
    pub fn out_of_sync_for(&self) -> u32 {
        let out = self.sightings.iter().filter(|sighting| sighting.kind == Kind::NotInSync);
        out.map(|sighting| sighting.seen).min().unwrap_or_default()
    }

    /// Takes a survey in; gives what is to be told of it.
    pub fn take_in(&mut self, condition: &Condition, confirm: u32) -> Option<Change> {
        let before = self.told();
        let mut next: Vec<Sighting> = Vec::new();
        let mut news = Vec::new();
        // The gravest comes first, and counts where there are several of a kind.
        for finding in &condition.findings {
            if next.iter().any(|sighting| sighting.is_of(finding)) {
                continue;
            }
            let known = self.sightings.iter().find(|sighting| sighting.is_of(finding));
            let sighting = seen_again(known, finding, confirm);
            if sighting.told != known.and_then(|known| known.told) {
                news.push(sighting.text());
            }
            next.push(sighting);
        }
        let mut over = Vec::new();
        for known in &self.sightings {
            if condition.findings.iter().any(|finding| known.is_of(finding)) {
                continue;
            }
            if known.is_hidden(condition) {
                // What was seen once and then hidden was not seen in a row.
                next.extend(known.told.is_some().then(|| known.clone()));
            } else if known.told.is_some() {
                over.push(known.text());
            }
        }
        self.sightings = next;
        if news.is_empty() && over.is_empty() {
            return None;
        }
        self.since = Some(condition.taken);
        Some(Change { before, now: self.told(), news, over })
    }
}

fn seen_again(known: Option<&Sighting>, finding: &Finding, confirm: u32) -> Sighting {
    let seen = known.map_or(0, |known| known.seen).saturating_add(1);
    let as_grave = known.filter(|known| known.level == finding.level).map_or(0, |known| known.as_grave);
    let as_grave = as_grave.saturating_add(1);
    let told = match known.and_then(|known| known.told) {
        None => (seen >= confirm).then_some(finding.level),
        Some(told) if told != finding.level && as_grave >= confirm => Some(finding.level),
        told => told,
    };
    Sighting {
        server: finding.server.clone(),
        kind: finding.kind,
        level: finding.level,
        what: finding.what.clone(),
        seen,
        as_grave,
        told,
    }
}

#[cfg(test)]
mod tests;
