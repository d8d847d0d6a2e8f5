//! What happens while a run stands still, or cannot see.

use crate::place::{CLUSTER, Place};
use crate::refusals::copy;

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// A run that halted before the second restore, with the trouble gone.
fn halted() -> Place {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums2", "fails", "restore").unwrap();
    place.umsid(&SYNC).exits(1);
    place.lab.set("ums2", "fails", "").unwrap();
    place
}

#[test]
fn when_main_has_moved_meanwhile_nothing_is_restored_any_more() {
    let place = halted();
    place.lab.make_main("ums2").unwrap();
    let (main, starts) = (place.fingerprint("ums2"), place.starts());
    place.umsid(&["resume"]).exits(1).says("Main is not ums1 any more");
    assert_eq!(place.fingerprint("ums2"), main, "the new Main server keeps its UMS ID");
    assert_eq!(place.starts(), starts);
    // A new run goes from where the servers stand.
    place.umsid(&SYNC).exits(0);
    place.is_well();
    assert_eq!(place.fingerprint("ums1"), main);
}

#[test]
fn a_run_that_another_has_overtaken_is_neither_resumed_nor_rolled_back() {
    let place = halted();
    let run =
        place.umsid(&["runs", "-o", "json"]).exits(0).json()["runs"][0]["run"].as_str().unwrap().to_owned();
    place.umsid(&SYNC).exits(0);
    let (truth, starts) = (place.fingerprint("ums3"), place.starts());
    for verb in ["resume", "rollback"] {
        let arguments: &[&str] = if verb == "resume" { &[verb, &run] } else { &[verb, &run, "--yes"] };
        place.umsid(arguments).exits(1).says("came after");
    }
    assert_eq!((place.fingerprint("ums3"), place.starts()), (truth, starts));
}

#[test]
fn so_is_one_overtaken_from_another_machine_by_what_the_agents_remember() {
    let place = halted();
    let twin = place.dir.path().join("twin");
    copy(&place.state(), &twin);
    place.umsid_of(&twin, &["rollback", "2", "--yes"]).exits(0);
    place.umsid_of(&twin, &SYNC).exits(0);
    let (truth, starts) = (place.fingerprint("ums3"), place.starts());
    place.umsid(&["resume"]).exits(8).says("has been at work on");
    place.umsid(&["rollback", "2", "--yes"]).exits(8).says("has been at work on");
    assert_eq!((place.fingerprint("ums3"), place.starts()), (truth, starts));
}

#[test]
fn what_was_restored_and_not_restarted_is_not_in_sync() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums2", "restore_delay_ms", "700").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until_begun("restore", "ums2");
    umsid.interrupt();
    umsid.ends(130);
    assert_eq!(place.calls("ums2", "licensing restore"), 1);
    place.umsid(&["status"]).exits(3);
    assert_eq!(place.states()["ums2"], "not-in-sync");
    place.umsid(&["resume"]).exits(0);
    place.is_well();
    assert_eq!(place.calls("ums2", "licensing restore"), 1);
}

#[test]
fn a_server_that_is_gone_does_not_stand_in_the_way_of_putting_others_back() {
    let place = Place::broken(&["ums2", "ums3"]);
    let own = place.fingerprint("ums3");
    place.lab.set("ums2", "fails", "restore").unwrap();
    place.umsid(&SYNC).exits(1);
    assert_ne!(place.fingerprint("ums3"), own);
    place.kill_agent("ums1");
    place.umsid(&["resume"]).exits(5);
    let run =
        place.umsid(&["runs", "-o", "json"]).exits(0).json()["runs"][0]["run"].as_str().unwrap().to_owned();
    place.umsid(&["rollback", &run, "--yes"]).exits(0);
    assert_eq!(place.fingerprint("ums3"), own);
}

/// Right after a restart a command may fail that works a moment later: that is no reason to put a server back.
#[test]
fn a_ums_id_that_cannot_be_read_for_a_moment_is_looked_for_again() {
    let place = Place::broken(&["ums2"]);
    let mut umsid = place.watch(&SYNC);
    umsid.until_begun("restart", "ums2");
    place.lab.set("ums2", "fails", "list,export").unwrap();
    umsid.until("another look", |event| event.to_string().contains("to show the UMS ID"));
    place.lab.set("ums2", "fails", "").unwrap();
    umsid.ends(0);
    place.is_well();
    assert_eq!(place.calls("ums2", "licensing restore"), 1);
}
