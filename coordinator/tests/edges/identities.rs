//! Identities that were lost to somebody: taken back, and good for nothing from then on.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::house::{Host, House};

/// Somebody who has copied the state directory as it was, with another identity in it if one is given.
fn thief(house: &House, identity: Option<&Path>) -> House {
    let thief = House::empty();
    copy(&house.state(), &thief.state());
    if let Some(identity) = identity {
        for file in ["certificate.pem", "key.pem"] {
            fs::copy(identity.join(file), thief.state().join("coordinator").join(file)).unwrap();
        }
    }
    thief
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// By the agent, and not only by what he has copied.
#[track_caller]
fn is_refused(thief: &House) {
    let ran = thief.umsid(&["status", "-o", "json"]);
    let silence = &ran.json()["clusters"][0]["servers"][0]["silence"];
    assert_eq!((ran.exit, &silence["kind"]), (3, &json!("certificate")), "{ran:?}");
    assert!(silence["causes"].to_string().to_lowercase().contains("revoked"), "{silence}");
}

fn house() -> (House, Host) {
    let (house, host) = (House::new(), Host::new("main"));
    house.enrol(&host, "ums1");
    (house, host)
}

#[test]
fn an_observer_that_was_removed_may_not_even_look() {
    let (house, host) = house();
    let _running = host.runs();
    house.umsid(&["observer"]).exits(0).says("there is no observer");
    house.umsid(&["observer", "remove", "nagios", "--yes"]).exits(2).says("Known: none");
    let out = house.dir.path().join("nagios");
    house.umsid(&["observer", "add", "nagios", "--out", out.to_str().unwrap()]).exits(0);
    let thief = thief(&house, Some(&out));
    thief.umsid(&["status"]).exits(0);
    house.umsid(&["observer", "remove", "nagoi", "--yes"]).exits(2).says("Known: nagios");
    house.umsid(&["observer", "remove", "nagios"]).exits(2).says("--yes");
    assert!(house.umsid(&["observer"]).exits(0).out.contains("nagios"));

    let removed = house.umsid(&["observer", "remove", "nagios", "--yes", "-o", "json"]).exits(0).json();
    assert_eq!((&removed["revoked"], &removed["told"]), (&json!(1), &json!(["hamburg/ums1"])));
    is_refused(&thief);
    house.umsid(&["status"]).exits(0);
    assert_eq!(house.umsid(&["observer", "-o", "json"]).exits(0).json(), json!([]));
}

#[test]
fn a_copied_coordinators_key_is_good_for_nothing_once_there_is_a_new_one() {
    let (house, host) = house();
    let running = host.runs();
    let first = thief(&house, None);
    house.umsid(&["rekey"]).exits(2).says("--yes");
    first.umsid(&["status"]).exits(0);
    let rekeyed = house.umsid(&["rekey", "--yes", "-o", "json"]).exits(0).json();
    assert_eq!((&rekeyed["revoked"], &rekeyed["told"]), (&json!(1), &json!(["hamburg/ums1"])));
    house.umsid(&["status"]).exits(0);
    is_refused(&first);

    // An agent that was away is told at the next contact.
    let second = thief(&house, None);
    drop(running);
    house.umsid(&["rekey", "--yes"]).exits(0).says("hamburg/ums1 was not told");
    let _running = host.runs();
    house.umsid(&["status"]).exits(0);
    is_refused(&second);
}

/// Broken off between key and certificate: these do not fit each other, and the same command mends it.
#[test]
fn a_new_key_without_its_certificate_is_mended_by_another() {
    let (house, host) = house();
    let _running = host.runs();
    let out = house.dir.path().join("other");
    house.umsid(&["observer", "add", "other", "--out", out.to_str().unwrap()]).exits(0);
    fs::copy(out.join("key.pem"), house.state().join("coordinator/key.pem")).unwrap();
    house.umsid(&["status"]).exits(7).says("umsid rekey");
    house.umsid(&["rekey", "--yes"]).exits(0);
    house.umsid(&["status"]).exits(0);
}

#[test]
fn who_is_at_work_keeps_his_key() {
    let (house, host) = house();
    let _running = host.runs();
    let home = umsid::home::Home { dir: house.state() };
    let lock = home.lock_cluster(&"hamburg".parse().unwrap()).unwrap();
    house.umsid(&["rekey", "--yes"]).exits(4).says("another umsid is at work on hamburg");
    drop(lock);
    house.umsid(&["rekey", "--yes"]).exits(0);
}
