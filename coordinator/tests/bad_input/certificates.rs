//! Certificates that do not do, on either side.

use jiff::{SignedDuration, Timestamp};
use umsid::authority::Authority;
use umsid_common::durable::{self, Access};
use umsid_common::name::{Identity, Role};
use umsid_common::tls::Files;
use umsid_testkit::wait_for_blocking;

use crate::place::{CLUSTER, Place, SOON};
use crate::{SYNC, agent_dir, edit_inventory, refused_before_a_run, says};

#[test]
fn an_observers_certificate_changes_nothing() {
    let place = Place::broken(&["ums2"]);
    let out = place.dir.path().join("nagios");
    place.umsid(&["observer", "add", "nagios", "--out", out.to_str().unwrap()]).exits(0);
    for file in ["certificate.pem", "key.pem"] {
        std::fs::copy(out.join(file), place.state().join("coordinator").join(file)).unwrap();
    }
    place.umsid(&["status"]).exits(3).shows("not-in-sync");
    let before = place.lab.truth().unwrap();
    let ran = place.umsid(&SYNC).exits(7);
    says(&ran, &["observer", "what to do: "]);
    assert_eq!(place.lab.truth().unwrap(), before);
    assert_eq!(place.calls("ums2", "licensing backup"), 0);
}

#[test]
fn a_coordinator_of_another_authority_gets_nowhere() {
    let place = Place::broken(&["ums2"]);
    let inventory = std::fs::read_to_string(place.state().join("inventory.toml")).unwrap();
    let domain = inventory.split("trust_domain = \"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let stranger = place.dir.path().join("stranger");
    place.umsid_of(&stranger, &["init", "--name", "test", "--trust-domain", &domain]).exits(0);
    durable::replace(&stranger.join("inventory.toml"), inventory.as_bytes(), Access::Private).unwrap();
    let before = place.lab.truth().unwrap();
    let ran = place.umsid_of(&stranger, &SYNC).exits(7);
    says(&ran, &["ums1 did not answer", "ums2 did not answer", "what to do: "]);
    assert_eq!(place.lab.truth().unwrap(), before);
}

#[test]
fn a_server_whose_certificate_has_expired_is_refused() {
    let place = Place::broken(&["ums2"]);
    place.kill_agent("ums2");
    // A certificate that is good just long enough for the agent to start with it.
    let inventory = std::fs::read_to_string(place.state().join("inventory.toml")).unwrap();
    let domain = inventory.split("trust_domain = \"").nth(1).unwrap().split('"').next().unwrap();
    let role = Role::Agent { cluster: CLUSTER.parse().unwrap(), server: "ums2".parse().unwrap() };
    let me = Identity { trust_domain: domain.parse().unwrap(), role };
    let home = umsid::home::Home { dir: place.state() };
    let authority = Authority::open(&home.authority_dir()).unwrap().with_life(SignedDuration::from_secs(5));
    let issued = authority.equip(&Files::in_dir(&agent_dir(&place, "ums2").join("state")), &me).unwrap();
    place.start_agent("ums2");
    wait_for_blocking("the certificate to expire", SOON, || {
        (Timestamp::now() > issued.not_after + SignedDuration::from_secs(1)).then_some(())
    });
    let ran = refused_before_a_run(&place, &[], 7);
    says(&ran, &["ums2 did not answer", "expired", "`umsid enroll` gives a server a new certificate"]);
}

#[test]
fn a_server_whose_certificate_is_revoked_is_refused() {
    let place = Place::broken(&["ums2"]);
    let path = place.state().join("inventory.toml");
    let entry = std::fs::read_to_string(&path).unwrap();
    place.umsid(&["servers", "remove", "hamburg/ums2", "--yes"]).exits(0);
    // Somebody writes it back.
    edit_inventory(&place, |_| entry);
    let ran = refused_before_a_run(&place, &[], 7);
    says(&ran, &["ums2 did not answer", "revoked"]);
}
