//! Agents in two halves: what has the network has no rights, and what has the rights is reached by nobody else.

use std::os::unix::fs::PermissionsExt as _;

use crate::place::{CLUSTER, Helper, Place};
use crate::world::{at_home, does};

crate::tests!(missing;
    a_sync_by_agents_without_rights,
    an_agent_that_dies_in_a_restore_finds_what_its_helper_did,
    a_helper_that_dies_in_a_restore_is_waited_for_and_the_restore_done_again,
    a_helper_that_is_not_there_leaves_the_server_unknown,
    nobody_but_the_agent_is_served,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// A user with no rights, and nothing on this machine that is his.
const AGENT: u32 = 64_123;

fn missing() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "needs root, to take the rights from an agent".to_owned())
}

fn divided(place: &Place) -> Vec<Helper> {
    ["ums1", "ums2", "ums3"].map(|server| place.divide(server, AGENT)).into()
}

fn status_of(pid: u32, key: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells it").trim().to_owned()
}

fn a_sync_by_agents_without_rights() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let helpers = divided(&place);
    for server in ["ums1", "ums2", "ums3"] {
        let pid = place.agent_pid(server);
        assert!(status_of(pid, "Uid:").starts_with(&AGENT.to_string()));
        assert_eq!(status_of(pid, "CapEff:"), "0000000000000000");
    }
    place.umsid(&["status"]).exits(3);
    place.umsid(&SYNC).exits(0).shows("synchronized");
    before.done_once(&place);
    place.umsid(&["backup"]).exits(0);
    place.umsid(&["status"]).exits(0);
    // What the helpers made for a moment is gone.
    for (helper, server) in helpers.iter().zip(["ums1", "ums2", "ums3"]) {
        let work = helper.socket().with_file_name("state").join("work");
        assert_eq!(std::fs::read_dir(work).unwrap().count(), 0, "{server}");
    }
}

fn until_restoring(umsid: &mut crate::place::Watched, server: &str) {
    umsid.until("the restore", |event| does(event, server, "restoring the UMS ID"));
}

fn an_agent_that_dies_in_a_restore_finds_what_its_helper_did() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let _helpers = divided(&place);
    place.lab.set("ums2", "restore_delay_ms", "1500").unwrap();
    let mut umsid = place.watch(&SYNC);
    until_restoring(&mut umsid, "ums2");
    place.kill_agent("ums2");
    place.start_agent("ums2");
    umsid.ends(0);
    before.done_once(&place);
    assert_eq!(place.calls("ums2", "licensing restore"), 1);
}

/// What it had begun goes on without it, and comes to its end before it is tried again.
fn a_helper_that_dies_in_a_restore_is_waited_for_and_the_restore_done_again() {
    let (place, before) = at_home(&[("exclusive", "true")], &["ums2", "ums3"]);
    let mut helpers = divided(&place);
    place.lab.set("ums2", "restore_delay_ms", "1500").unwrap();
    let mut umsid = place.watch(&SYNC);
    until_restoring(&mut umsid, "ums2");
    helpers[1].dies_and_comes_back("ums2");
    umsid.until("that what was begun is waited for", |event| {
        event["what"].as_str().is_some_and(|what| what.starts_with("waiting for what the helper had begun"))
    });
    umsid.ends(0);
    place.is_well();
    before.one_at_a_time(&place);
    // Where it died right before it called the program, there was nothing to wait for.
    assert!((1..=2).contains(&place.calls("ums2", "licensing restore")));
}

fn a_helper_that_is_not_there_leaves_the_server_unknown() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let mut helpers = divided(&place);
    helpers[1].dies();
    let status = place.umsid(&["status", "--raw"]).exits(3);
    assert_eq!(place.states()["ums2"], "unknown");
    assert!(status.out.contains("helper does not answer"), "{}", status.out);
    place.umsid(&SYNC);
    before.as_it_was_or_in_sync(&place);
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
}

fn nobody_but_the_agent_is_served() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let helpers = divided(&place);
    let socket = helpers[1].socket();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    // Even where somebody has opened it to all.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let other = place.runs_as(AGENT + 1, "ums2", &socket);
    assert!(other.contains("the agent's helper"), "{other}");
    let log = std::fs::read_to_string(place.agent_dir("ums2").join("log")).unwrap();
    assert!(log.contains(&format!("user {} is not the agent's", AGENT + 1)), "{log}");
    before.nothing_changed(&place);
    place.umsid(&["status"]).exits(3);
    // What is no socket is nobody's to remove.
    let told = place.helper_listens_at("ums2", &place.agent_dir("ums2").join("agent.toml"));
    assert!(told.contains("something else is there"), "{told}");
    assert!(place.agent_dir("ums2").join("agent.toml").exists());
}
