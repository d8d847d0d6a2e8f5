//! Clocks that are set during a run, by hours, forwards and backwards: every deadline is kept by the clock nobody sets.

use std::path::PathBuf;

use umsid_common::durable::{self, Access};

use crate::place::{CLUSTER, Place};
use crate::world::{at_home, copy, does, started, thaw, until_frozen};

crate::tests!(missing;
    an_agents_clock_is_set_forward,
    an_agents_clock_is_set_back,
    an_agents_clock_is_set_back_beyond_its_certificates,
    a_run_overtaken_while_clocks_were_set_back_is_left_alone,
    the_coordinators_clock_is_set_forward,
    the_coordinators_clock_is_set_back,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// The library that gives one process another time of day.
fn library() -> Option<PathBuf> {
    let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    places
        .iter()
        .map(|place| PathBuf::from(place).join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
}

fn missing() -> Option<String> {
    library().is_none().then(|| "needs libfaketime (Debian: `apt-get install faketime`)".to_owned())
}

/// The time of day of one process.
struct Clock {
    file: PathBuf,
    environment: Vec<(&'static str, String)>,
}

impl Clock {
    /// As it is.
    fn new(place: &Place) -> Self {
        let file = place.dir.path().join("clock");
        let environment = vec![
            ("LD_PRELOAD", library().unwrap().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ];
        let clock = Self { file, environment };
        clock.set("+0");
        clock
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// Sets it: so much ahead of ours, or behind.
    fn set(&self, offset: &str) {
        durable::replace(&self.file, format!("{offset}\n").as_bytes(), Access::Private).unwrap();
    }
}

/// The agent of ums3 has its clock set in the middle of the restore.
fn an_agents(offset: &str) {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.lab.set("ums3", "restore_delay_ms", "1000").unwrap();
    let clock = Clock::new(&place);
    place.kill_agent("ums3");
    place.start_agent_with("ums3", &clock.environment());
    let mut umsid = place.watch(&SYNC);
    umsid.until("the restore on ums3", |event| does(event, "ums3", "restoring the UMS ID"));
    clock.set(offset);
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    before.done_once(&place);
    // Clocks that differ when a run is to begin speak against it, and that is said.
    place.lab.break_servers(&["ums2"], umsid_lab::Break::Lasting).unwrap();
    place.umsid(&SYNC).exits(1).says("the clocks of").says("s apart");
}

fn an_agents_clock_is_set_forward() {
    an_agents("+5h");
}

fn an_agents_clock_is_set_back() {
    an_agents("-40m");
}

/// By its clock nobody's certificate is valid yet: the run halts for that, and nothing is undone. With the clock set
/// right it goes on.
fn an_agents_clock_is_set_back_beyond_its_certificates() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let clock = Clock::new(&place);
    place.kill_agent("ums3");
    place.start_agent_with("ums3", &clock.environment());
    let fault = format!("stop@journal {} before", started(&place, "restart", "ums3"));
    let umsid = place.watch_with(&[("UMSID_FAULT", &fault)], &SYNC);
    until_frozen(umsid.pid());
    clock.set("-5h");
    thaw(umsid.pid());
    let report = umsid.ends(7);
    assert!(report["halt"]["why"].as_str().unwrap().starts_with("ums3: "), "{report:#}");
    assert!(report["halt"]["why"].as_str().unwrap().contains("not valid yet"), "{report:#}");
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
    before.as_it_was_or_in_sync(&place);
    place.umsid(&["resume"]).exits(7).says("ums3 did not answer");
    clock.set("+0");
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

/// What came after what is told by the agents' own count, not by their clocks.
fn a_run_overtaken_while_clocks_were_set_back_is_left_alone() {
    let (place, _) = at_home(&[], &["ums2", "ums3"]);
    let clock = Clock::new(&place);
    for server in ["ums1", "ums2", "ums3"] {
        place.kill_agent(server);
        place.start_agent_with(server, &clock.environment());
    }
    place.lab.set("ums2", "fails", "restore").unwrap();
    place.umsid(&SYNC).exits(1);
    place.lab.set("ums2", "fails", "").unwrap();
    let twin = place.dir.path().join("twin");
    copy(&place.state(), &twin);
    clock.set("-40m");
    place.umsid_of(&twin, &["rollback", "2", "--yes"]).exits(0);
    place.umsid_of(&twin, &SYNC).exits(0);
    let (truth, starts) = (place.fingerprint("ums3"), place.starts());
    place.umsid(&["resume"]).exits(8).says("has been at work on");
    place.umsid(&["rollback", "2", "--yes"]).exits(8).says("has been at work on");
    assert_eq!((place.fingerprint("ums3"), place.starts()), (truth, starts));
}

/// The coordinator's clock is set between two steps.
fn the_coordinators(offset: &str) {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let clock = Clock::new(&place);
    let mut environment = clock.environment();
    environment.push(("UMSID_FAULT", "stop@piece relayed"));
    let umsid = place.watch_with(&environment, &[&SYNC[..], &["--contact-timeout", "5s"]].concat());
    until_frozen(umsid.pid());
    clock.set(offset);
    thaw(umsid.pid());
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    before.done_once(&place);
    // The journal tells the run's story in its own order, whatever the clock said.
    let run = report["run"].as_str().unwrap();
    place.umsid(&["runs", "show", run]).exits(0).shows("synchronized");
    place.umsid(&["status"]).exits(0);
}

fn the_coordinators_clock_is_set_forward() {
    the_coordinators("+5h");
}

fn the_coordinators_clock_is_set_back() {
    the_coordinators("-5h");
}
