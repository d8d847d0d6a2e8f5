//! One execution of a plan, from its leases to its end.
//!
//! What happened is a list of [`Event`]s; what they amount to is a [`State`]; what comes next is [`next`]. All three are
//! pure. Around them a run is begun, taken up or turned back here: its leases are taken, and a `session` is the loop that journals
//! every step before it is begun, carries it out ([`step`](crate::step)) and journals what came of it. Whatever dies, the events are
//! what the run goes on from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use umsid_common::name::{ClusterName, RunId, ServerName};
use umsid_proto::model::{Effect, LeaseRef, Operation, Outcome, Trouble};

use crate::agents::{Agent, AgentError};
use crate::journal::{Journal, JournalError, RunLog};
use crate::plan::{Plan, Step, What, roll_back, touched};
use crate::survey::Survey;

mod copies;
mod event;
mod in_time;
mod lease;
mod next;
mod session;
mod state;
mod stuck;

use copies::Copies;
pub use event::{Ending, Event, Halt, HaltKind, Recorded, StepResult, Stuck, Yield};
pub use in_time::{closing, in_time, waits_at};
pub(crate) use lease::{LARGEST_EPOCH, is_fence};
pub use lease::{LeaseError, Leases};
pub use next::{Next, next};
use session::Session;
pub use state::{Awaited, Illegal, Progress, Standing, State, Status};

/// How long things may take that are ours, not the UMS's.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a lease lasts unless renewed; it is renewed three times as often.
    pub lease: Duration,
    /// How long a server may be out of reach before the run halts.
    pub contact: Duration,
    /// How long an operation of an agent may take altogether before the run halts.
    pub operation: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60),
            contact: Duration::from_secs(300),
            operation: Duration::from_secs(6 * 3600),
        }
    }
}

/// What a run tells while it goes on.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The run has a name: the first thing that is told.
    Named(RunId),
    /// An event that is in the journal now.
    Recorded(Recorded),
    /// Worth telling, and no reason to stop.
    Remark(String),
    /// What a server, or the cluster, does now.
    Doing {
        /// The step.
        step: u32,
        /// What it does, or waits for.
        what: String,
        /// Until when it may take.
        deadline: Option<Timestamp>,
    },
}

/// Where notices go.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

/// What a run needs besides its plan.
pub struct Crew {
    /// A connection to every server that takes part.
    pub agents: BTreeMap<ServerName, Agent>,
    /// What they reported at last.
    pub survey: Survey,
    /// Who we are: "coordinator anna (anna@admin1)".
    pub by: String,
    /// Time limits.
    pub pace: Pace,
    /// Where notices go.
    pub tell: Tell,
    /// Cancelled when the run is to stop after what is going on.
    pub stop: CancellationToken,
}

/// A run could not go on, and its journal says nothing of why.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The journal could not be written or read.
    #[error("the run was stopped because of its journal")]
    Journal(#[from] JournalError),
    /// Not every server could be leased; none is.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The run is over.
    #[error("run {0} is over: there is nothing to resume or roll back")]
    Over(RunId),
    /// Another run has been at work there since.
    #[error(
        "run {other} has been at work on {server} since run {run} stood still: what that was planned on does not hold any more"
    )]
    Overtaken {
        /// This one.
        run: RunId,
        /// Where.
        server: ServerName,
        /// The other.
        other: RunId,
    },
    /// Somebody took it up on another machine: an agent holds more of its journal than is here, or another.
    #[error(
        "run {run} was taken up elsewhere: {server} holds a copy of its journal that is not the beginning of the journal here"
    )]
    TakenUpElsewhere {
        /// Which run.
        run: RunId,
        /// Of which cluster.
        cluster: ClusterName,
        /// Where the copy is.
        server: ServerName,
    },
    /// The run touched no server, or not this one.
    #[error("{0}")]
    NothingToRollBack(String),
    /// A server that takes part did not answer.
    #[error("{server} did not answer")]
    Silent {
        /// Which.
        server: ServerName,
        /// Why.
        #[source]
        source: AgentError,
    },
}

