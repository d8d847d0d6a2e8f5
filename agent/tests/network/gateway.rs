//! An agent as a gateway: whom it leads to, for whom, and how much it bears.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use umsid_agent::config::Behind;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::wire;
use umsid_proto::wire::forward_message::Part;
use umsid_testkit::{Ca, wait_for};

use crate::house::{Line, Person, Running, SOON, Server, code_of};

/// What is sent through a gateway, and what comes back.
type Through = (mpsc::Sender<wire::ForwardMessage>, Streaming<wire::Chunk>);

/// A gateway to these servers.
fn gateway(ca: &Ca, servers: &[(&str, SocketAddr)]) -> Server {
    let mut server = Server::new(ca, "ums1", "own-id");
    server.config.gateway.servers = servers
        .iter()
        .map(|(name, address)| {
            (name.parse().unwrap(), Behind::Address(address.to_string().try_into().unwrap()))
        })
        .collect();
    server
}

async fn line(ca: &Ca, server: &Server, running: &Running) -> Line {
    Person::coordinator(ca).call(server, running).await
}

async fn forward(line: &Line, server: &str) -> Result<Through, Status> {
    let (sender, messages) = mpsc::channel(1);
    let header = wire::ForwardHeader { server: server.into() };
    sender.send(wire::ForwardMessage { part: Some(Part::Header(header)) }).await.unwrap();
    let answer = line.clone().gateway.forward(ReceiverStream::new(messages)).await?;
    Ok((sender, answer.into_inner()))
}

fn data(bytes: &[u8]) -> wire::ForwardMessage {
    wire::ForwardMessage { part: Some(Part::Data(bytes.to_vec())) }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    tokio::time::timeout(SOON, listener.accept()).await.unwrap().unwrap().0
}

#[tokio::test]
async fn a_connection_goes_both_ways_and_ends_each_way_by_itself() {
    let ca = Ca::new("test");
    let (listener, address) = listen().await;
    let server = gateway(&ca, &[("ums2", address)]);
    let running = server.start().await;
    for issued in [ca.coordinator("anna"), ca.observer("nagios")] {
        let line = Person::new(&ca, &issued).call(&server, &running).await;
        let (sender, mut back) = forward(&line, "ums2").await.unwrap();
        let mut target = accept(&listener).await;
        sender.send(data(b"there")).await.unwrap();
        drop(sender);
        let mut there = Vec::new();
        target.read_to_end(&mut there).await.unwrap();
        assert_eq!(there, b"there");
        target.write_all(b"and back").await.unwrap();
        drop(target);
        let mut all = Vec::new();
        while let Some(chunk) = back.next().await {
            all.extend(chunk.unwrap().data);
        }
        assert_eq!(all, b"and back");
    }
    running.kill().await;
}

#[tokio::test]
async fn it_leads_to_the_servers_it_was_told_of_and_nowhere_else() {
    let ca = Ca::new("test");
    let (listener, address) = listen().await;
    let (gone, nobody) = listen().await;
    drop(gone);
    let server = gateway(&ca, &[("ums2", address), ("ums3", nobody)]);
    let running = server.start().await;
    let line = line(&ca, &server, &running).await;
    for (named, code, said) in [
        ("ums4", Code::NotFound, "ums1 forwards to ums2, ums3, and not to ums4"),
        ("ums1", Code::NotFound, "and not to ums1"),
        (&address.to_string(), Code::InvalidRequest, "header.server"),
        ("", Code::InvalidRequest, "header.server"),
        ("ums3", Code::Unreachable, "ums1 does not reach ums3"),
    ] {
        let failure = Failure::from(&forward(&line, named).await.unwrap_err());
        assert_eq!(failure.code, code, "{named}: {failure}");
        assert!(failure.to_string().contains(said), "{named}: {failure}");
        assert_eq!(failure.remedy.is_empty(), code == Code::InvalidRequest, "{named}: {failure:?}");
    }
    let nothing = tokio_stream::iter([data(b"GET / HTTP/1.1")]);
    assert_eq!(code_of(line.clone().gateway.forward(nothing).await), Code::InvalidRequest);
    let nobody_came = listener.into_std().unwrap().accept().unwrap_err();
    assert_eq!(nobody_came.kind(), std::io::ErrorKind::WouldBlock);
    running.kill().await;

    // One that is told of nobody is no gateway.
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let line = self::line(&ca, &server, &running).await;
    assert_eq!(code_of(forward(&line, "ums2").await), Code::NotFound);
    running.kill().await;
}

#[tokio::test]
async fn there_are_so_many_connections_and_no_more() {
    let ca = Ca::new("test");
    let (listener, address) = listen().await;
    let mut server = gateway(&ca, &[("ums2", address)]);
    server.config.gateway.connections = 2;
    server.deadlines.idle = SOON;
    let running = server.start().await;
    let line = line(&ca, &server, &running).await;
    let one = forward(&line, "ums2").await.unwrap();
    let other = forward(&line, "ums2").await.unwrap();
    let failure = Failure::from(&forward(&line, "ums2").await.unwrap_err());
    assert_eq!(failure.code, Code::Busy);
    assert!(failure.remedy.contains("`connections` of [gateway]"), "{failure:?}");
    let mut targets = [accept(&listener).await, accept(&listener).await];
    // The caller goes: the server at the other end sees it, and there is room again.
    drop(one);
    let (mut first, mut second) = ([0], [0]);
    let [a, b] = &mut targets;
    tokio::select! {
        end = a.read(&mut first) => assert_eq!(end.unwrap_or(0), 0),
        end = b.read(&mut second) => assert_eq!(end.unwrap_or(0), 0),
    }
    drop(targets);
    wait_for("a place to be free", SOON, || async { forward(&line, "ums2").await.ok() }).await;
    drop(other);
    running.kill().await;
}

#[tokio::test]
async fn what_stands_still_is_ended() {
    let ca = Ca::new("test");
    let (listener, address) = listen().await;
    let server = gateway(&ca, &[("ums2", address)]);
    let running = server.start().await;
    let line = line(&ca, &server, &running).await;
    let (_sender, mut back) = forward(&line, "ums2").await.unwrap();
    let mut target = accept(&listener).await;
    let ended = async {
        assert_eq!(target.read(&mut [0; 8]).await.unwrap_or(0), 0, "the server's end is closed");
        assert!(back.next().await.is_none_or(|chunk| chunk.is_err()), "and the caller's");
    };
    tokio::time::timeout(SOON, ended).await.expect("it ends");
    running.kill().await;
}

#[tokio::test]
async fn what_nobody_takes_is_not_piled_up() {
    const OFFERED: usize = 256 << 20;
    let ca = Ca::new("test");
    let (listener, address) = listen().await;
    let server = gateway(&ca, &[("ums2", address)]);
    let running = server.start().await;
    let line = line(&ca, &server, &running).await;
    let (sender, _back) = forward(&line, "ums2").await.unwrap();
    let _target = accept(&listener).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let piece = vec![7; 64 << 10];
    let sending = tokio::spawn(async move {
        while counter.load(Ordering::SeqCst) < OFFERED && sender.send(data(&piece)).await.is_ok() {
            counter.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    // The target reads nothing: it stands still, and that is an end.
    tokio::time::timeout(SOON + Duration::from_secs(20), sending).await.unwrap().unwrap();
    let taken = taken.load(Ordering::SeqCst);
    // The windows of one call, and what the two sockets hold.
    assert!(taken < 32 << 20, "{taken} bytes were taken");
    running.kill().await;
}
