//! What all agents of a cluster reported at one moment, and what follows from it.
//!
//! [`take`] asks; [`assess`] is pure: it finds the Main server by evidence and says of every server whether it is in
//! sync, with the evidence. The absence of an answer is `unknown`, never "in sync".

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable as _};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use umsid_common::digest::Fingerprint;
use umsid_common::name::{ClusterName, ServerName, SiteName};
use umsid_common::tls::ConnectError;
use umsid_proto::failure::Code;
use umsid_proto::model::{HealthStatus, Inspection, ServiceStatus};

use crate::agents::{Agent, AgentError, Agents};
use crate::inventory::Cluster;

mod assess;
mod proof;

pub use assess::{Assessment, MainServer, MainTrouble, Named, SyncState, Verdict, assess};
pub use proof::{Baseline, Proof, prove};

/// How long an agent that answered and then broke off is asked again: its service manager starts it within seconds. One that
/// did not answer at all is not waited for.
const COMES_BACK: Duration = Duration::from_secs(10);

/// What all agents of a cluster reported at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Survey {
    /// The cluster.
    pub cluster: ClusterName,
    /// When it was begun.
    pub taken: Timestamp,
    /// Every server of the inventory, whether it answered or not.
    pub servers: BTreeMap<ServerName, Answer>,
}

/// One server's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Where it stands.
    pub site: Option<SiteName>,
    /// What it reported, or why it did not.
    pub report: Result<Report, Silence>,
}

/// A server's report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What its agent found out.
    pub inspection: Inspection,
    /// Its clock minus ours, in milliseconds, half the round trip allowed for.
    pub skew_ms: i64,
}

/// What keeps a server from being well; `None`: its UMS Server answers, and says so.
pub fn complaint(inspection: &Inspection) -> Option<String> {
    let health = &inspection.health;
    if matches!(health.status, HealthStatus::Ok | HealthStatus::Warn) {
        return None;
    }
    Some(match inspection.service.status {
        ServiceStatus::Stopped => "its UMS Server is stopped".to_owned(),
        _ => format!("{:?} {}", health.status, health.detail).to_lowercase().trim().to_owned(),
    })
}

/// No answer, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// For programs.
    pub kind: SilenceKind,
    /// For people: the chain of causes.
    pub causes: Vec<String>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SilenceKind {
    /// Nothing answers there.
    Unreachable,
    /// A certificate is not accepted, by us or by the agent.
    Certificate,
    /// Another server answered.
    WrongServer,
    /// The agent answered, but not with a report.
    Refused,
    /// Nothing is known of it: its gateway cannot be reached.
    Gateway,
    /// Its gateway leads to others only.
    NotForwarded,
}

impl Silence {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self.kind {
            SilenceKind::Unreachable => {
                "check that the host is up, that umsid-agent runs on it, and that its port is open to this machine"
            }
            SilenceKind::Certificate => "see `umsid doctor`; `umsid enroll` gives a server a new certificate",
            SilenceKind::WrongServer => {
                "the address in the inventory leads to another server: correct `address` in inventory.toml, or DNS"
            }
            SilenceKind::Refused => "run `umsid-agent doctor` on that server",
            SilenceKind::Gateway => {
                "see to its gateway first: that the host is up, that umsid-agent runs on it, and that its port is open to this machine"
            }
            SilenceKind::NotForwarded => {
                "put the server into `servers` of [gateway] in its gateway's agent.toml, or correct `via` in inventory.toml"
            }
        }
    }
}

