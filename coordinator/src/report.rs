//! What came of a run: for every server, where the time went, what is left to do.
//!
//! Pure: made from a run's record alone, so that a finished run and one that was cut off anywhere are told alike.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use umsid_common::name::{ClusterName, RunId, ServerName};
use umsid_proto::failure::Code;

use crate::exit::{self, Exit};
use crate::journal::RunLog;
use crate::plan::touched;
use crate::run::{Ending, HaltKind, Recorded, Standing, State, Stuck};

mod account;
mod critical_path;
mod text;
mod timeline;

pub use account::{FailedStep, ServerReport, durations};
use account::{failures, left_over, servers};
pub use critical_path::{Link, critical_path};
pub use text::raw_output;
pub(crate) use text::seconds;
pub use timeline::Timeline;

/// What came of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The run; `None`: there was nothing to run.
    pub run: Option<RunId>,
    /// The cluster.
    pub cluster: ClusterName,
    /// How it stands.
    pub outcome: Outcome,
    /// Milliseconds from the beginning of the survey, without the time a person took to say yes.
    pub elapsed_ms: u64,
    /// Milliseconds of those spent waiting for the UMS, along the critical path.
    pub ums_ms: u64,
    /// The others.
    pub overhead_ms: u64,
    /// Every server that took part.
    pub servers: BTreeMap<ServerName, ServerReport>,
    /// Why it stands still.
    pub halt: Option<Standstill>,
    /// Why it went back.
    pub turned_back: Option<String>,
    /// Attempts that came to no good end, and were not made good by a later one.
    pub failures: Vec<FailedStep>,
    /// What is not as it should stay, one sentence each.
    pub left_over: Vec<String>,
    /// The steps no other work could have hidden, in order.
    pub critical_path: Vec<Link>,
    /// What to type next, and what it does.
    pub next: Vec<Advice>,
    /// The same, drawn in text.
    #[serde(skip)]
    pub timeline: String,
    #[serde(skip)]
    by_request: bool,
    /// Servers may not be as they were, or as they should be.
    #[serde(skip)]
    touched: bool,
}

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every server that was to be synchronized is verified synchronized.
    Synchronized,
    /// Carried out, but of some servers it could not be verified.
    Unverified,
    /// It stands still.
    Halted,
    /// It stands still on its way back: a server could not be put as it was.
    Stuck,
    /// Somebody ended it as it stood.
    GivenUp,
    /// The servers that had been touched are as they were.
    RolledBack,
    /// What was asked for is done.
    Done,
    /// There was nothing to do.
    NothingToDo,
}

impl Outcome {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synchronized => "synchronized",
            Self::Unverified => "unverified",
            Self::Halted => "halted",
            Self::Stuck => "stuck",
            Self::GivenUp => "given up",
            Self::RolledBack => "rolled back",
            Self::Done => "done",
            Self::NothingToDo => "nothing to do",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a run stands still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standstill {
    /// For programs.
    pub kind: HaltKind,
    /// For people.
    pub why: String,
    /// The code of the failure behind it.
    pub code: Option<Code>,
    /// What to do about that.
    pub remedy: String,
    /// Whether it stands still on its way back: then a person has to look.
    pub on_the_way_back: bool,
    /// The server that could not be put back, and its UMS IDs.
    pub stuck: Option<Stuck>,
}

/// A command to type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// The command.
    pub command: String,
    /// What it does.
    pub does: String,
}

/// One process's work on a run, measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stopwatch {
    /// Events that were on record before.
    pub events_before: usize,
    /// Milliseconds from the beginning of the survey.
    pub elapsed_ms: u64,
    /// Milliseconds of the survey that were spent waiting for the UMS.
    pub survey_ums_ms: u64,
}

impl Report {
    /// Another run has come after it: what it would still do, it does not, and what it left the other has cleared away.
    pub fn overtaken(&mut self) {
        self.next.clear();
        self.left_over.clear();
        if let Some(halt) = &mut self.halt {
            halt.remedy.clear();
        }
    }

