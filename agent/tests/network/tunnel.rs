//! An agent that may only dial out, and the gateway it keeps a tunnel to.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use umsid_agent::config::Behind;
use umsid_common::carried;
use umsid_common::name::Identity;
use umsid_common::tls::{self, Carrier, ConnectError, Opening, Patience, Way};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::wire;
use umsid_testkit::{Ca, Issued, wait_for};

use crate::house::{Line, Person, Running, SOON, Server, code_of};

/// A gateway for tunnels of these servers.
fn gateway(ca: &Ca, servers: &[&str]) -> Server {
    let mut server = Server::new(ca, "ums1", "own-id");
    server.deadlines.idle = SOON;
    server.config.gateway.servers =
        servers.iter().map(|name| (name.parse().unwrap(), Behind::Tunnel)).collect();
    server
}

/// A server whose agent keeps a tunnel to it.
fn behind(ca: &Ca, name: &str, gateway: SocketAddr) -> Server {
    let mut server = Server::new(ca, name, "own-id");
    server.deadlines.idle = SOON;
    server.config.tunnel.gateways =
        [("ums1".parse().unwrap(), gateway.to_string().try_into().unwrap())].into();
    server
}

/// The way of a coordinator through a gateway.
struct Through(Line, &'static str);

impl Way for Through {
    fn name(&self) -> &str {
        self.1
    }

    fn open(&self, _until: Instant) -> Opening<'_> {
        Box::pin(async move {
            use wire::forward_message::Part;
            let (writer, pieces) = carried::outgoing();
            let message = |part| wire::ForwardMessage { part: Some(part) };
            let header = message(Part::Header(wire::ForwardHeader { server: self.1.into() }));
            let messages =
                tokio_stream::once(header).chain(pieces.map(move |data| message(Part::Data(data))));
            let answer = self.0.clone().gateway.forward(messages).await.map_err(|status| {
                let why = Failure::from(&status).to_string();
                ConnectError::Unreachable { address: self.1.into(), why }
            })?;
            let chunks = answer.into_inner();
            let pieces = chunks.map(|chunk| chunk.map(|chunk| chunk.data).map_err(std::io::Error::other));
            Ok(Box::new(tokio::io::join(carried::incoming(pieces), writer)) as Box<dyn Carrier>)
        })
    }
}

