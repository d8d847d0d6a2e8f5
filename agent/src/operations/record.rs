//! The record of one operation: whole on disk before anything is told or done that depends on it.
//!
//! The file only grows, a line for each state the operation was in; the last whole one counts. A line without an end was left by
//! a crash, and what it was to say was neither told nor acted on. That an operation is accepted outlives the agent only; from its
//! beginning on, its record outlives the machine: one that is gone was never begun, and whoever asks for it again begins it.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use umsid_common::digest::Fingerprint;
use umsid_common::durable::{self, Access, DurableError, Outlives};
use umsid_common::fault;
use umsid_common::name::OperationId;
use umsid_proto::model::{
    Action, Operation, OperationState, Outcome, Phase, Progress, RawOutput, ServiceProcess, Success, Trouble,
    UmsIds,
};

use crate::state::StateError;
use crate::ums::{Previous, Running};

/// How many events are kept of one operation; the outcome always is.
const EVENTS: usize = 500;

/// Numbers of events that are passed over when an operation is found without an outcome: what was told of its progress was told
/// from memory, twice a second for six hours at most, and no number is told twice.
const TOLD_FROM_MEMORY: u64 = 100_000;

/// How much of each output of a program is kept, in bytes.
const OUTPUT: usize = 32 << 10;

/// How many lines of evidence are kept, and how much of each, in bytes.
const EVIDENCE: (usize, usize) = (200, 500);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: OperationId,
    epoch: u64,
    caller: String,
    pub(super) action: Action,
    pub(super) recorded: Timestamp,
    /// Which it is of all that were ever recorded here: the order that no clock can change.
    #[serde(default)]
    pub(super) order: u64,
    pub(super) started: Option<Started>,
    /// The last one is the outcome, once there is one. How far it is goes to disk with what must, and not for itself: nothing is
    /// decided by it.
    events: Vec<Progress>,
    /// The next event's number is above this one.
    #[serde(default)]
    passed_over: u64,
}

/// The moment from which there may be an effect.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) at: Timestamp,
    pub(super) before: Before,
    /// What does it: its process id and start.
    pub(super) program: Option<(u32, Timestamp)>,
    /// The process of the UMS Server at that moment, where that matters afterwards.
    #[serde(default)]
    pub(super) service: Option<ServiceProcess>,
}

/// How things stood before, so that afterwards it can be told what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Before {
    /// Nothing that could change.
    Nothing,
    /// The Local UMS ID.
    Local(Option<Fingerprint>),
    /// The UMS Server.
    Server(Previous),
}

impl Record {
    pub(super) fn new(id: OperationId, order: u64, epoch: u64, caller: String, action: Action) -> Self {
        let recorded = Timestamp::now();
        Self { id, epoch, caller, action, recorded, order, started: None, events: Vec::new(), passed_over: 0 }
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.events.last().and_then(|event| event.what.as_ref().ok())
    }

    fn last_event(&self) -> u64 {
        self.events.last().map_or(0, |event| event.index).max(self.passed_over)
    }

    fn push(&mut self, what: Result<Outcome, Phase>) {
        let event = Progress { index: self.last_event().saturating_add(1), at: Timestamp::now(), what };
        self.events.push(event);
        if self.events.len() > EVENTS {
            self.events.remove(0);
        }
    }
}

/// An operation: its record, and those who watch it.
pub(crate) struct Entry {
    path: PathBuf,
    action: Action,
    kept: Mutex<Kept>,
    told: watch::Sender<()>,
}

/// A record, and how its file stands.
struct Kept {
    record: Record,
    /// Bytes that are whole.
    length: u64,
    /// The name of the file outlives the machine.
    named: bool,
}

impl Entry {
    /// Puts a new operation on record.
    pub(super) fn create(dir: &Path, record: Record) -> Result<Self, DurableError> {
        let path = dir.join(format!("{}.json", record.id));
        moment("accepted before", &record);
        let line = line(&record);
        // Something of that name that we do not know is no record of ours.
        durable::remove(&path)?;
        if let Err(error) = durable::append(&path, 0, &line, Outlives::Process) {
            // What there is of it is no record; where it cannot be removed it is passed over.
            let _ = durable::remove(&path);
            return Err(error);
        }
        moment("accepted after", &record);
        Ok(Self::of(path, Kept { record, length: line.len() as u64, named: false }))
    }

