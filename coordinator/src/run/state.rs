//! What a run's events amount to. One function decides which event may follow, live and in replay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use umsid_common::name::ServerName;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::Effect;

use super::event::{Ending, Event, Halt, StepResult, Yield};
use super::lease::LARGEST_EPOCH;
use super::next::{Next, next, turns_back};
use crate::plan::{Plan, Step, What};

mod admission;
mod evidence;

/// A run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Shared by all copies: every step that is carried out has one.
    plan: Arc<Plan>,
    by: String,
    back: Vec<Back>,
    /// Likewise, each.
    progress: BTreeMap<u32, Arc<Progress>>,
    epoch: Option<u64>,
    /// The session has begun and nothing was done in it yet.
    fresh: bool,
    /// In this session servers are disturbed whatever the windows of their sites.
    windows_ignored: bool,
    standing: Standing,
}

#[derive(Clone, Debug, PartialEq)]
struct Back {
    why: String,
    /// Somebody asked for it.
    asked: bool,
    steps: Vec<Step>,
}

/// Whether a run goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Begun, or being resumed: it holds no lease yet.
    Open,
    /// It goes on.
    Going,
    /// It stands still.
    Halted(Halt),
    /// It is over.
    Ended(Ending),
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The newest attempt; 0: none yet.
    pub attempt: u32,
    /// What is known of it.
    pub status: Status,
    /// Whether an attempt that has ended may have changed something.
    pub effect: bool,
}

/// What is known of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Not begun in this session.
    Waiting,
    /// Begun; what came of it is not on record.
    Begun,
    /// Its result.
    Ended(StepResult),
    /// Not needed.
    Skipped(String),
}

/// An event that cannot follow what is on record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} cannot follow: {why}")]
pub struct Illegal {
    event: &'static str,
    why: String,
}

/// What a step waits for. It is put into words only where somebody reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Another step.
    Step(u32),
    /// Something that is to be known first.
    Known(&'static str),
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(no) => write!(f, "step {no}"),
            Self::Known(what) => f.write_str(what),
        }
    }
}

fn illegal(event: &'static str, why: impl Into<String>) -> Illegal {
    Illegal { event, why: why.into() }
}

impl State {
    /// The state after a run's first event.
    pub fn begin(event: &Event) -> Result<Self, Illegal> {
        let Event::Begun { plan, by, .. } = event else {
            return Err(illegal("the first event", "a run begins with its plan"));
        };
        let mut state = Self {
            plan: Arc::new((**plan).clone()),
            by: by.clone(),
            back: Vec::new(),
            progress: BTreeMap::new(),
            epoch: None,
            fresh: false,
            windows_ignored: false,
            standing: Standing::Open,
        };
        admission::of_plan(plan).map_err(|why| illegal("the first event", why))?;
        state.admit(&plan.steps);
        Ok(state)
    }

