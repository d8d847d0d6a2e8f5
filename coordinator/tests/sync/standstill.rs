//! What happens while a run stands still, or cannot see.

use crate::place::{CLUSTER, Place, SOON};
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
    // Nor is either offered.
    place.umsid(&["runs"]).exits(0).shows("came after it");
    let shown = place.umsid(&["runs", "show", &run]).exits(0).shows("came after it").out;
    assert!(
        !["umsid resume", "umsid rollback", "left over"].iter().any(|what| shown.contains(what)),
        "{shown}"
    );
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

/// Its own way back must not undo what another machine has brought in order.
#[test]
fn a_way_back_that_was_overtaken_is_not_taken_up() {
    let place = halted();
    let twin = place.dir.path().join("twin");
    copy(&place.state(), &twin);
    place.lab.set("ums3", "fails", "init restart").unwrap();
    let run = place.umsid(&["rollback", "2", "--yes", "-o", "json"]).report();
    assert_eq!(run["outcome"], "stuck", "{run:#}");
    place.lab.set("ums3", "fails", "").unwrap();
    place.umsid_of(&twin, &SYNC).exits(0).says("after it that one cannot go on any more");
    let (truth, starts) = (place.fingerprint("ums3"), place.starts());
    place.umsid(&["resume"]).exits(8).says("has been at work on").says("--give-up");
    assert_eq!((place.fingerprint("ums3"), place.starts()), (truth, starts));
    place.is_well();
}

/// One server was put back by name; what another machine did then stands against putting back the others.
#[test]
fn nor_is_one_that_is_half_done() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums1", "fails", "init restart").unwrap();
    let run = place.umsid(&[&SYNC[..], &["-o", "json"]].concat()).exits(1).report();
    place.lab.set("ums1", "fails", "").unwrap();
    let run = run["run"].as_str().unwrap();
    let twin = place.dir.path().join("twin");
    copy(&place.state(), &twin);
    place.umsid(&["rollback", run, "ums2", "--yes"]).exits(0);
    place.umsid_of(&twin, &SYNC).exits(0);
    let (truth, starts) = (place.fingerprint("ums3"), place.starts());
    place.umsid(&["rollback", run, "--yes"]).exits(8).says("has been at work on ums2");
    assert_eq!((place.fingerprint("ums3"), place.starts()), (truth, starts));
    place.is_well();
}

/// A backup every night, a restart because somebody hoped that it helps: neither changes a UMS ID. It is said before what a
/// new run makes impossible, and from where it stands a new sync does the same.
#[test]
fn a_backup_or_a_restart_in_between_leaves_the_way_back_open() {
    for kind in ["backup", "restart"] {
        let place = Place::broken(&["ums2", "ums3"]);
        let own = place.fingerprint("ums3");
        place.lab.set("ums2", "fails", "restore").unwrap();
        let run = place.umsid(&[&SYNC[..], &["-o", "json"]].concat()).exits(1).report();
        let run = run["run"].as_str().unwrap();
        place.lab.set("ums2", "fails", "").unwrap();
        let new: &[&str] = if kind == "backup" { &[kind, CLUSTER] } else { &[kind, CLUSTER, "--yes"] };
        place.umsid(new).exits(0).says("after it that one can only be rolled back");
        let restored = place.calls("ums2", "licensing restore");
        place.umsid(&["resume", run]).exits(8).says("has been at work on").says("a new `umsid sync`");
        assert_eq!(place.calls("ums2", "licensing restore"), restored);
        place.umsid(&["rollback", run, "--yes"]).exits(0);
        assert_eq!(place.fingerprint("ums3"), own);
        place.umsid(&SYNC).exits(0);
        place.is_well();
    }
}

/// Its umsid died, and another machine did what was to be done: it must not stand in the way of what comes next for ever.
#[test]
fn one_without_an_end_that_was_overtaken_is_ended_by_what_its_refusals_say() {
    let place = Place::broken(&["ums2", "ums3"]);
    let twin = place.dir.path().join("twin");
    copy(&place.state(), &twin);
    place.lab.set("ums3", "restore_delay_ms", "500").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until_begun("restore", "ums3");
    let run = umsid.seen[0]["run"].as_str().unwrap().to_owned();
    umsid.kill();
    place.umsid(&["unlock", CLUSTER, "--yes"]);
    umsid_testkit::wait_for_blocking("the restore to end, and another sync to be done", SOON, || {
        let ran = place.umsid_of(&twin, &SYNC);
        (ran.exit == Some(0)).then_some(()).or_else(|| {
            place.umsid_of(&twin, &["unlock", CLUSTER, "--yes"]);
            None
        })
    });
    let way_out = format!("umsid rollback {run} --give-up");
    place.umsid(&["resume", &run]).exits(8).says("has been at work on").says(&way_out);
    place.umsid(&SYNC).exits(8).says("has no end").says(&way_out);
    place.umsid(&["rollback", &run, "--give-up", "--yes"]).exits(8);
    place.umsid(&SYNC).exits(0);
    place.is_well();
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