impl From<&AgentError> for Silence {
    fn from(error: &AgentError) -> Self {
        let kind = match error {
            AgentError::Connect(error) => match error {
                ConnectError::Resolve { .. } | ConnectError::Unreachable { .. } => SilenceKind::Unreachable,
                // Whatever is wrong with its gateway: nothing is known of the server itself.
                ConnectError::Gateway { .. } => SilenceKind::Gateway,
                ConnectError::Refused { .. } => SilenceKind::NotForwarded,
                ConnectError::WrongServer { .. } => SilenceKind::WrongServer,
                ConnectError::Certificate { .. }
                | ConnectError::Rejected { .. }
                | ConnectError::Handshake { .. } => SilenceKind::Certificate,
            },
            AgentError::Lost { .. } => SilenceKind::Unreachable,
            AgentError::Failure(failure) if failure.code == Code::NotAllowed => SilenceKind::Certificate,
            AgentError::Failure(_) | AgentError::Nonsense(_) => SilenceKind::Refused,
        };
        let mut causes = vec![error.to_string()];
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Self { kind, causes }
    }
}

impl Survey {
    /// The report of a server that answered.
    pub fn report(&self, server: &ServerName) -> Option<&Report> {
        self.servers.get(server)?.report.as_ref().ok()
    }

    /// The highest lease epoch any agent has granted.
    pub fn highest_epoch(&self) -> u64 {
        self.servers
            .values()
            .filter_map(|answer| answer.report.as_ref().ok())
            .map(|report| report.inspection.epoch)
            .max()
            .unwrap_or_default()
    }

    /// The server whose agent has granted the highest lease epoch.
    pub fn highest_epoch_at(&self) -> Option<ServerName> {
        let epochs = self
            .servers
            .iter()
            .filter_map(|(server, answer)| Some((answer.report.as_ref().ok()?.inspection.epoch, server)));
        epochs.max().map(|(_, server)| server.clone())
    }

    /// Milliseconds the slowest server spent waiting for its UMS.
    pub fn ums_ms(&self) -> u64 {
        self.servers
            .values()
            .filter_map(|answer| answer.report.as_ref().ok())
            .map(|report| report.inspection.ums_ms)
            .max()
            .unwrap_or_default()
    }

    /// By what fingerprint a certificate is known here: SHA-256 where any agent has read the certificate whose SHA-1
    /// this is.
    pub fn canonical(&self, fingerprint: Fingerprint) -> Fingerprint {
        self.servers
            .values()
            .filter_map(|answer| answer.report.as_ref().ok())
            .flat_map(|report| &report.inspection.ums_ids.certificates)
            .find(|seen| seen.sha1 == fingerprint)
            .map_or(fingerprint, |seen| seen.sha256)
    }
}

/// Asks every server of a cluster at once; gives the connections along for what comes next.
pub async fn take(
    agents: &Agents,
    name: &ClusterName,
    cluster: &Cluster,
) -> (Survey, BTreeMap<ServerName, Agent>) {
    take_within(agents, name, cluster, Duration::MAX).await
}

/// The same for whoever cannot wait: a server that has not answered in time has not answered.
pub async fn take_within(
    agents: &Agents,
    name: &ClusterName,
    cluster: &Cluster,
    limit: Duration,
) -> (Survey, BTreeMap<ServerName, Agent>) {
    let taken = Timestamp::now();
    let mut asked = tokio::task::JoinSet::new();
    for (server, entry) in &cluster.servers {
        let (agents, name, server, entry) = (agents.clone(), name.clone(), server.clone(), entry.clone());
        asked.spawn(async move {
            let answer = tokio::time::timeout(limit, ask(&agents, &name, &server, &entry)).await;
            let late = |_| {
                let what = format!("{}: nothing within {} s", entry.address, limit.as_secs_f32());
                Err(AgentError::Lost { what })
            };
            (server, entry.site, answer.unwrap_or_else(late))
        });
    }
    let mut survey = Survey { cluster: name.clone(), taken, servers: BTreeMap::new() };
    let mut connections = BTreeMap::new();
    while let Some(joined) = asked.join_next().await {
        // A task that panicked is a defect; let it be seen as one.
        let (server, site, answer) = joined.expect("asking a server does not panic");
        let report = match answer {
            Ok((agent, report)) => {
                connections.insert(server.clone(), agent);
                Ok(report)
            }
            Err(error) => Err(Silence::from(&error)),
        };
        survey.servers.insert(server, Answer { site, report });
    }
    (survey, connections)
}

