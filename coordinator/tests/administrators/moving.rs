//! From the files of one administrator into the database of several.

use std::path::Path;

use umsid_common::durable::{self, Access};
use umsid_testkit::PostgresServer;

use crate::place::{self, CLUSTER, Ran, Wanted};
use crate::team::{Team, files, missing};

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

crate::tests! { missing;
    all_that_was_in_files_is_shared_then,
    a_move_that_was_broken_off_is_finished_by_the_next,
    a_key_under_a_passphrase_is_asked_for_it,
    nothing_is_moved_while_somebody_is_at_work,
    nothing_is_put_over_what_others_share,
    with_the_database_away_all_stays_in_files,
    what_is_not_ones_own_is_not_moved,
}

fn moves(team: &Team, dir: &Path, more: &[&str]) -> Ran {
    team.place.umsid_of(dir, &[&["init", "--move", "--state", &team.url], more].concat())
}

/// All files of a directory but those that come and go.
fn kept(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let lasting = |name: &str| !["lock", "-wal", "-shm", "watching"].iter().any(|end| name.ends_with(end));
    let named = files(dir).into_iter().map(|path| (path.display().to_string(), path));
    named.filter(|(name, _)| lasting(name)).map(|(name, path)| (name, std::fs::read(path).unwrap())).collect()
}

fn all_that_was_in_files_is_shared_then() {
    let team = Team::in_files(Wanted::default());
    let (lab, dir) = (&team.place.lab, team.place.state());
    lab.break_servers(&["ums2"], umsid_lab::Break::Lasting).unwrap();
    team.place.umsid(&SYNC).exits(0);
    lab.break_servers(&["ums3"], umsid_lab::Break::Lasting).unwrap();
    lab.set("ums3", "fails", "restore").unwrap();
    team.place.umsid(&SYNC).exits(1);
    lab.set("ums3", "fails", "").unwrap();
    team.place.umsid(&["unlock", "--yes"]);
    let told = |who: &str| {
        let list = team.types(who, &["runs", "-o", "json"]).exits(0).json();
        let of_each = list["runs"].as_array().unwrap().iter().map(|run| {
            let run = run["run"].as_str().unwrap().to_owned();
            team.types(who, &["runs", "show", &run, "-o", "json"]).exits(0).json()
        });
        let of_each: Vec<_> = of_each.collect();
        (list, of_each, team.types(who, &["servers", "-o", "json"]).exits(0).json())
    };
    let before = told("state");
    assert_eq!(before.1.len(), 2, "{:#}", before.0);

    let moved = moves(&team, &dir, &[]).exits(0).shows("moved the state of").shows("administrators  test");
    moved.says("state.moved.db").says("in every backup of it");
    assert_eq!(told("state"), before, "it is told otherwise after the move");
    for file in files(&dir) {
        let own = file.ends_with("coordinator/key.pem");
        let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned();
        assert_eq!(text.contains("PRIVATE KEY"), own, "{}", file.display());
    }
    assert!(!dir.join("state.db").exists() && dir.join("state.moved.db").exists());

    // Another one joins, goes on with what halted in files, and has the authority's key.
    team.joins("bert");
    assert_eq!(told("bert"), before, "it is told otherwise to another");
    team.types("bert", &["resume"]).exits(0);
    team.place.is_well();
    let out = team.dir("observer");
    team.types("bert", &["observer", "add", "nagios", "--out", out.to_str().unwrap()]).exits(0);
    team.place.umsid(&["doctor"]).exits(0);
    // Once more changes nothing.
    let (documents, here) = (team.sql("SELECT name, version FROM documents ORDER BY name"), kept(&dir));
    moves(&team, &dir, &[]).exits(0);
    assert_eq!(team.sql("SELECT name, version FROM documents ORDER BY name"), documents);
    assert_eq!(kept(&dir), here);
}

