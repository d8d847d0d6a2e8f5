//! What is refused, and that nothing is changed then.

use std::path::Path;

use crate::place::Place;

/// Nothing was restored, restarted or journalled.
#[track_caller]
fn untouched(place: &Place, starts: &[usize]) {
    assert_eq!(place.starts(), starts);
    for server in place.lab.servers() {
        assert_eq!(place.calls(&server.name, "licensing restore"), 0, "on {}", server.name);
        assert_eq!(place.calls(&server.name, "licensing backup"), 0, "on {}", server.name);
    }
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 0, "{runs:#}");
}

#[test]
fn off_a_terminal_nothing_is_done_without_a_yes() {
    let place = Place::broken(&["ums2"]);
    let starts = place.starts();
    place
        .umsid(&["sync", "--settle", "0"])
        .exits(2)
        .says("restore the Main UMS ID")
        .says("say --yes if you mean it");
    place.umsid(&["restart"]).exits(2).says("--yes");
    untouched(&place, &starts);
}

#[test]
fn a_dry_run_shows_the_plan_and_does_nothing() {
    let place = Place::broken(&["ums2"]);
    let starts = place.starts();
    let shown = place.umsid(&["sync", "--dry-run", "-o", "json"]).exits(0).json();
    assert_eq!(shown["plan"]["targets"], serde_json::json!(["ums2"]));
    untouched(&place, &starts);
}

#[test]
fn a_plan_is_refused_when_the_facts_have_changed() {
    let place = Place::broken(&["ums2"]);
    let file = place.dir.path().join("plan.json");
    let file = file.to_str().unwrap();
    place.umsid(&["plan", "--out", file]).exits(0);
    place.lab.break_server("ums3").unwrap();
    let starts = place.starts();
    place
        .umsid(&["sync", "--plan", file, "--yes"])
        .exits(1)
        .says("- ums3: was in-sync, is not-in-sync")
        .says("the facts have changed")
        .says("umsid plan hamburg");
    place
        .umsid(&["sync", "berlin", "--plan", file, "--yes"])
        .exits(2)
        .says("for cluster hamburg, not for berlin");
    place.umsid(&["sync", "--plan", file, "--yes", "--batch", "2"]).exits(2).says("cannot be used with");
    untouched(&place, &starts);
}

#[test]
fn names_that_are_not_there_are_refused() {
    let place = Place::broken(&["ums2"]);
    let starts = place.starts();
    place.umsid(&["sync", "hamburk", "--yes"]).exits(2).says("did you mean `hamburg`?");
    place.umsid(&["sync", "--only", "ums9", "--yes"]).exits(2).says("ums9 is not in cluster hamburg");
    place.umsid(&["sync", "--main", "ums9", "--yes"]).exits(8).says("ums9 was named as the Main server");
    place.umsid(&["sync", "--only", "ums1", "--yes"]).exits(2).says("is the Main server");
    place.umsid(&["resume"]).exits(2).says("there is no run to resume");
    place.umsid(&["rollback", "2026"]).exits(2).says("there is no run `2026`");
    untouched(&place, &starts);
}

#[test]
fn with_a_server_that_does_not_answer_nothing_is_called_in_sync() {
    let place = Place::new();
    let starts = place.starts();
    place.kill_agent("ums3");
    place.umsid(&["sync", "--yes"]).exits(5).says("ums3 did not answer").says("--only SERVER");
    untouched(&place, &starts);
    place.lab.break_server("ums2").unwrap();
    // Who names the servers may go on without it.
    place.umsid(&["sync", "--yes", "--settle", "0", "--only", "ums2"]).exits(0);
    place.start_agent("ums3");
    place.is_well();
}

#[test]
fn a_locked_cluster_is_left_alone_and_the_holder_named() {
    let place = Place::broken(&["ums2"]);
    let twin = place.dir.path().join("twin");
    copy(&place.state(), &twin);
    place.lab.set("ums2", "restore_delay_ms", "3000").unwrap();
    let mut umsid = place.watch(&["sync", "--yes", "--settle", "0"]);
    umsid.until_begun("restore", "ums2");
    let run = umsid.seen[0]["run"].as_str().unwrap().to_owned();

    // Another machine with the same authority knows nothing of the run but what the agents say.
    place.umsid_of(&twin, &["backup"]).exits(4).says("coordinator test").says(&run);
    // The same state directory.
    let at_work = format!("another umsid is at work on hamburg: run {run} of coordinator test");
    for line in [&["backup"][..], &["sync", "--yes"], &["resume"], &["rollback", &run, "--yes"]] {
        place.umsid(line).exits(4).says(&at_work);
    }
    umsid.ends(0);
    place.is_well();
    assert_eq!(place.calls("ums2", "licensing restore"), 1);
    place.umsid_of(&twin, &["backup"]).exits(0);
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
