//! The coordinator is lost: its journal is gone, or the run is taken up on another machine, from the agents.

use std::path::{Path, PathBuf};

use serde_json::Value;
use umsid::authority::Authority;
use umsid_common::chain;
use umsid_common::durable::{self, Access};
use umsid_common::name::Identity;
use umsid_common::tls::Files;

use crate::place::{CLUSTER, Place, Ran, lose_journal};
use crate::refusals::copy;

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];
const RESUME: [&str; 3] = ["resume", "--from-agents", CLUSTER];
const SERVERS: [&str; 3] = ["ums1", "ums2", "ums3"];

/// Another administrator's machine: the same authority and inventory, a certificate of its own, no journal.
fn another_machine(place: &Place) -> PathBuf {
    let there = place.dir.path().join("elsewhere");
    copy(&place.state(), &there);
    lose_journal(&there);
    let authority = Authority::open(&there.join("authority")).unwrap();
    let files = Files::in_dir(&there.join("coordinator"));
    let own = umsid_common::tls::Tls::load(files.clone()).unwrap().current().identity().clone();
    let bernd: Identity = format!("spiffe://{}/coordinator/bernd", own.trust_domain).parse().unwrap();
    authority.equip(&files, &bernd).unwrap();
    there
}

/// Two servers out of sync, everything slow enough to be met in the middle.
fn slow() -> Place {
    let place = Place::broken(&["ums2", "ums3"]);
    let slow = [("backup_delay_ms", "400"), ("restore_delay_ms", "400"), ("stop_ms", "400")];
    place.lab.set_many(&["ums2", "ums3"], &slow).unwrap();
    place
}

fn run_of(seen: &[Value]) -> String {
    seen[0]["run"].as_str().unwrap().to_owned()
}

/// The end of every run that was taken up and went well: nothing was done twice.
#[track_caller]
fn nothing_twice(place: &Place) {
    place.is_well();
    for server in ["ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore"), 1, "restored once on {server}");
        assert_eq!(place.calls(server, "licensing backup"), 1, "backed up once on {server}");
        assert_eq!(place.calls(server, "igelRMserver restart"), 1, "restarted once: {server}");
    }
    assert_eq!(place.calls("ums1", "licensing backup"), 1);
}

/// `umsid` dies when this is seen, the journal with it.
fn lost_at(what: &str, is_it: impl Fn(&Value) -> bool) {
    let place = slow();
    let mut umsid = place.watch(&SYNC);
    umsid.until(what, is_it);
    let run = run_of(&umsid.seen);
    umsid.kill();
    place.lose_journal();
    place.umsid(&["resume"]).exits(2).says("there is no run to resume");

    let resumed = place.umsid(&[&RESUME[..], &["-o", "json"]].concat()).exits(0);
    let report = resumed.says(&format!("run {run}: sync of {CLUSTER}, begun by coordinator test")).report();
    assert_eq!(
        (&report["run"], &report["outcome"]),
        (&run.as_str().into(), &"synchronized".into()),
        "{report:#}"
    );
    nothing_twice(&place);
    place.umsid(&["status"]).exits(0);
    // It is in the journal again, from the first event on.
    let shown = place.umsid(&["runs", "show", &run, "-o", "json"]).exits(0).json();
    assert_eq!(shown["events"][0]["event"], "begun");
    place.umsid(&RESUME).exits(2).says("is over");
}

fn begun<'a>(kind: &'a str, server: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |event| event["event"] == "started" && event["do"] == kind && event["server"] == server
}

fn doing<'a>(what: &'a str, server: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |event| {
        event["server"] == server && event["what"].as_str().is_some_and(|text| text.starts_with(what))
    }
}

#[test]
fn lost_right_after_the_first_step_was_begun() {
    lost_at("the first step", |event| event["event"] == "started");
}

#[test]
fn lost_while_the_canary_is_restored() {
    lost_at("the restore on ums3", doing("restoring the UMS ID", "ums3"));
}

#[test]
fn lost_after_the_canary() {
    lost_at("the second restore", begun("restore", "ums2"));
}

#[test]
fn lost_while_the_last_target_is_restarted() {
    lost_at("the last restart", doing("restarting", "ums2"));
}

