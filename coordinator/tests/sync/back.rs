//! What fails, and the way back.

use crate::place::{CLUSTER, Place};

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

#[test]
fn a_canary_that_fails_is_put_back_and_the_others_are_not_touched() {
    let place = Place::broken(&["ums2", "ums3"]);
    let (own, starts) = (place.fingerprint("ums3"), place.starts());
    // The canary's UMS goes back to its old UMS ID when it starts.
    place.lab.set("ums3", "start", "old-id").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the way back", |event| event["event"] == "turned-back");
    place.lab.set("ums3", "start", "normal").unwrap();
    let report = umsid.ends(1);
    assert_eq!(report["outcome"], "rolled-back", "{report:#}");
    assert_eq!(report["servers"]["ums3"]["put_back"], true);
    assert_eq!(report["servers"]["ums2"]["proof"], "it was not touched");
    assert_eq!(report["failures"][0]["code"], "wrong-identity", "{report:#}");

    let truth = place.lab.truth().unwrap();
    let canary = truth.server("ums3").unwrap();
    assert_eq!((&canary.fingerprint, canary.running_fingerprint.as_ref()), (&own, Some(&own)));
    assert_eq!(place.calls("ums2", "licensing restore") + place.calls("ums1", "licensing restore"), 0);
    assert_eq!(place.starts()[..2], starts[..2]);
    assert_eq!(place.states()["ums3"], "not-in-sync");
    place.never_created();
}

#[test]
fn a_way_back_that_fails_needs_an_operator_and_can_be_resumed() {
    let place = Place::broken(&["ums2", "ums3"]);
    let own = place.fingerprint("ums3");
    place.lab.set("ums3", "restore_gives", "other").unwrap();
    let stuck = place.umsid(&SYNC).exits(8);
    for part in ["went back: ums3: step", "in its agent's vault", "umsid resume"] {
        assert!(stuck.err.contains(part), "{part:?} is not in:\n{}", stuck.err);
    }
    assert_ne!(place.fingerprint("ums3"), own);
    place.lab.set("ums3", "restore_gives", "file").unwrap();
    place.umsid(&["resume"]).exits(1).shows("rolled back");
    assert_eq!(place.fingerprint("ums3"), own);
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
}

#[test]
fn a_later_failure_halts_and_can_be_resumed() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums2", "fails", "restore").unwrap();
    let halted = place.umsid(&SYNC).exits(1);
    for part in
        ["ums2: step", "`", "licensing restore", "ended with status 1", "umsid resume", "umsid rollback"]
    {
        assert!(halted.err.contains(part), "{part:?} is not in:\n{}", halted.err);
    }
    place.umsid(&["runs"]).exits(0).shows("halted");
    let shown = place.umsid(&["runs", "show", "2"]).exits(0).shows("ended with status 1");
    assert!(shown.out.contains("went back") || shown.out.contains("halted: ums2: step"), "{}", shown.out);
    place.lab.set("ums2", "fails", "").unwrap();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    assert_eq!(place.calls("ums3", "licensing restore"), 1);
}

#[test]
fn a_halted_run_is_rolled_back() {
    let place = Place::broken(&["ums2", "ums3"]);
    let own = [place.fingerprint("ums2"), place.fingerprint("ums3")];
    place.lab.set("ums2", "fails_after_effect", "restore").unwrap();
    place.lab.set("ums2", "start", "old-id").unwrap();
    let report = place.umsid(&[&SYNC[..], &["-o", "json"]].concat());
    assert_eq!(report.exit, Some(1), "{report:?}");
    let report = report.report();
    let run = report["run"].as_str().unwrap();
    assert_eq!(report["outcome"], "halted", "{report:#}");
    assert_eq!(place.states()["ums3"], "in-sync", "the canary was done");
    place.lab.set("ums2", "fails_after_effect", "").unwrap();
    place.lab.set("ums2", "start", "normal").unwrap();

    place.umsid(&["rollback", run, "ums1", "--yes"]).exits(2).says("restored nothing on ums1");
    place.umsid(&["rollback", run]).exits(2).says("Put ums3, ums2 back").says("--yes");
    let back = place.umsid(&["rollback", run, "--yes", "-o", "json"]).exits(0).report();
    assert_eq!(back["outcome"], "rolled-back", "{back:#}");
    let truth = place.lab.truth().unwrap();
    for (server, own) in ["ums2", "ums3"].into_iter().zip(&own) {
        let server = truth.server(server).unwrap();
        assert_eq!((&server.fingerprint, server.running_fingerprint.as_ref()), (own, Some(own)));
    }
    place.umsid(&["rollback", run, "--yes"]).exits(2).says("is over");
    place.umsid(&["status"]).exits(3);
    place.never_created();
}

/// Where a restore stops the UMS Server, no restart follows a rehearsal that would start it.
#[test]
fn a_rehearsal_leaves_the_server_running_whatever_comes_after_it() {
    for restore in ["stops-server", "needs-stopped"] {
        let place = Place::broken(&["ums2", "ums3"]);
        let (own, starts) = (place.fingerprint("ums3"), place.starts());
        place.lab.set("ums3", "restore", restore).unwrap();
        place.lab.set("ums1", "fails", "backup").unwrap();
        let halted = place.umsid(&[&SYNC[..], &["--rehearse", "-o", "json"]].concat()).exits(1).report();
        assert_eq!(halted["outcome"], "halted", "{halted:#}");
        runs_as_before(&place, &own);
        place
            .umsid(&["rollback", halted["run"].as_str().unwrap(), "--yes"])
            .exits(0)
            .says("restored nothing");
        runs_as_before(&place, &own);
        assert_eq!(place.starts(), [starts[0], starts[1], starts[2] + 1], "{restore}");
    }
}

/// Nor does one follow where none is wanted.
#[test]
fn who_restarts_nothing_leaves_no_server_stopped() {
    for restore in ["stops-server", "needs-stopped"] {
        let place = Place::broken(&["ums2", "ums3"]);
        let (main, starts) = (place.fingerprint("ums1"), place.starts());
        place.lab.set("ums3", "restore", restore).unwrap();
        place.umsid(&[&SYNC[..], &["--restart", "none"]].concat()).exits(3);
        runs_as_before(&place, &main);
        assert_eq!(place.starts(), [starts[0], starts[1], starts[2] + 1], "{restore}");
    }
}

/// Whoever repeats the rehearsal finds the UMS Server stopped already.
#[test]
fn a_rehearsal_whose_agent_dies_leaves_the_server_running() {
    let place = Place::broken(&["ums2", "ums3"]);
    let own = place.fingerprint("ums3");
    place.lab.set_many(&["ums3"], &[("restore", "needs-stopped"), ("stop_ms", "500")]).unwrap();
    place.lab.set("ums1", "fails", "backup").unwrap();
    let mut umsid = place.watch(&[&SYNC[..], &["--rehearse"]].concat());
    umsid.until("the stop of ums3", |event| {
        event["server"] == "ums3" && event["what"].as_str().is_some_and(|what| what.starts_with("stopping"))
    });
    place.kill_agent("ums3");
    place.start_agent("ums3");
    let halted = umsid.ends(1);
    assert_eq!(halted["outcome"], "halted", "{halted:#}");
    assert!(halted["failures"][0].to_string().contains("licensing backup"), "{halted:#}");
    runs_as_before(&place, &own);
}

#[track_caller]
fn runs_as_before(place: &Place, own: &String) {
    let truth = place.lab.truth().unwrap();
    let server = truth.server("ums3").unwrap();
    assert_eq!((&server.fingerprint, server.running_fingerprint.as_ref()), (own, Some(own)));
}
