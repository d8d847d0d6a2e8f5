//! Servers that no way leads to but the one through another server of their site.

use umsid_testkit::wait_for_blocking;

use crate::network;
use crate::place::{CLUSTER, Place, SOON, Wanted};
use crate::trials;
use crate::world::{World, says, thaw, until_frozen};

crate::tests!(network::missing;
    a_sync_of_a_server_that_only_its_gateway_reaches,
    a_gateway_that_dies_during_a_transfer,
    a_sync_of_a_server_that_may_only_dial_out,
    a_gateway_that_dies_with_its_tunnels_during_a_transfer,
);

crate::tests!(AT_HOME: trials::nothing;
    a_server_is_enrolled_through_a_gateway,
    who_answers_in_place_of_a_server_is_found_out,
    what_a_gateway_is_not_told_of_it_does_not_lead_to,
    a_way_that_leads_nowhere_is_refused,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// From now on the agent of a server is a gateway to these, with these addresses.
fn leads_to(place: &Place, gateway: &str, servers: &[(&str, &str)]) {
    let servers: Vec<_> = servers.iter().map(|(name, address)| format!("{name} = {address:?}")).collect();
    let section = format!("\n[gateway]\nservers = {{ {} }}\n", servers.join(", "));
    place.reconfigure(gateway, |text| {
        format!("{}{section}", text.split("\n[gateway]").next().unwrap_or(text))
    });
}

/// As [`World::new`]; ums3 is reached through ums1 and no other way.
fn behind_ums1(settings: &[(&str, &str)]) -> World {
    let world = World::new(settings);
    let place = &world.place;
    leads_to(place, "ums1", &[("ums3", &place.address("ums3"))]);
    place
        .umsid(&["servers", "set", "hamburg/ums3", "--via", "ums1"])
        .exits(0)
        .shows("hamburg/ums3: through ums1");
    world.network.hide("ums3");
    world
}

fn a_sync_of_a_server_that_only_its_gateway_reaches() {
    let world = behind_ums1(&[("backup_size", "4000000")]);
    let place = &world.place;
    let servers = place.umsid(&["servers", "-o", "json"]).exits(0).json();
    assert_eq!((&servers[2]["via"], &servers[2]["address"]), (&"ums1".into(), &serde_json::Value::Null));
    place.umsid(&["servers"]).exits(0).shows("VIA");
    place.umsid(&["doctor"]).exits(0).shows("hamburg/ums3 through ums1");
    assert_eq!(place.states()["ums3"], "not-in-sync");
    place.umsid(&SYNC).exits(0);
    world.before.done_once(place);
    // There is no other way.
    place.umsid(&["servers", "set", "hamburg/ums3", "--address", &place.address("ums3")]).exits(5);
    place.umsid(&["status"]).exits(3);
    assert_eq!(place.states()["ums3"], "unknown");
}

fn a_gateway_that_dies_during_a_transfer() {
    let world = behind_ums1(&[("backup_size", "4000000")]);
    let place = &world.place;
    let umsid = place.watch_with(
        &[("UMSID_FAULT", "stop@piece relayed#3")],
        &[&SYNC[..], &["--contact-timeout", "1s"]].concat(),
    );
    until_frozen(umsid.pid());
    place.kill_agent("ums1");
    thaw(umsid.pid());
    let report = umsid.ends(5);
    assert_eq!(report["halt"]["kind"], "unreachable", "{report:#}");
    world.before.nothing_changed(place);
    // Nothing is known of the one behind it, and which of the two is to blame is said.
    place.umsid(&["status"]).exits(3);
    assert_eq!(place.states()["ums3"], "unknown");
    let resumed = place.umsid(&["resume"]).exits(5);
    says(&resumed, &["ums3 did not answer", "ums3 through ums1", "no connection to its gateway"]);
    place.start_agent("ums1");
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    world.before.done_once(place);
}

/// As [`World::new`]; ums3 gets no connection from anybody, and keeps a tunnel to ums1.
fn tunnel_to_ums1(settings: &[(&str, &str)]) -> World {
    let world = World::new(settings);
    let place = &world.place;
    leads_to(place, "ums1", &[("ums3", "tunnel")]);
    let gateway = place.address("ums1");
    place.reconfigure("ums3", |text| format!("{text}\n[tunnel]\ngateways = {{ ums1 = {gateway:?} }}\n"));
    world.network.close("ums3");
    place.umsid(&["servers", "set", "hamburg/ums3", "--via", "ums1"]).exits(0);
    world
}

fn a_sync_of_a_server_that_may_only_dial_out() {
    let world = tunnel_to_ums1(&[("backup_size", "4000000")]);
    let place = &world.place;
    assert_eq!(place.states()["ums3"], "not-in-sync");
    place.umsid(&SYNC).exits(0);
    world.before.done_once(place);
    // Without the tunnel there is no way.
    place.kill_agent("ums3");
    let sync = place.umsid(&SYNC).exits(5);
    says(&sync, &["ums3 did not answer", "ums3 keeps no tunnel to ums1"]);
}

fn a_gateway_that_dies_with_its_tunnels_during_a_transfer() {
    let world = tunnel_to_ums1(&[("backup_size", "4000000")]);
    let place = &world.place;
    let umsid = place.watch_with(
        &[("UMSID_FAULT", "stop@piece relayed#3")],
        &[&SYNC[..], &["--contact-timeout", "1s"]].concat(),
    );
    until_frozen(umsid.pid());
    place.kill_agent("ums1");
    thaw(umsid.pid());
    umsid.ends(5);
    world.before.nothing_changed(place);
    place.start_agent("ums1");
    wait_for_blocking("the tunnel", SOON, || (place.states()["ums3"] == "not-in-sync").then_some(()));
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    world.before.done_once(place);
}

fn a_server_is_enrolled_through_a_gateway() {
    let place = Place::broken(&["ums3"]);
    leads_to(&place, "ums1", &[("ums3", &place.address("ums3"))]);
    place.kill_agent("ums3");
    place.umsid(&["servers", "remove", "hamburg/ums3", "--yes"]).exits(0);
    let nobody = place.umsid(&["enroll", "ums3", "--via", "ums1", "--cluster", CLUSTER, "--code", "x"]);
    nobody.exits(6);
    place.enrol_through("ums1", "ums3");
    place.start_agent("ums3");
    assert_eq!(place.states()["ums3"], "not-in-sync");
    place.umsid(&SYNC).exits(0);
    place.is_well();
    for (arguments, said) in [
        (["enroll", "ums1", "--via", "ums1"], "ums1 cannot be its own gateway"),
        (["enroll", "ums3:8643", "--via", "ums1"], "a server is called by its name"),
        (["enroll", "ums4", "--via", "ums9"], "has no server `ums9`"),
    ] {
        place.umsid(&[&arguments[..], &["--cluster", CLUSTER, "--code", "x"]].concat()).exits(2).says(said);
    }
}

fn who_answers_in_place_of_a_server_is_found_out() {
    let place = Place::broken(&["ums3"]);
    let inventory = || std::fs::read_to_string(place.state().join("inventory.toml")).unwrap();
    // The gateway itself, and another server whose agent it is.
    for impostor in ["ums1", "ums2"] {
        leads_to(&place, "ums1", &[("ums3", &place.address(impostor))]);
        let ran = place.umsid(&["servers", "set", "hamburg/ums3", "--via", "ums1"]).exits(7);
        says(
            &ran,
            &["ums3 through ums1", &format!("agent/hamburg/{impostor}, expected was"), "what to do: "],
        );
        assert!(inventory().contains("via = \"ums1\""), "{}", inventory());
        assert_eq!(place.states()["ums3"], "unknown");
        place.umsid(&SYNC).exits(7).says("ums3 did not answer");
        assert_eq!(place.calls("ums3", "licensing restore"), 0);
    }
}

fn what_a_gateway_is_not_told_of_it_does_not_lead_to() {
    let place = Place::broken(&["ums3"]);
    // No gateway at all.
    let ran = place.umsid(&["servers", "set", "hamburg/ums3", "--via", "ums2"]).exits(5);
    says(
        &ran,
        &["its gateway refuses: ums2 forwards to nobody, and not to ums3", "what to do: on ums2, put ums3"],
    );
    assert_eq!(place.states()["ums3"], "unknown");
    // To others, and to one that is not there.
    let gone = place.address("ums3");
    leads_to(&place, "ums2", &[("ums1", &place.address("ums1"))]);
    place.umsid(&["status"]).exits(3).shows("ums2 forwards to ums1, and not to ums3");
    leads_to(&place, "ums2", &[("ums3", &gone)]);
    assert_eq!(place.states()["ums3"], "not-in-sync");
    place.kill_agent("ums3");
    wait_for_blocking("the silence", SOON, || (place.states()["ums3"] == "unknown").then_some(()));
    place.umsid(&SYNC).exits(5).says(&format!("ums2 does not reach ums3: {gone}: no connection"));
    place.start_agent("ums3");
    place.umsid(&SYNC).exits(0);
    place.is_well();
}

fn a_way_that_leads_nowhere_is_refused() {
    let place = Place::with(Wanted::default());
    leads_to(&place, "ums1", &[("ums3", &place.address("ums3"))]);
    place.umsid(&["servers", "set", "hamburg/ums3", "--via", "ums1"]).exits(0);
    let before = std::fs::read_to_string(place.state().join("inventory.toml")).unwrap();
    for (server, gateway, code, said) in [
        ("hamburg/ums2", "ums3", 1, "`ums3` is behind `ums1` itself"),
        ("hamburg/ums1", "ums2", 1, "a way leads through one gateway at most"),
        ("hamburg/ums2", "ums2", 1, "it cannot be its own gateway"),
        ("hamburg/ums2", "ums9", 1, "the cluster has no server `ums9`"),
        ("hamburg/ums9", "ums1", 2, "has no server `ums9`"),
    ] {
        place
            .umsid(&["servers", "set", server, "--via", gateway])
            .exits(code)
            .says(said)
            .says("what to do: ");
    }
    place.umsid(&["servers", "set", "hamburg/ums2"]).exits(2);
    place.umsid(&["servers", "remove", "hamburg/ums1", "--yes"]).exits(2).says("is the gateway to ums3");
    assert_eq!(std::fs::read_to_string(place.state().join("inventory.toml")).unwrap(), before);
    place.umsid(&["status"]).exits(0);
}
