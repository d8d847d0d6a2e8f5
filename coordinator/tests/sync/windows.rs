//! Sites that may be disturbed at some hours only. The coordinator's clock on the wall is put to where a test wants it by
//! the time zone it is given: windows that name none are read off that.

use jiff::Timestamp;
use jiff::civil::Time;
use umsid_common::durable::{self, Access};
use umsid_testkit::wait_for_blocking;

use crate::place::{Begun, CLUSTER, IN_POSTGRESQL, Place, Ran, SOON};

/// ums1 and ums3 stand at site1, ums2 at site2.
const SITES: &str = "\n
[clusters.hamburg.sites.site1]
order = 1
window = \"daily 12:00-13:00\"
takes = \"10min\"

[clusters.hamburg.sites.site2]
order = 2
window = [\"daily 14:00-15:00\", \"daily 03:00-03:01\"]
takes = \"10min\"
";

const SYNC: [&str; 7] = ["sync", CLUSTER, "--yes", "--settle", "0", "--restart", "restored"];

fn place() -> Place {
    place_with(SITES)
}

fn place_with(sites: &str) -> Place {
    let place = Place::broken(&["ums2", "ums3"]);
    let path = place.state().join("inventory.toml");
    let text = std::fs::read_to_string(&path).unwrap() + sites;
    if std::env::var_os(IN_POSTGRESQL).is_none() {
        durable::replace(&path, text.as_bytes(), Access::Private).unwrap();
        return place;
    }
    // There the file is a copy of what all have.
    let edited = place.dir.path().join("edited.toml");
    durable::replace(&edited, text.as_bytes(), Access::Private).unwrap();
    let editor = format!("cp {}", edited.display());
    let mut umsid = place.begin(&[("VISUAL", ""), ("EDITOR", &editor)], &["inventory", "edit"]);
    wait_for_blocking("the end of it", SOON, || umsid.ended());
    umsid.said().exits(0);
    place
}

/// A time zone in which it is so late now, in POSIX's form, which counts westwards.
fn zone(clock: &str) -> String {
    const DAY: i64 = 24 * 3600;
    let wanted: Time = clock.parse().unwrap();
    let seconds =
        |time: Time| i64::from(time.hour()) * 3600 + i64::from(time.minute()) * 60 + i64::from(time.second());
    let now = Timestamp::now().as_second().rem_euclid(DAY);
    let east = (seconds(wanted) - now).rem_euclid(DAY);
    format!("LAB-{:02}:{:02}:{:02}", east / 3600, east / 60 % 60, east % 60)
}

fn begun(place: &Place, clock: &str, arguments: &[&str]) -> Begun {
    place.begin(&[("TZ", &zone(clock))], arguments)
}

/// What `umsid` says at that time of its day.
fn at(place: &Place, clock: &str, arguments: &[&str]) -> Ran {
    let mut umsid = begun(place, clock, arguments);
    wait_for_blocking("the end of it", SOON, || umsid.ended());
    umsid.said()
}

/// A run that has done site1 and stands still before site2.
fn halted() -> Place {
    let place = place();
    at(&place, "12:10:00", &SYNC).exits(9);
    place
}

#[test]
fn nothing_is_begun_outside_of_a_window_or_too_late_in_it() {
    let place = place();
    let (starts, run) = (place.starts(), ["plan", CLUSTER, "--restart", "restored", "--settle", "0"]);
    let plan = at(&place, "11:00:00", &run).exits(0).says("it cannot be begun now").says("12:00 LAB");
    assert!(plan.out.contains("daily 12:00-13:00: about"), "{}", plan.out);
    let plan = at(&place, "11:00:00", &[&run[..], &["-o", "json"]].concat()).exits(0).json();
    let begins = |number: usize| plan["forecast"][number]["begins"].as_str().unwrap().to_owned();
    assert!(begins(0).contains("T12:00:00") && begins(2).contains("T14:00:00"), "{plan:#}");
    assert_eq!(plan["refusals"][0]["kind"], "window");
    for clock in ["11:00:00", "12:51:00"] {
        at(&place, clock, &SYNC).exits(9).says("has room for that from").says("--ignore-windows");
        at(&place, clock, &["restart", "--only", "ums3", "--yes"]).exits(9);
    }
    assert_eq!(place.starts(), starts);
    place.umsid(&["runs"]).exits(0);
    // A backup disturbs nobody.
    at(&place, "11:00:00", &["backup", "--only", "ums3"]).exits(0);
}

#[test]
fn it_halts_before_a_site_that_is_closed_and_goes_on_when_that_opens() {
    let place = place();
    let ran = at(&place, "12:10:00", &SYNC).exits(9).says("--wait-for-window").says("14:00 LAB");
    assert!(ran.out.contains("halted after"), "{}", ran.out);
    assert_eq!(
        (place.states()["ums3"].as_str(), place.states()["ums2"].as_str()),
        ("in-sync", "not-in-sync")
    );
    let starts = place.starts();
    let events = || place.umsid(&["runs", "show", "2", "-o", "json"]).out;
    let before = events();
    // In the other window of that site, too little is left; nothing is written down either.
    for clock in ["13:30:00", "03:00:30"] {
        at(&place, clock, &["resume"]).exits(9).says("--wait-for-window waits until then").says("14:00 LAB");
    }
    assert_eq!((place.starts(), events()), (starts, before));

    let mut waiting = begun(&place, "13:59:57", &["resume", "--wait-for-window"]);
    let said = wait_for_blocking("what it waits for", SOON, || {
        Some(waiting.said().err).filter(|said| said.contains("waiting for a window since"))
    });
    assert!(said.contains("13:59 LAB until") && said.contains("14:00 LAB: ums2: step"), "{said}");
    wait_for_blocking("the end of it", SOON, || waiting.ended());
    waiting.said().exits(0);
    place.is_well();
}

#[test]
fn one_command_waits_for_every_window_on_the_way() {
    let place = place_with(&SITES.replace("14:00-15:00", "12:01-13:00").replace("10min", "1s"));
    let mut waiting = begun(&place, "12:00:40", &[&SYNC[..], &["--wait-for-window"]].concat());
    wait_for_blocking("the end of it", SOON, || waiting.ended());
    let said = waiting.said().exits(0).says("12:01 LAB: ums2: step");
    // What came of it is told once, at the end.
    assert!(
        !said.out.contains("halted after") && !said.err.contains("umsid resume"),
        "{}{}",
        said.out,
        said.err
    );
    place.is_well();
}

#[cfg(unix)]
#[test]
fn a_run_that_waits_for_a_window_on_the_way_can_be_interrupted() {
    let place = place();
    let mut waiting = begun(&place, "11:59:58", &[&SYNC[..], &["--wait-for-window"]].concat());
    wait_for_blocking("the first and the second wait", SOON, || {
        let said = waiting.said().err;
        let waits = said.lines().filter(|line| line.contains("waiting for a window since"));
        let both =
            waits.zip(["12:00 LAB: ums3", "14:00 LAB: ums2"]).filter(|(line, what)| line.contains(what));
        (both.count() == 2).then_some(())
    });
    waiting.interrupt();
    wait_for_blocking("the end of it", SOON, || waiting.ended());
    let said = waiting.said().exits(9).says("umsid resume");
    assert!(said.out.contains("halted after"), "{}", said.out);
    at(&place, "14:10:00", &["resume"]).exits(0);
    place.is_well();
}

#[test]
fn windows_can_be_ignored_and_that_is_on_record() {
    let place = halted();
    at(&place, "13:30:00", &["resume", "--ignore-windows"]).exits(0);
    place.is_well();
    let shown = place.umsid(&["runs", "show", "2"]).exits(0);
    assert!(shown.out.contains("windows ignored by"), "{}", shown.out);

    place.lab.break_server("ums2").unwrap();
    let args = [&SYNC[..], &["--ignore-windows"]].concat();
    at(&place, "13:30:00", &args).exits(0);
    place.is_well();
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    let run = runs["runs"][0]["run"].as_str().unwrap();
    let shown = place.umsid(&["runs", "show", run, "-o", "json"]).exits(0);
    assert!(shown.out.contains("\"ignore_windows\""), "{}", shown.out);
}

#[test]
fn the_way_back_waits_for_no_window() {
    let place = halted();
    let starts = place.starts();
    at(&place, "13:30:00", &["rollback", "2", "--yes"]).exits(0);
    assert_eq!(place.states()["ums3"], "not-in-sync");
    assert_eq!(place.starts()[2], starts[2] + 1);
}
