//! Nothing goes wrong.

use umsid_lab::{Break, Event, Options};

use crate::place::{Place, Wanted};

#[test]
fn a_cluster_out_of_sync_is_brought_back() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.umsid(&["status"]).exits(3).shows("not-in-sync");
    let plan = place.umsid(&["plan", "hamburg", "--settle", "0"]).exits(0).shows("restore the Main UMS ID");
    // ums1 and ums3 stand at the same site, which comes first.
    assert!(plan.out.contains("to be synchronized: ums3 (not-in-sync, the canary), ums2"), "{}", plan.out);
    assert!(plan.out.contains("no restart on record"), "{}", plan.out);

    let sync = place.umsid(&["sync", "hamburg", "--yes", "--settle", "0"]).exits(0);
    assert!(sync.out.contains(": synchronized after"), "{}", sync.out);
    place.is_well();
    for server in ["ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore"), 1, "on {server}");
    }

    let status = place.umsid(&["status"]).exits(0);
    assert!(!status.out.contains("not-in-sync"), "{}", status.out);
    let starts = place.starts();
    place.umsid(&["sync", "--yes"]).exits(0).shows("nothing to do, all 3 servers are in sync");
    assert_eq!(place.starts(), starts, "a second sync restarts nothing");
    // What restarts took is on record now.
    place.lab.break_server("ums2").unwrap();
    place.umsid(&["plan"]).exits(0).shows("about ");
}

#[test]
fn programs_get_events_and_a_report() {
    let place = Place::broken(&["ums2"]);
    let ran = place.umsid(&["sync", "--yes", "--settle", "0", "-o", "json"]).exits(0);
    let report = ran.report();
    assert_eq!(report["outcome"], "synchronized");
    assert_eq!(report["servers"]["ums2"]["before"], "not-in-sync");
    assert_eq!(report["servers"]["ums2"]["after"], "in-sync");
    assert_eq!(report["servers"]["ums3"]["restored"], false);
    let ms = |name: &str| report[name].as_u64().unwrap();
    assert_eq!(ms("overhead_ms"), ms("elapsed_ms") - ms("ums_ms"));
    assert!(ms("ums_ms") > 0, "{report:#}");
    let run = report["run"].as_str().unwrap();
    for line in ran.out.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["run"], run, "{event}");
        assert!(event["event"].is_string(), "{event}");
    }
    assert!(!ran.out.contains("BEGIN"), "no key or certificate is told");

    let nothing = place.umsid(&["sync", "--yes", "-o", "json"]).exits(0).report();
    assert_eq!((&nothing["outcome"], &nothing["run"]), (&"nothing-to-do".into(), &serde_json::Value::Null));
}

#[test]
fn only_the_servers_that_were_named_are_touched() {
    let place = Place::broken(&["ums2", "ums3"]);
    let (starts, other) = (place.starts(), place.fingerprint("ums3"));
    let report =
        place.umsid(&["sync", "--yes", "--settle", "0", "--only", "ums2", "-o", "json"]).exits(0).report();
    assert_eq!(report["outcome"], "synchronized");
    assert_eq!(place.fingerprint("ums3"), other);
    assert_eq!(place.starts(), [starts[0], starts[1] + 1, starts[2]]);
    assert_eq!(place.states()["ums3"], "not-in-sync");
    // Nothing to do of what was asked for is not "all in sync".
    place.umsid(&["sync", "--yes", "--only", "ums2"]).exits(3).shows("but ums3 is not-in-sync");
}

#[test]
fn a_restart_may_be_enough() {
    let place = Place::new();
    place.lab.break_servers(&["ums2", "ums3"], Break::FixableByRestart).unwrap();
    let report =
        place.umsid(&["sync", "--yes", "--settle", "0", "--restart-first", "-o", "json"]).exits(0).report();
    assert_eq!(report["outcome"], "synchronized");
    assert_eq!(report["servers"]["ums2"]["restored"], false);
    place.is_well();
    for server in ["ums1", "ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore") + place.calls(server, "licensing backup"), 0);
    }
}

#[test]
fn a_rehearsal_proves_the_path_and_changes_nothing() {
    let place = Place::broken(&["ums2"]);
    let mut umsid = place.watch(&["sync", "--yes", "--settle", "0", "--rehearse"]);
    umsid.until_begun("backup", "ums1");
    let done =
        |event: &serde_json::Value| event["do"] == "restore-own" && event["result"]["result"] == "done";
    assert!(umsid.seen.iter().any(done), "{:#?}", umsid.seen);
    umsid.ends(0);
    place.is_well();
    assert_eq!(place.calls("ums2", "licensing restore"), 2);
}

