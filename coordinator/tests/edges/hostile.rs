//! A server in strange hands: its agent has its certificate, and lies. No lie leads to exit code 0, holds `umsid` up for
//! ever, makes it panic, or steers the terminal.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use umsid_common::digest::{Digest, Fingerprint};
use umsid_common::seal::SealKey;
use umsid_common::tls::{Files, Limits, Listener, Tls};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::wire;
use umsid_proto::wire::agent_server::{Agent, AgentServer};
use umsid_proto::wire::operation_event::What as Told;
use umsid_proto::wire::operations_server::{Operations, OperationsServer};
use umsid_proto::wire::outcome::Result as Done;
use umsid_proto::wire::start_operation_request::What;
use umsid_proto::wire::transfer_server::{Transfer, TransferServer};
use umsid_testkit::wait_for;

use crate::house::{Host, House, Ran, SOON};

/// What would clear the screen, name the window, and feign a line of ours.
const EVIL: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\rdone\u{9b}31m\nexit code 0\u{202e}";

/// The sealed backup the Main server hands over.
const SEALED: &[u8] = b"sealed, as far as anybody on the way can tell";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    None,
    /// Every text is EVIL, and restores fail with it.
    Texts,
    /// More than a message may hold.
    HugeInspection,
    /// No run could ever have a higher one.
    AbsurdEpoch,
    /// Times no calendar has.
    AbsurdTimes,
    /// A clock far in the future.
    FutureClock,
    /// Events without end.
    EndlessEvents,
    /// The same event again and again.
    SameEvent,
    /// A watched operation of which nothing is ever said.
    Silence,
    /// The stream ends, and again, and again.
    EndsEarly,
    /// The operation it speaks of is another.
    OtherOperation,
    /// Finished without outcome.
    NoOutcome,
    /// The outcome is that of another kind of operation.
    OtherOutcome,
    /// Restored, it says, and shows another UMS ID.
    RestoredOther,
    /// Restored, it says, and shows the right one; what it shows when it is looked at is another.
    RestoredThenOther,
    /// Sends other bytes, more, fewer.
    SendsOther,
    SendsMore,
    SendsFewer,
    /// Says it wrote something else; says all is well at once, having read nothing.
    WroteOther,
    ReadNothing,
    /// A lease of another run.
    OtherLease,
}

#[derive(Default)]
struct Memory {
    restored: bool,
    epoch: u64,
    lease: Option<wire::Lease>,
    operations: BTreeMap<String, wire::Operation>,
    pid: u32,
}

/// An agent in memory; honest but for one lie.
struct Puppet {
    server: &'static str,
    own: &'static str,
    lie: Lie,
    recipient: String,
    memory: Mutex<Memory>,
}

