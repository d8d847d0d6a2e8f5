//! Copies of journals: who may leave what here.

use std::path::PathBuf;

use umsid_common::chain;
use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access};
use umsid_common::tls::Tls;
use umsid_proto::failure::Code;
use umsid_proto::wire;
use umsid_testkit::Ca;

use crate::house::{Line, OTHER_RUN, Person, RUN, Server, code_of, lease};

/// A run's journal as a coordinator has it.
struct Journal {
    run: String,
    records: Vec<wire::JournalRecord>,
    link: Digest,
}

impl Journal {
    fn new(run: &str) -> Self {
        Self { run: run.to_owned(), records: Vec::new(), link: chain::genesis() }
    }

    fn of(run: &str, events: &[&str]) -> Self {
        let mut journal = Self::new(run);
        events.iter().for_each(|event| journal.push(event));
        journal
    }

    fn push(&mut self, event: &str) {
        let number = self.records.len() as u64 + 1;
        let text = format!("2026-11-22T20:45:12Z\n{event}");
        self.link = chain::link(&self.link, number, text.as_bytes());
        let link = self.link.as_bytes().to_vec();
        self.records.push(wire::JournalRecord { number, text, link, seal: None });
    }

    /// These records, the last one vouched for.
    fn part(&self, records: std::ops::Range<usize>, by: &Tls) -> Vec<wire::JournalRecord> {
        let mut part = self.records[records].to_vec();
        if let Some(last) = part.last_mut() {
            let link: [u8; 32] = last.link.clone().try_into().unwrap();
            let message = chain::vouched(&self.run.parse().unwrap(), last.number, &Digest::from(link));
            let us = by.current();
            last.seal =
                Some(wire::JournalSeal { certificates: us.chain().to_vec(), signature: us.sign(&message) });
        }
        part
    }
}

async fn keep(
    line: &mut Line,
    epoch: u64,
    run: &str,
    records: Vec<wire::JournalRecord>,
) -> Result<u64, tonic::Status> {
    let request = wire::KeepJournalRequest { lease: Some(lease(run, epoch)), records };
    Ok(line.journals.keep_journal(request).await?.into_inner().copy.expect("a copy").records)
}

async fn read(line: &mut Line, run: &str) -> Result<Vec<wire::JournalRecord>, tonic::Status> {
    let mut stream =
        line.journals.read_journal(wire::ReadJournalRequest { run: run.into() }).await?.into_inner();
    let mut records = Vec::new();
    while let Some(record) = stream.message().await? {
        records.push(record);
    }
    Ok(records)
}

async fn list(line: &mut Line) -> Vec<(String, u64, String)> {
    let list = line.journals.list_journals(wire::ListJournalsRequest {}).await.unwrap().into_inner();
    list.copies.into_iter().map(|copy| (copy.run, copy.records, copy.problem)).collect()
}

fn path(server: &Server, run: &str) -> PathBuf {
    server.dir.path().join(format!("journals/{run}.jsonl"))
}

