//! Servers with agents, and a coordinator that calls them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use umsid_agent::server::{Deadlines, StartError};
use umsid_agent::state::StateError;
use umsid_agent::{Agent, Config};
use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access};
use umsid_common::name::Identity;
use umsid_common::seal::{Recipient, SealKey};
use umsid_common::tls::{self, ConnectError, Files, Patience, Tls};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Action, Handover, Outcome, Progress, RestoreSource, Success, Trouble};
use umsid_proto::wire;
use umsid_proto::wire::agent_client::AgentClient;
use umsid_proto::wire::gateway_client::GatewayClient;
use umsid_proto::wire::journals_client::JournalsClient;
use umsid_proto::wire::operations_client::OperationsClient;
use umsid_proto::wire::transfer_client::TransferClient;
use umsid_testkit::{Ca, Issued, scratch, wait_for};

use crate::fake_ums::{FakeUms, print_of};

pub(crate) const CLUSTER: &str = "acme";
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const RUN: &str = "20261122t204512-00000a";
pub(crate) const OTHER_RUN: &str = "20261122t204513-00000b";

/// One server: its state directory, its UMS.
pub(crate) struct Server {
    pub(crate) dir: TempDir,
    pub(crate) ums: Arc<FakeUms>,
    pub(crate) issued: Issued,
    pub(crate) config: Config,
    pub(crate) deadlines: Deadlines,
}

/// An agent that runs, in a runtime of its own so that it can be killed.
pub(crate) struct Running {
    runtime: Runtime,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn new(ca: &Ca, name: &str, local: &str) -> Self {
        Self::in_cluster(ca, CLUSTER, name, local)
    }

    pub(crate) fn in_cluster(ca: &Ca, cluster: &str, name: &str, local: &str) -> Self {
        let dir = scratch();
        let issued = ca.agent(cluster, name);
        ca.write(&issued, dir.path());
        SealKey::load_or_generate(&dir.path().join("seal.key")).unwrap();
        let enrolment = format!(r#"{{"trust_domain":"test","cluster":"{cluster}","server":"{name}"}}"#);
        durable::replace(&dir.path().join("enrolment.json"), enrolment.as_bytes(), Access::Private).unwrap();
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            state_dir: dir.path().to_owned(),
            max_backup_bytes: 1 << 20,
            ..Config::default()
        };
        let deadlines = Deadlines {
            idle: Duration::from_millis(300),
            restart: Duration::from_millis(300),
            ..Deadlines::default()
        };
        Self { dir, ums: FakeUms::new(local, "main-id"), issued, config, deadlines }
    }

    pub(crate) fn recipient(&self) -> Recipient {
        SealKey::load(&self.dir.path().join("seal.key")).unwrap().recipient()
    }

    pub(crate) fn try_start(&self) -> Result<Running, StartError> {
        Self::start_with(&self.config, self.ums.clone(), self.deadlines.clone())
    }

    pub(crate) fn start_with(
        config: &Config,
        ums: Arc<FakeUms>,
        deadlines: Deadlines,
    ) -> Result<Running, StartError> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let config = config.clone();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let served = runtime.spawn(async move {
            match Agent::bind_with(&config, ums, deadlines).await {
                Ok(agent) => {
                    tell.send(Ok(agent.local_addr())).unwrap();
                    agent.serve(async { drop(stopped.await) }).await.unwrap();
                }
                Err(error) => tell.send(Err(error)).unwrap(),
            }
        });
        match told.recv().unwrap() {
            Ok(address) => Ok(Running { runtime, stop: Some(stop), served, address }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Starts, waiting for the agent before to be gone altogether.
    pub(crate) async fn start(&self) -> Running {
        wait_for("the state directory to be free", SOON, || async {
            match self.try_start() {
                Err(StartError::State(StateError::InUse { .. })) => None,
                started => Some(started.unwrap()),
            }
        })
        .await
    }

    pub(crate) fn files(&self, dir: &str) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.dir.path().join(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The record of an operation as it is on disk.
    pub(crate) fn record(&self, id: &str) -> Option<serde_json::Value> {
        record(self.dir.path(), id)
    }
}

pub(crate) fn record(state_dir: &Path, id: &str) -> Option<serde_json::Value> {
    let bytes = durable::read_optional(&state_dir.join(format!("operations/{id}.json"))).unwrap()?;
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with('\n'), "{text}");
    Some(serde_json::from_str(text.lines().last().unwrap()).unwrap())
}

impl Running {
    /// As `kill -9` would: every task ends where it stands.
    pub(crate) async fn kill(self) {
        let runtime = self.runtime;
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(SOON)).await.unwrap();
    }

    /// As SIGTERM would; waits for the end.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(SOON, &mut self.served).await.expect("it stops").unwrap();
        self.kill().await;
    }