/// How many servers of many clusters are asked at once, so that neither this machine's sockets nor a firewall's table of
/// connections runs full.
const AT_ONCE: usize = 256;

/// Asks every server of many clusters, 256 at a time. `then` gets the connection to each that answered, before it is
/// closed.
pub async fn look<F: Future<Output = ()> + Send>(
    agents: &Agents,
    clusters: &BTreeMap<ClusterName, Cluster>,
    then: impl Fn(Agent) -> F + Clone + Send + 'static,
) -> BTreeMap<ClusterName, Survey> {
    let taken = Timestamp::now();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = tokio::task::JoinSet::new();
    let servers =
        clusters.iter().flat_map(|(name, cluster)| cluster.servers.iter().map(move |of| (name, of)));
    for (cluster, (server, entry)) in servers {
        let (agents, then) = (agents.clone(), then.clone());
        let (cluster, server, entry) = (cluster.clone(), server.clone(), entry.clone());
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        asked.spawn(async move {
            let report = match ask(&agents, &cluster, &server, &entry).await {
                Ok((agent, report)) => {
                    then(agent).await;
                    Ok(report)
                }
                Err(error) => Err(Silence::from(&error)),
            };
            drop(place);
            (cluster, server, Answer { site: entry.site, report })
        });
    }
    let empty = |cluster: &ClusterName| Survey { cluster: cluster.clone(), taken, servers: BTreeMap::new() };
    let mut surveys: BTreeMap<_, _> = clusters.keys().map(|name| (name.clone(), empty(name))).collect();
    while let Some(joined) = asked.join_next().await {
        let (cluster, server, answer) = joined.expect("asking a server does not panic");
        if let Some(survey) = surveys.get_mut(&cluster) {
            survey.servers.insert(server, answer);
        }
    }
    surveys
}

/// Asks servers that are connected already.
pub async fn take_again(before: &Survey, connections: &BTreeMap<ServerName, Agent>) -> Survey {
    let taken = Timestamp::now();
    let mut asked = tokio::task::JoinSet::new();
    for (server, agent) in connections {
        let (server, agent) = (server.clone(), agent.clone());
        asked.spawn(async move {
            let report = agent.inspect(false).await;
            (server, report.map(|inspection| Report { skew_ms: agent.hello().skew_ms, inspection }))
        });
    }
    let mut survey = Survey { taken, ..before.clone() };
    while let Some(joined) = asked.join_next().await {
        let (server, report) = joined.expect("asking a server does not panic");
        if let Some(answer) = survey.servers.get_mut(&server) {
            answer.report = report.map_err(|error| Silence::from(&error));
        }
    }
    survey
}

async fn ask(
    agents: &Agents,
    cluster: &ClusterName,
    server: &ServerName,
    entry: &crate::inventory::Server,
) -> Result<(Agent, Report), AgentError> {
    let broke_off = OnceLock::new();
    let comes_back = |error: &AgentError| {
        let since = match error {
            AgentError::Lost { what } => Some(broke_off.get_or_init(|| {
                tracing::warn!(%server, what, "the agent broke off; asking it again for up to {COMES_BACK:?}");
                Instant::now()
            })),
            _ => broke_off.get().filter(|_| error.is_transient()),
        };
        since.is_some_and(|since| since.elapsed() < COMES_BACK)
    };
    let once = async || {
        let agent = agents.dial(cluster, server, entry).await?;
        let inspection = agent.inspect(false).await?;
        let skew_ms = agent.hello().skew_ms;
        Ok((agent, Report { inspection, skew_ms }))
    };
    let pace = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .without_max_times();
    once.retry(pace).when(comes_back).await
}

#[cfg(test)]
pub(crate) mod stage;
#[cfg(test)]
mod tests;
