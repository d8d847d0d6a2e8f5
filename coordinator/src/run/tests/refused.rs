//! What no run of ours records, and a copy of a journal may hold all the same: refused, with a reason, and nothing changed.

use std::collections::{BTreeMap, BTreeSet};

use umsid_common::name::ServerName;
use umsid_proto::failure::Code;
use umsid_proto::model::Effect;

use super::{Drive, bad, begun, drive_again, good, plan};
use crate::plan::{Basis, Kind, Plan, Purpose, Request, Step, What, make, roll_back, touched};
use crate::run::{Ending, Event, Halt, HaltKind, Next, Standing, State, StepResult, Yield, next};
use crate::survey::stage::{Stage, labelled, name};
use crate::survey::{Named, Proof, assess};

/// Why the event is refused; nothing has changed.
fn refusal(state: &State, event: &Event) -> String {
    let mut after = state.clone();
    let why = after.apply(event).expect_err("it cannot follow").to_string();
    assert_eq!(after, *state, "{why}");
    why
}

fn finished(step: u32, yields: Yield) -> Event {
    Event::Finished { step, attempt: 1, result: StepResult::Done { ums_ms: 1, yields, remarks: Vec::new() } }
}

fn skipped(step: u32) -> Event {
    Event::Skipped { step, why: "not needed".into() }
}

fn number(state: &State, what: &What) -> u32 {
    state.steps().find(|step| step.what == *what).expect("planned").no
}

/// Carries a run out until this step has begun.
fn until_begun(request: &Request, what: &What) -> Drive {
    let mut drive = Drive::new(request);
    while drive.begun(|begun| begun == what) == 0 {
        assert!(drive.turn(&mut |what, _| good(what)), "{what:?} is reached");
    }
    drive
}

/// A run halted with the canary done and the second target touched, leased again.
fn halted() -> Drive {
    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| match what {
        What::Restore { server } if *server == name("ums3") => bad(Code::CommandFailed, Effect::Possible),
        _ => good(what),
    });
    assert_eq!(touched(&drive.state), [name("ums2"), name("ums3")]);
    drive_again(&drive)
}

#[test]
fn no_step_is_skipped_that_is_needed() {
    let drive = Drive::new(&Request::sync());
    for step in drive.state.plan().steps.clone() {
        assert!(refusal(&drive.state, &skipped(step.no)).contains("is needed"), "{step:?}");
    }
    // On the way back only what tidies up may be left undone.
    let mut drive = halted();
    let planned = number(&drive.state, &What::VerifyCluster);
    let steps = roll_back(&[name("ums2")], &[name("ums1")], drive.state.next_number());
    drive.record(Event::TurnedBack { why: "asked for".into(), steps: steps.clone() });
    assert!(refusal(&drive.state, &skipped(planned)).contains("not to be carried out"));
    for step in steps {
        match &step.what {
            What::Discard { .. } => drive.record(skipped(step.no)),
            _ => assert!(refusal(&drive.state, &skipped(step.no)).contains("is needed"), "{step:?}"),
        }
    }
}

#[test]
fn what_is_not_needed_any_more_is_not_begun() {
    let mut drive = Drive::new(&Request { restart_first: true, ..Request::sync() });
    let remedy = |step: &Step| !matches!(step.what, What::SafetyBackup { .. });
    let first: Vec<Step> = drive.state.plan().steps.iter().take_while(|step| remedy(step)).cloned().collect();
    for step in first {
        drive.record(Event::Started { step: step.no, attempt: 1 });
        drive.record(match &step.what {
            What::Recheck { server } if *server == name("ums2") => finished(step.no, Yield::InSyncAlready),
            _ => finished(step.no, Yield::Nothing),
        });
    }
    let save = |server| number(&drive.state, &What::SafetyBackup { server: name(server) });
    let started = |step| Event::Started { step, attempt: 1 };
    assert!(refusal(&drive.state, &started(save("ums2"))).contains("is not needed any more"));
    let mut other = drive.state.clone();
    assert!(other.apply(&started(save("ums3"))).is_ok());
}

