//! The pure core driven without servers: every step done, failed, repeated, the coordinator dead at every event.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Zoned;
use proptest::prelude::*;
use umsid_common::digest::Digest;
use umsid_common::name::ServerName;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::Effect;

use super::*;
use crate::exit::Exit;
use crate::plan::{Basis, Kind, Purpose, Request, RestartScope, What, make};
use crate::report::{Outcome, Report, Stopwatch};
use crate::survey::stage::{Stage, labelled, name};
use crate::survey::{Named, Proof, assess};

mod cut;
mod in_time;
mod refused;

pub(crate) fn plan(request: &Request) -> Plan {
    let servers = [
        ("ums1", labelled("a", "a")),
        ("ums2", labelled("b", "a")),
        ("ums3", labelled("c", "a")),
        ("ums4", labelled("d", "a")),
    ];
    let stage = Stage::new(&servers);
    let assessment = assess(&stage.survey, &Named::default());
    let basis = Basis {
        name: &stage.survey.cluster,
        cluster: &stage.cluster,
        survey: &stage.survey,
        assessment: &assessment,
        named: &Named::default(),
        restarts: &BTreeMap::new(),
        restores: &BTreeMap::new(),
    };
    make(&basis, request)
}

pub(crate) fn begun(plan: Plan) -> Event {
    Event::Begun { plan: Box::new(plan), by: "anna".into(), version: "0".into() }
}

/// What a step yields when all goes well.
pub(crate) fn good(what: &What) -> StepResult {
    let yields = match what {
        What::SafetyBackup { server } => Yield::Sealed(Digest::of(server.as_str().as_bytes()), 1),
        What::Backup { .. } => Yield::Sealed(Digest::of(b"main"), 1),
        What::Restore { .. } | What::RestoreOwn { .. } | What::Verify { .. } | What::VerifyOwn { .. } => {
            Yield::Proved(Proof::Yes("it is".into()))
        }
        _ => Yield::Nothing,
    };
    StepResult::Done { ums_ms: 1, yields, remarks: Vec::new() }
}

fn bad(code: Code, effect: Effect) -> StepResult {
    StepResult::Failed { ums_ms: 1, failure: Failure::new(code, "it broke"), effect }
}

/// Drives a run as the loop does, and keeps its events.
struct Drive {
    state: State,
    events: Vec<Event>,
    running: BTreeMap<u32, u32>,
    epoch: u64,
}

impl Drive {
    fn new(request: &Request) -> Self {
        Self::of(plan(request))
    }

    fn of(plan: Plan) -> Self {
        let first = begun(plan);
        let state = State::begin(&first).expect("it begins");
        let mut drive = Self { state, events: vec![first], running: BTreeMap::new(), epoch: 0 };
        drive.lease();
        drive
    }

    fn record(&mut self, event: Event) {
        self.state.apply(&event).expect("the loop writes only what is legal");
        self.events.push(event);
    }

    /// A new session: the first, or after a death.
    fn lease(&mut self) {
        self.epoch += 1;
        self.running.clear();
        self.record(Event::Leased { epoch: self.epoch, by: "anna".into() });
    }

    /// One turn of the loop; `false` when the run stands still or is over. `result` is asked for the step that finishes.
    fn turn(&mut self, result: &mut dyn FnMut(&What, u32) -> StepResult) -> bool {
        self.turn_at(&Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC), result)
    }

    /// The same while the clock on the wall shows this.
    fn turn_at(&mut self, now: &Zoned, result: &mut dyn FnMut(&What, u32) -> StepResult) -> bool {
        let running: BTreeSet<u32> = self.running.keys().copied().collect();
        match in_time(&self.state, next(&self.state, &running), &running, now) {
            Next::Start(list) => {
                for (step, attempt) in list {
                    self.record(Event::Started { step, attempt });
                    self.running.insert(step, attempt);
                }
            }
            Next::TakeUp(list) => self.running.extend(list),
            Next::Skip(list) => {
                list.into_iter().for_each(|(step, why)| self.record(Event::Skipped { step, why }));
            }
            Next::TurnBack { why, steps } => self.record(Event::TurnedBack { why, steps }),
            Next::Wait => {
                let (step, attempt) = self.running.pop_first().expect("something to wait for");
                let what = self.state.step(step).expect("it is there").what.clone();
                let result = result(&what, attempt);
                self.record(Event::Finished { step, attempt, result });
            }
            Next::Halt(halt) => {
                self.record(Event::Halted(halt));
                return false;
            }
            Next::End(outcome) => {
                self.record(Event::Ended { outcome });
                return false;
            }
            Next::Over => return false,
        }
        true
    }

    fn drive(&mut self, result: &mut dyn FnMut(&What, u32) -> StepResult) {
        let mut turns = 0;
        while self.turn(result) {
            turns += 1;
            assert!(turns < 1000, "it comes to an end");
        }
    }

    fn begun(&self, kind: impl Fn(&What) -> bool) -> usize {
        let started = |event: &Event| match event {
            Event::Started { step, .. } => self.state.step(*step).is_some_and(|step| kind(&step.what)),
            _ => false,
        };
        self.events.iter().filter(|event| started(event)).count()
    }
}