/// Begins a run and carries it out as far as it goes.
pub async fn begin(journal: &Journal, plan: Plan, crew: &Crew) -> Result<RunLog, RunError> {
    let run = RunId::new(Timestamp::now());
    (crew.tell)(Notice::Named(run.clone()));
    let needed = plan.servers.keys().cloned().collect();
    let leases = Leases::take(&run, 0, &plan, &needed, crew).await?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let first = Event::Begun { plan: Box::new(plan), by: crew.by.clone(), version };
    let log = journal.begin(&run, &first).await;
    let mut log = match log {
        Ok(log) => log,
        Err(error) => {
            leases.release().await;
            return Err(error.into());
        }
    };
    if let Some(first) = log.events().first() {
        (crew.tell)(Notice::Recorded(first.clone()));
    }
    carry_out(&mut log, leases, crew, Vec::new()).await?;
    Ok(log)
}

/// Takes up a run where its journal ends; `ignore_windows`: whatever the windows of sites.
pub async fn resume(mut log: RunLog, ignore_windows: bool, crew: &Crew) -> Result<RunLog, RunError> {
    if log.is_over() {
        return Err(RunError::Over(log.run().clone()));
    }
    overtaken(&log, log.state().turned_back().is_some(), crew).await?;
    copies::taken_up_elsewhere(&log, crew).await?;
    let mut needed = needed(log.state());
    needed.extend(tidied(log.state(), crew));
    let leases = Leases::take(log.run(), held(&log), log.state().plan(), &needed, crew).await?;
    let ignored = ignore_windows.then(|| Event::WindowsIgnored { by: crew.by.clone() });
    let first = ignored.into_iter().chain(out_of_reach(log.state(), crew)).collect();
    carry_out(&mut log, leases, crew, first).await?;
    Ok(log)
}

/// Puts servers back as they were before a run: these, or all it has touched. Only those must be within reach.
pub async fn turn_back(mut log: RunLog, servers: &[ServerName], crew: &Crew) -> Result<RunLog, RunError> {
    if log.is_over() {
        return Err(RunError::Over(log.run().clone()));
    }
    let same_way = servers.is_empty() || is_same_way(log.state(), servers);
    let open = log.state().steps().any(|step| !log.state().is_settled(step.no));
    if log.state().turned_back().is_some() && open && same_way {
        return resume(log, false, crew).await;
    }
    overtaken(&log, true, crew).await?;
    copies::taken_up_elsewhere(&log, crew).await?;
    let touched = touched(log.state());
    if let Some(other) = servers.iter().find(|server| !touched.contains(server)) {
        let why = format!("the run restored nothing on {other}, or has put it back: it is as it was");
        return Err(RunError::NothingToRollBack(why));
    }
    let servers = if servers.is_empty() { touched } else { servers.to_vec() };
    let reached: Vec<ServerName> =
        log.state().plan().involved().into_iter().filter(|server| crew.agents.contains_key(server)).collect();
    let steps = roll_back(&servers, &reached, log.state().next_number());
    let why = format!("asked for by {}", crew.by);
    let needed: BTreeSet<ServerName> = servers.into_iter().chain(reached).collect();
    let leases = Leases::take(log.run(), held(&log), log.state().plan(), &needed, crew).await?;
    carry_out(&mut log, leases, crew, vec![Event::TurnedBack { why, steps }]).await?;
    Ok(log)
}

/// Whether the way back the run is on is the one to just these servers. Others may be named because one is stuck.
fn is_same_way(state: &State, servers: &[ServerName]) -> bool {
    let open: BTreeSet<ServerName> = state.still_to_put_back().into_iter().collect();
    open == servers.iter().cloned().collect()
}

/// Ends a run as it stands, on somebody's word.
pub async fn give_up(log: &mut RunLog, by: &str) -> Result<(), RunError> {
    if log.is_over() {
        return Err(RunError::Over(log.run().clone()));
    }
    let left = touched(log.state());
    log.append(&Event::GivenUp { by: by.to_owned(), left }).await?;
    Ok(())
}

fn held(log: &RunLog) -> u64 {
    log.state().epoch().unwrap_or(0)
}