    /// What a run's record says; `by_request`: going back is what was asked for.
    pub fn of(log: &RunLog, watch: Stopwatch, by_request: bool) -> Self {
        Self::from_record(log.run(), log.state(), log.events(), watch, by_request)
    }

    /// The same, from the parts of a record.
    pub fn from_record(
        run: &RunId,
        state: &State,
        events: &[Recorded],
        watch: Stopwatch,
        by_request: bool,
    ) -> Self {
        let session = events.get(watch.events_before..).unwrap_or_default();
        let path = critical_path(state, session);
        let ums_ms = path.iter().fold(watch.survey_ums_ms, |sum, link| sum.saturating_add(link.ums_ms));
        let halt = standstill(state);
        Self {
            run: Some(run.clone()),
            cluster: state.plan().cluster.clone(),
            outcome: outcome(state),
            elapsed_ms: watch.elapsed_ms,
            ums_ms,
            overhead_ms: watch.elapsed_ms.saturating_sub(ums_ms),
            servers: servers(state, events),
            turned_back: state.turned_back().map(ToOwned::to_owned),
            failures: failures(state, events),
            left_over: left_over(state),
            critical_path: path,
            timeline: Timeline::of(state, session).text(),
            next: advice(run, state),
            halt,
            // Who resumes a way back that was asked for gets what was asked for.
            by_request: by_request || state.back_was_asked_for(),
            touched: !touched(state).is_empty(),
        }
    }

    /// There was nothing to do.
    pub fn nothing_to_do(cluster: ClusterName, watch: Stopwatch) -> Self {
        Self {
            run: None,
            cluster,
            outcome: Outcome::NothingToDo,
            elapsed_ms: watch.elapsed_ms,
            ums_ms: watch.survey_ums_ms,
            overhead_ms: watch.elapsed_ms.saturating_sub(watch.survey_ums_ms),
            servers: BTreeMap::new(),
            halt: None,
            turned_back: None,
            failures: Vec::new(),
            left_over: Vec::new(),
            critical_path: Vec::new(),
            timeline: String::new(),
            next: Vec::new(),
            by_request: false,
            touched: false,
        }
    }

    /// How the program ends: 0 only if what was asked for is done and verified.
    pub fn exit(&self) -> Exit {
        match self.outcome {
            Outcome::Synchronized | Outcome::Done | Outcome::NothingToDo => Exit::Success,
            Outcome::Unverified => Exit::NotInSync,
            Outcome::RolledBack if self.by_request => Exit::Success,
            Outcome::RolledBack => Exit::Failed,
            Outcome::Stuck => Exit::NeedsOperator,
            Outcome::GivenUp if self.touched => Exit::NeedsOperator,
            Outcome::GivenUp => Exit::Failed,
            // What was asked for is done; what is left is named.
            Outcome::Halted
                if self.by_request
                    && self.halt.as_ref().is_some_and(|halt| halt.kind == HaltKind::Partial) =>
            {
                Exit::Success
            }
            Outcome::Halted => self.halt.as_ref().map_or(Exit::Failed, Standstill::exit),
        }
    }
}

impl Standstill {
    fn exit(&self) -> Exit {
        match self.kind {
            HaltKind::Interrupted => Exit::Interrupted,
            HaltKind::LeaseLost => Exit::Locked,
            HaltKind::Unreachable => Exit::Unreachable,
            HaltKind::Certificate => Exit::Certificate,
            HaltKind::Window => Exit::NotNow,
            HaltKind::Unknown | HaltKind::Partial | HaltKind::Stuck => Exit::NeedsOperator,
            HaltKind::Failed if self.on_the_way_back => Exit::NeedsOperator,
            HaltKind::Failed => self.code.map_or(Exit::Failed, exit::of_code),
        }
    }
}

/// How a run stands, in one word.
pub fn outcome(state: &State) -> Outcome {
    match state.standing() {
        Standing::Ended(Ending::Synchronized) => Outcome::Synchronized,
        Standing::Ended(Ending::Unverified) => Outcome::Unverified,
        Standing::Ended(Ending::Done) => Outcome::Done,
        Standing::Ended(Ending::RolledBack) => Outcome::RolledBack,
        Standing::Ended(Ending::GivenUp) => Outcome::GivenUp,
        Standing::Halted(halt) if halt.kind == HaltKind::Stuck => Outcome::Stuck,
        Standing::Open | Standing::Going | Standing::Halted(_) => Outcome::Halted,
    }
}

