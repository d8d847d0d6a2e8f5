//! The only place that dials agents: one method for each call, in the words of the domain, each with its deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt as _};
use tonic::codegen::Bytes;
use tonic::transport::Channel;
use tonic::{Response, Status};
use umsid_common::digest::Digest;
use umsid_common::name::{ClusterName, Identity, OperationId, Role, RunId, ServerName, TrustDomain};
use umsid_common::seal::Recipient;
use umsid_common::tls::{self, ConnectError, Patience, Tls};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{
    self, Action, Inspection, Invalid, LeaseRef, LeaseState, Operation, Progress, named, required,
};
use umsid_proto::wire::agent_client::AgentClient;
use umsid_proto::wire::operations_client::OperationsClient;
use umsid_proto::wire::transfer_client::TransferClient;
use umsid_proto::{CHUNK, LARGEST_MESSAGE, PROTOCOL, wire};

use crate::authority::{Authority, AuthorityError};
use crate::inventory::Server;

/// What an agent answers from its memory or one small file.
const PROMPT: Duration = Duration::from_secs(15);

/// A full inspection runs `umsadmin-cli` several times, a Java program that takes seconds on a loaded server
/// (UMS_FACTS §3); the agent has its own deadline for each of them.
const INSPECTION: Duration = Duration::from_secs(300);

/// A quick inspection asks the service manager and the UMS Server's web port.
const QUICK_INSPECTION: Duration = Duration::from_secs(60);

/// Longest silence within a transfer: the sender reads a file it has, the receiver writes to a disk.
const TRANSFER_SILENCE: Duration = Duration::from_secs(60);

/// Slowest line a transfer is given time for, bytes per second.
const SLOWEST_LINE: u64 = 64 << 10;

/// Dials agents.
#[derive(Clone)]
pub struct Agents {
    tls: Arc<Tls>,
    trust_domain: TrustDomain,
    patience: Patience,
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
            Self::Connect(error) => {
                matches!(error, ConnectError::Unreachable { .. } | ConnectError::Resolve { .. })
            }
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
}

/// An agent that answered and proved to be who was dialled. Cheap to clone; connects again by itself.
#[derive(Clone)]
pub struct Agent(Arc<Peer>);

impl Agents {
    /// A dialler with these credentials.
    pub fn new(tls: Arc<Tls>, trust_domain: TrustDomain) -> Self {
        Self { tls, trust_domain, patience: Patience::default() }
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
        let channel = tls::connect(&server.address, &self.tls, &expected, &self.patience).await?;
        let (sent, clock) = (Instant::now(), Timestamp::now());
        let (newest, oldest) = PROTOCOL;
        let ours = wire::HelloRequest { protocol_min: oldest, protocol_max: newest };
        let answer = call(&server.address, PROMPT, agent_client(&channel).hello(ours)).await?;
        let hello = greeted(answer, cluster, name, server, clock, sent.elapsed())?;
        Ok(Agent(Arc::new(Peer {
            channel,
            address: server.address.clone(),
            cluster: cluster.clone(),
            server: name.clone(),
            hello,
        })))
    }
}

/// What an agent was given in passing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// It had an older revocation list than we.
    pub trust_pushed: bool,
    /// It has a new certificate, good until then.
    pub renewed: Option<Timestamp>,
}

/// An agent could not be given what it needs. No reason to leave it alone: what it has is still good.
#[derive(Debug, thiserror::Error)]
pub enum TendError {
    /// By the agent or the connection.
    #[error("the agent did not take its new revocation list or certificate")]
    Agent(#[from] AgentError),
    /// By the certificate authority.
    #[error("the agent's certificate cannot be renewed")]
    Authority(#[from] AuthorityError),
}

impl Agents {
    /// Gives an agent what it lacks: a newer revocation list, and a new certificate where a third of its life or less is
    /// left and the authority can sign without asking for a passphrase.
    ///
    /// # Errors
    /// If the agent does not take it; it goes on with what it has.
    pub async fn tend(&self, agent: &Agent, authority: &Authority) -> Result<Tended, TendError> {
        let mut tended = Tended::default();
        let (crl_pem, crl_number) = authority.crl();
        if agent.hello().crl_number < crl_number {
            agent.push_trust(authority.anchors_pem(), &crl_pem, crl_number).await?;
            tended.trust_pushed = true;
        }
        if agent.hello().wants_renewal(Timestamp::now()) && authority.can_sign() {
            let csr = agent.begin_renewal().await?;
            let issued = authority.issue(&csr, &self.identity_of(agent.cluster(), agent.server()))?;
            tended.renewed = Some(agent.complete_renewal(&issued.certificate_pem).await?);
        }
        Ok(tended)
    }

    fn identity_of(&self, cluster: &ClusterName, server: &ServerName) -> Identity {
        let role = Role::Agent { cluster: cluster.clone(), server: server.clone() };
        Identity { trust_domain: self.trust_domain.clone(), role }
    }
}

fn greeted(
    answer: wire::HelloResponse,
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
                answer.agent_version, answer.protocol_min, answer.protocol_max
            ),
        )
        .remedy("install agent and coordinator of the same version")
        .into());
    }
    if answer.cluster != cluster.as_str() || answer.server != name.as_str() {
        let why =
            format!("it calls itself {}/{}, its certificate {cluster}/{name}", answer.cluster, answer.server);
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
        agent_version: answer.agent_version,
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
        | tonic::Code::Aborted => lost(format!("{address}: {}", status.message())),
        _ => Failure::from(status).into(),
    }
}

