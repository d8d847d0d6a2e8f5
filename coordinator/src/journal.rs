//! The coordinator's durable record of its runs: the only place that writes one.
//!
//! Every event is on disk (`synchronous=FULL`, `synchronous_commit=on`) before [`RunLog::append`] returns, has a number
//! without gaps and the hash of the one before. A journal that cannot be written stops the run; one that has been altered is refused.

use std::collections::BTreeMap;

use jiff::Timestamp;
use umsid_common::chain;
use umsid_common::digest::Digest;
use umsid_common::fault;
use umsid_common::name::{ClusterName, RunId, ServerName};
use umsid_proto::model::JournalRecord;

use crate::database::{Ailment, Database, Location, Query, Row, ailment};
use crate::plan::{Kind, What};
use crate::run::{Ending, Event, HaltKind, Illegal, Recorded, Standing, State, StepResult};

/// Runs looked at to find out how long restarts take.
const RECENT: u64 = 20;

/// The record of all runs.
#[derive(Clone)]
pub struct Journal {
    database: Database,
}

/// The journal could not be read or written. Missing, torn, corrupt and damaged are four answers.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The database said no: no room, no permission, locked.
    #[error("cannot {doing} the journal {at}")]
    Database {
        /// As "write".
        doing: &'static str,
        /// Which one.
        at: Location,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// It is not the database it was: malformed, cut short, without its tables, or of another kind.
    #[error("the journal {at} is damaged")]
    Damaged {
        /// Which one.
        at: Location,
        /// How it was noticed.
        #[source]
        source: sqlx::Error,
    },
    /// No such run.
    #[error("there is no run {0}")]
    Missing(String),
    /// A run without its first event: the coordinator died while it began, nothing was done.
    #[error("run {0} was never begun: nothing was done in it")]
    Torn(RunId),
    /// The record has been altered, or its disk is failing.
    #[error("the record of run {run} is corrupt at event {number}: {why}")]
    Corrupt {
        /// Which run.
        run: RunId,
        /// Where.
        number: u64,
        /// What is wrong.
        why: String,
    },
    /// The record of what was done outside of runs has been altered, or its disk is failing.
    #[error("the record of acts is corrupt at number {number}: {why}")]
    CorruptActs {
        /// Where.
        number: u64,
        /// What is wrong.
        why: String,
    },
    /// Somebody else wrote the next event: another umsid carries out this run.
    #[error("another umsid carries out run {0}")]
    Elsewhere(RunId),
    /// A defect: an event that cannot follow was about to be written.
    #[error("refused to write an event that cannot follow")]
    Illegal(#[from] Illegal),
}

impl JournalError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Database { at, source, .. } => ailment(source).remedy(at),
            Self::Damaged { at: Location::File(_), .. } => {
                "move state.db, state.db-wal and state.db-shm out of the state directory; the runs recorded there are \
                 lost here; one that is not over is on the agents too: `umsid resume --from-agents CLUSTER`, or `umsid status` and a \
                 new `umsid sync`"
            }
            Self::Damaged { at, .. } => Ailment::Damaged.remedy(at),
            Self::Missing(_) => "`umsid runs` lists the runs",
            Self::Torn(_) => "begin again with `umsid sync`",
            Self::Corrupt { .. } => {
                "do not resume it; `umsid status` shows how the servers stand, and a new `umsid sync` starts from there"
            }
            Self::CorruptActs { .. } => {
                "somebody altered the database, or its disk is failing: put it back from a backup (in a state directory it \
                 is state.db)"
            }
            Self::Elsewhere(_) => "wait for it, or stop it there first",
            Self::Illegal(_) => "please report this with the output of `umsid runs show`",
        }
    }

    pub(crate) fn of(doing: &'static str, at: &Location, source: sqlx::Error) -> Self {
        let at = at.clone();
        match ailment(&source) {
            Ailment::Damaged => Self::Damaged { at, source },
            _ => Self::Database { doing, at, source },
        }
    }
}

/// One run of the list.
#[derive(Clone, Debug)]
pub struct RunSummary {
    /// Its id.
    pub run: RunId,
    /// Its cluster.
    pub cluster: ClusterName,
    /// sync, restart or backup.
    pub kind: String,
    /// When it began.
    pub begun: Timestamp,
    /// How it stands by its last event.
    pub standing: LastWord,
}

/// How a run stands by its last event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastWord {
    /// It goes on, or the coordinator died.
    Open,
    /// It stands still.
    Halted(String),
    /// It stands still on its way back, and a person has to look.
    Stuck(String),
    /// It is over.
    Ended(String),
}

