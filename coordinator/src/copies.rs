//! What agents hold of the journals of runs: found, compared, and the longest taken. For when the journal here is lost.
//!
//! A copy may end earlier than the journal did. That does no harm: what was done after its last event is on record with the
//! agents themselves, under the same operation ids, and is taken up from there.

use std::collections::BTreeMap;
use std::fmt;

use tokio::task::JoinSet;
use umsid_common::name::{ClusterName, RunId, ServerName};
use umsid_proto::failure::Code;
use umsid_proto::model::{JournalCopy, JournalRecord};

use crate::agents::{Agent, AgentError, Agents};
use crate::inventory::Cluster;
use crate::journal::{Journal, JournalError, RunLog};
use crate::run::chain_of;

/// What the agents of a cluster say they hold.
pub struct Holdings {
    /// Those that answered, with their copies.
    pub agents: BTreeMap<ServerName, (Agent, Vec<JournalCopy>)>,
    /// The others, with the reason.
    pub silent: BTreeMap<ServerName, String>,
}

/// The copies of one run.
pub struct Copies {
    /// Those that are whole.
    pub whole: BTreeMap<ServerName, RunLog>,
    /// Those that cannot be used, with the reason.
    pub damaged: BTreeMap<ServerName, String>,
    /// Agents that said they hold one and then gave no answer.
    pub silent: BTreeMap<ServerName, String>,
}

/// Two journals of one run of which neither is the beginning of the other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are two journals of this run, which part at event {at}: {one}; {other}")]
pub struct Fork {
    at: usize,
    one: Branch,
    other: Branch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Branch {
    place: String,
    events: usize,
    last: String,
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "that of {} has {} events until {}", self.place, self.events, self.last)
    }
}

/// Asks every agent of a cluster what it holds.
pub async fn holdings(agents: &Agents, name: &ClusterName, cluster: &Cluster) -> Holdings {
    let mut asked = JoinSet::new();
    for (server, entry) in cluster.servers.clone() {
        let (agents, name) = (agents.clone(), name.clone());
        asked.spawn(async move {
            let answer = async {
                let agent = agents.dial(&name, &server, &entry).await?;
                let copies = agent.journals().await?;
                Ok::<_, AgentError>((agent, copies))
            };
            let answer = answer.await;
            (server, answer)
        });
    }
    let mut holdings = Holdings { agents: BTreeMap::new(), silent: BTreeMap::new() };
    while let Some(joined) = asked.join_next().await {
        match joined.expect("asking an agent does not panic") {
            (server, Ok(answer)) => drop(holdings.agents.insert(server, answer)),
            (server, Err(error)) => drop(holdings.silent.insert(server, chain_of(&error))),
        }
    }
    holdings
}

/// What runs are ordered by, oldest first. Two of one second (one ended, and the next was typed) are told apart by their
/// leases' epochs, which only rise.
pub fn age(run: &RunId, epoch: Option<u64>) -> impl Ord + use<> {
    (run.second().to_owned(), epoch, run.clone())
}

impl Holdings {
    /// The newest of these runs.
    pub async fn newest(&self, journal: &Journal, runs: Vec<RunId>) -> Option<RunId> {
        let last = runs.iter().map(RunId::second).max()?.to_owned();
        let mut of_that_second = Vec::new();
        for run in runs.into_iter().filter(|run| run.second() == last) {
            of_that_second.push((self.read(journal, &run).await, run));
        }
        of_that_second.into_iter().max_by_key(|(copies, run)| age(run, copies.epoch())).map(|(_, run)| run)
    }

    /// The runs there are copies of, whole or not, oldest first.
    pub fn runs(&self) -> Vec<RunId> {
        let mut runs: Vec<RunId> =
            self.agents.values().flat_map(|(_, copies)| copies).map(|copy| copy.run.clone()).collect();
        runs.sort();
        runs.dedup();
        runs
    }

    /// Reads every copy of a run.
    pub async fn read(&self, journal: &Journal, run: &RunId) -> Copies {
        let mut asked = JoinSet::new();
        for (server, (agent, copies)) in &self.agents {
            if copies.iter().any(|copy| copy.run == *run) {
                let (server, agent, run) = (server.clone(), agent.clone(), run.clone());
                asked.spawn(async move { (server, agent.read_journal(&run).await) });
            }
        }
        let mut found = Copies { whole: BTreeMap::new(), damaged: BTreeMap::new(), silent: BTreeMap::new() };
        while let Some(joined) = asked.join_next().await {
            let (server, answer) = joined.expect("reading a copy does not panic");
            match answer.map(|records| journal.read_copy(run, &records)) {
                Ok(Ok(log)) => drop(found.whole.insert(server, log)),
                // Not even its first event: as good as no copy.
                Ok(Err(JournalError::Torn(_))) => {}
                Ok(Err(error)) => drop(found.damaged.insert(server, chain_of(&error))),
                Err(error) => {
                    let damaged = match &error {
                        AgentError::Failure(failure) => failure.code == Code::BadJournal,
                        AgentError::Nonsense(_) => true,
                        AgentError::Connect(_) | AgentError::Lost { .. } => false,
                    };
                    let place = if damaged { &mut found.damaged } else { &mut found.silent };
                    place.insert(server, chain_of(&error));
                }
            }
        }
        found
    }
}

