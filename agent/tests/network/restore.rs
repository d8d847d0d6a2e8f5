use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access};
use umsid_common::seal::{self, Provenance, Recipient};
use umsid_common::tls::{Credentials, Files};
use umsid_proto::failure::Code;
use umsid_proto::model::{Action, Effect, RestoreSource, ServiceProcess, ServiceStatus, Success};
use umsid_proto::wire;
use umsid_testkit::{Ca, Wanted, scratch};

use crate::fake_ums::{FakeUms, print_of};
use crate::house::{
    CLUSTER, Line, OTHER_RUN, Person, RUN, Running, Server, digest_of, failure_of, handover, lease, record,
    restore, step,
};

/// A target with a safety backup, and a line to it.
async fn target(ca: &Ca) -> (Server, Running, Line, Digest) {
    let server = Server::new(ca, "ums2", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(ca).call(&server, &running).await;
    let net = line.safety_backup().await;
    (server, running, line, net)
}

/// What a sealed file is made of; each test changes one thing.
pub(crate) struct Forged<'a> {
    ca: &'a Ca,
    signer: Wanted,
    cluster: &'static str,
    source: &'static str,
    run: &'static str,
    id: &'static str,
    recipients: Vec<Recipient>,
    backup: Vec<u8>,
}

impl<'a> Forged<'a> {
    pub(crate) fn new(ca: &'a Ca, to: &Server) -> Self {
        Self {
            ca,
            signer: Wanted::uri(&ca.uri("agent/acme/ums1")),
            cluster: CLUSTER,
            source: "ums1",
            run: RUN,
            id: "main-id",
            recipients: vec![to.recipient()],
            backup: b"main-id\nsecret".to_vec(),
        }
    }

    pub(crate) fn seal(&self) -> Vec<u8> {
        let dir = scratch();
        self.ca.write(&self.ca.issue(&self.signer), dir.path());
        let signer = Credentials::load(&Files::in_dir(dir.path())).unwrap();
        let backup = dir.path().join("backup");
        durable::replace(&backup, &self.backup, Access::Private).unwrap();
        let provenance = Provenance {
            cluster: self.cluster.parse().unwrap(),
            run: self.run.parse().unwrap(),
            source: self.source.parse().unwrap(),
            fingerprint: Some(print_of(self.id)),
            ums_version: "12.09.110".into(),
            taken: Timestamp::now(),
        };
        let mut sealed = Vec::new();
        seal::seal(&backup, &"secret".into(), provenance, &self.recipients, &signer, &mut sealed).unwrap();
        sealed
    }
}