fn requests() -> Vec<Request> {
    let mut requests = Vec::new();
    for restart_first in [false, true] {
        for rehearse in [false, true] {
            for batch in [1, 3] {
                requests.push(Request { restart_first, rehearse, batch, ..Request::sync() });
            }
        }
    }
    requests.push(Request { kind: Kind::Restart, ..Request::sync() });
    requests.push(Request { kind: Kind::Backup, ..Request::sync() });
    requests
}

#[test]
fn an_undisturbed_run_carries_out_every_step_once() {
    for request in requests() {
        let mut drive = Drive::new(&request);
        drive.drive(&mut |what, _| good(what));
        let wanted = if request.kind == Kind::Sync { Ending::Synchronized } else { Ending::Done };
        assert_eq!(*drive.state.standing(), Standing::Ended(wanted));
        assert_eq!(drive.begun(|_| true), drive.state.plan().steps.len());
    }
}

/// The coordinator dies after each event, is started again, and the run ends as if nothing had happened, with every
/// attempt that was begun taken up under its own number: never a second operation id for the same deed.
#[test]
fn a_death_after_any_event_changes_nothing() {
    for request in requests() {
        let mut undisturbed = Drive::new(&request);
        undisturbed.drive(&mut |what, _| good(what));
        for death in 1..undisturbed.events.len() {
            let mut drive = Drive::new(&request);
            while drive.events.len() <= death && drive.turn(&mut |what, _| good(what)) {}
            if matches!(drive.state.standing(), Standing::Ended(_)) {
                continue;
            }
            drive.lease();
            drive.drive(&mut |what, _| good(what));
            assert_eq!(drive.state.standing(), undisturbed.state.standing(), "death after event {death}");
            // Only looking again at who is Main is done again.
            let deeds = |drive: &Drive| drive.begun(|what| *what != What::ConfirmMain);
            assert_eq!(deeds(&drive), deeds(&undisturbed), "death after event {death}");
        }
    }
}

/// Every step of every kind of run fails once for good: the run halts, or goes back if it was the canary's, and nothing
/// new is begun after it; resumed, it ends well.
#[test]
fn a_failure_at_any_step_halts_or_goes_back() {
    for request in requests() {
        for no in 1..=u32::try_from(plan(&request).steps.len()).expect("a few") {
            let mut drive = Drive::new(&request);
            let mut broken = false;
            let target = drive.state.step(no).expect("it is there").what.clone();
            drive.drive(&mut |what, _| {
                if *what == target && !broken {
                    broken = true;
                    return bad(Code::CommandFailed, Effect::Possible);
                }
                good(what)
            });
            assert!(broken, "step {no} was reached");
            match drive.state.standing().clone() {
                Standing::Halted(halt) => {
                    assert_eq!(halt.kind, HaltKind::Failed);
                    drive.lease();
                    drive.drive(&mut |what, _| good(what));
                    let wanted = if request.kind == Kind::Sync { Ending::Synchronized } else { Ending::Done };
                    assert_eq!(*drive.state.standing(), Standing::Ended(wanted), "step {no} resumed");
                }
                Standing::Ended(Ending::RolledBack) => {
                    let canary = drive.state.plan().canary().expect("a canary").clone();
                    assert_eq!(target.server(), Some(&canary), "only the canary is rolled back by itself");
                    let others =
                        drive.begun(|what| matches!(what, What::Restore { server } if *server != canary));
                    assert_eq!(others, 0, "the others are untouched");
                    let back = What::RestoreOwn { server: canary.clone(), purpose: Purpose::Rollback };
                    assert_eq!(drive.begun(|what| *what == back), 1);
                    assert!(touched(&drive.state).is_empty());
                }
                other => panic!("step {no}: {other:?}"),
            }
        }
    }
}