    /// As SIGTERM would; does not wait.
    pub(crate) fn tell_to_stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.served.is_finished()
    }
}

/// Somebody with a certificate.
pub(crate) struct Person {
    _dir: TempDir,
    pub(crate) tls: Arc<Tls>,
}

impl Person {
    pub(crate) fn new(ca: &Ca, issued: &Issued) -> Self {
        let dir = scratch();
        ca.write(issued, dir.path());
        let tls = Tls::load(Files::in_dir(dir.path())).unwrap();
        Self { _dir: dir, tls }
    }

    pub(crate) fn coordinator(ca: &Ca) -> Self {
        Self::new(ca, &ca.coordinator("anna"))
    }

    pub(crate) async fn try_call(&self, server: &Server, running: &Running) -> Result<Line, ConnectError> {
        let expected: Identity = umsid_common::tls::identity_of(&server.issued.certificate).unwrap();
        let address = running.address.to_string();
        let channel = tls::connect(&address, &self.tls, &expected, &Patience::default()).await?;
        Ok(Line::new(channel))
    }

    pub(crate) async fn call(&self, server: &Server, running: &Running) -> Line {
        self.try_call(server, running).await.unwrap()
    }
}

/// A connection to an agent.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) agent: AgentClient<Channel>,
    pub(crate) operations: OperationsClient<Channel>,
    pub(crate) transfer: TransferClient<Channel>,
    pub(crate) journals: JournalsClient<Channel>,
    pub(crate) gateway: GatewayClient<Channel>,
}

pub(crate) fn lease(run: &str, epoch: u64) -> wire::LeaseRef {
    wire::LeaseRef { run: run.into(), epoch }
}

pub(crate) fn code_of<T>(result: Result<T, tonic::Status>) -> Code {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(status) => Failure::from(&status).code,
    }
}