fn print(id: &str) -> wire::Fingerprint {
    Fingerprint::sha256_of(id.as_bytes()).into()
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

impl Puppet {
    fn text(&self, honest: &str) -> String {
        if self.lie == Lie::Texts { EVIL.into() } else { honest.into() }
    }

    fn ids(&self, local: &str) -> wire::UmsIds {
        let evidence = |label: wire::UmsIdLabel, id: &str| wire::Evidence {
            source: wire::EvidenceSource::List.into(),
            label: label.into(),
            fingerprint: Some(print(id)),
            subject: String::new(),
            line: self.text("a line"),
        };
        wire::UmsIds {
            local: Some(print(local)),
            main: Some(print("main")),
            evidence: vec![
                evidence(wire::UmsIdLabel::Main, "main"),
                evidence(wire::UmsIdLabel::Local, local),
            ],
            reason: self.text("by a puppet"),
            ..wire::UmsIds::default()
        }
    }

    fn local(&self) -> &'static str {
        let restored = self.memory.lock().unwrap().restored;
        if restored && self.lie != Lie::RestoredThenOther { "main" } else { self.own }
    }

    fn health(&self) -> wire::Health {
        wire::Health {
            status: wire::HealthStatus::Ok.into(),
            source: self.text("check-status"),
            detail: self.text(""),
            ..wire::Health::default()
        }
    }

    fn outcome(&self, what: &What) -> Done {
        let mut memory = self.memory.lock().unwrap();
        let process = |pid| wire::ServiceProcess { pid, started_unix_ms: 1_000 * i64::from(pid) };
        let backed_up = |bytes: &[u8]| {
            Done::BackedUp(wire::BackedUp {
                digest: Digest::of(bytes).as_bytes().to_vec(),
                size: bytes.len() as u64,
                fingerprint: Some(print(self.own)),
            })
        };
        match what {
            What::Backup(wire::Backup { handover: None }) => backed_up(b"a safety backup"),
            What::Backup(_) => backed_up(SEALED),
            What::Restore(_) if self.lie == Lie::Texts => Done::Failed(wire::OperationFailure {
                failure: Some(
                    Failure {
                        causes: vec![EVIL.into(); 3],
                        ..Failure::new(Code::CommandFailed, EVIL).remedy(EVIL)
                    }
                    .into(),
                ),
                effect: wire::Effect::None.into(),
            }),
            What::Restore(_) if self.lie == Lie::OtherOutcome => {
                Done::Discarded(wire::Discarded { files: 1 })
            }
            What::Restore(_) => {
                memory.restored = true;
                let shown = if self.lie == Lie::RestoredOther { "another" } else { "main" };
                Done::Restored(wire::Restored {
                    ums_ids: Some(self.ids(shown)),
                    remarks: vec![self.text("a remark")],
                })
            }
            What::Restart(_) => {
                memory.pid += 1;
                let (before, after) = (process(memory.pid), process(memory.pid + 1));
                drop(memory);
                Done::Restarted(wire::Restarted {
                    before: Some(before),
                    after: Some(after),
                    health: Some(self.health()),
                    ums_ids: Some(self.ids(self.local())),
                })
            }
            What::Discard(_) => Done::Discarded(wire::Discarded { files: 0 }),
        }
    }
}

#[tonic::async_trait]
impl Agent for Puppet {
    async fn hello(&self, _: Request<wire::HelloRequest>) -> Result<Response<wire::HelloResponse>, Status> {
        Ok(Response::new(wire::HelloResponse {
            protocol_min: 1,
            protocol_max: 1,
            agent_version: self.text("0.1.0"),
            cluster: "hamburg".into(),
            server: self.server.into(),
            recipient: self.recipient.clone(),
            crl_number: 1 << 20,
            certificate_not_before_unix_ms: now() - 1_000_000,
            certificate_not_after_unix_ms: now() + 1_000_000_000,
            clock_unix_ms: if self.lie == Lie::FutureClock { now() + 4_000_000_000_000 } else { now() },
        }))
    }

    async fn inspect(&self, _: Request<wire::InspectRequest>) -> Result<Response<wire::Inspection>, Status> {
        let (lease, epoch, pid) = {
            let memory = self.memory.lock().unwrap();
            (memory.lease.clone(), memory.epoch, memory.pid)
        };
        let service = wire::Service {
            control: self.text("puppet"),
            status: wire::ServiceStatus::Running.into(),
            process: Some(wire::ServiceProcess { pid: pid + 1, started_unix_ms: 1_000 }),
            detail: self.text(""),
        };
        Ok(Response::new(wire::Inspection {
            server: self.server.into(),
            cluster: "hamburg".into(),
            agent_version: self.text("0.1.0"),
            ums_version: "12.09.110".into(),
            ums_ids: Some(self.ids(self.local())),
            service: Some(service),
            health: Some(self.health()),
            update_mode: Some(false),
            distributed: Some(true),
            license: if self.lie == Lie::HugeInspection {
                "x".repeat(4 << 20)
            } else {
                self.text("licensed")
            },
            clock_unix_ms: if self.lie == Lie::FutureClock { now() + 4_000_000_000_000 } else { now() },
            disk: None,
            certificate_not_after_unix_ms: match self.lie {
                Lie::AbsurdTimes => i64::MAX,
                _ => now() + 1_000_000_000,
            },
            lease,
            epoch: if self.lie == Lie::AbsurdEpoch { u64::MAX } else { epoch },
            problems: if self.lie == Lie::Texts { vec![EVIL.into()] } else { Vec::new() },
            ..wire::Inspection::default()
        }))
    }