/// At any step, on the way back too: with room again the run comes to the end it was on its way to.
#[test]
fn a_full_disk_halts_and_neither_turns_a_run_back_nor_leaves_it_stuck() {
    for request in requests() {
        let mut forward = Drive::new(&request);
        forward.drive(&mut |what, _| good(what));
        let failed = |what: &What| matches!(what, What::Verify { .. });
        let mut back = Drive::new(&request);
        back.drive(&mut |what, _| {
            if failed(what) { bad(Code::WrongIdentity, Effect::Possible) } else { good(what) }
        });
        for (undisturbed, fails) in [(forward, false), (back, true)] {
            let steps: Vec<What> = undisturbed.state.all_steps().map(|step| step.what.clone()).collect();
            for full in steps.iter().filter(|what| !(fails && failed(what))) {
                let mut drive = Drive::new(&request);
                let (mut room, mut halts) = (false, 0);
                let mut result = |what: &What, _| match what {
                    _ if fails && failed(what) => bad(Code::WrongIdentity, Effect::Possible),
                    _ if what == full && !room => {
                        room = true;
                        bad(Code::DiskFull, Effect::Possible)
                    }
                    _ => good(what),
                };
                drive.drive(&mut result);
                while let Standing::Halted(halt) = drive.state.standing().clone() {
                    assert_eq!((halt.kind, halt.stuck), (HaltKind::Failed, None), "{}", full.title());
                    halts += 1;
                    assert!(halts < 3, "{}", full.title());
                    drive.lease();
                    drive.drive(&mut result);
                }
                assert_eq!(drive.state.standing(), undisturbed.state.standing(), "{}", full.title());
            }
        }
    }
}