/// Invariant 2, whatever a plan says and whatever was skipped.
#[test]
fn nothing_is_restored_before_its_safety_backup_is_on_record() {
    let mut drive = Drive::new(&Request::sync());
    let held_back = |drive: &Drive, what: &What| {
        let step = drive.state.steps().find(|step| step.what == *what).expect("planned");
        drive.state.held_back(step)
    };
    let restore = What::Restore { server: name("ums2") };
    assert_eq!(held_back(&drive, &restore), Some("a safety backup of that server"));
    while drive.state.safety_backup(&name("ums2")).is_none() {
        assert!(drive.turn(&mut |what, _| good(what)));
    }
    assert_eq!(held_back(&drive, &restore), Some("Main to be confirmed"));
}

#[test]
fn a_step_leaves_what_such_a_step_can_leave() {
    let no = |proof: &str| Yield::Proved(Proof::No(proof.into()));
    let of = |server| name(server);
    for (what, yields) in [
        (What::SafetyBackup { server: of("ums2") }, Yield::Nothing),
        (What::Backup { server: of("ums1") }, Yield::InSyncAlready),
        (What::Restore { server: of("ums2") }, no("another")),
        (What::Restore { server: of("ums2") }, Yield::InSyncAlready),
        (What::Verify { server: of("ums2") }, Yield::Nothing),
        (What::Verify { server: of("ums2") }, no("another")),
        (What::VerifyCluster, Yield::InSyncAlready),
    ] {
        let drive = until_begun(&Request::sync(), &what);
        let step = number(&drive.state, &what);
        assert!(refusal(&drive.state, &finished(step, yields)).contains("yields no such thing"), "{what:?}");
    }
}

#[test]
fn what_a_run_has_turned_back_from_comes_to_no_end_any_more() {
    let restore = What::Restore { server: name("ums3") };
    let drive = until_begun(&Request::sync(), &restore);
    let step = number(&drive.state, &restore);
    let mut drive = drive_again(&drive);
    let steps = roll_back(&touched(&drive.state), &[], drive.state.next_number());
    drive.record(Event::TurnedBack { why: "asked for".into(), steps });
    let late = Event::Finished { step, attempt: 1, result: good(&restore) };
    assert!(refusal(&drive.state, &late).contains("not to be carried out"));
}

/// A step that was begun, and what comes before it has to be done again: that first.
#[test]
fn what_was_begun_is_taken_up_after_what_comes_before_it() {
    let mut plan = plan(&Request::sync());
    let confirm = plan.steps.iter().rfind(|step| step.what == What::ConfirmMain).expect("planned").no;
    let no = u32::try_from(plan.steps.len()).expect("a few") + 1;
    let what = What::Restart { server: name("ums1") };
    let restart = Step { no, what, why: String::new(), after: [confirm].into(), downtime_s: None };
    plan.steps.push(restart.clone());
    let first = begun(plan);
    let state = State::begin(&first).expect("it begins");
    let mut drive = Drive { state, events: vec![first], running: BTreeMap::new(), epoch: 0 };
    drive.lease();
    while !drive.state.was_begun(no) {
        assert!(drive.turn(&mut |what, _| good(what)));
    }
    drive.lease();
    let interrupted = bad(Code::Interrupted, Effect::None);
    let end = Event::Finished { step: no, attempt: 1, result: interrupted };
    assert!(refusal(&drive.state, &end).contains(&format!("waits for step {confirm}")));
    assert_eq!(next(&drive.state, &BTreeSet::new()), Next::Start(vec![(confirm, 2)]));
    drive.drive(&mut |what, attempt| match *what == restart.what && attempt == 1 {
        true => bad(Code::Interrupted, Effect::None),
        false => good(what),
    });
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::Synchronized));
}

/// Invariant 11, in a journal from elsewhere.
#[test]
fn a_record_says_no_more_than_what_was_proved() {
    let mut drive = Drive::new(&Request::sync());
    drive.drive(&mut |what, _| match what {
        What::Verify { server } if *server == name("ums4") => {
            let yields = Yield::Proved(Proof::Unknown("no word".into()));
            StepResult::Done { ums_ms: 0, yields, remarks: Vec::new() }
        }
        _ => good(what),
    });
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::Unverified));
    drive.events.pop();
    let state = State::replay(drive.events.iter()).expect("it was legal");
    for outcome in [Ending::Synchronized, Ending::Done, Ending::RolledBack, Ending::GivenUp] {
        assert!(refusal(&state, &Event::Ended { outcome }).contains("does not make it"), "{outcome:?}");
    }
}