/// The servers a run still needs: all of its plan, or on the way back those something is still to be done on. What is
/// only to be tidied up on a server out of reach is left there.
pub fn needed(state: &State) -> BTreeSet<ServerName> {
    if state.turned_back().is_none() {
        return state.plan().servers.keys().cloned().collect();
    }
    state
        .steps()
        .filter(|step| !state.is_settled(step.no) && !matches!(step.what, What::Discard { .. }))
        .filter_map(|step| step.what.server().cloned())
        .collect()
}

/// The servers within reach on which something is only to be tidied up: that too takes a lease.
fn tidied(state: &State, crew: &Crew) -> Vec<ServerName> {
    let open = state.steps().filter(|step| !state.is_settled(step.no));
    let servers = open.filter_map(|step| step.what.server());
    servers.filter(|server| crew.agents.contains_key(*server)).cloned().collect()
}

fn out_of_reach(state: &State, crew: &Crew) -> Vec<Event> {
    let gone = |step: &&Step| {
        let waiting = state.progress(step.no).is_some_and(|progress| progress.status == Status::Waiting);
        matches!(&step.what, What::Discard { server } if waiting && !crew.agents.contains_key(server))
    };
    let back = state.turned_back().is_some();
    let skip = |step: &Step| Event::Skipped { step: step.no, why: "the server is out of reach".to_owned() };
    state.steps().filter(|step| back && gone(step)).map(skip).collect()
}

/// Makes sure that no other run has done anything on these servers since this one's last operation there: what a run that goes
/// forward was planned on would not hold any more, and what it has transferred is gone. A way `back` must not undo what
/// another run has brought in order: the UMS ID of another server, unless that run has put it back itself.
async fn overtaken(log: &RunLog, back: bool, crew: &Crew) -> Result<(), RunError> {
    let last = log.events().last().map_or(Timestamp::MIN, |recorded| recorded.at);
    let involved = &log.state().plan().servers;
    for (server, agent) in crew.agents.iter().filter(|(server, _)| involved.contains_key(*server)) {
        let silent = |source| RunError::Silent { server: server.clone(), source };
        let operations = agent.operations(None).await.map_err(silent)?;
        // The agent's clock is not ours: what counts is the order on the agent, and its clock only for a run of which
        // nothing is on record there.
        let own = operations.iter().rposition(|operation| operation.id.run == *log.run());
        let newer = match own {
            Some(own) => operations.get(own + 1..).unwrap_or_default(),
            None => &operations,
        };
        let is_other = |operation: &&Operation| {
            let since = own.is_some() || operation.recorded > last;
            since && (!back || operation.is_restore()) && operation.id.run != *log.run()
        };
        let others: Vec<&Operation> = newer.iter().filter(is_other).collect();
        let last_of = |run: &RunId| others.iter().rfind(|operation| operation.id.run == *run);
        let stays = |operation: &&&Operation| {
            !back
                || last_of(&operation.id.run)
                    .is_some_and(|last| last.is_of_another() && may_have_changed(last))
        };
        if let Some(other) = others.iter().find(stays) {
            let (server, other) = (server.clone(), other.id.run.clone());
            return Err(RunError::Overtaken { run: log.run().clone(), server, other });
        }
    }
    Ok(())
}

fn may_have_changed(operation: &Operation) -> bool {
    let untouched =
        |outcome: &Outcome| matches!(outcome.result, Err(Trouble::Failed { effect: Effect::None, .. }));
    !operation.outcome.as_ref().is_some_and(untouched)
}

async fn carry_out(log: &mut RunLog, leases: Leases, crew: &Crew, first: Vec<Event>) -> Result<(), RunError> {
    (crew.tell)(Notice::Named(log.run().clone()));
    let copies = Copies::begin(log, &leases, crew);
    let mut session = Session::new(log, crew, copies);
    let outcome = session.go(&leases, first).await;
    session.copies.settle().await;
    // Whoever comes next need not wait for the leases to run out. A server out of reach keeps it until then.
    leases.release().await;
    outcome
}

impl Leases {
    /// What every request carries.
    pub fn lease(&self) -> &LeaseRef {
        &self.lease
    }
}

/// An error with its causes on one line.
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
