//! Copies of a run's journal on the agents that take part, so that the run outlives this machine.
//!
//! The journal here is the truth; copies follow it, each in its own time and a little behind, so that what is written within a
//! moment goes together: with fifty servers each of them would otherwise write hundreds of times to its disk. Only before the
//! first step of a way, forth or back, and at the end is waited for them, for a moment: nothing is begun of which every server
//! within reach does not know what it is part of. An agent that cannot keep a copy is no reason to stop.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use umsid_common::name::ServerName;
use umsid_proto::failure::Code;
use umsid_proto::model::{JournalCopy, JournalRecord, LeaseRef};

use super::{Crew, Leases, Notice, RunError, Tell};
use crate::agents::{Agent, AgentError};
use crate::journal::RunLog;

/// How long is waited for copies at most.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is sent at once, in bytes of text, unless a single record is larger.
const AT_ONCE: usize = 256 << 10;

/// How far copies may lag behind, but for that of a server on which something is about to be restored.
const LAG: Duration = Duration::from_secs(1);

/// The wait after an agent did not take a copy; it grows.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The copies of the run that is going on.
pub(super) struct Copies {
    records: watch::Sender<Vec<JournalRecord>>,
    agents: BTreeMap<ServerName, Told>,
    _couriers: JoinSet<()>,
}

/// One agent's copy.
struct Told {
    /// As many records are not to lag behind.
    wanted: watch::Sender<usize>,
    arrived: watch::Receiver<Arrived>,
}

/// How far one agent's copy is.
#[derive(Clone, Copy, Default)]
struct Arrived {
    records: usize,
    /// The agent did not take it: nobody waits for it until it does.
    refused: bool,
}

impl Copies {
    /// Begins to bring copies to every leased agent.
    pub(super) fn begin(log: &RunLog, leases: &Leases, crew: &Crew) -> Self {
        let (records, _) = watch::channel(Vec::new());
        let (mut agents, mut couriers) = (BTreeMap::new(), JoinSet::new());
        for (server, agent) in &leases.agents {
            let (tell, arrived) = watch::channel(Arrived::default());
            let (wanted, wants) = watch::channel(0);
            agents.insert(server.clone(), Told { wanted, arrived });
            let courier = Courier {
                server: server.clone(),
                agent: agent.clone(),
                lease: leases.lease().clone(),
                records: records.subscribe(),
                wanted: wants,
                told: tell,
                tell: crew.tell.clone(),
            };
            // Of a run that begins now, agents hold nothing.
            couriers.spawn(courier.go((log.records().len() == 1).then_some(0)));
        }
        let copies = Self { records, agents, _couriers: couriers };
        copies.follow(log);
        copies
    }

    /// What was journalled since.
    pub(super) fn follow(&self, log: &RunLog) {
        self.records.send_if_modified(|records| {
            let known = records.len();
            records.extend(log.records().iter().skip(known).cloned());
            records.len() > known
        });
    }

    /// Something is about to be restored on this server: its agent gets what there is at once, so that whoever takes the run up from
    /// the copies knows.
    pub(super) fn hurry(&self, server: &ServerName) {
        if let Some(told) = self.agents.get(server) {
            told.wanted.send_replace(self.records.borrow().len());
        }
    }

    /// Waits until every agent that takes copies has all of it, for a moment at most.
    pub(super) async fn settle(&mut self) {
        let wanted = self.records.borrow().len();
        let all = async {
            for told in self.agents.values_mut() {
                told.wanted.send_replace(wanted);
            }
            for told in self.agents.values_mut() {
                // A courier that has ended has nothing more to bring.
                let _ = told.arrived.wait_for(|told| told.refused || told.records >= wanted).await;
            }
        };
        // Whoever is slower gets it later.
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }
}

/// Brings one agent what its copy lacks.
struct Courier {
    server: ServerName,
    agent: Agent,
    lease: LeaseRef,
    records: watch::Receiver<Vec<JournalRecord>>,
    wanted: watch::Receiver<usize>,
    told: watch::Sender<Arrived>,
    tell: Tell,
}