    async fn acquire_lease(
        &self,
        request: Request<wire::AcquireLeaseRequest>,
    ) -> Result<Response<wire::Lease>, Status> {
        let asked = request.into_inner();
        let lease = wire::Lease {
            run: asked.run,
            epoch: asked.epoch,
            holder: asked.holder,
            since_unix_ms: now(),
            until_unix_ms: now() + 60_000,
        };
        let mut memory = self.memory.lock().unwrap();
        (memory.epoch, memory.lease) = (lease.epoch, Some(lease.clone()));
        if self.lie == Lie::OtherLease {
            let held = wire::Lease { run: "20200101t000000-000001".into(), holder: EVIL.into(), ..lease };
            let failure = Failure::new(Code::LeaseHeld, EVIL).held(held.try_into().unwrap());
            return Err(failure.into());
        }
        Ok(Response::new(lease))
    }

    async fn renew_lease(
        &self,
        _: Request<wire::RenewLeaseRequest>,
    ) -> Result<Response<wire::Lease>, Status> {
        let lease = self.memory.lock().unwrap().lease.clone();
        lease.map(Response::new).ok_or_else(|| Failure::new(Code::LeaseLost, "there is none").into())
    }

    async fn release_lease(
        &self,
        _: Request<wire::ReleaseLeaseRequest>,
    ) -> Result<Response<wire::ReleaseLeaseResponse>, Status> {
        self.memory.lock().unwrap().lease = None;
        Ok(Response::new(wire::ReleaseLeaseResponse {}))
    }

    async fn push_trust(
        &self,
        request: Request<wire::PushTrustRequest>,
    ) -> Result<Response<wire::PushTrustResponse>, Status> {
        Ok(Response::new(wire::PushTrustResponse { crl_number: request.into_inner().crl_number }))
    }

    async fn begin_renewal(
        &self,
        _: Request<wire::BeginRenewalRequest>,
    ) -> Result<Response<wire::BeginRenewalResponse>, Status> {
        Err(Status::unimplemented(EVIL))
    }

    async fn complete_renewal(
        &self,
        _: Request<wire::CompleteRenewalRequest>,
    ) -> Result<Response<wire::CompleteRenewalResponse>, Status> {
        Err(Status::unimplemented(EVIL))
    }
}

type Events = std::pin::Pin<Box<dyn Stream<Item = Result<wire::OperationEvent, Status>> + Send>>;

fn phase(index: u64, text: String) -> Result<wire::OperationEvent, Status> {
    let deadline_unix_ms = 253_402_000_000_000;
    let what = Some(Told::Phase(wire::Phase { text, deadline_unix_ms }));
    Ok(wire::OperationEvent { index, at_unix_ms: now(), what })
}

#[tonic::async_trait]
impl Operations for Puppet {
    async fn start_operation(
        &self,
        request: Request<wire::StartOperationRequest>,
    ) -> Result<Response<wire::Operation>, Status> {
        let request = request.into_inner();
        let what = request.what.expect("something is to be done");
        let is_restore = matches!(what, What::Restore(_));
        let done = self.outcome(&what);
        let outcome = wire::Outcome { ums_ms: 1, result: Some(done) };
        let mut operation = wire::Operation {
            id: request.id.clone(),
            state: wire::OperationState::Finished.into(),
            outcome: Some(outcome),
            last_event: 1,
            kind: self.text("something"),
            recorded_unix_ms: now(),
        };
        self.memory.lock().unwrap().operations.insert(request.id, operation.clone());
        if is_restore {
            match self.lie {
                Lie::EndlessEvents | Lie::SameEvent | Lie::Silence | Lie::EndsEarly => {
                    operation.state = wire::OperationState::Started.into();
                    operation.outcome = None;
                }
                Lie::OtherOperation => operation.id = "20200101t000000-000001.9.1".into(),
                Lie::NoOutcome => operation.outcome = None,
                _ => {}
            }
        }
        Ok(Response::new(operation))
    }

    type WatchOperationStream = Events;

    async fn watch_operation(
        &self,
        request: Request<wire::WatchOperationRequest>,
    ) -> Result<Response<Events>, Status> {
        let from = request.into_inner().from_event;
        Ok(Response::new(match self.lie {
            Lie::EndlessEvents => {
                Box::pin(tokio_stream::iter(from.max(1)..).map(|index| phase(index, "almost done".into())))
            }
            Lie::SameEvent => Box::pin(tokio_stream::iter(1..).map(|_: u64| phase(7, "again".into()))),
            Lie::EndsEarly => Box::pin(tokio_stream::empty()),
            _ => Box::pin(tokio_stream::pending()),
        }))
    }