/// A step fails for good, and the coordinator dies after any event up to the end of that: it comes to what it comes to in
/// peace. What sends the run back is not tried once more before; what only halts it is, on the word of whoever takes it up.
#[test]
fn a_death_beside_a_failure_changes_nothing() {
    for request in requests() {
        for no in 1..=u32::try_from(plan(&request).steps.len()).expect("a few") {
            let target = plan(&request).steps[no as usize - 1].what.clone();
            let mut result = |what: &What, _: u32| match *what == target {
                true => bad(Code::CommandFailed, Effect::Possible),
                false => good(what),
            };
            let mut undisturbed = Drive::new(&request);
            undisturbed.drive(&mut result);
            for death in 1..undisturbed.events.len() {
                let mut drive = Drive::new(&request);
                while drive.events.len() <= death && drive.turn(&mut result) {}
                if *drive.state.standing() != Standing::Going {
                    continue;
                }
                drive.lease();
                drive.drive(&mut result);
                let what = format!("step {no}, death after event {death}");
                assert_eq!(drive.state.standing(), undisturbed.state.standing(), "{what}");
                let deeds = |drive: &Drive| drive.begun(|what| *what != What::ConfirmMain);
                if *undisturbed.state.standing() == Standing::Ended(Ending::RolledBack) {
                    assert_eq!(deeds(&drive), deeds(&undisturbed), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_restore_that_changed_nothing_is_nothing_to_go_back_from() {
    let restore = |what: &What| matches!(what, What::Restore { .. });
    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| match restore(what) {
        true => bad(Code::BadBackup, Effect::None),
        false => good(what),
    });
    assert!(matches!(drive.state.standing(), Standing::Halted(_)), "{:?}", drive.state.standing());
    assert_eq!(touched(&drive.state), []);
    // Another attempt may have an effect, and whatever follows, that stays so.
    for (code, effect) in [(Code::CommandFailed, Effect::Possible), (Code::BadBackup, Effect::None)] {
        let mut drive = drive_again(&drive);
        drive.drive(&mut |what, _| if restore(what) { bad(code, effect) } else { good(what) });
        let back = effect == Effect::Possible;
        assert_eq!(*drive.state.standing() == Standing::Ended(Ending::RolledBack), back, "{code}");
    }
}

fn drive_again(drive: &Drive) -> Drive {
    let (state, events) = (drive.state.clone(), drive.events.clone());
    let mut drive = Drive { state, events, running: BTreeMap::new(), epoch: drive.epoch };
    drive.lease();
    drive
}

#[test]
fn a_rehearsal_that_broke_off_can_be_gone_back_from() {
    let mut drive = Drive::new(&Request { rehearse: true, ..Request::sync() });
    drive.drive(&mut |what, _| match what {
        What::RestoreOwn { .. } => bad(Code::CommandFailed, Effect::Possible),
        _ => good(what),
    });
    assert_eq!(touched(&drive.state), [name("ums2")]);
    let mut drive = Drive::new(&Request { rehearse: true, ..Request::sync() });
    drive.drive(&mut |what, _| match what {
        What::Backup { .. } => bad(Code::CommandFailed, Effect::None),
        _ => good(what),
    });
    assert_eq!(touched(&drive.state), [], "a rehearsal that is done has changed nothing");
}

/// Main may have moved while the run stood still: a new session restores nothing, and takes no restore up, before that
/// is confirmed.
#[test]
fn after_a_standstill_nothing_is_restored_before_main_is_confirmed_again() {
    let second = |what: &What| matches!(what, What::Restore { server } if *server == name("ums3"));
    for begun in [false, true] {
        let mut drive = Drive::new(&Request::sync());
        let verified = |drive: &Drive| drive.state.proof(&name("ums2")).is_some();
        while if begun { drive.begun(second) == 0 } else { !verified(&drive) } {
            assert!(drive.turn(&mut |what, _| good(what)));
        }
        drive.lease();
        let before = drive.begun(|what| *what == What::ConfirmMain);
        drive.drive(&mut |what, _| match what {
            What::ConfirmMain => bad(Code::WrongIdentity, Effect::None),
            _ => good(what),
        });
        assert_eq!(drive.begun(|what| *what == What::ConfirmMain), before + 1);
        assert!(matches!(drive.state.standing(), Standing::Halted(_)), "{:?}", drive.state.standing());
        assert_eq!(drive.begun(second), usize::from(begun));
        let restore = drive.state.steps().find(|step| second(&step.what)).expect("planned").no;
        assert!(!drive.state.is_done(restore), "the second restore is not taken up either");
    }
}

#[test]
fn what_cannot_be_told_is_no_reason_to_go_back() {
    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| match what {
        What::Verify { server } if *server == name("ums2") => {
            StepResult::Unknown { ums_ms: 0, finding: "no output".into() }
        }
        _ => good(what),
    });
    assert!(matches!(drive.state.standing(), Standing::Halted(halt) if halt.kind == HaltKind::Unknown));
    assert_eq!(drive.state.turned_back(), None);
}

#[test]
fn a_run_is_rolled_back_only_when_every_touched_server_is() {
    let third = |what: &What| matches!(what, What::Restore { server } if *server == name("ums4"));
    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| if third(what) { bad(Code::CommandFailed, Effect::None) } else { good(what) });
    let touched_now = touched(&drive.state);
    assert_eq!(touched_now, [name("ums2"), name("ums3")]);
    for (servers, left) in [(vec![name("ums2")], true), (vec![name("ums3")], false)] {
        drive.lease();
        let steps = roll_back(&servers, &[], drive.state.next_number());
        drive.record(Event::TurnedBack { why: "asked for".into(), steps });
        drive.drive(&mut |what, _| good(what));
        let partial =
            matches!(drive.state.standing(), Standing::Halted(halt) if halt.kind == HaltKind::Partial);
        assert_eq!(partial, left, "{:?}", drive.state.standing());
    }
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::RolledBack));
}

#[test]
fn on_the_way_back_only_those_are_needed_that_something_is_done_on() {
    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| match what {
        What::Restore { server } if *server == name("ums3") => bad(Code::CommandFailed, Effect::None),
        _ => good(what),
    });
    assert_eq!(needed(&drive.state).len(), 4);
    drive.lease();
    let steps = roll_back(&[name("ums2")], &drive.state.plan().involved(), drive.state.next_number());
    drive.record(Event::TurnedBack { why: "asked for".into(), steps });
    assert_eq!(needed(&drive.state), [name("ums2")].into());
}

#[test]
fn an_interrupted_operation_is_tried_again_under_a_new_id_but_not_for_ever() {
    let restore = |what: &What| matches!(what, What::Restore { server } if *server == name("ums3"));
    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, attempt| match restore(what) && attempt == 1 {
        true => bad(Code::Interrupted, Effect::None),
        false => good(what),
    });
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::Synchronized));
    assert_eq!(drive.begun(restore), 2);

    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| match restore(what) {
        true => StepResult::Unknown { ums_ms: 0, finding: "half there".into() },
        false => good(what),
    });
    assert!(matches!(drive.state.standing(), Standing::Halted(halt) if halt.kind == HaltKind::Unknown));
    assert_eq!(drive.begun(restore), 3);
}