fn standstill(state: &State) -> Option<Standstill> {
    let on_the_way_back = state.turned_back().is_some();
    match state.standing() {
        Standing::Ended(_) => None,
        Standing::Halted(halt) => Some(Standstill {
            kind: halt.kind,
            why: halt.why.clone(),
            code: halt.failure.as_ref().map(|failure| failure.code),
            remedy: halt.failure.as_ref().map(|failure| failure.remedy.clone()).unwrap_or_default(),
            on_the_way_back,
            stuck: halt.stuck.clone(),
        }),
        Standing::Open | Standing::Going => Some(Standstill {
            kind: HaltKind::Interrupted,
            why: "its record has no end: umsid was stopped in the middle, or is at it now".to_owned(),
            code: None,
            remedy: String::new(),
            on_the_way_back,
            stuck: None,
        }),
    }
}

fn advice(run: &RunId, state: &State) -> Vec<Advice> {
    let advise = |command: String, does: String| Advice { command, does };
    let cluster = &state.plan().cluster;
    if *state.standing() == Standing::Ended(Ending::GivenUp) {
        return vec![
            advise(format!("umsid status {cluster} --raw"), "shows how the servers stand".to_owned()),
            advise(format!("umsid sync {cluster}"), "begins anew from there".to_owned()),
        ];
    }
    if matches!(state.standing(), Standing::Ended(_)) {
        return Vec::new();
    }
    let back = state.turned_back().is_some();
    let window = matches!(state.standing(), Standing::Halted(halt) if halt.kind == HaltKind::Window);
    let overtaken = matches!(state.standing(), Standing::Halted(halt) if halt.kind == HaltKind::LeaseLost);
    let mut advice = Vec::new();
    if overtaken {
        let command = format!("umsid status {cluster}");
        advice.push(advise(command, "shows how the servers stand, and who is at work there".to_owned()));
    }
    if window {
        let wait = "waits until the window is open, and goes on then".to_owned();
        advice.push(advise(format!("umsid resume {run} --wait-for-window"), wait));
        let now = "goes on now all the same".to_owned();
        advice.push(advise(format!("umsid resume {run} --ignore-windows"), now));
    }
    let resume = advise(
        format!("umsid resume {run}"),
        match (back, overtaken) {
            (true, true) => {
                "goes on putting servers back as they were, unless another run has been there since"
            }
            (true, false) => "goes on putting servers back as they were",
            (false, true) => "goes on where it stands, unless another run has been there since",
            (false, false) => "goes on where it stands",
        }
        .to_owned(),
    );
    advice.extend((!window).then_some(resume));
    let stuck = match state.standing() {
        Standing::Halted(halt) => halt.stuck.as_ref().map(|stuck| stuck.server.to_string()),
        _ => None,
    };
    let touched: Vec<String> = touched(state).iter().map(ToString::to_string).collect();
    if let Some(stuck) = &stuck {
        let look = format!("shows what the UMS on {stuck} says of its UMS ID");
        advice.insert(0, advise(format!("umsid status {cluster} --raw"), look));
        let others: Vec<&str> = touched.iter().filter(|other| *other != stuck).map(String::as_str).collect();
        if !others.is_empty() {
            let command = format!("umsid rollback {run} {}", others.join(" "));
            advice.push(advise(command, "puts the others back, and leaves this one".to_owned()));
        }
    }
    if back {
        advice.push(advise(
            format!("umsid rollback {run} --give-up"),
            "ends the run as it stands; nothing is put back any more".to_owned(),
        ));
    }
    if !back && !touched.is_empty() {
        advice.push(advise(
            format!("umsid rollback {run}"),
            format!("puts {} back as before the run", touched.join(", ")),
        ));
    }
    advice.push(advise(format!("umsid runs show {run}"), "shows everything that was recorded".to_owned()));
    advice
}

#[cfg(test)]
mod tests;
