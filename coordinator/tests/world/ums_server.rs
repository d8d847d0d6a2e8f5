//! UMS Servers that are slow, die, never come up, or come up with another UMS ID. Minutes are scaled to seconds by the
//! agents' configuration; `agent/src/ums/health/probation.rs` has four minutes and 20 s by the default one.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use umsid_testkit::wait_for_blocking;

use crate::place::{CLUSTER, Place, SOON};
use crate::trials::nothing;
use crate::world::{at_home, does, kill, listening, says, started, thaw, until_frozen};

crate::tests!(nothing;
    a_slow_server_is_waited_for_and_it_is_said_until_when,
    a_server_slower_than_its_deadline_halts_the_run_and_is_not_restarted_again,
    a_server_that_ends_at_once_halts_the_run,
    a_server_that_dies_before_it_has_proved_itself_halts_the_run,
    a_canary_slower_than_its_deadline_is_put_back,
    a_canary_that_never_answers_is_put_back,
    a_canary_that_ends_at_once_is_put_back,
    a_canary_that_dies_before_it_has_proved_itself_is_put_back,
    a_canary_that_dies_before_it_is_verified_is_put_back,
    a_canary_that_dies_later_keeps_the_next_server_from_being_restarted,
    a_server_whose_agent_does_not_answer_is_not_begun_while_another_is_down,
    a_server_that_dies_before_the_end_is_no_success,
    a_server_that_comes_back_in_time_is_no_failure,
    a_later_server_with_its_old_ums_id_halts_the_run,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// Whoever has no patience for a server out of reach has none for one that is down.
const IMPATIENT: [&str; 7] = ["sync", CLUSTER, "--yes", "--settle", "0", "--contact-timeout", "1s"];

fn short_deadline(text: &str) -> String {
    text.replace("deadline = \"20s\"", "deadline = \"4s\"")
}

fn longer_trial(text: &str) -> String {
    text.replace("min_time = \"20ms\"", "min_time = \"2s\"")
}

/// An administrator starts a UMS Server by hand.
fn start(place: &Place, server: &str) {
    let script: &Path = &place.lab.server(server).unwrap().init_script;
    let output = assert_cmd::Command::new(script).arg("start").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    healthy(place, server);
}

/// Waits until a server says that it is well.
fn healthy(place: &Place, server: &str) {
    listening(place, server);
    wait_for_blocking("the UMS Server to be healthy", SOON, || {
        let status = place.umsid(&["status", "-o", "json"]).json();
        let servers = status["clusters"][0]["servers"].as_array().unwrap().clone();
        let one = servers.into_iter().find(|one| one["server"] == server).unwrap();
        one.to_string().contains("\"ok\"").then_some(())
    });
}

fn die(place: &Place, server: &str) {
    kill(place.lab.truth().unwrap().server(server).unwrap().pid.unwrap());
}

fn a_slow_server_is_waited_for_and_it_is_said_until_when() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.lab.set("ums3", "start", "after:2500").unwrap();
    let mut umsid = place.watch(&SYNC);
    let waiting =
        umsid.until("the wait", |event| does(event, "ums3", "waiting for health: no answer, 0 of 2"));
    let until: Timestamp = waiting["deadline"].as_str().unwrap().parse().unwrap();
    let left = until.duration_since(Timestamp::now());
    assert!(left > SignedDuration::from_secs(5) && left <= SignedDuration::from_secs(20), "{left}");
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    before.done_once(&place);
}

/// The canary is done; ums2 is not healthy in time, and the run halts.
fn halts(place: &Place, begin: &[&str], code: &str) -> String {
    let report = place.umsid(&[begin, &["-o", "json"]].concat()).exits(1).report();
    assert_eq!(report["outcome"], "halted", "{report:#}");
    let failed = &report["failures"][0];
    assert_eq!((&failed["server"], &failed["code"]), (&"ums2".into(), &code.into()), "{report:#}");
    assert_ne!(failed["remedy"], "", "{report:#}");
    let truth = place.lab.truth().unwrap();
    assert!(truth.server("ums3").unwrap().in_sync);
    assert_eq!(place.calls("ums1", "igelRMserver restart"), 0, "nothing else is restarted");
    report["run"].as_str().unwrap().to_owned()
}

fn a_server_slower_than_its_deadline_halts_the_run_and_is_not_restarted_again() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.reconfigure("ums2", short_deadline);
    place.lab.set("ums2", "start", "after:7000").unwrap();
    let run = halts(&place, &SYNC, "not-healthy");
    let shown = place.umsid(&["runs", "show", &run]).exits(0);
    assert!(shown.out.contains("was not healthy in time: the last answer was no answer"), "{}", shown.out);
    // It comes up after all, and that is all it wanted.
    listening(&place, "ums2");
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

