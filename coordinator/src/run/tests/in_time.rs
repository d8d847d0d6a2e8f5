//! Runs whose servers may be disturbed in windows only: nothing is begun that cannot end in time.

use jiff::Zoned;

use super::*;
use crate::plan::{Hours, Opening};

/// Four servers, all with a window of two hours on Sundays; a restore takes a minute, a restart ten.
fn sunday(request: &Request) -> Drive {
    let mut plan = plan(request);
    for server in ["ums1", "ums2", "ums3", "ums4"] {
        let windows = vec!["Sun 02:00-04:00".parse().unwrap()];
        plan.hours.insert(name(server), Hours { windows, restore_s: 60, restart_s: 600 });
    }
    Drive::of(plan)
}

/// 2026-11-29 is a Sunday.
fn at(time: &str) -> Zoned {
    format!("2026-11-29T{time}[UTC]").parse().unwrap()
}

/// Drives it while the clock on the wall shows this.
fn drive(drive: &mut Drive, now: &str, result: &mut dyn FnMut(&What, u32) -> StepResult) {
    let now = at(now);
    while drive.turn_at(&now, result) {}
}

fn halted(drive: &Drive) -> &Halt {
    match drive.state.standing() {
        Standing::Halted(halt) => halt,
        other => panic!("{other:?}"),
    }
}

fn restored(drive: &Drive) -> Vec<String> {
    let done = |step: &&Step| matches!(step.what, What::Restore { .. }) && drive.state.is_done(step.no);
    drive.state.steps().filter(done).filter_map(|step| Some(step.what.server()?.to_string())).collect()
}

#[test]
fn in_the_window_it_goes_to_its_end() {
    let mut run = sunday(&Request::sync());
    drive(&mut run, "02:00", &mut |what, _| good(what));
    assert_eq!(*run.state.standing(), Standing::Ended(Ending::Synchronized));
}

#[test]
fn outside_of_it_nothing_is_disturbed_and_the_rest_is_made_ready() {
    let mut run = sunday(&Request::sync());
    drive(&mut run, "01:59:59", &mut |what, _| {
        assert!(!what.disturbs(), "{what:?}");
        good(what)
    });
    let halt = halted(&run);
    assert_eq!(halt.kind, HaltKind::Window);
    assert!(halt.why.contains("Sun 2026-11-29 02:00 UTC"), "{}", halt.why);
    assert!(run.state.sealed().is_some(), "the backup is made, and is where it is needed");
    // Taken up in time, it goes on; the journal replays.
    run.lease();
    drive(&mut run, "02:10", &mut |what, _| good(what));
    assert_eq!(*run.state.standing(), Standing::Ended(Ending::Synchronized));
    assert_eq!(State::replay(run.events.iter()).expect("legal"), run.state);
}

#[test]
fn what_would_end_too_late_is_not_begun() {
    // The canary is done by 03:49; eleven minutes are needed.
    let mut run = sunday(&Request::sync());
    let (early, late) = (at("03:48"), at("03:49:01"));
    let verified = |run: &Drive| run.state.proof(&name("ums2")).is_some();
    while run.turn_at(if verified(&run) { &late } else { &early }, &mut |what, _| good(what)) {}
    assert_eq!(restored(&run), ["ums2"]);
    assert!(halted(&run).why.starts_with("ums3: step"), "{}", halted(&run).why);
    assert!(halted(&run).why.contains("11m"), "{}", halted(&run).why);
    assert!(halted(&run).why.contains("Sun 2026-12-06 02:00 UTC"), "{}", halted(&run).why);
    let (step, opening) = waits_at(&run.state, &late).expect("it waits");
    assert_eq!(step.what, What::Restore { server: name("ums3") });
    assert!(matches!(opening, Opening::At(_)));
    assert_eq!(waits_at(&run.state, &at("02:00")), None);
}

