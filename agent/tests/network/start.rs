use std::path::Path;

use umsid_agent::config::CommandLine;
use umsid_agent::exec::{Program, Rules};
use umsid_agent::server::StartError;
use umsid_agent::state::StateError;
use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access};
use umsid_common::tls::TlsError;
use umsid_proto::wire;
use umsid_testkit::{Ca, scratch};

use crate::house::{Person, SOON, Server, step};

fn text_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn refusal(server: &Server) -> StartError {
    server.try_start().map(drop).expect_err("it must not start")
}

#[tokio::test]
async fn a_server_that_is_not_enrolled_says_what_to_type() {
    let server = Server::new(&Ca::new("test"), "ums1", "own-id");
    durable::remove(&server.dir.path().join("enrolment.json")).unwrap();
    let error = refusal(&server);
    assert!(matches!(error, StartError::State(StateError::NotEnrolled { .. })));
    assert!(text_of(&error).contains("umsid-agent enroll"), "{}", text_of(&error));
}

#[tokio::test]
async fn two_agents_never_use_one_state_directory() {
    let server = Server::new(&Ca::new("test"), "ums1", "own-id");
    let running = server.start().await;
    assert!(matches!(refusal(&server), StartError::State(StateError::InUse { .. })));
    running.kill().await;
    server.start().await.kill().await;
}

#[tokio::test]
async fn damaged_is_not_absent() {
    let server = Server::new(&Ca::new("test"), "ums1", "own-id");
    let running = server.start().await;
    running.kill().await;
    let files =
        ["lease.json", "enrolment.json", "vault/good-sync.json", &format!("operations/{}.json", step(1))];
    for name in files {
        let path = server.dir.path().join(name);
        let before = durable::read_optional(&path).unwrap();
        durable::replace(&path, b"{\"half\": ", Access::Private).unwrap();
        let error = refusal(&server);
        assert!(
            matches!(error, StartError::State(StateError::Damaged { .. })),
            "{name}: {}",
            text_of(&error)
        );
        assert!(text_of(&error).contains(name), "{}", text_of(&error));
        match before {
            Some(bytes) => durable::replace(&path, &bytes, Access::Private).unwrap(),
            None => drop(durable::remove(&path).unwrap()),
        }
    }
    server.start().await.kill().await;
}

/// What is told of a damaged file: by a start, and by `umsid-agent doctor`.
#[tokio::test]
async fn whoever_meets_damage_is_told_what_to_do() {
    let server = Server::new(&Ca::new("test"), "ums1", "own-id");
    server.start().await.kill().await;
    let config = scratch();
    let config = config.path().join("agent.toml");
    let text = format!("state_dir = \"{}\"\nlisten = \"127.0.0.1:0\"\n", server.dir.path().display());
    durable::replace(&config, text.as_bytes(), Access::Private).unwrap();
    let doctor = async || {
        let mut out = Vec::new();
        umsid_agent::doctor::show(&server.config, "/no/helper".as_ref(), &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    };
    let agent = CommandLine::program(Path::new(env!("CARGO_BIN_EXE_umsid-agent")));
    let agent = agent.with(["--config", &config.to_string_lossy(), "run"]);
    let rules = Rules::of(&server.config);
    let digest = Digest::of(b"x");
    let cases = [
        ("lease.json".to_owned(), "no run is at work"),
        ("vault/good-sync.json".into(), "No safety backup is lost"),
        (format!("operations/{}.json", step(1)), "is not known then"),
        (format!("spool/{digest}.json"), "has to be begun anew"),
    ];
    let well = doctor().await;
    assert!(!well.contains("does not start"), "{well}");
    // A note without its file would be swept.
    let sealed = server.dir.path().join(format!("spool/{digest}.age"));
    for (name, cost) in &cases {
        let path = server.dir.path().join(name);
        durable::replace(&path, b"{\"half\": ", Access::Private).unwrap();
        durable::replace(&sealed, b"x", Access::Private).unwrap();
        let agent = Program::new(agent.clone(), &rules, SOON).run().await.unwrap();
        let said = agent.raw.stderr;
        let told = "what to do: ";
        assert!(agent.raw.status == Some(1) && said.contains(told) && said.contains(cost), "{name}: {said}");
        // Only what is damaged is to be moved away.
        assert!(said.contains(&format!("move {}", path.display())) || said.contains("then move"), "{said}");
        std::fs::remove_file(&path).unwrap();
    }
    for (name, _) in &cases {
        durable::replace(&server.dir.path().join(name), b"{\"half\": ", Access::Private).unwrap();
    }
    durable::replace(&sealed, b"x", Access::Private).unwrap();
    let said = doctor().await;
    for (name, cost) in &cases {
        assert!(said.contains(name) && said.contains(cost), "{name}: {said}");
    }
    assert!(sealed.exists(), "the doctor changes nothing");
}

#[tokio::test]
async fn a_certificate_of_another_server_is_refused() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    ca.write(&ca.agent("acme", "ums2"), server.dir.path());
    assert!(matches!(refusal(&server), StartError::Identity { .. }));
    ca.write(&ca.coordinator("anna"), server.dir.path());
    assert!(matches!(refusal(&server), StartError::Identity { .. }));
    std::fs::remove_file(server.dir.path().join("crls.pem")).unwrap();
    assert!(matches!(refusal(&server), StartError::Tls(TlsError::Read { .. })));
}

#[tokio::test]
async fn what_a_crash_left_is_swept() {
    let server = Server::new(&Ca::new("test"), "ums1", "own-id");
    server.start().await.kill().await;
    let digest = umsid_common::digest::Digest::of(b"x");
    let left = [
        "work/ums-id.ksbak".to_owned(),
        "spool/abcdef.incoming".into(),
        "vault/abcdef.incoming".into(),
        format!("spool/{digest}.age"),
    ];
    for name in &left {
        durable::replace(&server.dir.path().join(name), b"x", Access::Private).unwrap();
    }
    std::fs::create_dir(server.dir.path().join("work/backup-1")).unwrap();
    let running = server.start().await;
    for dir in ["work", "spool", "vault"] {
        assert!(server.files(dir).is_empty(), "{dir}: {:?}", server.files(dir));
    }
    running.kill().await;
}

#[tokio::test]
async fn a_damaged_safety_backup_is_reported_and_does_not_count() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let anna = Person::coordinator(&ca);
    let running = server.start().await;
    let net = anna.call(&server, &running).await.safety_backup().await;
    running.kill().await;
    let path = server.dir.path().join(format!("vault/{net}.age"));
    let bytes = std::fs::read(&path).unwrap();
    durable::replace(&path, &bytes[..bytes.len() - 1], Access::Private).unwrap();

    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    let inspection = line.agent.inspect(wire::InspectRequest { quick: true }).await.unwrap().into_inner();
    assert!(inspection.safety_backups.is_empty());
    assert!(inspection.problems.iter().any(|problem| problem.contains(&net.to_string())));
    assert!(path.exists(), "nothing that might still be needed is removed");
    running.kill().await;
}
