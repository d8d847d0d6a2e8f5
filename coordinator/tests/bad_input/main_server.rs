//! Which server is Main is not settled, or contradicted.

use crate::place::Place;
use crate::{edit_inventory, refused_before_a_run, says};

const CLUSTER_TABLE: &str = "[clusters.hamburg]\n";

#[test]
fn two_servers_that_both_look_main_are_refused_with_who_says_what() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums2", "main_seen", "itself").unwrap();
    let ran = refused_before_a_run(&place, &[], 8);
    let (one, two) = (place.fingerprint("ums1"), place.fingerprint("ums2"));
    says(&ran, &["servers call different UMS IDs Main", "--main SERVER --main-fingerprint FINGERPRINT"]);
    for print in [one, two] {
        assert!(ran.err.to_lowercase().contains(&print[..10]), "{print} is not in:\n{}", ran.err);
    }
    // Naming the server alone leaves the contradiction.
    let named = refused_before_a_run(&place, &["--main", "ums1"], 8);
    says(&named, &["ums2 takes", "for Main"]);
}

#[test]
fn no_server_that_looks_main_is_refused() {
    let place = Place::broken(&["ums2"]);
    place.lab.set_many(&["ums1", "ums2", "ums3"], &[("main_seen", "stranger")]).unwrap();
    let ran = refused_before_a_run(&place, &[], 8);
    says(&ran, &["is called the Main UMS ID, but no server that answered holds it", "see `umsid status`"]);
}

#[test]
fn a_main_server_that_does_not_answer_is_not_replaced_by_another() {
    let place = Place::broken(&["ums2"]);
    place.kill_agent("ums1");
    // The others know its fingerprint; ums3 holds it too, but only ums1 is its source by the inventory.
    edit_inventory(&place, |text| text.replace(CLUSTER_TABLE, &format!("{CLUSTER_TABLE}main = \"ums1\"\n")));
    let ran = refused_before_a_run(&place, &["--only", "ums2"], 5);
    says(&ran, &["ums1 was named as the Main server, but did not answer", "umsid status"]);
}

#[test]
fn a_main_fingerprint_that_is_not_the_main_servers_is_refused() {
    let place = Place::broken(&["ums2"]);
    let other = place.fingerprint("ums2");
    let ran = refused_before_a_run(&place, &["--main", "ums1", "--main-fingerprint", &other], 8);
    says(&ran, &["ums1 was named as the Main server with UMS ID", "but its own UMS ID is", "UMS Console"]);
    // In the inventory it counts as much, and is not overruled by what all servers say.
    edit_inventory(&place, |text| {
        let more = format!("{CLUSTER_TABLE}main = \"ums1\"\nmain_fingerprint = \"{other}\"\n");
        text.replace(CLUSTER_TABLE, &more)
    });
    let ran = refused_before_a_run(&place, &[], 8);
    says(&ran, &["ums1 was named as the Main server with UMS ID", "inventory.toml"]);
}
