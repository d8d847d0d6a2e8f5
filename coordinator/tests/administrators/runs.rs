//! The same runs for everybody, and whoever is there goes on with them.

use umsid_testkit::PostgresServer;

use crate::place::{CLUSTER, Wanted};
use crate::team::{Team, missing};

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

crate::tests! { missing;
    a_run_that_halted_is_seen_and_resumed_by_the_other,
    a_run_whose_umsid_was_killed_is_taken_over,
    a_run_that_goes_on_is_left_alone_by_the_other,
    a_database_that_goes_away_halts_a_run_that_can_be_resumed,
}

#[track_caller]
fn nothing_twice(team: &Team) {
    team.place.is_well();
    for server in ["ums2", "ums3"] {
        assert_eq!(team.place.calls(server, "licensing restore"), 1, "restored once on {server}");
        assert_eq!(team.place.calls(server, "licensing backup"), 1, "backed up once on {server}");
    }
}

fn a_run_that_halted_is_seen_and_resumed_by_the_other() {
    let team = Team::new(Wanted::default());
    team.joins("bert");
    team.place.lab.break_servers(&["ums2"], umsid_lab::Break::Lasting).unwrap();
    team.place.lab.set("ums2", "fails", "restore").unwrap();
    team.place.umsid(&SYNC).exits(1);
    team.place.lab.set("ums2", "fails", "").unwrap();
    let list = |name: &str| team.types(name, &["runs", "-o", "json"]).exits(0).json();
    let halted = list("bert");
    assert_eq!(halted, list("state"), "both see the same");
    assert_eq!(halted["runs"].as_array().unwrap().len(), 1, "{halted:#}");
    team.types("bert", &["status"]).says("resume");
    team.types("bert", &["resume"]).exits(0);
    team.place.is_well();
    let ended = list("state");
    assert_eq!(ended["runs"][0]["run"], halted["runs"][0]["run"]);
    assert_ne!(ended, halted, "its end is seen");
    team.place.umsid(&["resume"]).exits(2).says("there is no run to resume");
}

fn a_run_whose_umsid_was_killed_is_taken_over() {
    let team = Team::new(Wanted::default()).slow();
    team.joins("bert");
    let mut umsid = team.place.watch(&SYNC);
    umsid.until_begun("restore", "ums3");
    let run = umsid.seen[0]["run"].as_str().unwrap().to_owned();
    umsid.kill();
    let report = team.types("bert", &["resume", "-o", "json"]).exits(0).report();
    assert_eq!((&report["run"], &report["outcome"]), (&run.into(), &"synchronized".into()), "{report:#}");
    nothing_twice(&team);
}

fn a_run_that_goes_on_is_left_alone_by_the_other() {
    let team = Team::new(Wanted::default()).slow();
    team.joins("bert");
    team.place.lab.set("ums3", "restore_delay_ms", "3000").unwrap();
    let mut umsid = team.place.watch(&SYNC);
    umsid.until_begun("restore", "ums3");
    let run = umsid.seen[0]["run"].as_str().unwrap().to_owned();
    let told = format!("another umsid is at work on {CLUSTER}: run {run} of coordinator test");
    for line in [&["resume", &run][..], &["rollback", &run, "--yes"], &["unlock", "--yes"]] {
        team.types("bert", line).exits(4).says(&told);
    }
    umsid.interrupt();
    assert!(!umsid.ended().success());
    // It is let go as soon as it has ended.
    team.types("bert", &["resume", &run]).exits(0);
    nothing_twice(&team);
}

fn a_database_that_goes_away_halts_a_run_that_can_be_resumed() {
    let server = PostgresServer::start();
    let team = Team::at(&server, Wanted::default()).slow();
    team.joins("bert");
    let mut umsid = team.place.watch(&SYNC);
    umsid.until_begun("restore", "ums3");
    server.stop();
    assert!(!umsid.ended().success());
    let said = umsid.said();
    assert!(said.contains("the journal postgres://") && said.contains("umsid resume"), "{said}");
    // Looking goes on, with copies.
    let looked = team.types("bert", &["status"]).says("going on with copies");
    assert!(looked.out.contains("ums3"), "{}", looked.out);
    team.types("bert", &["resume"]).exits(5).says("see that the database server runs");
    team.types("bert", &["servers", "remove", "hamburg/ums1", "--yes"]).exits(5).says("the database");
    server.start_again();
    team.types("bert", &["resume"]).exits(0);
    nothing_twice(&team);
}
