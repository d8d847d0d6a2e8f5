//! The only place that dials agents.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Response, Status};
use umsid_common::name::{ClusterName, Identity, Role, ServerName, TrustDomain};
use umsid_common::seal::Recipient;
use umsid_common::tls::{self, ConnectError, Patience, Tls};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{self, Invalid, named};
use umsid_proto::wire::agent_client::AgentClient;
use umsid_proto::{LARGEST_MESSAGE, PROTOCOL, wire};

use crate::inventory::Server;

mod calls;
mod gateway;
mod journals;
mod tend;

pub use calls::UPLOAD_CHUNK;
pub use tend::{TendError, Tended};

/// What an agent answers from its memory or one small file.
const PROMPT: Duration = Duration::from_secs(15);

/// Dials agents.
#[derive(Clone)]
pub struct Agents {
    tls: Arc<Tls>,
    trust_domain: TrustDomain,
    patience: Patience,
    /// Where the servers are that are reached straight: any of them may be a gateway.
    gateways: Arc<BTreeMap<(ClusterName, ServerName), String>>,
}

/// A call to an agent that gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AgentError {
    /// No connection to it.
    #[error("no connection to the agent")]
    Connect(#[from] ConnectError),
    /// The agent said no.
    #[error("the agent refused or failed")]
    Failure(#[source] Box<Failure>),
    /// The connection broke, or the deadline passed: what was asked may have happened or not, and may be asked again.
    #[error("the agent gave no answer: {what}")]
    Lost {
        /// What happened.
        what: String,
    },
    /// An answer that means nothing.
    #[error("the agent's answer makes no sense")]
    Nonsense(#[from] Invalid),
}

impl From<Failure> for AgentError {
    fn from(failure: Failure) -> Self {
        Self::Failure(Box::new(failure))
    }
}

impl AgentError {
    /// Whether asking again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Lost { .. } => true,
            Self::Connect(error) => error.is_transient(),
            Self::Failure(_) | Self::Nonsense(_) => false,
        }
    }

    /// The agent's reason, where it gave one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failure(failure) => Some(failure),
            _ => None,
        }
    }
}

/// What an agent said of itself when it was dialled.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// The version of the protocol both sides speak.
    pub protocol: u32,
    /// Version of the agent.
    pub agent_version: String,
    /// Number of the newest revocation list it holds.
    pub crl_number: u64,
    /// The life of its certificate.
    pub certificate: (Timestamp, Timestamp),
    /// How far its clock is ahead of ours (negative: behind) in milliseconds, give or take half the round trip.
    pub skew_ms: i64,
    /// How long the answer took.
    pub round_trip: Duration,
}

impl Hello {
    /// Whether a third of the certificate's life or less is left.
    pub fn wants_renewal(&self, now: Timestamp) -> bool {
        let (from, until) = self.certificate;
        until.duration_since(now).as_secs().saturating_mul(3) <= until.duration_since(from).as_secs()
    }
}

struct Peer {
    channel: Channel,
    address: String,
    cluster: ClusterName,
    server: ServerName,
    hello: Hello,
    tls: Arc<Tls>,
}

/// An agent that answered and proved to be who was dialled. Cheap to clone; connects again by itself.
#[derive(Clone)]
pub struct Agent(Arc<Peer>);

impl Agents {
    /// A dialler with these credentials, for servers that are reached straight.
    pub fn new(tls: Arc<Tls>, trust_domain: TrustDomain) -> Self {
        Self { tls, trust_domain, patience: Patience::default(), gateways: Arc::default() }
    }

    /// The same with another patience for connecting.
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Our credentials.
    pub fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    fn identity_of(&self, cluster: &ClusterName, server: &ServerName) -> Identity {
        let role = Role::Agent { cluster: cluster.clone(), server: server.clone() };
        Identity { trust_domain: self.trust_domain.clone(), role }
    }

