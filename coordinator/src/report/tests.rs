//! Reports of made-up runs, with exact numbers.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use umsid_common::digest::Digest;
use umsid_proto::failure::Failure;
use umsid_proto::model::{Effect, RawOutput};

use super::*;
use crate::plan::{Basis, Plan, Purpose, Request, RestartScope, What, make, roll_back};
use crate::run::{Ending, Event, Halt, StepResult, Yield};
use crate::survey::stage::{Stage, labelled, name};
use crate::survey::{Named, Proof, SyncState, assess};

/// ums1 is Main; ums2 is the canary, ums3 the other target.
fn plan(request: &Request) -> Plan {
    let stage = Stage::new(&[
        ("ums1", labelled("a", "a")),
        ("ums2", labelled("b", "a")),
        ("ums3", labelled("c", "a")),
    ]);
    let assessment = assess(&stage.survey, &Named::default());
    make(
        &Basis {
            name: &stage.survey.cluster,
            cluster: &stage.cluster,
            survey: &stage.survey,
            assessment: &assessment,
            named: &Named::default(),
            restarts: &BTreeMap::new(),
            restores: &BTreeMap::new(),
        },
        request,
    )
}

/// A record written step by step, on a clock of its own.
struct Record {
    state: State,
    events: Vec<Recorded>,
    clock: Timestamp,
    epoch: u64,
}

impl Record {
    fn new(request: &Request) -> Self {
        let event = Event::Begun { plan: Box::new(plan(request)), by: "anna".into(), version: "0".into() };
        let clock = Timestamp::UNIX_EPOCH;
        let state = State::begin(&event).unwrap();
        let mut record =
            Self { state, events: vec![Recorded { number: 1, at: clock, event }], clock, epoch: 0 };
        record.session();
        record
    }

    fn session(&mut self) {
        self.epoch += 1;
        self.write(Event::Leased { epoch: self.epoch, by: "anna".into() });
    }

    fn write(&mut self, event: Event) {
        self.state.apply(&event).unwrap();
        let number = self.events.len() as u64 + 1;
        self.events.push(Recorded { number, at: self.clock, event });
    }

    fn pass(&mut self, ms: u64) {
        self.clock += SignedDuration::from_millis(ms.try_into().unwrap());
    }

    fn no(&self, what: &What) -> u32 {
        let mut fitting =
            self.state.steps().filter(|step| step.what == *what && !self.state.is_done(step.no));
        fitting.next().unwrap_or_else(|| panic!("no step {what:?}")).no
    }

    fn start(&mut self, no: u32) -> u32 {
        let attempt = self.state.progress(no).unwrap().attempt + 1;
        self.write(Event::Started { step: no, attempt });
        attempt
    }

    fn finish(&mut self, no: u32, result: StepResult) {
        let attempt = self.state.progress(no).unwrap().attempt;
        self.write(Event::Finished { step: no, attempt, result });
    }

    /// A step that takes `ms`, of them `ums_ms` for the UMS.
    fn step(&mut self, what: &What, ms: u64, ums_ms: u64) {
        let no = self.no(what);
        self.start(no);
        self.pass(ms);
        self.finish(no, done(what, ums_ms));
    }

    fn fail(&mut self, what: &What, ms: u64, ums_ms: u64, code: Code, effect: Effect) {
        let no = self.no(what);
        self.start(no);
        self.pass(ms);
        let failure = Failure::new(code, "it broke").remedy("mend it");
        self.finish(no, StepResult::Failed { ums_ms, failure, effect });
    }

    /// Everything up to and without this step, each in a millisecond without the UMS.
    fn up_to(&mut self, last: &What) {
        while let Some(next) = self.open().filter(|next| next != last) {
            self.step(&next, 1, 0);
        }
    }

    /// The first step that is not done.
    fn open(&self) -> Option<What> {
        let mut open = self.state.steps().filter(|step| !self.state.is_settled(step.no));
        open.next().map(|step| step.what.clone())
    }

