//! `umsid check`: what a monitoring system gets, whatever happens.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use umsid_common::durable::{self, Access};

use crate::house::{Host, House, Ran, Running};

/// Two servers whose agents run.
struct Pair {
    house: House,
    hosts: [Host; 2],
    running: Vec<Running>,
}

impl Pair {
    /// The UMS ID of the first is Main's.
    fn new(other: &str) -> Self {
        let (house, hosts) = (House::new(), [Host::new("main"), Host::new(other)]);
        house.enrol(&hosts[0], "ums1");
        house.enrol(&hosts[1], "ums2");
        let running = hosts.iter().map(Host::runs).collect();
        Self { house, hosts, running }
    }

    /// Puts this at the place of what is in the inventory.
    fn replace(&self, old: &str, new: &str) {
        let text = self.house.inventory().replace(old, new);
        durable::replace(&self.house.state().join("inventory.toml"), text.as_bytes(), Access::Private)
            .unwrap();
    }
}

/// The first line, and that it has the form of one.
#[track_caller]
fn line(ran: &Ran) -> &str {
    let line = ran.out.lines().next().unwrap_or_default();
    assert!(line.starts_with("UMSID ") && line.matches('|').count() <= 1, "{ran:?}");
    line
}

#[test]
fn all_in_sync_is_ok_and_zero() {
    let pair = Pair::new("main");
    let ran = pair.house.umsid(&["check", "hamburg"]).exits(0);
    let wanted = "UMSID OK - hamburg: 2 of 2 servers in sync | hamburg.in_sync=2;2:;2:;0;2 ";
    assert!(line(&ran).starts_with(wanted), "{ran:?}");
    assert!(ran.out.contains("\nOK hamburg: ums2 in-sync\n"), "{ran:?}");
    assert_eq!(ran.err, "");
}

#[test]
fn not_in_sync_is_critical_and_two() {
    let pair = Pair::new("other");
    let ran = pair.house.umsid(&["check"]).exits(2);
    assert!(line(&ran).starts_with("UMSID CRITICAL - hamburg: ums2 not in sync | "), "{ran:?}");
    assert!(ran.out.contains("hamburg.not_in_sync=1;0;0;0;2"), "{ran:?}");
}

#[test]
fn without_an_answer_it_is_never_ok() {
    let mut pair = Pair::new("main");
    pair.running.pop();
    let ran = pair.house.umsid(&["check", "--all"]).exits(2);
    assert!(line(&ran).starts_with("UMSID CRITICAL - hamburg: ums2 did not answer | "), "{ran:?}");
    assert!(ran.out.contains("hamburg.in_sync=1;") && ran.out.contains("hamburg.unanswered=1;"), "{ran:?}");
}

#[test]
fn bounds_can_be_others() {
    let pair = Pair::new("main");
    // Certificates are issued for a year.
    let ran = pair.house.umsid(&["check", "--certificate", "400,7"]).exits(1);
    assert!(line(&ran).starts_with("UMSID WARNING - hamburg: 2 of 2 servers in sync, "), "{ran:?}");
    assert!(line(&ran).contains("our own certificate ends in 36"), "{ran:?}");
    pair.house.umsid(&["check", "--certificate", "400,390"]).exits(2);
}

#[test]
fn the_time_is_up_when_it_is_up() {
    let pair = Pair::new("main");
    // Takes the connection, and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    pair.replace(&pair.hosts[1].address(), &mute.local_addr().unwrap().to_string());
    let since = Instant::now();
    let ran = pair.house.umsid_within(Duration::from_secs(20), &["check", "-t", "2"]).exits(2);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(line(&ran).contains("hamburg: ums2 did not answer"), "{ran:?}");
    assert!(ran.out.contains("OK hamburg: ums1 main"), "who did answer is told: {ran:?}");
}

#[test]
fn the_time_is_up_even_where_the_journal_holds_it_up() {
    use sqlx::Connection as _;
    let pair = Pair::new("main");
    let state = pair.house.state();
    pair.house.umsid(&["runs"]).exits(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _held = runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(state.join("state.db"))
            .pragma("locking_mode", "EXCLUSIVE");
        let mut held = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("BEGIN EXCLUSIVE").execute(&mut held).await.unwrap();
        held
    });
    let since = Instant::now();
    let ran = pair.house.umsid_within(Duration::from_secs(20), &["check", "-t", "2"]).exits(3);
    let took = since.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(line(&ran), "UMSID UNKNOWN - nothing was found out within 2 s");
}

