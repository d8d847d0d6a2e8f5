use umsid_common::name::RunId;

use super::*;
use crate::plan::Request;
use crate::run::tests::{begun, good, plan};
use crate::run::{Halt, HaltKind};

/// An empty database of one of the two kinds.
pub(super) struct Bench {
    pub(super) at: Location,
    _dir: Option<tempfile::TempDir>,
}

impl Bench {
    fn file() -> Self {
        let dir = umsid_testkit::scratch();
        Self { at: Location::File(dir.path().join("state.db")), _dir: Some(dir) }
    }

    /// `None` where there is no PostgreSQL: `tests/administrators` counts that as ignored.
    #[cfg(unix)]
    fn server() -> Option<Self> {
        let url = umsid_testkit::PostgresServer::shared()?.database();
        Some(Self { at: Location::Server(url.parse().expect("a URL")), _dir: None })
    }

    #[cfg(not(unix))]
    fn server() -> Option<Self> {
        None
    }

    pub(super) async fn journal(&self) -> Journal {
        Journal::open(&self.at).await.expect("a journal")
    }

    /// A run of four events.
    async fn begin(&self) -> (Journal, RunLog) {
        let journal = self.journal().await;
        let run = RunId::new(Timestamp::now());
        let mut log = journal.begin(&run, &begun(plan(&Request::sync()))).await.expect("begun");
        for event in events() {
            log.append(&event).await.expect("legal");
        }
        (journal, log)
    }

    /// Changes the database behind the journal's back.
    pub(super) async fn tamper(&self, sql: &'static str) {
        let database = Database::open(&self.at).await.expect("the database");
        database.execute(Query::new(sql)).await.expect("done");
        database.close().await;
    }
}

/// The same with both kinds of database.
pub(super) async fn on_both(test: impl AsyncFn(Bench)) {
    for bench in [Some(Bench::file()), Bench::server()].into_iter().flatten() {
        println!("with {}", bench.at);
        test(bench).await;
    }
}

fn events() -> Vec<Event> {
    let what = &plan(&Request::sync()).steps[0].what.clone();
    vec![
        Event::Leased { epoch: 3, by: "anna".into() },
        Event::Started { step: 1, attempt: 1 },
        Event::Finished { step: 1, attempt: 1, result: good(what) },
    ]
}

#[tokio::test]
async fn a_run_comes_back_as_it_was_written() {
    on_both(async |bench| {
        let (journal, log) = bench.begin().await;
        let (run, state, events) = (log.run().clone(), log.state().clone(), log.events().to_vec());
        drop((journal, log));
        let journal = bench.journal().await;
        let again = journal.load(&run).await.expect("the run");
        assert_eq!((again.state(), again.events()), (&state, events.as_slice()));
        let runs = journal.runs().await.expect("the list");
        assert_eq!((runs.len(), &runs[0].run, &runs[0].standing), (1, &run, &LastWord::Open));
    })
    .await;
}

#[tokio::test]
async fn an_event_that_cannot_follow_is_not_written() {
    on_both(async |bench| {
        let (journal, mut log) = bench.begin().await;
        let refused = log.append(&Event::Started { step: 1, attempt: 1 }).await;
        assert!(matches!(refused, Err(JournalError::Illegal(_))), "{refused:?}");
        assert_eq!(journal.load(log.run()).await.expect("the run").events().len(), 4);
    })
    .await;
}

/// Missing, torn and corrupt are three answers (invariant 12).
#[tokio::test]
async fn missing_torn_and_corrupt_are_three_answers() {
    on_both(async |bench| {
        let (journal, log) = bench.begin().await;
        let nobody = RunId::new(Timestamp::UNIX_EPOCH);
        assert!(matches!(journal.load(&nobody).await.err(), Some(JournalError::Missing(_))));
        bench.tamper("DELETE FROM events").await;
        assert!(matches!(journal.load(log.run()).await.err(), Some(JournalError::Torn(_))));
    })
    .await;
}

