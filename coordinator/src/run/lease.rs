//! The exclusive right to change the servers of a run: on all of them or none, renewed while the run goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use umsid_common::digest::Digest;
use umsid_common::name::{RunId, ServerName};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{LeaseRef, LeaseState};

use super::Crew;
use crate::agents::{Agent, AgentError};
use crate::plan::Plan;

/// More runs than ever will be; an agent that grants more would lock its whole cluster out.
pub(crate) const LARGEST_EPOCH: u64 = 1 << 40;

/// Not every server could be leased; none is.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another run holds one of them.
    #[error(
        "{server} is locked by run {run} of {holder} since {since}, until {until} unless renewed",
        run = held.run, holder = held.holder, since = held.since, until = held.until
    )]
    Held {
        /// Which.
        server: ServerName,
        /// By whom.
        held: Box<LeaseState>,
    },
    /// A server said no for another reason, or nothing.
    #[error("{server} could not be leased")]
    Refused {
        /// Which.
        server: ServerName,
        /// Why.
        #[source]
        source: AgentError,
    },
    /// An agent speaks of an epoch no honest count of runs leads to.
    #[error("{server} speaks of lease epoch {epoch}: its lease.json is damaged, or somebody plays with it")]
    Epoch {
        /// Which.
        server: ServerName,
        /// The next would be this.
        epoch: u64,
    },
    /// A server that takes part is not connected.
    #[error("{0} takes part in the run, but is not connected")]
    Missing(ServerName),
}

/// Leases on all servers of a run. Dropped, they are no longer renewed.
pub struct Leases {
    pub(super) lease: LeaseRef,
    pub(super) agents: Vec<(ServerName, Agent)>,
    fence: watch::Receiver<Option<String>>,
    _renewal: JoinSet<()>,
}

impl Leases {
    /// Takes a lease on every one of these servers, with an epoch above all that were ever granted.
    pub async fn take(
        run: &RunId,
        held: u64,
        plan: &Plan,
        servers: &BTreeSet<ServerName>,
        crew: &Crew,
    ) -> Result<Self, LeaseError> {
        let mut agents = Vec::new();
        for server in servers {
            let agent = crew.agents.get(server).ok_or_else(|| LeaseError::Missing(server.clone()))?;
            agents.push((server.clone(), agent.clone()));
        }
        // The agents remember the highest epoch, so asking them once is enough: whoever was faster makes us fail.
        let epoch = crew.survey.highest_epoch().max(held).saturating_add(1);
        if let Some(server) = crew.survey.highest_epoch_at().filter(|_| epoch > LARGEST_EPOCH) {
            return Err(LeaseError::Epoch { server, epoch });
        }
        let lease = LeaseRef { run: run.clone(), epoch };
        let digest = plan.digest();
        let ask = |(server, agent): (ServerName, Agent)| {
            let (lease, by, ttl) = (lease.clone(), crew.by.clone(), crew.pace.lease);
            async move {
                let answer = agent.acquire_lease(&lease.run, lease.epoch, &by, ttl, &digest).await;
                (server, agent, answer)
            }
        };
        let (mut granted, mut refused) = (Vec::new(), BTreeMap::new());
        let mut sort =
            |(server, agent, answer): (ServerName, Agent, Result<LeaseState, AgentError>)| match answer {
                Ok(_) => {
                    granted.push(agent);
                    true
                }
                Err(error) => {
                    refused.insert(server, error);
                    false
                }
            };
        // The first by name is asked alone. Of two that come at the same moment one gets it, and the other asks nobody
        // else: all or none, they never refuse each other.
        let mut others = agents.clone().into_iter();
        let first = match others.next() {
            Some(first) => sort(ask(first).await),
            None => true,
        };
        let mut asked: JoinSet<_> = others.filter(|_| first).map(ask).collect();
        while let Some(joined) = asked.join_next().await {
            sort(joined.expect("asking for a lease does not panic"));
        }
        if let Some((server, error)) = refused.pop_first() {
            release(&granted, &lease).await;
            return Err(match error.failure().and_then(|failure| failure.held.clone()) {
                Some(held) => LeaseError::Held { server, held: Box::new(held) },
                None => LeaseError::Refused { server, source: error },
            });
        }
        let (fenced, fence) = watch::channel(None);
        let mut renewal = JoinSet::new();
        for (server, agent) in agents.clone() {
            let renewing =
                renew(server, agent, lease.clone(), crew.by.clone(), crew.pace.lease, digest, fenced.clone());
            renewal.spawn(renewing);
        }
        Ok(Self { lease, agents, fence, _renewal: renewal })
    }

    /// Gets a reason as soon as an agent does not obey this run any more.
    pub(super) fn fence(&self) -> watch::Receiver<Option<String>> {
        self.fence.clone()
    }

    /// Gives the leases back. One that cannot be given back runs out.
    pub(super) async fn release(self) {
        let agents: Vec<Agent> = self.agents.into_iter().map(|(_, agent)| agent).collect();
        release(&agents, &self.lease).await;
    }
}

async fn release(agents: &[Agent], lease: &LeaseRef) {
    let mut released = JoinSet::new();
    for agent in agents {
        let (agent, lease) = (agent.clone(), lease.clone());
        released.spawn(async move {
            if let Err(error) = agent.release_lease(&lease).await {
                tracing::debug!(server = %agent.server(), %error, "lease not released");
            }
        });
    }
    released.join_all().await;
}

/// Renews one server's lease until an agent says that another run has it.
async fn renew(
    server: ServerName,
    agent: Agent,
    lease: LeaseRef,
    by: String,
    ttl: Duration,
    plan: Digest,
    fenced: watch::Sender<Option<String>>,
) {
    let mut beat = tokio::time::interval(ttl / 3);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    beat.tick().await;
    loop {
        beat.tick().await;
        let mut answer = agent.renew_lease(&lease).await;
        if answer.as_ref().is_err_and(|error| error.failure().is_some_and(ran_out)) {
            // It ran out while we were away. If nobody came in between, the same run and epoch get it back.
            answer = agent.acquire_lease(&lease.run, lease.epoch, &by, ttl, &plan).await;
        }
        match answer {
            Err(AgentError::Failure(failure)) if is_fence(&failure) => {
                let _ = fenced.send(Some(format!("{server} does not obey this run any more: {failure}")));
                return;
            }
            // Out of reach, the lease runs out by itself; the steps notice in their own way.
            Err(error) => tracing::debug!(%server, %error, "lease not renewed"),
            Ok(_) => {}
        }
    }
}

fn ran_out(failure: &Failure) -> bool {
    failure.code == Code::LeaseLost
}

/// Whether an agent says that this run may not change it any more.
pub(crate) fn is_fence(failure: &Failure) -> bool {
    matches!(failure.code, Code::LeaseLost | Code::StaleEpoch | Code::LeaseHeld)
}
