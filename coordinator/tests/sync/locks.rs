//! Two at once, and a lease whose holder is gone.

use std::path::PathBuf;

use serde_json::{Value, json};
use umsid_common::durable::{self, Access};

use crate::place::{CLUSTER, Place};
use crate::refusals::copy;

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];
const GONE: &str = "20261122t100000-aaaaaa";

/// Another machine with the same authority: a copy of the state directory.
fn twin(place: &Place) -> PathBuf {
    let twin = place.dir.path().join("twin");
    copy(&place.state(), &twin);
    twin
}

fn lease_file(place: &Place, server: &str) -> PathBuf {
    place.dir.path().join(format!("agent-{server}/state/lease.json"))
}

/// The highest epoch a server's agent has granted.
fn epoch(place: &Place, server: &str) -> u64 {
    let text = std::fs::read(lease_file(place, server)).unwrap_or_default();
    serde_json::from_slice::<Value>(&text).map_or(0, |book| book["epoch"].as_u64().unwrap())
}

/// Has a run hold this server whose umsid is gone for good.
fn held_by_nobody_alive(place: &Place, server: &str, epoch: u64) {
    place.kill_agent(server);
    let book = json!({ "epoch": epoch, "held": {
        "run": GONE, "epoch": epoch, "holder": "coordinator bert (bert@admin2)",
        "since": "2026-11-22T10:00:00Z", "ttl_ms": 3_600_000, "plan": null,
    }});
    durable::replace(&lease_file(place, server), book.to_string().as_bytes(), Access::Private).unwrap();
    place.start_agent(server);
}

fn restored(place: &Place) -> Vec<usize> {
    ["ums1", "ums2", "ums3"].iter().map(|server| place.calls(server, "licensing restore")).collect()
}

#[test]
fn the_second_of_two_is_told_who_was_first_whichever_it_is() {
    for twin_first in [false, true] {
        let place = Place::broken(&["ums2"]);
        let twin = twin(&place);
        let (first, second) = if twin_first { (twin, place.state()) } else { (place.state(), twin) };
        place.lab.set("ums2", "restore_delay_ms", "3000").unwrap();
        let starts: [usize; 3] = place.starts().try_into().unwrap();
        let mut umsid = place.watch_of(&first, &SYNC);
        umsid.until_begun("restore", "ums2");
        let run = umsid.seen[0]["run"].as_str().unwrap().to_owned();
        let told = place.umsid_of(&second, &["restart", CLUSTER, "--yes"]).exits(4);
        let told = told.says("is locked by run ").says(&run).says("of coordinator test").says("umsid unlock");
        for part in [" since 20", ", until 20", "wait until it is done"] {
            assert!(told.err.contains(part), "{part:?} is not in:\n{}", told.err);
        }
        umsid.ends(0);
        place.is_well();
        assert_eq!(restored(&place), [0, 1, 0]);
        assert_eq!(place.starts(), starts.map(|starts| starts + 1), "no restart but the first run's");
    }
}

/// All or none, and yet they never refuse each other.
#[test]
fn of_two_at_the_same_moment_just_one_gets_the_servers() {
    let place = Place::new();
    let twin = twin(&place);
    for server in ["ums1", "ums2", "ums3"] {
        // Longer than the two are apart.
        place.lab.set(server, "delay_ms", "700").unwrap();
    }
    for round in 0..4 {
        let mut two = [place.state(), twin.clone()].map(|state| place.watch_of(&state, &["backup", CLUSTER]));
        let exits = two.each_mut().map(|umsid| umsid.ended().code());
        let said = two.each_ref().map(crate::place::Watched::said);
        let loser = exits.iter().position(|exit| *exit == Some(4));
        let loser = loser.unwrap_or_else(|| panic!("round {round}: {exits:?} {said:?}"));
        assert_eq!(exits[1 - loser], Some(0), "round {round}: {said:?}");
        assert!(said[loser].contains(" is locked by run "), "round {round}: {said:?}");
        assert!(said[loser].contains(" of coordinator test"), "round {round}: {said:?}");
    }
}

/// What makes it so: who is refused at the first server asks no other.
#[test]
fn who_is_refused_at_one_server_takes_no_other() {
    let place = Place::new();
    place.umsid(&["backup"]).exits(0);
    let granted = ["ums2", "ums3"].map(|server| epoch(&place, server));
    assert!(granted.iter().all(|epoch| *epoch > 0));
    held_by_nobody_alive(&place, "ums1", 7);
    place
        .umsid(&["backup"])
        .exits(4)
        .says(GONE)
        .says("coordinator bert (bert@admin2)")
        .says("since 2026-11-22T10");
    assert_eq!(["ums2", "ums3"].map(|server| epoch(&place, server)), granted);
}