impl Copies {
    /// The newest epoch the run held, as far as the copies tell.
    pub fn epoch(&self) -> Option<u64> {
        self.longest().ok().flatten().and_then(|server| self.whole.get(server)?.state().epoch())
    }

    /// The server whose copy goes furthest; all others must be beginnings of it. `None`: there is none.
    pub fn longest(&self) -> Result<Option<&ServerName>, Fork> {
        let mut longest: Option<(&ServerName, &RunLog)> = None;
        for (server, log) in &self.whole {
            match longest {
                None => longest = Some((server, log)),
                Some((other, before)) => {
                    let (one, two) = (other.to_string(), server.to_string());
                    if longer((&one, before.records()), (&two, log.records()))? {
                        longest = Some((server, log));
                    }
                }
            }
        }
        Ok(longest.map(|(server, _)| server))
    }
}

/// Whether the second journal goes further than the first; `Err` if neither is the beginning of the other.
pub fn longer(
    (one, records): (&str, &[JournalRecord]),
    (other, others): (&str, &[JournalRecord]),
) -> Result<bool, Fork> {
    let both = records.len().min(others.len());
    // A link stands for all before it.
    let same = |index: usize| records[index].link == others[index].link;
    if both == 0 || same(both - 1) {
        return Ok(others.len() > records.len());
    }
    let at = (0..both).find(|index| !same(*index)).unwrap_or_default() + 1;
    let branch = |place: &str, records: &[JournalRecord]| {
        let last = records.last().and_then(|record| record.text.split('\n').next()).unwrap_or_default();
        Branch { place: place.to_owned(), events: records.len(), last: last.to_owned() }
    };
    Err(Fork { at, one: branch(one, records), other: branch(other, others) })
}

#[cfg(test)]
mod tests {
    use umsid_common::digest::Digest;

    use super::*;

    fn journal(events: &[&str]) -> Vec<JournalRecord> {
        let mut link = umsid_common::chain::genesis();
        let record = |(number, event): (u64, &&str)| {
            let text = format!("2026-11-22T20:45:12Z\n{event}");
            link = umsid_common::chain::link(&link, number, text.as_bytes());
            JournalRecord { number, text, link, seal: None }
        };
        (1..).zip(events).map(record).collect()
    }

    #[test]
    fn the_longer_is_taken_and_a_fork_is_refused() {
        let further =
            |one: &[&str], other: &[&str]| longer(("here", &journal(one)), ("ums2", &journal(other)));
        assert_eq!(further(&["a", "b"], &["a", "b", "c"]), Ok(true));
        assert_eq!(further(&["a", "b", "c"], &["a"]), Ok(false));
        assert_eq!(further(&["a"], &["a"]), Ok(false));
        assert_eq!(further(&[], &["a"]), Ok(true));
        let fork = further(&["a", "b", "c"], &["a", "x"]).unwrap_err();
        assert_eq!(fork.at, 2);
        let text = fork.to_string();
        assert!(text.contains("that of here has 3 events") && text.contains("that of ums2 has 2"), "{text}");
    }

    #[test]
    fn of_two_runs_of_one_second_the_later_lease_is_the_newer() {
        let run = |text: &str| text.parse::<RunId>().unwrap();
        let (first, second) = (run("20261126t160322-b1d70e"), run("20261126t160322-471e0f"));
        assert!(age(&first, Some(1)) < age(&second, Some(2)));
        assert!(age(&second, Some(9)) < age(&run("20261126t160323-000000"), Some(1)), "of other servers");
        assert!(age(&first, None) < age(&second, Some(1)), "nothing of it can be used");
    }

    #[test]
    fn what_differs_early_and_agrees_in_text_later_is_a_fork() {
        let fork = longer(("one", &journal(&["a", "b", "c"])), ("two", &journal(&["x", "b", "c", "d"])));
        assert_eq!(fork.unwrap_err().at, 1);
        assert_ne!(journal(&["a", "b"])[1].link, Digest::of(b"b"));
    }
}