#[test]
fn without_a_lease_no_run_comes_to_a_standstill() {
    let state = State::begin(&begun(plan(&Request::sync()))).expect("it begins");
    let halt = Halt { kind: HaltKind::Failed, why: String::new(), failure: None, stuck: None };
    assert!(refusal(&state, &Event::Halted(halt)).contains("no lease"));
    for epoch in [(1 << 40) + 1, u64::MAX] {
        assert!(refusal(&state, &Event::Leased { epoch, by: "anna".into() }).contains("no lease has"));
    }
}

/// The plan with one thing changed, and why a run is not begun with it.
fn twisted(twist: impl FnOnce(&mut Plan)) -> String {
    twisted_of(&Request { restart_first: true, rehearse: true, ..Request::sync() }, twist)
}

fn twisted_of(request: &Request, twist: impl FnOnce(&mut Plan)) -> String {
    let mut plan = plan(request);
    assert!(State::begin(&begun(plan.clone())).is_ok());
    twist(&mut plan);
    State::begin(&begun(plan)).expect_err("no plan of ours").to_string()
}

fn at(plan: &mut Plan, what: impl Fn(&What) -> bool) -> &mut Step {
    plan.steps.iter_mut().rfind(|step| what(&step.what)).expect("planned")
}

#[test]
fn a_plan_that_contradicts_itself_is_not_begun() {
    let ums2 = || name("ums2");
    let says = |said: String, why: &str| assert!(said.contains(why), "{said}, not: {why}");
    says(twisted(|plan| plan.steps[3].no = 3), "step 3 stands where step 4 should");
    says(twisted(|plan| plan.steps[3].after = [5].into()), "step 4 waits for step 5");
    says(twisted(|plan| plan.steps[3].after = [0].into()), "step 4 waits for step 0");
    says(twisted(|plan| plan.steps[3].after = [4].into()), "step 4 waits for step 4");
    says(twisted(|plan| drop(plan.servers.remove(&ums2()))), "ums2 takes no part");
    says(twisted(|plan| plan.targets.push(ums2())), "ums2 is a target, and");
    says(twisted(|plan| plan.targets.push(name("ums1"))), "ums1 is a target, and");
    says(
        twisted(|plan| plan.steps[0].what = What::Restart { server: name("elsewhere") }),
        "elsewhere takes no part",
    );
    let verify = |what: &What| matches!(what, What::Verify { .. });
    for what in [
        What::Verify { server: name("ums1") },
        What::Restore { server: name("ums1") },
        What::Backup { server: ums2() },
        What::Transfer { from: name("ums1"), to: vec![ums2()] },
        What::VerifyOwn { server: ums2() },
        What::RestoreOwn { server: ums2(), purpose: Purpose::Rollback },
    ] {
        says(twisted(|plan| at(plan, verify).what = what.clone()), "is none of such a plan");
    }
    for what in [What::SafetyBackup { server: ums2() }, What::Restore { server: ums2() }] {
        says(twisted(|plan| at(plan, verify).what = what.clone()), "once more");
    }
    for kind in [Kind::Restart, Kind::Backup] {
        says(twisted(|plan| plan.request.kind = kind), "is none of such a plan");
    }
}

#[test]
fn a_plan_in_another_order_is_not_begun() {
    let canary = name("ums2");
    let of_canary = |what: &What| what.server() == Some(&canary);
    let orders: [&dyn Fn(&What) -> bool; 6] = [
        &|what| matches!(what, What::SafetyBackup { .. }) && of_canary(what),
        &|what| matches!(what, What::RestoreOwn { .. }),
        &|what| matches!(what, What::Transfer { .. }),
        &|what| matches!(what, What::Restore { .. }) && of_canary(what),
        &|what| matches!(what, What::Verify { .. }) && of_canary(what),
        &|what| matches!(what, What::Discard { .. }) && of_canary(what),
    ];
    for order in orders {
        let said = twisted(|plan| at(plan, order).after.clear());
        assert!(said.contains("does not wait for step"), "{said}");
    }
    // What a restore cannot do without is missing altogether.
    let settle = || What::Settle { seconds: 0 };
    for (lacks, what) in [
        ("a safety backup", What::SafetyBackup { server: canary.clone() }),
        ("a last look", What::ConfirmMain),
    ] {
        let said = twisted_of(&Request::sync(), |plan| {
            plan.steps.iter_mut().filter(|step| step.what == what).for_each(|step| step.what = settle());
        });
        assert!(said.contains(lacks), "{said}");
    }
    let said = twisted(|plan| at(plan, |what| matches!(what, What::Transfer { .. })).what = settle());
    assert!(said.contains("what is to be restored"), "{said}");
}