#[test]
fn targets_that_a_restart_brought_back_are_left_alone() {
    let mut drive = Drive::new(&Request { restart_first: true, ..Request::sync() });
    drive.drive(&mut |what, _| match what {
        What::Recheck { server } if *server == name("ums3") => {
            StepResult::Done { ums_ms: 0, yields: Yield::InSyncAlready, remarks: Vec::new() }
        }
        _ => good(what),
    });
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::Synchronized));
    assert_eq!(drive.begun(|what| matches!(what, What::Restore { server } if *server == name("ums3"))), 0);
    assert_eq!(drive.begun(|what| matches!(what, What::Restart { server } if *server == name("ums3"))), 1);
    assert_eq!(drive.begun(|what| matches!(what, What::Restore { server } if *server == name("ums2"))), 1);

    let mut drive = Drive::new(&Request { restart_first: true, ..Request::sync() });
    drive.drive(&mut |what, _| match what {
        What::Recheck { .. } => {
            StepResult::Done { ums_ms: 0, yields: Yield::InSyncAlready, remarks: Vec::new() }
        }
        _ => good(what),
    });
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::Synchronized));
    assert_eq!(
        drive
            .begun(|what| matches!(what, What::Backup { .. } | What::Transfer { .. } | What::Restore { .. })),
        0
    );
    assert_eq!(drive.begun(|what| matches!(what, What::Restart { server } if *server == name("ums1"))), 0);
}

/// Invariant 11, in the core: what is not proved is not called synchronized.
#[test]
fn an_unproved_target_is_never_called_synchronized() {
    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| match what {
        What::Verify { server } if *server == name("ums4") => {
            let yields = Yield::Proved(Proof::Unknown("no word".into()));
            StepResult::Done { ums_ms: 0, yields, remarks: Vec::new() }
        }
        _ => good(what),
    });
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::Unverified));
    let mut drive = Drive::new(&Request { restart: RestartScope::None, ..Request::sync() });
    drive.drive(&mut |what, _| good(what));
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::Unverified), "not in use until restarted");
}

#[test]
fn what_was_begun_before_going_back_does_not_stop_the_way_back() {
    let mut drive = Drive::new(&Request::sync());
    let second = |what: &What| matches!(what, What::Restore { server } if *server == name("ums3"));
    while drive.begun(second) == 0 {
        assert!(drive.turn(&mut |what, _| good(what)));
    }
    drive.lease();
    let servers: Vec<ServerName> = touched(&drive.state);
    assert_eq!(servers, [name("ums2"), name("ums3")]);
    let steps = roll_back(&servers, &drive.state.plan().involved(), drive.state.next_number());
    drive.record(Event::TurnedBack { why: "asked for".into(), steps });
    drive.drive(&mut |what, _| good(what));
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::RolledBack));
    assert!(touched(&drive.state).is_empty());
    assert_eq!(drive.begun(|what| matches!(what, What::Restore { server } if *server == name("ums4"))), 0);
}

#[test]
fn an_event_that_cannot_follow_is_refused_and_changes_nothing() {
    let first = begun(plan(&Request::sync()));
    let mut state = State::begin(&first).expect("it begins");
    let refused = |state: &mut State, event: Event| {
        let before = state.clone();
        assert!(state.apply(&event).is_err(), "{event:?}");
        assert_eq!(*state, before);
    };
    let started = |step, attempt| Event::Started { step, attempt };
    refused(&mut state, started(1, 1));
    refused(&mut state, first);
    state.apply(&Event::Leased { epoch: 5, by: String::new() }).expect("leased");
    refused(&mut state, Event::Leased { epoch: 5, by: String::new() });
    refused(&mut state, started(1, 2));
    refused(&mut state, started(99, 1));
    refused(&mut state, started(7, 1));
    refused(&mut state, Event::Finished { step: 1, attempt: 1, result: bad(Code::Internal, Effect::None) });
    refused(&mut state, Event::Ended { outcome: Ending::Synchronized });
    state.apply(&started(1, 1)).expect("started");
    refused(&mut state, started(1, 1));
    refused(&mut state, started(1, 2));
    refused(&mut state, Event::Skipped { step: 1, why: String::new() });
    refused(&mut state, Event::Finished { step: 1, attempt: 2, result: bad(Code::Internal, Effect::None) });
    let halt = Halt { kind: HaltKind::Interrupted, why: String::new(), failure: None, stuck: None };
    state.apply(&Event::Halted(halt)).expect("halted");
    refused(&mut state, started(2, 1));
    assert!(State::begin(&started(1, 1)).is_err());
    assert!(State::replay([].iter()).is_err());
}

