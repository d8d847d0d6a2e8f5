//! `umsadmin-cli` that hangs, leaves children behind, and is another program at the next call. What it does to a full disk
//! is in `disk.rs`; what it does when nothing goes on yet, in `bad_input/programs.rs`.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;
use umsid_lab::Options;
use umsid_testkit::wait_for_blocking;

use crate::place::{CLUSTER, Place, SOON, Wanted};
use crate::trials::nothing;
use crate::world::{at_home, does, says, started, thaw, until_frozen};

crate::tests!(nothing;
    an_export_that_hangs_leaves_the_server_unknown,
    a_safety_backup_that_hangs_halts_the_run_with_nothing_restored,
    a_restore_that_hangs_before_its_effect_has_none,
    a_canary_whose_restore_hangs_after_its_effect_is_put_back,
    a_later_restore_that_hangs_after_its_effect_halts_the_run,
    a_ums_id_that_cannot_be_told_any_more_is_no_success,
    what_a_restart_showed_counts_no_more_when_the_run_is_taken_up,
    children_that_hold_the_output_are_not_waited_for,
    replaced_by_the_same_the_run_goes_on,
    updated_before_the_restore_nothing_is_restored_there,
    updated_on_main_before_the_backup_nothing_is_restored_anywhere,
    replaced_by_something_else_before_the_restore_it_is_no_success,
    replaced_by_something_else_on_main_nothing_is_restored_anywhere,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// The UMS Servers run, and nothing else does: whatever hung was ended, with all it started.
#[track_caller]
fn nothing_hangs(place: &Place) {
    wait_for_blocking("what hung to be ended", SOON, || (place.lab.processes().len() == 3).then_some(()));
}

fn hangs(place: &Place, server: &str, key: &str, sub_command: &str) {
    place.lab.set_many(&[server], &[(key, sub_command), ("hang_forks_child", "true")]).unwrap();
}

/// An agent that ends this sub-command after so long. Long enough for one that works, on a busy machine too.
fn ended_after(limit: &str, sub_command: &str) -> impl FnOnce(&str) -> String {
    let (key, short) = (format!("{sub_command} = "), format!("{sub_command} = {limit:?}"));
    move |text| {
        let line = |line: &str| if line.starts_with(&key) { short.clone() } else { line.to_owned() };
        text.lines().map(|given| line(given) + "\n").collect()
    }
}

fn failed(report: &Value) -> (&str, &str, &str) {
    let failed = &report["failures"][0];
    let text = |key: &str| failed[key].as_str().unwrap_or_default();
    (text("server"), text("code"), report["outcome"].as_str().unwrap_or_default())
}

fn an_export_that_hangs_leaves_the_server_unknown() {
    // The list shows fingerprints without a label, so that an export is needed.
    let lab = Options { dialects: vec!["unlabelled".to_owned()], ..Options::default() };
    let place = Place::with(Wanted { lab, ..Wanted::default() });
    place.lab.break_servers(&["ums2"], umsid_lab::Break::Lasting).unwrap();
    let before = place.lab.truth().unwrap();
    place.reconfigure("ums2", ended_after("5s", "export"));
    hangs(&place, "ums2", "hang", "export");
    let ran = place.umsid(&[&SYNC[..], &["--main", "ums1"]].concat()).exits(3);
    says(&ran, &["ums2: whether it is in sync is unknown", "licensing export", "did not end within 5s"]);
    nothing_hangs(&place);
    assert_eq!(place.lab.truth().unwrap(), before);
}

fn a_safety_backup_that_hangs_halts_the_run_with_nothing_restored() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.reconfigure("ums2", ended_after("5s", "backup"));
    hangs(&place, "ums2", "hang", "backup");
    let report = place.umsid(&[&SYNC[..], &["-o", "json"]].concat()).exits(1).report();
    assert_eq!(failed(&report), ("ums2", "command-timeout", "halted"), "{report:#}");
    nothing_hangs(&place);
    before.nothing_changed(&place);
    place.lab.set("ums2", "hang", "").unwrap();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

/// That is seen, not assumed: there is nothing to put back.
fn a_restore_that_hangs_before_its_effect_has_none() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.reconfigure("ums3", ended_after("5s", "restore"));
    hangs(&place, "ums3", "hang", "restore");
    let ran = place.umsid(&SYNC).exits(1);
    says(&ran, &["ums3: step", "licensing restore", "did not end within 5s", "umsid resume"]);
    nothing_hangs(&place);
    before.nothing_changed(&place);
    let run = place.umsid(&["runs", "-o", "json"]).json()["runs"][0]["run"].as_str().unwrap().to_owned();
    place.umsid(&["runs", "show", &run]).shows("this server's UMS ID still is");
    place.umsid(&["rollback", &run, "ums3", "--yes"]).exits(2).says("restored nothing on ums3");
    place.lab.set("ums3", "hang", "").unwrap();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    before.one_at_a_time(&place);
    assert_eq!(place.calls("ums2", "licensing restore"), 1);
    assert_eq!(place.calls("ums3", "igelRMserver restart"), 1);
}