/// The open record of one run.
pub struct RunLog {
    journal: Journal,
    run: RunId,
    number: u64,
    link: Digest,
    state: Option<State>,
    events: Vec<Recorded>,
    records: Vec<JournalRecord>,
    /// What the state knows and the journal does not yet.
    prepared: Vec<(Recorded, JournalRecord)>,
}

impl Journal {
    /// Opens the journal there, or begins one.
    pub async fn open(at: &Location) -> Result<Self, JournalError> {
        let opened = Database::open(at).await;
        Ok(Self { database: opened.map_err(|source| JournalError::of("open", at, source))? })
    }

    fn failed(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> JournalError + '_ {
        move |source| JournalError::of(doing, self.database.location(), source)
    }

    /// Begins the record of a run with its first event.
    pub async fn begin(&self, run: &RunId, first: &Event) -> Result<RunLog, JournalError> {
        let Event::Begun { plan, .. } = first else {
            return Err(State::begin(first)
                .err()
                .map_or_else(|| JournalError::Torn(run.clone()), Into::into));
        };
        let first_of_it = Query::new("INSERT INTO runs (run, cluster, kind, begun) VALUES ($1, $2, $3, $4)")
            .text(run.as_str())
            .text(plan.cluster.as_str())
            .text(plan.request.kind.as_str())
            .text(Timestamp::now().to_string());
        self.database.execute(first_of_it).await.map_err(self.failed("write"))?;
        let mut log = RunLog::empty(self, run);
        log.append(first).await?;
        Ok(log)
    }

    /// The record of a run, every link of its chain checked and every event found legal.
    pub async fn load(&self, run: &RunId) -> Result<RunLog, JournalError> {
        let known = Query::new("SELECT run FROM runs WHERE run = $1").text(run.as_str());
        if self.read(known).await?.is_empty() {
            return Err(JournalError::Missing(run.to_string()));
        }
        let events = Query::new("SELECT number, at, body, link FROM events WHERE run = $1 ORDER BY number");
        let rows = self.read(events.text(run.as_str())).await?;
        let mut log = RunLog::empty(self, run);
        for row in &rows {
            log.take_in(row)?;
        }
        if log.state.is_none() { Err(JournalError::Torn(run.clone())) } else { Ok(log) }
    }

    async fn read(&self, query: Query) -> Result<Vec<Row>, JournalError> {
        self.database.fetch(query).await.map_err(self.failed("read"))
    }

    /// All runs, newest first.
    pub async fn runs(&self) -> Result<Vec<RunSummary>, JournalError> {
        let all = Query::new(
            "SELECT runs.run, cluster, kind, begun, \
             (SELECT body FROM events WHERE events.run = runs.run ORDER BY number DESC LIMIT 1) AS last \
             FROM runs ORDER BY begun DESC, run DESC",
        );
        let rows = self.read(all).await?;
        rows.iter().map(|row| self.summary(row)).collect()
    }

    fn summary(&self, row: &Row) -> Result<RunSummary, JournalError> {
        let text = |column: &str| row.text(column).map_err(self.failed("read"));
        let run: RunId =
            text("run")?.parse().map_err(|_| JournalError::Missing(text("run").unwrap_or_default()))?;
        let corrupt = |what: &str| JournalError::Corrupt {
            run: run.clone(),
            number: 0,
            why: format!("{what} is unreadable"),
        };
        let last: Option<String> = row.optional_text("last").map_err(self.failed("read"))?;
        let standing = match last.map(|body| serde_json::from_str::<Event>(&body)) {
            None => LastWord::Open,
            Some(Ok(Event::Halted(halt))) if halt.kind == HaltKind::Stuck => LastWord::Stuck(halt.why),
            Some(Ok(Event::Halted(halt))) => LastWord::Halted(halt.why),
            Some(Ok(Event::Ended { outcome })) => LastWord::Ended(outcome.as_str().to_owned()),
            Some(Ok(Event::GivenUp { .. })) => LastWord::Ended(Ending::GivenUp.as_str().to_owned()),
            Some(Ok(_)) => LastWord::Open,
            Some(Err(_)) => return Err(corrupt("its last event")),
        };
        Ok(RunSummary {
            cluster: text("cluster")?.parse().map_err(|_| corrupt("its cluster"))?,
            kind: text("kind")?,
            begun: text("begun")?.parse().map_err(|_| corrupt("its beginning"))?,
            run,
            standing,
        })
    }

