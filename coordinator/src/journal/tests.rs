use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use umsid_common::name::RunId;

use super::*;
use crate::plan::Request;
use crate::run::tests::{begun, good, plan};
use crate::run::{Halt, HaltKind};

async fn begin(dir: &tempfile::TempDir) -> (Journal, RunLog) {
    let journal = Journal::open(&dir.path().join("state.db")).await.expect("a journal");
    let run = RunId::new(Timestamp::now());
    let mut log = journal.begin(&run, &begun(plan(&Request::sync()))).await.expect("begun");
    for event in events() {
        log.append(&event).await.expect("legal");
    }
    (journal, log)
}

fn events() -> Vec<Event> {
    let what = &plan(&Request::sync()).steps[0].what.clone();
    vec![
        Event::Leased { epoch: 3, by: "anna".into() },
        Event::Started { step: 1, attempt: 1 },
        Event::Finished { step: 1, attempt: 1, result: good(what) },
    ]
}

/// Changes the database behind the journal's back.
async fn tamper(dir: &tempfile::TempDir, sql: &'static str) {
    let url = format!("sqlite://{}", dir.path().join("state.db").display());
    let mut database = SqliteConnection::connect(&url).await.expect("the database");
    sqlx::query(sql).execute(&mut database).await.expect("done");
    database.close().await.expect("closed");
}

#[tokio::test]
async fn a_run_comes_back_as_it_was_written() {
    let dir = umsid_testkit::scratch();
    let (journal, log) = begin(&dir).await;
    let (run, state, events) = (log.run().clone(), log.state().clone(), log.events().to_vec());
    drop((journal, log));
    let journal = Journal::open(&dir.path().join("state.db")).await.expect("a journal");
    let again = journal.load(&run).await.expect("the run");
    assert_eq!((again.state(), again.events()), (&state, events.as_slice()));
    let runs = journal.runs().await.expect("the list");
    assert_eq!((runs.len(), &runs[0].run, &runs[0].standing), (1, &run, &LastWord::Open));
}

#[tokio::test]
async fn an_event_that_cannot_follow_is_not_written() {
    let dir = umsid_testkit::scratch();
    let (journal, mut log) = begin(&dir).await;
    let refused = log.append(&Event::Started { step: 1, attempt: 1 }).await;
    assert!(matches!(refused, Err(JournalError::Illegal(_))), "{refused:?}");
    assert_eq!(journal.load(log.run()).await.expect("the run").events().len(), 4);
}

/// Missing, torn and corrupt are three answers (invariant 12).
#[tokio::test]
async fn missing_torn_and_corrupt_are_three_answers() {
    let dir = umsid_testkit::scratch();
    let (journal, log) = begin(&dir).await;
    let nobody = RunId::new(Timestamp::UNIX_EPOCH);
    assert!(matches!(journal.load(&nobody).await.err(), Some(JournalError::Missing(_))));
    tamper(&dir, "DELETE FROM events").await;
    assert!(matches!(journal.load(log.run()).await.err(), Some(JournalError::Torn(_))));
}

