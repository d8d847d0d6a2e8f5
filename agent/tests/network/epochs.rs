//! A caller whose epoch is not the newest changes nothing, by any call there is: the calls are read from the contract, so
//! that one which is added is noticed here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tonic::Status;
use umsid_common::digest::Digest;
use umsid_common::tls;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Action, RestoreSource};
use umsid_proto::wire;
use umsid_proto::wire::journals_client::JournalsClient;
use umsid_testkit::Ca;

use crate::fake_ums::FakeUms;
use crate::house::{CLUSTER, Line, OTHER_RUN, Person, RUN, Server, handover, lease, restore, step};

/// What protects the server from a call.
#[derive(Debug, PartialEq, Eq)]
enum Guard {
    /// It changes nothing.
    Looks,
    /// It is about the agent's own certificate, and not a run's.
    Certificate,
    /// The lease.
    Lease,
}

fn guard(call: &str) -> Guard {
    match call {
        "Hello" | "Inspect" | "WatchOperation" | "ListOperations" | "ListJournals" | "ReadJournal" => {
            Guard::Looks
        }
        // What is led on is said to another agent, which looks at the lease itself.
        "Forward" | "KeepTunnel" | "Answer" => Guard::Looks,
        "PushTrust" | "BeginRenewal" | "CompleteRenewal" => Guard::Certificate,
        "AcquireLease" | "RenewLease" | "ReleaseLease" | "StartOperation" | "Download" | "Upload"
        | "KeepJournal" => Guard::Lease,
        other => panic!("{other} is new: what keeps a run that lost its lease from it?"),
    }
}

fn contract() -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/umsid/v1");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let of_agents = |path: &PathBuf| !path.ends_with("enroll.proto");
    files.filter(of_agents).map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// The calls of the contract that only a lease opens.
fn leased_calls() -> BTreeSet<String> {
    let text = contract();
    let calls = text.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
    calls.filter(|call| guard(call) == Guard::Lease).map(ToOwned::to_owned).collect()
}

/// The operations of the contract.
fn operations() -> BTreeSet<String> {
    let text = contract();
    let request = text.split("message StartOperationRequest {").nth(1).unwrap();
    let what = request.split("oneof what {").nth(1).unwrap().split('}').next().unwrap();
    what.lines().filter_map(|line| line.split_whitespace().nth(1)).map(ToOwned::to_owned).collect()
}

/// Each of those calls by a run with this epoch.
async fn every_leased_call(
    line: &mut Line,
    journals: &mut JournalsClient<tonic::transport::Channel>,
    run: &str,
    epoch: u64,
    server: &Server,
) -> BTreeMap<String, Vec<Result<(), Status>>> {
    let held = lease(run, epoch);
    let (run, here) = (run.to_owned(), Digest::of(b"uploaded before"));
    let actions = [
        Action::SafetyBackup,
        handover(&[server.recipient()], "own-id"),
        restore(RestoreSource::Uploaded(here), "main-id", "ums1", here),
        Action::Restart { deadline_ms: None },
        Action::Discard,
    ];
    let kinds: BTreeSet<String> = actions.iter().map(|action| action.kind().to_owned()).collect();
    assert_eq!(kinds, operations(), "every operation of the contract is tried");
    let mut started = Vec::new();
    for (number, action) in (50..).zip(actions) {
        let id = format!("{run}.{number}.1");
        started.push(line.start_under(&id, held.clone(), action).await.map(drop));
    }
    let acquire = wire::AcquireLeaseRequest {
        cluster: CLUSTER.into(),
        run: run.clone(),
        epoch,
        ttl_seconds: 60,
        ..wire::AcquireLeaseRequest::default()
    };
    let breaking = wire::AcquireLeaseRequest {
        breaks: Some(wire::BrokenLease { run: RUN.into(), epoch: 5 }),
        ..acquire.clone()
    };
    let header = wire::UploadHeader {
        lease: Some(held.clone()),
        digest: Digest::of(b"x").as_bytes().to_vec(),
        size: 1,
    };
    let part = |part| wire::UploadMessage { part: Some(part) };
    let upload = [
        part(wire::upload_message::Part::Header(header)),
        part(wire::upload_message::Part::Data(b"x".to_vec())),
    ];
    let download = wire::DownloadRequest { lease: Some(held.clone()), digest: here.as_bytes().to_vec() };
    let renew = wire::RenewLeaseRequest { run: run.clone(), epoch };
    let release = wire::ReleaseLeaseRequest { run, epoch };
    let keep = wire::KeepJournalRequest { lease: Some(held), records: Vec::new() };
    let acquired = vec![
        line.agent.acquire_lease(acquire).await.map(drop),
        line.agent.acquire_lease(breaking).await.map(drop),
    ];
    let calls = [
        ("StartOperation", started),
        ("AcquireLease", acquired),
        ("RenewLease", vec![line.agent.renew_lease(renew).await.map(drop)]),
        ("ReleaseLease", vec![line.agent.release_lease(release).await.map(drop)]),
        ("Download", vec![line.transfer.download(download).await.map(drop)]),
        ("Upload", vec![line.transfer.upload(tokio_stream::iter(upload)).await.map(drop)]),
        ("KeepJournal", vec![journals.keep_journal(keep).await.map(drop)]),
    ];
    calls.into_iter().map(|(name, results)| (name.to_owned(), results)).collect()
}