    fn finish_with(&mut self, outcome: Ending) {
        while let Some(what) = self.open() {
            self.step(&what, 1, 0);
        }
        self.write(Event::Ended { outcome });
    }

    fn report(&self, watch: Stopwatch) -> Report {
        let run = "20261122t204512-7f3a9c".parse().unwrap();
        Report::from_record(&run, &self.state, &self.events, watch, false)
    }

    fn halt(&mut self, kind: HaltKind) {
        self.write(Event::Halted(Halt { kind, why: "because".into(), failure: None, stuck: None }));
    }
}

fn done(what: &What, ums_ms: u64) -> StepResult {
    let yields = match what {
        What::SafetyBackup { .. } | What::Backup { .. } => Yield::Sealed(Digest::of(b"sealed"), 1),
        What::Restore { .. } | What::RestoreOwn { .. } | What::Verify { .. } | What::VerifyOwn { .. } => {
            Yield::Proved(Proof::Yes("it is".into()))
        }
        _ => Yield::Nothing,
    };
    StepResult::Done { ums_ms, yields, remarks: Vec::new() }
}

fn quick() -> Request {
    Request { settle_s: 0, ..Request::sync() }
}

fn restore(server: &str) -> What {
    What::Restore { server: name(server) }
}

fn restart(server: &str) -> What {
    What::Restart { server: name(server) }
}

#[test]
fn of_steps_side_by_side_only_the_last_to_end_counts() {
    let mut record = Record::new(&quick());
    let (one, other) =
        (What::SafetyBackup { server: name("ums2") }, What::SafetyBackup { server: name("ums3") });
    let (first, second) = (record.no(&one), record.no(&other));
    record.step(&What::ConfirmMain, 50, 45);
    record.start(first);
    record.start(second);
    record.step(&What::Backup { server: name("ums1") }, 99, 90);
    let to = vec![name("ums2"), name("ums3")];
    record.step(&What::Transfer { from: name("ums1"), to }, 1, 0);
    record.pass(200);
    record.finish(first, done(&one, 290));
    record.pass(100);
    record.finish(second, done(&other, 350));
    record.up_to(&restore("ums2"));
    record.step(&restore("ums2"), 500, 480);
    record.step(&restart("ums2"), 2000, 1990);
    record.finish_with(Ending::Synchronized);

    let report = record.report(Stopwatch { events_before: 0, elapsed_ms: 4000, survey_ums_ms: 100 });
    let ums: Vec<(u32, u64, u64)> =
        report.critical_path.iter().filter(|l| l.ums_ms > 0).map(|l| (l.step, l.ms, l.ums_ms)).collect();
    assert_eq!(ums, [(1, 50, 45), (second, 400, 350), (7, 500, 480), (8, 2000, 1990)]);
    assert!(report.critical_path.iter().all(|link| link.step != first), "{:?}", report.critical_path);
    assert_eq!(report.ums_ms, 100 + 350 + 45 + 480 + 1990);
    assert_eq!(report.overhead_ms, 4000 - report.ums_ms);
    assert_eq!((report.outcome, report.exit()), (Outcome::Synchronized, Exit::Success));
    assert_eq!((&report.left_over, &report.next), (&Vec::new(), &Vec::new()));
    let canary = &report.servers[&name("ums2")];
    assert_eq!((canary.before, canary.after), (SyncState::NotInSync, SyncState::InSync));
    assert!(canary.canary && canary.restored && canary.restarted && !canary.put_back);
    assert_eq!(canary.ms, 300 + 500 + 2000 + 1 + 1);
}

#[test]
fn all_attempts_of_a_step_are_on_the_path() {
    let mut record = Record::new(&quick());
    record.up_to(&restore("ums2"));
    record.fail(&restore("ums2"), 700, 600, Code::Interrupted, Effect::Possible);
    record.step(&restore("ums2"), 500, 400);
    record.finish_with(Ending::Synchronized);
    let report = record.report(Stopwatch { elapsed_ms: 5000, ..Stopwatch::default() });
    assert_eq!(report.ums_ms, 1000);
    assert_eq!(report.failures, [], "what was made good is no failure any more");
}