fn a_server_that_ends_at_once_halts_the_run() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.reconfigure("ums2", short_deadline);
    place.lab.set("ums2", "start", "refuses").unwrap();
    let report = place.umsid(&[&SYNC[..], &["-o", "json"]].concat()).exits(1).report();
    assert_eq!(report["outcome"], "halted", "{report:#}");
    assert_eq!(report["failures"][0]["server"], "ums2", "{report:#}");
    place.umsid(&["resume"]).exits(1).says("ums2: step").says("umsid rollback");
    place.lab.set("ums2", "start", "normal").unwrap();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    before.one_at_a_time(&place);
    assert_eq!(place.calls("ums3", "igelRMserver restart"), 1);
    assert_eq!(place.calls("ums2", "licensing restore"), 1);
}

fn a_server_that_dies_before_it_has_proved_itself_halts_the_run() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.reconfigure("ums2", longer_trial);
    place.lab.set("ums2", "start", "dies-after:300").unwrap();
    let run = halts(&place, &SYNC, "not-healthy");
    let shown = place.umsid(&["runs", "show", &run]).exits(0);
    assert!(shown.out.contains("has ended before it was healthy"), "{}", shown.out);
    place.lab.set("ums2", "start", "normal").unwrap();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    before.one_at_a_time(&place);
}

/// The canary is put back, and of the others not even a process has changed.
fn put_back(place: &Place, own: &str, starts: &[usize]) {
    let truth = place.lab.truth().unwrap();
    let canary = truth.server("ums3").unwrap();
    assert_eq!((canary.fingerprint.as_str(), canary.running_fingerprint.as_deref()), (own, Some(own)));
    assert_eq!(place.starts()[..2], starts[..2]);
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
    place.never_created();
}

fn canary(how: &str, configured: impl FnOnce(&str) -> String) {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let (own, starts) = (place.fingerprint("ums3"), place.starts());
    place.reconfigure("ums3", configured);
    // Slow enough that the way back, which looks before it restarts, finds the server mended.
    place.lab.set_many(&["ums3"], &[("start", how), ("delay_ms", "200")]).unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the way back", |event| event["event"] == "turned-back");
    place.lab.set("ums3", "start", "normal").unwrap();
    let report = umsid.ends(1);
    assert_eq!(report["outcome"], "rolled-back", "{report:#}");
    put_back(&place, &own, &starts);
    before.one_at_a_time(&place);
}

fn a_canary_slower_than_its_deadline_is_put_back() {
    canary("after:60000", short_deadline);
}

fn a_canary_that_never_answers_is_put_back() {
    canary("never", short_deadline);
}

fn a_canary_that_ends_at_once_is_put_back() {
    canary("refuses", short_deadline);
}

fn a_canary_that_dies_before_it_has_proved_itself_is_put_back() {
    canary("dies-after:300", longer_trial);
}

/// It was called healthy, and is down when its UMS ID is looked at: what is on its disk is right, and that is not enough.
fn a_canary_that_dies_before_it_is_verified_is_put_back() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let (own, starts) = (place.fingerprint("ums3"), place.starts());
    let fault = format!("stop@journal {} before", started(&place, "verify", "ums3"));
    let umsid = place.watch_with(&[("UMSID_FAULT", &fault)], &IMPATIENT);
    until_frozen(umsid.pid());
    die(&place, "ums3");
    thaw(umsid.pid());
    let report = umsid.ends(1);
    assert_eq!(report["outcome"], "rolled-back", "{report:#}");
    assert_eq!(report["failures"][0]["code"], "not-healthy", "{report:#}");
    put_back(&place, &own, &starts);
    before.one_at_a_time(&place);
}

