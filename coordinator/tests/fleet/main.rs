//! Many clusters: asked at once, synchronized side by side, and never one for another.
#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use umsid_fleet::{Delays, Fleet, Wanted, place};

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(120);

struct Ran {
    exit: Option<i32>,
    out: String,
    err: String,
}

fn umsid(fleet: &Fleet, arguments: &[&str]) -> Ran {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_umsid"))
        .env("UMSID_STATE_DIR", fleet.state())
        .args(arguments)
        .timeout(SOON)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { exit: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

impl Ran {
    #[track_caller]
    fn exits(self, exit: i32) -> Self {
        assert_eq!(self.exit, Some(exit), "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn says(self, what: &str) -> Self {
        assert!(self.out.contains(what) || self.err.contains(what), "{what}: {}\n{}", self.out, self.err);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }

    /// The last line of events.
    fn last(&self) -> Value {
        serde_json::from_str(self.out.lines().last().unwrap()).unwrap()
    }
}

/// Runs an `umsid` to its end: its exit code and its last event. Every event is shown, with its process id.
fn watch(
    fleet: &RefCell<Fleet>,
    arguments: &[&str],
    mut seen: impl FnMut(&Value, &mut Fleet, u32),
) -> (Option<i32>, Value) {
    #[expect(clippy::disallowed_methods, reason = "tests start the program under test")]
    let mut umsid = std::process::Command::new(env!("CARGO_BIN_EXE_umsid"))
        .env("UMSID_STATE_DIR", fleet.borrow().state())
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (since, mut last) = (Instant::now(), Value::Null);
    for line in BufReader::new(umsid.stdout.take().unwrap()).lines() {
        last = serde_json::from_str(&line.unwrap()).unwrap();
        seen(&last, &mut fleet.borrow_mut(), umsid.id());
        assert!(since.elapsed() < SOON, "it does not end: {last}");
    }
    (umsid.wait().unwrap().code(), last)
}

fn outcomes(last: &Value) -> Vec<&str> {
    last["clusters"].as_array().unwrap().iter().map(|ending| ending["outcome"].as_str().unwrap()).collect()
}

const FAST: [&str; 4] = ["--yes", "--settle", "0", "--all"];

fn with<'a>(first: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    first.iter().chain(more).copied().collect()
}

#[test]
fn fifty_clusters_are_seen_at_once() {
    let mut fleet = Fleet::up(&Wanted { clusters: 50, servers: 4, ..Wanted::default() }).unwrap();
    let status = umsid(&fleet, &["status", "--all", "-o", "json"]).exits(0).json();
    let clusters = status["clusters"].as_array().unwrap();
    assert_eq!((clusters.len(), &status["all_in_sync"]), (50, &Value::Bool(true)));
    for cluster in clusters {
        assert_eq!(
            cluster["counts"],
            serde_json::json!({ "main": 1, "in_sync": 3, "not_in_sync": 0, "unknown": 0 })
        );
    }
    // One that is out of sync and one that is silent are told from all others, and nothing else is.
    fleet.lose(&[place(17, 3)]);
    fleet.kill(&place(42, 2));
    let ran = umsid(&fleet, &["status", "--all"]).exits(3);
    let not_in_sync: Vec<&str> = ran.out.lines().filter(|line| line.contains("not-in-sync")).collect();
    let unknown: Vec<&str> = ran.out.lines().filter(|line| line.contains("unknown")).collect();
    assert!(
        matches!(not_in_sync.as_slice(), [line] if line.contains("c017") && line.contains("s0003")),
        "{}",
        ran.out
    );
    assert!(
        matches!(unknown.as_slice(), [line] if line.contains("c042") && line.contains("s0002")),
        "{}",
        ran.out
    );
    ran.says("50 clusters: 48 all in sync, 2 not or not known to be; 198 servers in sync, 1 not in sync, 1 unknown");
    umsid(&fleet, &["status", "c001", "c002"]).exits(0);
    umsid(&fleet, &["status", "c001", "c099"]).exits(2).says("there is no cluster `c099`");
}

#[test]
fn ten_clusters_are_synchronized_and_the_one_whose_agent_dies_halts_alone() {
    let delays = Delays { restart: Duration::from_millis(300), ..Delays::default() };
    let wanted = Wanted { clusters: 10, servers: 4, out_of_sync: 2, delays, ..Wanted::default() };
    let fleet = RefCell::new(Fleet::up(&wanted).unwrap());
    let victim = place(5, 4);
    let arguments = ["sync", "-o", "json", "--max-clusters", "10", "--contact-timeout", "1s"];
    let (exit, last) = watch(&fleet, &with(&arguments, &FAST), |event, fleet, _| {
        let of_victim = event["cluster"] == "c005" && event["server"] == "s0004";
        if of_victim && event["event"] == "started" && event["do"] == "restore" {
            fleet.kill(&victim);
        }
    });
    assert_eq!(exit, Some(5), "{last:#}");
    assert_eq!((&last["event"], &last["exit"], &last["good"]), (&"fleet".into(), &5.into(), &9.into()));
    let mut fleet = fleet.into_inner();
    for (at, ending) in last["clusters"].as_array().unwrap().iter().enumerate() {
        let (cluster, _) = place(at + 1, 1);
        assert_eq!(ending["cluster"], cluster.as_str());
        let expected = if at + 1 == 5 { ("halted", 5) } else { ("synchronized", 0) };
        assert_eq!(
            (ending["outcome"].as_str().unwrap(), ending["exit"].as_i64().unwrap()),
            expected,
            "{ending}"
        );
        assert_eq!(fleet.is_in_sync(&cluster), at + 1 != 5);
        if at + 1 != 5 {
            assert_eq!(fleet.restarts(&cluster), 4, "each server of {cluster} once");
        }
    }
    // The one is taken up when its agent is there again; the others are not touched any more.
    fleet.start(&victim).unwrap();
    umsid(&fleet, &["resume"]).exits(0);
    assert!(fleet.is_in_sync(&victim.0));
    let before = fleet.restarts(&place(1, 1).0);
    umsid(&fleet, &with(&["sync"], &FAST)).exits(0).says("nothing to do");
    assert_eq!(fleet.restarts(&place(1, 1).0), before);
}

#[test]
fn what_cannot_be_synchronized_is_left_alone_and_the_others_are_not() {
    let mut fleet =
        Fleet::up(&Wanted { clusters: 4, servers: 3, out_of_sync: 1, ..Wanted::default() }).unwrap();
    fleet.kill(&place(2, 2));
    umsid(&fleet, &["sync", "--all"]).exits(2).says(
        "Synchronize 3 servers in 3 clusters (1 other left alone), with 9 restarts? There is no terminal to ask on",
    );
    let dry = umsid(&fleet, &["sync", "--all", "--dry-run"]).exits(5);
    assert_eq!(dry.out.lines().filter(|line| line.contains("s0003")).count(), 3, "{}", dry.out);
    assert!(!fleet.is_in_sync(&place(1, 1).0), "a dry run does nothing");
    let ran = umsid(&fleet, &with(&["sync", "-o", "json"], &FAST)).exits(5);
    let last = ran.last();
    let refused: Vec<&Value> =
        last["clusters"].as_array().unwrap().iter().filter(|ending| ending["outcome"] == "refused").collect();
    assert!(matches!(refused.as_slice(), [one] if one["cluster"] == "c002"), "{last:#}");
    for cluster in [1, 3, 4] {
        assert!(fleet.is_in_sync(&place(cluster, 1).0), "{cluster}");
    }
    assert!(!fleet.is_in_sync(&place(2, 1).0));
    assert_eq!(fleet.restarts(&place(2, 1).0), 0);
}

#[test]
fn what_is_about_one_cluster_is_refused_for_several() {
    let fleet = Fleet::up(&Wanted { clusters: 2, servers: 2, out_of_sync: 1, ..Wanted::default() }).unwrap();
    for arguments in [&["--only", "s0002"][..], &["--main", "s0001"]] {
        umsid(&fleet, &with(&["sync", "c001", "c002", "--yes"], arguments))
            .exits(2)
            .says("are about one cluster, and several are named");
        umsid(&fleet, &with(&["sync", "--all", "--yes"], arguments)).exits(2);
    }
    umsid(&fleet, &["sync", "c001", "--all"]).exits(2);
    umsid(&fleet, &["sync", "--yes"]).exits(2).says("which cluster?");
    for cluster in [1, 2] {
        assert!(!fleet.is_in_sync(&place(cluster, 1).0));
    }
}

#[test]
fn what_is_not_as_it_was_shown_any_more_is_not_begun() {
    let wanted = Wanted { clusters: 3, servers: 3, out_of_sync: 1, ..Wanted::default() };
    let fleet = RefCell::new(Fleet::up(&wanted).unwrap());
    let (exit, last) =
        watch(&fleet, &with(&["sync", "-o", "json", "--max-clusters", "1"], &FAST), |event, fleet, _| {
            if event["event"] == "begun" && event["cluster"] == "c001" {
                fleet.lose(&[place(2, 2)]);
            }
        });
    assert_eq!(
        (exit, outcomes(&last).as_slice()),
        (Some(1), &["synchronized", "not begun", "synchronized"][..])
    );
    let why = last["clusters"][1]["causes"][0].as_str().unwrap();
    assert_eq!(why, "not begun: it is not as it was shown any more: s0002: was in-sync, is not-in-sync");
    assert_eq!(fleet.borrow().restarts(&place(2, 1).0), 0);
}

#[cfg(unix)]
#[test]
fn an_interrupt_halts_what_goes_on_and_begins_nothing_new() {
    let wanted = Wanted { clusters: 3, servers: 3, out_of_sync: 1, ..Wanted::default() };
    let fleet = RefCell::new(Fleet::up(&wanted).unwrap());
    let (exit, last) =
        watch(&fleet, &with(&["sync", "-o", "json", "--max-clusters", "1"], &FAST), |event, _, umsid| {
            if event["event"] == "begun" && event["cluster"] == "c001" {
                let umsid = rustix::process::Pid::from_raw(umsid.try_into().unwrap()).unwrap();
                rustix::process::kill_process(umsid, rustix::process::Signal::INT).unwrap();
            }
        });
    assert_eq!((exit, outcomes(&last).as_slice()), (Some(130), &["halted", "not begun", "not begun"][..]));
    for cluster in [2, 3] {
        assert_eq!(fleet.borrow().restarts(&place(cluster, 1).0), 0);
    }
    umsid(&fleet.borrow(), &["resume"]).exits(0);
    assert!(fleet.borrow().is_in_sync(&place(1, 1).0));
}

#[test]
fn a_run_goes_on_when_the_server_it_waits_for_is_there() {
    let wanted = Wanted { servers: 3, out_of_sync: 1, ..Wanted::default() };
    let fleet = RefCell::new(Fleet::up(&wanted).unwrap());
    let victim = place(1, 2);
    let arguments = ["sync", "-o", "json", "--yes", "--settle", "0", "--contact-timeout", "1s"];
    let (exit, _) = watch(&fleet, &arguments, |event, fleet, _| {
        if event["event"] == "begun" {
            fleet.kill(&victim);
        }
    });
    assert_eq!(exit, Some(5));
    let waited = |what: &str| umsid(&fleet.borrow(), &["resume", "--wait-for", what]);
    waited("s0002=1s").exits(5).says("s0002 did not answer, waited for since");
    waited("s0009=1s").exits(2).says("--wait-for takes one of s0001, s0002, s0003");
    waited("s0002").exits(2);
    // It says what it waits for, and goes on when that is there.
    #[expect(clippy::disallowed_methods, reason = "tests start the program under test")]
    let mut resume = std::process::Command::new(env!("CARGO_BIN_EXE_umsid"))
        .env("UMSID_STATE_DIR", fleet.borrow().state())
        .args(["resume", "--wait-for", "s0002=2min"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(resume.stderr.take().unwrap()).lines();
    let waiting = said.by_ref().map(Result::unwrap).find(|line| line.starts_with("waiting for")).unwrap();
    assert!(
        waiting.contains("the agent of s0002 at 127.0.0.1:") && waiting.contains(", until 20"),
        "{waiting}"
    );
    fleet.borrow_mut().start(&victim).unwrap();
    said.for_each(|line| drop(line.unwrap()));
    assert_eq!(resume.wait().unwrap().code(), Some(0));
    assert!(fleet.borrow().is_in_sync(&victim.0));
}

#[cfg(unix)]
#[test]
fn clusters_whose_end_nobody_reads_are_no_success() {
    for format in ["json", "table"] {
        let wanted = Wanted { clusters: 2, servers: 2, out_of_sync: 1, ..Wanted::default() };
        let fleet = Fleet::up(&wanted).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        #[expect(clippy::disallowed_methods, reason = "tests start the program under test")]
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_umsid"))
            .env("UMSID_STATE_DIR", fleet.state())
            .args(with(&["sync", "-o", format], &FAST))
            .stdout(writer)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{format}: {said}");
        assert!(said.contains("could not be printed") && said.contains("`umsid runs`"), "{format}: {said}");
        assert!(fleet.is_in_sync(&place(1, 1).0) && fleet.is_in_sync(&place(2, 1).0), "{format}");
    }
}
