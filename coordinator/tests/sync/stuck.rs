//! What cannot be put back: named, with the command to type, and never in the way for ever.

use std::path::{Path, PathBuf};

use serde_json::Value;
use umsid_lab::Options;

use crate::place::{CLUSTER, Place, Wanted};

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// A run halted with ums3, the canary, done and ums2 touched; nothing is wrong any more. Gives its id.
fn halted(place: &Place) -> String {
    place.lab.set("ums2", "fails_after_effect", "restore").unwrap();
    let report = place.umsid(&[&SYNC[..], &["-o", "json"]].concat()).report();
    assert_eq!(report["outcome"], "halted", "{report:#}");
    place.lab.set("ums2", "fails_after_effect", "").unwrap();
    report["run"].as_str().unwrap().to_owned()
}

#[expect(clippy::disallowed_methods, reason = "a whole vault is moved, as an accident would")]
fn move_vault(from: &Path, to: &Path) {
    std::fs::rename(from, to).unwrap();
}

/// All safety backups of a server, moved away.
fn lose_vault(place: &Place, server: &str) -> PathBuf {
    let vault = place.dir.path().join(format!("agent-{server}/state/vault"));
    let away = vault.with_extension("away");
    move_vault(&vault, &away);
    std::fs::create_dir(&vault).unwrap();
    std::fs::set_permissions(&vault, std::fs::metadata(&away).unwrap().permissions()).unwrap();
    away
}

fn commands(report: &Value) -> Vec<String> {
    let next = report["next"].as_array().unwrap();
    next.iter().map(|advice| advice["command"].as_str().unwrap().to_owned()).collect()
}

fn short(fingerprint: &str) -> String {
    format!("{}…{}", &fingerprint[..10], &fingerprint[fingerprint.len() - 10..])
}

#[test]
fn a_lost_vault_leaves_the_run_stuck_until_the_others_are_put_back_and_it_is_given_up() {
    let place = Place::broken(&["ums2", "ums3"]);
    let own = ["ums2", "ums3"].map(|server| place.fingerprint(server));
    let run = halted(&place);
    let main = place.fingerprint("ums1");
    lose_vault(&place, "ums3");

    let report = place.umsid(&["rollback", &run, "--yes", "-o", "json"]).exits(8).report();
    assert_eq!(
        (&report["outcome"], &report["halt"]["kind"]),
        (&"stuck".into(), &"stuck".into()),
        "{report:#}"
    );
    let stuck = &report["halt"]["stuck"];
    assert_eq!(stuck["server"], "ums3", "{report:#}");
    assert_eq!(stuck["had"].as_str().unwrap().to_lowercase(), own[1].to_lowercase());
    assert_eq!(stuck["shows"].as_str().unwrap().to_lowercase(), main.to_lowercase());
    assert_eq!(report["halt"]["code"], "no-safety-backup", "{report:#}");
    let wanted = [
        format!("umsid status {CLUSTER} --raw"),
        format!("umsid resume {run}"),
        format!("umsid rollback {run} ums2"),
        format!("umsid rollback {run} --give-up"),
        format!("umsid runs show {run}"),
    ];
    assert_eq!(commands(&report), wanted);
    assert_eq!((place.fingerprint("ums3"), place.fingerprint("ums2")), (main.clone(), main.clone()));
    place.umsid(&["runs"]).exits(0).shows("stuck").shows("ums3: step");
    let shown = place.umsid(&["runs", "show", &run]).exits(0).shows("stuck on its way back");
    let ids = format!("its UMS ID before the run was {}, now it shows {}", short(&own[1]), short(&main));
    assert!(shown.out.to_lowercase().contains(&ids.to_lowercase()), "{ids}\n{}", shown.out);
    place.umsid(&["status"]).says("is stuck on its way back").says(&format!("umsid runs show {run}"));
    place.umsid(&["check"]).exits(2).shows(&format!("run {run} is stuck on its way back"));
    // Trying again does not help, and says so again.
    place.umsid(&["resume", &run]).exits(8).says("stuck: ums3").says("--give-up");

    // What is said is done in the order in which it is said: this one stays as it is, restarted.
    place.umsid(&["restart", CLUSTER, "--only", "ums3", "--yes"]).exits(0).says("can only be rolled back");
    // The other is put back all the same.
    place
        .umsid(&["rollback", &run, "ums2", "--yes"])
        .exits(0)
        .says("ums3 may still hold the restored UMS ID");
    assert_eq!((place.fingerprint("ums2"), place.fingerprint("ums3")), (own[0].clone(), main));

    place.umsid(&["rollback", &run, "--give-up"]).exits(2).says("ums3 may not be as it was").says("--yes");
    place.umsid(&["rollback", &run, "ums2", "--give-up", "--yes"]).exits(2).says("cannot be used with");
    let end = place.umsid(&["rollback", &run, "--give-up", "--yes", "-o", "json"]).exits(8).report();
    assert_eq!(end["outcome"], "given-up", "{end:#}");
    assert_eq!(commands(&end), [format!("umsid status {CLUSTER} --raw"), format!("umsid sync {CLUSTER}")]);
    let left = end["left_over"].to_string();
    assert!(left.contains("ums3 was begun to be restored") && !left.contains("ums2 was begun"), "{left}");
    let list = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    let listed = list["runs"].as_array().unwrap().iter().find(|listed| listed["run"] == *run).unwrap();
    assert_eq!((&listed["standing"], &listed["detail"]), (&"ended".into(), &"given-up".into()));
    place.umsid(&["runs", "show", &run]).exits(0).shows("given up by coordinator test");
    for verb in
        [&["resume", &run][..], &["rollback", &run, "--yes"], &["rollback", &run, "--give-up", "--yes"]]
    {
        place.umsid(verb).exits(2).says("is over");
    }
    // And a new run goes from where the servers stand.
    place.umsid(&SYNC).exits(0);
    place.is_well();
}