#[test]
fn what_an_earlier_session_did_took_no_time_in_this_one() {
    let mut record = Record::new(&quick());
    record.up_to(&restore("ums2"));
    record.step(&restore("ums2"), 500, 480);
    let before = record.events.len();
    record.session();
    record.step(&restart("ums2"), 2000, 1500);
    record.finish_with(Ending::Synchronized);
    let report = record.report(Stopwatch { events_before: before, elapsed_ms: 2100, survey_ums_ms: 50 });
    assert_eq!((report.ums_ms, report.overhead_ms), (1550, 550));
    assert_eq!(report.critical_path[0].step, 8);
}

#[test]
fn the_way_back_hangs_on_what_made_the_run_turn() {
    let mut record = Record::new(&quick());
    record.up_to(&restore("ums2"));
    record.step(&restore("ums2"), 100, 90);
    record.fail(&restart("ums2"), 3000, 2900, Code::NotHealthy, Effect::Possible);
    let servers = touched(&record.state);
    let steps = roll_back(&servers, &record.state.plan().involved(), record.state.next_number());
    record.write(Event::TurnedBack { why: "the canary failed".into(), steps });
    record.step(&What::RestoreOwn { server: name("ums2"), purpose: Purpose::Rollback }, 200, 150);
    record.step(&restart("ums2"), 1000, 900);
    record.finish_with(Ending::RolledBack);
    let report = record.report(Stopwatch { elapsed_ms: 5000, ..Stopwatch::default() });
    assert_eq!(report.ums_ms, 90 + 2900 + 150 + 900);
    assert_eq!((report.outcome, report.exit()), (Outcome::RolledBack, Exit::Failed));
    assert_eq!(report.failures.len(), 1);
    let canary = &report.servers[&name("ums2")];
    assert!(canary.put_back);
    assert_eq!(canary.after, SyncState::NotInSync, "as it was");
    assert_eq!(report.servers[&name("ums3")].proof, "it was not touched");
    let asked_for = Report { by_request: true, ..report };
    assert_eq!(asked_for.exit(), Exit::Success);
}

