//! Requests that are too large, said twice, or name what is not theirs to name.

use std::collections::BTreeMap;
use std::path::Path;

use tonic::Request;
use umsid_agent::config::Behind;
use umsid_common::tls::{self, Patience};
use umsid_proto::failure::Code;
use umsid_proto::model::{Action, RestoreSource};
use umsid_proto::{LARGEST_MESSAGE, wire};
use umsid_testkit::Ca;

use crate::fake_ums::FakeUms;
use crate::house::{
    CLUSTER, Line, OTHER_RUN, Person, RUN, Server, code_of, lease, restore, step, upload_messages,
};

/// The paths of all calls of the contract but those of enrolment, as its files say.
fn every_path() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/umsid/v1");
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let mut service = String::new();
        for line in std::fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
            let word = |rest: &str, end| rest.split(end).next().unwrap().to_owned();
            if let Some(rest) = line.strip_prefix("service ") {
                service = word(rest, ' ');
            }
            if let Some(rest) = line.trim().strip_prefix("rpc ")
                && service != "Enrollment"
            {
                paths.push(format!("/umsid.v1.{service}/{}", word(rest, '(')));
            }
        }
    }
    paths
}

#[tokio::test]
async fn no_call_takes_a_message_that_is_too_large() {
    let ca = Ca::new("test");
    let mut server = Server::new(&ca, "ums1", "own-id");
    server.config.gateway.servers = [("ums2".parse().unwrap(), Behind::Tunnel)].into();
    let running = server.start().await;
    let expected = tls::identity_of(&server.issued.certificate).unwrap();
    let (anna, neighbour) = (Person::coordinator(&ca), Person::new(&ca, &ca.agent(CLUSTER, "ums2")));
    let address = running.address.to_string();
    let channel = tls::connect(&address, &anna.tls, &expected, &Patience::default()).await.unwrap();
    let of_agent = tls::connect(&address, &neighbour.tls, &expected, &Patience::default()).await.unwrap();
    let paths = every_path();
    assert!(paths.len() >= 13, "{paths:?}");
    for path in paths {
        // Who may call is looked at before anything is read: only agents keep tunnels.
        let of_a_tunnel = path.ends_with("/KeepTunnel") || path.ends_with("/Answer");
        let caller = if of_a_tunnel { &of_agent } else { &channel };
        let mut grpc = tonic::client::Grpc::new(caller.clone());
        // Its length is looked at before its meaning, so any message will do.
        let codec = tonic_prost::ProstCodec::<wire::Chunk, wire::Chunk>::default();
        let large = wire::Chunk { data: vec![0; LARGEST_MESSAGE + 1] };
        grpc.ready().await.unwrap();
        let answer = grpc.unary(Request::new(large), path.parse().unwrap(), codec).await;
        let status = answer.expect_err(&path);
        assert_eq!(status.code(), tonic::Code::OutOfRange, "{path}: {status}");
        assert!(status.message().contains("length too large"), "{path}: {status}");
    }
    running.kill().await;
}

/// Without a limit tonic sends messages of any length: whoever adds a service is reminded here.
#[test]
fn every_service_has_a_limit_both_ways() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut left = vec![src];
    let mut services = 0;
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, made) in text.match_indices("Server::new(").chain(text.match_indices("Server::from_arc(")) {
            let limits = &text[at..(at + 200).min(text.len())];
            for limit in [".max_decoding_message_size(largest)", ".max_encoding_message_size(largest)"] {
                assert!(limits.contains(limit), "{}: …{made}…) without {limit}", path.display());
            }
            services += 1;
        }
    }
    assert!(services >= 4, "{services} services found");
}

/// Every file of a directory with its content; not the lock, which nobody may read while it is held everywhere.
fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if !path.ends_with("lock") {
            files.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    files
}

