use std::collections::BTreeMap;

use super::*;
use crate::inventory::Site;
use crate::plan::{Plan, Request, RestartScope, make};
use crate::survey::stage::{Stage, labelled, name};
use crate::survey::{Named, assess};

fn at(text: &str) -> Zoned {
    format!("{text}[Europe/Berlin]").parse().unwrap()
}

fn hours(windows: &[&str]) -> Hours {
    let windows = windows.iter().map(|window| window.parse().unwrap()).collect();
    Hours { windows, restore_s: 60, restart_s: 600 }
}

fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

fn opens(hours: &Hours, now: &str, takes: i64) -> String {
    match hours.opening(&at(now), minutes(takes)) {
        Opening::Now => "now".to_owned(),
        Opening::At(opens) => opens.strftime("%Y-%m-%d %H:%M").to_string(),
        Opening::Never => "never".to_owned(),
    }
}

#[test]
fn what_cannot_end_in_time_is_begun_when_it_can() {
    let sunday = hours(&["Sun 02:00-04:00"]);
    // 2026-11-29 is a Sunday.
    assert_eq!(opens(&sunday, "2026-11-27T12:00", 10), "2026-11-29 02:00");
    assert_eq!(opens(&sunday, "2026-11-29T02:00", 120), "now");
    assert_eq!(opens(&sunday, "2026-11-29T03:50", 10), "now");
    assert_eq!(opens(&sunday, "2026-11-29T03:50:01", 10), "2026-12-06 02:00");
    assert_eq!(opens(&sunday, "2026-11-29T02:00", 121), "never");
}

#[test]
fn of_several_windows_the_first_that_is_long_enough_counts() {
    let short_and_long = hours(&["daily 12:00-12:30", "Sat 22:00-03:00"]);
    assert_eq!(opens(&short_and_long, "2026-11-27T13:00", 20), "2026-11-28 12:00");
    assert_eq!(opens(&short_and_long, "2026-11-27T13:00", 40), "2026-11-28 22:00");
    // Saturday's goes on over midnight.
    assert_eq!(opens(&short_and_long, "2026-11-29T02:00", 40), "now");
    assert_eq!(opens(&short_and_long, "2026-11-29T02:30", 40), "2026-12-05 22:00");
}

#[test]
fn what_no_window_has_room_for_two_that_touch_may_have() {
    let night = hours(&["Sat 22:00-24:00", "Sun 00:00-03:00"]);
    assert_eq!(opens(&night, "2026-11-27T12:00", 300), "2026-11-28 22:00");
    assert_eq!(opens(&night, "2026-11-28T23:30", 180), "now");
    assert_eq!(opens(&night, "2026-11-28T23:30", 211), "2026-12-05 22:00");
    assert_eq!(opens(&night, "2026-11-28T23:30", 301), "never");
}

#[test]
fn on_the_days_the_clock_is_changed_a_window_is_as_long_as_it_is() {
    let early = hours(&["Sun 01:30-03:30"]);
    // On 2027-03-28 it is an hour long: the clock goes from 02:00 to 03:00.
    assert_eq!(opens(&early, "2027-03-27T12:00", 60), "2027-03-28 01:30");
    assert_eq!(opens(&early, "2027-03-27T12:00", 61), "2027-04-04 01:30");
    // One that the clock skips as a whole comes again a week later.
    assert_eq!(opens(&hours(&["Sun 02:00-03:00"]), "2027-03-27T12:00", 10), "2027-04-04 02:00");
    // 2026-10-25: what is read twice off the clock is begun at the second time.
    let late = hours(&["Sun 02:30-04:00"]);
    let Opening::At(opens) = late.opening(&at("2026-10-24T12:00"), minutes(60)) else {
        panic!("it is closed")
    };
    assert_eq!(opens.to_string(), "2026-10-25T02:30:00+01:00[Europe/Berlin]");
}

#[test]
fn a_window_is_read_off_the_clock_it_names() {
    let tokyo = hours(&["daily 02:00-04:00 Asia/Tokyo"]);
    assert_eq!(tokyo.opening(&at("2026-11-27T18:30"), minutes(30)), Opening::Now);
    assert!(matches!(tokyo.opening(&at("2026-11-27T02:30"), minutes(30)), Opening::At(_)));
}

/// ums1 Main at north, ums2 there, ums3 at south.
fn planned(north: &str, south: &str, request: &Request) -> Plan {
    let mut stage = Stage::new(
        &["ums1", "ums2", "ums3"].map(|name| (name, labelled(if name == "ums1" { "a" } else { name }, "a"))),
    );
    for (server, site) in [("ums1", "north"), ("ums2", "north"), ("ums3", "south")] {
        stage.cluster.servers.get_mut(&name(server)).unwrap().site = Some(site.parse().unwrap());
    }
    for (site, text) in [("north", north), ("south", south)] {
        let text: Site = toml::from_str(text).unwrap();
        stage.cluster.sites.insert(site.parse().unwrap(), text);
    }
    let assessment = assess(&stage.survey, &Named::default());
    let basis = Basis {
        name: &stage.survey.cluster,
        cluster: &stage.cluster,
        survey: &stage.survey,
        assessment: &assessment,
        named: &Named::default(),
        restarts: &BTreeMap::from([(name("ums2"), 120), (name("ums3"), 60)]),
        restores: &BTreeMap::from([(name("ums2"), 30)]),
    };
    make(&basis, request)
}

