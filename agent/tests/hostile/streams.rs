//! Peers with a certificate of ours that stall, flood, or take what they asked for and never read it.

use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use umsid_proto::model::Action;
use umsid_proto::wire;
use umsid_testkit::{Ca, wait_for};

use crate::frames::{
    CALM, CONTINUATION, END_HEADERS, GOAWAY, HEADERS, REFUSED, RST_STREAM, Raw, SETTINGS, field, frame,
    headers,
};
use crate::house::{Person, RUN, SOON, Server, digest_of, handover, lease, step};

const HELLO: &str = "/umsid.v1.Agent/Hello";

/// Whoever comes now is served at once.
async fn serves(ca: &Ca, server: &Server, running: &crate::house::Running) {
    let hello = async {
        let mut line = Person::coordinator(ca).call(server, running).await;
        line.agent.hello(wire::HelloRequest { protocol_min: 1, protocol_max: 1 }).await.unwrap();
    };
    timeout(Duration::from_secs(5), hello).await.expect("served at once");
}

#[tokio::test]
async fn calls_taken_back_at_once_end_the_connection() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut raw = Raw::greet(&ca.observer("rapid"), &running, 65_535).await;
    // RST_STREAM with CANCEL, right after each beginning.
    let resets: Vec<u8> = (0..500_u32)
        .flat_map(|number| {
            let stream = 2 * number + 1;
            [
                frame(HEADERS, END_HEADERS, stream, &headers(HELLO)),
                frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            ]
        })
        .flatten()
        .collect();
    // It may end before it has all of them.
    let _ = raw.send_all(&resets).await;
    let farewell = raw.until(|frame| frame.kind == GOAWAY).await.expect("a farewell");
    assert_eq!(farewell.code(), CALM);
    serves(&ca, &server, &running).await;
    running.kill().await;
}

#[tokio::test]
async fn headers_without_end_are_cut_off_and_delay_nobody() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    // One that begins its headers and says no more; one whose headers trickle in.
    let mut stalled = Raw::greet(&ca.observer("slow"), &running, 65_535).await;
    stalled.send(HEADERS, 0, 1, &headers(HELLO)).await.unwrap();
    stalled.send(CONTINUATION, 0, 1, &field("x", "y")).await.unwrap();
    serves(&ca, &server, &running).await;

    let mut endless = Raw::greet(&ca.observer("endless"), &running, 65_535).await;
    endless.send(HEADERS, 0, 1, &headers(HELLO)).await.unwrap();
    let more = field("x", &"y".repeat(100)).repeat(100);
    let flood = async {
        let mut sent = 0;
        while endless.send(CONTINUATION, 0, 1, &more).await.is_ok() {
            sent += more.len();
            assert!(sent < 256 << 20, "nothing stops it");
        }
    };
    timeout(SOON, flood).await.expect("it is cut off");
    serves(&ca, &server, &running).await;
    running.kill().await;
}

#[tokio::test]
async fn more_calls_at_once_than_announced_are_refused() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut raw = Raw::greet(&ca.observer("greedy"), &running, 65_535).await;
    let settings = raw.until(|frame| frame.kind == SETTINGS && frame.flags == 0).await.unwrap();
    // SETTINGS_MAX_CONCURRENT_STREAMS
    assert!(settings.payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 32]), "{settings:?}");
    for number in 0..40 {
        raw.call(2 * number + 1, HELLO).await.unwrap();
    }
    let refused = raw.until(|frame| frame.kind == RST_STREAM).await.expect("a refusal");
    assert_eq!((refused.code(), refused.stream), (REFUSED, 65));
    serves(&ca, &server, &running).await;
    running.kill().await;
}