#[test]
fn a_lease_whose_holder_is_gone_is_broken_and_who_did_it_is_on_record() {
    let place = Place::broken(&["ums2"]);
    held_by_nobody_alive(&place, "ums3", 7);
    place.umsid(&SYNC).exits(4).says(GONE);
    let shown = place.umsid(&["unlock"]).exits(2).says("Take ums3 from run").says("say --yes if you mean it");
    for part in [GONE, "coordinator bert (bert@admin2)", "2026-11-22 10:00:00", "nobody", "nothing"] {
        assert!(shown.out.contains(part), "{part:?} is not in:\n{}", shown.out);
    }
    assert_eq!(epoch(&place, "ums3"), 7, "not without a yes");

    let done = place.umsid(&["unlock", CLUSTER, "--yes", "-o", "json"]).exits(0).json();
    assert_eq!(done["free"], json!(["ums1", "ums2", "ums3"]), "{done:#}");
    // What was refused before has raised the others' already: above all of them.
    assert_eq!(["ums1", "ums2", "ums3"].map(|server| epoch(&place, server)), [9, 9, 9]);
    let again = place.umsid(&["unlock", "--yes"]).exits(0).says("nothing to unlock");
    assert!(again.out.contains("nobody"), "{again:?}");
    assert_eq!(["ums1", "ums2", "ums3"].map(|server| epoch(&place, server)), [9, 9, 9]);

    let history = place.umsid(&["unlock", "--history", "-o", "json"]).exits(0).json();
    let acts = history["acts"].as_array().unwrap();
    assert_eq!(acts.len(), 2, "{history:#}");
    assert_eq!((&acts[0]["act"], &acts[1]["act"]), (&json!("unlocking"), &json!("unlocked")));
    assert_eq!((&acts[0]["found"]["ums3"]["run"], &acts[0]["epoch"]), (&json!(GONE), &json!(9)));
    place
        .umsid(&["unlock", "--history"])
        .exits(0)
        .shows("coordinator test")
        .shows("ums3 from run 20261122t100000");
    place.umsid(&SYNC).exits(0);
    place.is_well();
}

#[test]
fn an_operation_that_is_going_on_is_not_interrupted() {
    let place = Place::broken(&["ums2"]);
    let twin = twin(&place);
    place.lab.set("ums2", "restore_delay_ms", "3000").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until_begun("restore", "ums2");
    umsid.until("its restore", |event| event["event"] == "phase" && event.to_string().contains("restor"));
    let epochs = ["ums1", "ums2", "ums3"].map(|server| epoch(&place, server));
    let told = place.umsid_of(&twin, &["unlock", "--yes"]).exits(4);
    let told =
        told.says("is never interrupted: ums2: restore (step ").says("wait until it has come to its end");
    assert!(told.out.contains("restore (step "), "{told:?}");
    assert_eq!(["ums1", "ums2", "ums3"].map(|server| epoch(&place, server)), epochs);
    // Where the run is carried out from, it is stopped and not unlocked.
    place.umsid(&["unlock", "--yes"]).exits(4).says("another umsid is at work on hamburg: run 2");
    umsid.ends(0);
    place.is_well();
    assert_eq!(restored(&place), [0, 1, 0]);
}

#[test]
fn a_run_that_is_unlocked_although_it_lives_halts_and_says_who_did_it() {
    let place = Place::broken(&["ums2"]);
    let twin = twin(&place);
    let mut umsid = place.watch(&["sync", CLUSTER, "--yes", "--settle", "120"]);
    umsid.until_begun("settle", "");
    let run = umsid.seen[0]["run"].as_str().unwrap().to_owned();
    place.umsid_of(&twin, &["unlock", "--yes"]).exits(0).shows("no run holds ums1, ums2, ums3 any more");
    let report = umsid.ends(4);
    assert_eq!(report["halt"]["kind"], "lease-lost", "{report:#}");
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(why.contains("coordinator test") && why.contains(" unlocked this server at 20"), "{why}");
    // The other machine may work now; and the run may be taken up where nobody did.
    place.umsid_of(&twin, &["backup"]).exits(0);
    place.umsid(&["resume", &run]).exits(8).says("has been at work on");
    place.umsid(&["runs", "show", &run]).exits(0).shows("unlocked this server at");
}

#[test]
fn a_server_that_does_not_answer_is_named_and_the_others_unlocked() {
    let place = Place::new();
    for server in ["ums1", "ums2"] {
        held_by_nobody_alive(&place, server, 3);
    }
    place.kill_agent("ums3");
    place
        .umsid(&["unlock", "--yes"])
        .exits(5)
        .shows("no run holds ums1, ums2 any more")
        .says("ums3 did not answer");
    place
        .umsid(&["unlock", "--yes"])
        .exits(5)
        .says("no run holds a server that answered; 1 server did not answer");
    place.start_agent("ums3");
    place.umsid(&["unlock"]).exits(0).says("nothing to unlock");
    place.umsid(&["backup"]).exits(0);
}
