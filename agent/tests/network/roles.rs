use tonic::Status;
use umsid_common::tls;
use umsid_proto::failure::Code;
use umsid_proto::wire;
use umsid_testkit::{Ca, Wanted};

use crate::house::{Line, Person, RUN, Server, code_of, lease};

/// Every call of the contract, with nothing in it.
async fn every_call(line: &mut Line) -> Vec<(&'static str, Result<(), Status>)> {
    let Line { agent, operations, transfer, journals, gateway } = line;
    let start = wire::StartOperationRequest {
        id: format!("{RUN}.1.1"),
        lease: Some(lease(RUN, 1)),
        what: Some(wire::start_operation_request::What::Discard(wire::Discard {})),
    };
    let upload = tokio_stream::iter([wire::UploadMessage::default()]);
    vec![
        ("hello", agent.hello(wire::HelloRequest { protocol_min: 1, protocol_max: 1 }).await.map(drop)),
        ("inspect", agent.inspect(wire::InspectRequest { quick: true }).await.map(drop)),
        ("acquire", agent.acquire_lease(wire::AcquireLeaseRequest::default()).await.map(drop)),
        ("renew", agent.renew_lease(wire::RenewLeaseRequest::default()).await.map(drop)),
        ("release", agent.release_lease(wire::ReleaseLeaseRequest::default()).await.map(drop)),
        ("push", agent.push_trust(wire::PushTrustRequest::default()).await.map(drop)),
        ("begin", agent.begin_renewal(wire::BeginRenewalRequest {}).await.map(drop)),
        ("complete", agent.complete_renewal(wire::CompleteRenewalRequest::default()).await.map(drop)),
        ("start", operations.start_operation(start).await.map(drop)),
        ("watch", operations.watch_operation(wire::WatchOperationRequest::default()).await.map(drop)),
        ("list", operations.list_operations(wire::ListOperationsRequest::default()).await.map(drop)),
        ("download", transfer.download(wire::DownloadRequest::default()).await.map(drop)),
        ("upload", transfer.upload(upload).await.map(drop)),
        ("keep", journals.keep_journal(wire::KeepJournalRequest::default()).await.map(drop)),
        ("journals", journals.list_journals(wire::ListJournalsRequest {}).await.map(drop)),
        ("read", journals.read_journal(wire::ReadJournalRequest::default()).await.map(drop)),
        ("forward", gateway.forward(tokio_stream::iter([wire::ForwardMessage::default()])).await.map(drop)),
        ("tunnel", gateway.keep_tunnel(wire::KeepTunnelRequest {}).await.map(drop)),
        ("answer", gateway.answer(tokio_stream::iter([wire::AnswerMessage::default()])).await.map(drop)),
    ]
}

fn refused(calls: Vec<(&'static str, Result<(), Status>)>) -> Vec<&'static str> {
    let is_refusal = |result: &Result<(), Status>| {
        result.as_ref().is_err_and(|status| status.code() == tonic::Code::PermissionDenied)
    };
    calls.into_iter().filter(|(_, result)| is_refusal(result)).map(|(name, _)| name).collect()
}

#[tokio::test]
async fn every_call_is_refused_to_every_role_that_may_not() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let calls = async |issued| {
        let mut line = Person::new(&ca, &issued).call(&server, &running).await;
        refused(every_call(&mut line).await)
    };
    assert_eq!(calls(ca.coordinator("anna")).await, ["tunnel", "answer"], "those are for agents");
    let change = [
        "acquire", "renew", "release", "push", "begin", "complete", "start", "download", "upload", "keep",
        "journals", "read", "tunnel", "answer",
    ];
    assert_eq!(calls(ca.observer("nagios")).await, change);
    let all = [
        "hello", "inspect", "acquire", "renew", "release", "push", "begin", "complete", "start", "watch",
        "list", "download", "upload", "keep", "journals", "read", "forward", "tunnel", "answer",
    ];
    assert_eq!(calls(ca.agent("acme", "ums2")).await, all, "another agent is nobody here");
    assert_eq!(calls(ca.agent("acme", "ums1")).await, all, "nor is this one");
    running.kill().await;
}

#[tokio::test]
async fn a_call_that_is_not_in_the_contract_is_refused() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let expected = tls::identity_of(&server.issued.certificate).unwrap();
    let anna = Person::coordinator(&ca);
    let address = running.address.to_string();
    let channel = tls::connect(&address, &anna.tls, &expected, &tls::Patience::default()).await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    for path in ["/umsid.v1.Agent/Shell", "/umsid.v1.Enrollment/Begin", "/grpc.health.v1.Health/Check"] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<wire::HelloRequest, wire::HelloResponse>::default();
        let call =
            grpc.unary(tonic::Request::new(wire::HelloRequest::default()), path.parse().unwrap(), codec);
        assert_eq!(code_of(call.await), Code::NotAllowed, "{path}");
    }
    running.kill().await;
}

#[tokio::test]
async fn nobody_of_another_authority_or_trust_domain_gets_in() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let foreign = Ca::new("test");
    let mallory = Person::new(&foreign, &foreign.coordinator("mallory"));
    assert!(mallory.try_call(&server, &running).await.is_err());

    let elsewhere = ca.issue(&Wanted::uri("spiffe://elsewhere/coordinator/anna"));
    let elsewhere = Person::new(&ca, &elsewhere);
    assert!(elsewhere.try_call(&server, &running).await.is_err());
    running.kill().await;
}

#[tokio::test]
async fn a_certificate_that_expires_ends_an_open_connection() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let now = std::time::SystemTime::now();
    let brief = Wanted::uri(&ca.uri("coordinator/brief"))
        .lasting(now - std::time::Duration::from_secs(60), now + std::time::Duration::from_secs(2));
    let mut line = Person::new(&ca, &ca.issue(&brief)).call(&server, &running).await;
    let hello = wire::HelloRequest { protocol_min: 1, protocol_max: 1 };
    line.agent.hello(hello).await.unwrap();
    let refusal = umsid_testkit::wait_for("the certificate to expire", crate::house::SOON, || {
        let mut line = line.clone();
        async move { line.agent.hello(hello).await.err() }
    });
    assert_eq!(code_of::<()>(Err(refusal.await)), Code::NotAllowed);
    running.kill().await;
}

#[tokio::test]
async fn a_coordinator_of_another_protocol_is_told_so() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    for (protocol_min, protocol_max) in [(0, 0), (2, 9), (9, 2)] {
        let hello = wire::HelloRequest { protocol_min, protocol_max };
        assert_eq!(code_of(line.agent.hello(hello).await), Code::Protocol);
    }
    let hello = line.agent.hello(wire::HelloRequest { protocol_min: 0, protocol_max: 7 }).await.unwrap();
    let hello = hello.into_inner();
    assert_eq!((hello.cluster.as_str(), hello.server.as_str()), ("acme", "ums1"));
    assert_eq!(hello.recipient, server.recipient().to_string());
    assert_eq!(hello.crl_number, ca.crl_number());
    running.kill().await;
}