async fn watched(line: &mut Line, id: &str) -> Code {
    code_of(
        line.operations.watch_operation(wire::WatchOperationRequest { id: id.into(), from_event: 0 }).await,
    )
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused_at_the_door() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.safety_backup().await;
    let before = content(server.dir.path());
    let names = [
        "..",
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\Windows\\win.ini",
        "a/b",
        "a\0b",
        "a\nb",
        "\u{1b}[2J",
        "",
        " ",
        ".",
        // With a Cyrillic letter, a fullwidth one, a letter that no eye sees, one that reads from right to left.
        "\u{0430}cme",
        "\u{ff41}cme",
        "ac\u{200b}me",
        "\u{202e}emca",
        "ACME",
    ];
    for name in names {
        let run = |text: &str| text.replace("20261122", name);
        for bad in [name.to_owned(), run(RUN), format!("{RUN}{name}x")] {
            let id = format!("{bad}.1.1");
            let begun = line.start_under(&id, lease(RUN, 1), Action::SafetyBackup).await;
            assert_eq!(code_of(begun), Code::InvalidRequest, "{bad:?}");
            let begun = line.start_under(&step(7), lease(&bad, 1), Action::SafetyBackup).await;
            assert_eq!(code_of(begun), Code::InvalidRequest, "{bad:?}");
            assert_eq!(watched(&mut line, &id).await, Code::InvalidRequest, "{bad:?}");
            assert_eq!(code_of(line.acquire(&bad, 9).await), Code::InvalidRequest, "{bad:?}");
            let renew = wire::RenewLeaseRequest { run: bad.clone(), epoch: 1 };
            assert_eq!(code_of(line.agent.renew_lease(renew).await), Code::InvalidRequest, "{bad:?}");
            if !bad.is_empty() {
                let list = wire::ListOperationsRequest { run: bad.clone() };
                let listed = line.operations.list_operations(list).await;
                assert_eq!(code_of(listed), Code::InvalidRequest, "{bad:?}");
            }
        }
        for step_and_attempt in ["1.1/..", "1.1\0", "..", "1.-1", "1.1.1", "\u{0661}.1"] {
            assert_eq!(watched(&mut line, &format!("{RUN}.{step_and_attempt}")).await, Code::InvalidRequest);
        }
        let request = wire::AcquireLeaseRequest {
            cluster: name.into(),
            run: RUN.into(),
            epoch: 9,
            holder: "x".into(),
            ttl_seconds: 60,
            ..wire::AcquireLeaseRequest::default()
        };
        assert_eq!(code_of(line.agent.acquire_lease(request).await), Code::WrongCluster, "{name:?}");
        // A digest is 32 bytes and nothing else; a server has a name of ours; a recipient is a key.
        let asked = wire::DownloadRequest { lease: Some(lease(RUN, 1)), digest: name.as_bytes().to_vec() };
        assert_eq!(code_of(line.transfer.download(asked).await), Code::InvalidRequest, "{name:?}");
        use wire::start_operation_request::What;
        let action = restore(
            RestoreSource::Uploaded(umsid_common::digest::Digest::of(b"")),
            "main-id",
            "ums1",
            umsid_common::digest::Digest::of(b""),
        );
        let What::Restore(mut from) = What::from(action) else { panic!("a restore") };
        from.source_server = format!("ums1{name}/");
        let handover = wire::Handover { recipients: vec![name.into()], expected: None };
        for what in [What::Restore(from), What::Backup(wire::Backup { handover: Some(handover) })] {
            let request =
                wire::StartOperationRequest { id: step(8), lease: Some(lease(RUN, 1)), what: Some(what) };
            let begun = line.operations.start_operation(request).await;
            assert_eq!(code_of(begun), Code::InvalidRequest, "{name:?}");
        }
    }
    assert!(
        content(server.dir.path()) == before,
        "something was written: {:?}",
        content(server.dir.path()).keys()
    );
    running.kill().await;
}

/// What was said in a run that is over is said again, word for word, by somebody who recorded it.
#[tokio::test]
async fn a_request_said_again_has_no_effect() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let restart = Action::Restart { deadline_ms: None };
    line.perform(&step(1), restart.clone()).await.unwrap();
    let uploaded = b"sealed".repeat(10);
    let digest = line.upload(RUN, &uploaded).await.unwrap();
    line.perform(&step(2), Action::Discard).await.unwrap();
    let release = wire::ReleaseLeaseRequest { run: RUN.into(), epoch: 1 };
    line.agent.release_lease(release.clone()).await.unwrap();

    let replay = async |line: &mut Line, code: Code| {
        // The same, and what was not said before, under the old right.
        let again = line.start(&step(1), restart.clone()).await;
        if let Ok(again) = again {
            assert_eq!(
                again.state(),
                wire::OperationState::Finished,
                "the recorded outcome, no second effect"
            );
        }
        assert_eq!(code_of(line.start(&step(3), restart.clone()).await), code);
        let messages = upload_messages(RUN, digest, uploaded.len() as u64, vec![uploaded.clone()]);
        assert_eq!(code_of(line.transfer.upload(tokio_stream::iter(messages)).await), code);
        let renew = wire::RenewLeaseRequest { run: RUN.into(), epoch: 1 };
        assert_eq!(code_of(line.agent.renew_lease(renew).await), code);
    };
    replay(&mut line, Code::LeaseLost).await;
    // Another run has been there since: the old right cannot even be asked for again.
    line.acquire(OTHER_RUN, 2).await.unwrap();
    replay(&mut line, Code::StaleEpoch).await;
    assert_eq!(code_of(line.acquire(RUN, 1).await), Code::LeaseHeld);
    assert_eq!(code_of(line.agent.release_lease(release).await), Code::StaleEpoch);
    let release = wire::ReleaseLeaseRequest { run: OTHER_RUN.into(), epoch: 2 };
    line.agent.release_lease(release).await.unwrap();
    assert_eq!(code_of(line.acquire(RUN, 1).await), Code::StaleEpoch);
    assert_eq!(FakeUms::count(&server.ums.counts.restart), 1);
    assert!(server.files("spool").is_empty());
    running.kill().await;
}
