//! What a run's events amount to. One function decides which event may follow, live and in replay.

use std::collections::BTreeMap;

use umsid_common::digest::Digest;
use umsid_common::name::ServerName;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::Effect;

use super::event::{Ending, Event, Halt, StepResult, Yield};
use crate::plan::{Plan, Step, What};
use crate::survey::Proof;

/// A run at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    plan: Plan,
    by: String,
    back: Vec<Back>,
    progress: BTreeMap<u32, Progress>,
    epoch: Option<u64>,
    standing: Standing,
}

#[derive(Clone, Debug, PartialEq)]
struct Back {
    why: String,
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
            plan: (**plan).clone(),
            by: by.clone(),
            back: Vec::new(),
            progress: BTreeMap::new(),
            epoch: None,
            standing: Standing::Open,
        };
        state.admit(&plan.steps)?;
        Ok(state)
    }

    /// The state after a run's events.
    pub fn replay<'a>(mut events: impl Iterator<Item = &'a Event>) -> Result<Self, Illegal> {
        let first = events.next().ok_or_else(|| illegal("no event", "a run has at least one"))?;
        events.try_fold(Self::begin(first)?, |mut state, event| state.apply(event).map(|()| state))
    }

    fn admit(&mut self, steps: &[Step]) -> Result<(), Illegal> {
        for step in steps {
            let newest = self.progress.last_key_value().map_or(0, |(no, _)| *no);
            if step.no != newest + 1 {
                return Err(illegal("steps", format!("step {} comes after step {newest}", step.no)));
            }
            if step.after.iter().any(|before| *before >= step.no) {
                return Err(illegal("steps", format!("step {} waits for a later one", step.no)));
            }
            self.progress.insert(step.no, Progress { attempt: 0, status: Status::Waiting, effect: false });
        }
        Ok(())
    }

    /// Takes in the next event, or says why it cannot follow; then nothing has changed.
    pub fn apply(&mut self, event: &Event) -> Result<(), Illegal> {
        if let Standing::Ended(_) = self.standing {
            return Err(illegal("an event", "the run is over"));
        }
        match event {
            Event::Begun { .. } => Err(illegal("begun", "the run has begun already")),
            Event::Leased { epoch, .. } => self.open_session(*epoch),
            Event::Started { step, attempt } => self.start(*step, *attempt),
            Event::Finished { step, attempt, result } => self.finish(*step, *attempt, result),
            Event::Skipped { step, why } => self.skip(*step, why),
            Event::TurnedBack { why, steps } => self.turn_back(why, steps),
            Event::Halted(halt) => {
                self.standing = Standing::Halted(halt.clone());
                Ok(())
            }
            Event::Ended { outcome } => {
                self.going("ended")?;
                if let Some(open) = self.steps().find(|step| !self.is_settled(step.no)) {
                    return Err(illegal("ended", format!("step {} is not done", open.no)));
                }
                self.standing = Standing::Ended(*outcome);
                Ok(())
            }
        }
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
        self.epoch = Some(epoch);
        self.standing = Standing::Going;
        // Who is Main may have changed while nobody looked: nothing more is restored until that is confirmed again.
        if let Some(confirm) = self.last_confirmation().filter(|_| self.restores_are_left())
            && let Some(progress) = self.progress.get_mut(&confirm)
            && matches!(progress.status, Status::Ended(_))
        {
            progress.status = Status::Waiting;
        }
        // A new session tries again what did not come to a good end in the last one.
        for progress in self.progress.values_mut() {
            if matches!(&progress.status, Status::Ended(result) if !matches!(result, StepResult::Done { .. }))
            {
                progress.status = Status::Waiting;
            }
        }
        Ok(())
    }

    fn known(&mut self, event: &'static str, step: u32) -> Result<&mut Progress, Illegal> {
        self.progress.get_mut(&step).ok_or_else(|| illegal(event, format!("there is no step {step}")))
    }

    fn start(&mut self, no: u32, attempt: u32) -> Result<(), Illegal> {
        self.going("started")?;
        let step = self.steps().find(|step| step.no == no);
        let step = step.ok_or_else(|| illegal("started", format!("step {no} is not to be carried out")))?;
        if let Some(open) = step.after.iter().find(|before| !self.is_settled(**before)) {
            return Err(illegal("started", format!("step {no} waits for step {open}")));
        }
        if let Some(what) = self.held_back(step) {
            return Err(illegal("started", format!("step {no} waits for {what}")));
        }
        let progress = self.known("started", no)?;
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
        *progress = Progress { attempt, status: Status::Begun, effect: progress.effect };
        Ok(())
    }

    fn finish(&mut self, no: u32, attempt: u32, result: &StepResult) -> Result<(), Illegal> {
        self.going("finished")?;
        let progress = self.known("finished", no)?;
        if progress.status != Status::Begun || progress.attempt != attempt {
            return Err(illegal("finished", format!("attempt {attempt} of step {no} is not going on")));
        }
        progress.effect |= !matches!(result, StepResult::Failed { effect: Effect::None, .. });
        progress.status = Status::Ended(result.clone());
        Ok(())
    }

    fn skip(&mut self, no: u32, why: &str) -> Result<(), Illegal> {
        self.going("skipped")?;
        let progress = self.known("skipped", no)?;
        if progress.status != Status::Waiting {
            return Err(illegal("skipped", format!("step {no} is begun or done already")));
        }
        progress.status = Status::Skipped(why.to_owned());
        Ok(())
    }

    fn turn_back(&mut self, why: &str, steps: &[Step]) -> Result<(), Illegal> {
        self.going("turned back")?;
        if self.back.last().is_some_and(|back| !back.steps.iter().all(|step| self.is_settled(step.no))) {
            return Err(illegal("turned back", "the run is on its way back already"));
        }
        self.admit(steps)?;
        self.back.push(Back { why: why.to_owned(), steps: steps.to_vec() });
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
        self.all_steps().find(|step| step.no == no)
    }

    /// How far a step is.
    pub fn progress(&self, no: u32) -> Option<&Progress> {
        self.progress.get(&no)
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
        let skipped = matches!(self.progress.get(&no), Some(Progress { status: Status::Skipped(_), .. }));
        self.is_done(no)
            || (skipped
                && self.step(no).is_some_and(|step| step.after.iter().all(|before| self.is_settled(*before))))
    }

    /// The first server something is restored on: the first target that no restart has brought back.
    pub fn canary(&self) -> Option<&ServerName> {
        self.plan.targets.iter().find(|server| !self.in_sync_already(server))
    }

    /// What a restore waits for besides the steps before it; `None`: nothing.
    ///
    /// That Main is confirmed in this session; and that no other server is touched before the canary is verified. The
    /// plan orders it so; but when a restart was enough for the planned canary, the next target takes its place, out
    /// of the middle of a batch.
    pub fn held_back(&self, step: &Step) -> Option<&'static str> {
        let What::Restore { server } = &step.what else { return None };
        if self.last_confirmation().is_some_and(|confirm| !self.is_settled(confirm)) {
            return Some("Main to be confirmed");
        }
        let canary = self.canary()?;
        (server != canary && self.proof(canary).is_none()).then_some("the canary")
    }

    fn last_confirmation(&self) -> Option<u32> {
        self.plan.steps.iter().filter(|step| step.what == What::ConfirmMain).map(|step| step.no).next_back()
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

    /// What the newest done step of this kind yields.
    fn yielded(&self, kind: impl Fn(&What) -> bool) -> Option<&Yield> {
        self.all_steps().filter(|step| kind(&step.what)).filter_map(|step| self.done(step.no)).last()
    }

    /// The sealed backup of the Main UMS ID: digest and bytes.
    pub fn sealed(&self) -> Option<(Digest, u64)> {
        match self.yielded(|what| matches!(what, What::Backup { .. }))? {
            Yield::Sealed(digest, size) => Some((*digest, *size)),
            _ => None,
        }
    }

    /// This server's safety backup.
    pub fn safety_backup(&self, server: &ServerName) -> Option<Digest> {
        match self.yielded(|what| matches!(what, What::SafetyBackup { server: other } if other == server))? {
            Yield::Sealed(digest, _) => Some(*digest),
            _ => None,
        }
    }

    /// What is proved of this server, by the newest look at it.
    pub fn proof(&self, server: &ServerName) -> Option<&Proof> {
        let yields = self.yielded(|what| {
            matches!(what, What::Verify { server: other } | What::VerifyOwn { server: other } if other == server)
        })?;
        match yields {
            Yield::Proved(proof) => Some(proof),
            _ => None,
        }
    }

    /// Whether a look found this target in sync before anything was restored on it.
    pub fn in_sync_already(&self, server: &ServerName) -> bool {
        let yields = self.yielded(|what| matches!(what, What::Recheck { server: other } if other == server));
        matches!(yields, Some(Yield::InSyncAlready))
    }

    /// The targets something is still to be restored on.
    pub fn remaining_targets(&self) -> Vec<ServerName> {
        self.plan.targets.iter().filter(|server| !self.in_sync_already(server)).cloned().collect()
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
