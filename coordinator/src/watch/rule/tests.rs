use std::time::Duration;

use super::*;
use crate::condition::{Finding, Level, Limits, judge};
use crate::survey::stage::{Stage, labelled, name};
use crate::survey::{Named, assess};

/// A Sunday, 02:30 in Berlin.
const NOW: &str = "2026-11-29T02:30[Europe/Berlin]";

fn rule() -> Rule {
    Rule {
        window: "Sun 02:00-04:00".parse().unwrap(),
        time_zone: None,
        takes: Duration::from_secs(3600),
        after: 3,
        batch: 1,
        settle: Duration::from_secs(45),
    }
}

/// Of three servers the last is out of sync; what may speak against it is put in between.
fn decide(
    rule: &Rule,
    seen: u32,
    now: &str,
    change: impl FnOnce(&mut Stage, &mut Remembered),
) -> Result<(), NotNow> {
    decide_named(rule, seen, now, &Named::default(), change)
}

fn decide_named(
    rule: &Rule,
    seen: u32,
    now: &str,
    named: &Named,
    change: impl FnOnce(&mut Stage, &mut Remembered),
) -> Result<(), NotNow> {
    let mut stage = Stage::new(&[
        ("ums1", labelled("m", "m")),
        ("ums2", labelled("m", "m")),
        ("ums3", labelled("x", "m")),
    ]);
    let mut remembered = Remembered::default();
    change(&mut stage, &mut remembered);
    let assessment = assess(&stage.survey, named);
    let condition = judge(&stage.survey, &assessment, &Limits::default());
    (0..seen).for_each(|_| {
        remembered.take_in(&condition, 2);
    });
    may_begin(rule, &remembered, &condition, &assessment, &now.parse().unwrap())
}

#[test]
fn it_may_where_nothing_speaks_against_it() {
    assert_eq!(decide(&rule(), 3, NOW, |_, _| {}), Ok(()));
}

#[test]
fn it_may_not_without_need_or_too_soon() {
    let in_sync = |stage: &mut Stage, _: &mut Remembered| {
        stage.inspection("ums3").ums_ids = labelled("m", "m");
    };
    assert_eq!(decide(&rule(), 3, NOW, in_sync), Err(NotNow::Nothing));
    assert_eq!(decide(&rule(), 2, NOW, |_, _| {}), Err(NotNow::TooFresh { seen: 2, after: 3 }));
}

#[test]
fn it_may_not_outside_the_window_nor_where_it_would_outlast_it() {
    let decide = |now| decide(&rule(), 3, now, |_, _| {});
    let opens = "2026-11-29T02:00[Europe/Berlin]".parse().unwrap();
    assert_eq!(decide("2026-11-29T01:59[Europe/Berlin]"), Err(NotNow::Closed(opens)));
    assert_eq!(decide("2026-11-29T03:00[Europe/Berlin]"), Ok(()));
    let left = SignedDuration::from_mins(59);
    assert_eq!(
        decide("2026-11-29T03:01[Europe/Berlin]"),
        Err(NotNow::NoRoom { left, takes: SignedDuration::from_hours(1) })
    );
}

#[test]
fn it_may_once_in_a_window() {
    let tried = |moment: &'static str| {
        move |_: &mut Stage, remembered: &mut Remembered| {
            remembered.tried = Some(moment.parse::<Zoned>().unwrap().timestamp());
        }
    };
    let decide = |moment| decide(&rule(), 3, NOW, tried(moment));
    assert_eq!(decide("2026-11-29T02:10[Europe/Berlin]"), Err(NotNow::Tried));
    assert_eq!(decide("2026-11-29T02:00[Europe/Berlin]"), Err(NotNow::Tried));
    assert_eq!(decide("2026-11-22T02:10[Europe/Berlin]"), Ok(()));
}

#[test]
fn it_may_not_where_anything_is_not_known() {
    let silent = |stage: &mut Stage, _: &mut Remembered| stage.silence("ums2");
    assert_eq!(decide(&rule(), 3, NOW, silent), Err(NotNow::NotKnown("ums2".into())));
    let mute = |stage: &mut Stage, _: &mut Remembered| stage.inspection("ums2").ums_ids = Default::default();
    assert_eq!(decide(&rule(), 3, NOW, mute), Err(NotNow::NotKnown("ums2".into())));
}

#[test]
fn it_may_not_where_a_person_has_to_name_main() {
    // Named by the inventory, and by no label: what the others show may be compared, and is not settled.
    let unlabelled = |stage: &mut Stage, _: &mut Remembered| {
        stage.inspection("ums1").ums_ids = crate::survey::stage::unlabelled(&["m"]);
    };
    let named = Named { server: Some(name("ums1")), ..Named::default() };
    assert_eq!(decide_named(&rule(), 3, NOW, &named, unlabelled), Err(NotNow::Main));
}

#[test]
fn it_may_not_while_a_run_is_unfinished_or_a_server_is_locked() {
    let locked = |stage: &mut Stage, _: &mut Remembered| {
        let clock = stage.inspection("ums1").clock;
        stage.inspection("ums1").lease = Some(umsid_proto::model::LeaseState {
            run: "20261122t100000-aaaaaa".parse().unwrap(),
            epoch: 1,
            holder: "coordinator anna".into(),
            since: clock,
            until: clock + SignedDuration::from_secs(1),
        });
    };
    assert!(matches!(decide(&rule(), 3, NOW, locked), Err(NotNow::Unfinished(_))));

    for kind in [Kind::Run, Kind::Journal] {
        let stage = Stage::new(&[("ums1", labelled("m", "m")), ("ums2", labelled("x", "m"))]);
        let assessment = assess(&stage.survey, &Named::default());
        let mut condition = judge(&stage.survey, &assessment, &Limits::default());
        condition.add([Finding::new(Level::Warning, kind, "it stands still")]);
        let mut remembered = Remembered::default();
        (0..3).for_each(|_| {
            remembered.take_in(&condition, 2);
        });
        let decided = may_begin(&rule(), &remembered, &condition, &assessment, &NOW.parse().unwrap());
        assert_eq!(decided, Err(NotNow::Unfinished("it stands still".into())));
    }
}