    /// The Main server of the newest synchronization of a cluster.
    pub async fn last_main(&self, cluster: &ClusterName) -> Result<Option<ServerName>, JournalError> {
        let newest = Query::new(
            "SELECT run FROM runs WHERE cluster = $1 AND kind = 'sync' ORDER BY run DESC LIMIT $2",
        );
        let rows = self.read(newest.text(cluster.as_str()).number(RECENT)).await?;
        for row in rows {
            let run = row.text("run").map_err(self.failed("read"))?;
            let Ok(run) = run.parse() else { continue };
            let Ok(log) = self.load(&run).await else { continue };
            if let Some(main) = &log.state().plan().main {
                return Ok(Some(main.server.clone()));
            }
        }
        Ok(None)
    }

    /// What the newest runs of a cluster of these servers tell: the last Main server, and seconds each server's last restore and
    /// restart took.
    pub async fn history<'a>(
        &self,
        cluster: &ClusterName,
        servers: impl IntoIterator<Item = &'a ServerName>,
    ) -> Result<History, JournalError> {
        let servers: Vec<&ServerName> = servers.into_iter().collect();
        let newest = Query::new("SELECT run FROM runs WHERE cluster = $1 ORDER BY run DESC LIMIT $2");
        let rows = self.read(newest.text(cluster.as_str()).number(RECENT)).await?;
        let mut history = History::default();
        for row in rows {
            let run = row.text("run").map_err(self.failed("read"))?;
            let Ok(run) = run.parse() else { continue };
            // A run that cannot be read tells nothing; whoever wants that very run is told why.
            let Ok(log) = self.load(&run).await else { continue };
            history.take_in(log.state());
            if history.tells_all_of(&servers) {
                break;
            }
        }
        Ok(history)
    }
}

/// What earlier runs of a cluster tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The Main server of the newest synchronization.
    pub main: Option<ServerName>,
    /// Seconds the newest restart of each server took, until it was healthy.
    pub restarts: BTreeMap<ServerName, u64>,
    /// Seconds the newest restore on each server took.
    pub restores: BTreeMap<ServerName, u64>,
}

impl History {
    /// Whether an older run has nothing to add about these servers. Main is never restored.
    fn tells_all_of(&self, servers: &[&ServerName]) -> bool {
        let Some(main) = &self.main else { return false };
        let told = |server: &&ServerName| {
            self.restarts.contains_key(*server) && (*server == main || self.restores.contains_key(*server))
        };
        servers.iter().all(told)
    }

    /// Takes in the next older run.
    fn take_in(&mut self, state: &State) {
        if self.main.is_none() && state.plan().request.kind == Kind::Sync {
            self.main = state.plan().main.as_ref().map(|main| main.server.clone());
        }
        for step in state.all_steps() {
            let (server, took) = match &step.what {
                What::Restart { server } => (server, &mut self.restarts),
                What::Restore { server } => (server, &mut self.restores),
                _ => continue,
            };
            if let Some(StepResult::Done { ums_ms, .. }) = state.result(step.no) {
                took.entry(server.clone()).or_insert(ums_ms.div_ceil(1000));
            }
        }
    }
}

impl RunLog {
    fn empty(journal: &Journal, run: &RunId) -> Self {
        let (journal, run) = (journal.clone(), run.clone());
        Self {
            journal,
            run,
            number: 0,
            link: chain::genesis(),
            state: None,
            events: Vec::new(),
            records: Vec::new(),
            prepared: Vec::new(),
        }
    }

    /// The run.
    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// What its events amount to.
    ///
    /// # Panics
    /// Never: a log is only given out with at least one event.
    pub fn state(&self) -> &State {
        self.state.as_ref().expect("a log is given out with its first event")
    }

    /// Its events.
    pub fn events(&self) -> &[Recorded] {
        &self.events
    }

    /// Its events as they are chained: what agents get copies of.
    pub fn records(&self) -> &[JournalRecord] {
        &self.records
    }

    /// Writes the next event; when this returns it is on disk. An event that cannot follow is not written.
    pub async fn append(&mut self, event: &Event) -> Result<&Recorded, JournalError> {
        self.prepare(event)?;
        self.commit().await?;
        Ok(self.events.last().expect("it was written just now"))
    }