#[test]
fn lost_on_the_way_back_it_goes_on_back() {
    let place = slow();
    let own = [place.fingerprint("ums2"), place.fingerprint("ums3")];
    place.lab.set("ums3", "start", "old-id").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the way back", |event| event["event"] == "turned-back");
    place.lab.set("ums3", "start", "normal").unwrap();
    umsid.until("the way back to begin", begun("restore-own", "ums3"));
    umsid.kill();
    place.lose_journal();
    place.umsid(&RESUME).exits(1).shows("rolled back");
    assert_eq!([place.fingerprint("ums2"), place.fingerprint("ums3")], own);
    assert_eq!(place.calls("ums3", "licensing restore"), 2, "there and back, each once");
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
    place.never_created();
}

#[test]
fn lost_in_the_middle_it_is_rolled_back_from_another_machine() {
    let place = slow();
    let own = [place.fingerprint("ums2"), place.fingerprint("ums3")];
    let mut umsid = place.watch(&SYNC);
    umsid.until("the second restore", doing("restoring the UMS ID", "ums2"));
    let run = run_of(&umsid.seen);
    umsid.kill();
    let there = another_machine(&place);
    let listed = place.umsid_of(&there, &["runs", "--from-agents", CLUSTER]).exits(0);
    listed.shows(&run).shows("ums3");
    let back = ["rollback", &run, "--from-agents", CLUSTER, "--yes", "-o", "json"];
    let report = place.umsid_of(&there, &back).exits(0).report();
    assert_eq!(report["outcome"], "rolled-back", "{report:#}");
    let truth = place.lab.truth().unwrap();
    for (server, own) in ["ums2", "ums3"].into_iter().zip(&own) {
        let server = truth.server(server).unwrap();
        assert_eq!((&server.fingerprint, server.running_fingerprint.as_ref()), (own, Some(own)));
    }
    // The first machine is back: it must not go forward again.
    place.umsid(&["resume"]).exits(8).says("was taken up elsewhere").says("--from-agents");
    place.umsid(&RESUME).exits(2).says("is over");
    assert_eq!([place.fingerprint("ums2"), place.fingerprint("ums3")], own);
}