impl Courier {
    /// Until there is nothing more to come. `kept`: how many records the agent has, where that is known.
    async fn go(mut self, mut kept: Option<usize>) {
        let (mut wait, mut said) = (AGAIN.0, false);
        loop {
            let (mut batch, whole) = {
                let records = self.records.borrow_and_update();
                let missing = kept.map_or(&[][..], |kept| records.get(kept..).unwrap_or_default());
                (at_once(missing), records.len())
            };
            // The last vouches for all before: what of it a crash cuts off is not counted by the agent, and comes again.
            if let Some(last) = batch.last_mut() {
                self.agent.vouch(&self.lease.run, last);
            }
            if let Some(records) = kept.filter(|kept| *kept >= whole) {
                self.told.send_replace(Arrived { records, refused: false });
                if self.records.changed().await.is_err() {
                    return;
                }
                let hurry = self.wanted.wait_for(|wanted| *wanted > records);
                let _ = tokio::time::timeout(LAG, hurry).await;
                continue;
            }
            match self.agent.keep_journal(&self.lease, batch).await {
                Ok(copy) if is_beginning(&copy, &self.records.borrow()) => {
                    kept = usize::try_from(copy.records).ok();
                    wait = AGAIN.0;
                }
                Ok(_) => return self.remark("it holds another journal of this run"),
                Err(error) => {
                    // It may have arrived, or not.
                    kept = None;
                    self.told.send_modify(|told| told.refused = true);
                    let code = error.failure().map(|failure| failure.code);
                    let passes =
                        error.is_transient() || matches!(code, Some(Code::LeaseLost | Code::DiskFull));
                    // Of what is lost with the connection or the lease, the steps speak.
                    let quiet = matches!(error, AgentError::Lost { .. } | AgentError::Connect(_))
                        || matches!(code, Some(Code::LeaseLost | Code::StaleEpoch | Code::LeaseHeld));
                    if !quiet && !said {
                        self.remark(&super::chain_of(&error));
                        said = true;
                    }
                    if !passes {
                        return;
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(AGAIN.1);
                }
            }
        }
    }

    fn remark(&self, why: &str) {
        let what = format!(
            "{}: no copy of this run's journal is kept there: {why}. The run goes on; if this machine is lost, the other copies count",
            self.server
        );
        (self.tell)(Notice::Remark(what));
    }
}

/// As many as are sent at once: at least one.
fn at_once(records: &[JournalRecord]) -> Vec<JournalRecord> {
    let mut bytes = 0;
    let fits = |record: &&JournalRecord| {
        let first = bytes == 0;
        bytes += record.text.len();
        first || bytes <= AT_ONCE
    };
    records.iter().take_while(fits).cloned().collect()
}

/// Whether a copy is the beginning of this journal.
fn is_beginning(copy: &JournalCopy, records: &[JournalRecord]) -> bool {
    let Some(link) = copy.link else { return true };
    let last = usize::try_from(copy.records).ok().and_then(|number| records.get(number.checked_sub(1)?));
    last.is_some_and(|record| record.link == link)
}

/// Makes sure that this run was not taken up elsewhere since: no agent within reach holds more of its journal than is
/// here, or another. An agent that cannot tell does not stand in the way.
pub(super) async fn taken_up_elsewhere(log: &RunLog, crew: &Crew) -> Result<(), RunError> {
    let mut asked = JoinSet::new();
    for (server, agent) in crew.agents.clone() {
        asked.spawn(async move { (server, agent.journals().await) });
    }
    let mut found = None;
    while let Some(joined) = asked.join_next().await {
        match joined.expect("asking for copies does not panic") {
            (server, Ok(copies)) => {
                let of_run = copies.into_iter().find(|copy| copy.run == *log.run());
                if of_run.is_some_and(|copy| !is_beginning(&copy, log.records())) {
                    found = found.max(Some(server));
                }
            }
            (server, Err(error)) => tracing::debug!(%server, %error, "no word of copies"),
        }
    }
    let (run, cluster) = (log.run().clone(), log.state().plan().cluster.clone());
    found.map_or(Ok(()), |server| Err(RunError::TakenUpElsewhere { run, cluster, server }))
}
