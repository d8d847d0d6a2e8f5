//! What everybody who only looks begins with: whom to ask, with what identity, and what their answers mean.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use umsid_common::name::{ClusterName, Role, ServerName};
use umsid_common::tls::Tls;

use super::Context;
use super::past::Told;
use super::prepare::tending;
use crate::agents::{Agent, Agents};
use crate::authority::Authority;
use crate::condition::{self, Condition, Finding, Kind, Level, Limits};
use crate::inventory::{Cluster, Inventory};
use crate::printout::Printout;
use crate::survey::{self, Assessment, Named};

/// The servers, and an identity that may ask their agents.
pub(super) struct Eyes {
    pub(super) inventory: Inventory,
    pub(super) agents: Agents,
    /// Who gives agents what they lack; an observer does not.
    authority: Option<Arc<Authority>>,
}

/// What was seen of a cluster.
pub(super) struct Seen {
    pub(super) assessment: Assessment,
    pub(super) condition: Condition,
    pub(super) connections: BTreeMap<ServerName, Agent>,
}

impl Eyes {
    /// Those of the state directory: a coordinator's, whose certificate is renewed where that is due, or an observer's.
    pub(super) fn of(context: &Context) -> anyhow::Result<Self> {
        if context.home.is_observers() {
            return Self::that_change_nothing(context);
        }
        let inventory = context.inventory()?;
        let authority = context.authority()?;
        let agents = context.agents(&inventory, &authority)?;
        Ok(Self { inventory, agents, authority: Some(Arc::new(authority)) })
    }

    /// The same, and nothing is renewed or given to anybody, here or there.
    pub(super) fn that_change_nothing(context: &Context) -> anyhow::Result<Self> {
        context.home.open_to_look()?;
        let inventory = Inventory::load(&context.home.inventory_path())?;
        let tls = Tls::load(context.home.tls_files()).context("our own certificate cannot be used")?;
        let agents = Agents::new(tls, inventory.trust_domain.clone());
        Ok(Self { inventory, agents, authority: None })
    }

    /// Gives an agent what it lacks, where that is ours to give: see [`tending`].
    pub(super) fn tending(
        &self,
        out: Printout,
    ) -> impl Fn(Agent) -> BoxFuture<'static, ()> + Clone + Send + 'static + use<> {
        let tend = self.authority.as_ref().map(|authority| tending(out, &self.agents, authority));
        move |agent| match &tend {
            Some(tend) => tend(agent),
            None => std::future::ready(()).boxed(),
        }
    }

    /// Whether the identity is one that may change servers.
    pub(super) fn may_change(&self) -> bool {
        matches!(self.agents.tls().current().identity().role, Role::Coordinator(_))
    }

    /// End of our own certificate.
    pub(super) fn own_not_after(&self) -> Timestamp {
        self.agents.tls().current().validity().1
    }

    /// Asks the servers of a cluster, for so long at most, and says how it is. Meanwhile the journal tells of its `past`.
    pub(super) async fn see<E: Error + Send + Sync + 'static>(
        &self,
        name: &ClusterName,
        cluster: &Cluster,
        limits: &Limits,
        within: Duration,
        past: impl Future<Output = Result<Told, E>>,
    ) -> Seen {
        let since = Instant::now();
        let asked = survey::take_within(&self.agents, name, cluster, within);
        let ((survey, connections), past) = tokio::join!(asked, past);
        let (remembered, runs) = match past {
            Ok(Told { main, unfinished }) => (main, Ok(unfinished)),
            Err(error) => (None, Err(error)),
        };
        let named = Named { server: cluster.main.clone(), fingerprint: cluster.main_fingerprint, remembered };
        let assessment = survey::assess(&survey, &named);
        let mut condition = condition::judge(&survey, &assessment, limits);
        match runs {
            Ok(runs) => {
                // What holds a lease is told once, and better by the journal.
                let known = |finding: &Finding| {
                    finding.kind == Kind::Lease
                        && runs.iter().any(|run| finding.what.ends_with(run.run.as_str()))
                };
                condition.findings.retain(|finding| !known(finding));
                condition.add(runs.iter().map(|run| run.finding()));
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                let finding =
                    Finding::new(Level::Unknown, Kind::Journal, "whether a run is unfinished is not known");
                condition.add([finding.because(format!("{error:#}")).remedy("see `umsid doctor`")]);
            }
        }
        let remedy = if self.may_change() {
            "the next `umsid status` renews it, if the certificate authority's key may be used"
        } else {
            "`umsid observer add`, typed at the coordinator, makes a new one"
        };
        let own =
            condition::ending(Kind::OwnCertificate, self.own_not_after(), survey.taken, limits.certificate);
        condition.add(own.map(|finding| finding.remedy(remedy)));
        condition.took = since.elapsed();
        Seen { assessment, condition, connections }
    }
}