#[test]
fn after_the_end_nothing_follows() {
    let mut drive = Drive::new(&Request { kind: Kind::Backup, ..Request::sync() });
    drive.drive(&mut |what, _| good(what));
    let mut state = drive.state.clone();
    assert!(state.apply(&Event::Leased { epoch: 99, by: String::new() }).is_err());
    assert!(state.apply(&Event::Started { step: 1, attempt: 2 }).is_err());
}

/// Drives a way back that is asked for, to these servers.
fn ask_back(drive: &mut Drive, servers: &[ServerName], result: &mut dyn FnMut(&What, u32) -> StepResult) {
    drive.lease();
    let steps = roll_back(servers, &drive.state.plan().involved(), drive.state.next_number());
    drive.record(Event::TurnedBack { why: "asked for".into(), steps });
    drive.drive(result);
}

/// The report of a run that is driven.
fn report(drive: &Drive) -> Report {
    let recorded = |(at, event): (usize, &Event)| Recorded {
        number: at as u64 + 1,
        at: Timestamp::UNIX_EPOCH,
        event: event.clone(),
    };
    let events: Vec<Recorded> = drive.events.iter().enumerate().map(recorded).collect();
    let run = "20261122t204512-7f3a9c".parse().expect("a run id");
    Report::from_record(&run, &drive.state, &events, Stopwatch::default(), false)
}

/// A run halted with the canary done and the second target touched, and the way back of one server not possible.
fn stuck(cannot: &'static str) -> Drive {
    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| match what {
        What::Restore { server } if *server == name("ums3") => bad(Code::CommandFailed, Effect::Possible),
        _ => good(what),
    });
    let both = [name("ums2"), name("ums3")];
    assert_eq!(touched(&drive.state), both);
    ask_back(&mut drive, &both, &mut |what, _| match what {
        What::RestoreOwn { server, .. } if *server == name(cannot) => bad(Code::NoSafetyBackup, Effect::None),
        _ => good(what),
    });
    drive
}

#[test]
fn what_cannot_be_put_back_leaves_the_run_stuck_and_says_what_to_type() {
    let drive = stuck("ums2");
    let Standing::Halted(halt) = drive.state.standing() else { panic!("{:?}", drive.state.standing()) };
    assert_eq!(halt.kind, HaltKind::Stuck);
    let stuck_on = halt.stuck.clone().expect("a server");
    let had = drive.state.plan().servers[&name("ums2")].baseline.local;
    assert_eq!((stuck_on.server, stuck_on.had), (name("ums2"), had));
    assert!(had.is_some());
    let report = report(&drive);
    assert_eq!((report.outcome, report.exit()), (Outcome::Stuck, Exit::NeedsOperator));
    let run = "20261122t204512-7f3a9c";
    let commands: Vec<&str> = report.next.iter().map(|advice| advice.command.as_str()).collect();
    let cluster = &drive.state.plan().cluster;
    assert_eq!(
        commands,
        [
            &format!("umsid status {cluster} --raw"),
            &format!("umsid resume {run}"),
            &format!("umsid rollback {run} ums3"),
            &format!("umsid rollback {run} --give-up"),
            &format!("umsid runs show {run}"),
        ]
    );
}

#[test]
fn one_server_that_is_stuck_keeps_no_other_from_being_put_back() {
    let mut drive = stuck("ums2");
    ask_back(&mut drive, &[name("ums3")], &mut |what, _| good(what));
    assert!(matches!(drive.state.standing(), Standing::Halted(halt) if halt.kind == HaltKind::Partial));
    assert_eq!(touched(&drive.state), [name("ums2")], "what is left is not forgotten");
    // The way back of a server that is stuck after its restore is not forgotten either.
    let restart = |what: &What| matches!(what, What::Restart { server } if *server == name("ums2"));
    let broken = &mut |what: &What, _| {
        if restart(what) { bad(Code::NotHealthy, Effect::Possible) } else { good(what) }
    };
    ask_back(&mut drive, &[name("ums2")], broken);
    assert!(matches!(drive.state.standing(), Standing::Halted(halt) if halt.kind == HaltKind::Stuck));
    assert_eq!(touched(&drive.state), [name("ums2")]);
    drive.lease();
    drive.drive(&mut |what, _| good(what));
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::RolledBack));
}