impl Line {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            agent: AgentClient::new(channel.clone()),
            operations: OperationsClient::new(channel.clone()),
            transfer: TransferClient::new(channel.clone()),
            journals: JournalsClient::new(channel.clone()),
            gateway: GatewayClient::new(channel),
        }
    }

    pub(crate) async fn acquire(&mut self, run: &str, epoch: u64) -> Result<wire::Lease, tonic::Status> {
        let request = wire::AcquireLeaseRequest {
            cluster: CLUSTER.into(),
            run: run.into(),
            epoch,
            holder: "coordinator anna (anna@admin1)".into(),
            ttl_seconds: 60,
            plan_digest: vec![7; 32],
            breaks: None,
        };
        Ok(self.agent.acquire_lease(request).await?.into_inner())
    }

    pub(crate) async fn start(&mut self, id: &str, action: Action) -> Result<wire::Operation, tonic::Status> {
        self.start_under(id, lease(&id[..22], 1), action).await
    }

    pub(crate) async fn start_under(
        &mut self,
        id: &str,
        lease: wire::LeaseRef,
        action: Action,
    ) -> Result<wire::Operation, tonic::Status> {
        let request =
            wire::StartOperationRequest { id: id.into(), lease: Some(lease), what: Some(action.into()) };
        Ok(self.operations.start_operation(request).await?.into_inner())
    }

    pub(crate) async fn events(&mut self, id: &str, from: u64) -> Vec<Progress> {
        let request = wire::WatchOperationRequest { id: id.into(), from_event: from };
        let mut stream = self.operations.watch_operation(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(event) = tokio::time::timeout(SOON, stream.next()).await.expect("an event") {
            events.push(event.unwrap().try_into().unwrap());
        }
        events
    }

    /// Waits until it is told that this is being done.
    pub(crate) async fn told(&mut self, id: &str, text: &str) {
        let request = wire::WatchOperationRequest { id: id.into(), from_event: 0 };
        let mut stream = self.operations.watch_operation(request).await.unwrap().into_inner();
        while let Some(event) = tokio::time::timeout(SOON, stream.next()).await.expect("an event") {
            let event: Progress = event.unwrap().try_into().unwrap();
            if event.what.is_err_and(|phase| phase.text.contains(text)) {
                return;
            }
        }
        panic!("{id} came to its end without: {text}");
    }

    /// Waits for the outcome.
    pub(crate) async fn outcome(&mut self, id: &str) -> Outcome {
        self.events(id, 0).await.pop().expect("at least the outcome").what.expect("the outcome is last")
    }

    pub(crate) async fn result(&mut self, id: &str) -> Result<Success, Trouble> {
        self.outcome(id).await.result
    }

    /// Starts and waits for the outcome.
    pub(crate) async fn perform(&mut self, id: &str, action: Action) -> Result<Success, Trouble> {
        self.start(id, action).await.unwrap();
        self.result(id).await
    }

    /// Takes the lease for the standard run, and a safety backup in step 1.
    pub(crate) async fn safety_backup(&mut self) -> Digest {
        self.acquire(RUN, 1).await.unwrap();
        digest_of(self.perform(&step(1), Action::SafetyBackup).await)
    }

    pub(crate) async fn download(
        &mut self,
        lease: wire::LeaseRef,
        digest: Digest,
    ) -> Result<Vec<u8>, tonic::Status> {
        let request = wire::DownloadRequest { lease: Some(lease), digest: digest.as_bytes().to_vec() };
        let mut stream = self.transfer.download(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.message().await? {
            bytes.extend(chunk.data);
        }
        Ok(bytes)
    }

    pub(crate) async fn upload(&mut self, run: &str, bytes: &[u8]) -> Result<Digest, tonic::Status> {
        let digest = Digest::of(bytes);
        let pieces = bytes.chunks(1000).map(<[u8]>::to_vec).collect();
        self.upload_as(run, digest, bytes.len() as u64, pieces).await.map(|_| digest)
    }

    pub(crate) async fn upload_as(
        &mut self,
        run: &str,
        digest: Digest,
        size: u64,
        pieces: Vec<Vec<u8>>,
    ) -> Result<wire::UploadResponse, tonic::Status> {
        let messages = upload_messages(run, digest, size, pieces);
        let answer = self.transfer.upload(tokio_stream::iter(messages)).await?;
        Ok(answer.into_inner())
    }
}

pub(crate) fn upload_messages(
    run: &str,
    digest: Digest,
    size: u64,
    pieces: Vec<Vec<u8>>,
) -> Vec<wire::UploadMessage> {
    use wire::upload_message::Part;
    let header = wire::UploadHeader { lease: Some(lease(run, 1)), digest: digest.as_bytes().to_vec(), size };
    let parts = std::iter::once(Part::Header(header)).chain(pieces.into_iter().map(Part::Data));
    parts.map(|part| wire::UploadMessage { part: Some(part) }).collect()
}

pub(crate) fn step(number: u32) -> String {
    format!("{RUN}.{number}.1")
}

pub(crate) fn digest_of(result: Result<Success, Trouble>) -> Digest {
    match result {
        Ok(Success::BackedUp { digest, .. }) => digest,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn failure_of(result: Result<Success, Trouble>) -> (Code, umsid_proto::model::Effect) {
    match result {
        Err(Trouble::Failed { failure, effect }) => (failure.code, effect),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn handover(recipients: &[Recipient], expected: &str) -> Action {
    Action::Backup(Handover { recipients: recipients.to_vec(), expected: Some(print_of(expected)) })
}

pub(crate) fn restore(
    source: RestoreSource,
    expected: &str,
    source_server: &str,
    safety_net: Digest,
) -> Action {
    Action::Restore {
        source,
        expected: Some(print_of(expected)),
        source_server: source_server.parse().unwrap(),
        safety_net,
        keeps_running: false,
    }
}
