//! What the tests here have in common: an installation whose hosts have networks of their own, and how to look at what
//! happened to it.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use umsid_common::durable::{self, Access};
use umsid_lab::{Event, Options};
use umsid_testkit::wait_for_blocking;

use crate::link::{Link, Quality};
use crate::network::Network;
use crate::place::{Place, Ran, SOON, Wanted};

/// ums1 (Main) and ums3 on site1, ums2 on site2, the latter two out of sync; every host has its own network.
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) network: Network,
    pub(crate) before: Before,
}

impl World {
    /// With these settings of the lab's servers.
    pub(crate) fn new(settings: &[(&str, &str)]) -> Self {
        let network = Network::of(&[("ums1", "site1"), ("ums2", "site2"), ("ums3", "site1")]);
        let wanted =
            Wanted { lab: lab(settings), agents: false, hosts: network.hosts(), ..Wanted::default() };
        let place = Place::with(wanted);
        place.lab.break_servers(&["ums2", "ums3"], umsid_lab::Break::Lasting).unwrap();
        // They were started here; from now on they run where their agents do.
        for server in place.lab.servers() {
            network.on(&server.name, &server.init_script, &["restart"]);
        }
        for server in place.lab.servers() {
            listening(&place, &server.name);
        }
        place.enrol_agents();
        let before = Before::of(&place);
        Self { place, network, before }
    }
}

fn lab(settings: &[(&str, &str)]) -> Options {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Options { settings, ..Options::default() }
}

/// The same on this machine's loopback: three servers, these out of sync.
pub(crate) fn at_home(settings: &[(&str, &str)], broken: &[&str]) -> (Place, Before) {
    let place = Place::with(Wanted { lab: lab(settings), ..Wanted::default() });
    place.lab.break_servers(broken, umsid_lab::Break::Lasting).unwrap();
    let before = Before::of(&place);
    (place, before)
}

/// Waits until the port of the process a server has now is open.
pub(crate) fn listening(place: &Place, server: &str) {
    wait_for_blocking("the UMS Server to listen", SOON, || {
        let last = place.lab.lifecycle(server).unwrap().pop()?;
        (last.event == Event::Listening).then_some(())
    });
}

/// How an installation was before a test did anything to it.
pub(crate) struct Before {
    since: Timestamp,
    starts: Vec<usize>,
    fingerprints: Vec<String>,
}

impl Before {
    pub(crate) fn of(place: &Place) -> Self {
        let truth = place.lab.truth().unwrap();
        Self {
            since: Timestamp::now(),
            starts: truth.servers.iter().map(|server| server.starts).collect(),
            fingerprints: truth.servers.iter().map(|server| server.fingerprint.clone()).collect(),
        }
    }

    /// Nothing has been done to any server.
    #[track_caller]
    pub(crate) fn nothing_changed(&self, place: &Place) {
        let truth = place.lab.truth().unwrap();
        let now: Vec<_> = truth.servers.iter().map(|server| server.fingerprint.clone()).collect();
        assert_eq!(now, self.fingerprints);
        assert_eq!(place.starts(), self.starts);
    }

    /// Every server has the UMS ID it had, or the Main one.
    #[track_caller]
    pub(crate) fn as_it_was_or_in_sync(&self, place: &Place) {
        let truth = place.lab.truth().unwrap();
        for (server, own) in truth.servers.iter().zip(&self.fingerprints) {
            assert!(server.in_sync || server.fingerprint == *own, "{server:#?}");
        }
        self.one_at_a_time(place);
    }

    /// All are in sync; each was restored once, each was started once again at most; never were two of a site away.
    #[track_caller]
    pub(crate) fn done_once(&self, place: &Place) {
        place.is_well();
        self.one_at_a_time(place);
        for (server, before) in place.lab.truth().unwrap().servers.iter().zip(&self.starts) {
            assert!(
                server.starts <= before + 1,
                "{} was started {} times",
                server.name,
                server.starts - before
            );
        }
        for server in ["ums2", "ums3"] {
            assert_eq!(place.calls(server, "licensing restore"), 1, "restored on {server}");
        }
    }