#[test]
fn a_plan_in_a_file_is_carried_out() {
    let place = Place::broken(&["ums2", "ums3"]);
    let file = place.dir.path().join("friday.json");
    let file = file.to_str().unwrap();
    place.umsid(&["plan", "--only", "ums3", "--settle", "0", "--out", file]).exits(0).says("carries it out");
    // How long restarts took lately is no fact the plan rests on.
    place.umsid(&["restart", "--only", "ums3", "--yes"]).exits(0);
    place.umsid(&["sync", "--plan", file, "--yes"]).exits(0);
    assert_eq!(place.states()["ums3"], "in-sync");
    assert_eq!(place.states()["ums2"], "not-in-sync");
}

#[test]
fn restart_backup_and_the_list_of_runs() {
    let place = Place::new();
    let starts = place.starts();
    place.umsid(&["restart", "--yes"]).exits(0).shows(": done after");
    assert_eq!(place.starts(), starts.iter().map(|starts| starts + 1).collect::<Vec<_>>());
    place.umsid(&["backup", "--only", "ums2"]).exits(0);
    assert_eq!(place.calls("ums2", "licensing backup"), 1);
    assert_eq!(place.calls("ums1", "licensing backup"), 0);

    place.umsid(&["runs", "hamburg"]).exits(0).shows("restart").shows("backup");
    place.umsid(&["runs", "berlin"]).exits(2).says("there is no cluster `berlin`");
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    let newest = runs["runs"][0]["run"].as_str().unwrap();
    assert_eq!((&runs["runs"][0]["kind"], &runs["runs"][0]["detail"]), (&"backup".into(), &"done".into()));
    place
        .umsid(&["runs", "show", newest])
        .exits(0)
        .shows("safety backup of its own UMS ID")
        .shows("ended: done");
    let shown = place.umsid(&["runs", "show", newest, "-o", "json"]).exits(0).json();
    assert_eq!((&shown["outcome"], &shown["steps"][0]["status"]), (&"done".into(), &"done".into()));
    assert_eq!(shown["events"].as_array().unwrap().len(), 5);
    place.umsid(&["runs", "show", "nothing"]).exits(2).says("there is no run `nothing`");
    place.never_created();
}

/// It holds the Main UMS ID, and is not in use: that is no success.
#[test]
fn where_there_is_nothing_to_do_but_a_server_is_down_that_is_said() {
    let place = Place::new();
    let script = place.lab.server("ums2").unwrap().init_script.clone();
    assert_cmd::Command::new(script).arg("stop").assert().success();
    let starts = place.starts();
    place
        .umsid(&["sync", "--yes"])
        .exits(1)
        .says("ums2 is not healthy: its UMS Server is stopped")
        .says("umsid restart --only ums2");
    assert_eq!(place.starts(), starts);
    place.umsid(&["restart", "--only", "ums2", "--yes"]).exits(0);
    place.umsid(&["sync", "--yes"]).exits(0);
}

/// A site is not taken away by disturbing the last of it that is up, whoever took the other down.
#[test]
fn what_is_down_is_up_before_its_neighbour_is_disturbed() {
    let place =
        Place::with(Wanted { lab: Options { servers: 4, ..Options::default() }, ..Wanted::default() });
    place.lab.break_servers(&["ums2", "ums4"], Break::Lasting).unwrap();
    let script = place.lab.server("ums2").unwrap().init_script.clone();
    assert_cmd::Command::new(script).arg("stop").assert().success();
    let starts = place.starts();
    let down = "ums2 is not healthy, at the site of ums4 (site2): its UMS Server is stopped";
    place.umsid(&["restart", "--only", "ums4", "--yes"]).exits(1).says(down);
    place.umsid(&["sync", "--only", "ums4", "--restart", "restored", "--yes"]).exits(1).says(down);
    assert_eq!(place.starts(), starts);
    place.umsid(&["sync", "--yes", "--settle", "0"]).exits(0).shows("synchronized");
    let last = |server: &str, event: Event| {
        let history = place.lab.lifecycle(server).unwrap();
        history.into_iter().rfind(|line| line.event == event).unwrap().time
    };
    assert!(last("ums2", Event::Listening) < last("ums4", Event::Stopped));
}