/// It may be that whatever is restarted with the Main UMS ID dies after a while: then one is enough.
fn a_canary_that_dies_later_keeps_the_next_server_from_being_restarted() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let starts = place.starts();
    place.lab.set("ums2", "restore_delay_ms", "1500").unwrap();
    let mut umsid = place.watch(&IMPATIENT);
    umsid.until("the restore on ums2", |event| does(event, "ums2", "restoring the UMS ID"));
    die(&place, "ums3");
    let report = umsid.ends(1);
    assert_eq!(report["outcome"], "halted", "{report:#}");
    let failed = &report["failures"][0];
    assert_eq!(failed["code"], "not-healthy", "{report:#}");
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(why.contains("ums3 was healthy after its restart and is not any more"), "{why}");
    assert_eq!(place.starts()[..2], starts[..2], "no other is restarted meanwhile");
    before.as_it_was_or_in_sync(&place);
    // Still down: still nothing.
    let again = place.umsid(&["resume", "--contact-timeout", "1s"]).exits(1);
    says(
        &again,
        &["ums3 was healthy after its restart", "read the log of the UMS Server on ums3", "umsid resume"],
    );
    assert_eq!(place.starts()[..2], starts[..2]);
    start(&place, "ums3");
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    let restarts = ["ums1", "ums2", "ums3"].map(|server| place.calls(server, "igelRMserver restart"));
    assert_eq!(restarts, [1, 1, 1]);
}

/// Whether its operation was begun before cannot be asked for a moment: no reason to begin it.
fn a_server_whose_agent_does_not_answer_is_not_begun_while_another_is_down() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let fault = format!("stop@journal {} after", started(&place, "restore", "ums2"));
    let mut umsid =
        place.watch_with(&[("UMSID_FAULT", &fault)], &[&SYNC[..], &["--contact-timeout", "5s"]].concat());
    until_frozen(umsid.pid());
    die(&place, "ums3");
    place.kill_agent("ums2");
    thaw(umsid.pid());
    umsid.until("that its agent is waited for", |event| {
        event["what"].as_str().is_some_and(|what| what.starts_with("waiting for the agent on ums2"))
    });
    place.start_agent("ums2");
    let report = umsid.ends(1);
    assert_eq!(report["failures"][0]["code"], "not-healthy", "{report:#}");
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
    before.as_it_was_or_in_sync(&place);
    start(&place, "ums3");
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    let restarts = ["ums1", "ums2", "ums3"].map(|server| place.calls(server, "igelRMserver restart"));
    assert_eq!(restarts, [1, 1, 1]);
}

fn a_server_that_dies_before_the_end_is_no_success() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let settles = ["sync", CLUSTER, "--yes", "--settle", "2", "--contact-timeout", "1s"];
    let mut umsid = place.watch(&settles);
    umsid.until("the end of the restarts", |event| {
        event["what"].as_str().is_some_and(|what| what.starts_with("waiting for messages"))
    });
    die(&place, "ums2");
    let report = umsid.ends(1);
    assert_eq!(report["outcome"], "halted", "{report:#}");
    assert_eq!(report["failures"][0]["code"], "not-healthy", "{report:#}");
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(why.contains("ums2 is not healthy any more: its UMS Server is stopped"), "{why}");
    let starts = place.starts();
    start(&place, "ums2");
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    assert_eq!(place.starts(), [starts[0], starts[1] + 1, starts[2]], "nothing is restarted again");
    before.one_at_a_time(&place);
}

/// A service manager may start again what has died.
fn a_server_that_comes_back_in_time_is_no_failure() {
    let (place, _) = at_home(&[], &["ums2", "ums3"]);
    let mut umsid = place.watch(&["sync", CLUSTER, "--yes", "--settle", "1"]);
    umsid.until("the end of the restarts", |event| {
        event["what"].as_str().is_some_and(|what| what.starts_with("waiting for messages"))
    });
    die(&place, "ums2");
    umsid.until("the wait", |event| event["what"] == "waiting for ums2 to be healthy");
    start(&place, "ums2");
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    place.is_well();
}

/// The canary that comes up with its old UMS ID is in `sync/back.rs`.
fn a_later_server_with_its_old_ums_id_halts_the_run() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let own = ["ums2", "ums3"].map(|server| place.fingerprint(server));
    place.lab.set("ums2", "start", "old-id").unwrap();
    let run = halts(&place, &SYNC, "wrong-identity");
    assert_eq!(place.fingerprint("ums2"), own[0]);
    place.umsid(&["status"]).exits(3);
    assert_eq!(place.states()["ums2"], "not-in-sync");
    // What was restored is gone: to look again changes nothing, and says so.
    place.lab.set("ums2", "start", "normal").unwrap();
    place.umsid(&["resume"]).exits(1).says("ums2: step").says("umsid rollback");
    place.umsid(&["rollback", &run, "--yes"]).exits(0).shows("rolled back");
    assert_eq!(["ums2", "ums3"].map(|server| place.fingerprint(server)), own);
    before.one_at_a_time(&place);
    place.umsid(&SYNC).exits(0);
    place.is_well();
}