    async fn list_operations(
        &self,
        _: Request<wire::ListOperationsRequest>,
    ) -> Result<Response<wire::ListOperationsResponse>, Status> {
        let operations = self.memory.lock().unwrap().operations.values().cloned().collect();
        Ok(Response::new(wire::ListOperationsResponse { operations }))
    }
}

#[tonic::async_trait]
impl Transfer for Puppet {
    type DownloadStream = ReceiverStream<Result<wire::Chunk, Status>>;

    async fn download(
        &self,
        _: Request<wire::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let (chunks, sent) = mpsc::channel(4);
        let lie = self.lie;
        tokio::spawn(async move {
            let data = match lie {
                Lie::SendsOther => SEALED.iter().map(|byte| byte ^ 1).collect(),
                Lie::SendsFewer => SEALED[1..].to_vec(),
                _ => SEALED.to_vec(),
            };
            while chunks.send(Ok(wire::Chunk { data: data.clone() })).await.is_ok() && lie == Lie::SendsMore {
            }
        });
        Ok(Response::new(ReceiverStream::new(sent)))
    }

    async fn upload(
        &self,
        request: Request<Streaming<wire::UploadMessage>>,
    ) -> Result<Response<wire::UploadResponse>, Status> {
        let mut messages = request.into_inner();
        let (mut bytes, mut header) = (Vec::new(), wire::UploadHeader::default());
        while self.lie != Lie::ReadNothing
            && let Some(message) = messages.message().await?
        {
            match message.part {
                Some(wire::upload_message::Part::Header(told)) => header = told,
                Some(wire::upload_message::Part::Data(data)) => bytes.extend(data),
                None => {}
            }
        }
        if self.lie == Lie::WroteOther {
            bytes = b"something else".to_vec();
        }
        let digest = Digest::of(&bytes);
        if self.lie == Lie::None && digest.as_bytes().as_slice() != header.digest {
            return Err(Failure::new(Code::DigestMismatch, "not what was announced").into());
        }
        Ok(Response::new(wire::UploadResponse {
            digest: digest.as_bytes().to_vec(),
            size: bytes.len() as u64,
        }))
    }
}

/// Two servers, the first Main; both agents are puppets.
struct Stage {
    house: House,
    _hosts: [Host; 2],
    _runtime: Runtime,
}

impl Stage {
    fn new(main: Lie, target: Lie) -> Self {
        let house = House::new();
        let hosts = [Host::new("main"), Host::new("old")];
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let roles = [("ums1", "main", main), ("ums2", "old", target)];
        for (host, (server, own, lie)) in hosts.iter().zip(roles) {
            house.enrol(host, server);
            let dir = host.state_dir();
            let tls = Tls::load(Files::in_dir(dir)).unwrap();
            let recipient = SealKey::load(&dir.join("seal.key")).unwrap().recipient().to_string();
            let memory = Mutex::default();
            let puppet = Arc::new(Puppet { server, own, lie, recipient, memory });
            let address = host.address().parse().unwrap();
            // A program that another test is just starting has the enrolment's socket too, until it is that program.
            let bind = || async {
                match Listener::bind(address, tls.clone(), Limits::default()).await {
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => None,
                    bound => Some(bound.unwrap()),
                }
            };
            let listener = runtime.block_on(wait_for("the enrolment's port to be free", SOON, bind));
            let largest = 64 << 20;
            let served = Server::builder()
                .add_service(AgentServer::from_arc(puppet.clone()).max_encoding_message_size(largest))
                .add_service(OperationsServer::from_arc(puppet.clone()))
                .add_service(TransferServer::from_arc(puppet));
            let within = runtime.enter();
            runtime.spawn(served.serve_with_incoming(listener.incoming()));
            drop(within);
        }
        Self { house, _hosts: hosts, _runtime: runtime }
    }

    fn sync(&self, more: &[&str]) -> Ran {
        let quick = ["sync", "--yes", "--settle", "0", "--contact-timeout", "2s"];
        let ran = self.house.umsid_within(Duration::from_secs(60), &[&quick[..], more].concat());
        steers_nothing(&ran);
        ran
    }
}