fn a_canary_whose_restore_hangs_after_its_effect_is_put_back() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let (own, main) = (place.fingerprint("ums3"), place.fingerprint("ums1"));
    place.reconfigure("ums3", ended_after("5s", "restore"));
    hangs(&place, "ums3", "hangs_after_effect", "restore");
    place.lab.set("ums3", "delay_ms", "100").unwrap();
    let mut umsid = place.watch(&SYNC);
    let back = umsid.until("the way back", |event| event["event"] == "turned-back");
    place.lab.set("ums3", "hangs_after_effect", "").unwrap();
    let why = back["why"].as_str().unwrap();
    assert!(why.contains("did not end within 5s"), "{why}");
    assert!(why.to_lowercase().contains(&format!("this server's ums id is now {main}")), "{why}");
    let report = umsid.ends(1);
    assert_eq!(failed(&report), ("ums3", "command-timeout", "rolled-back"), "{report:#}");
    nothing_hangs(&place);
    before.as_it_was_or_in_sync(&place);
    let truth = place.lab.truth().unwrap();
    let canary = truth.server("ums3").unwrap();
    assert_eq!((&canary.fingerprint, canary.running_fingerprint.as_ref()), (&own, Some(&own)));
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
}

fn a_later_restore_that_hangs_after_its_effect_halts_the_run() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let main = place.fingerprint("ums1");
    place.reconfigure("ums2", ended_after("5s", "restore"));
    hangs(&place, "ums2", "hangs_after_effect", "restore");
    let report = place.umsid(&[&SYNC[..], &["-o", "json"]].concat()).exits(1).report();
    assert_eq!(failed(&report), ("ums2", "command-timeout", "halted"), "{report:#}");
    let causes = report["failures"][0].to_string().to_lowercase();
    assert!(causes.contains(&format!("this server's ums id is now {main}")), "{report:#}");
    nothing_hangs(&place);
    // It holds the Main UMS ID by then, runs on its own, and is not called in sync.
    assert_eq!(place.states()["ums2"], "not-in-sync");
    place.lab.set("ums2", "hangs_after_effect", "").unwrap();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    before.one_at_a_time(&place);
    assert_eq!(place.calls("ums2", "igelRMserver restart"), 1);
    assert_eq!(place.calls("ums3", "licensing restore"), 1);
}

/// It is restarted by then, and all is well: nobody can see it.
fn a_ums_id_that_cannot_be_told_any_more_is_no_success() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.reconfigure("ums3", |text| ended_after("2s", "list")(&ended_after("2s", "export")(text)));
    let fault = format!("stop@journal {} before", started(&place, "verify", "ums3"));
    let impatient = [&SYNC[..], &["--contact-timeout", "1s"]].concat();
    let umsid = place.watch_with(&[("UMSID_FAULT", &fault)], &impatient);
    until_frozen(umsid.pid());
    hangs(&place, "ums3", "hang", "list,export");
    thaw(umsid.pid());
    let report = umsid.ends(8);
    assert_eq!(report["outcome"], "halted", "{report:#}");
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(why.contains("ums3: step") && why.contains("its UMS ID cannot be told any more"), "{why}");
    nothing_hangs(&place);
    assert_eq!(place.calls("ums1", "igelRMserver restart"), 0);
    place.lab.set("ums3", "hang", "").unwrap();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

/// The outcome of a restart that ended while nobody watched may be of any age: it says nothing of what the server shows now.
fn what_a_restart_showed_counts_no_more_when_the_run_is_taken_up() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    place.reconfigure("ums2", |text| ended_after("2s", "list")(&ended_after("2s", "export")(text)));
    let restart = started(&place, "restart", "ums2").replace("started", "operation");
    let fault = format!("abort@{restart} accepted");
    let died = crate::place::umsid(&place.state(), &[("UMSID_FAULT", &fault)], &SYNC);
    assert_eq!(died.exit, None, "{died:?}");
    wait_for_blocking("ums2 to be in sync", SOON, || (place.states()["ums2"] == "in-sync").then_some(()));
    hangs(&place, "ums2", "hang", "list,export");
    let halted = place.umsid(&["resume", "--contact-timeout", "1s", "-o", "json"]).exits(8).report();
    assert_eq!(halted["outcome"], "halted", "{halted:#}");
    let why = halted["halt"]["why"].as_str().unwrap();
    assert!(why.contains("ums2: step") && why.contains("its UMS ID cannot be told any more"), "{why}");
    assert_eq!(place.calls("ums1", "igelRMserver restart"), 0);
    nothing_hangs(&place);
    place.lab.set("ums2", "hang", "").unwrap();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

