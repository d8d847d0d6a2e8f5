//! The journal of a run: events as text, one in a line (first byte `{`), or a plan of the corpus and what may happen to
//! it, a few bytes for each event.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use umsid::plan::{Plan, Step, What, roll_back, touched};
use umsid::report::{Report, Stopwatch};
use umsid::run::{
    Ending, Event, Halt, HaltKind, Next, Recorded, Standing, State, StepResult, Yield, needed, next,
};
use umsid::survey::Proof;
use umsid_common::digest::Digest;
use umsid_common::name::ServerName;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::Effect;

/// Plans as `umsid plan --out` wrote them.
const PLANS: [&str; 2] = [include_str!("journal/sync.json"), include_str!("journal/rehearse.json")];

/// One event after another: what cannot follow changes nothing, what can is the same in replay.
struct Record {
    events: Vec<Event>,
    state: State,
}

impl Record {
    fn begin(first: Event) -> Option<Self> {
        let state = State::begin(&first).ok()?;
        Some(Self { events: vec![first], state })
    }

    fn take(&mut self, event: Event) {
        let before = self.state.clone();
        match self.state.apply(&event) {
            Ok(()) => self.events.push(event),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(self.state == before, "{error}, and yet something has changed");
            }
        }
        self.look();
    }

    /// Everything that is asked of a state.
    fn look(&self) {
        let state = &self.state;
        let what_next = next(state, &BTreeSet::new());
        let mut follows = state.clone();
        let legal =
            |event: Event, follows: &mut State| follows.apply(&event).expect("what comes next may follow");
        match what_next {
            Next::Start(list) => {
                for (step, attempt) in list {
                    legal(Event::Started { step, attempt }, &mut follows);
                }
            }
            Next::Skip(list) => {
                for (step, why) in list {
                    legal(Event::Skipped { step, why }, &mut follows);
                }
            }
            Next::TurnBack { why, steps } => legal(Event::TurnedBack { why, steps }, &mut follows),
            Next::Halt(halt) => legal(Event::Halted(halt), &mut follows),
            Next::End(outcome) => legal(Event::Ended { outcome }, &mut follows),
            Next::TakeUp(_) | Next::Wait | Next::Over => {}
        }
        let _ = (needed(state), touched(state), state.sealed(), state.remaining_targets(), state.trouble());
        for server in state.plan().servers.keys() {
            let _ = (state.proof(server), state.safety_backup(server));
        }
        for step in state.all_steps() {
            let _ = (step.what.title(), state.held_back(step));
            // Invariant 2.
            if let What::Restore { server } | What::RestoreOwn { server, .. } = &step.what {
                assert!(!state.was_begun(step.no) || state.safety_backup(server).is_some(), "no way back");
            }
        }
        match state.standing() {
            // Invariant 11.
            Standing::Ended(Ending::Synchronized) => {
                let proved = |server: &_| matches!(state.proof(server), Some(Proof::Yes(_)));
                let good = |server: &_| state.in_sync_already(server) || proved(server);
                assert!(state.plan().targets.iter().all(good), "called synchronized");
            }
            Standing::Ended(Ending::RolledBack) => {
                assert!(touched(state).is_empty(), "called rolled back");
            }
            _ => {}
        }
    }

    fn close(self) {
        let text: Vec<String> =
            self.events.iter().map(|event| serde_json::to_string(event).expect("plain data")).collect();
        let read: Vec<Event> = text
            .iter()
            .map(|line| serde_json::from_str(line).expect("what was written can be read"))
            .collect();
        assert!(read == self.events, "an event is not what was written");
        assert!(
            State::replay(read.iter()).expect("it was legal") == self.state,
            "replay tells another story"
        );
        self.goes_on();
        self.report();
    }

    /// Whoever takes the run up, and nothing goes wrong any more: it comes to an end or a standstill.
    fn goes_on(&self) {
        let mut state = self.state.clone();
        let epoch = state.epoch().unwrap_or(0).saturating_add(1);
        if state.apply(&Event::Leased { epoch, by: "anna".into() }).is_err() {
            return;
        }
        for _ in 0..1000 {
            let events: Vec<Event> = match next(&state, &BTreeSet::new()) {
                Next::Start(list) => {
                    list.into_iter().map(|(step, attempt)| Event::Started { step, attempt }).collect()
                }
                Next::TakeUp(list) => {
                    let end = |(step, attempt): (u32, u32)| {
                        let what = &state.step(step).expect("it is there").what;
                        Event::Finished { step, attempt, result: done(good(what)) }
                    };
                    list.into_iter().map(end).collect()
                }
                Next::Skip(list) => {
                    list.into_iter().map(|(step, why)| Event::Skipped { step, why }).collect()
                }
                Next::TurnBack { why, steps } => vec![Event::TurnedBack { why, steps }],
                Next::Halt(halt) => vec![Event::Halted(halt)],
                Next::End(outcome) => vec![Event::Ended { outcome }],
                Next::Wait => unreachable!("nothing is waited for"),
                Next::Over => return,
            };
            for event in events {
                state.apply(&event).expect("what comes next may follow");
            }
        }
        panic!("it comes to no end");
    }

    /// What a person is told of it.
    fn report(self) {
        let recorded = |(number, event)| Recorded { number, at: jiff::Timestamp::UNIX_EPOCH, event };
        let events: Vec<Recorded> = (1..).zip(self.events).map(recorded).collect();
        let run = "20261122t204512-7f3a9c".parse().expect("a run");
        let watch = Stopwatch { elapsed_ms: 1, events_before: 0, survey_ums_ms: 1 };
        let report = Report::from_record(&run, &self.state, &events, watch, false);
        let _ = (report.table(), report.summary(), report.aftermath(), report.exit());
    }
}

