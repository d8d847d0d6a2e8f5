//! A server that cannot be heard any more, with no word of why: no reset, nothing "unreachable".

use std::time::Duration;

use crate::network;
use crate::place::{CLUSTER, Watched};
use crate::world::{World, does, for_a_while, thaw, until_frozen};

crate::tests!(network::missing;
    a_moment_while_a_server_is_restored,
    a_moment_while_a_server_is_restarted,
    longer_than_a_connection_lasts_while_a_server_is_restored,
    too_long_while_a_server_is_restored,
    too_long_while_a_server_is_restarted,
    a_moment_during_the_upload,
    too_long_during_the_upload,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// A run at the moment at which ums3 does this and has fallen silent.
fn silent_while(world: &World, doing: &str, more: &[&str]) -> Watched {
    let mut umsid = world.place.watch(&[&SYNC, more].concat());
    umsid.until(doing, |event| does(event, "ums3", doing));
    world.network.silence("ums3");
    umsid
}

/// It is silent until what it does is done, and umsid never notices.
fn a_moment(doing: &str, done: &str, time: Duration) {
    let world = World::new(&[("restore_delay_ms", "500"), ("stop_ms", "500")]);
    let umsid = silent_while(&world, doing, &[]);
    umsid_testkit::wait_for_blocking("the server to be done with it", crate::place::SOON, || {
        let calls = world.place.lab.calls("ums3").unwrap();
        calls.iter().any(|call| call.is(done) && call.exit.is_some()).then_some(())
    });
    for_a_while(time);
    world.network.unsilence("ums3");
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    world.before.done_once(&world.place);
}

fn a_moment_while_a_server_is_restored() {
    a_moment("restoring the UMS ID", "licensing restore", Duration::from_secs(1));
}

fn a_moment_while_a_server_is_restarted() {
    a_moment("restarting", "igelRMserver restart", Duration::from_secs(1));
}

fn longer_than_a_connection_lasts_while_a_server_is_restored() {
    // The keep-alive gives a connection up after twice 10 s.
    a_moment("restoring the UMS ID", "licensing restore", Duration::from_secs(23));
}

/// It is silent for longer than the run is to wait: the run halts and says so, and goes on when asked to.
fn too_long(doing: &str) {
    let world = World::new(&[("restore_delay_ms", "500"), ("stop_ms", "500")]);
    let mut umsid = silent_while(&world, doing, &["--contact-timeout", "1s"]);
    let halted = umsid.until("the halt", |event| event["event"] == "halted");
    assert_eq!(halted["kind"], "unreachable", "{halted:#}");
    assert!(
        halted["why"].as_str().unwrap().starts_with("ums3 has been out of reach for too long"),
        "{halted:#}"
    );
    let report = umsid.ends(5);
    let run = report["run"].as_str().unwrap();
    assert_eq!(report["next"][0]["command"], format!("umsid resume {run}"));
    // The other target was not touched, and what ums3 was at came to its end.
    assert_eq!(world.place.calls("ums2", "licensing restore"), 0);
    world.before.as_it_was_or_in_sync(&world.place);
    // While it cannot be heard, nothing goes on, and nothing is claimed.
    world.place.umsid(&["resume"]).exits(5).says("ums3 did not answer");
    world.network.unsilence("ums3");
    world.place.umsid(&["resume"]).exits(0).shows("synchronized");
    world.before.done_once(&world.place);
}

fn too_long_while_a_server_is_restored() {
    too_long("restoring the UMS ID");
}

fn too_long_while_a_server_is_restarted() {
    too_long("restarting");
}

/// A run at the moment at which the third piece has gone to the targets, and ums2 has fallen silent.
fn silent_during_the_upload(more: &[&str]) -> (World, Watched) {
    let world = World::new(&[("backup_size", "4000000")]);
    let umsid = world.place.watch_with(&[("UMSID_FAULT", "stop@piece relayed#3")], &[&SYNC, more].concat());
    until_frozen(umsid.pid());
    world.network.silence("ums2");
    thaw(umsid.pid());
    (world, umsid)
}

fn a_moment_during_the_upload() {
    let (world, umsid) = silent_during_the_upload(&[]);
    for_a_while(Duration::from_secs(3));
    world.network.unsilence("ums2");
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    world.before.done_once(&world.place);
}

fn too_long_during_the_upload() {
    let (world, umsid) = silent_during_the_upload(&["--contact-timeout", "1s"]);
    let report = umsid.ends(5);
    assert!(report["halt"]["why"].as_str().unwrap().contains("ums2"), "{report:#}");
    world.before.nothing_changed(&world.place);
    world.network.unsilence("ums2");
    world.place.umsid(&["resume"]).exits(0).shows("synchronized");
    world.before.done_once(&world.place);
}