fn a_move_that_was_broken_off_is_finished_by_the_next() {
    let team = Team::in_files(Wanted::default());
    let dir = team.place.state();
    team.place.umsid(&["sync", CLUSTER, "--yes", "--settle", "0", "--restart", "none"]);
    let line = ["init", "--move", "--state", &team.url];
    let breaks_off_at = |moment: &str| {
        let fault = format!("abort@{moment}");
        let ran = place::umsid(&dir, &[("UMSID_FAULT", &fault)], &line);
        assert!(ran.out.is_empty(), "it was not broken off at {moment}: {}", ran.out);
    };
    breaks_off_at("move remembered");
    assert_eq!(team.sql("SELECT count(*) FROM documents"), "0");
    for command in [&["status"][..], &["servers"], &["servers", "remove", "hamburg/ums3", "--yes"], &SYNC] {
        let said = team.place.umsid(command).exits(8).says("is not there yet");
        said.says("umsid init --move --state").says("state-url");
    }
    // She may think better of it.
    std::fs::remove_file(dir.join("state-url")).unwrap();
    team.place.umsid(&["servers"]).exits(0);
    breaks_off_at("move remembered");
    breaks_off_at("move arrived");
    assert!(dir.join("authority/key.pem").exists(), "it was removed before anybody looked");
    // Whoever works on meanwhile works with what is shared.
    team.place.umsid(&["servers", "remove", "hamburg/ums3", "--yes"]).exits(0);
    moves(&team, &dir, &[]).exits(0);
    assert!(!dir.join("authority/key.pem").exists() && !dir.join("state.db").exists());
    let servers = team.place.umsid(&["servers", "-o", "json"]).exits(0).json();
    assert_eq!(servers.as_array().unwrap().len(), 2, "{servers:#}");
    team.place.umsid(&["status"]).exits(0);
}

fn a_key_under_a_passphrase_is_asked_for_it() {
    let team = Team::in_files(Wanted { agents: false, ..Wanted::default() });
    let dir = team.dir("carla");
    let secret = |name: &str, text: &str| {
        let path = team.place.dir.path().join(name);
        durable::replace(&path, text.as_bytes(), Access::Private).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = (secret("right", "a rose is a rose\n"), secret("wrong", "is it\n"));
    team.types("carla", &["init", "--passphrase-file", &right]).exits(0);
    let before = kept(&dir);
    moves(&team, &dir, &[]).exits(6).says("--passphrase-file");
    moves(&team, &dir, &["--passphrase-file", &wrong]).exits(6).says("does not open");
    let after: Vec<_> =
        kept(&dir).into_iter().filter(|(name, _)| !name.ends_with("administrator.key")).collect();
    assert_eq!(after, before, "something was changed");
    moves(&team, &dir, &["--passphrase-file", &right]).exits(0);
    assert!(!dir.join("authority/key.age").exists());
    let out = team.dir("observer");
    team.types("carla", &["observer", "add", "nagios", "--out", out.to_str().unwrap()]).exits(0);
}

fn nothing_is_moved_while_somebody_is_at_work() {
    let team = Team::in_files(Wanted::default()).slow();
    let dir = team.place.state();
    team.place.lab.set("ums3", "restore_delay_ms", "3000").unwrap();
    let mut umsid = team.place.watch(&SYNC);
    umsid.until_begun("restore", "ums3");
    moves(&team, &dir, &[]).exits(4).says("another umsid is at work on hamburg: run");
    assert!(!dir.join("state-url").exists());
    assert!(umsid.ended().success());
    let home = umsid::home::Home { dir: dir.clone() };
    let watching = home.lock_watch().unwrap().unwrap();
    moves(&team, &dir, &[]).exits(4).says("`umsid watch` is at work");
    drop(watching);
    moves(&team, &dir, &[]).exits(0);
}

fn nothing_is_put_over_what_others_share() {
    let other = Team::alone();
    let team =
        Team { url: other.url.clone(), ..Team::in_files(Wanted { agents: false, ..Wanted::default() }) };
    let dir = team.place.state();
    let (shared, before) = (other.sql("SELECT body FROM documents ORDER BY name"), kept(&dir));
    moves(&team, &dir, &[]).exits(2).says("there is shared state in").says("name an empty database");
    assert_eq!(other.sql("SELECT body FROM documents ORDER BY name"), shared);
    let after: Vec<_> =
        kept(&dir).into_iter().filter(|(name, _)| !name.ends_with("administrator.key")).collect();
    assert_eq!(after, before);
}

fn with_the_database_away_all_stays_in_files() {
    let server = PostgresServer::start();
    let team = Team { url: server.database(), ..Team::in_files(Wanted::default()) };
    let dir = team.place.state();
    server.stop();
    moves(&team, &dir, &[]).exits(5).says("see that the database server runs");
    team.place.umsid(&["status"]).exits(0);
    server.start_again();
    moves(&team, &dir, &[]).exits(0);
    team.place.umsid(&["status"]).exits(0);
}

fn what_is_not_ones_own_is_not_moved() {
    let team = Team::alone();
    moves(&team, &team.dir("nobody"), &[]).exits(1).says("umsid init");
    let elsewhere = PostgresServer::shared().unwrap().database();
    let line = ["init", "--move", "--state", &elsewhere];
    team.place.umsid(&line).exits(2).says("not in its own files");
    team.place.umsid(&["init", "--move"]).exits(2).says("--state URL");
    let out = team.dir("observer");
    team.place.umsid(&["observer", "add", "nagios", "--out", out.to_str().unwrap()]).exits(0);
    moves(&team, &out, &[]).exits(7).says("observer");
}
