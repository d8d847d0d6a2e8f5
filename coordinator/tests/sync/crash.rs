//! Whatever dies on the way, the run goes on and ends synchronized, and nothing is done twice.

use crate::place::{CLUSTER, Place, SOON};

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// Kills `umsid` while the agent of this server is in the middle of this, and resumes.
fn killed_while(doing: &str, server: &str) {
    let place = Place::broken(&["ums2", "ums3"]);
    let slow = [("backup_delay_ms", "500"), ("restore_delay_ms", "500"), ("stop_ms", "500")];
    place.lab.set_many(&["ums2", "ums3"], &slow).unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until(doing, |event| {
        event["server"] == server && event["what"].as_str().is_some_and(|what| what.starts_with(doing))
    });
    let run = umsid.seen[0]["run"].as_str().unwrap().to_owned();
    umsid.kill();

    // The agents may still hold the dead run's lease: nobody begins anew over it.
    place
        .umsid(&SYNC)
        .exits(8)
        .says("its umsid was stopped in the middle")
        .says(&format!("umsid resume {run}"));
    place.umsid(&["runs"]).exits(0).shows("going on, or its umsid died");
    place.umsid(&["status"]).exits(3).says("was begun and never ended").says(&format!("umsid resume {run}"));
    place.umsid(&["check"]).exits(2).shows(&format!("run {run} was begun and never ended"));

    let report = place.umsid(&["resume", "-o", "json"]).exits(0).report();
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    assert_eq!(report["run"], run.as_str());
    place.is_well();
    for server in ["ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore"), 1, "restored once on {server}");
        assert_eq!(place.calls(server, "licensing backup"), 1, "backed up once on {server}");
        assert_eq!(place.calls(server, "igelRMserver restart"), 1, "restarted once: {server}");
    }
    place.umsid(&["status"]).exits(0);
    place.umsid(&["resume", &run]).exits(2).says("is over");
}

#[test]
fn umsid_killed_while_safety_backups_are_taken() {
    killed_while("backing up the UMS ID", "ums2");
}

#[test]
fn umsid_killed_while_the_canary_is_restored() {
    killed_while("restoring the UMS ID", "ums3");
}

#[test]
fn umsid_killed_while_the_last_target_is_restarted() {
    killed_while("restarting", "ums2");
}

#[test]
fn an_agent_that_dies_while_it_is_asked_how_things_stand_is_asked_again() {
    let place = Place::new();
    place.kill_agent("ums2");
    place.start_agent_with("ums2", &[("UMSID_FAULT", "abort@inspected")]);
    let mut status = place.begin(&[], &["status"]);
    umsid_testkit::wait_for_blocking("the agent to die", SOON, || place.agent_died("ums2").then_some(()));
    place.start_agent("ums2");
    umsid_testkit::wait_for_blocking("status to end", SOON, || status.ended());
    status.said().exits(0);
}

#[test]
fn an_agent_killed_during_a_restore_and_started_again() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums3", "restore_delay_ms", "1500").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the restore on ums3", |event| {
        event["what"] == "restoring the UMS ID" && event["server"] == "ums3"
    });
    place.kill_agent("ums3");
    umsid.until("umsid to notice", |event| {
        event["what"].as_str().is_some_and(|what| what.starts_with("waiting for the agent on ums3"))
    });
    place.start_agent("ums3");
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    place.is_well();
}

/// The agent that comes back has asked `umsadmin-cli` nothing yet, and waits for the UMS Server where it is all the same.
#[test]
fn an_agent_killed_during_the_restart_of_a_ums_server_on_a_port_it_had_to_find_out() {
    let place = Place::broken(&["ums2", "ums3"]);
    let not_told = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with("health_url"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    place.reconfigure("ums3", not_told);
    place.lab.set("ums3", "stop_ms", "500").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the restart on ums3", |event| {
        event["server"] == "ums3" && event["what"].as_str().is_some_and(|what| what.starts_with("restarting"))
    });
    place.kill_agent("ums3");
    place.start_agent("ums3");
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    place.is_well();
    assert_eq!(place.calls("ums3", "igelRMserver restart"), 1, "it had been restarted");
}

#[cfg(unix)]
#[test]
fn interrupted_it_stops_after_what_is_going_on_and_can_be_resumed() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums3", "restore_delay_ms", "1000").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the restore on ums3", |event| {
        event["what"] == "restoring the UMS ID" && event["server"] == "ums3"
    });
    umsid.interrupt();
    let halted = umsid.until("the halt", |event| event["event"] == "halted");
    assert_eq!(halted["kind"], "interrupted");
    let begun = |event: &&serde_json::Value| event["event"] == "started" && event["do"] == "restart";
    assert_eq!(umsid.seen.iter().filter(begun).count(), 0, "nothing new is begun");
    let said = umsid.said();
    assert!(said.contains("stopping after what is going on: ums3: restoring the UMS ID"), "{said}");
    let report = umsid.ends(130);
    let run = report["run"].as_str().unwrap();
    assert_eq!(report["outcome"], "halted");
    assert_eq!(report["next"][0]["command"], format!("umsid resume {run}"));

    place.umsid(&["resume", run]).exits(0).shows("synchronized");
    place.is_well();
    assert_eq!(place.calls("ums3", "licensing restore"), 1);
}

#[cfg(unix)]
#[test]
fn interrupted_twice_it_leaves_at_once_and_can_be_resumed() {
    let place = Place::broken(&["ums2"]);
    place.lab.set("ums2", "restore_delay_ms", "3000").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the restore on ums2", |event| event["what"] == "restoring the UMS ID");
    umsid.interrupt();
    umsid_testkit::wait_for_blocking("the first to be noticed", crate::place::SOON, || {
        umsid.said().contains("Ctrl-C again leaves at once").then_some(())
    });
    umsid.interrupt();
    assert_eq!(umsid.ended().code(), Some(130));
    let said = umsid.said();
    assert!(said.contains("left at once") && said.contains("umsid resume"), "{said}");
    place.umsid(&["resume"]).exits(0);
    place.is_well();
    assert_eq!(place.calls("ums2", "licensing restore"), 1);
}