fn text(bytes: &[u8]) {
    let mut events = bytes.split(|byte| *byte == b'\n').map_while(|line| serde_json::from_slice(line).ok());
    let Some(mut record) = events.next().and_then(Record::begin) else { return };
    events.take(120).for_each(|event| record.take(event));
    record.close();
}

fn done(yields: Yield) -> StepResult {
    StepResult::Done { ums_ms: 1, yields, remarks: Vec::new() }
}

/// What a step leaves when all goes well.
fn good(what: &What) -> Yield {
    match what {
        What::SafetyBackup { .. } | What::Backup { .. } => Yield::Sealed(Digest::of(b"x"), u64::MAX),
        What::Restore { .. } | What::RestoreOwn { .. } | What::Verify { .. } | What::VerifyOwn { .. } => {
            Yield::Proved(Proof::Yes("it is".into()))
        }
        _ => Yield::Nothing,
    }
}

fn result(from: &mut Unstructured<'_>, state: &State, step: u32) -> Result<StepResult> {
    let codes = [Code::CommandFailed, Code::Interrupted, Code::WrongIdentity];
    let failure = |from: &mut Unstructured<'_>| Ok(Failure::new(*from.choose(&codes)?, "it broke"));
    let proofs = [Proof::Yes("it is".into()), Proof::No("it is not".into()), Proof::Unknown("?".into())];
    Ok(match from.int_in_range(0..=11)? {
        0 => StepResult::Failed { ums_ms: 1, failure: failure(from)?, effect: Effect::None },
        1 => StepResult::Failed { ums_ms: 1, failure: failure(from)?, effect: Effect::Possible },
        2 => StepResult::Unknown { ums_ms: u64::MAX, finding: "nothing".into() },
        3 => done(Yield::Sealed(Digest::of(b"x"), u64::MAX)),
        4 => done(Yield::InSyncAlready),
        5 => done(Yield::Proved(from.choose(&proofs)?.clone())),
        6 => done(Yield::Nothing),
        _ => done(state.step(step).map_or(Yield::Nothing, |step| good(&step.what))),
    })
}