/// Says hello to ums2 through the gateway.
async fn hello(anna: &Person, line: &Line, expected: &Issued) -> Result<wire::HelloResponse, String> {
    let expected: Identity = tls::identity_of(&expected.certificate).unwrap();
    let way = Arc::new(Through(line.clone(), "ums2"));
    let channel = tls::connect_by(way, &anna.tls, &expected, &Patience::default()).await;
    let channel = channel.map_err(|error| error.to_string())?;
    let hello = wire::HelloRequest { protocol_min: 1, protocol_max: 1 };
    let answer = Line::new(channel).agent.hello(hello).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

/// Waits until this one answers.
async fn answers(anna: &Person, line: &Line, server: &Server) {
    let recipient = server.recipient().to_string();
    wait_for("the tunnel", SOON, || async {
        hello(anna, line, &server.issued).await.ok().filter(|hello| hello.recipient == recipient)
    })
    .await;
}

async fn as_somebody(ca: &Ca, issued: &Issued, gateway: &Server, running: &Running) -> Line {
    Person::new(ca, issued).call(gateway, running).await
}

#[tokio::test]
async fn who_only_dials_out_is_reached_through_its_tunnel() {
    let ca = Ca::new("test");
    let mut gateway = gateway(&ca, &["ums2"]);
    let first = gateway.start().await;
    let server = behind(&ca, "ums2", first.address);
    let running = server.start().await;
    let anna = Person::coordinator(&ca);
    answers(&anna, &anna.call(&gateway, &first).await, &server).await;
    // The gateway dies and comes back: so does the tunnel.
    gateway.config.listen = first.address;
    first.kill().await;
    let second = gateway.start().await;
    let line = anna.call(&gateway, &second).await;
    answers(&anna, &line, &server).await;
    // The server dies: nobody answers for it.
    running.kill().await;
    let silence = hello(&anna, &line, &server.issued).await.unwrap_err();
    assert!(silence.contains("ums2 keeps no tunnel to ums1"), "{silence}");
    second.kill().await;
}

#[tokio::test]
async fn the_newest_tunnel_of_a_name_is_the_one() {
    let ca = Ca::new("test");
    let gateway = gateway(&ca, &["ums2"]);
    let running = gateway.start().await;
    let anna = Person::coordinator(&ca);
    let line = anna.call(&gateway, &running).await;
    let older = behind(&ca, "ums2", running.address);
    let first = older.start().await;
    answers(&anna, &line, &older).await;
    let mut mute = as_somebody(&ca, &older.issued, &gateway, &running).await;
    // One that says nothing takes the place, and leaves it again.
    let mut knocks = mute.gateway.keep_tunnel(wire::KeepTunnelRequest {}).await.unwrap().into_inner();
    let asking = hello(&anna, &line, &older.issued);
    let knock = async {
        let heard = knocks.next().await.unwrap();
        drop(knocks);
        heard
    };
    let (asked, knock) = tokio::join!(asking, knock);
    // Either it was asked and is gone, so that the older one is heard again, or that one has come back before.
    assert!(knock.is_ok() || code_of::<()>(Err(knock.unwrap_err())) == Code::Busy);
    drop(asked);
    answers(&anna, &line, &older).await;
    first.kill().await;
    running.kill().await;
}

#[tokio::test]
async fn a_tunnel_is_kept_for_whom_the_gateway_was_told_of() {
    let ca = Ca::new("test");
    let gateway = gateway(&ca, &["ums2"]);
    let running = gateway.start().await;
    let anna = Person::coordinator(&ca);
    let line = anna.call(&gateway, &running).await;
    for issued in [ca.agent("other", "ums2"), ca.agent("acme", "ums3"), ca.agent("acme", "ums1")] {
        let mut somebody = as_somebody(&ca, &issued, &gateway, &running).await;
        let refused = somebody.gateway.keep_tunnel(wire::KeepTunnelRequest {}).await.unwrap_err();
        let failure = Failure::from(&refused);
        assert_eq!(failure.code, Code::NotAllowed);
        assert!(failure.to_string().contains("ums1 keeps no tunnel for spiffe://test/agent/"), "{failure}");
        assert!(failure.remedy.contains("`servers` of [gateway]"), "{failure:?}");
    }
    // Whoever is to keep one may answer his own knocks alone, and there is none.
    let ums2 = ca.agent("acme", "ums2");
    let mut somebody = as_somebody(&ca, &ums2, &gateway, &running).await;
    let part = Some(wire::answer_message::Part::Header(wire::AnswerHeader { number: 1 }));
    let answer = tokio_stream::iter([wire::AnswerMessage { part }]);
    assert_eq!(code_of(somebody.gateway.answer(answer).await), Code::NotFound);
    let silence = hello(&anna, &line, &ums2).await.unwrap_err();
    assert!(silence.contains("ums2 keeps no tunnel to ums1"), "{silence}");
    running.kill().await;
}

#[tokio::test]
async fn an_agent_calls_no_gateway_that_is_another_server() {
    let ca = Ca::new("test");
    let gateway = gateway(&ca, &["ums2"]);
    let running = gateway.start().await;
    let mut server = behind(&ca, "ums2", running.address);
    let address = server.config.tunnel.gateways.values().next().unwrap().clone();
    server.config.tunnel.gateways = [("ums3".parse().unwrap(), address)].into();
    let lost = server.start().await;
    let anna = Person::coordinator(&ca);
    let line = anna.call(&gateway, &running).await;
    let silence = hello(&anna, &line, &server.issued).await.unwrap_err();
    assert!(silence.contains("ums2 keeps no tunnel to ums1"), "{silence}");
    lost.kill().await;
    running.kill().await;
}