#[test]
fn a_way_back_that_contradicts_itself_is_not_taken() {
    let drive = halted();
    let next = drive.state.next_number();
    let both = [name("ums2"), name("ums3")];
    let refused = |twist: &dyn Fn(&mut Vec<Step>)| {
        let mut steps = roll_back(&both, &drive.state.plan().involved(), next);
        let whole = Event::TurnedBack { why: "asked for".into(), steps: steps.clone() };
        assert!(drive.state.clone().apply(&whole).is_ok());
        twist(&mut steps);
        refusal(&drive.state, &Event::TurnedBack { why: "asked for".into(), steps })
    };
    let says = |said: String, why: &str| assert!(said.contains(why), "{said}, not: {why}");
    says(refused(&|steps| steps[1].no = 1), "step 1 stands where");
    says(refused(&|steps| steps[0].after = [1].into()), "waits for step 1, which");
    says(refused(&|steps| steps[1].after = [next + 5].into()), "which is none before it");
    says(refused(&|steps| steps[1].after.clear()), "does not wait for step");
    says(refused(&|steps| steps[2].after.clear()), "does not wait for step");
    says(refused(&|steps| steps.truncate(2)), "is put back by half");
    says(refused(&|steps| steps.drain(..1).for_each(drop)), "stands where");
    let what = |what: What| move |steps: &mut Vec<Step>| steps[0].what = what.clone();
    let own = |server: ServerName, purpose| What::RestoreOwn { server, purpose };
    says(refused(&what(What::Restore { server: name("ums2") })), "is none of a way back");
    says(refused(&what(What::SafetyBackup { server: name("ums2") })), "is none of a way back");
    says(refused(&what(own(name("ums2"), Purpose::Rehearsal))), "is none of a way back");
    says(refused(&what(own(name("ums4"), Purpose::Rollback))), "ums4 is as it was");
    says(refused(&what(own(name("elsewhere"), Purpose::Rollback))), "elsewhere takes no part");
    says(refused(&what(What::Discard { server: name("ums2") })), "once more");
}

/// Each step waits for all before it, and all of many are skipped: the question whether one is settled has an answer.
#[test]
fn a_step_that_many_ways_lead_to_is_looked_at_once() {
    let names: Vec<String> = (1..=12).map(|number| format!("ums{number}")).collect();
    let servers: Vec<_> = names
        .iter()
        .zip("abcdefghijkl".chars())
        .map(|(name, own)| (name.as_str(), labelled(&own.to_string(), "a")))
        .collect();
    let stage = Stage::new(&servers);
    let named = Named::default();
    let assessment = assess(&stage.survey, &named);
    let basis = Basis {
        name: &stage.survey.cluster,
        cluster: &stage.cluster,
        survey: &stage.survey,
        assessment: &assessment,
        named: &named,
        restarts: &BTreeMap::new(),
        restores: &BTreeMap::new(),
    };
    let mut plan = make(&basis, &Request { restart_first: true, ..Request::sync() });
    plan.steps.iter_mut().for_each(|step| step.after = (1..step.no).collect());
    let first = begun(plan);
    let state = State::begin(&first).expect("it begins");
    let mut drive = Drive { state, events: vec![first], running: BTreeMap::new(), epoch: 0 };
    drive.lease();
    drive.drive(&mut |what, _| match what {
        What::Recheck { .. } => {
            StepResult::Done { ums_ms: 0, yields: Yield::InSyncAlready, remarks: Vec::new() }
        }
        _ => good(what),
    });
    assert_eq!(*drive.state.standing(), Standing::Ended(Ending::Synchronized));
    let skipped = drive.events.iter().filter(|event| matches!(event, Event::Skipped { .. })).count();
    assert!(skipped > 50, "only {skipped}");
}
