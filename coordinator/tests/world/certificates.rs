//! Certificates that expire in the middle of a run: it halts and says so, and goes on once they are renewed.

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use serde_json::Value;
use umsid::authority::Authority;
use umsid::home::Home;
use umsid_common::durable::{self, Access};
use umsid_common::name::{Identity, Role};
use umsid_common::tls::Files;
use umsid_testkit::wait_for_blocking;

use crate::link::Quality;
use crate::place::{CLUSTER, Place, SOON, Watched};
use crate::trials::nothing;
use crate::world::{at_home, behind_line, behind_lines, says, signal, started, thaw, until_frozen};

crate::tests!(nothing;
    an_agents_certificate_expires,
    the_coordinators_certificate_expires,
    connections_that_break_are_made_again,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// Long enough for a run to begin on a busy machine.
const SHORT: SignedDuration = SignedDuration::from_secs(30);

/// Long enough for an agent to take it.
const A_MOMENT: SignedDuration = SignedDuration::from_secs(3);

fn home(place: &Place) -> Home {
    Home { dir: place.state() }
}

fn trust_domain(place: &Place) -> String {
    let inventory = std::fs::read_to_string(place.state().join("inventory.toml")).unwrap();
    inventory.split("trust_domain = \"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

/// A short-lived certificate; and from now on the authority's key is as if under a passphrase, so that nothing is
/// renewed in passing.
fn short_lived(place: &Place, files: &Files, role: Role, life: SignedDuration) -> Timestamp {
    let me = Identity { trust_domain: trust_domain(place).parse().unwrap(), role };
    let authority = Authority::open(&home(place).authority_dir()).unwrap().with_life(life);
    let issued = authority.equip(files, &me).unwrap();
    durable::replace(&home(place).authority_dir().join("key.age"), b"", Access::Private).unwrap();
    issued.not_after
}

/// The authority's key can be had again.
fn unlocked(place: &Place) {
    std::fs::remove_file(home(place).authority_dir().join("key.age")).unwrap();
}

/// A run that stands still before the restore on ums3.
fn standing(place: &Place) -> Watched {
    let fault = format!("stop@journal {} before", started(place, "restore", "ums3"));
    let umsid = place.watch_with(&[("UMSID_FAULT", &fault)], &SYNC);
    until_frozen(umsid.pid());
    umsid
}

/// Waits until a certificate is good no more.
fn until_expired(moment: Timestamp) {
    assert!(Timestamp::now() < moment, "too slow a machine: the certificate expired before its time");
    wait_for_blocking("the certificate to expire", SOON, || {
        (Timestamp::now() > moment + SignedDuration::from_secs(1)).then_some(())
    });
}

/// It stands still for the certificate's sake, and has neither restored nor put back anything.
#[track_caller]
fn halted(place: &Place, umsid: Watched) -> Value {
    let report = umsid.ends(7);
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(why.contains("expired"), "{report:#}");
    assert_eq!(report["turned_back"], Value::Null, "{report:#}");
    for server in ["ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore"), 0, "on {server}");
    }
    report
}

fn an_agents_certificate_expires() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let line = behind_line(&place, "ums3", Quality::PERFECT);
    let umsid = standing(&place);
    let role = Role::Agent { cluster: CLUSTER.parse().unwrap(), server: "ums3".parse().unwrap() };
    let expires = short_lived(&place, &Files::in_dir(&place.agent_dir("ums3").join("state")), role, A_MOMENT);
    signal(place.agent_pid("ums3"), Signal::HUP);
    until_expired(expires);
    // A connection that stands is not asked again; one that is made anew is.
    line.sever();
    thaw(umsid.pid());
    halted(&place, umsid);
    before.nothing_changed(&place);
    let ran = place.umsid(&["resume"]).exits(7);
    says(&ran, &["ums3 did not answer", "expired", "`umsid enroll` gives a server a new certificate"]);
    unlocked(&place);
    place.kill_agent("ums3");
    place.enrol_again("ums3");
    place.start_agent("ums3");
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

fn the_coordinators_certificate_expires() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let me = Role::Coordinator("test".parse().unwrap());
    let expires = short_lived(&place, &home(&place).tls_files(), me, SHORT);
    let umsid = standing(&place);
    until_expired(expires);
    thaw(umsid.pid());
    halted(&place, umsid);
    before.nothing_changed(&place);
    place.umsid(&["resume"]).exits(7).says("expired");
    unlocked(&place);
    place.umsid(&["resume"]).exits(0).says("renewed the coordinator's certificate").shows("synchronized");
    before.done_once(&place);
}

/// What breaks all connections breaks nothing else.
fn connections_that_break_are_made_again() {
    let (place, before) = at_home(&[("restore_delay_ms", "500")], &["ums2", "ums3"]);
    let lines = behind_lines(&place, Quality::PERFECT);
    let mut umsid = place.watch(&SYNC);
    for server in ["ums3", "ums2"] {
        umsid.until_begun("restore", server);
        lines.iter().for_each(crate::link::Link::sever);
    }
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    before.done_once(&place);
}
