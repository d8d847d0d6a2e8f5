//! What a run does now, for whoever watches: rows on a terminal, lines elsewhere, JSON for programs.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value, json};
use umsid_common::name::{ClusterName, RunId};

use crate::plan::{Plan, Step, What};
use crate::printout::{Format, Printout};
use crate::report::{Report, seconds};
use crate::run::{Event, Notice, Recorded, StepResult};

mod rows;

use rows::Rows;

/// Shows a run while it goes on.
pub struct Display {
    sink: Sink,
    board: Mutex<Board>,
    /// Why standard output takes no more.
    unprinted: Mutex<Option<io::Error>>,
}

enum Sink {
    /// A row per server, on a terminal.
    Rows(Rows),
    /// A line per event, on standard error.
    Lines,
    /// A JSON object per event, on standard output.
    Json(Printout),
}

/// What is known of the run.
struct Board {
    cluster: ClusterName,
    /// One of several runs at once: every line says which cluster it is about.
    among_others: bool,
    run: Option<RunId>,
    since: Instant,
    steps: BTreeMap<u32, What>,
    going_on: BTreeMap<u32, Doing>,
    /// What was last said of each step: the same is not said twice.
    said: BTreeMap<u32, String>,
}

struct Doing {
    since: Instant,
    phase: String,
}

impl Display {
    /// A display for a run of this plan; `more` are the steps of a way back that is on record already.
    pub fn new(out: Printout, plan: &Plan, more: &[Step]) -> Self {
        let sink = match out.format() {
            Format::Json => Sink::Json(out),
            Format::Table if io::stderr().is_terminal() => Sink::Rows(Rows::new(plan.servers.keys())),
            Format::Table => Sink::Lines,
        };
        Self::on(sink, plan, more, false)
    }

    /// A display for one of several runs that go on at once: lines, each with its cluster.
    pub fn among_others(out: Printout, plan: &Plan) -> Self {
        let sink = match out.format() {
            Format::Json => Sink::Json(out),
            Format::Table => Sink::Lines,
        };
        Self::on(sink, plan, &[], true)
    }