#[tokio::test]
async fn a_ums_id_goes_from_one_server_to_another_and_back() {
    let ca = Ca::new("test");
    let source = Server::new(&ca, "ums1", "main-id");
    let source_running = source.start().await;
    let (target, running, mut line, net) = target(&ca).await;
    let mut main = Person::coordinator(&ca).call(&source, &source_running).await;
    main.acquire(RUN, 1).await.unwrap();
    let digest = digest_of(main.perform(&step(2), handover(&[target.recipient()], "main-id")).await);
    let sealed = main.download(lease(RUN, 1), digest).await.unwrap();
    assert_eq!(line.upload(RUN, &sealed).await.unwrap(), digest);

    let action = restore(RestoreSource::Uploaded(digest), "main-id", "ums1", net);
    match line.perform(&step(3), action).await {
        Ok(Success::Restored { ums_ids, remarks }) => {
            assert_eq!(ums_ids.local, Some(print_of("main-id")));
            assert_eq!(remarks, ["a remark"]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(target.ums.local(), "main-id");
    assert!(target.files("work").is_empty());

    // Rolled back from its own vault.
    let back = restore(RestoreSource::SafetyBackup(net), "own-id", "ums2", net);
    assert!(line.perform(&step(4), back).await.is_ok());
    assert_eq!(target.ums.local(), "own-id");
    source_running.kill().await;
    running.kill().await;
}

#[tokio::test]
async fn without_a_safety_backup_nothing_is_restored() {
    let ca = Ca::new("test");
    let (server, running, mut line, net) = target(&ca).await;
    let digest = line.upload(RUN, &Forged::new(&ca, &server).seal()).await.unwrap();
    let uploaded = RestoreSource::Uploaded(digest);
    let missing = restore(uploaded, "main-id", "ums1", Digest::of(b"another"));
    assert_eq!(failure_of(line.perform(&step(2), missing).await), (Code::NoSafetyBackup, Effect::None));
    // The uploaded file is no safety backup, although it opens.
    let not_a_net = restore(uploaded, "main-id", "ums1", digest);
    assert_eq!(failure_of(line.perform(&step(3), not_a_net).await), (Code::NoSafetyBackup, Effect::None));

    // One bit of it is altered on the disk.
    let path = server.dir.path().join(format!("vault/{net}.age"));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    durable::replace(&path, &bytes, Access::Private).unwrap();
    let altered = restore(uploaded, "main-id", "ums1", net);
    assert_eq!(failure_of(line.perform(&step(4), altered).await), (Code::NoSafetyBackup, Effect::None));
    assert_eq!(FakeUms::count(&server.ums.counts.restore), 0);
    assert_eq!(server.ums.local(), "own-id");
    running.kill().await;
}

#[tokio::test]
async fn a_safety_backup_of_another_server_is_none_here() {
    let ca = Ca::new("test");
    let (server, running, mut line, _) = target(&ca).await;
    // Sealed to this server and signed by another agent of the cluster, put into the vault by hand.
    let sealed = Forged::new(&ca, &server).seal();
    let digest = Digest::of(&sealed);
    durable::replace(&server.dir.path().join(format!("vault/{digest}.age")), &sealed, Access::Private)
        .unwrap();
    let action = restore(RestoreSource::SafetyBackup(digest), "main-id", "ums1", digest);
    assert_eq!(failure_of(line.perform(&step(2), action).await), (Code::NoSafetyBackup, Effect::None));
    assert_eq!(FakeUms::count(&server.ums.counts.restore), 0);
    running.kill().await;
}

#[tokio::test]
async fn a_backup_that_is_not_the_plans_is_refused() {
    let ca = Ca::new("test");
    let foreign = Ca::new("test");
    let (server, running, mut line, net) = target(&ca).await;
    let good = || Forged::new(&ca, &server);
    let stranger = umsid_common::seal::SealKey::load_or_generate(&scratch().path().join("k")).unwrap();
    let cases: Vec<(&str, Forged<'_>, Code)> = vec![
        ("of another UMS ID", Forged { id: "old-id", ..good() }, Code::WrongIdentity),
        ("of another run", Forged { run: OTHER_RUN, ..good() }, Code::WrongIdentity),
        (
            "of another cluster",
            Forged { cluster: "umbrella", signer: Wanted::uri(&ca.uri("agent/umbrella/ums1")), ..good() },
            Code::WrongCluster,
        ),
        ("of another cluster by its own word", Forged { cluster: "umbrella", ..good() }, Code::WrongIdentity),
        ("of another server", Forged { source: "ums3", ..good() }, Code::WrongIdentity),
        (
            "another server's, rightly signed by it",
            Forged { source: "ums3", signer: Wanted::uri(&ca.uri("agent/acme/ums3")), ..good() },
            Code::WrongIdentity,
        ),
        (
            "signed by another agent",
            Forged { signer: Wanted::uri(&ca.uri("agent/acme/ums3")), ..good() },
            Code::WrongIdentity,
        ),
        (
            "signed by an agent of that name elsewhere",
            Forged { signer: Wanted::uri(&ca.uri("agent/umbrella/ums1")), ..good() },
            Code::WrongIdentity,
        ),
        (
            "signed by a coordinator",
            Forged { signer: Wanted::uri(&ca.uri("coordinator/anna")), ..good() },
            Code::WrongIdentity,
        ),
        ("signed under another authority", Forged { ca: &foreign, ..good() }, Code::WrongIdentity),
        (
            "not sealed to this server",
            Forged { recipients: vec![stranger.recipient()], ..good() },
            Code::BadBackup,
        ),
    ];
    for (number, (what, forged, code)) in cases.into_iter().enumerate() {
        let digest = line.upload(RUN, &forged.seal()).await.unwrap();
        let action = restore(RestoreSource::Uploaded(digest), "main-id", "ums1", net);
        let result = line.perform(&step(10 + number as u32), action).await;
        assert_eq!(failure_of(result), (code, Effect::None), "{what}");
    }
    assert_eq!(FakeUms::count(&server.ums.counts.restore), 0);
    // The control: nothing but the one thing changed was wrong with them.
    let digest = line.upload(RUN, &good().seal()).await.unwrap();
    line.perform(&step(99), restore(RestoreSource::Uploaded(digest), "main-id", "ums1", net)).await.unwrap();
    running.kill().await;
}

#[tokio::test]
async fn a_signer_revoked_since_is_refused() {
    let ca = Ca::new("test");
    let (server, running, mut line, net) = target(&ca).await;
    let source = ca.agent("acme", "ums1");
    let forged = Forged {
        signer: Wanted::uri(&ca.uri("agent/acme/ums1")).with_key(&source.key_pem),
        ..Forged::new(&ca, &server)
    };
    let dir = scratch();
    ca.write(&source, dir.path());
    let signer = Credentials::load(&Files::in_dir(dir.path())).unwrap();
    let backup = dir.path().join("backup");
    durable::replace(&backup, &forged.backup, Access::Private).unwrap();
    let provenance = Provenance {
        cluster: CLUSTER.parse().unwrap(),
        run: RUN.parse().unwrap(),
        source: "ums1".parse().unwrap(),
        fingerprint: Some(print_of("main-id")),
        ums_version: String::new(),
        taken: Timestamp::now(),
    };
    let mut sealed = Vec::new();
    seal::seal(&backup, &"secret".into(), provenance, &forged.recipients, &signer, &mut sealed).unwrap();
    let digest = line.upload(RUN, &sealed).await.unwrap();
    ca.revoke(&source);
    let push = umsid_proto::wire::PushTrustRequest {
        anchors_pem: ca.anchors_pem(),
        crls_pem: ca.crls_pem(),
        crl_number: ca.crl_number(),
    };
    line.agent.push_trust(push).await.unwrap();
    let action = restore(RestoreSource::Uploaded(digest), "main-id", "ums1", net);
    assert_eq!(failure_of(line.perform(&step(2), action).await), (Code::WrongIdentity, Effect::None));
    assert_eq!(FakeUms::count(&server.ums.counts.restore), 0);
    running.kill().await;
}

#[tokio::test]
async fn a_file_of_another_run_or_made_for_others_is_not_there() {
    let ca = Ca::new("test");
    let (server, running, mut line, net) = target(&ca).await;
    let absent = restore(RestoreSource::Uploaded(Digest::of(b"?")), "main-id", "ums1", net);
    assert_eq!(failure_of(line.perform(&step(2), absent).await), (Code::NotFound, Effect::None));
    let made = digest_of(line.perform(&step(3), handover(&[server.recipient()], "own-id")).await);
    let own = restore(RestoreSource::Uploaded(made), "own-id", "ums2", net);
    assert_eq!(failure_of(line.perform(&step(4), own).await), (Code::NotFound, Effect::None));
    running.kill().await;
}

#[tokio::test]
async fn the_record_says_started_before_the_ums_is_touched() {
    let ca = Ca::new("test");
    let (server, running, mut line, net) = target(&ca).await;
    let digest = line.upload(RUN, &Forged::new(&ca, &server).seal()).await.unwrap();
    let seen = Arc::new(AtomicBool::new(false));
    let (dir, id, tell) = (server.dir.path().to_owned(), step(2), seen.clone());
    *server.ums.at_restore.lock().unwrap() = Some(Box::new(move || {
        let record = record(Path::new(&dir), &id).expect("it is on record");
        let before = &record["started"]["before"];
        assert_eq!(before["local"], print_of("own-id").to_string(), "{record}");
        assert!(record["started"]["program"].is_null());
        assert_eq!(record["action"]["action"], "restore");
        tell.store(true, Ordering::SeqCst);
    }));
    server.ums.restoring.shut();
    line.start(&step(2), restore(RestoreSource::Uploaded(digest), "main-id", "ums1", net)).await.unwrap();
    server.ums.restoring.reached().await;
    assert_eq!(server.record(&step(2)).unwrap()["started"]["program"][0], 4242);
    server.ums.restoring.open();
    line.result(&step(2)).await.unwrap();
    assert!(seen.load(Ordering::SeqCst));
    running.kill().await;
}

#[tokio::test]
async fn success_without_effect_is_a_failure() {
    let ca = Ca::new("test");
    let (server, running, mut line, net) = target(&ca).await;
    let digest = line.upload(RUN, &Forged::new(&ca, &server).seal()).await.unwrap();
    let action = restore(RestoreSource::Uploaded(digest), "main-id", "ums1", net);
    server.ums.set(|state| state.restore_lies = true);
    assert_eq!(failure_of(line.perform(&step(2), action.clone()).await), (Code::NoEffect, Effect::Possible));
    server.ums.set(|state| {
        state.restore_lies = false;
        state.restore_mixes_up = Some("third-id".into());
    });
    assert_eq!(
        failure_of(line.perform(&step(3), action.clone()).await),
        (Code::WrongIdentity, Effect::Possible)
    );
    // What a failed restore left behind is in no safety backup: nothing goes over it but the way back.
    let count = FakeUms::count(&server.ums.counts.restore);
    assert_eq!(
        failure_of(line.perform(&step(13), action.clone()).await),
        (Code::NoSafetyBackup, Effect::None)
    );
    assert_eq!(FakeUms::count(&server.ums.counts.restore), count);
    server.ums.set(|state| state.restore_mixes_up = None);
    let back = restore(RestoreSource::SafetyBackup(net), "own-id", "ums2", net);
    assert!(line.perform(&step(14), back).await.is_ok());
    assert_eq!(server.ums.local(), "own-id");

    server.ums.set(|state| state.fail_restore = Some(Effect::Possible));
    assert_eq!(
        failure_of(line.perform(&step(4), action.clone()).await),
        (Code::CommandFailed, Effect::Possible)
    );
    server.ums.set(|state| state.fail_restore = Some(Effect::None));
    assert_eq!(failure_of(line.perform(&step(5), action).await), (Code::CommandFailed, Effect::None));
    let wrong = Forged { backup: b"main-id\nanother".to_vec(), ..Forged::new(&ca, &server) };
    let digest = line.upload(RUN, &wrong.seal()).await.unwrap();
    let action = restore(RestoreSource::Uploaded(digest), "main-id", "ums1", net);
    assert_eq!(failure_of(line.perform(&step(6), action).await), (Code::WrongPassword, Effect::None));
    assert!(server.files("work").is_empty());
    running.kill().await;
}

async fn restart_due(line: &mut Line) -> bool {
    line.agent.inspect(wire::InspectRequest { quick: true }).await.unwrap().into_inner().restart_due
}

#[tokio::test]
async fn after_a_restore_a_restart_is_due_until_another_process_runs() {
    let ca = Ca::new("test");
    let (server, running, mut line, net) = target(&ca).await;
    let ums = &server.ums;
    let back = || restore(RestoreSource::SafetyBackup(net), "own-id", "ums2", net);
    ums.set(|state| state.fail_restore = Some(Effect::None));
    assert_eq!(failure_of(line.perform(&step(2), back()).await), (Code::CommandFailed, Effect::None));
    assert!(!restart_due(&mut line).await, "nothing was changed");
    ums.set(|state| state.fail_restore = None);

    // A rehearsal counts the same.
    line.perform(&step(3), back()).await.unwrap();
    assert!(restart_due(&mut line).await);
    ums.set(|state| state.fail_restart = true);
    let restart = || Action::Restart { deadline_ms: None };
    line.perform(&step(4), restart()).await.unwrap_err();
    assert!(restart_due(&mut line).await, "the same process still runs");
    ums.set(|state| state.status = ServiceStatus::Stopped);
    assert!(restart_due(&mut line).await);
    line.perform(&format!("{RUN}.4.2"), restart()).await.unwrap_err();
    ums.set(|state| state.status = ServiceStatus::Running);
    assert!(
        restart_due(&mut line).await,
        "the same process runs on, though it was not seen before the restart"
    );
    ums.set(|state| state.status = ServiceStatus::Stopped);
    ums.set(|state| {
        state.status = ServiceStatus::Running;
        state.fail_restart = false;
    });
    line.perform(&step(5), restart()).await.unwrap();
    assert!(!restart_due(&mut line).await);
    ums.set(|state| state.status = ServiceStatus::Stopped);
    assert!(!restart_due(&mut line).await, "it was started since");
    ums.set(|state| state.status = ServiceStatus::Running);

    // It is known after a restart of the agent too, and a restart by hand counts.
    ums.set(|state| state.restore_lies = true);
    line.perform(&step(6), restore(RestoreSource::SafetyBackup(net), "own-id", "ums2", net)).await.unwrap();
    running.kill().await;
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    assert!(restart_due(&mut line).await);
    ums.set(|state| state.process = ServiceProcess { pid: 7, started: Timestamp::now() });
    assert!(!restart_due(&mut line).await);
    running.kill().await;
}

#[tokio::test]
async fn a_restore_that_failed_and_changed_nothing_has_no_effect() {
    let ca = Ca::new("test");
    let (server, running, mut line, net) = target(&ca).await;
    let ums = &server.ums;
    let digest = line.upload(RUN, &Forged::new(&ca, &server).seal()).await.unwrap();
    let action = || restore(RestoreSource::Uploaded(digest), "main-id", "ums1", net);
    ums.set(|state| {
        state.fail_restore = Some(Effect::Possible);
        state.restore_lies = true;
    });
    match line.perform(&step(2), action()).await {
        Err(umsid_proto::model::Trouble::Failed { failure, effect: Effect::None }) => {
            assert_eq!(failure.code, Code::CommandFailed);
            let text = failure.to_string();
            assert!(text.contains("exit status 1") && text.contains("still is"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!restart_due(&mut line).await);
    ums.set(|state| state.tells = false);
    assert_eq!(failure_of(line.perform(&step(3), action()).await), (Code::CommandFailed, Effect::Possible));
    ums.set(|state| state.tells = true);

    // It was another process, or none, that ran afterwards.
    for number in [4, 5] {
        ums.restoring.shut();
        line.start(&step(number), action()).await.unwrap();
        ums.restoring.reached().await;
        if number == 4 {
            ums.replace_process();
        } else {
            ums.set(|state| state.status = ServiceStatus::Stopped);
        }
        ums.restoring.open();
        assert_eq!(failure_of(line.result(&step(number)).await), (Code::CommandFailed, Effect::Possible));
    }
    running.kill().await;
}