/// The first is not dead, only away: when it comes back, it must have no effect.
#[cfg(unix)]
#[test]
fn a_coordinator_that_comes_back_after_another_took_its_run_up_is_fenced_off() {
    use rustix::process::{Pid, Signal, kill_process};
    let place = slow();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the restore on ums3", doing("restoring the UMS ID", "ums3"));
    let pid = Pid::from_raw(i32::try_from(umsid.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let there = another_machine(&place);
    // Its leases are still good: the same run takes them over.
    let report = place.umsid_of(&there, &[&RESUME[..], &["-o", "json"]].concat()).exits(0).report();
    assert_eq!(report["outcome"], "synchronized", "{report:#}");
    let starts = place.starts();
    kill_process(pid, Signal::CONT).unwrap();
    let halted = umsid.until("the halt", |event| event["event"] == "halted");
    assert_eq!(halted["kind"], "lease-lost", "{halted:#}");
    assert_ne!(umsid.ended().code(), Some(0));
    nothing_twice(&place);
    assert_eq!(place.starts(), starts);
}

/// A run that stands still before the second restore.
fn halted() -> Place {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums2", "fails", "restore").unwrap();
    place.umsid(&SYNC).exits(1);
    place.lab.set("ums2", "fails", "").unwrap();
    place
}

fn copy_on(place: &Place, server: &str) -> PathBuf {
    let directory = place.agent_dir(server).join("state/journals");
    let mut files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let only = files.next().expect("a copy");
    assert_eq!(files.next(), None);
    only
}

/// Changes what an agent holds while it does not run.
fn tamper(place: &Place, server: &str, change: impl FnOnce(String) -> String) {
    let path = copy_on(place, server);
    place.kill_agent(server);
    let text = std::fs::read_to_string(&path).unwrap();
    durable::replace(&path, change(text).as_bytes(), Access::Private).unwrap();
    place.start_agent(server);
}

#[track_caller]
fn nothing_happened(place: &Place, ran: impl FnOnce() -> Ran) -> Ran {
    let (starts, print) = (place.starts(), place.fingerprint("ums2"));
    let ran = ran();
    assert_eq!((place.starts(), place.fingerprint("ums2")), (starts, print));
    assert_eq!(place.calls("ums3", "licensing restore"), 1);
    ran
}

#[test]
fn no_copy_no_answer_and_a_damaged_copy_are_three_answers() {
    let place = halted();
    place.lose_journal();
    let kept: Vec<(PathBuf, String)> = SERVERS
        .map(|server| copy_on(&place, server))
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .into();
    // Damaged everywhere, in the middle.
    for server in SERVERS {
        tamper(&place, server, |text| text.replacen("\"number\":3", "\"number\":4", 1));
    }
    let damaged = nothing_happened(&place, || place.umsid(&RESUME)).exits(8);
    damaged.says("can be used").says("ums3: ").says("is damaged: record");
    // On two of them: the third is enough.
    tamper(&place, "ums2", |_| kept[1].1.clone());
    place.kill_agent("ums2");
    // Nowhere, as far as is known.
    let unknown = nothing_happened(&place, || place.umsid(&RESUME)).exits(8);
    unknown.says("ums2 did not say what it holds").says("can be used");
    for server in ["ums1", "ums3"] {
        std::fs::remove_file(copy_on(&place, server)).unwrap();
        place.kill_agent(server);
        place.start_agent(server);
    }
    nothing_happened(&place, || place.umsid(&RESUME)).exits(5).says("it is not known whether there is one");
    place.kill_agent("ums1");
    place.kill_agent("ums3");
    nothing_happened(&place, || place.umsid(&RESUME)).exits(5).says("no agent of hamburg said what it holds");
    std::fs::remove_file(copy_on(&place, "ums2")).unwrap();
    for server in SERVERS {
        place.start_agent(server);
    }
    let nothing = nothing_happened(&place, || place.umsid(&RESUME)).exits(1);
    nothing
        .says("no agent of hamburg holds a copy of a run")
        .says("a new `umsid sync hamburg` starts from there");
    // One whole copy among damaged ones, and a torn one, are enough.
    for (path, text) in &kept {
        durable::replace(path, text.as_bytes(), Access::Private).unwrap();
    }
    tamper(&place, "ums1", |text| text.replacen("\"number\":3", "\"number\":4", 1));
    tamper(&place, "ums2", |text| text[..text.len() - 20].to_owned());
    // An agent knows the copies it found when it started.
    tamper(&place, "ums3", |text| text);
    let whole = kept[2].1.lines().count();
    let resumed = place.umsid(&RESUME).exits(0);
    resumed.says("the copy of ums1 cannot be used").says(&format!("ums3 {whole}")).shows("synchronized");
    place.is_well();
    assert_eq!(place.calls("ums3", "licensing restore"), 1);
}

#[test]
fn copies_torn_everywhere_are_a_beginning_and_enough() {
    let place = halted();
    place.lose_journal();
    for server in SERVERS {
        tamper(&place, server, |text| {
            let half = text.lines().count() / 2;
            let mut lines: Vec<&str> = text.lines().take(half).collect();
            lines.push("{\"number\":");
            lines.join("\n")
        });
    }
    // That the second restore failed was lost with the journal: its agent tells it again, and does not try again.
    place.umsid(&RESUME).exits(1).says("events kept by agents: ums1 ").says("ended with exit status 1");
    assert_eq!(place.calls("ums2", "licensing restore"), 1);
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    assert_eq!(place.calls("ums3", "licensing restore"), 1);
    assert_eq!(place.calls("ums3", "igelRMserver restart"), 1);
}

/// A server that somebody got hold of makes up a run: its chain is whole, but no coordinator vouches for it.
#[test]
fn a_journal_that_an_agent_made_up_is_not_taken() {
    let place = halted();
    place.lose_journal();
    for server in SERVERS {
        tamper(&place, server, |text| {
            let mut link = chain::genesis();
            let forge = |line: &str| {
                let mut record: Value = serde_json::from_str(line).unwrap();
                let body = record["text"].as_str().unwrap().replace("coordinator test", "coordinator eve");
                link = chain::link(&link, record["number"].as_u64().unwrap(), body.as_bytes());
                record["text"] = body.into();
                record["link"] = link.to_string().into();
                record.to_string() + "\n"
            };
            text.lines().map(forge).collect()
        });
    }
    nothing_happened(&place, || place.umsid(&RESUME))
        .exits(8)
        .says("no coordinator of ours vouches for the copy");
}

#[test]
fn two_journals_of_one_run_are_refused_and_both_shown() {
    let place = halted();
    let (twin, before) = (place.dir.path().join("twin"), copy_on(&place, "ums1"));
    copy(&place.state(), &twin);
    let before = std::fs::read_to_string(before).unwrap();
    let go_on = |state: &Path| {
        place.lab.set("ums2", "fails", "restore").unwrap();
        place.umsid_of(state, &["resume"]).exits(1);
        place.lab.set("ums2", "fails", "").unwrap();
    };
    go_on(&place.state());
    // The twin went on with the same run while nobody could tell it.
    let other = std::fs::read_to_string(copy_on(&place, "ums1")).unwrap();
    for server in SERVERS {
        tamper(&place, server, |_| before.clone());
    }
    go_on(&twin);
    // One machine against the agents.
    let here = nothing_happened(&place, || place.umsid(&RESUME)).exits(8);
    here.says("two journals of this run").says("that of this machine has").says("that of ums1 has");
    nothing_happened(&place, || place.umsid(&["resume"])).exits(8).says("was taken up elsewhere");
    // One agent against another.
    place.lose_journal();
    tamper(&place, "ums1", |_| other);
    let there = nothing_happened(&place, || place.umsid(&RESUME)).exits(8);
    there.says("two journals of this run").says("that of ums1 has").says("that of ums2 has");
}

#[test]
fn the_longer_journal_is_gone_on_with_whichever_it_is() {
    let place = halted();
    let twin = place.dir.path().join("twin");
    copy(&place.state(), &twin);
    place.lab.set("ums2", "fails", "restore").unwrap();
    place.umsid_of(&twin, &["resume"]).exits(1);
    place.lab.set("ums2", "fails", "").unwrap();
    // The agents know more than this machine.
    nothing_happened(&place, || place.umsid(&["resume"])).exits(8).says("was taken up elsewhere");
    place.umsid(&RESUME).exits(0).shows("synchronized");
    place.is_well();
    // This machine knows more than the agents.
    let place = halted();
    for server in ["ums1", "ums2"] {
        tamper(&place, server, |text| text.lines().take(4).map(|line| format!("{line}\n")).collect());
    }
    std::fs::remove_file(copy_on(&place, "ums3")).unwrap();
    place.umsid(&RESUME).exits(0).shows("synchronized");
    place.is_well();
    assert_eq!(place.calls("ums3", "licensing restore"), 1);
}

/// What the run itself restored must not be taken for what the first restart brought back.
#[test]
fn a_look_whose_result_was_lost_does_not_take_a_restored_server_for_one_in_sync_already() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums2", "fails", "restore").unwrap();
    let first = [&SYNC[..], &["--restart-first", "-o", "json"]].concat();
    let run = place.umsid(&first).exits(1).report()["run"].as_str().unwrap().to_owned();
    place.lab.set("ums2", "fails", "").unwrap();
    let shown = place.umsid(&["runs", "show", &run, "-o", "json"]).exits(0).json();
    let looks_at = |step: &&Value| step["what"]["do"] == "recheck" && step["what"]["server"] == "ums3";
    let look =
        shown["plan"]["steps"].as_array().unwrap().iter().find(looks_at).expect("a look")["no"].clone();
    place.lose_journal();
    for server in SERVERS {
        tamper(&place, server, |text| {
            let event = |line: &str| -> Value {
                let record: Value = serde_json::from_str(line).unwrap();
                let (_, event) = record["text"].as_str().unwrap().split_once('\n').unwrap();
                serde_json::from_str(event).unwrap()
            };
            let before = |line: &&str| event(line)["event"] != "finished" || event(line)["step"] != look;
            let kept: Vec<&str> = text.lines().take_while(before).collect();
            assert!(kept.len() < text.lines().count());
            kept.into_iter().map(|line| format!("{line}\n")).collect()
        });
    }
    place.umsid(&RESUME).exits(1).says("licensing restore").says("ended with exit status 1");
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    place.is_well();
    assert_eq!(place.calls("ums3", "licensing restore"), 1);
    assert_eq!(place.calls("ums3", "igelRMserver restart"), 2, "before and after the restore");
}
