use umsid_common::tls::{Files, Tls};
use umsid_proto::failure::Code;
use umsid_proto::wire;
use umsid_testkit::{Ca, Wanted};

use crate::house::{Line, Person, Server, code_of};

const HELLO: wire::HelloRequest = wire::HelloRequest { protocol_min: 1, protocol_max: 1 };

fn trust(ca: &Ca) -> wire::PushTrustRequest {
    wire::PushTrustRequest {
        anchors_pem: ca.anchors_pem(),
        crls_pem: ca.crls_pem(),
        crl_number: ca.crl_number(),
    }
}

#[tokio::test]
async fn a_revoked_coordinator_is_cut_off_on_its_open_connection() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let lost = ca.coordinator("lost");
    let thief = Person::new(&ca, &lost);
    let mut stolen = thief.call(&server, &running).await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    stolen.agent.hello(HELLO).await.unwrap();
    ca.revoke(&lost);
    let pushed = line.agent.push_trust(trust(&ca)).await.unwrap().into_inner();
    assert_eq!(pushed.crl_number, 2);
    // The door refuses it, or there is no connection any more, and none is made.
    stolen.agent.hello(HELLO).await.expect_err("it was not refused");
    assert_eq!(line.agent.hello(HELLO).await.unwrap().into_inner().crl_number, 2);
    running.kill().await;

    // It is on disk.
    let running = server.start().await;
    assert!(thief.try_call(&server, &running).await.is_err());
    running.kill().await;
}

#[tokio::test]
async fn trust_that_would_harm_is_not_put_into_place() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    let first = trust(&ca);
    ca.revoke(&ca.coordinator("lost"));
    line.agent.push_trust(trust(&ca)).await.unwrap();

    let foreign = Ca::new("test");
    let bad = [
        ("an older list", first),
        ("anchors that do not bear our own certificate", trust(&foreign)),
        (
            "a list that is not of the anchor",
            wire::PushTrustRequest { crls_pem: foreign.crls_pem(), ..trust(&ca) },
        ),
        ("a wrong number", wire::PushTrustRequest { crl_number: 99, ..trust(&ca) }),
        ("no list", wire::PushTrustRequest { crls_pem: String::new(), ..trust(&ca) }),
        ("no PEM", wire::PushTrustRequest { anchors_pem: "x".into(), ..trust(&ca) }),
    ];
    for (what, push) in bad {
        assert_eq!(code_of(line.agent.push_trust(push).await), Code::Certificate, "{what}");
        assert_eq!(line.agent.hello(HELLO).await.unwrap().into_inner().crl_number, 2, "{what}");
    }
    assert!(server.files("work").is_empty());
    // The same again is no harm.
    line.agent.push_trust(trust(&ca)).await.unwrap();
    running.kill().await;
}

async fn renewed(line: &mut Line, ca: &Ca, uri: &str) -> Result<i64, tonic::Status> {
    let csr = line.agent.begin_renewal(wire::BeginRenewalRequest {}).await?.into_inner().csr;
    let now = std::time::SystemTime::now();
    let days = std::time::Duration::from_secs(30 * 24 * 3600);
    let wanted = Wanted::uri(uri).lasting(now - std::time::Duration::from_secs(60), now + days);
    let certificate_pem = ca.issue_for_request(&csr, &wanted);
    let complete = wire::CompleteRenewalRequest { certificate_pem };
    Ok(line.agent.complete_renewal(complete).await?.into_inner().certificate_not_after_unix_ms)
}

#[tokio::test]
async fn a_certificate_is_renewed_with_a_new_key() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let anna = Person::coordinator(&ca);
    let mut line = anna.call(&server, &running).await;
    let before = line.agent.hello(HELLO).await.unwrap().into_inner().certificate_not_after_unix_ms;
    let key_before = std::fs::read(server.dir.path().join("key.pem")).unwrap();
    let not_after = renewed(&mut line, &ca, &ca.uri("agent/acme/ums1")).await.unwrap();
    assert!(not_after > before);
    assert_ne!(std::fs::read(server.dir.path().join("key.pem")).unwrap(), key_before);
    // The open connection goes on, a new one meets the new certificate, and so does an agent started again.
    assert_eq!(line.agent.hello(HELLO).await.unwrap().into_inner().certificate_not_after_unix_ms, not_after);
    anna.call(&server, &running).await.agent.hello(HELLO).await.unwrap();
    running.kill().await;
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    assert_eq!(line.agent.hello(HELLO).await.unwrap().into_inner().certificate_not_after_unix_ms, not_after);
    running.kill().await;
}

#[tokio::test]
async fn a_renewed_certificate_must_be_ours() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    let key_before = std::fs::read(server.dir.path().join("key.pem")).unwrap();
    let own = ca.uri("agent/acme/ums1");
    assert_eq!(code_of(renewed(&mut line, &ca, &ca.uri("agent/acme/ums2")).await), Code::Certificate);
    assert_eq!(code_of(renewed(&mut line, &Ca::new("test"), &own).await), Code::Certificate);
    // For another key.
    let other = wire::CompleteRenewalRequest { certificate_pem: ca.agent("acme", "ums1").certificate_pem };
    assert_eq!(code_of(line.agent.complete_renewal(other.clone()).await), Code::Certificate);
    assert_eq!(std::fs::read(server.dir.path().join("key.pem")).unwrap(), key_before);
    assert!(server.files("work").is_empty());
    running.kill().await;

    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    assert_eq!(code_of(line.agent.complete_renewal(other).await), Code::NotFound, "nothing was begun");
    running.kill().await;
}

#[tokio::test]
async fn a_change_that_was_decided_is_carried_out_at_the_next_start() {
    use umsid_common::durable::{self, Access};
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let new = ca.agent("acme", "ums1");
    // As a crash leaves it after the first of the two files was put into place.
    let change = serde_json::json!({
        "certificate": new.certificate_pem, "key": new.key_pem,
        "anchors": null, "crls": null, "enrolment": null,
    });
    let put = |name: &str, text: &str| {
        durable::replace(&server.dir.path().join(name), text.as_bytes(), Access::Private).unwrap();
    };
    put("change.json", &change.to_string());
    put("key.pem", &new.key_pem);
    assert!(Tls::load(Files::in_dir(server.dir.path())).is_err(), "they do not belong together");
    let running = server.start().await;
    let tls = Tls::load(Files::in_dir(server.dir.path())).unwrap();
    assert_eq!(tls.current().chain()[0], new.certificate);
    assert!(!server.dir.path().join("change.json").exists());
    running.kill().await;
}
