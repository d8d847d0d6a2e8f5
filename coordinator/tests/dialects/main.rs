//! The whole job through every way the UMS may turn out to speak: understood, or left unknown with what it printed and
//! still possible by naming the servers.
//!
//! Every dialect of the lab is gone through; one that is not in `ODD` must be understood as it is.

#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

#[path = "../support/place.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod place;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use serde_json::Value;
use umsid_lab::{Break, Options, ServerTruth, Truth};

use crate::place::{Place, Ran, Wanted};

/// How many dialects at a time: a test machine may have two cores.
const AT_ONCE: usize = 3;

/// How the job is done where a dialect is not simply understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `status` tells every state, and `sync` ends with 0.
    Understood,
    /// `status` tells every state, but a restore shows only after the restart: `sync` wants `--verify-after-restart`.
    AfterRestart,
    /// `status` says unknown and shows what was printed. With the servers named, what `sync` did can be proved by what
    /// changed in that: exit code 0.
    NamedAndProved,
    /// The same, but nothing proves it: exit code 3.
    NamedOnly,
}

const ODD: &[(&str, Way)] = &[
    ("unlabelled", Way::NamedAndProved),
    ("truncated", Way::NamedAndProved),
    ("running-id", Way::AfterRestart),
];

/// Dialects that leave nothing to go by only together: there is no certificate to make up for what the list cuts off.
const TOGETHER: &[(&[&str], Way)] = &[(&["truncated", "no-export"], Way::NamedOnly)];