    /// An operation found on record.
    pub(super) fn load(path: PathBuf) -> Result<Option<Self>, StateError> {
        let Some(mut kept) = read(&path)? else { return Ok(None) };
        if kept.record.outcome().is_none() {
            kept.record.passed_over = kept.record.last_event().saturating_add(TOLD_FROM_MEMORY);
        }
        Ok(Some(Self::of(path, kept)))
    }

    fn of(path: PathBuf, kept: Kept) -> Self {
        let action = kept.record.action.clone();
        Self { path, action, kept: Mutex::new(kept), told: watch::Sender::new(()) }
    }

    pub(super) fn remove(&self) -> Result<(), DurableError> {
        durable::remove(&self.path).map(drop)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, outlives: Outlives, change: impl FnOnce(&mut Record)) -> Result<(), DurableError> {
        let mut kept = self.lock();
        let mut next = kept.record.clone();
        change(&mut next);
        let line = line(&next);
        durable::append(&self.path, kept.length, &line, outlives)?;
        if outlives == Outlives::Machine && !kept.named {
            durable::keep_name(&self.path)?;
            kept.named = true;
        }
        kept.length += line.len() as u64;
        kept.record = next;
        drop(kept);
        self.told.send_replace(());
        Ok(())
    }

    /// That it is accepted outlives the machine from now on.
    pub(super) fn keep(&self) -> Result<(), DurableError> {
        self.change(Outlives::Machine, |_| {})
    }

    pub(super) fn action(&self) -> &Action {
        &self.action
    }

    /// Its place among all that is on record; the clock counts only for records from before there was an order.
    pub(super) fn order(&self) -> (u64, Timestamp) {
        let record = &self.lock().record;
        (record.order, record.recorded)
    }

    pub(super) fn started(&self) -> Option<Started> {
        self.lock().record.started.clone()
    }

    /// The outcome, and when it came.
    pub(super) fn ended(&self) -> Option<(Timestamp, Outcome)> {
        let record = &self.lock().record;
        let last = record.events.last()?;
        Some((last.at, last.what.as_ref().ok()?.clone()))
    }

    pub(super) fn begin(&self, before: Before, service: Option<ServiceProcess>) -> Result<(), DurableError> {
        let started = Started { at: Timestamp::now(), before, program: None, service };
        moment("begun before", &self.lock().record);
        self.change(Outlives::Machine, |record| record.started = Some(started))?;
        moment("begun after", &self.lock().record);
        Ok(())
    }

    /// Which process it is that may have an effect.
    pub(super) fn running(&self, program: Running) {
        let set = |record: &mut Record| {
            if let Some(started) = &mut record.started {
                started.program = Some((program.pid, program.started));
            }
        };
        // That it is started is on record already. What cannot be recorded here is only what one would wait for, and what ends with the
        // machine need not outlive it.
        if let Err(error) = self.change(Outlives::Process, set) {
            tracing::error!(%error, pid = program.pid, "cannot record which program runs");
        }
        moment("running", &self.lock().record);
    }

    pub(super) fn tell(&self, text: String, within: Option<Duration>) {
        let deadline = within
            .and_then(|within| SignedDuration::try_from(within).ok())
            .and_then(|within| Timestamp::now().checked_add(within).ok());
        tracing::info!(id = %self.lock().record.id, text, "operation");
        self.lock().record.push(Err(Phase { text, deadline }));
        self.told.send_replace(());
    }

    /// The outcome. If the disk does not take it, those who watch learn it all the same: after a restart the agent
    /// finds out again what is true.
    pub(super) fn finish(&self, outcome: Outcome) {
        let outcome = bounded(outcome);
        match &outcome.result {
            Ok(_) => tracing::info!(id = %self.lock().record.id, "operation done"),
            Err(trouble) => tracing::warn!(id = %self.lock().record.id, ?trouble, "operation not done"),
        }
        moment("finished before", &self.lock().record);
        let set = |record: &mut Record| record.push(Ok(outcome.clone()));
        if let Err(error) = self.change(Outlives::Machine, set) {
            tracing::error!(%error, "cannot record the outcome of an operation");
            self.lock().record.push(Ok(outcome));
            self.told.send_replace(());
        }
        moment("finished after", &self.lock().record);
    }