#[tokio::test]
async fn who_says_nothing_is_cut_off_and_nobody_stays_for_ever() {
    let ca = Ca::new("test");
    let mut server = Server::new(&ca, "ums1", "own-id");
    server.deadlines.keep_alive = Duration::from_millis(300);
    let running = server.start().await;
    // No ping is answered.
    Raw::greet(&ca.observer("dead"), &running, 65_535).await.ends(SOON, false).await;
    // Not while its headers are on their way either.
    let mut slow = Raw::greet(&ca.observer("slow"), &running, 65_535).await;
    slow.send(HEADERS, 0, 1, &headers(HELLO)).await.unwrap();
    slow.ends(SOON, false).await;
    running.kill().await;

    server.deadlines.connection = Duration::from_millis(300);
    server.deadlines.farewell = Duration::from_millis(300);
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    server.ums.backing_up.shut();
    line.start(&step(1), Action::SafetyBackup).await.unwrap();
    // A handshake and nothing else; pings answered, headers never complete; pings answered, watching on and on.
    Raw::silent(&ca.observer("silent"), &running).await.ends(SOON, false).await;
    let mut slow = Raw::greet(&ca.observer("slow"), &running, 65_535).await;
    slow.send(HEADERS, 0, 1, &headers(HELLO)).await.unwrap();
    slow.ends(SOON, true).await;
    let mut watcher = Raw::greet(&ca.observer("watcher"), &running, 0).await;
    watcher.call(1, "/umsid.v1.Operations/WatchOperation").await.unwrap();
    watcher.say(1, &wire::WatchOperationRequest { id: step(1), from_event: 0 }).await.unwrap();
    watcher.ends(SOON, true).await;
    server.ums.backing_up.open();
    // The operation went on, and whoever comes back learns of it.
    Person::coordinator(&ca).call(&server, &running).await.result(&step(1)).await.unwrap();
    running.kill().await;
}

/// The file this process has open, by the end of its name.
#[cfg(target_os = "linux")]
fn is_open(name: &str) -> bool {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets.any(|target| target.to_string_lossy().ends_with(name))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_download_nobody_takes_is_given_up() {
    let ca = Ca::new("test");
    let large = "x".repeat(6 << 20);
    let mut server = Server::new(&ca, "ums1", &large);
    server.config.max_backup_bytes = 8 << 20;
    let running = server.start().await;
    let anna = ca.coordinator("anna");
    let mut line = Person::new(&ca, &anna).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let digest = digest_of(line.perform(&step(1), handover(&[server.recipient()], &large)).await);
    let file = format!("{digest}.age");
    assert!(!is_open(&file));

    let mut raw = Raw::greet(&anna, &running, 0).await;
    raw.call(1, "/umsid.v1.Transfer/Download").await.unwrap();
    let request = wire::DownloadRequest { lease: Some(lease(RUN, 1)), digest: digest.as_bytes().to_vec() };
    raw.say(1, &request).await.unwrap();
    raw.until(|frame| frame.kind == HEADERS).await.expect("the answer begins");
    assert!(is_open(&file), "it is being read");
    wait_for("the download to be given up", SOON, || async { (!is_open(&file)).then_some(()) }).await;
    // The control: whoever takes it gets it.
    assert_eq!(
        umsid_common::digest::Digest::of(&line.download(lease(RUN, 1), digest).await.unwrap()),
        digest
    );
    running.kill().await;
}

#[tokio::test]
async fn who_is_revoked_is_told_no_more_of_what_it_watches() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let stolen = ca.coordinator("stolen");
    let thief = Person::new(&ca, &stolen);
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    server.ums.backing_up.shut();
    line.start(&step(1), Action::SafetyBackup).await.unwrap();
    server.ums.backing_up.reached().await;

    let watch = wire::WatchOperationRequest { id: step(1), from_event: 0 };
    let mut spying = thief.call(&server, &running).await;
    let mut spied = spying.operations.watch_operation(watch.clone()).await.unwrap().into_inner();
    let mut watched = line.operations.watch_operation(watch).await.unwrap().into_inner();
    assert!(spied.next().await.unwrap().is_ok());

    ca.revoke(&stolen);
    let trust = wire::PushTrustRequest {
        anchors_pem: ca.anchors_pem(),
        crls_pem: ca.crls_pem(),
        crl_number: ca.crl_number(),
    };
    line.agent.push_trust(trust).await.unwrap();
    let end = async {
        loop {
            match spied.next().await {
                Some(Ok(event)) => assert!(event.index <= 2, "told on: {event:?}"),
                Some(Err(_)) | None => return,
            }
        }
    };
    // The operation goes on all the while: its end is not what ends this.
    timeout(Duration::from_secs(5), end).await.expect("the stream of a revoked watcher ends");
    assert!(thief.try_call(&server, &running).await.is_err());

    // Others are told to the end.
    server.ums.backing_up.open();
    let mut last = None;
    while let Some(event) = timeout(SOON, watched.next()).await.unwrap() {
        last = Some(event.unwrap());
    }
    assert!(matches!(last.unwrap().what, Some(wire::operation_event::What::Outcome(_))));
    running.kill().await;
}