/// Mostly what may follow, else anything.
fn event(from: &mut Unstructured<'_>, state: &State) -> Result<Event> {
    let number = |from: &mut Unstructured<'_>| from.int_in_range(0..=state.next_number());
    let attempt = |from: &mut Unstructured<'_>, step| {
        let newest = state.progress(step).map_or(0, |progress| progress.attempt);
        Ok::<u32, libfuzzer_sys::arbitrary::Error>(
            newest.saturating_add(from.int_in_range(0..=2)?).saturating_sub(1),
        )
    };
    Ok(match from.int_in_range(0..=15)? {
        0 => Event::Leased { epoch: from.arbitrary()?, by: "anna".into() },
        1 => Event::Leased { epoch: state.epoch().unwrap_or(0).saturating_add(1), by: "anna".into() },
        2 => {
            let step = number(from)?;
            Event::Started { step, attempt: attempt(from, step)? }
        }
        3 => {
            let step = number(from)?;
            Event::Finished { step, attempt: attempt(from, step)?, result: result(from, state, step)? }
        }
        4 => Event::Skipped { step: number(from)?, why: "not needed".into() },
        5 => {
            let servers: Vec<_> = state.plan().servers.keys().cloned().collect();
            let those = if from.arbitrary()? { touched(state) } else { servers.clone() };
            let some = those.get(..from.int_in_range(0..=those.len())?).unwrap_or_default();
            let mut steps = roll_back(some, &servers, state.next_number());
            twist(from, &mut steps, &servers)?;
            Event::TurnedBack { why: "asked for".into(), steps }
        }
        6 => {
            let kind = *from.choose(&[
                HaltKind::Failed,
                HaltKind::LeaseLost,
                HaltKind::Partial,
                HaltKind::Window,
            ])?;
            Event::Halted(Halt { kind, why: "it stands".into(), failure: None, stuck: None })
        }
        7 => {
            Event::Ended { outcome: *from.choose(&[Ending::Synchronized, Ending::Done, Ending::RolledBack])? }
        }
        8 => Event::Begun { plan: Box::new(state.plan().clone()), by: "anna".into(), version: "0".into() },
        9 => Event::WindowsIgnored { by: "bert".into() },
        _ => match next(state, &BTreeSet::new()) {
            Next::Start(list) => {
                let (step, attempt) = *from.choose(&list)?;
                Event::Started { step, attempt }
            }
            Next::TakeUp(list) => {
                let (step, attempt) = *from.choose(&list)?;
                Event::Finished { step, attempt, result: result(from, state, step)? }
            }
            Next::Skip(list) => {
                let (step, why) = from.choose(&list)?.clone();
                Event::Skipped { step, why }
            }
            Next::TurnBack { why, steps } => Event::TurnedBack { why, steps },
            Next::Halt(halt) => Event::Halted(halt),
            Next::End(outcome) => Event::Ended { outcome },
            Next::Wait | Next::Over => Event::Leased { epoch: from.arbitrary()?, by: "bert".into() },
        },
    })
}

/// Mostly nothing; else a few steps that were not written so.
fn twist(from: &mut Unstructured<'_>, steps: &mut Vec<Step>, servers: &[ServerName]) -> Result<()> {
    let twists = from.int_in_range(0..=15_u8)?.saturating_sub(11);
    for _ in 0..twists {
        if steps.is_empty() {
            break;
        }
        let other = from.choose(steps)?.what.clone();
        let at = from.choose_index(steps.len())?;
        let Some(step) = steps.get_mut(at) else { break };
        let before = from.int_in_range(0..=step.no)?;
        let server = from.choose(servers)?.clone();
        match from.int_in_range(0..=7)? {
            0 => step.no = before,
            1 => drop(step.after.insert(before)),
            2 => step.after = [before].into(),
            3 => step.after.clear(),
            4 => step.what = other,
            5 => step.what = What::Restart { server },
            6 => step.what = What::Restore { server },
            _ => steps.truncate(at),
        }
    }
    Ok(())
}

fn story(from: &mut Unstructured<'_>) -> Result<()> {
    #[derive(serde::Deserialize)]
    struct File {
        plan: Plan,
    }
    let mut file: File =
        serde_json::from_str(PLANS[usize::from(from.arbitrary::<u8>()?) % PLANS.len()]).expect("a plan");
    let mut servers: Vec<_> = file.plan.servers.keys().cloned().collect();
    servers.push("elsewhere".parse().expect("a name"));
    let written = file.plan.steps.clone();
    twist(from, &mut file.plan.steps, &servers)?;
    let as_written = file.plan.steps == written;
    let first = Event::Begun { plan: Box::new(file.plan), by: "anna".into(), version: "0".into() };
    // A plan that contradicts itself is refused; what `umsid plan` wrote never is.
    let Some(mut record) = Record::begin(first) else {
        assert!(!as_written, "a plan of ours is refused");
        return Ok(());
    };
    record.take(Event::Leased { epoch: 1, by: "anna".into() });
    // A look at everything after each event takes its time: a story is as long as a long run, not longer.
    for _ in 0..120 {
        if from.is_empty() {
            break;
        }
        record.take(event(from, &record.state)?);
    }
    record.close();
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"{") {
        text(data);
    } else {
        // Bytes that are too few end the story.
        let _ = story(&mut Unstructured::new(data));
    }
});