    /// Takes in the next event, to be written by the next [`RunLog::commit`]: until then nothing may be begun that depends on it,
    /// and nobody is told. An event that cannot follow is not taken in.
    pub fn prepare(&mut self, event: &Event) -> Result<(), JournalError> {
        match &mut self.state {
            None => self.state = Some(State::begin(event)?),
            Some(state) => state.apply(event)?,
        }
        let (number, at) = (self.number + 1, Timestamp::now());
        let body = serde_json::to_string(event).expect("an event is plain data: it can be written as JSON");
        let text = format!("{at}\n{body}");
        let link = chain::link(&self.link, number, text.as_bytes());
        (self.number, self.link) = (number, link);
        let record = JournalRecord { number, text, link, seal: None };
        self.prepared.push((Recorded { number, at, event: event.clone() }, record));
        Ok(())
    }

    /// Writes what was prepared, all of it or nothing; when this returns it is on disk. What was written by it. What could not be
    /// written has not happened.
    pub async fn commit(&mut self) -> Result<&[Recorded], JournalError> {
        let written = self.events.len();
        if self.prepared.is_empty() {
            return Ok(&[]);
        }
        if let Err(error) = self.write().await {
            self.prepared.clear();
            self.number = written as u64;
            self.link = self.records.last().map_or_else(chain::genesis, |record| record.link);
            self.state = State::replay(self.events.iter().map(|recorded| &recorded.event)).ok();
            return Err(error);
        }
        for (recorded, record) in self.prepared.drain(..) {
            self.events.push(recorded);
            self.records.push(record);
        }
        Ok(self.events.get(written..).unwrap_or_default())
    }

    async fn write(&self) -> Result<(), JournalError> {
        for (recorded, _) in &self.prepared {
            fault::moment(format_args!("journal {} before", recorded.event.label()));
        }
        let rows = self.prepared.len();
        let mut insert = Query::rows("INSERT INTO events (run, number, at, body, link) VALUES ", rows, 5);
        for (recorded, record) in &self.prepared {
            let (_, body) = record.text.split_once('\n').unwrap_or_default();
            insert = insert
                .text(self.run.as_str())
                .number(recorded.number)
                .text(recorded.at.to_string())
                .text(body)
                .text(record.link.to_string());
        }
        self.journal.database.execute(insert).await.map_err(|source| {
            match source.as_database_error().is_some_and(|error| error.is_unique_violation()) {
                true => JournalError::Elsewhere(self.run.clone()),
                false => self.journal.failed("write")(source),
            }
        })?;
        for (recorded, _) in &self.prepared {
            fault::moment(format_args!("journal {} after", recorded.event.label()));
        }
        Ok(())
    }

    fn take_in(&mut self, row: &Row) -> Result<(), JournalError> {
        let number = self.number + 1;
        let corrupt = |why: String| JournalError::Corrupt { run: self.run.clone(), number, why };
        let text = |column: &str| row.text(column).map_err(|error| corrupt(error.to_string()));
        let found = row.number("number").map_err(|error| corrupt(error.to_string()))?;
        let text = (format!("{}\n{}", text("at")?, text("body")?), text("link")?);
        self.admit(found, text)
    }

    /// Takes in the next event as it is chained: its text, and its link.
    fn admit(&mut self, found: u64, (text, expected): (String, String)) -> Result<(), JournalError> {
        let number = self.number + 1;
        let corrupt = |why: String| JournalError::Corrupt { run: self.run.clone(), number, why };
        if found != number {
            return Err(corrupt(format!("the next event on record is {found}")));
        }
        let link = chain::link(&self.link, number, text.as_bytes());
        if expected != link.to_string() {
            return Err(corrupt("its hash does not match".to_owned()));
        }
        let (at, body) = text.split_once('\n').unwrap_or_default();
        let event: Event = serde_json::from_str(body).map_err(|error| corrupt(error.to_string()))?;
        let at: Timestamp = at.parse().map_err(|_| corrupt("its time is unreadable".to_owned()))?;
        match &mut self.state {
            None => self.state = Some(State::begin(&event).map_err(|error| corrupt(error.to_string()))?),
            Some(state) => state.apply(&event).map_err(|error| corrupt(error.to_string()))?,
        }
        (self.number, self.link) = (number, link);
        self.events.push(Recorded { number, at, event });
        self.records.push(JournalRecord { number, text, link, seal: None });
        Ok(())
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        matches!(self.state().standing(), Standing::Ended(_))
    }
}

mod acts;
mod adopt;
mod moving;

pub use acts::{Act, RecordedAct};
pub use moving::CopyError;

#[cfg(test)]
mod tests;
