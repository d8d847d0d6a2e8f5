//! Enrolling the hosts of an Ansible inventory.

use crate::house::{Host, House};

const HAMBURG: &str = include_str!("../../src/ansible/fixtures/hamburg.json");
const INI: &str = include_str!("../../src/ansible/fixtures/hamburg.ini");

/// `umsid enroll` of these groups, into the directory `join` of the house.
fn enroll<'a>(dir: &'a str, groups: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["enroll", "--from-ansible", "-", "--group", groups, "--cluster", "hamburg"];
    args.extend(["--join-files", dir]);
    args.extend(more);
    args
}

#[test]
fn join_files_are_made_for_the_hosts_of_a_group_and_they_join() {
    let (house, host) = (House::new(), Host::new("main"));
    let join = house.dir.path().join("join");
    let dir = join.to_str().unwrap();
    let (address, port) = (host.address(), host.address().rsplit_once(':').unwrap().1.to_owned());
    let listing = format!(
        r#"{{"_meta": {{"hostvars": {{
            "UMS1": {{"ansible_host": "127.0.0.1", "ansible_port": 22, "umsid_agent_port": {port}}},
            "ums2": {{"umsid_via": "ums1"}}}}}},
        "ums": {{"hosts": ["UMS1", "ums2"]}}}}"#
    );

    let rows =
        house.umsid_reading(&listing, &enroll(dir, "ums", &["--dry-run", "-o", "json"])).exits(0).json();
    assert_eq!(
        (rows[0]["server"].as_str(), rows[0]["address"].as_str()),
        (Some("ums1"), Some(address.as_str()))
    );
    assert_eq!((rows[1]["via"].as_str(), rows[1]["join_file"].as_str()), (Some("ums1"), Some("to be made")));
    assert!(!join.exists(), "a dry run has made something");

    // The second is behind the first, which is not enrolled yet.
    let ran = house.umsid_reading(&listing, &enroll(dir, "ums", &[])).exits(5).says("2 join files in");
    assert!(ran.out.contains("for its gateway ums1"), "{}", ran.out);
    assert!(join.join("ums1.join").exists() && join.join("ums2.join").exists());
    let waiting = host.waits(Some(host.copy(&join.join("ums1.join"))));
    let rows = house
        .umsid_reading(&listing, &enroll(dir, "ums", &["--site", "north", "-o", "json"]))
        .exits(5)
        .json();
    assert_eq!((rows[0]["state"].as_str(), rows[1]["state"].as_str()), (Some("enrolled"), Some("waiting")));
    waiting.enrolled().unwrap();
    let servers = house.umsid(&["servers", "-o", "json"]).json();
    assert_eq!((servers[0]["server"].as_str(), servers[0]["site"].as_str()), (Some("ums1"), Some("north")));

    // What Ansible says otherwise is told, and changes nothing.
    let args = enroll(dir, "ums", &["--site", "south", "--dry-run"]);
    let ran = house.umsid_reading(&listing, &args).exits(0).says("0 of 2 join files would be made");
    assert!(ran.out.contains("it stands at north here"), "{}", ran.out);
}

#[test]
fn nothing_is_made_of_an_inventory_that_does_not_do() {
    let house = House::new();
    let join = house.dir.path().join("join");
    let dir = join.to_str().unwrap();
    let of = |text: &str, groups: &str, more: &[&str]| house.umsid_reading(text, &enroll(dir, groups, more));
    of(INI, "ums_hamburg", &[]).exits(2).says("ansible-inventory -i YOUR-INVENTORY --list");
    of(HAMBURG, "ums_kiel", &[]).exits(2).says("has no group `ums_kiel`");
    of(HAMBURG, "ums_hamburg", &["--site-from-groups", "north"])
        .exits(2)
        .says("ums5: it is in none of the groups");
    // ums6 is behind ums5.
    let without = HAMBURG.replace(r#""ums5","#, "");
    of(&without, "ums_hamburg", &[]).exits(2).says("behind ums5, which is not among them");
    let twice = HAMBURG.replace("192.0.2.14", "ums1.north.example.com");
    of(&twice, "ums_hamburg", &[]).exits(2).says("is the address of ums1.north.example.com too");
    let odd = HAMBURG.replace("UMS4", "ums_4_");
    of(&odd, "ums_hamburg", &[]).exits(2).says("is no server name").says("set umsid_name");
    assert!(!join.exists(), "join files were made all the same");
    house.umsid(&["enroll", "--from-ansible", "-", "--cluster", "hamburg", "--join-files", dir]).exits(2);
}