fn takes(plan: &Plan, server: &str) -> Vec<(String, i64)> {
    let of = |step: &&Step| step.what.server() == Some(&name(server));
    let bound = plan
        .steps
        .iter()
        .filter(of)
        .filter_map(|step| Some((step.what.title(), plan.bound(step)?.1.as_secs())));
    bound.collect()
}

#[test]
fn with_a_restore_goes_its_restart_as_long_as_they_took() {
    let plan = planned(r#"window = "Sun 02:00-04:00""#, r#"window = "Mon 02:00-04:00""#, &Request::sync());
    let [restore, restart] =
        ["restore the Main UMS ID", "restart UMS Server, wait until healthy"].map(ToOwned::to_owned);
    assert_eq!(takes(&plan, "ums2"), [(restore.clone(), 150), (restart.clone(), 120)]);
    // No restore is on record there.
    assert_eq!(takes(&plan, "ums3"), [(restore.clone(), 360), (restart.clone(), 60)]);
    // Nothing at all.
    assert_eq!(takes(&plan, "ums1"), [(restart, 900)]);
    let without = Request { restart: RestartScope::None, ..Request::sync() };
    let plan = planned(r#"window = "Sun 02:00-04:00""#, "", &without);
    assert_eq!(takes(&plan, "ums2"), [(restore, 30)]);
    // A person knows better.
    let plan = planned("window = \"Sun 02:00-04:00\"\ntakes = \"20min\"", "", &Request::sync());
    assert_eq!(takes(&plan, "ums2").iter().map(|(_, takes)| *takes).collect::<Vec<_>>(), [1200, 1200]);
    assert_eq!(takes(&plan, "ums3"), []);
}

#[test]
fn a_plan_says_when_it_can_be_begun_and_when_its_steps_come() {
    let north = "window = [\"Sun 02:00-04:00\"]\ntimezone = \"Europe/Berlin\"";
    let south = "window = [\"Mon 02:00-04:00\", \"Thu 02:00-04:00\"]\ntime_zone = \"Europe/Berlin\"";
    let plan = planned(north, south, &Request::sync());
    let closed = plan.closed(&at("2026-11-27T12:00")).expect("it is Friday");
    assert_eq!(closed.kind, RefusalKind::Window);
    assert_eq!(
        closed.what,
        "ums2: step 7 (restore the Main UMS ID) may take 2m 30s, and its window, Sun 02:00-04:00 Europe/Berlin, has room for \
         that from Sun 2026-11-29 02:00 CET on"
    );
    assert_eq!(plan.closed(&at("2026-11-29T03:00")), None);
    let begins: Vec<String> = plan
        .forecast(&at("2026-11-29T03:57"))
        .iter()
        .map(|forecast| format!("{} {}", forecast.step, moment(forecast.begins.as_ref().expect("a moment"))))
        .collect();
    assert_eq!(
        begins,
        [
            // Its restart is to follow within the window, and so it does.
            "7 Sun 2026-11-29 03:57 CET",
            "8 Sun 2026-11-29 03:57 CET",
            "10 Mon 2026-11-30 02:00 CET",
            "11 Mon 2026-11-30 02:05 CET",
            "13 Sun 2026-12-06 02:00 CET",
        ]
    );
}

#[test]
fn what_never_fits_is_told_before_anything_is_begun() {
    let plan = planned("", r#"window = "daily 12:00-12:05 UTC""#, &Request::sync());
    let closed = plan.closed(&at("2026-11-27T13:00")).expect("six minutes are needed");
    assert!(closed.what.starts_with("ums3: step 10"), "{}", closed.what);
    assert!(closed.what.contains("never fits into its window, daily 12:00-12:05 UTC"), "{}", closed.what);
    assert!(closed.remedy.contains("inventory.toml"), "{}", closed.remedy);
}

#[test]
fn windows_that_are_ignored_bind_nothing_and_are_named() {
    let request = Request { ignore_windows: true, ..Request::sync() };
    let plan = planned(r#"window = "Sun 02:00-04:00""#, "", &request);
    assert_eq!(
        (plan.closed(&at("2026-11-27T12:00")), plan.forecast(&at("2026-11-27T12:00"))),
        (None, vec![])
    );
    assert!(
        plan.notes.contains(&"windows are ignored, as was asked for: those of ums1, ums2".to_owned()),
        "{:?}",
        plan.notes
    );
    let other = planned(r#"window = "Sun 02:00-05:00""#, "", &request);
    assert_eq!(plan.differences(&other), ["servers may be disturbed at other times now"]);
}

/// Records of an umsid that knew of no windows are read, and theirs keep their digests.
#[test]
fn without_windows_a_plan_is_written_as_ever() {
    let plan = planned("max_down = 2", "order = 1", &Request::sync());
    let text = serde_json::to_string(&plan).unwrap();
    assert!(!text.contains("hours") && !text.contains("ignore_windows"), "{text}");
    let with = planned(r#"window = "Sun 02:00-04:00 Europe/Berlin""#, "", &Request::sync());
    let back: Plan = serde_json::from_str(&serde_json::to_string(&with).unwrap()).unwrap();
    assert_eq!((back.digest(), &back), (with.digest(), &with));
    assert_eq!(with.hours.len(), 2);
}