#[test]
fn a_halt_names_what_is_left_and_what_to_type() {
    let mut record = Record::new(&quick());
    record.up_to(&restore("ums3"));
    record.fail(&restore("ums3"), 100, 90, Code::WrongPassword, Effect::None);
    record.halt(HaltKind::Failed);
    let mut report = record.report(Stopwatch::default());
    assert_eq!(report.servers[&name("ums2")].after, SyncState::InSync);
    assert_eq!(
        report.servers[&name("ums3")].after,
        SyncState::NotInSync,
        "it failed before it had an effect"
    );
    let commands: Vec<&str> = report.next.iter().map(|advice| advice.command.as_str()).collect();
    assert_eq!(
        commands,
        [
            "umsid resume 20261122t204512-7f3a9c",
            "umsid rollback 20261122t204512-7f3a9c",
            "umsid runs show 20261122t204512-7f3a9c"
        ]
    );
    let text = report.aftermath();
    for part in
        ["because: it broke", "what to do: mend it", "still on ums1, ums2, ums3", "steps not done: 10,"]
    {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    report.halt.as_mut().unwrap().code = Some(Code::WrongPassword);
    assert_eq!(report.exit(), Exit::WrongPassword);
}

#[test]
fn every_way_of_standing_still_has_its_exit_code() {
    let exits = [
        (HaltKind::Failed, Exit::Failed),
        (HaltKind::Unknown, Exit::NeedsOperator),
        (HaltKind::Unreachable, Exit::Unreachable),
        (HaltKind::Certificate, Exit::Certificate),
        (HaltKind::LeaseLost, Exit::Locked),
        (HaltKind::Interrupted, Exit::Interrupted),
        (HaltKind::Window, Exit::NotNow),
    ];
    for (kind, exit) in exits {
        let mut record = Record::new(&quick());
        record.halt(kind);
        assert_eq!(record.report(Stopwatch::default()).exit(), exit, "{kind:?}");
    }
}

#[test]
fn what_could_not_be_verified_is_not_success() {
    let mut record = Record::new(&quick());
    record.up_to(&What::Verify { server: name("ums2") });
    let no = record.no(&What::Verify { server: name("ums2") });
    record.start(no);
    let yields = Yield::Proved(Proof::Unknown("no label".into()));
    record.finish(no, StepResult::Done { ums_ms: 0, yields, remarks: Vec::new() });
    record.finish_with(Ending::Unverified);
    let report = record.report(Stopwatch::default());
    assert_eq!(report.servers[&name("ums2")].after, SyncState::Unknown);
    assert_eq!((report.outcome, report.exit()), (Outcome::Unverified, Exit::NotInSync));
}

#[test]
fn without_a_restart_nothing_is_called_in_sync() {
    let mut record = Record::new(&Request { restart: RestartScope::None, ..quick() });
    record.finish_with(Ending::Unverified);
    let report = record.report(Stopwatch::default());
    assert_eq!(report.servers[&name("ums2")].after, SyncState::Unknown);
    assert!(report.left_over.iter().any(|left| left.contains("umsid restart")), "{:?}", report.left_over);
}

#[test]
fn a_stuck_way_back_needs_an_operator() {
    let mut record = Record::new(&quick());
    record.up_to(&restart("ums2"));
    record.fail(&restart("ums2"), 1, 1, Code::NotHealthy, Effect::Possible);
    let steps = roll_back(&touched(&record.state), &[], record.state.next_number());
    record.write(Event::TurnedBack { why: "the canary failed".into(), steps });
    let own = What::RestoreOwn { server: name("ums2"), purpose: Purpose::Rollback };
    record.fail(&own, 1, 1, Code::CommandFailed, Effect::Possible);
    record.halt(HaltKind::Failed);
    let report = record.report(Stopwatch::default());
    assert_eq!(report.exit(), Exit::NeedsOperator);
    assert!(
        report.left_over.iter().any(|left| left.contains("in its agent's vault")),
        "{:?}",
        report.left_over
    );
}

#[test]
fn a_programs_output_is_shown_by_its_end_and_without_control_characters() {
    let raw = RawOutput {
        command: "umsadmin-cli licensing restore".into(),
        status: Some(1),
        stdout: (1..=30).map(|line| format!("line {line}\n")).collect(),
        stderr: "bad\u{1b}[2J\n".into(),
        problem: String::new(),
    };
    let text = raw_output(&raw, "");
    assert!(text.starts_with("`umsadmin-cli licensing restore` ended with status 1\n"), "{text}");
    assert!(
        text.contains("… 10 lines before") && !text.contains("line 10\n") && text.contains("line 30\n"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn times_are_told_as_people_read_them() {
    for (ms, told) in [(0, "0.0 s"), (9_940, "9.9 s"), (42_000, "42 s"), (125_000, "2 min 5 s")] {
        assert_eq!(seconds(ms), told);
    }
}

/// An agent may tell anything of the time it waited: the report is wrong about that, and about nothing else.
#[test]
fn waiting_past_all_numbers_breaks_no_report() {
    let mut record = Record::new(&quick());
    let canary = What::SafetyBackup { server: name("ums2") };
    record.up_to(&canary);
    record.fail(&canary, 10, u64::MAX, Code::Interrupted, Effect::None);
    record.step(&canary, 10, u64::MAX);
    record.up_to(&restore("ums2"));
    record.step(&restore("ums2"), 10, u64::MAX);
    record.finish_with(Ending::Synchronized);
    let report = record.report(Stopwatch { events_before: 0, elapsed_ms: 400, survey_ums_ms: 1 });
    assert_eq!((report.ums_ms, report.overhead_ms), (u64::MAX, 0));
    assert_eq!(report.outcome, Outcome::Synchronized);
}