#[test]
fn a_run_that_is_given_up_is_over_and_never_called_well() {
    let mut drive = stuck("ums3");
    let left = touched(&drive.state);
    assert_eq!(left, [name("ums3")]);
    drive.record(Event::GivenUp { by: "anna".into(), left });
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::GivenUp));
    let given_up = report(&drive);
    assert_eq!((given_up.outcome, given_up.exit()), (Outcome::GivenUp, Exit::NeedsOperator));
    assert!(given_up.left_over.iter().any(|left| left.starts_with("ums3 ")), "{:?}", given_up.left_over);
    assert!(drive.state.apply(&Event::Leased { epoch: 99, by: String::new() }).is_err());

    let mut untouched = Drive::new(&Request::sync());
    untouched.drive(&mut |what, _| match what {
        What::Backup { .. } => bad(Code::CommandFailed, Effect::None),
        _ => good(what),
    });
    untouched.record(Event::GivenUp { by: "anna".into(), left: Vec::new() });
    assert_eq!(report(&untouched).exit(), Exit::Failed);
}

/// Who resumes a way back somebody asked for gets its exit code; a canary that was put back unasked stays a failure.
#[test]
fn a_way_back_that_was_asked_for_ends_well_when_it_is_resumed_too() {
    let mut drive = stuck("ums2");
    drive.lease();
    drive.drive(&mut |what, _| good(what));
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::RolledBack));
    assert_eq!(report(&drive).exit(), Exit::Success);

    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| match what {
        What::Verify { .. } | What::RestoreOwn { .. } => bad(Code::WrongIdentity, Effect::Possible),
        _ => good(what),
    });
    assert!(matches!(drive.state.standing(), Standing::Halted(halt) if halt.kind == HaltKind::Stuck));
    drive.lease();
    drive.drive(&mut |what, _| good(what));
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::RolledBack));
    assert_eq!(report(&drive).exit(), Exit::Failed);
}

#[derive(Clone, Debug)]
enum Fault {
    None,
    Fails(Code),
    Unknown,
    CoordinatorDies,
    InSyncAlready,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        1 => Just(Fault::Fails(Code::CommandFailed)),
        1 => Just(Fault::Fails(Code::Interrupted)),
        1 => Just(Fault::Unknown),
        2 => Just(Fault::CoordinatorDies),
        2 => Just(Fault::InSyncAlready),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// From wherever a run stands still there is a way back: with nothing wrong on it, every server is as it was. With
    /// something wrong it stands still in turn, says which command to type, and lets others be put back, be resumed, and
    /// be given up.
    #[test]
    fn from_any_standstill_there_is_a_way_back(
        which in 0usize..10,
        faults in prop::collection::vec(fault(), 0..40),
        back in prop::collection::vec(fault(), 0..8),
        some in prop::collection::vec(any::<bool>(), 4),
    ) {
        let answer = |what: &What, fault: Fault| match fault {
            Fault::InSyncAlready if matches!(what, What::Recheck { .. }) => {
                StepResult::Done { ums_ms: 0, yields: Yield::InSyncAlready, remarks: Vec::new() }
            }
            Fault::Fails(code) => bad(code, Effect::Possible),
            Fault::Unknown => StepResult::Unknown { ums_ms: 0, finding: "who knows".into() },
            Fault::None | Fault::InSyncAlready | Fault::CoordinatorDies => good(what),
        };
        let mut faults = faults.into_iter();
        let mut drive = Drive::new(&requests()[which]);
        drive.drive(&mut |what, _| answer(what, faults.next().unwrap_or(Fault::None)));
        let mut back = back.into_iter();
        for round in 0..20 {
            let Standing::Halted(halt) = drive.state.standing().clone() else { break };
            let shown = report(&drive);
            prop_assert!(shown.next.iter().any(|advice| advice.command.starts_with("umsid resume ")));
            // Who asked for some servers and got them is told of the others, and has what was asked for.
            let got_it = halt.kind == HaltKind::Partial && drive.state.back_was_asked_for();
            prop_assert_eq!(shown.exit() == Exit::Success, got_it);
            if let Some(stuck) = &halt.stuck {
                prop_assert_eq!(halt.kind, HaltKind::Stuck);
                prop_assert!(touched(&drive.state).contains(&stuck.server));
                prop_assert!(shown.next.iter().any(|advice| advice.command.ends_with(" --give-up")));
                prop_assert_eq!(shown.exit(), Exit::NeedsOperator);
            }
            let mut given_up = drive.state.clone();
            let end = Event::GivenUp { by: "anna".into(), left: touched(&given_up) };
            prop_assert!(given_up.apply(&end).is_ok());
            let all = touched(&drive.state);
            let chosen = all.iter().zip(&some).filter(|(_, chosen)| round > 0 || **chosen);
            let chosen: Vec<ServerName> = chosen.map(|(server, _)| server.clone()).collect();
            let spoiled = back.len() > 0;
            ask_back(&mut drive, &chosen, &mut |what, _| answer(what, back.next().unwrap_or(Fault::None)));
            if !spoiled && chosen == all {
                prop_assert_eq!(drive.state.standing(), &Standing::Ended(Ending::RolledBack));
            }
        }
        prop_assert!(matches!(drive.state.standing(), Standing::Ended(_)), "{:?}", drive.state.standing());
        prop_assert_eq!(&State::replay(drive.events.iter()).expect("replays"), &drive.state);
    }