/// Nothing of what an agent said reaches the terminal as it came.
#[track_caller]
fn steers_nothing(ran: &Ran) {
    for text in [&ran.out, &ran.err] {
        let steers = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || c == '\u{202e}';
        assert!(!text.contains(steers), "{text:?}");
        assert!(!text.lines().any(|line| line.trim() == "exit code 0"), "{text}");
    }
}

#[track_caller]
fn lies_do_not_help(lies: &[(Lie, Lie, &str)], more: &[&str]) {
    std::thread::scope(|scope| {
        for (main, target, why) in lies {
            scope.spawn(move || {
                let ran = Stage::new(*main, *target).sync(more);
                // 1 to 8: an answer with a meaning. 101 would be a panic.
                assert!((1..=8).contains(&ran.exit), "{main:?} {target:?}: {ran:?}");
                assert!(!ran.err.contains("panicked"), "{main:?} {target:?}: {ran:?}");
                assert!(ran.err.contains(why), "{main:?} {target:?}: {why:?} is not in:\n{}", ran.err);
            });
        }
    });
}

#[test]
fn honest_puppets_are_synchronized() {
    let stage = Stage::new(Lie::None, Lie::None);
    stage.sync(&[]).exits(0);
}

#[test]
fn no_lie_about_a_restore_is_believed() {
    lies_do_not_help(
        &[
            (Lie::None, Lie::RestoredOther, "step 6 (restore the Main UMS ID) failed: its own UMS ID is"),
            (Lie::None, Lie::RestoredThenOther, "its own UMS ID is"),
            (
                Lie::None,
                Lie::OtherOutcome,
                "its agent tells of something else than to restore the Main UMS ID",
            ),
            (Lie::None, Lie::OtherOperation, "operation.id: it speaks of 20200101t000000-000001.9.1"),
            (Lie::None, Lie::NoOutcome, "operation.outcome: it must be there when, and only when, finished"),
        ],
        &[],
    );
}

#[test]
fn no_report_goes_on_for_ever() {
    lies_do_not_help(
        &[
            (Lie::None, Lie::EndlessEvents, "there is no end of them"),
            (Lie::None, Lie::SameEvent, "7 comes where 8 was due"),
            (Lie::None, Lie::Silence, "is not known: nothing within 5s"),
            (Lie::None, Lie::EndsEarly, "is not known: nothing within 5s"),
        ],
        &["--operation-timeout", "5s"],
    );
}

#[test]
fn no_lie_about_what_was_transferred_is_believed() {
    lies_do_not_help(
        &[
            (Lie::SendsOther, Lie::None, "what it sends is not the backup it announced"),
            (Lie::SendsMore, Lie::None, "it sends more than the 45 bytes announced"),
            (Lie::SendsFewer, Lie::None, "what it sends is not the backup it announced"),
            (Lie::None, Lie::WroteOther, "it has 14 bytes with SHA-256"),
            (Lie::None, Lie::ReadNothing, "it has 0 bytes with SHA-256"),
        ],
        &[],
    );
}

#[test]
fn no_absurd_number_or_time_is_taken_for_good() {
    lies_do_not_help(
        &[
            (Lie::None, Lie::AbsurdEpoch, "ums2 speaks of lease epoch 18446744073709551615"),
            (Lie::None, Lie::AbsurdTimes, "inspection.certificate_not_after"),
            (Lie::None, Lie::FutureClock, "the clocks of ums1 and ums2 are"),
            (Lie::None, Lie::HugeInspection, "decoded message length too large"),
            (Lie::None, Lie::OtherLease, "ums2 is locked by run 20200101t000000-000001"),
        ],
        &[],
    );
}

#[test]
fn what_an_agent_says_steers_no_terminal() {
    let stage = Stage::new(Lie::None, Lie::Texts);
    for command in
        [&["status"][..], &["status", "--raw"], &["status", "-o", "json"], &["doctor"], &["servers"]]
    {
        let ran = stage.house.umsid_within(Duration::from_secs(30), command);
        steers_nothing(&ran);
        assert!(!ran.err.contains("panicked"), "{ran:?}");
    }
    let ran = stage.sync(&[]);
    assert!((1..=8).contains(&ran.exit), "{ran:?}");
    assert!(ran.err.contains("owned"), "the control: it was said\n{}", ran.err);
    for command in [&["runs"][..], &["runs", "show", "last"], &["runs", "show"]] {
        steers_nothing(&stage.house.umsid_within(Duration::from_secs(30), command));
    }
}