/// A restore that took longer than reckoned leaves its restart for the next window.
#[test]
fn a_restart_that_would_end_too_late_waits_for_the_next_window() {
    let mut run = sunday(&Request::sync());
    let is_restored = |run: &Drive| !restored(run).is_empty();
    let (early, late) = (at("03:00"), at("03:51"));
    while run.turn_at(if is_restored(&run) { &late } else { &early }, &mut |what, _| good(what)) {}
    assert_eq!(halted(&run).kind, HaltKind::Window);
    assert!(halted(&run).why.contains("(restart UMS Server"), "{}", halted(&run).why);
}

/// A server that is left broken is worse than one that is disturbed at a bad time.
#[test]
fn the_way_back_is_bound_to_nothing() {
    let mut run = sunday(&Request::sync());
    let mut broken = false;
    let mut now = at("02:00");
    loop {
        let went_on = run.turn_at(&now, &mut |what, _| match what {
            What::Restart { .. } if !broken => {
                broken = true;
                bad(Code::ServiceControl, Effect::Possible)
            }
            _ => good(what),
        });
        if !went_on {
            break;
        }
        if run.state.trouble().is_some() {
            now = at("12:00");
        }
    }
    assert!(broken && run.state.turned_back().is_some());
    assert_eq!(*run.state.standing(), Standing::Ended(Ending::RolledBack));
}

#[test]
fn what_goes_on_is_brought_to_its_end_before_it_halts() {
    let request = Request { batch: 2, ..Request::sync() };
    let mut run = sunday(&request);
    // ums4 may be disturbed on Mondays only.
    let mut plan = run.state.plan().clone();
    plan.hours.get_mut(&name("ums4")).unwrap().windows = vec!["Mon 02:00-04:00".parse().unwrap()];
    run = Drive::of(plan);
    drive(&mut run, "02:00", &mut |what, _| good(what));
    assert_eq!(restored(&run), ["ums2", "ums3"]);
    assert!(run.state.proof(&name("ums3")).is_some(), "begun, and so brought to its end");
    assert!(halted(&run).why.starts_with("ums4"), "{}", halted(&run).why);
}

#[test]
fn what_was_begun_is_taken_up_whatever_the_time() {
    let mut run = sunday(&Request::sync());
    let restarting = |run: &Drive| {
        run.running
            .keys()
            .any(|no| matches!(run.state.step(*no), Some(Step { what: What::Restart { .. }, .. })))
    };
    while !restarting(&run) {
        assert!(run.turn_at(&at("02:00"), &mut |what, _| good(what)));
    }
    // The coordinator dies, and comes back at noon.
    run.lease();
    assert_eq!(waits_at(&run.state, &at("12:00")), None);
    drive(&mut run, "12:00", &mut |what, _| good(what));
    assert!(run.state.proof(&name("ums2")).is_some());
    assert_eq!(restored(&run), ["ums2"]);
    assert_eq!(halted(&run).kind, HaltKind::Window);
}

#[test]
fn windows_are_ignored_for_one_session_and_on_record() {
    let mut run = sunday(&Request::sync());
    drive(&mut run, "12:00", &mut |what, _| good(what));
    run.lease();
    run.record(Event::WindowsIgnored { by: "anna".into() });
    assert_eq!(waits_at(&run.state, &at("12:00")), None);
    let mut failed = false;
    drive(&mut run, "12:00", &mut |what, _| match what {
        What::Restore { server } if *server == name("ums3") && !failed => {
            failed = true;
            bad(Code::DiskFull, Effect::None)
        }
        _ => good(what),
    });
    assert_eq!((restored(&run), halted(&run).kind), (vec!["ums2".to_owned()], HaltKind::Failed));
    // Who takes it up next says so himself, or waits.
    run.lease();
    drive(&mut run, "12:00", &mut |what, _| good(what));
    assert_eq!(halted(&run).kind, HaltKind::Window);
    assert_eq!(State::replay(run.events.iter()).expect("legal"), run.state);
    // And only somebody who holds the servers says so.
    assert!(run.state.clone().apply(&Event::WindowsIgnored { by: "bert".into() }).is_err());
}
