//! What is shared besides runs: inventory and authority.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use umsid_common::chain;
use umsid_common::durable::{self, Access};

use crate::place::{Begun, CLUSTER, Ran, SOON, Wanted};
use crate::team::{Team, files, missing};

crate::tests! { missing;
    what_one_changes_the_other_sees,
    of_two_who_edit_at_once_the_second_keeps_a_draft,
    what_does_not_do_is_not_taken,
    a_draft_undoes_nothing_that_was_done_since,
    no_certificate_is_lost_when_two_issue_at_once,
    a_copy_edited_by_hand_counts_for_nothing_and_is_put_aside,
    a_run_seals_to_whom_the_inventory_names_or_does_not_go_on,
}

/// An editor that does this with the file.
fn editor(team: &Team, name: &str, script: &str) -> PathBuf {
    let path = team.place.dir.path().join(name);
    durable::replace(&path, format!("#!/bin/sh\n{script}\n").as_bytes(), Access::Private).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

fn edits(team: &Team, who: &str, editor: &std::path::Path) -> Ran {
    let mut umsid = team.place.begin_of(
        &team.dir(who),
        &[("VISUAL", ""), ("EDITOR", editor.to_str().unwrap())],
        &["inventory", "edit"],
    );
    ended(&mut umsid)
}

fn ended(umsid: &mut Begun) -> Ran {
    umsid_testkit::wait_for_blocking("umsid to end", SOON, || umsid.ended());
    umsid.said()
}

fn what_one_changes_the_other_sees() {
    let team = Team::new(Wanted::default());
    team.joins("bert");
    let elsewhere = editor(&team, "site", "sed -i 's/site = \"site2\"/site = \"south\"/' \"$1\"");
    edits(&team, "bert", &elsewhere).exits(0).says("the inventory is changed");
    team.place.umsid(&["inventory", "show"]).exits(0).shows("site = \"south\"");
    let shown = team.place.umsid(&["inventory", "show", "-o", "json"]).exits(0).json();
    assert_eq!(shown["clusters"]["hamburg"]["servers"]["ums2"]["site"], "south");
    assert!(
        team.sql("SELECT changed_by FROM documents WHERE name = 'inventory.toml'")
            .ends_with("/coordinator/bert")
    );
    team.place.umsid(&["servers", "remove", "hamburg/ums3", "--yes"]).exits(0);
    let servers = team.types("bert", &["servers", "-o", "json"]).exits(0).json();
    assert_eq!(servers.as_array().unwrap().len(), 2, "{servers:#}");
}

fn of_two_who_edit_at_once_the_second_keeps_a_draft() {
    let team = Team::new(Wanted::default());
    team.joins("bert");
    let first = editor(&team, "first", "sed -i 's/site2/first/' \"$1\"");
    let program = env!("CARGO_BIN_EXE_umsid");
    let (bert, first) = (team.dir("bert"), first.display().to_string());
    let meanwhile = format!(
        "UMSID_STATE_DIR='{}' EDITOR='{first}' '{program}' inventory edit 2>/dev/null && sed -i 's/site2/second/' \"$1\"",
        bert.display()
    );
    let second = editor(&team, "second", &meanwhile);
    edits(&team, "state", &second).exits(4).says("was changed meanwhile").says("inventory.draft.toml");
    let draft = std::fs::read_to_string(team.place.state().join("inventory.draft.toml")).unwrap();
    assert!(draft.contains("second"), "{draft}");
    let shown = team.place.umsid(&["inventory", "show"]).exits(0);
    assert!(shown.out.contains("\"first\"") && !shown.out.contains("second"), "{}", shown.out);
}

fn what_does_not_do_is_not_taken() {
    let team = Team::new(Wanted::default());
    let before = team.document("inventory.toml");
    let broken = editor(&team, "broken", "echo 'main = 7 of 9' >>\"$1\"");
    edits(&team, "state", &broken).exits(1).says("inventory.draft.toml");
    let mended = editor(&team, "mended", "sed -i '/7 of 9/d; s/site2/mended/' \"$1\"");
    assert_eq!(team.document("inventory.toml"), before);
    // It is gone on from there.
    edits(&team, "state", &mended).exits(0);
    assert!(team.document("inventory.toml").contains("mended"));
    let other = editor(&team, "other", "sed -i 's/^trust_domain.*/trust_domain = \"another\"/' \"$1\"");
    edits(&team, "state", &other).exits(2).says("trust domain");
}

fn a_draft_undoes_nothing_that_was_done_since() {
    let team = Team::new(Wanted::default());
    let servers = || {
        let listed = team.place.umsid(&["servers", "-o", "json"]).exits(0).json();
        listed.as_array().unwrap().len()
    };
    let (nothing, broken) =
        (editor(&team, "nothing", "true"), editor(&team, "broken", "echo 'main = 7 of 9' >>\"$1\""));
    // A draft that nobody edited counts for nothing.
    edits(&team, "state", &editor(&team, "fails", "false")).exits(1);
    team.place.umsid(&["servers", "remove", "hamburg/ums3", "--yes"]).exits(0);
    edits(&team, "state", &nothing).exits(0).says("nothing was changed");
    assert_eq!(servers(), 2);
    edits(&team, "state", &broken).exits(1);
    edits(&team, "state", &nothing).exits(1).says("which was not taken the last time");
    team.place.umsid(&["servers", "remove", "hamburg/ums2", "--yes"]).exits(0);
    edits(&team, "state", &nothing).exits(4).says("was changed meanwhile").says("inventory.draft.toml");
    assert_eq!(servers(), 1);
    std::fs::remove_file(team.place.state().join("inventory.draft.toml")).unwrap();
    edits(&team, "state", &nothing).exits(0).says("nothing was changed");
    assert!(!files(&team.place.state()).iter().any(|file| file.display().to_string().contains("draft")));
}

fn no_certificate_is_lost_when_two_issue_at_once() {
    let team = Team::alone();
    team.joins("bert");
    let mut begun: Vec<_> = (0..6)
        .map(|number| {
            let (who, name) = (["state", "bert"][number % 2], format!("observer{number}"));
            let out = team.dir(&name);
            let line = ["observer", "add", &name, "--out", out.to_str().unwrap()];
            team.place.begin_of(&team.dir(who), &[], &line)
        })
        .collect();
    for umsid in &mut begun {
        ended(umsid).exits(0);
    }
    let observers = team.place.umsid(&["observer", "-o", "json"]).exits(0).json();
    assert_eq!(observers.as_array().unwrap().len(), 6, "{observers:#}");
}

fn a_copy_edited_by_hand_counts_for_nothing_and_is_put_aside() {
    let team = Team::new(Wanted::default());
    let path = team.place.state().join("inventory.toml");
    let whole = std::fs::read_to_string(&path).unwrap();
    durable::replace(&path, whole.replace("site2", "mine").as_bytes(), Access::Private).unwrap();
    team.place.umsid(&["servers"]).exits(0).says("inventory.edited.toml");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    let aside = std::fs::read_to_string(team.place.state().join("inventory.edited.toml")).unwrap();
    assert!(aside.contains("mine"), "{aside}");
    // What another has changed is no edit of ours.
    team.joins("bert");
    edits(&team, "bert", &editor(&team, "site", "sed -i 's/site2/south/' \"$1\"")).exits(0);
    let said = team.place.umsid(&["servers"]).exits(0).err;
    assert!(!said.contains("edited"), "{said}");
}

/// Whoever can write to the database can write a journal that is whole.
fn a_run_seals_to_whom_the_inventory_names_or_does_not_go_on() {
    let team = Team::new(Wanted::default());
    let escrow = team.key_of("carla");
    let named = format!("sed -i 's/^\\[clusters.hamburg\\]$/&\\nescrow = \"{escrow}\"/' \"$1\"");
    edits(&team, "state", &editor(&team, "named", &named)).exits(0);
    team.place.lab.break_servers(&["ums3"], umsid_lab::Break::Lasting).unwrap();
    team.place.lab.set("ums1", "fails", "backup").unwrap();
    team.place.umsid(&["sync", CLUSTER, "--yes", "--settle", "0"]).exits(1);
    team.place.lab.set("ums1", "fails", "").unwrap();
    let shown = team.place.umsid(&["inventory", "show", "-o", "json"]).exits(0).json();
    let theirs = shown["clusters"][CLUSTER]["servers"]["ums3"]["recipient"].as_str().unwrap().to_owned();
    let others = team.key_of("bert");
    for (whose, from) in [("ums3", &theirs), ("escrow", &escrow)] {
        rewrite_journal(&team, from, &others);
        let said = team.place.umsid(&["resume"]).exits(1);
        said.says(&format!("another key of {whose} than the inventory has")).says("umsid sync hamburg");
        rewrite_journal(&team, &others, from);
    }
    assert_eq!(team.place.calls("ums3", "licensing restore"), 0);
    team.place.umsid(&["resume"]).exits(0);
    team.place.is_well();
}

fn rewrite_journal(team: &Team, from: &str, to: &str) {
    let events: u64 = team.sql("SELECT count(*) FROM events").parse().unwrap();
    let mut link = chain::genesis();
    for number in 1..=events {
        let field = |name: &str| team.sql(&format!("SELECT {name} FROM events WHERE number = {number}"));
        let body = field("body").replace(from, to);
        link = chain::link(&link, number, format!("{}\n{body}", field("at")).as_bytes());
        let body = body.replace('\'', "''");
        team.sql(&format!("UPDATE events SET body = '{body}', link = '{link}' WHERE number = {number}"));
    }
}