    fn on(sink: Sink, plan: &Plan, more: &[Step], among_others: bool) -> Self {
        let steps = plan.steps.iter().chain(more).map(|step| (step.no, step.what.clone())).collect();
        let board = Board {
            cluster: plan.cluster.clone(),
            among_others,
            run: None,
            since: Instant::now(),
            steps,
            going_on: BTreeMap::new(),
            said: BTreeMap::new(),
        };
        Self { sink, board: Mutex::new(board), unprinted: Mutex::default() }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run, as soon as it has a name.
    pub fn run(&self) -> Option<RunId> {
        self.board().run.clone()
    }

    /// What is going on now, for people.
    pub fn going_on(&self) -> Vec<String> {
        let board = self.board();
        board
            .going_on
            .iter()
            .filter_map(|(no, doing)| Some((board.steps.get(no)?, doing)))
            .map(|(what, doing)| {
                let phase = if doing.phase.is_empty() { what.title() } else { doing.phase.clone() };
                format!("{}: {phase}", board.place(what))
            })
            .collect()
    }

    /// Takes in what a run tells.
    pub fn tell(&self, notice: &Notice) {
        match notice {
            Notice::Named(run) => self.board().run = Some(run.clone()),
            Notice::Recorded(recorded) => self.recorded(recorded),
            Notice::Remark(what) => self.remark(what),
            Notice::Doing { step, what, deadline } => self.doing(*step, what, *deadline),
        }
    }

    fn remark(&self, what: &str) {
        let board = self.board();
        match &self.sink {
            Sink::Json(out) => {
                let cluster = &board.cluster;
                self.print(
                    *out,
                    &json!({ "event": "remark", "cluster": cluster, "run": board.run, "what": what }),
                );
            }
            Sink::Lines if board.among_others => board.say(&format!("{}: {what}", board.cluster)),
            Sink::Lines => board.say(what),
            Sink::Rows(rows) => rows.say(&board.stamped(what)),
        }
    }

    fn recorded(&self, recorded: &Recorded) {
        let mut board = self.board();
        match &recorded.event {
            Event::TurnedBack { steps, .. } => {
                board.steps.extend(steps.iter().map(|step| (step.no, step.what.clone())));
            }
            Event::Started { step, .. } => board.begin(*step),
            _ => {}
        }
        match &self.sink {
            Sink::Json(out) => self.print(*out, &event_document(&board, recorded)),
            Sink::Lines => {
                if let Some(line) = line(&board, recorded) {
                    board.say(&line);
                }
            }
            Sink::Rows(rows) => {
                if let Event::Started { step, .. } = &recorded.event
                    && let Some(what) = board.steps.get(step)
                {
                    rows.show(what.server(), &what.title(), None);
                } else if let Some(line) = line(&board, recorded) {
                    rows.say(&board.stamped(&line));
                }
            }
        }
        if let Event::Finished { step, .. } = &recorded.event {
            board.going_on.remove(step);
            if let (Sink::Rows(rows), Some(what)) = (&self.sink, board.steps.get(step)) {
                rows.rest(what.server());
            }
        }
    }

    fn doing(&self, step: u32, phase: &str, deadline: Option<Timestamp>) {
        let mut board = self.board();
        let Some(what) = board.steps.get(&step).cloned() else { return };
        // A step taken up again was begun by another process.
        if !board.going_on.contains_key(&step) {
            board.begin(step);
        }
        if let Some(doing) = board.going_on.get_mut(&step) {
            phase.clone_into(&mut doing.phase);
        }
        match &self.sink {
            Sink::Json(out) => self.print(
                *out,
                &json!({
                    "event": "phase",
                    "cluster": board.cluster,
                    "run": board.run,
                    "step": step,
                    "server": what.server(),
                    "what": phase,
                    "deadline": deadline,
                }),
            ),
            Sink::Lines => {
                if board.said.get(&step).is_none_or(|said| said != phase) {
                    let until = deadline.map_or(String::new(), |until| format!(" (until {})", clock(until)));
                    board.say(&format!("{}: {phase}{until}", board.place(&what)));
                    board.said.insert(step, phase.to_owned());
                }
            }
            Sink::Rows(rows) => rows.show(what.server(), phase, deadline),
        }
    }

    /// The run goes on without its reader. After a gap there are no more events: a hole would not be seen.
    fn print(&self, out: Printout, document: &Value) {
        let mut unprinted = self.unprinted.lock().unwrap_or_else(PoisonError::into_inner);
        if unprinted.is_none() {
            *unprinted = out.json_line(document).err();
        }
    }

    /// Why not every event could be printed.
    pub fn unprinted(&self) -> Option<io::Error> {
        self.unprinted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says something besides what the run tells.
    pub fn say(&self, text: &str) {
        match &self.sink {
            Sink::Rows(rows) => rows.say(text),
            Sink::Lines | Sink::Json(_) => say(text),
        }
    }

    /// Takes the rows away.
    pub fn close(&self) {
        if let Sink::Rows(rows) = &self.sink {
            rows.clear();
        }
    }
}

impl Board {
    /// Where a step happens: a server, or the whole cluster.
    fn place(&self, what: &What) -> String {
        match what.server() {
            Some(server) if self.among_others => format!("{}/{server}", self.cluster),
            Some(server) => server.to_string(),
            None => self.whole().to_owned(),
        }
    }

    fn whole(&self) -> &str {
        if self.among_others { self.cluster.as_str() } else { "cluster" }
    }

    fn begin(&mut self, step: u32) {
        self.going_on.insert(step, Doing { since: Instant::now(), phase: String::new() });
        self.said.remove(&step);
    }

    fn stamped(&self, line: &str) -> String {
        format!("{:>8.1} s  {line}", self.since.elapsed().as_secs_f64())
    }

    fn say(&self, line: &str) {
        say(&self.stamped(line));
    }
}

fn say(line: &str) {
    // With standard error gone there is nobody to talk to, and the run matters more.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

fn clock(moment: Timestamp) -> String {
    moment.strftime("%H:%M:%S UTC").to_string()
}

/// One line for an event; `None`: not worth one.
fn line(board: &Board, recorded: &Recorded) -> Option<String> {
    let step = |no: &u32| board.steps.get(no).map(|what| (board.place(what), what.title()));
    let whole = board.whole();
    Some(match &recorded.event {
        Event::Begun { plan, by, .. } => {
            format!("{}: {} begun by {by}", plan.cluster, plan.request.kind.as_str())
        }
        Event::Leased { .. } => format!("{whole}: locked for this run"),
        Event::WindowsIgnored { by } => format!("{whole}: the windows of sites are ignored, by {by}"),
        Event::Started { step: no, attempt } => {
            let (place, title) = step(no)?;
            let again = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
            format!("{place}: {title}{again}")
        }
        Event::Finished { step: no, result, .. } => {
            let (place, title) = step(no)?;
            let took = board.going_on.get(no).map_or(String::new(), |doing| {
                let ms = u64::try_from(doing.since.elapsed().as_millis()).unwrap_or(u64::MAX);
                format!(" after {}", seconds(ms))
            });
            match result {
                StepResult::Done { .. } => format!("{place}: {title}: done{took}"),
                StepResult::Failed { failure, .. } => format!("{place}: {title}: FAILED{took}: {failure}"),
                StepResult::Unknown { finding, .. } => {
                    format!("{place}: {title}: OUTCOME UNKNOWN{took}: {finding}")
                }
            }
        }
        Event::Skipped { step: no, why } => {
            let (place, title) = step(no)?;
            format!("{place}: {title}: not needed: {why}")
        }
        Event::TurnedBack { why, .. } => format!("{whole}: going back: {why}"),
        Event::Halted(halt) => format!("{whole}: halted: {}", halt.why),
        Event::Ended { outcome } => format!("{whole}: {}", outcome.as_str()),
        Event::GivenUp { by, .. } => format!("{whole}: given up by {by}"),
    })
}

/// An event for programs: as it is on record, with the run and the place, without what programs printed; that is in the
/// report.
fn event_document(board: &Board, recorded: &Recorded) -> Value {
    let mut document = serde_json::to_value(recorded).unwrap_or_default();
    without_raw(&mut document);
    if let Some(fields) = document.as_object_mut() {
        fields.insert("cluster".to_owned(), json!(board.cluster));
        fields.insert("run".to_owned(), json!(board.run));
        let step = fields.get("step").and_then(Value::as_u64).and_then(|no| u32::try_from(no).ok());
        if let Some(what) = step.and_then(|no| board.steps.get(&no)) {
            fields.insert("server".to_owned(), json!(what.server()));
            fields.insert("do".to_owned(), kind(what));
        }
    }
    document
}

/// What a step does, in one word.
pub(crate) fn kind(what: &What) -> Value {
    serde_json::to_value(what)
        .ok()
        .and_then(|mut what| what.get_mut("do").map(Value::take))
        .unwrap_or_default()
}

fn without_raw(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("raw");
            fields.values_mut().for_each(without_raw);
        }
        Value::Array(items) => items.iter_mut().for_each(without_raw),
        _ => {}
    }
}

/// The last line of a running command's JSON: the report as an event.
pub fn report_document(report: &Report) -> Value {
    let mut document = serde_json::to_value(report).unwrap_or_default();
    if let Some(fields) = document.as_object_mut() {
        fields.insert("event".to_owned(), json!("report"));
    }
    document
}

#[cfg(test)]
mod tests;