#[tokio::test]
async fn whatever_is_altered_is_found() {
    for (sql, at) in [
        ("UPDATE events SET body = replace(body, 'anna', 'eve') WHERE number = 2", 2),
        ("UPDATE events SET at = '2020-01-01T00:00:00Z' WHERE number = 3", 3),
        ("DELETE FROM events WHERE number = 2", 2),
        ("UPDATE events SET link = '00' WHERE number = 4", 4),
        ("UPDATE events SET number = 9 WHERE number = 4", 4),
    ] {
        let dir = umsid_testkit::scratch();
        let (journal, log) = begin(&dir).await;
        tamper(&dir, sql).await;
        match journal.load(log.run()).await.err() {
            Some(JournalError::Corrupt { number, .. }) => assert_eq!(number, at, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_lost_tail_is_an_earlier_state_and_not_corrupt() {
    let dir = umsid_testkit::scratch();
    let (journal, log) = begin(&dir).await;
    tamper(&dir, "DELETE FROM events WHERE number = 4").await;
    let earlier = journal.load(log.run()).await.expect("an earlier state");
    assert!(earlier.state().was_begun(1) && !earlier.state().is_done(1));
}

#[tokio::test]
async fn of_two_that_carry_out_one_run_the_second_is_told() {
    let dir = umsid_testkit::scratch();
    let (journal, mut log) = begin(&dir).await;
    let mut other = journal.load(log.run()).await.expect("the run");
    log.append(&Event::Started { step: 2, attempt: 1 }).await.expect("first");
    let second = other.append(&Event::Started { step: 2, attempt: 1 }).await;
    assert!(matches!(second, Err(JournalError::Elsewhere(_))), "{second:?}");
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_says_no() {
    let dir = umsid_testkit::scratch();
    let (_, mut log) = begin(&dir).await;
    tamper(&dir, "CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .await;
    let refused = log.append(&Event::Started { step: 2, attempt: 1 }).await;
    assert!(matches!(refused, Err(JournalError::Database { .. })), "{refused:?}");
    assert!(!log.state().was_begun(2), "what is not on record has not happened");
}

/// Neither room nor permissions help here.
#[tokio::test]
async fn a_damaged_file_is_an_answer_of_its_own() {
    let dir = umsid_testkit::scratch();
    let path = dir.path().join("state.db");
    let (journal, log) = begin(&dir).await;
    let run = log.run().clone();
    drop(log);
    journal.pool.close().await;
    drop(journal);
    let whole = std::fs::read(&path).expect("the file");
    let overwritten = |from: usize, to: usize| {
        let mut bytes = whole.clone();
        bytes[from..to].fill(0xa5);
        bytes
    };
    let page = usize::from(u16::from_be_bytes([whole[16], whole[17]]));
    assert!(whole.len() > 3 * page, "{} bytes, pages of {page}", whole.len());
    for (what, bytes) in [
        ("not a database", overwritten(0, 100)),
        ("another file", b"to be or not to be, that is the question\n".repeat(200)),
        ("cut short", whole[..page + page / 2].to_vec()),
        ("malformed", overwritten(page, whole.len())),
    ] {
        for rest in ["state.db-wal", "state.db-shm"] {
            let _ = std::fs::remove_file(dir.path().join(rest));
        }
        umsid_common::durable::replace(&path, &bytes, umsid_common::durable::Access::Private)
            .expect("written");
        let read = async { Journal::open(&path).await?.load(&run).await };
        match read.await.err() {
            Some(error @ JournalError::Damaged { .. }) => {
                assert!(error.remedy().contains("state.db-wal"), "{what}: {}", error.remedy());
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn history_tells_the_last_main_and_how_long_restarts_took() {
    let dir = umsid_testkit::scratch();
    let journal = Journal::open(&dir.path().join("state.db")).await.expect("a journal");
    let request = Request { kind: Kind::Restart, ..Request::sync() };
    let restarts = plan(&request);
    let first = restarts.restarts()[0].clone();
    let cluster = restarts.cluster.clone();
    let mut log = journal.begin(&RunId::new(Timestamp::now()), &begun(restarts)).await.expect("begun");
    log.append(&Event::Leased { epoch: 1, by: String::new() }).await.expect("leased");
    log.append(&Event::Started { step: 1, attempt: 1 }).await.expect("started");
    let result = StepResult::Done { ums_ms: 20_001, yields: crate::run::Yield::Nothing, remarks: Vec::new() };
    log.append(&Event::Finished { step: 1, attempt: 1, result }).await.expect("finished");
    assert_eq!(journal.history(&cluster).await.expect("history").main, None);
    begin_again(&journal).await;
    let history = journal.history(&cluster).await.expect("history");
    assert_eq!(history.restarts, [(first, 21)].into());
    assert_eq!(history.main.expect("from the sync").as_str(), "ums1");
}

async fn begin_again(journal: &Journal) {
    let run = RunId::new(Timestamp::now());
    let mut log = journal.begin(&run, &begun(plan(&Request::sync()))).await.expect("begun");
    log.append(&Event::Leased { epoch: 2, by: String::new() }).await.expect("leased");
    let halt = Halt { kind: HaltKind::Interrupted, why: "asked".into(), failure: None, stuck: None };
    log.append(&Event::Halted(halt)).await.expect("halted");
    let standing = &journal.runs().await.expect("the list")[0].standing;
    assert!(matches!(standing, LastWord::Halted(why) if why == "asked"), "{standing:?}");
}
