//! Processes that stand still, as in a virtual machine that is moved or a laptop whose lid is closed, and go on when
//! their lease has run out: a lease here lasts 10 s, the least an agent grants.

use std::time::Duration;

use crate::link::Quality;
use crate::place::{CLUSTER, Place, Ran};
use crate::trials::nothing;
use crate::world::{at_home, behind_line, copy, does, for_a_while, freeze, started, thaw, until_frozen};

crate::tests!(nothing;
    an_agent_whose_lease_ran_out_meanwhile_goes_on_for_the_same_run,
    an_agent_that_wakes_up_after_its_run_gave_up_does_nothing_twice,
    a_coordinator_nobody_missed_goes_on,
    a_coordinator_whose_run_was_done_by_another_does_nothing_and_says_by_whom,
    a_request_that_arrives_after_anothers_run_has_no_effect,
    a_coordinator_that_wakes_up_in_the_middle_of_anothers_run_does_nothing,
);

const SYNC: [&str; 7] = ["sync", CLUSTER, "--yes", "--settle", "0", "--lease", "10s"];

/// More than a lease lasts.
const PAST_THE_LEASE: Duration = Duration::from_secs(11);

fn an_agent_whose_lease_ran_out_meanwhile_goes_on_for_the_same_run() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.lab.set("ums3", "restore_delay_ms", "13000").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the restore on ums3", |event| does(event, "ums3", "restoring the UMS ID"));
    // Nothing goes on there: nothing but the lease keeps others away.
    let agent = place.agent_pid("ums2");
    freeze(agent);
    for_a_while(PAST_THE_LEASE);
    thaw(agent);
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    before.done_once(&place);
}

/// What it was asked for before it stood still, it may begin when it wakes up; its run takes that up and nothing is done
/// twice.
fn an_agent_that_wakes_up_after_its_run_gave_up_does_nothing_twice() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let restore = started(&place, "restore", "ums3");
    let umsid = place.watch_with(
        &[("UMSID_FAULT", &format!("stop@journal {restore} after"))],
        &[&SYNC[..], &["--contact-timeout", "1s"]].concat(),
    );
    until_frozen(umsid.pid());
    let agent = place.agent_pid("ums3");
    freeze(agent);
    thaw(umsid.pid());
    let report = umsid.ends(5);
    assert!(report["halt"]["why"].as_str().unwrap().contains("ums3"), "{report:#}");
    assert_eq!(place.calls("ums3", "licensing restore"), 0);
    thaw(agent);
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

fn a_coordinator_nobody_missed_goes_on() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let restore = started(&place, "restore", "ums2");
    let fault = format!("stop@journal {restore} after");
    let umsid = place.watch_with(&[("UMSID_FAULT", &fault)], &SYNC);
    until_frozen(umsid.pid());
    for_a_while(PAST_THE_LEASE);
    thaw(umsid.pid());
    umsid.ends(0);
    before.done_once(&place);
}

/// A second coordinator's state directory, that knows nothing of what the first will do.
fn twin(place: &Place) -> std::path::PathBuf {
    let twin = place.dir.path().join("twin");
    copy(&place.state(), &twin);
    twin
}

/// What was done to the servers so far: every call that changes something, and every start.
fn deeds(place: &Place) -> Vec<(usize, usize, usize)> {
    let calls = |server: &str| {
        (
            place.calls(server, "licensing restore"),
            place.calls(server, "licensing backup"),
            place.calls(server, "igelRMserver restart"),
        )
    };
    place.lab.servers().iter().map(|server| calls(&server.name)).collect()
}

/// As soon as its lease has run out another coordinator gets the servers; until then it is told who holds them.
fn another_takes_over(place: &Place, twin: &std::path::Path) -> Ran {
    place.umsid_of(twin, &SYNC).exits(4).says("is locked by run").says("coordinator test");
    for_a_while(PAST_THE_LEASE);
    place.umsid_of(twin, &SYNC).exits(0)
}

fn a_coordinator_whose_run_was_done_by_another_does_nothing_and_says_by_whom() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let twin = twin(&place);
    let restore = started(&place, "restore", "ums3");
    let fault = format!("stop@journal {restore} after");
    let mut umsid = place.begin(&[("UMSID_FAULT", &fault)], &SYNC);
    until_frozen(umsid.pid());
    another_takes_over(&place, &twin);
    before.done_once(&place);
    let runs = place.umsid_of(&twin, &["runs", "-o", "json"]).exits(0).json();
    let other = runs["runs"][0]["run"].as_str().unwrap();

    let done = deeds(&place);
    thaw(umsid.pid());
    umsid_testkit::wait_for_blocking("the first to end", crate::place::SOON, || umsid.ended());
    umsid.said().exits(4).says(other).says("to coordinator test").says("umsid status hamburg");
    assert_eq!(deeds(&place), done, "it had an effect");
    before.done_once(&place);
    // Nor does it when it is asked to go on.
    place.umsid(&["resume"]).exits(8).says(other);
    place.umsid(&["rollback", "2", "--yes"]).exits(8).says(other);
    assert_eq!(deeds(&place), done, "it had an effect");
}

/// The lease is looked at where something is changed, not only where it was asked for.
fn a_request_that_arrives_after_anothers_run_has_no_effect() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let twin = twin(&place);
    let restore = started(&place, "restore", "ums3");
    let line = behind_line(&place, "ums3", Quality::PERFECT);
    let umsid = place.begin(&[("UMSID_FAULT", &format!("stop@journal {restore} after"))], &SYNC);
    until_frozen(umsid.pid());
    line.hold();
    let (sent, _) = line.pieces();
    thaw(umsid.pid());
    umsid_testkit::wait_for_blocking("the request to be on its way", crate::place::SOON, || {
        (line.pieces().0 > sent).then_some(())
    });
    freeze(umsid.pid());
    for_a_while(PAST_THE_LEASE);
    place.umsid_of(&twin, &SYNC).exits(0);
    before.done_once(&place);
    let (done, (_, back)) = (deeds(&place), line.pieces());
    line.let_go();
    umsid_testkit::wait_for_blocking("the agent's answer", crate::place::SOON, || {
        (line.pieces().1 > back).then_some(())
    });
    // Looking takes its turn behind whatever was begun.
    place.umsid_of(&twin, &["status"]).exits(0);
    assert_eq!(deeds(&place), done, "it had an effect");
    before.done_once(&place);
}

fn a_coordinator_that_wakes_up_in_the_middle_of_anothers_run_does_nothing() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let twin = twin(&place);
    let restore = started(&place, "restore", "ums3");
    let fault = format!("stop@journal {restore} after");
    let mut first = place.begin(&[("UMSID_FAULT", &fault)], &SYNC);
    until_frozen(first.pid());
    for_a_while(PAST_THE_LEASE);
    // The second stands at the same point, for a moment.
    let mut second =
        place.begin(&[("UMSID_FAULT", &fault), ("UMSID_STATE_DIR", twin.to_str().unwrap())], &SYNC);
    until_frozen(second.pid());
    let done = deeds(&place);
    thaw(first.pid());
    umsid_testkit::wait_for_blocking("the first to end", crate::place::SOON, || first.ended());
    assert_eq!(deeds(&place), done, "it had an effect");
    let runs = place.umsid_of(&twin, &["runs", "-o", "json"]).exits(0).json();
    first.said().exits(4).says(runs["runs"][0]["run"].as_str().unwrap());
    thaw(second.pid());
    umsid_testkit::wait_for_blocking("the second to end", crate::place::SOON, || second.ended());
    second.said().exits(0).shows("synchronized");
    before.done_once(&place);
}