#[tokio::test]
async fn whatever_is_altered_is_found() {
    on_both(async |bench| {
        for (sql, at) in [
            ("UPDATE events SET body = replace(body, 'anna', 'eve') WHERE number = 2", 2),
            ("UPDATE events SET at = '2020-01-01T00:00:00Z' WHERE number = 3", 3),
            ("DELETE FROM events WHERE number = 2", 2),
            ("UPDATE events SET link = '00' WHERE number = 4", 4),
            ("UPDATE events SET number = 9 WHERE number = 4", 4),
        ] {
            let (journal, log) = bench.begin().await;
            bench.tamper(sql).await;
            match journal.load(log.run()).await.err() {
                Some(JournalError::Corrupt { number, .. }) => assert_eq!(number, at, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_lost_tail_is_an_earlier_state_and_not_corrupt() {
    on_both(async |bench| {
        let (journal, log) = bench.begin().await;
        bench.tamper("DELETE FROM events WHERE number = 4").await;
        let earlier = journal.load(log.run()).await.expect("an earlier state");
        assert!(earlier.state().was_begun(1) && !earlier.state().is_done(1));
    })
    .await;
}

#[tokio::test]
async fn of_two_that_carry_out_one_run_the_second_is_told() {
    on_both(async |bench| {
        let (journal, mut log) = bench.begin().await;
        let mut other = journal.load(log.run()).await.expect("the run");
        log.append(&Event::Started { step: 2, attempt: 1 }).await.expect("first");
        let second = other.append(&Event::Started { step: 2, attempt: 1 }).await;
        assert!(matches!(second, Err(JournalError::Elsewhere(_))), "{second:?}");
    })
    .await;
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_says_no() {
    on_both(async |bench| {
        let (_, mut log) = bench.begin().await;
        match bench.at {
            Location::File(_) => {
                bench
                    .tamper("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'disk full'); END")
                    .await;
            }
            Location::Server(_) => {
                bench
                    .tamper(
                        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS \
                         $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$",
                    )
                    .await;
                bench
                    .tamper(
                        "CREATE TRIGGER full_disk BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION full_disk()",
                    )
                    .await;
            }
        }
        let refused = log.append(&Event::Started { step: 2, attempt: 1 }).await;
        assert!(matches!(refused, Err(JournalError::Database { .. })), "{refused:?}");
        assert!(!log.state().was_begun(2), "what is not on record has not happened");
    })
    .await;
}

/// Neither room nor permissions help here.
#[tokio::test]
async fn a_damaged_file_is_an_answer_of_its_own() {
    let dir = umsid_testkit::scratch();
    let path = dir.path().join("state.db");
    let bench = Bench { at: Location::File(path.clone()), _dir: None };
    let (journal, log) = bench.begin().await;
    let run = log.run().clone();
    drop(log);
    journal.database.close().await;
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
        let read = async { Journal::open(&bench.at).await?.load(&run).await };
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
    on_both(async |bench| {
        let journal = bench.journal().await;
        let request = Request { kind: Kind::Restart, ..Request::sync() };
        let restarts = plan(&request);
        let first = restarts.restarts()[0].clone();
        let cluster = restarts.cluster.clone();
        let mut log = journal.begin(&RunId::new(Timestamp::now()), &begun(restarts)).await.expect("begun");
        log.append(&Event::Leased { epoch: 1, by: String::new() }).await.expect("leased");
        log.append(&Event::Started { step: 1, attempt: 1 }).await.expect("started");
        let result =
            StepResult::Done { ums_ms: 20_001, yields: crate::run::Yield::Nothing, remarks: Vec::new() };
        log.append(&Event::Finished { step: 1, attempt: 1, result }).await.expect("finished");
        assert_eq!(journal.history(&cluster, [&first]).await.expect("history").main, None);
        begin_again(&journal).await;
        let history = journal.history(&cluster, [&first]).await.expect("history");
        assert_eq!(history.restarts, [(first.clone(), 21)].into());
        assert_eq!(history.main.expect("from the sync").as_str(), "ums1");
        // A newer run that tells less hides nothing.
        let newest = begun(plan(&request));
        journal.begin(&RunId::new(Timestamp::now()), &newest).await.expect("begun");
        let history = journal.history(&cluster, [&first]).await.expect("history");
        assert_eq!(history.restarts, [(first.clone(), 21)].into());
        assert_eq!(history.main.expect("from the sync").as_str(), "ums1");
    })
    .await;
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

/// What the server of PostgreSQL answers, and what is to be done about it.
#[cfg(unix)]
mod of_a_server {
    use umsid_testkit::PostgresServer;

    use super::*;

    fn at(url: &str) -> Location {
        Location::Server(url.parse().expect("a URL"))
    }

    #[tokio::test]
    async fn tables_that_are_gone_are_damage() {
        let Some(bench) = Bench::server() else { return };
        let (journal, log) = bench.begin().await;
        bench.tamper("DROP TABLE events").await;
        let error = journal.load(log.run()).await.err().expect("damage");
        assert!(matches!(error, JournalError::Damaged { .. }), "{error:?}");
        assert!(error.remedy().contains("backup of the server's"), "{}", error.remedy());
    }

    #[tokio::test]
    async fn tables_of_a_newer_umsid_are_left_alone() {
        let Some(bench) = Bench::server() else { return };
        bench.journal().await;
        bench
            .tamper(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'later', true, '', 0)",
            )
            .await;
        let error = Journal::open(&bench.at).await.err().expect("refused");
        assert!(error.remedy().contains("newer umsid"), "{error:?}: {}", error.remedy());
    }

    #[tokio::test]
    async fn who_may_not_write_is_told_to_look_at_permissions() {
        let Some(server) = PostgresServer::shared() else { return };
        let url = server.database();
        let database = url.rsplit('/').next().expect("its name");
        let mut log = Bench { at: at(&url), _dir: None }.begin().await.1;
        let reader = format!("reader_{database}");
        server.sql(
            database,
            &format!("CREATE ROLE {reader} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}"),
        );
        let reading = Journal::open(&at(&server.url(&reader, database))).await.expect("it may read");
        let mut copy = reading.load(log.run()).await.expect("the run");
        let error = copy.append(&Event::Started { step: 2, attempt: 1 }).await.expect_err("it may not write");
        assert!(error.remedy().contains("may do there"), "{error:?}: {}", error.remedy());
        log.append(&Event::Started { step: 2, attempt: 1 }).await.expect("the owner may");

        let error =
            Journal::open(&at(&server.url("nobody_of_this_name", database))).await.err().expect("refused");
        assert!(error.remedy().contains("user, password"), "{error:?}: {}", error.remedy());
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_found_again() {
        if PostgresServer::missing().is_some() {
            return;
        }
        let server = PostgresServer::start();
        let bench = Bench { at: at(&server.database()), _dir: None };
        let (journal, mut log) = bench.begin().await;
        server.stop();
        let error = log.append(&Event::Started { step: 2, attempt: 1 }).await.expect_err("nobody is there");
        assert!(error.remedy().contains("can be reached"), "{error:?}: {}", error.remedy());
        assert!(!log.state().was_begun(2));
        server.start_again();
        log.append(&Event::Started { step: 2, attempt: 1 }).await.expect("it goes on");
        assert_eq!(journal.load(log.run()).await.expect("the run").events().len(), 5);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_copied_is_all_of_it_and_good_to_the_last_link() {
    use sqlx::Connection as _;
    let (from, Some(to)) = (Bench::file(), Bench::server()) else { return };
    let (here, log) = from.begin().await;
    // More than are written at once.
    for _ in 0..=super::moving::AT_ONCE / 4 {
        let mut log =
            here.begin(&RunId::new(Timestamp::now()), &begun(plan(&Request::sync()))).await.expect("begun");
        for event in events() {
            log.append(&event).await.expect("legal");
        }
    }
    let act = |id: &str| {
        let id = id.parse().expect("an id");
        Act::Unlocking { by: "anna".into(), id, epoch: 8, found: BTreeMap::new(), silent: Vec::new() }
    };
    let cluster = "hamburg".parse().expect("a name");
    for id in ["20261122t204512-00000a", "20261122t204512-00000b"] {
        here.record_act(&cluster, &act(id)).await.expect("recorded");
    }
    let there = to.journal().await;
    let Location::Server(url) = &to.at else { panic!("{} is no server", to.at) };
    let options = crate::database::options(url).expect("options");
    let mut connection = sqlx::postgres::PgConnection::connect_with(&options).await.expect("connected");
    here.copy_to(&mut connection).await.expect("copied");
    let told = async |journal: &Journal| {
        let runs: Vec<_> = journal.runs().await.expect("the list").into_iter().map(|run| run.run).collect();
        let mut events = 0;
        for run in &runs {
            events += journal.load(run).await.expect("every link is good").events().len();
        }
        (runs, events, journal.history_of_acts(None).await.expect("the acts"))
    };
    let (before, after) = (told(&here).await, told(&there).await);
    assert_eq!(after, before);
    assert!(after.1 > super::moving::AT_ONCE && after.2.len() == 2, "{} events", after.1);
    assert_eq!(there.load(log.run()).await.expect("the run").records(), log.records());
}