#[tokio::test]
async fn a_copy_grows_and_outlives_the_agent() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let anna = Person::coordinator(&ca);
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let journal = Journal::of(RUN, &["a", "b", "c", "d"]);
    assert_eq!(keep(&mut line, 1, RUN, Vec::new()).await.unwrap(), 0);
    assert_eq!(code_of(read(&mut line, RUN).await), Code::NotFound);
    assert_eq!(keep(&mut line, 1, RUN, journal.part(0..2, &anna.tls)).await.unwrap(), 2);
    // Sent twice, because the answer was lost: the same.
    assert_eq!(keep(&mut line, 1, RUN, journal.part(0..3, &anna.tls)).await.unwrap(), 3);
    assert_eq!(keep(&mut line, 1, RUN, journal.part(1..2, &anna.tls)).await.unwrap(), 3);
    running.kill().await;
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    assert_eq!(keep(&mut line, 1, RUN, Vec::new()).await.unwrap(), 3);
    assert_eq!(keep(&mut line, 1, RUN, journal.part(3..4, &anna.tls)).await.unwrap(), 4);
    let kept = read(&mut line, RUN).await.unwrap();
    let plain: Vec<_> =
        kept.iter().cloned().map(|record| wire::JournalRecord { seal: None, ..record }).collect();
    assert_eq!(plain, journal.records);
    assert!(kept[3].seal.is_some());
    assert_eq!(list(&mut line).await, [(RUN.to_owned(), 4, String::new())]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path(&server, RUN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    running.kill().await;
}

#[tokio::test]
async fn only_the_live_lease_may_write() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let anna = Person::coordinator(&ca);
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    let journal = Journal::of(RUN, &["a"]);
    let whole = || journal.part(0..1, &anna.tls);
    assert_eq!(code_of(keep(&mut line, 1, RUN, whole()).await), Code::LeaseLost);
    line.acquire(RUN, 5).await.unwrap();
    assert_eq!(code_of(keep(&mut line, 4, RUN, whole()).await), Code::StaleEpoch);
    let other = Journal::of(OTHER_RUN, &["a"]).part(0..1, &anna.tls);
    assert_eq!(code_of(keep(&mut line, 5, OTHER_RUN, other).await), Code::LeaseLost);
    assert_eq!(code_of(keep(&mut line, 4, RUN, Vec::new()).await), Code::StaleEpoch);
    assert!(server.files("journals").is_empty());
    keep(&mut line, 5, RUN, whole()).await.unwrap();
    running.kill().await;
}

#[tokio::test]
async fn what_does_not_follow_is_refused_and_nothing_of_it_kept() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let anna = Person::coordinator(&ca);
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let journal = Journal::of(RUN, &["a", "b", "c", "d"]);
    keep(&mut line, 1, RUN, journal.part(0..2, &anna.tls)).await.unwrap();
    let before = std::fs::read(path(&server, RUN)).unwrap();

    let hole = journal.part(3..4, &anna.tls);
    let fork = Journal::of(RUN, &["a", "x", "c"]);
    let after_fork = fork.part(2..3, &anna.tls);
    let fork = fork.part(0..3, &anna.tls);
    let mut altered = journal.part(2..4, &anna.tls);
    altered[0].text.push('x');
    let mut renumbered = journal.part(2..3, &anna.tls);
    renumbered[0].number = 0;
    let large = {
        let mut journal = Journal::of(RUN, &["a", "b"]);
        journal.push(&"x".repeat(520 << 10));
        journal.part(2..3, &anna.tls)
    };
    let mut unsealed = journal.part(2..4, &anna.tls);
    unsealed[1].seal = None;
    let elsewhere = Ca::new("test");
    let mallory = Person::coordinator(&elsewhere);
    let foreign = journal.part(2..4, &mallory.tls);
    let observer = Person::new(&ca, &ca.observer("nagios"));
    let watched = journal.part(2..4, &observer.tls);
    let mut borrowed = journal.part(2..4, &anna.tls);
    borrowed[1].seal = journal.part(2..3, &anna.tls)[0].seal.clone();
    for (what, records) in [
        ("a hole", hole),
        ("a fork", fork),
        ("what follows a fork", after_fork),
        ("an altered record", altered),
        ("no number", renumbered),
        ("too large", large),
        ("unsealed", unsealed),
        ("of another authority", foreign),
        ("by an observer", watched),
        ("another record's seal", borrowed),
    ] {
        assert_eq!(code_of(keep(&mut line, 1, RUN, records).await), Code::BadJournal, "{what}");
        assert_eq!(std::fs::read(path(&server, RUN)).unwrap(), before, "{what}");
    }
    assert_eq!(keep(&mut line, 1, RUN, journal.part(2..4, &anna.tls)).await.unwrap(), 4);
    running.kill().await;
}

#[tokio::test]
async fn a_journal_without_an_end_is_refused_at_last() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let anna = Person::coordinator(&ca);
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let mut journal = Journal::new(RUN);
    (0..10_001).for_each(|number| journal.push(&number.to_string()));
    for from in (0..10_000).step_by(2_500) {
        keep(&mut line, 1, RUN, journal.part(from..from + 2_500, &anna.tls)).await.unwrap();
    }
    let refused = keep(&mut line, 1, RUN, journal.part(10_000..10_001, &anna.tls)).await;
    assert_eq!(code_of(refused), Code::BadJournal);
    assert_eq!(list(&mut line).await[0].1, 10_000);
    running.kill().await;
}