    /// The state after a run's events.
    pub fn replay<'a>(mut events: impl Iterator<Item = &'a Event>) -> Result<Self, Illegal> {
        let first = events.next().ok_or_else(|| illegal("no event", "a run has at least one"))?;
        events.try_fold(Self::begin(first)?, |mut state, event| state.apply(event).map(|()| state))
    }

    fn admit(&mut self, steps: &[Step]) {
        for step in steps {
            let progress = Progress { attempt: 0, status: Status::Waiting, effect: false };
            self.progress.insert(step.no, Arc::new(progress));
        }
    }

    /// Takes in the next event, or says why it cannot follow; then nothing has changed.
    pub fn apply(&mut self, event: &Event) -> Result<(), Illegal> {
        if let Standing::Ended(_) = self.standing {
            return Err(illegal("an event", "the run is over"));
        }
        match event {
            Event::Begun { .. } => Err(illegal("begun", "the run has begun already")),
            Event::Leased { epoch, .. } => self.open_session(*epoch),
            Event::WindowsIgnored { .. } => {
                self.going("windows ignored")?;
                self.windows_ignored = true;
                Ok(())
            }
            Event::Started { step, attempt } => self.start(*step, *attempt),
            Event::Finished { step, attempt, result } => self.finish(*step, *attempt, result),
            Event::Skipped { step, why } => self.skip(*step, why),
            Event::TurnedBack { why, steps } => self.turn_back(why, steps),
            Event::Halted(halt) => {
                self.going("halted")?;
                self.standing = Standing::Halted(halt.clone());
                Ok(())
            }
            Event::Ended { outcome } => self.end(*outcome),
            // Whatever it stands at: somebody has looked, and takes it on himself.
            Event::GivenUp { .. } => {
                self.standing = Standing::Ended(Ending::GivenUp);
                Ok(())
            }
        }
    }

    /// A run ends when every step is settled, and as what its steps amount to: no record says more than was proved.
    fn end(&mut self, outcome: Ending) -> Result<(), Illegal> {
        self.going("ended")?;
        if let Some(open) = self.steps().find(|step| !self.is_settled(step.no)) {
            return Err(illegal("ended", format!("step {} is not done", open.no)));
        }
        if next(self, &BTreeSet::new()) != Next::End(outcome) {
            return Err(illegal("ended", format!("what was done does not make it {}", outcome.as_str())));
        }
        self.standing = Standing::Ended(outcome);
        Ok(())
    }

    fn going(&self, event: &'static str) -> Result<(), Illegal> {
        match self.standing {
            Standing::Going => Ok(()),
            _ => Err(illegal(event, "the run holds no lease")),
        }
    }

    fn open_session(&mut self, epoch: u64) -> Result<(), Illegal> {
        if self.epoch.is_some_and(|held| epoch <= held) {
            return Err(illegal("leased", format!("epoch {epoch} is not higher than the last")));
        }
        if epoch > LARGEST_EPOCH {
            return Err(illegal("leased", format!("no lease has epoch {epoch}")));
        }
        let stood_still = matches!(self.standing, Standing::Halted(_));
        self.epoch = Some(epoch);
        self.fresh = true;
        self.windows_ignored = false;
        self.standing = Standing::Going;
        // Who is Main may have changed while nobody looked: nothing more is restored until that is confirmed again.
        if let Some(confirm) = self.last_confirmation().filter(|_| self.restores_are_left())
            && let Some(progress) = self.progress.get_mut(&confirm)
            && matches!(progress.status, Status::Ended(_))
        {
            Arc::make_mut(progress).status = Status::Waiting;
        }
        // Whoever takes up a run wants tried again what did not come to a good end. But where its umsid died between a failure
        // that sends it back and the turning back, it goes back.
        let goes_back = !stood_still && turns_back(self);
        for progress in self.progress.values_mut().filter(|_| !goes_back) {
            if matches!(&progress.status, Status::Ended(result) if !matches!(result, StepResult::Done { .. }))
            {
                Arc::make_mut(progress).status = Status::Waiting;
            }
        }
        Ok(())
    }

    /// The step that is to be carried out under this number: one of the plan's, or on the way back one of that.
    fn to_be_carried_out(&self, event: &'static str, no: u32) -> Result<(&Step, &Arc<Progress>), Illegal> {
        let step = self.steps().find(|step| step.no == no).zip(self.progress.get(&no));
        step.ok_or_else(|| illegal(event, format!("step {no} is not to be carried out")))
    }

    fn start(&mut self, no: u32, attempt: u32) -> Result<(), Illegal> {
        self.going("started")?;
        let (step, progress) = self.to_be_carried_out("started", no)?;
        if let Some(what) = self.waits_for(step) {
            return Err(illegal("started", format!("step {no} waits for {what}")));
        }
        if self.is_needless(step) {
            return Err(illegal("started", format!("step {no} is not needed any more")));
        }
        let again =
            matches!(&progress.status, Status::Ended(result) if !matches!(result, StepResult::Done { .. }));
        if !(progress.status == Status::Waiting || again) {
            return Err(illegal("started", format!("step {no} is begun or done already")));
        }
        if attempt != progress.attempt + 1 {
            return Err(illegal(
                "started",
                format!("attempt {attempt} follows attempt {}", progress.attempt),
            ));
        }
        let effect = progress.effect;
        self.progress.insert(no, Arc::new(Progress { attempt, status: Status::Begun, effect }));
        self.fresh = false;
        Ok(())
    }

    fn finish(&mut self, no: u32, attempt: u32, result: &StepResult) -> Result<(), Illegal> {
        self.going("finished")?;
        let (step, progress) = self.to_be_carried_out("finished", no)?;
        if progress.status != Status::Begun || progress.attempt != attempt {
            return Err(illegal("finished", format!("attempt {attempt} of step {no} is not going on")));
        }
        // What was begun in an earlier session is taken up only when nothing stands before it any more.
        if let Some(what) = self.waits_for(step) {
            return Err(illegal("finished", format!("step {no} waits for {what}")));
        }
        if let StepResult::Done { yields, .. } = result
            && !evidence::is_of(&step.what, yields)
        {
            return Err(illegal(
                "finished",
                format!("step {no} ({}) yields no such thing", step.what.title()),
            ));
        }
        let effect = progress.effect || !matches!(result, StepResult::Failed { effect: Effect::None, .. });
        let status = Status::Ended(result.clone());
        self.progress.insert(no, Arc::new(Progress { attempt, status, effect }));
        self.fresh = false;
        Ok(())
    }

    fn skip(&mut self, no: u32, why: &str) -> Result<(), Illegal> {
        self.going("skipped")?;
        let (step, progress) = self.to_be_carried_out("skipped", no)?;
        if progress.status != Status::Waiting {
            return Err(illegal("skipped", format!("step {no} is begun or done already")));
        }
        // On the way back, what is only to be tidied up may be left on a server out of reach.
        let left = self.turned_back().is_some() && matches!(step.what, What::Discard { .. });
        if !(left || self.is_needless(step)) {
            return Err(illegal("skipped", format!("step {no} is needed")));
        }
        let skipped = Progress { status: Status::Skipped(why.to_owned()), ..(**progress).clone() };
        self.progress.insert(no, Arc::new(skipped));
        Ok(())
    }

    fn turn_back(&mut self, why: &str, steps: &[Step]) -> Result<(), Illegal> {
        self.going("turned back")?;
        // Nothing has been done in this session yet only when somebody asked for it. He may choose another way back than
        // the one the run stood still on.
        let open =
            self.back.last().is_some_and(|back| !back.steps.iter().all(|step| self.is_settled(step.no)));
        if open && !self.fresh {
            return Err(illegal("turned back", "the run is on its way back already"));
        }
        admission::of_way_back(self, steps).map_err(|why| illegal("turned back", why))?;
        self.admit(steps);
        self.back.push(Back { why: why.to_owned(), asked: self.fresh, steps: steps.to_vec() });
        Ok(())
    }

    /// The plan it was begun with.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Who began it.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// The newest epoch it held.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Whether it goes on.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Why it is on its way back; `None`: it goes forward.
    pub fn turned_back(&self) -> Option<&str> {
        self.back.last().map(|back| back.why.as_str())
    }

    /// Whether its newest session ignores windows.
    pub fn windows_are_ignored(&self) -> bool {
        self.windows_ignored
    }

    /// Whether somebody asked for the way back it is on.
    pub fn back_was_asked_for(&self) -> bool {
        self.back.last().is_some_and(|back| back.asked)
    }

    /// The servers the way back it is on is still to put as they were.
    pub fn still_to_put_back(&self) -> Vec<ServerName> {
        let open = self
            .back
            .iter()
            .next_back()
            .into_iter()
            .flat_map(|back| &back.steps)
            .filter(|step| matches!(step.what, What::VerifyOwn { .. }) && !self.is_settled(step.no));
        open.filter_map(|step| step.what.server().cloned()).collect()
    }

    /// The steps to be carried out now: the plan's, or those of the way back.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        match self.back.last() {
            Some(back) => back.steps.iter(),
            None => self.plan.steps.iter(),
        }
    }

    /// All steps, the plan's and those of the way back.
    pub fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.plan.steps.iter().chain(self.back.iter().flat_map(|back| &back.steps))
    }

    /// The step with this number.
    pub fn step(&self, no: u32) -> Option<&Step> {
        // A plan's steps are numbered from one on.
        let place = usize::try_from(no).ok().and_then(|no| no.checked_sub(1));
        let there = place.and_then(|place| self.plan.steps.get(place)).filter(|step| step.no == no);
        there.or_else(|| self.all_steps().find(|step| step.no == no))
    }

    /// How far a step is.
    pub fn progress(&self, no: u32) -> Option<&Progress> {
        self.progress.get(&no).map(Arc::as_ref)
    }

    /// The number the next new step would have.
    pub fn next_number(&self) -> u32 {
        self.progress.last_key_value().map_or(1, |(no, _)| no + 1)
    }

    /// Whether it was ever begun.
    pub fn was_begun(&self, no: u32) -> bool {
        self.progress.get(&no).is_some_and(|progress| progress.attempt > 0)
    }

    /// Whether it may have changed something: an attempt has, or one that was begun has no result on record.
    pub fn may_have_effect(&self, no: u32) -> bool {
        self.progress.get(&no).is_some_and(|progress| progress.effect || progress.status == Status::Begun)
    }

    /// Whether it is done.
    pub fn is_done(&self, no: u32) -> bool {
        self.done(no).is_some()
    }

    /// Whether what waits for it may go on: it is done, or not needed. A step that is not needed still stands for all it
    /// would have waited for.
    pub fn is_settled(&self, no: u32) -> bool {
        // Of hundreds of steps nearly all are one or the other, and are asked for again with every event.
        match self.progress(no) {
            Some(progress) if !matches!(progress.status, Status::Skipped(_)) => return self.is_done(no),
            _ => {}
        }
        let (mut open, mut seen) = (vec![no], BTreeSet::new());
        while let Some(no) = open.pop() {
            // Many may wait for one step: it is looked at once.
            if !seen.insert(no) || self.is_done(no) {
                continue;
            }
            let skipped = matches!(self.progress(no), Some(Progress { status: Status::Skipped(_), .. }));
            let Some(step) = self.step(no).filter(|_| skipped) else { return false };
            open.extend(&step.after);
        }
        true
    }

    /// What must come before a step is begun, is taken up, or comes to its end; `None`: nothing.
    pub fn waits_for(&self, step: &Step) -> Option<Awaited> {
        let open = step.after.iter().find(|before| !self.is_settled(**before));
        open.map(|open| Awaited::Step(*open)).or_else(|| self.held_back(step).map(Awaited::Known))
    }

    /// Whether the run goes forward and something is still to be restored.
    fn restores_are_left(&self) -> bool {
        self.back.is_empty()
            && self
                .plan
                .steps
                .iter()
                .any(|step| matches!(step.what, What::Restore { .. }) && !self.is_settled(step.no))
    }

    /// What came of its newest attempt, where that is on record.
    pub fn result(&self, no: u32) -> Option<&StepResult> {
        match &self.progress.get(&no)?.status {
            Status::Ended(result) => Some(result),
            _ => None,
        }
    }

    fn done(&self, no: u32) -> Option<&Yield> {
        match &self.progress.get(&no)?.status {
            Status::Ended(StepResult::Done { yields, .. }) => Some(yields),
            _ => None,
        }
    }

    /// The step that did not come to a good end, with what is said of it.
    pub fn trouble(&self) -> Option<(&Step, &StepResult)> {
        self.steps().find_map(|step| match &self.progress.get(&step.no)?.status {
            Status::Ended(result) if !matches!(result, StepResult::Done { .. }) => Some((step, result)),
            _ => None,
        })
    }

    /// Whether a step failed only because an agent was stopped in the middle, or left open what happened: then doing it
    /// again is right, because every step can be repeated.
    pub(super) fn may_try_again(&self, no: u32) -> bool {
        let Some(progress) = self.progress.get(&no) else { return false };
        let Status::Ended(result) = &progress.status else { return false };
        let interrupted = match result {
            StepResult::Done { .. } => false,
            StepResult::Failed { failure: Failure { code, .. }, .. } => *code == Code::Interrupted,
            StepResult::Unknown { .. } => true,
        };
        interrupted && progress.attempt < 3
    }
}
