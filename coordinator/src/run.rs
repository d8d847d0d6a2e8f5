//! One execution of a plan, from its leases to its end.
//!
//! What happened is a list of [`Event`]s; what they amount to is a [`State`]; what comes next is [`next`]. All three are
//! pure. This file is the loop around them: it takes the leases, journals every step before it is begun, carries it out
//! ([`step`]) and journals what came of it. Whatever dies, the events are what the run goes on from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use umsid_common::name::{RunId, ServerName};
use umsid_proto::failure::Failure;
use umsid_proto::model::LeaseRef;

use crate::agents::{Agent, AgentError};
use crate::journal::{Journal, JournalError, RunLog};
use crate::plan::{Plan, roll_back, touched};
use crate::step::{self, End, Shift};
use crate::survey::Survey;

mod event;
mod lease;
mod next;
mod state;

pub use event::{Ending, Event, Halt, HaltKind, Recorded, StepResult, Yield};
pub(crate) use lease::is_fence;
pub use lease::{LeaseError, Leases};
pub use next::{Next, next};
pub use state::{Illegal, Progress, Standing, State, Status};

/// How long things may take that are ours, not the UMS's.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a lease lasts unless renewed; it is renewed three times as often.
    pub lease: Duration,
    /// How long a server may be out of reach before the run halts.
    pub contact: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), contact: Duration::from_secs(300) }
    }
}

/// What a run tells while it goes on.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The run has a name: the first thing that is told.
    Named(RunId),
    /// An event that is in the journal now.
    Recorded(Recorded),
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
    let leases = Leases::take(&run, 0, &plan, crew).await?;
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
    carry_out(&mut log, leases, crew, None).await?;
    Ok(log)
}

/// Takes up a run where its journal ends.
pub async fn resume(mut log: RunLog, crew: &Crew) -> Result<RunLog, RunError> {
    if log.is_over() {
        return Err(RunError::Over(log.run().clone()));
    }
    let leases = Leases::take(log.run(), log.state().epoch().unwrap_or(0), log.state().plan(), crew).await?;
    carry_out(&mut log, leases, crew, None).await?;
    Ok(log)
}

/// Puts servers back as they were before a run: these, or all it has touched.
pub async fn turn_back(mut log: RunLog, servers: &[ServerName], crew: &Crew) -> Result<RunLog, RunError> {
    if log.is_over() {
        return Err(RunError::Over(log.run().clone()));
    }
    if log.state().turned_back().is_some() {
        return resume(log, crew).await;
    }
    let touched = touched(log.state());
    if let Some(other) = servers.iter().find(|server| !touched.contains(server)) {
        let why = format!("the run restored nothing on {other}: it is as it was");
        return Err(RunError::NothingToRollBack(why));
    }
    let servers = if servers.is_empty() { touched } else { servers.to_vec() };
    let steps = roll_back(&servers, &log.state().plan().involved(), log.state().next_number());
    let why = format!("asked for by {}", crew.by);
    let leases = Leases::take(log.run(), log.state().epoch().unwrap_or(0), log.state().plan(), crew).await?;
    carry_out(&mut log, leases, crew, Some(Event::TurnedBack { why, steps })).await?;
    Ok(log)
}

async fn carry_out(
    log: &mut RunLog,
    leases: Leases,
    crew: &Crew,
    turn: Option<Event>,
) -> Result<(), RunError> {
    (crew.tell)(Notice::Named(log.run().clone()));
    let mut session = Session { log, crew, halting: None, running: BTreeSet::new() };
    let outcome = session.go(&leases, turn).await;
    // Whoever comes next need not wait for the leases to run out. A server out of reach keeps it until then.
    leases.release().await;
    outcome
}

/// One process's work on a run.
struct Session<'a> {
    log: &'a mut RunLog,
    crew: &'a Crew,
    /// Set when nothing new is begun any more.
    halting: Option<Halt>,
    /// Steps this process carries out now.
    running: BTreeSet<u32>,
}