#[test]
fn the_whole_job_is_possible_in_every_dialect() {
    let all = umsid_lab::dialects();
    for (odd, _) in ODD {
        assert!(all.iter().any(|dialect| dialect.name == *odd), "there is no dialect `{odd}` any more");
    }
    let way = |name| ODD.iter().find(|(odd, _)| *odd == name).map_or(Way::Understood, |(_, way)| *way);
    let alone = all.iter().map(|dialect| (vec![dialect.name], way(dialect.name)));
    let jobs = alone.chain(TOGETHER.iter().map(|(names, way)| (names.to_vec(), *way)));
    let left = Mutex::new(jobs);
    let failed = Mutex::new(Vec::new());
    let next = || left.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((names, way)) = next() {
                    // The panic itself has been printed by then.
                    if catch_unwind(AssertUnwindSafe(|| whole_job(&names, way))).is_err() {
                        failed.lock().unwrap().push(names);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "see above for the dialects {failed:?}");
}

fn whole_job(names: &[&str], way: Way) {
    let dialects = names.iter().map(|name| (*name).to_owned()).collect();
    let lab = Options { dialects, ..Options::default() };
    let job = Job { name: names.join("+"), place: Place::with(Wanted { lab, ..Wanted::default() }) };
    job.place.lab.break_servers(&["ums2", "ums3"], Break::Lasting).unwrap();
    match way {
        Way::Understood => {
            job.tells_the_truth(3);
            job.sync(&[], 0);
            job.tells_the_truth(0);
        }
        Way::AfterRestart => {
            job.tells_the_truth(3);
            job.shows_no_effect_before_the_restart();
            job.sync(&["--verify-after-restart"], 0);
            job.tells_the_truth(0);
        }
        Way::NamedAndProved => {
            job.is_unknown_and_refused();
            job.sync(&NAMED, 0);
        }
        Way::NamedOnly => {
            job.is_unknown_and_refused();
            job.sync(&NAMED, 3);
        }
    }
    job.place.is_well();
}

const NAMED: [&str; 6] = ["--main", "ums1", "--only", "ums2", "--only", "ums3"];

struct Job {
    name: String,
    place: Place,
}

impl Job {
    fn truth(&self) -> Truth {
        self.place.lab.truth().unwrap()
    }

    /// `umsid` with the dialect's name above whatever goes wrong.
    #[track_caller]
    fn umsid(&self, arguments: &[&str], code: i32) -> Ran {
        let ran = self.place.umsid(arguments);
        let (name, out, err) = (&self.name, &ran.out, &ran.err);
        assert_eq!(ran.exit, Some(code), "{name}: umsid {arguments:?}\nstdout:\n{out}\nstderr:\n{err}");
        ran
    }

    #[track_caller]
    fn sync(&self, more: &[&str], code: i32) -> Ran {
        let ran = self.umsid(&[&["sync", "--yes", "--settle", "0"], more].concat(), code);
        let truth = self.truth();
        assert!(truth.all_in_sync(), "{}: {truth:#?}\n{}\n{}", self.name, ran.out, ran.err);
        ran
    }

    /// What `umsid status` says is how things are, and its exit code is this.
    #[track_caller]
    fn tells_the_truth(&self, code: i32) {
        let status = self.umsid(&["status", "-o", "json"], code).json();
        let truth = self.truth();
        let wanted: BTreeMap<&str, &str> = truth
            .servers
            .iter()
            .map(|server| (server.name.as_str(), if server.in_sync { "in-sync" } else { "not-in-sync" }))
            .map(|(name, state)| (name, if name == truth.main { "main" } else { state }))
            .collect();
        let servers = servers(&status);
        let told: BTreeMap<&str, &str> =
            servers.iter().map(|server| (text(server, "server"), text(server, "state"))).collect();
        assert_eq!(told, wanted, "{}: {status:#}", self.name);
        for server in &servers {
            assert_ne!(text(server, "evidence"), "", "{}: {server:#}", self.name);
            let print = text(server, "fingerprint").to_ascii_lowercase();
            // SHA-1 is all some lists have.
            assert!([40, 64].contains(&print.len()), "{}: {server:#}", self.name);
            let real = &truth.server(text(server, "server")).unwrap().fingerprint;
            assert!(print.len() == 40 || print == *real, "{}: {print} is not {real}", self.name);
        }
    }

    /// Nothing is guessed: `status` shows what was printed, and a plain `sync` says what to do and does nothing.
    fn is_unknown_and_refused(&self) {
        let truth = self.truth();
        let status = self.umsid(&["status"], 3);
        for server in &truth.servers {
            let printed = &server.fingerprint[..10];
            assert!(
                status.out.to_lowercase().contains(printed) && status.out.contains("licensing list"),
                "{}: {printed} was not shown:\n{}",
                self.name,
                status.out
            );
        }
        let document = self.umsid(&["status", "-o", "json"], 3).json();
        for server in servers(&document) {
            assert_eq!(text(&server, "state"), "unknown", "{}: {server:#}", self.name);
            let raw = server["inspection"]["ums_ids"]["raw"].as_array().unwrap();
            assert!(raw.iter().any(|raw| !text(raw, "stdout").is_empty()), "{}: {server:#}", self.name);
        }
        let refused = self.umsid(&["sync", "--yes", "--settle", "0"], 8);
        let _ = refused.says("what to do:").says("--main SERVER").says("--only SERVER");
        assert_eq!(self.truth(), truth, "{}: a refusal changed something", self.name);
    }

    /// The canary is put back and no other server touched, because nothing shows that its restore had an effect.
    fn shows_no_effect_before_the_restart(&self) {
        let before = self.truth();
        let ran = self.umsid(&["sync", "--yes", "--settle", "0"], 1);
        let said = format!("{}{}", ran.out, ran.err);
        assert!(
            said.contains("--verify-after-restart") && said.contains("rolled back"),
            "{}: {said}",
            self.name
        );
        let after = self.truth();
        let touched: Vec<&str> = before
            .servers
            .iter()
            .zip(&after.servers)
            .filter(|(before, after)| before != after)
            .map(|(before, after)| {
                let ids =
                    |server: &ServerTruth| (server.fingerprint.clone(), server.running_fingerprint.clone());
                assert_eq!(ids(after), ids(before), "{}", self.name);
                after.name.as_str()
            })
            .collect();
        assert!(touched.len() == 1 && touched != [after.main.as_str()], "{}: {touched:?}", self.name);
    }
}

fn servers(status: &Value) -> Vec<Value> {
    status["clusters"][0]["servers"].as_array().expect("a list of servers").clone()
}

fn text<'a>(of: &'a Value, key: &str) -> &'a str {
    of[key].as_str().unwrap_or_default()
}
