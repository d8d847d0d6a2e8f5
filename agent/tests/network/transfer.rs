use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use umsid_common::digest::Digest;
use umsid_proto::failure::Code;
use umsid_proto::wire;
use umsid_testkit::Ca;

use crate::house::{
    Line, OTHER_RUN, Person, RUN, Running, SOON, Server, code_of, digest_of, handover, lease, step,
    upload_messages,
};

async fn open() -> (Ca, Server, Running, Line) {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "main-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    (ca, server, running, line)
}

#[tokio::test]
async fn an_upload_that_lies_leaves_nothing() {
    let (_ca, server, running, mut line) = open().await;
    let bytes = b"sealed".repeat(1000);
    let digest = Digest::of(&bytes);
    let size = bytes.len() as u64;
    let pieces = |bytes: &[u8]| bytes.chunks(999).map(<[u8]>::to_vec).collect::<Vec<_>>();

    let mut altered = bytes.clone();
    altered[4321] ^= 1;
    let cases = [
        ("another content", size, pieces(&altered), Code::DigestMismatch),
        ("too few bytes", size, pieces(&bytes[..5999]), Code::DigestMismatch),
        ("none at all", size, Vec::new(), Code::DigestMismatch),
        ("too many bytes", size - 1, pieces(&bytes), Code::DigestMismatch),
        ("a piece more", size, pieces(&[&bytes[..], b"x"].concat()), Code::DigestMismatch),
        ("nothing announced", 0, Vec::new(), Code::BadBackup),
        ("more than allowed announced", 3 << 20, pieces(&bytes), Code::BadBackup),
        ("an absurd size announced", u64::MAX, pieces(&bytes), Code::BadBackup),
    ];
    for (what, size, pieces, code) in cases {
        assert_eq!(code_of(line.upload_as(RUN, digest, size, pieces).await), code, "{what}");
        assert!(server.files("spool").is_empty(), "{what}: {:?}", server.files("spool"));
    }

    // No header, a second header, a header that means nothing.
    let good = upload_messages(RUN, digest, size, pieces(&bytes));
    let mut nameless = good.clone();
    if let Some(wire::upload_message::Part::Header(header)) = &mut nameless[0].part {
        header.digest = b"../../etc/passwd".to_vec();
    }
    let broken = [good[1..].to_vec(), [&good[..2], &good[..1]].concat(), nameless, Vec::new()];
    for messages in broken {
        let refused = line.transfer.upload(tokio_stream::iter(messages)).await;
        assert!(matches!(code_of(refused), Code::InvalidRequest | Code::Interrupted));
        assert!(server.files("spool").is_empty());
    }

    // The control; and again, which is no harm.
    line.upload_as(RUN, digest, size, pieces(&bytes)).await.unwrap();
    line.upload_as(RUN, digest, size, pieces(&bytes)).await.unwrap();
    assert_eq!(server.files("spool"), [format!("{digest}.age"), format!("{digest}.json")]);
    running.kill().await;
}

#[tokio::test]
async fn an_upload_that_stalls_or_trickles_is_given_up() {
    let (_ca, server, running, line) = open().await;
    for trickle in [false, true] {
        let (messages, sent) = mpsc::channel(1);
        let mut transfer = line.transfer.clone();
        let upload = tokio::spawn(async move { transfer.upload(ReceiverStream::new(sent)).await });
        for message in upload_messages(RUN, Digest::of(b"?"), 10_000, vec![vec![1]]) {
            messages.send(message).await.unwrap();
        }
        let refused = tokio::time::timeout(SOON, async {
            while trickle && !upload.is_finished() {
                let part = Some(wire::upload_message::Part::Data(vec![1]));
                let _ = messages.send(wire::UploadMessage { part }).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            upload.await.unwrap()
        });
        assert_eq!(code_of(refused.await.expect("it is given up")), Code::Interrupted);
        assert!(server.files("spool").is_empty());
    }
    running.kill().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let (_ca, server, running, line) = open().await;
    let (messages, sent) = mpsc::channel(4);
    let mut transfer = line.transfer.clone();
    let upload = tokio::spawn(async move { transfer.upload(ReceiverStream::new(sent)).await });
    for message in upload_messages(RUN, Digest::of(b"?"), 10_000, vec![vec![1; 100]]) {
        messages.send(message).await.unwrap();
    }
    umsid_testkit::wait_for("the upload to begin", SOON, || async {
        (server.files("spool").len() == 1).then_some(())
    })
    .await;
    upload.abort();
    drop(line);
    umsid_testkit::wait_for("the upload to be gone", SOON, || async {
        server.files("spool").is_empty().then_some(())
    })
    .await;
    running.kill().await;
}

#[tokio::test]
async fn only_what_was_made_for_this_run_can_be_downloaded() {
    let (ca, server, running, mut line) = open().await;
    let made = digest_of(line.perform(&step(1), handover(&[server.recipient()], "main-id")).await);
    let uploaded = line.upload(RUN, b"uploaded").await.unwrap();
    let bytes = line.download(lease(RUN, 1), made).await.unwrap();
    assert_eq!(Digest::of(&bytes), made);
    assert_eq!(code_of(line.download(lease(RUN, 1), uploaded).await), Code::NotFound);
    let net = digest_of(line.perform(&step(2), umsid_proto::model::Action::SafetyBackup).await);
    assert_eq!(code_of(line.download(lease(RUN, 1), net).await), Code::NotFound, "the vault stays here");

    let release = wire::ReleaseLeaseRequest { run: RUN.into(), epoch: 1 };
    line.agent.release_lease(release).await.unwrap();
    line.acquire(OTHER_RUN, 2).await.unwrap();
    assert_eq!(code_of(line.download(lease(OTHER_RUN, 2), made).await), Code::NotFound);
    running.kill().await;

    // The agent remembers whose a file is.
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    assert_eq!(code_of(line.download(lease(OTHER_RUN, 2), made).await), Code::NotFound);
    let release = wire::ReleaseLeaseRequest { run: OTHER_RUN.into(), epoch: 2 };
    line.agent.release_lease(release).await.unwrap();
    line.acquire(RUN, 3).await.unwrap();
    assert_eq!(line.download(lease(RUN, 3), made).await.unwrap(), bytes);
    running.kill().await;
}

/// Nobody else comes to remove what a run left that was never taken up again.
#[tokio::test]
async fn what_a_run_left_is_removed_as_soon_as_another_does_something_here_and_not_before() {
    let (ca, server, running, mut line) = open().await;
    line.perform(&step(1), handover(&[server.recipient()], "main-id")).await.unwrap();
    line.upload(RUN, b"uploaded").await.unwrap();
    let left = server.files("spool");
    assert_eq!(left.len(), 4, "{left:?}");
    let release = wire::ReleaseLeaseRequest { run: RUN.into(), epoch: 1 };
    line.agent.release_lease(release).await.unwrap();

    line.acquire(OTHER_RUN, 2).await.unwrap();
    assert_eq!(server.files("spool").len(), 4, "the first may still be taken up");
    let id = format!("{OTHER_RUN}.1.1");
    let made = handover(&[server.recipient()], "main-id");
    line.start_under(&id, lease(OTHER_RUN, 2), made).await.unwrap();
    let own = digest_of(line.result(&id).await);
    assert_eq!(server.files("spool"), [format!("{own}.age"), format!("{own}.json")]);
    running.kill().await;

    // So does the agent remember it.
    let running = server.start().await;
    assert_eq!(server.files("spool"), [format!("{own}.age"), format!("{own}.json")]);
    running.kill().await;
    drop(ca);
}
