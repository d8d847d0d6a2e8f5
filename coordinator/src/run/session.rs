//! One process's work on a run: the loop around [`next`].

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Zoned;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use umsid_proto::failure::Failure;

use super::copies::Copies;
use super::{Crew, Event, Halt, HaltKind, Leases, Next, Notice, RunError, in_time, next, stuck};
use crate::journal::RunLog;
use crate::plan::What;
use crate::step::{self, End, Shift};

/// One process's work on a run.
pub(super) struct Session<'a> {
    log: &'a mut RunLog,
    crew: &'a Crew,
    /// Set when nothing new is begun any more.
    halting: Option<Halt>,
    /// Steps this process carries out now.
    running: BTreeSet<u32>,
    /// On the agents.
    pub(super) copies: Copies,
    /// Nothing was begun since the session, or the way back, began.
    new_way: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(log: &'a mut RunLog, crew: &'a Crew, copies: Copies) -> Self {
        Self { log, crew, halting: None, running: BTreeSet::new(), copies, new_way: true }
    }

    /// Takes in what has happened, or is to happen as soon as it is on record; [`Session::commit`] puts it there. What follows from
    /// one another without anything being done in between is one write.
    fn record(&mut self, event: &Event) -> Result<(), RunError> {
        self.log.prepare(event)?;
        self.new_way |= matches!(event, Event::TurnedBack { .. });
        Ok(())
    }

    /// To be called before anything is begun, waited for or ended.
    async fn commit(&mut self) -> Result<(), RunError> {
        let mut begun = Vec::new();
        for recorded in self.log.commit().await? {
            if let Event::Started { step, .. } = recorded.event {
                begun.push(step);
            }
            (self.crew.tell)(Notice::Recorded(recorded.clone()));
        }
        self.copies.follow(self.log);
        let state = self.log.state();
        // What a way back must know of.
        for what in begun.into_iter().filter_map(|step| Some(&state.step(step)?.what)) {
            if let What::Restore { server } | What::RestoreOwn { server, .. } = what {
                self.copies.hurry(server);
            }
        }
        Ok(())
    }

    /// Puts the last word of this session on record.
    async fn close(&mut self, event: &Event) -> Result<(), RunError> {
        self.record(event)?;
        self.commit().await
    }

    /// Goes on as far as that is possible, these events first.
    pub(super) async fn go(&mut self, leases: &Leases, first: Vec<Event>) -> Result<(), RunError> {
        self.record(&Event::Leased { epoch: leases.lease().epoch, by: self.crew.by.clone() })?;
        for event in first {
            self.record(&event)?;
        }
        let shift = Arc::new(Shift {
            run: self.log.run().clone(),
            lease: leases.lease().clone(),
            agents: self.crew.agents.clone(),
            survey: self.crew.survey.clone(),
            pace: self.crew.pace,
            tell: Arc::clone(&self.crew.tell),
            stop: self.crew.stop.clone(),
            sighted: step::Sighted::default(),
        });
        let mut steps: JoinSet<(u32, u32, End)> = JoinSet::new();
        let mut fence = leases.fence();
        loop {
            if self.crew.stop.is_cancelled() && self.halting.is_none() {
                self.halting = Some(halt(HaltKind::Interrupted, "it was asked to stop", None));
            }
            if let (Some(halt), true) = (&self.halting, self.running.is_empty()) {
                let halt = halt.clone();
                return self.close(&Event::Halted(halt)).await;
            }
            let next = match &self.halting {
                Some(_) => Next::Wait,
                None => {
                    let next = next(self.log.state(), &self.running);
                    in_time(self.log.state(), next, &self.running, &Zoned::now())
                }
            };
            if self.is_to_be_known(&next) {
                self.commit().await?;
                self.copies.settle().await;
                self.new_way = false;
            }
            match next {
                Next::Start(list) => {
                    let mut begun = Vec::new();
                    for (step, attempt) in list {
                        self.record(&Event::Started { step, attempt })?;
                        match step::known(&shift, self.log.state(), step) {
                            Some(result) => self.record(&Event::Finished { step, attempt, result })?,
                            None => begun.push((step, attempt)),
                        }
                    }
                    if !begun.is_empty() {
                        self.commit().await?;
                    }
                    for (step, attempt) in begun {
                        self.spawn(&shift, &mut steps, step, attempt);
                    }
                }
                Next::TakeUp(list) => {
                    self.commit().await?;
                    for (step, attempt) in list {
                        self.spawn(&shift, &mut steps, step, attempt);
                    }
                }
                Next::Skip(list) => {
                    for (step, why) in list {
                        self.record(&Event::Skipped { step, why })?;
                    }
                }
                Next::TurnBack { why, steps } => self.record(&Event::TurnedBack { why, steps })?,
                Next::Halt(halt) => {
                    self.commit().await?;
                    self.halting = Some(stuck::look(halt, self.crew).await);
                }
                Next::End(outcome) => return self.close(&Event::Ended { outcome }).await,
                Next::Over => return self.commit().await,
                Next::Wait => {
                    self.commit().await?;
                    self.wait(&mut steps, &mut fence).await?;
                }
            }
        }
    }

    /// Whether this is begun only when the agents know what came before: the first of a way, so that none of them does
    /// anything of which it does not know what it is part of; and what removes files that whoever takes the run up from
    /// an earlier event would need.
    fn is_to_be_known(&self, next: &Next) -> bool {
        let discards = |(no, _): &(u32, u32)| {
            self.log.state().step(*no).is_some_and(|step| matches!(step.what, What::Discard { .. }))
        };
        match next {
            Next::Start(list) => self.new_way || list.iter().any(discards),
            Next::TakeUp(_) => self.new_way,
            _ => false,
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
            ended = steps.join_next() => {
                // What ended in the same moment is put on record along with it.
                for ended in ended.into_iter().chain(std::iter::from_fn(|| steps.try_join_next())) {
                    self.ended(ended)?;
                }
                if steps.is_empty() {
                    self.running.clear();
                }
            }
            // A second look at the loop's head, where the stop is seen.
            () = self.crew.stop.cancelled(), if self.halting.is_none() => {}
        }
        Ok(())
    }

    fn ended(&mut self, ended: Result<(u32, u32, End), JoinError>) -> Result<(), RunError> {
        match ended {
            Ok((step, attempt, end)) => {
                // Of two reasons to halt in one moment, that of a defect is told.
                let defect = self.halting.take_if(|halt| halt.kind == HaltKind::Unknown);
                self.finished(step, attempt, end)?;
                self.halting = defect.or(self.halting.take());
                Ok(())
            }
            // A step that panicked is a defect. What it did is not known, and that is what the journal says.
            Err(error) => {
                self.running.clear();
                self.halting = Some(halt(HaltKind::Unknown, format!("a defect in umsid: {error}"), None));
                Ok(())
            }
        }
    }

    fn finished(&mut self, step: u32, attempt: u32, end: End) -> Result<(), RunError> {
        self.running.remove(&step);
        let halt_with = |kind, why, failure| Some(halt(kind, why, failure));
        match end {
            End::Result(result) => self.record(&Event::Finished { step, attempt, result })?,
            End::OutOfReach { server, why } => {
                let why = format!("{server} has been out of reach for too long: {why}");
                self.halting = halt_with(HaltKind::Unreachable, why, None);
            }
            End::Barred { server, failure } => {
                let why = format!("{server}: {failure}");
                self.halting = halt_with(HaltKind::Certificate, why, Some(failure));
            }
            End::NoOutcome { server, why } => {
                let why = format!("what came of it on {server} is not known: {why}");
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
    Halt { kind, why: why.into(), failure, stuck: None }
}