fn children_that_hold_the_output_are_not_waited_for() {
    let (place, before) = at_home(&[("leaves_child", "backup,restore")], &["ums2", "ums3"]);
    place.umsid(&SYNC).exits(0).shows("synchronized");
    before.done_once(&place);
    // Three backups and two restores left one each, and each is still there.
    assert_eq!(place.lab.processes().len(), 3 + 5);
}

#[expect(clippy::disallowed_methods, reason = "a program is replaced in one step, as an update would")]
fn put(link: &Path, in_place_of: &Path) {
    std::fs::rename(link, in_place_of).unwrap();
}

/// From the next call on, this program is called in place of a server's `umsadmin-cli`.
fn replace(place: &Place, server: &str, by: &Path) {
    let program = &place.lab.server(server).unwrap().umsadmin_cli;
    let link = program.with_extension("new");
    symlink(by, &link).unwrap();
    put(&link, program);
}

/// The program of a server under another name, to be put back.
fn twin(place: &Place, server: &str) -> std::path::PathBuf {
    let program = &place.lab.server(server).unwrap().umsadmin_cli;
    let twin = program.with_extension("twin");
    std::fs::hard_link(program, &twin).unwrap();
    twin
}

/// Prints what it was asked, and calls that success.
const ECHO: &str = "/bin/echo";

/// A run whose canary takes its time, so that something can be done to ums2 between its safety backup and its restore.
fn before_the_restore_on_ums2(place: &Place, change: impl FnOnce()) -> crate::place::Watched {
    place.lab.set("ums3", "restore_delay_ms", "1000").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the restore on ums3", |event| does(event, "ums3", "restoring the UMS ID"));
    change();
    umsid
}

/// The same with Main, between the survey and its backup.
fn before_the_backup_on_main(place: &Place, change: impl FnOnce()) -> crate::place::Watched {
    let umsid = place.watch_with(&[("UMSID_FAULT", "stop@journal leased before")], &SYNC);
    until_frozen(umsid.pid());
    change();
    thaw(umsid.pid());
    umsid
}

fn replaced_by_the_same_the_run_goes_on() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let twin = twin(&place, "ums2");
    let umsid = before_the_restore_on_ums2(&place, || replace(&place, "ums2", &twin));
    let report = umsid.ends(0);
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    before.done_once(&place);
}

fn updated_before_the_restore_nothing_is_restored_there() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let own = place.fingerprint("ums2");
    let update = || place.lab.set("ums2", "version", "12.10.100").unwrap();
    let report = before_the_restore_on_ums2(&place, update).ends(1);
    assert_eq!(failed(&report), ("ums2", "bad-backup", "halted"), "{report:#}");
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(why.contains("the backup is of UMS 12.09.110, and UMS 12.10.100 is installed here"), "{why}");
    assert_eq!(place.fingerprint("ums2"), own);
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
    before.as_it_was_or_in_sync(&place);
    place.umsid(&["resume"]).exits(1).says("must run the same version");
    // Somebody takes the update back.
    place.lab.set("ums2", "version", "12.09.110").unwrap();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

fn updated_on_main_before_the_backup_nothing_is_restored_anywhere() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let update = || place.lab.set("ums1", "version", "12.10.100").unwrap();
    let report = before_the_backup_on_main(&place, update).ends(1);
    assert_eq!(failed(&report), ("ums3", "bad-backup", "halted"), "{report:#}");
    before.nothing_changed(&place);
    for server in ["ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore"), 0, "on {server}");
    }
}

fn replaced_by_something_else_before_the_restore_it_is_no_success() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let (own, starts) = (place.fingerprint("ums2"), place.starts());
    let twin = twin(&place, "ums2");
    let report = before_the_restore_on_ums2(&place, || replace(&place, "ums2", Path::new(ECHO))).ends(8);
    assert_eq!(report["outcome"], "halted", "{report:#}");
    let why = report["halt"]["why"].as_str().unwrap();
    assert!(why.contains("ums2: step") && why.contains("its UMS ID cannot be told any more"), "{why}");
    assert_eq!(place.fingerprint("ums2"), own);
    assert_eq!(place.starts()[..2], starts[..2]);
    place.umsid(&["status"]).exits(3);
    replace(&place, "ums2", &twin);
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

fn replaced_by_something_else_on_main_nothing_is_restored_anywhere() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let twin = twin(&place, "ums1");
    let report = before_the_backup_on_main(&place, || replace(&place, "ums1", Path::new(ECHO))).ends(1);
    assert_eq!(report["outcome"], "halted", "{report:#}");
    assert_eq!(report["failures"][0]["code"], "no-effect", "{report:#}");
    before.nothing_changed(&place);
    for server in ["ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore"), 0, "on {server}");
    }
    replace(&place, "ums1", &twin);
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}
