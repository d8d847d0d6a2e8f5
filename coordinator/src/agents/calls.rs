//! One method for each call, in the words of the domain, each with its deadline.

use std::time::Duration;

use jiff::Timestamp;
use tokio_stream::{Stream, StreamExt as _};
use tonic::codegen::Bytes;
use tonic::transport::Channel;
use tonic::{Response, Status};
use umsid_common::digest::Digest;
use umsid_common::name::{ClusterName, OperationId, RunId, ServerName};
use umsid_proto::model::{
    self, Action, Inspection, Invalid, LeaseRef, LeaseState, Operation, Progress, required,
};
use umsid_proto::wire::agent_client::AgentClient;
use umsid_proto::wire::operations_client::OperationsClient;
use umsid_proto::wire::transfer_client::TransferClient;
use umsid_proto::{CHUNK, LARGEST_MESSAGE, wire};

use super::{Agent, AgentError, Hello, PROMPT, agent_client, call, late, sorted};

/// A full inspection runs `umsadmin-cli` several times, a Java program that takes seconds on a loaded server
/// (UMS_FACTS §3); the agent has its own deadline for each of them.
const INSPECTION: Duration = Duration::from_secs(300);

/// A quick inspection asks the service manager and the UMS Server's web port.
const QUICK_INSPECTION: Duration = Duration::from_secs(60);

/// Longest silence within a transfer: the sender reads a file it has, the receiver writes to a disk.
const TRANSFER_SILENCE: Duration = Duration::from_secs(60);

/// Slowest line a transfer is given time for, bytes per second.
const SLOWEST_LINE: u64 = 64 << 10;

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

    pub(super) async fn ask<T>(
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
    /// `Code::LeaseHeld` or `Code::StaleEpoch` from the agent.
    pub async fn acquire_lease(
        &self,
        run: &RunId,
        epoch: u64,
        holder: &str,
        ttl: Duration,
        plan_digest: &Digest,
    ) -> Result<LeaseState, AgentError> {
        self.acquire(run, epoch, holder, ttl, plan_digest.as_bytes().to_vec(), None).await
    }

    /// Takes its server from a run whose umsid is gone, if that still holds just this lease and nothing is going on under
    /// it; without such a run, raises the epoch.
    ///
    /// # Errors
    /// `Code::LeaseHeld` if another run holds it by now, `Code::Busy` if an operation is going on there.
    pub async fn break_lease(
        &self,
        lease: &LeaseRef,
        holder: &str,
        ttl: Duration,
        broken: Option<&LeaseRef>,
    ) -> Result<LeaseState, AgentError> {
        self.acquire(&lease.run, lease.epoch, holder, ttl, Vec::new(), broken).await
    }

    async fn acquire(
        &self,
        run: &RunId,
        epoch: u64,
        holder: &str,
        ttl: Duration,
        plan_digest: Vec<u8>,
        broken: Option<&LeaseRef>,
    ) -> Result<LeaseState, AgentError> {
        let request = wire::AcquireLeaseRequest {
            cluster: self.0.cluster.to_string(),
            run: run.to_string(),
            epoch,
            holder: holder.to_owned(),
            ttl_seconds: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX),
            plan_digest,
            breaks: broken.map(|lease| wire::BrokenLease { run: lease.run.to_string(), epoch: lease.epoch }),
        };
        Ok(self.ask(PROMPT, self.agent().acquire_lease(request)).await?.try_into()?)
    }

    /// The same for longer.
    ///
    /// # Errors
    /// `Code::LeaseLost` or `Code::StaleEpoch` from the agent.
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
    /// `Code::DigestMismatch` from the agent if it is not what was announced.
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