impl Session<'_> {
    async fn record(&mut self, event: &Event) -> Result<(), RunError> {
        let recorded = self.log.append(event).await?.clone();
        (self.crew.tell)(Notice::Recorded(recorded));
        Ok(())
    }

    async fn go(&mut self, leases: &Leases, turn: Option<Event>) -> Result<(), RunError> {
        self.record(&Event::Leased { epoch: leases.lease().epoch, by: self.crew.by.clone() }).await?;
        if let Some(turn) = turn {
            self.record(&turn).await?;
        }
        let shift = Arc::new(Shift {
            run: self.log.run().clone(),
            lease: leases.lease().clone(),
            agents: self.crew.agents.clone(),
            survey: self.crew.survey.clone(),
            pace: self.crew.pace,
            tell: Arc::clone(&self.crew.tell),
            stop: self.crew.stop.clone(),
        });
        let mut steps: JoinSet<(u32, u32, End)> = JoinSet::new();
        let mut fence = leases.fence();
        loop {
            if self.crew.stop.is_cancelled() && self.halting.is_none() {
                self.halting = Some(halt(HaltKind::Interrupted, "it was asked to stop", None));
            }
            if let (Some(halt), true) = (&self.halting, self.running.is_empty()) {
                let halt = halt.clone();
                return self.record(&Event::Halted(halt)).await;
            }
            let next = match &self.halting {
                Some(_) => Next::Wait,
                None => next(self.log.state(), &self.running),
            };
            match next {
                Next::Start(list) => {
                    for (step, attempt) in list {
                        self.record(&Event::Started { step, attempt }).await?;
                        self.spawn(&shift, &mut steps, step, attempt);
                    }
                }
                Next::TakeUp(list) => {
                    for (step, attempt) in list {
                        self.spawn(&shift, &mut steps, step, attempt);
                    }
                }
                Next::Skip(list) => {
                    for (step, why) in list {
                        self.record(&Event::Skipped { step, why }).await?;
                    }
                }
                Next::TurnBack { why, steps } => self.record(&Event::TurnedBack { why, steps }).await?,
                Next::Halt(halt) => self.halting = Some(halt),
                Next::End(outcome) => return self.record(&Event::Ended { outcome }).await,
                Next::Over => return Ok(()),
                Next::Wait => self.wait(&mut steps, &mut fence).await?,
            }
        }
    }

    fn spawn(&mut self, shift: &Arc<Shift>, steps: &mut JoinSet<(u32, u32, End)>, no: u32, attempt: u32) {
        let (shift, state) = (Arc::clone(shift), self.log.state().clone());
        self.running.insert(no);
        steps.spawn(async move { (no, attempt, step::carry_out(&shift, &state, no, attempt).await) });
    }

    async fn wait(
        &mut self,
        steps: &mut JoinSet<(u32, u32, End)>,
        fence: &mut watch::Receiver<Option<String>>,
    ) -> Result<(), RunError> {
        let fenced = async {
            match fence.wait_for(Option::is_some).await {
                Ok(why) => why.clone(),
                // The renewal ended without a word: nothing fences us off any more, and nothing protects us either.
                Err(_) => Some("the lease is not renewed any more".to_owned()),
            }
        };
        tokio::select! {
            biased;
            why = fenced => {
                // Agents do not obey us any more; what they are doing goes on under the other run's eyes.
                steps.abort_all();
                while steps.join_next().await.is_some() {}
                self.running.clear();
                self.halting = Some(halt(HaltKind::LeaseLost, why.unwrap_or_default(), None));
            }
            finished = steps.join_next() => match finished {
                Some(Ok((step, attempt, end))) => self.finished(step, attempt, end).await?,
                // A step that panicked is a defect. What it did is not known, and that is what the journal says.
                Some(Err(error)) => {
                    self.running.clear();
                    self.halting = Some(halt(HaltKind::Unknown, format!("a defect in umsid: {error}"), None));
                }
                None => self.running.clear(),
            },
            // A second look at the loop's head, where the stop is seen.
            () = self.crew.stop.cancelled(), if self.halting.is_none() => {}
        }
        Ok(())
    }

    async fn finished(&mut self, step: u32, attempt: u32, end: End) -> Result<(), RunError> {
        self.running.remove(&step);
        let halt_with = |kind, why, failure| Some(halt(kind, why, failure));
        match end {
            End::Result(result) => self.record(&Event::Finished { step, attempt, result }).await?,
            End::OutOfReach { server, why } => {
                let why = format!("{server} has been out of reach for too long: {why}");
                self.halting = halt_with(HaltKind::Unreachable, why, None);
            }
            End::Fenced(failure) => {
                self.halting = halt_with(HaltKind::LeaseLost, failure.to_string(), Some(failure));
            }
            End::Stopped => {
                self.halting = halt_with(HaltKind::Interrupted, "it was asked to stop".to_owned(), None);
            }
        }
        Ok(())
    }
}

fn halt(kind: HaltKind, why: impl Into<String>, failure: Option<Failure>) -> Halt {
    Halt { kind, why: why.into(), failure }
}

impl Leases {
    /// What every request carries.
    pub fn lease(&self) -> &LeaseRef {
        &self.lease
    }
}

#[cfg(test)]
pub(crate) mod tests;
