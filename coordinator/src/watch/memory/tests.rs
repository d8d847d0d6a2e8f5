use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::condition::{Limits, judge};
use crate::survey::stage::{Stage, labelled};
use crate::survey::{Named, assess};

/// Two servers; of the second: its UMS ID, or that it does not answer.
fn survey(second: Option<&str>) -> Condition {
    let mut stage =
        Stage::new(&[("ums1", labelled("m", "m")), ("ums2", labelled(second.unwrap_or("m"), "m"))]);
    for server in ["ums1", "ums2"] {
        stage.inspection(server).certificate_not_after =
            Timestamp::UNIX_EPOCH + SignedDuration::from_hours(365 * 24);
    }
    if second.is_none() {
        stage.silence("ums2");
    }
    judge(&stage.survey, &assess(&stage.survey, &Named::default()), &Limits::default())
}

const IN_SYNC: Option<&str> = Some("m");
const OUT: Option<&str> = Some("x");
const SILENT: Option<&str> = None;

/// What is told after each survey: before, now, news, over.
fn told(surveys: &[Option<&str>], confirm: u32) -> Vec<Option<(Level, Level, String, String)>> {
    let mut memory = Remembered::default();
    let tell = |survey: &Condition| {
        let change = memory.take_in(survey, confirm)?;
        Some((change.before, change.now, change.news.join(", "), change.over.join(", ")))
    };
    surveys.iter().map(|second| survey(*second)).collect::<Vec<_>>().iter().map(tell).collect()
}

fn begins(what: &str) -> Option<(Level, Level, String, String)> {
    Some((Level::Ok, Level::Critical, what.to_owned(), String::new()))
}

fn ends(what: &str) -> Option<(Level, Level, String, String)> {
    Some((Level::Critical, Level::Ok, String::new(), what.to_owned()))
}

#[test]
fn what_is_bad_is_told_once_when_it_was_seen_in_a_row_and_its_end_at_once() {
    let told = told(&[IN_SYNC, OUT, OUT, OUT, IN_SYNC, IN_SYNC], 2);
    assert_eq!(told, [None, None, begins("ums2 not in sync"), None, ends("ums2 not in sync"), None]);
}

#[test]
fn what_flaps_is_not_told() {
    let surveys = [OUT, IN_SYNC].repeat(10);
    assert!(told(&surveys, 2).iter().all(Option::is_none));
    assert!(told(&surveys, 1).iter().all(Option::is_some));
}

#[test]
fn silence_is_no_recovery() {
    let told = told(&[OUT, OUT, SILENT, OUT, SILENT, SILENT, IN_SYNC], 2);
    let silent = Some((Level::Critical, Level::Critical, "ums2 did not answer".into(), String::new()));
    let both = ends("ums2 did not answer, ums2 not in sync");
    assert_eq!(told, [None, begins("ums2 not in sync"), None, None, None, silent, both]);
}

#[test]
fn what_was_seen_before_a_silence_and_after_it_was_not_seen_in_a_row() {
    let told = told(&[OUT, SILENT, OUT, IN_SYNC], 2);
    assert!(told.iter().all(Option::is_none), "{told:?}");
}

#[test]
fn a_look_that_came_to_nothing_ends_nothing() {
    let mut memory = Remembered::default();
    memory.take_in(&survey(OUT), 1).unwrap();
    let mut blind = survey(OUT);
    blind.servers.clear();
    blind.findings = vec![Finding::new(Level::Unknown, Kind::NotKnown, "nobody could be asked")];
    let change = memory.take_in(&blind, 1).unwrap();
    assert_eq!((change.now, change.over.len()), (Level::Critical, 0));
}

#[test]
fn a_server_that_was_removed_is_over() {
    let mut memory = Remembered::default();
    memory.take_in(&survey(OUT), 1).unwrap();
    let mut without = survey(IN_SYNC);
    without.servers.remove(&"ums2".parse().unwrap());
    assert_eq!(memory.take_in(&without, 1).unwrap().over, ["ums2 not in sync"]);
}

#[test]
fn another_gravity_is_told_when_it_was_seen_in_a_row() {
    let mut memory = Remembered::default();
    let with = |level| {
        let mut condition = survey(IN_SYNC);
        condition.add([Finding::new(level, Kind::OwnCertificate, "our own certificate ends")]);
        condition
    };
    let mut now = |level| memory.take_in(&with(level), 2).map(|change| (change.before, change.now));
    assert_eq!(now(Level::Warning), None);
    assert_eq!(now(Level::Warning), Some((Level::Ok, Level::Warning)));
    assert_eq!(now(Level::Critical), None);
    assert_eq!(now(Level::Warning), None);
    assert_eq!(now(Level::Critical), None);
    assert_eq!(now(Level::Critical), Some((Level::Warning, Level::Critical)));
}

#[test]
fn it_outlives_a_restart() {
    let mut memory = Remembered::default();
    memory.take_in(&survey(OUT), 2);
    let text = serde_json::to_string(&memory).unwrap();
    let mut again: Remembered = serde_json::from_str(&text).unwrap();
    assert_eq!(again, memory);
    assert!(again.take_in(&survey(OUT), 2).is_some());
    assert_eq!(again.out_of_sync_for(), 2);
}

proptest! {
    /// Whatever happens: nobody is told the same twice, and what is told last is what is remembered.
    #[test]
    fn every_change_begins_where_the_last_one_ended(
        surveys in prop::collection::vec(prop::sample::select(vec![IN_SYNC, OUT, SILENT]), 0..40),
        confirm in 1_u32..4,
    ) {
        let mut level = Level::Ok;
        for (before, now, news, over) in told(&surveys, confirm).into_iter().flatten() {
            prop_assert_eq!(before, level);
            prop_assert!(!news.is_empty() || !over.is_empty());
            level = now;
        }
        let last: Vec<_> = surveys.iter().rev().take(confirm as usize).collect();
        if last.len() == confirm as usize && last.iter().all(|survey| **survey == OUT) {
            prop_assert_eq!(level, Level::Critical);
        }
        if surveys.last() == Some(&IN_SYNC) {
            prop_assert_eq!(level, Level::Ok);
        }
    }
}
