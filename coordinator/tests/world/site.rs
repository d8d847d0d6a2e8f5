//! A whole site that is cut off.

use crate::network;
use crate::place::CLUSTER;
use crate::world::{World, does};

crate::tests!(network::missing;
    cut_off_before_a_run_nothing_is_begun_and_nothing_is_claimed,
    cut_off_with_main_in_the_middle_the_run_halts_and_goes_on_afterwards,
    cut_off_after_the_canary_the_canary_is_done,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

fn cut_off_before_a_run_nothing_is_begun_and_nothing_is_claimed() {
    let world = World::new(&[]);
    world.network.cut("site1");
    world.place.umsid(&SYNC).exits(5).says("ums1 did not answer").says("ums3 did not answer");
    assert_eq!(world.place.umsid(&["runs", "-o", "json"]).exits(0).json()["runs"], serde_json::json!([]));
    world.before.nothing_changed(&world.place);
    world.network.mend("site1");
    // The target's site now: that the others are in sync says nothing of it.
    world.network.cut("site2");
    world.place.umsid(&["status"]).exits(3);
    assert_eq!(world.place.states()["ums2"], "unknown");
    world.place.umsid(&SYNC).exits(5).says("ums2 did not answer");
    world.before.nothing_changed(&world.place);
    world.network.mend("site2");
    world.place.umsid(&SYNC).exits(0);
    world.before.done_once(&world.place);
}

fn cut_off_with_main_in_the_middle_the_run_halts_and_goes_on_afterwards() {
    let world = World::new(&[("restore_delay_ms", "500")]);
    let mut umsid = world.place.watch(&[&SYNC[..], &["--contact-timeout", "1s"]].concat());
    umsid.until("the restore on ums3", |event| does(event, "ums3", "restoring the UMS ID"));
    world.network.cut("site1");
    let report = umsid.ends(5);
    assert_eq!(report["halt"]["kind"], "unreachable", "{report:#}");
    assert_eq!(world.place.calls("ums2", "licensing restore"), 0);
    world.before.as_it_was_or_in_sync(&world.place);
    world.place.umsid(&["resume"]).exits(5).says("ums1 did not answer").says("ums3 did not answer");
    world.network.mend("site1");
    world.place.umsid(&["resume"]).exits(0).shows("synchronized");
    world.before.done_once(&world.place);
}

fn cut_off_after_the_canary_the_canary_is_done() {
    let world = World::new(&[("restore_delay_ms", "300")]);
    let mut umsid = world.place.watch(&[&SYNC[..], &["--contact-timeout", "1s"]].concat());
    umsid.until("the restart of ums3", |event| does(event, "ums3", "restarting"));
    world.network.cut("site2");
    let report = umsid.ends(5);
    // What could still be done was done, and is told.
    let truth = world.place.lab.truth().unwrap();
    let ums3 = truth.server("ums3").unwrap();
    assert!(ums3.in_sync && !ums3.needs_restart, "{truth:#?}");
    assert!(report["halt"]["why"].as_str().unwrap().contains("ums2"), "{report:#}");
    assert_eq!(world.place.calls("ums2", "licensing restore"), 0);
    world.network.mend("site2");
    world.place.umsid(&["resume"]).exits(0).shows("synchronized");
    world.before.done_once(&world.place);
}