/// All that is on the agent's disk, and what its UMS was asked to do.
fn whole(server: &Server) -> (BTreeMap<PathBuf, Vec<u8>>, [u32; 3]) {
    let mut files = BTreeMap::new();
    let mut left = vec![server.dir.path().to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                files.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
    }
    let counts = &server.ums.counts;
    (files, [&counts.back_up, &counts.restore, &counts.restart].map(FakeUms::count))
}

#[tokio::test]
async fn with_an_epoch_that_is_not_the_newest_no_call_changes_anything() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let anna = Person::coordinator(&ca);
    let mut line = anna.call(&server, &running).await;
    let expected = tls::identity_of(&server.issued.certificate).unwrap();
    let address = running.address.to_string();
    let channel = tls::connect(&address, &anna.tls, &expected, &tls::Patience::default()).await.unwrap();
    let mut journals = JournalsClient::new(channel);

    // A run that has done something, and by its newest lease may do more.
    line.acquire(RUN, 1).await.unwrap();
    line.upload(RUN, b"uploaded before").await.unwrap();
    line.safety_backup().await;
    line.acquire(RUN, 5).await.unwrap();
    let before = whole(&server);

    for (run, epoch) in [(RUN, 1), (RUN, 4), (OTHER_RUN, 4), (OTHER_RUN, 5)] {
        let calls = every_leased_call(&mut line, &mut journals, run, epoch, &server).await;
        let tried: BTreeSet<String> = calls.keys().cloned().collect();
        assert_eq!(tried, leased_calls(), "every call of the contract is tried");
        for (call, results) in calls {
            for result in results {
                let status = result.err().unwrap_or_else(|| panic!("{call} obeyed {run} with epoch {epoch}"));
                let code = Failure::from(&status).code;
                let fences = [Code::StaleEpoch, Code::LeaseHeld, Code::LeaseLost];
                assert!(fences.contains(&code), "{call} by {run} with epoch {epoch}: {status:?}");
                // The run's own newest epoch is what it is told of.
                assert!(run != RUN || code == Code::StaleEpoch, "{call}: {status:?}");
            }
            assert_eq!(whole(&server), before, "{call} by {run} with epoch {epoch} has changed something");
        }
    }
    // The same calls by whoever holds it are not refused for their lease.
    line.start_under(&step(60), lease(RUN, 5), Action::Restart { deadline_ms: None }).await.unwrap();
    line.result(&step(60)).await.unwrap();
    assert_ne!(whole(&server), before);
    running.kill().await;
}

/// An administrator breaks a lease: the agent names him to the run that had it, and to nobody an operation is taken away.
#[tokio::test]
async fn who_breaks_a_lease_is_named_to_the_run_that_had_it() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 3).await.unwrap();
    let breaking = |epoch| wire::AcquireLeaseRequest {
        cluster: CLUSTER.into(),
        run: OTHER_RUN.into(),
        epoch,
        holder: "coordinator bert (bert@admin2)".into(),
        ttl_seconds: 60,
        plan_digest: Vec::new(),
        breaks: Some(wire::BrokenLease { run: RUN.into(), epoch: 3 }),
    };
    let nonsense = wire::BrokenLease { run: "../lease".into(), epoch: 3 };
    let nonsense = wire::AcquireLeaseRequest { breaks: Some(nonsense), ..breaking(4) };
    let refused = Failure::from(&line.agent.acquire_lease(nonsense).await.unwrap_err());
    assert_eq!(refused.code, Code::InvalidRequest);

    server.ums.backing_up.shut();
    line.start_under(&step(1), lease(RUN, 3), Action::SafetyBackup).await.unwrap();
    server.ums.backing_up.reached().await;
    let refused = Failure::from(&line.agent.acquire_lease(breaking(4)).await.unwrap_err());
    assert_eq!(refused.code, Code::Busy, "{refused}");
    server.ums.backing_up.open();
    line.result(&step(1)).await.unwrap();

    line.agent.acquire_lease(breaking(4)).await.unwrap();
    let release = wire::ReleaseLeaseRequest { run: OTHER_RUN.into(), epoch: 4 };
    line.agent.release_lease(release).await.unwrap();
    let lost = line.start_under(&step(2), lease(RUN, 3), Action::SafetyBackup).await.unwrap_err();
    let lost = Failure::from(&lost);
    assert_eq!(lost.code, Code::StaleEpoch);
    assert!(lost.to_string().contains("coordinator bert (bert@admin2) unlocked this server at "), "{lost}");
    running.kill().await;
}