    /// Never were two servers of a site away at the same time.
    #[track_caller]
    pub(crate) fn one_at_a_time(&self, place: &Place) {
        let servers = place.lab.servers();
        let away: Vec<_> = servers.iter().map(|server| self.away(place, &server.name)).collect();
        for (one, first) in servers.iter().enumerate() {
            for (other, second) in servers.iter().enumerate().skip(one + 1) {
                if first.site != second.site {
                    continue;
                }
                for (a, b) in away[one].iter().flat_map(|a| away[other].iter().map(move |b| (a, b))) {
                    assert!(
                        a.1 <= b.0 || b.1 <= a.0,
                        "{} and {} were away: {a:?} {b:?}",
                        first.name,
                        second.name
                    );
                }
            }
        }
    }

    /// From when to when a server's port was closed since.
    fn away(&self, place: &Place, server: &str) -> Vec<(Timestamp, Timestamp)> {
        let (mut away, mut stopped) = (Vec::new(), None);
        for line in place.lab.lifecycle(server).unwrap().iter().filter(|line| line.time > self.since) {
            match line.event {
                Event::Listening => away.extend(stopped.take().map(|since| (since, line.time))),
                Event::Stopped | Event::Died | Event::Refused => {
                    stopped.get_or_insert(line.time);
                }
                Event::Started => {}
            }
        }
        away.extend(stopped.map(|since| (since, Timestamp::MAX)));
        away
    }
}

/// The events of a run that say which server does what.
pub(crate) fn does(event: &serde_json::Value, server: &str, what: &str) -> bool {
    event["server"] == server && event["what"].as_str().is_some_and(|text| text.starts_with(what))
}

/// Stops a process, as a debugger or a machine that is put to sleep does.
pub(crate) fn freeze(pid: u32) {
    signal(pid, Signal::STOP);
    until_frozen(pid);
}

/// Lets it go on.
pub(crate) fn thaw(pid: u32) {
    signal(pid, Signal::CONT);
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).unwrap();
}

/// Waits until a process stands still.
pub(crate) fn until_frozen(pid: u32) {
    wait_for_blocking("the process to stand still", SOON, || (state_of(pid) == Some('T')).then_some(()));
}

/// The state of a process, as the kernel calls it.
pub(crate) fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Time that is to pass because its passing is the fault.
pub(crate) fn for_a_while(time: Duration) {
    std::thread::sleep(time);
}

/// Makes sure that standard error says each of these.
#[track_caller]
pub(crate) fn says(ran: &Ran, what: &[&str]) {
    for what in what {
        assert!(ran.err.contains(what), "{what:?} is not in:\n{}", ran.err);
    }
}

/// SIGKILL.
pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// From now on umsid reaches this server's agent over a line of this quality.
pub(crate) fn behind_line(place: &Place, server: &str, quality: Quality) -> Link {
    let agent = place.address(server);
    let line = Link::to(agent.parse().unwrap(), quality);
    let path = place.state().join("inventory.toml");
    let inventory = std::fs::read_to_string(&path).unwrap();
    assert!(inventory.contains(&agent), "{inventory}");
    let inventory = inventory.replace(&agent, &line.address().to_string());
    durable::replace(&path, inventory.as_bytes(), Access::Private).unwrap();
    line
}

/// The same with all servers.
pub(crate) fn behind_lines(place: &Place, quality: Quality) -> Vec<Link> {
    place.lab.servers().iter().map(|server| behind_line(place, &server.name, quality)).collect()
}

/// The journal's word for the beginning of this step: `started 7.1`.
pub(crate) fn started(place: &Place, kind: &str, server: &str) -> String {
    let plan = place.umsid(&["plan", "--settle", "0", "-o", "json"]).json();
    let steps = plan["steps"].as_array().or_else(|| plan["plan"]["steps"].as_array()).expect("steps");
    let step = steps.iter().find(|step| step["what"]["do"] == kind && step["what"]["server"] == server);
    format!("started {}.1", step.unwrap_or_else(|| panic!("{plan:#}"))["no"])
}

/// Copies a directory with everything in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