    /// Connects, makes sure it is this server's agent, and says hello.
    ///
    /// # Errors
    /// [`AgentError::Connect`] if it is not there or not who it should be; [`AgentError::Failure`] with
    /// [`Code::Protocol`] if there is no common version, with [`Code::WrongIdentity`] if its key is not the one
    /// pinned at enrolment.
    pub async fn dial(
        &self,
        cluster: &ClusterName,
        name: &ServerName,
        server: &Server,
    ) -> Result<Agent, AgentError> {
        let expected = self.identity_of(cluster, name);
        let channel = match &server.via {
            None => tls::connect(&server.address, &self.tls, &expected, &self.patience).await?,
            Some(gateway) => {
                let way = self.through(cluster, name, gateway)?;
                tls::connect_by(way, &self.tls, &expected, &self.patience).await?
            }
        };
        let address = server.place();
        let (sent, clock) = (Instant::now(), Timestamp::now());
        let (newest, oldest) = PROTOCOL;
        let ours = wire::HelloRequest { protocol_min: oldest, protocol_max: newest };
        let answer = call(&address, PROMPT, agent_client(&channel).hello(ours)).await?;
        let hello = greeted(&answer, cluster, name, server, clock, sent.elapsed())?;
        Ok(Agent(Arc::new(Peer {
            channel,
            address,
            cluster: cluster.clone(),
            server: name.clone(),
            hello,
            tls: self.tls.clone(),
        })))
    }
}

fn greeted(
    answer: &wire::HelloResponse,
    cluster: &ClusterName,
    name: &ServerName,
    server: &Server,
    asked: Timestamp,
    round_trip: Duration,
) -> Result<Hello, AgentError> {
    let (newest, oldest) = PROTOCOL;
    let protocol = newest.min(answer.protocol_max);
    if protocol < oldest.max(answer.protocol_min) {
        return Err(Failure::new(
            Code::Protocol,
            format!(
                "agent {} speaks protocol {} to {}, this umsid speaks {oldest} to {newest}",
                model::line(&answer.agent_version),
                answer.protocol_min,
                answer.protocol_max
            ),
        )
        .remedy("install agent and coordinator of the same version")
        .into());
    }
    if answer.cluster != cluster.as_str() || answer.server != name.as_str() {
        let why =
            format!("it calls itself {}/{}, its certificate {cluster}/{name}", answer.cluster, answer.server);
        let why = model::line(&why);
        return Err(Invalid::new("hello.server", why).into());
    }
    let recipient: Recipient = named("hello.recipient", &answer.recipient)?;
    if recipient != server.recipient {
        return Err(Failure::new(
            Code::WrongIdentity,
            "its sealing key is not the one pinned when it was enrolled",
        )
        .remedy(format!("if the server was set up again, enrol it again as {cluster}/{name}"))
        .into());
    }
    let theirs = model::moment("hello.clock", answer.clock_unix_ms)?;
    let half = SignedDuration::try_from(round_trip / 2).unwrap_or_default();
    Ok(Hello {
        protocol,
        agent_version: model::line(&answer.agent_version),
        crl_number: answer.crl_number,
        certificate: (
            model::moment("hello.certificate_not_before", answer.certificate_not_before_unix_ms)?,
            model::moment("hello.certificate_not_after", answer.certificate_not_after_unix_ms)?,
        ),
        skew_ms: i64::try_from((theirs.duration_since(asked) - half).as_millis()).unwrap_or(i64::MAX),
        round_trip,
    })
}

fn agent_client(channel: &Channel) -> AgentClient<Channel> {
    AgentClient::new(channel.clone())
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE)
}

/// Waits for an answer for so long, and sorts what came instead of one.
async fn call<T>(
    address: &str,
    deadline: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, AgentError> {
    match timeout(deadline, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(sorted(address, &status)),
        Err(_) => Err(late(address, deadline)),
    }
}

fn late(address: &str, deadline: Duration) -> AgentError {
    AgentError::Lost { what: format!("{address}: nothing within {} s", deadline.as_secs()) }
}

/// What a status says: the agent's no, a connection that is not there any more, or one that must not be.
fn sorted(address: &str, status: &Status) -> AgentError {
    if !status.details().is_empty() {
        return Failure::from(status).into();
    }
    let lost = |what: String| AgentError::Lost { what };
    match tls::connection_fault(address, status) {
        Some(ConnectError::Unreachable { why, .. }) => {
            return lost(format!("{address}: no connection: {why}"));
        }
        Some(fault) => return fault.into(),
        None => {}
    }
    // Without details of ours and without a source it is still the transport that speaks with these.
    match status.code() {
        tonic::Code::Unavailable
        | tonic::Code::Cancelled
        | tonic::Code::DeadlineExceeded
        | tonic::Code::Unknown
        | tonic::Code::Aborted => lost(format!("{address}: {}", model::line(status.message()))),
        _ => Failure::from(status).into(),
    }
}

#[cfg(test)]
mod tests;