#[tokio::test]
async fn the_oldest_runs_make_room_and_never_the_one_that_goes_on() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let anna = Person::coordinator(&ca);
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    let run_at = |second: u64| format!("20261122t2045{second:02}-00000a");
    // The last of them has the oldest id: it is the one that goes on.
    for (epoch, second) in (1..).zip((10..35).chain([1])) {
        let run = run_at(second);
        line.acquire(&run, epoch).await.unwrap();
        keep(&mut line, epoch, &run, Journal::of(&run, &["a"]).part(0..1, &anna.tls)).await.unwrap();
        line.agent.release_lease(wire::ReleaseLeaseRequest { run, epoch }).await.unwrap();
    }
    let kept: Vec<String> = list(&mut line).await.into_iter().map(|(run, ..)| run).collect();
    let expected: Vec<String> = [1].into_iter().chain(16..35).map(run_at).collect();
    assert_eq!(kept, expected);
    assert_eq!(server.files("journals").len(), 20);
    running.kill().await;
}

/// Torn, corrupt and missing are three answers.
#[tokio::test]
async fn a_torn_end_is_written_over_and_a_damaged_middle_is_told() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let anna = Person::coordinator(&ca);
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let journal = Journal::of(RUN, &["a", "b", "c", "d"]);
    keep(&mut line, 1, RUN, journal.part(0..1, &anna.tls)).await.unwrap();
    keep(&mut line, 1, RUN, journal.part(1..3, &anna.tls)).await.unwrap();
    running.kill().await;
    let path = path(&server, RUN);
    let whole = std::fs::read_to_string(&path).unwrap();

    durable::replace(&path, &whole.as_bytes()[..whole.len() - 30], Access::Private).unwrap();
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    // The second is whole, and nobody vouches for it: what did was written with it.
    assert_eq!(list(&mut line).await, [(RUN.to_owned(), 1, String::new())]);
    assert_eq!(read(&mut line, RUN).await.unwrap().len(), 1);
    assert_eq!(keep(&mut line, 1, RUN, journal.part(1..4, &anna.tls)).await.unwrap(), 4);
    assert_eq!(read(&mut line, RUN).await.unwrap().len(), 4);
    // Damaged while the agent is at work.
    let whole = std::fs::read_to_string(&path).unwrap();
    let damages = [
        whole.replacen("\\nb\"", "\\nB\"", 1),
        whole.lines().enumerate().filter(|(at, _)| *at != 1).map(|(_, line)| format!("{line}\n")).collect(),
        whole.replacen("\"number\":2", "number", 1),
        format!("{whole}{}\n", whole.lines().last().unwrap()),
    ];
    for damaged in &damages {
        durable::replace(&path, damaged.as_bytes(), Access::Private).unwrap();
        assert_eq!(code_of(read(&mut line, RUN).await), Code::BadJournal, "{damaged}");
    }
    // And found damaged at the start: the agent works, and a new run has its copy.
    running.kill().await;
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    let listed = list(&mut line).await;
    assert_eq!((listed.len(), listed[0].1), (1, 0));
    assert!(listed[0].2.contains("record 5"), "{listed:?}");
    assert_eq!(code_of(keep(&mut line, 1, RUN, journal.part(3..4, &anna.tls)).await), Code::BadJournal);
    line.agent.release_lease(wire::ReleaseLeaseRequest { run: RUN.into(), epoch: 1 }).await.unwrap();
    line.acquire(OTHER_RUN, 2).await.unwrap();
    let other = Journal::of(OTHER_RUN, &["a"]).part(0..1, &anna.tls);
    assert_eq!(keep(&mut line, 2, OTHER_RUN, other).await.unwrap(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), damages[3], "damage is left for whoever looks");
    running.kill().await;
}