    pub(crate) fn operation(&self) -> Operation {
        let record = &self.lock().record;
        let outcome = record.outcome().cloned();
        let state = match (&outcome, &record.started) {
            (Some(_), _) => OperationState::Finished,
            (None, Some(_)) => OperationState::Started,
            (None, None) => OperationState::Accepted,
        };
        Operation {
            id: record.id.clone(),
            state,
            outcome,
            last_event: record.last_event(),
            kind: record.action.kind().to_owned(),
            recorded: record.recorded,
        }
    }

    /// To be told when there is more to see.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.told.subscribe()
    }

    /// The events from this index on, and whether the outcome is among them. Once there is an outcome it always is: who
    /// asks for what comes after it gets it again.
    pub(crate) fn events(&self, from: u64) -> (Vec<Progress>, bool) {
        let record = &self.lock().record;
        let finished = record.outcome().is_some();
        let from = if finished { from.min(record.last_event()) } else { from };
        (record.events.iter().filter(|event| event.index >= from).cloned().collect(), finished)
    }
}

/// See [`fault`]; named by step and attempt, so that it is the same in every run of the same plan.
fn moment(what: &str, record: &Record) {
    fault::moment(format_args!("operation {}.{} {what}", record.id.step, record.id.attempt));
}

fn line(record: &Record) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).expect("a record of names, numbers and text is JSON");
    line.push(b'\n');
    line
}

/// The record as it is on disk.
fn read(path: &Path) -> Result<Option<Kept>, StateError> {
    let Some((record, whole)) = found(path)? else { return Ok(None) };
    let length = match whole {
        Some(length) => length,
        None => {
            let line = line(&record);
            durable::replace(path, &line, Access::Private)?;
            line.len() as u64
        }
    };
    Ok(Some(Kept { record, length, named: false }))
}

/// What is wrong with the record in this file. Changes nothing.
pub(super) fn damage(path: &Path) -> Option<StateError> {
    found(path).err()
}

/// What the last whole line says, and how many bytes are whole; no number: an agent before this one wrote the one line there is,
/// without an end. `None`: not even the first line is whole, so that the operation was never begun.
fn found(path: &Path) -> Result<Option<(Record, Option<u64>)>, StateError> {
    let Some(mut bytes) = durable::read_optional(path)? else { return Ok(None) };
    // What was not synced may be there in length, and only that, after a power failure.
    let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(written);
    let damaged = |source| StateError::Damaged { path: path.to_owned(), source };
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        return match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some((record, None))),
            Err(_) if is_beginning(path, &bytes) => Ok(None),
            Err(error) => Err(damaged(error)),
        };
    };
    let last = bytes[..end].rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let record = serde_json::from_slice(last).map_err(damaged)?;
    Ok(Some((record, Some(end as u64 + 1))))
}

/// Whether this is how the record in this file begins, or less of it, and does not say that the operation was begun.
fn is_beginning(path: &Path, bytes: &[u8]) -> bool {
    const BEGUN: &[u8] = b"\"started\":{";
    let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let begins = format!("{{\"id\":\"{id}\",");
    let is = bytes.starts_with(begins.as_bytes()) || begins.as_bytes().starts_with(bytes);
    is && !bytes.windows(BEGUN.len()).any(|part| part == BEGUN)
}

/// What fits into a message whatever the programs printed.
fn bounded(mut outcome: Outcome) -> Outcome {
    match &mut outcome.result {
        Ok(Success::Restored { ums_ids, .. } | Success::Restarted { ums_ids, .. }) => bound_ids(ums_ids),
        Err(Trouble::Failed { failure, .. }) => {
            failure.raw.iter_mut().for_each(bound_output);
        }
        Ok(Success::BackedUp { .. } | Success::Discarded { .. }) | Err(Trouble::Unknown(_)) => {}
    }
    outcome
}

/// See [`bounded`].
pub(crate) fn bound_ids(ids: &mut UmsIds) {
    ids.evidence.truncate(EVIDENCE.0);
    ids.evidence.iter_mut().for_each(|evidence| cut(&mut evidence.line, EVIDENCE.1));
    ids.raw.iter_mut().for_each(bound_output);
}

fn bound_output(raw: &mut RawOutput) {
    cut(&mut raw.stdout, OUTPUT);
    cut(&mut raw.stderr, OUTPUT);
}

fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit));
        text.push('…');
    }
}
