//! Canaries that go wrong after the restore: put back as they were, the others untouched.

use serde_json::Value;
use umsid_lab::Truth;

use crate::SYNC;
use crate::place::{Place, Watched};

/// The canary runs with its own UMS ID again, and of the others not even a process has changed.
#[track_caller]
fn only_the_canary_was_touched_and_put_back(place: &Place, before: &Truth, report: &Value) {
    assert_eq!(report["outcome"], "rolled-back", "{report:#}");
    assert_eq!(report["servers"]["ums3"]["put_back"], true, "{report:#}");
    let after = place.lab.truth().unwrap();
    let (was, is) = (before.server("ums3").unwrap(), after.server("ums3").unwrap());
    assert_eq!((&is.fingerprint, &is.running_fingerprint), (&was.fingerprint, &was.running_fingerprint));
    assert!(is.pid.is_some());
    assert_eq!(after.servers[..2], before.servers[..2], "others were touched");
    for server in ["ums1", "ums2"] {
        assert_eq!(place.calls(server, "licensing restore"), 0, "on {server}");
    }
    place.never_created();
    assert_eq!(place.states()["ums3"], "not-in-sync");
}

fn until_the_way_back(umsid: &mut Watched) {
    umsid.until("the way back", |event| event["event"] == "turned-back");
}

#[test]
fn a_restore_that_gives_another_ums_id_than_mains_is_put_back() {
    for (gives, delay) in [("other", "200"), ("wrong-cluster", "200")] {
        let place = Place::broken(&["ums2", "ums3"]);
        let before = place.lab.truth().unwrap();
        // Slow enough that the way back, which looks before it restores, finds the UMS mended.
        place.lab.set_many(&["ums3"], &[("restore_gives", gives), ("delay_ms", delay)]).unwrap();
        let mut umsid = place.watch(&SYNC);
        until_the_way_back(&mut umsid);
        place.lab.set("ums3", "restore_gives", "file").unwrap();
        let report = umsid.ends(1);
        assert_eq!(report["failures"][0]["code"], "wrong-identity", "{report:#}");
        assert_eq!(
            report["failures"][0]["what"], "restore the Main UMS ID",
            "before any restart: {report:#}"
        );
        only_the_canary_was_touched_and_put_back(&place, &before, &report);
    }
}

#[test]
fn a_server_that_does_not_come_back_is_put_back() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.reconfigure("ums3", |text| text.replace("deadline = \"20s\"", "deadline = \"1500ms\""));
    let before = place.lab.truth().unwrap();
    place.lab.set("ums3", "start", "never").unwrap();
    let mut umsid = place.watch(&SYNC);
    until_the_way_back(&mut umsid);
    place.lab.set("ums3", "start", "normal").unwrap();
    let report = umsid.ends(1);
    assert_eq!(report["failures"][0]["code"], "not-healthy", "{report:#}");
    only_the_canary_was_touched_and_put_back(&place, &before, &report);
}
