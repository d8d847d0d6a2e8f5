//! From the files of one administrator into the database of several.

use std::path::Path;

use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access};
use umsid_testkit::{PostgresServer, wait_for_blocking};

use crate::place::{self, Begun, CLUSTER, Ran, SOON, Wanted};
use crate::team::{Team, files, missing};

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

crate::tests! { missing;
    all_that_was_in_files_is_shared_then,
    a_move_that_was_broken_off_is_finished_by_the_next,
    a_key_under_a_passphrase_is_asked_for_it,
    nothing_is_moved_while_somebody_is_at_work,
    nothing_is_put_over_what_others_share,
    with_the_database_away_all_stays_in_files,
    what_the_database_does_not_take_stays_in_files,
    whether_it_was_taken_is_not_known_without_an_answer,
    what_was_begun_before_changes_no_files_afterwards,
    of_two_moves_the_second_goes_where_the_first_went,
    where_somebody_else_was_faster_is_told,
    what_is_not_ones_own_is_not_moved,
}

fn moves(team: &Team, dir: &Path, more: &[&str]) -> Ran {
    team.place.umsid_of(dir, &[&["init", "--move", "--state", &team.url], more].concat())
}

/// All files of a directory but those that come and go.
fn kept(dir: &Path) -> Vec<(String, Digest)> {
    let lasting = |name: &str| !["lock", "-wal", "-shm", "watching"].iter().any(|end| name.ends_with(end));
    let named = files(dir).into_iter().map(|path| (path.display().to_string(), path));
    named
        .filter(|(name, _)| lasting(name))
        .map(|(name, path)| (name, Digest::of(&std::fs::read(path).unwrap())))
        .collect()
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
    team.place.umsid(&["servers"]).exits(0).says("is still in").says("umsid init --move --state");
    team.place.umsid(&["doctor"]).shows("the move to").shows("is not finished");
    // Whoever works on meanwhile works with what is shared.
    team.place.umsid(&["servers", "remove", "hamburg/ums3", "--yes"]).exits(0);
    moves(&team, &dir, &[]).exits(0);
    assert!(!dir.join("authority/key.pem").exists() && !dir.join("state.db").exists());
    let said = team.place.umsid(&["servers"]).exits(0).err;
    assert!(!said.contains("is still in"), "{said}");
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
    other.sql("BEGIN; CREATE TABLE away AS SELECT * FROM documents; DELETE FROM documents; COMMIT");
    other.sql(
        "INSERT INTO runs (run, cluster, kind, begun) VALUES ('20261128t000000-000001', 'c', 'sync', '')",
    );
    moves(&team, &dir, &[]).exits(2).says("name an empty database");
    other.sql("INSERT INTO documents SELECT * FROM away");
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
    assert!(!dir.join("state-url").exists());
    team.place.umsid(&["status"]).exits(0);
    server.start_again();
    moves(&team, &dir, &[]).exits(0);
    team.place.umsid(&["status"]).exits(0);
}