    /// Whatever fails and dies in whatever order: the run comes to an end it can name, its events replay to the same
    /// state from every prefix, nothing is restored without a safety backup, and no server but the canary before the
    /// canary is proved.
    #[test]
    fn any_schedule_of_faults_ends_in_a_named_state(
        which in 0usize..10,
        faults in prop::collection::vec(fault(), 0..60),
    ) {
        let mut drive = Drive::new(&requests()[which]);
        let mut faults = faults.into_iter();
        let mut sessions = 0;
        loop {
            let mut dies = false;
            let mut result = |what: &What, _: u32| match faults.next().unwrap_or(Fault::None) {
                Fault::InSyncAlready if matches!(what, What::Recheck { .. }) => {
                    StepResult::Done { ums_ms: 0, yields: Yield::InSyncAlready, remarks: Vec::new() }
                }
                Fault::None | Fault::InSyncAlready => good(what),
                Fault::Fails(code) => bad(code, Effect::Possible),
                Fault::Unknown => StepResult::Unknown { ums_ms: 0, finding: "who knows".into() },
                Fault::CoordinatorDies => {
                    dies = true;
                    good(what)
                }
            };
            let goes_on = drive.turn(&mut result);
            match drive.state.standing() {
                Standing::Ended(_) => break,
                _ if goes_on && !dies => {}
                _ => {
                    sessions += 1;
                    prop_assert!(sessions < 200);
                    drive.lease();
                }
            }
        }
        for length in 1..=drive.events.len() {
            prop_assert!(State::replay(drive.events[..length].iter()).is_ok());
        }
        prop_assert_eq!(&State::replay(drive.events.iter()).expect("replays"), &drive.state);
        let canary = drive.state.plan().targets.iter().find(|server| !drive.state.in_sync_already(server));
        let (mut proved, mut safe) = (BTreeSet::new(), BTreeSet::new());
        for event in &drive.events {
            if let Event::Finished { step, result: StepResult::Done { .. }, .. } = event
                && let Some(What::SafetyBackup { server }) = drive.state.step(*step).map(|step| &step.what)
            {
                safe.insert(server.clone());
            }
            if let Event::Started { step, .. } = event
                && let Some(What::Restore { server } | What::RestoreOwn { server, .. }) =
                    drive.state.step(*step).map(|step| &step.what)
            {
                prop_assert!(safe.contains(server), "{server} is restored without a safety backup");
            }
            match event {
                Event::Finished { step, result: StepResult::Done { .. }, .. } => {
                    if let Some(What::Verify { server }) = drive.state.step(*step).map(|step| &step.what) {
                        proved.insert(server.clone());
                    }
                }
                Event::Started { step, .. } => {
                    if let (Some(What::Restore { server }), Some(canary)) =
                        (drive.state.step(*step).map(|step| &step.what), canary)
                    {
                        prop_assert!(server == canary || proved.contains(canary));
                    }
                }
                _ => {}
            }
        }
        if *drive.state.standing() == Standing::Ended(Ending::RolledBack) {
            prop_assert!(touched(&drive.state).is_empty());
        }
    }
}