#[test]
fn whatever_is_wrong_is_unknown_and_three_in_one_line() {
    let pair = Pair::new("main");
    let house = &pair.house;
    for (arguments, why) in [
        (&["check", "--nonsense"][..], "unexpected argument '--nonsense'"),
        (&["check", "--format", "nonsense"], "invalid value 'nonsense'"),
        (&["check", "-t", "0"], "in less than a second"),
        (&["check", "--skew", "60,30"], "the smaller one"),
        (&["check", "-o", "nonsense"], "invalid value 'nonsense'"),
        (&["--nonsense", "check"], "unexpected argument '--nonsense'"),
        (&["check", "hamberg"], "did you mean `hamburg`?"),
        (&["check", "hamburg", "--all"], "cannot be used with"),
        (&["--state-dir", "/nonexistent/umsid", "check"], "run `umsid init` first"),
    ] {
        let ran = house.umsid(arguments).exits(3);
        assert!(
            line(&ran).starts_with("UMSID UNKNOWN - ") && line(&ran).contains(why),
            "{arguments:?}: {ran:?}"
        );
        assert_eq!(ran.out.lines().count(), 1, "{arguments:?}: {ran:?}");
    }
    house.umsid(&["check", "--help"]).exits(3);
    let missing = house.state().join("missing/umsid.prom");
    house.umsid(&["check", "--write", missing.to_str().unwrap()]).exits(3);

    pair.replace("[clusters", "[[clusters");
    let ran = house.umsid(&["check"]).exits(3);
    assert!(line(&ran).contains("inventory.toml, line "), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");

    let empty = House::new();
    let ran = empty.umsid(&["check", "--all"]).exits(3);
    assert!(line(&ran).contains("no server is enrolled yet"), "{ran:?}");
    // Other commands end as they always do.
    house.umsid(&["status", "--nonsense"]).exits(2);
    house.umsid(&["status", "--help"]).exits(0);
}

#[test]
fn each_form_is_what_its_reader_takes() {
    let pair = Pair::new("other");
    let ran = pair.house.umsid(&["check", "--all", "--format", "checkmk"]).exits(0);
    assert!(ran.out.starts_with("2 \"UMS ID hamburg\" in_sync=1;;;0;2|not_in_sync=1;"), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");

    let file = pair.house.dir.path().join("umsid.prom");
    let write = ["check", "--all", "--format", "openmetrics", "--write", file.to_str().unwrap()];
    assert_eq!(pair.house.umsid(&write).exits(0).out, "");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("umsid_cluster_state{cluster=\"hamburg\"} 2.0\n"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");

    let json = pair.house.umsid(&["check", "-o", "json"]).exits(2).json();
    assert_eq!((&json["state"], &json["code"]), (&"critical".into(), &2.into()));
    assert_eq!(json["clusters"][0]["findings"][0]["kind"], "not-in-sync");

    pair.replace("[clusters", "[[clusters");
    pair.house.umsid(&write).exits(3);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("umsid_check_success 0.0\n") && !text.contains("hamburg"), "{text}");
    let ran = pair.house.umsid(&["check", "--format", "checkmk"]).exits(3);
    assert!(ran.out.starts_with("3 \"UMS ID\" - "), "{ran:?}");
    assert_eq!(pair.house.umsid(&["check", "-o", "json"]).exits(3).json()["state"], "unknown");
}

#[test]
fn an_observers_directory_is_all_it_needs_and_is_for_nothing_else() {
    let pair = Pair::new("main");
    let out = pair.house.dir.path().join("nagios");
    let dir = out.to_str().unwrap();
    pair.house
        .umsid(&["observer", "add", "nagios", "--out", dir])
        .exits(0)
        .says("check --all` looks with it");
    // As on a host of its own.
    let state = pair.house.state();
    let away = state.with_file_name("away");
    #[expect(clippy::disallowed_methods, reason = "nothing has to last")]
    std::fs::rename(&state, &away).unwrap();

    let ran = pair.house.umsid(&["--state-dir", dir, "check", "--all"]).exits(0);
    assert!(line(&ran).starts_with("UMSID OK - hamburg: 2 of 2 servers in sync"), "{ran:?}");
    pair.house.umsid(&["--state-dir", dir, "status"]).exits(0);
    let ran = pair.house.umsid(&["--state-dir", dir, "doctor"]).exits(7);
    assert!(ran.out.contains("may look and change nothing"), "{ran:?}");
    for refused in [&["sync", "--yes"][..], &["restart", "--yes"], &["observer"]] {
        let arguments = [&["--state-dir", dir], refused].concat();
        pair.house.umsid(&arguments).exits(7).says("may look and change nothing");
    }
    let mut left: Vec<String> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["anchors.pem", "certificate.pem", "crls.pem", "inventory.toml", "key.pem"]);
}
