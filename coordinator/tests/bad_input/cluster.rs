//! Servers that must not be changed as they are, and one that is not the one meant.

use umsid_lab::Options;

use crate::place::{Place, Wanted};
use crate::{edit_inventory, refused, refused_before_a_run, says};

const SYNC_HAMBURG: [&str; 5] = ["sync", "hamburg", "--yes", "--settle", "0"];

#[test]
fn servers_of_different_versions_are_refused() {
    let place = Place::broken(&["ums2"]);
    place.lab.set("ums3", "version", "12.09.120").unwrap();
    let ran = refused_before_a_run(&place, &[], 1);
    says(&ran, &["different versions", "ums1 12.09.110", "ums3 12.09.120", "must run the same version"]);
}

#[test]
fn servers_older_than_the_procedure_are_refused() {
    let settings = vec![("version".to_owned(), "12.01.099".to_owned())];
    let place = Place::with(Wanted { lab: Options { settings, ..Options::default() }, ..Wanted::default() });
    place.lab.break_server("ums2").unwrap();
    let ran = refused_before_a_run(&place, &[], 1);
    for server in ["ums1", "ums2", "ums3"] {
        says(&ran, &[&format!("{server} runs UMS 12.01.099, older than 12.01.100"), "update the UMS first"]);
    }
}

#[test]
fn a_server_in_update_mode_is_refused_target_or_not() {
    let place = Place::broken(&["ums2"]);
    for server in ["ums2", "ums3"] {
        place.lab.set(server, "update_mode", "true").unwrap();
        let ran = refused_before_a_run(&place, &[], 1);
        says(&ran, &[&format!("{server} is in update mode"), "umsadmin-cli server end-update-mode"]);
        place.lab.set(server, "update_mode", "false").unwrap();
    }
}

#[test]
fn a_server_that_is_not_well_and_no_target_is_refused() {
    let place = Place::broken(&["ums2"]);
    place.lab.set("ums3", "health", "err").unwrap();
    umsid_testkit::wait_for_blocking("its health to be computed anew", crate::place::SOON, || {
        place.umsid(&["status"]).out.contains("err").then_some(())
    });
    let ran = refused_before_a_run(&place, &[], 1);
    says(&ran, &["ums3 is not healthy", "bring it up first"]);
}

#[test]
fn a_server_of_another_cluster_that_answers_is_refused() {
    let place = Place::broken(&["ums2"]);
    let lab = Options { servers: 1, sites: 1, ..Options::default() };
    let berlin = Place::with(Wanted { lab, agents: false, ..Wanted::default() });
    place.adopt(&berlin, "ums1", "berlin");
    let there = berlin.lab.truth().unwrap();
    // Somebody gives ums2 the address of a server of Berlin.
    let (ours, theirs) = (place.address("ums2"), berlin.address("ums1"));
    edit_inventory(&place, |text| text.replace(&ours, &theirs));
    says(&refused(&place, &SYNC_HAMBURG, 1), &["is the address of berlin/ums1 too", "correct that line"]);
    // A name that leads there is not seen by looking at the inventory.
    let by_name = theirs.replace("127.0.0.1", "localhost");
    edit_inventory(&place, |text| {
        text.replacen(&theirs, "swap", 1).replacen(&theirs, &by_name, 1).replace("swap", &theirs)
    });
    for more in
        [&["hamburg"][..], &["hamburg", "--only", "ums2"], &["hamburg", "--only", "ums2", "--main", "ums1"]]
    {
        let ran = refused_before_a_run(&place, more, 7);
        says(&ran, &["ums2 did not answer", "another server", "correct `address` in inventory.toml"]);
    }
    assert_eq!(berlin.lab.truth().unwrap(), there);
    assert_eq!(berlin.calls("ums1", "licensing backup"), 0);
}

#[test]
fn one_server_under_two_names_is_refused() {
    let place = Place::broken(&["ums2"]);
    // Somebody copies the entry of ums3: one server would get two backups and two restarts.
    edit_inventory(&place, |text| {
        let at = text.find("[clusters.hamburg.servers.ums3]").unwrap();
        let entry = &text[at..];
        let entry = entry[1..].find("\n[").map_or(entry, |end| &entry[..=end]);
        let twin = entry.replace("servers.ums3", "servers.ums4");
        format!("{text}\n{twin}")
    });
    says(
        &refused(&place, &SYNC_HAMBURG, 1),
        &["ums4.address", "is the address of hamburg/ums3 too", "correct that line"],
    );
    let address = place.address("ums3");
    let by_name = address.replace("127.0.0.1", "localhost");
    edit_inventory(&place, |text| match text.rsplit_once(&address) {
        Some((before, after)) => format!("{before}{by_name}{after}"),
        None => text.to_owned(),
    });
    says(
        &refused(&place, &SYNC_HAMBURG, 1),
        &["ums4.recipient", "one server has two names", "correct that line"],
    );
}