#[test]
fn a_stuck_run_is_no_longer_stuck_when_its_vault_is_back() {
    let place = Place::broken(&["ums2", "ums3"]);
    let own = ["ums2", "ums3"].map(|server| place.fingerprint(server));
    let run = halted(&place);
    let away = lose_vault(&place, "ums3");
    place.umsid(&["rollback", &run, "--yes"]).exits(8).says("stuck: ums3");
    let vault = away.with_file_name("vault");
    std::fs::remove_dir(&vault).unwrap();
    move_vault(&away, &vault);
    // Who resumes what was asked for gets what was asked for.
    let report = place.umsid(&["resume", "-o", "json"]).exits(0).report();
    assert_eq!(report["outcome"], "rolled-back", "{report:#}");
    assert_eq!(["ums2", "ums3"].map(|server| place.fingerprint(server)), own);
    place.never_created();
}

#[test]
fn a_server_that_never_comes_up_with_its_old_ums_id_is_stuck() {
    let place = Place::broken(&["ums2", "ums3"]);
    let run = halted(&place);
    // It is restored, and goes back to the other UMS ID at every start.
    place.lab.set("ums3", "start", "old-id").unwrap();
    let report = place.umsid(&["rollback", &run, "ums3", "--yes", "-o", "json"]).exits(8).report();
    assert_eq!(report["halt"]["stuck"]["server"], "ums3", "{report:#}");
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(why.contains("verify that it is as it was"), "{why}");
    assert!(commands(&report).contains(&format!("umsid rollback {run} ums2")), "{report:#}");
    place.lab.set("ums3", "start", "normal").unwrap();
    place.umsid(&["rollback", &run, "--yes"]).exits(8).says("stuck: ums3");
}

/// Some UMS may give the Main UMS ID when another server is backed up: then nothing can be put back, and nobody may be
/// told otherwise.
#[test]
fn where_a_backup_holds_the_main_ums_id_the_way_back_is_stuck() {
    let lab = Options { dialects: vec!["backup-gives-main".to_owned()], ..Options::default() };
    let place = Place::with(Wanted { lab, ..Wanted::default() });
    place.lab.break_servers(&["ums2", "ums3"], umsid_lab::Break::Lasting).unwrap();
    let (own, main) = (place.fingerprint("ums3"), place.fingerprint("ums1"));
    assert_ne!(own, main);
    let run = halted(&place);
    let report = place.umsid(&["rollback", &run, "--yes", "-o", "json"]).exits(8).report();
    let stuck = &report["halt"]["stuck"];
    assert_eq!(
        (report["outcome"].as_str(), stuck["server"].as_str()),
        (Some("stuck"), Some("ums3")),
        "{report:#}"
    );
    assert_eq!(stuck["had"].as_str().unwrap().to_lowercase(), own.to_lowercase());
    assert_eq!(stuck["shows"].as_str().unwrap().to_lowercase(), main.to_lowercase());
    assert_eq!(report["servers"]["ums3"]["put_back"], false, "{report:#}");
    assert_eq!(place.fingerprint("ums3"), main);
    place.umsid(&["rollback", &run, "--give-up", "--yes"]).exits(8).shows("given up");
    place.umsid(&SYNC).exits(0);
    place.is_well();
}
