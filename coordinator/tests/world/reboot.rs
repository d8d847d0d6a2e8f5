//! A host that loses its power: everything on it is gone at once, without a word to anybody, and comes back with what
//! was on its disk.

use crate::network;
use crate::place::CLUSTER;
use crate::world::{World, does, freeze, kill, listening};

crate::tests!(network::missing;
    in_the_middle_of_a_restore_the_run_goes_on_by_itself,
    in_the_middle_of_a_restore_and_away_for_long_the_run_is_resumed,
    in_the_middle_of_a_restart_the_run_goes_on_by_itself,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// The host's processes, all at once; nobody is told.
fn power_cut(world: &World, server: &str) {
    let place = &world.place;
    world.network.silence(server);
    // It must not live to see the others die.
    freeze(place.agent_pid(server));
    let mut gone: Vec<u32> = place
        .lab
        .calls(server)
        .unwrap()
        .iter()
        .filter(|call| call.exit.is_none())
        .map(|call| call.pid)
        .collect();
    gone.extend(place.lab.truth().unwrap().server(server).unwrap().pid);
    let gone: Vec<u32> = gone.into_iter().filter(|pid| place.lab.processes().contains(pid)).collect();
    gone.into_iter().for_each(kill);
    place.kill_agent(server);
}

/// It comes back: what lay in memory is gone, the UMS Server and the agent are started as at every boot.
fn boot(world: &World, server: &str) {
    let place = &world.place;
    let script = &place.lab.server(server).unwrap().init_script;
    world.network.unsilence(server);
    world.network.on(server, script, &["start"]);
    listening(place, server);
    place.start_agent(server);
}

fn in_the_middle_of_a_restore_the_run_goes_on_by_itself() {
    let world = World::new(&[]);
    world.place.lab.set("ums3", "restore_delay_ms", "3000").unwrap();
    let mut umsid = world.place.watch(&SYNC);
    umsid.until("the restore on ums3", |event| does(event, "ums3", "restoring the UMS ID"));
    power_cut(&world, "ums3");
    boot(&world, "ums3");
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    well(&world);
}

/// All is well, and ums3 was restarted once besides its boot.
fn well(world: &World) {
    world.place.is_well();
    let restarts = |server| world.place.calls(server, "igelRMserver restart");
    // Once each when it was moved into its network.
    assert_eq!((restarts("ums1"), restarts("ums2"), restarts("ums3")), (2, 2, 2));
    assert_eq!(world.place.calls("ums2", "licensing restore"), 1);
}

fn in_the_middle_of_a_restore_and_away_for_long_the_run_is_resumed() {
    let world = World::new(&[]);
    world.place.lab.set("ums3", "restore_delay_ms", "3000").unwrap();
    let mut umsid = world.place.watch(&[&SYNC[..], &["--contact-timeout", "1s"]].concat());
    umsid.until("the restore on ums3", |event| does(event, "ums3", "restoring the UMS ID"));
    power_cut(&world, "ums3");
    let report = umsid.ends(5);
    assert_eq!(report["halt"]["kind"], "unreachable", "{report:#}");
    assert_eq!(world.place.calls("ums2", "licensing restore"), 0);
    boot(&world, "ums3");
    world.place.umsid(&["resume"]).exits(0).shows("synchronized");
    well(&world);
}

fn in_the_middle_of_a_restart_the_run_goes_on_by_itself() {
    let world = World::new(&[("stop_ms", "1500")]);
    let mut umsid = world.place.watch(&SYNC);
    umsid.until("the restart of ums3", |event| does(event, "ums3", "restarting"));
    power_cut(&world, "ums3");
    boot(&world, "ums3");
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    world.place.is_well();
}