fn what_the_database_does_not_take_stays_in_files() {
    let team = Team::in_files(Wanted::default());
    let dir = team.place.state();
    team.place.lab.break_servers(&["ums2"], umsid_lab::Break::Lasting).unwrap();
    team.place.umsid(&SYNC).exits(0);
    let fault = [("UMSID_FAULT", "abort@move remembered")];
    place::umsid(&dir, &fault, &["init", "--move", "--state", &team.url]);
    std::fs::remove_file(dir.join("state-url")).unwrap();
    let runs = team.place.umsid(&["runs"]).exits(0).out;
    let before = kept(&dir);
    // It breaks down when the documents and the list of runs are there.
    team.sql(
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'no room left'; END $$ LANGUAGE plpgsql; \
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    moves(&team, &dir, &[]).exits(1).says("nothing was moved").says("no room left");
    // The journal is another file whenever it was open; what is in it is told below.
    let after = kept(&dir);
    let is_journal = |name: &str| name.ends_with("state.db");
    let changed = after.iter().filter(|file| !before.contains(file) && !is_journal(&file.0));
    assert_eq!(changed.collect::<Vec<_>>(), Vec::<&(String, Digest)>::new());
    assert_eq!(after.len(), before.len());
    assert_eq!(team.sql("SELECT (SELECT count(*) FROM documents) + (SELECT count(*) FROM runs)"), "0");
    assert_eq!(team.place.umsid(&["runs"]).exits(0).out, runs);
    team.sql("DROP TRIGGER refuse ON events");
    moves(&team, &dir, &[]).exits(0);
    assert_eq!(team.place.umsid(&["runs"]).exits(0).out, runs);
}

fn whether_it_was_taken_is_not_known_without_an_answer() {
    let server = PostgresServer::start();
    let team =
        Team { url: server.database(), ..Team::in_files(Wanted { agents: false, ..Wanted::default() }) };
    let (dir, database) = (team.place.state(), team.url.rsplit('/').next().unwrap());
    let line = ["init", "--move", "--state", &team.url];
    place::umsid(&dir, &[("UMSID_FAULT", "abort@move remembered")], &line);
    std::fs::remove_file(dir.join("state-url")).unwrap();
    // All is there, and the server takes its time to say so.
    server.sql(
        database,
        "CREATE FUNCTION wait() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(600); RETURN NULL; END $$ LANGUAGE plpgsql; \
         CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON documents DEFERRABLE INITIALLY DEFERRED \
         FOR EACH ROW EXECUTE FUNCTION wait()",
    );
    let mut umsid = team.place.begin(&[], &line);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'";
    wait_for_blocking("the commit", SOON, || (server.sql(database, waits) == "1").then_some(()));
    server.stop();
    wait_for_blocking("its end", SOON, || umsid.ended());
    umsid.said().exits(5).says("has taken it is not known").says("type the same again");
    assert!(dir.join("state-url").exists());
    server.start_again();
    team.place.umsid(&["servers"]).exits(8).says("is not there yet");
    server.sql(database, "DROP TRIGGER wait ON documents");
    moves(&team, &dir, &[]).exits(0);
    team.place.umsid(&["servers"]).exits(0);
}

fn what_was_begun_before_changes_no_files_afterwards() {
    use rustix::process::{Pid, Signal, kill_process};
    let team = Team::in_files(Wanted::default());
    let dir = team.place.state();
    team.place.umsid(&["sync", CLUSTER, "--yes", "--restart", "none"]);
    team.place.lab.break_servers(&["ums2"], umsid_lab::Break::Lasting).unwrap();
    let agent = i32::try_from(team.place.agent_pid("ums3")).ok().and_then(Pid::from_raw).unwrap();
    kill_process(agent, Signal::STOP).unwrap();
    let mut umsid = team.place.begin(&[], &SYNC);
    // It has looked where the journal is, and waits for an answer.
    until_open(&umsid, "state.db");
    moves(&team, &dir, &[]).exits(0);
    kill_process(agent, Signal::CONT).unwrap();
    wait_for_blocking("its end", SOON, || umsid.ended());
    umsid.said().exits(4).says("was moved meanwhile").says("type it again");
    assert!(!dir.join("state.db").exists());
    team.place.umsid(&SYNC).exits(0);
    team.place.is_well();
}

fn of_two_moves_the_second_goes_where_the_first_went() {
    let team = Team::in_files(Wanted { agents: false, ..Wanted::default() });
    let dir = team.place.state();
    let first = std::fs::File::create(dir.join("lock")).unwrap();
    first.lock().unwrap();
    let mut second = team.place.begin(&[], &["init", "--move", "--state", &team.url]);
    until_open(&second, "state/lock");
    durable::replace(&dir.join("state-url"), b"postgres://anna@db.example.com/umsid\n", Access::Private)
        .unwrap();
    drop(first);
    wait_for_blocking("its end", SOON, || second.ended());
    second.said().exits(2).says("is in postgres://anna@db.example.com/umsid, not in its own files");
    assert_eq!(team.sql("SELECT count(*) FROM pg_tables WHERE tablename = 'documents'"), "0");
}

/// Waits until it has a file of this name open.
fn until_open(umsid: &Begun, name: &str) {
    let open = format!("/proc/{}/fd", umsid.pid());
    let is_open = || {
        let files = std::fs::read_dir(&open).ok()?.flatten();
        let mut files = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        files.any(|file| file.ends_with(name)).then_some(())
    };
    wait_for_blocking(name, SOON, is_open);
}

fn where_somebody_else_was_faster_is_told() {
    let team = Team::in_files(Wanted { agents: false, ..Wanted::default() });
    let dir = team.place.state();
    let line = ["init", "--move", "--state", &team.url];
    place::umsid(&dir, &[("UMSID_FAULT", "abort@move remembered")], &line);
    team.tries("bert").exits(0).shows("begun the shared state");
    let theirs = team.sql("SELECT body FROM documents ORDER BY name");
    for command in [&line[..], &["servers"]] {
        team.place.umsid(command).exits(8).says("somebody else's").says("state-url");
    }
    assert_eq!(team.sql("SELECT body FROM documents ORDER BY name"), theirs);
    assert!(dir.join("authority/key.pem").exists());
    std::fs::remove_file(dir.join("state-url")).unwrap();
    team.place.umsid(&["servers"]).exits(0);
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