impl Agent {
    /// Its cluster.
    pub fn cluster(&self) -> &ClusterName {
        &self.0.cluster
    }

    /// Its server.
    pub fn server(&self) -> &ServerName {
        &self.0.server
    }

    /// What it said when it was dialled.
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    fn agent(&self) -> AgentClient<Channel> {
        agent_client(&self.0.channel)
    }

    fn operations_client(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.0.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    fn transfer(&self) -> TransferClient<Channel> {
        TransferClient::new(self.0.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    async fn ask<T>(
        &self,
        deadline: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, AgentError> {
        call(&self.0.address, deadline, answer).await
    }

    /// How things stand on its server; `quick`: without running `umsadmin-cli`.
    pub async fn inspect(&self, quick: bool) -> Result<Inspection, AgentError> {
        let deadline = if quick { QUICK_INSPECTION } else { INSPECTION };
        let answer = self.ask(deadline, self.agent().inspect(wire::InspectRequest { quick })).await?;
        let inspection = Inspection::try_from(answer)?;
        if inspection.cluster != self.0.cluster || inspection.server != self.0.server {
            let why = format!("it speaks of {}/{}", inspection.cluster, inspection.server);
            return Err(Invalid::new("inspection.server", why).into());
        }
        Ok(inspection)
    }

    /// The exclusive right to change its server. Asking again with the same run and epoch is harmless.
    ///
    /// # Errors
    /// [`Code::LeaseHeld`] or [`Code::StaleEpoch`] from the agent.
    pub async fn acquire_lease(
        &self,
        run: &RunId,
        epoch: u64,
        holder: &str,
        ttl: Duration,
        plan_digest: &Digest,
    ) -> Result<LeaseState, AgentError> {
        let request = wire::AcquireLeaseRequest {
            cluster: self.0.cluster.to_string(),
            run: run.to_string(),
            epoch,
            holder: holder.to_owned(),
            ttl_seconds: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
            plan_digest: plan_digest.as_bytes().to_vec(),
        };
        Ok(self.ask(PROMPT, self.agent().acquire_lease(request)).await?.try_into()?)
    }

    /// The same for longer.
    ///
    /// # Errors
    /// [`Code::LeaseLost`] or [`Code::StaleEpoch`] from the agent.
    pub async fn renew_lease(&self, lease: &LeaseRef) -> Result<LeaseState, AgentError> {
        let request = wire::RenewLeaseRequest { run: lease.run.to_string(), epoch: lease.epoch };
        Ok(self.ask(PROMPT, self.agent().renew_lease(request)).await?.try_into()?)
    }

    /// Gives the right back.
    pub async fn release_lease(&self, lease: &LeaseRef) -> Result<(), AgentError> {
        let request = wire::ReleaseLeaseRequest { run: lease.run.to_string(), epoch: lease.epoch };
        self.ask(PROMPT, self.agent().release_lease(request)).await.map(|wire::ReleaseLeaseResponse {}| ())
    }

    /// Begins an operation, or learns what became of it: the same id never has a second effect.
    pub async fn start(
        &self,
        id: &OperationId,
        lease: &LeaseRef,
        action: Action,
    ) -> Result<Operation, AgentError> {
        let request = wire::StartOperationRequest {
            id: id.to_string(),
            lease: Some(lease.into()),
            what: Some(action.into()),
        };
        let operation =
            Operation::try_from(self.ask(PROMPT, self.operations_client().start_operation(request)).await?)?;
        if operation.id != *id {
            return Err(Invalid::new("operation.id", format!("it speaks of {}", operation.id)).into());
        }
        Ok(operation)
    }

    /// An operation's events from this index on, up to its outcome. There is no deadline between them, because an
    /// operation may wait for the UMS for as long as its own deadline allows; a connection that is gone is noticed
    /// by the keep-alive, and then the last item is [`AgentError::Lost`]: watch again from the next index.
    pub async fn watch(
        &self,
        id: &OperationId,
        from_event: u64,
    ) -> Result<impl Stream<Item = Result<Progress, AgentError>> + Send + Unpin + use<>, AgentError> {
        let request = wire::WatchOperationRequest { id: id.to_string(), from_event };
        let events = self.ask(PROMPT, self.operations_client().watch_operation(request)).await?;
        let address = self.0.address.clone();
        Ok(events.map(move |event| match event {
            Ok(event) => Ok(Progress::try_from(event)?),
            Err(status) => Err(sorted(&address, &status)),
        }))
    }

    /// What it has on record, of one run or of all; newest last.
    pub async fn operations(&self, run: Option<&RunId>) -> Result<Vec<Operation>, AgentError> {
        let request = wire::ListOperationsRequest { run: run.map(ToString::to_string).unwrap_or_default() };
        let answer = self.ask(PROMPT, self.operations_client().list_operations(request)).await?;
        Ok(answer.operations.into_iter().map(Operation::try_from).collect::<Result<_, _>>()?)
    }

    /// A sealed backup it made for handing over. Neither length nor digest are checked here.
    pub async fn download(
        &self,
        lease: &LeaseRef,
        digest: &Digest,
    ) -> Result<impl Stream<Item = Result<Bytes, AgentError>> + Send + use<>, AgentError> {
        let request = wire::DownloadRequest { lease: Some(lease.into()), digest: digest.as_bytes().to_vec() };
        let chunks = self.ask(PROMPT, self.transfer().download(request)).await?;
        let address = self.0.address.clone();
        Ok(chunks.timeout(TRANSFER_SILENCE).map(move |chunk| match chunk {
            Ok(Ok(chunk)) => Ok(Bytes::from(chunk.data)),
            Ok(Err(status)) => Err(sorted(&address, &status)),
            Err(_) => Err(late(&address, TRANSFER_SILENCE)),
        }))
    }

    /// Uploads a sealed backup; gives digest and length of what the agent wrote.
    ///
    /// # Errors
    /// [`Code::DigestMismatch`] from the agent if it is not what was announced.
    pub async fn upload(
        &self,
        lease: &LeaseRef,
        digest: &Digest,
        size: u64,
        data: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<(Digest, u64), AgentError> {
        use wire::upload_message::Part;
        let header =
            wire::UploadHeader { lease: Some(lease.into()), digest: digest.as_bytes().to_vec(), size };
        let message = |part| wire::UploadMessage { part: Some(part) };
        let messages = tokio_stream::once(message(Part::Header(header)))
            .chain(data.map(move |bytes| message(Part::Data(bytes.into()))));
        let deadline = TRANSFER_SILENCE + Duration::from_secs(size / SLOWEST_LINE);
        let answer = self.ask(deadline, self.transfer().upload(messages)).await?;
        Ok((model::digest("upload.digest", &answer.digest)?, answer.size))
    }

    /// Gives it our trust anchors and revocation lists; the number of the newest list it holds now.
    pub async fn push_trust(
        &self,
        anchors_pem: &str,
        crls_pem: &str,
        crl_number: u64,
    ) -> Result<u64, AgentError> {
        let request = wire::PushTrustRequest {
            anchors_pem: anchors_pem.to_owned(),
            crls_pem: crls_pem.to_owned(),
            crl_number,
        };
        Ok(self.ask(PROMPT, self.agent().push_trust(request)).await?.crl_number)
    }

    /// Has it make a new key; the request for a certificate (PKCS#10, DER).
    pub async fn begin_renewal(&self) -> Result<Vec<u8>, AgentError> {
        Ok(self.ask(PROMPT, self.agent().begin_renewal(wire::BeginRenewalRequest {})).await?.csr)
    }

    /// Gives it the certificate; the end of that certificate's life as the agent understands it.
    pub async fn complete_renewal(&self, certificate_pem: &str) -> Result<Timestamp, AgentError> {
        let request = wire::CompleteRenewalRequest { certificate_pem: certificate_pem.to_owned() };
        let answer = self.ask(PROMPT, self.agent().complete_renewal(request)).await?;
        let until = Some(answer.certificate_not_after_unix_ms).filter(|&unix_ms| unix_ms > 0);
        Ok(model::moment("renewal.certificate_not_after", required("renewal.certificate_not_after", until)?)?)
    }
}

/// The size of the pieces [`Agent::upload`] takes, in bytes.
pub const UPLOAD_CHUNK: usize = CHUNK;
