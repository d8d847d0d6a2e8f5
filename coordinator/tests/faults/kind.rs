//! The kinds of runs: how the servers stand before, and what is typed.

use umsid_lab::{Break, Options};

use crate::place::{CLUSTER, Place, Wanted};

/// A kind of run.
pub(crate) struct Kind {
    /// As in the names of its cases.
    pub(crate) name: &'static str,
    servers: usize,
    /// What is typed.
    arguments: &'static [&'static str],
    /// How the servers stand when it is typed.
    before: Before,
    /// The exit code of a run left in peace.
    pub(crate) exit: i32,
    /// Whether a run that stands still is rolled back instead of resumed.
    pub(crate) rolls_back: bool,
    /// Whether disks fill up in it, too.
    pub(crate) fills_disks: bool,
}

#[derive(Clone, Copy)]
enum Before {
    /// These servers are out of sync for good.
    Broken(&'static [&'static str]),
    /// These are, but a restart helps.
    RestartHelps(&'static [&'static str]),
    /// A restart helps the first, not the second.
    RestartHelpsOne(&'static str, &'static str),
    /// A synchronization stands still, because the second server could not be restored.
    Halted,
    /// The restore on the canary has no effect, so that its run goes back.
    CanaryFails,
}

/// The canary of a place of three is ums3: ums1 and ums3 stand at site1, which comes first.
const TARGETS: &[&str] = &["ums2", "ums3"];

const SYNC: Kind = Kind::new("sync", &["sync"], Before::Broken(TARGETS), 0);
const REHEARSE: Kind = Kind::new("rehearse", &["sync", "--rehearse"], Before::Broken(TARGETS), 0);
/// ums1, ums3 and ums5 stand at site1, ums2 and ums4 at site2.
const BATCH: Kind = Kind {
    servers: 5,
    ..Kind::new(
        "batch",
        &["sync", "--batch", "3", "--restart", "restored"],
        Before::Broken(&["ums2", "ums3", "ums4", "ums5"]),
        0,
    )
};

/// All kinds.
pub(crate) const KINDS: &[Kind] = &[
    SYNC.with_full_disks(),
    Kind::new("restart-restored", &["sync", "--restart", "restored"], Before::Broken(TARGETS), 0),
    Kind::new("restart-none", &["sync", "--restart", "none"], Before::Broken(TARGETS), 3),
    Kind::new("restart-first", &["sync", "--restart-first"], Before::Broken(TARGETS), 0),
    Kind::new("restart-first-helps", &["sync", "--restart-first"], Before::RestartHelps(TARGETS), 0),
    Kind::new(
        "restart-first-helps-one",
        &["sync", "--restart-first"],
        Before::RestartHelpsOne("ums3", "ums2"),
        0,
    ),
    REHEARSE,
    BATCH,
    Kind::new("restart", &["restart"], Before::Broken(&[]), 0),
    Kind::new("backup", &["backup"], Before::Broken(&[]), 0),
    Kind::new("resume", &["resume"], Before::Halted, 0),
    Kind::new("rollback", &["rollback"], Before::Halted, 0).with_full_disks(),
    Kind::new("canary-fails", &["sync"], Before::CanaryFails, 1),
    SYNC.rolled_back("sync-rolled-back"),
    REHEARSE.rolled_back("rehearse-rolled-back"),
    BATCH.rolled_back("batch-rolled-back"),
];

impl Kind {
    const fn new(name: &'static str, arguments: &'static [&'static str], before: Before, exit: i32) -> Self {
        Self { name, servers: 3, arguments, before, exit, rolls_back: false, fills_disks: false }
    }

    /// The same, rolled back wherever it stands still.
    const fn rolled_back(self, name: &'static str) -> Self {
        Self { name, rolls_back: true, ..self }
    }

    /// The same, with disks that fill up.
    const fn with_full_disks(self) -> Self {
        Self { fills_disks: true, ..self }
    }

    /// A place for it, all in sync.
    pub(crate) fn place(&self) -> Place {
        Place::with(Wanted {
            lab: Options { servers: self.servers, ..Options::default() },
            ..Wanted::default()
        })
    }

    /// Brings the servers to where they stand before a run of this kind, and says what is to be typed.
    pub(crate) fn prepare(&self, place: &Place) -> Vec<String> {
        let broken = |servers: &[&str], how| place.lab.break_servers(servers, how).unwrap();
        let mut run = None;
        let well: Vec<&str> = place.lab.servers().iter().map(|server| server.name.as_str()).collect();
        place.lab.set_many(&well, &[("fails", ""), ("exit_zero_no_effect", "")]).unwrap();
        match self.before {
            Before::Broken(servers) => broken(servers, Break::Lasting),
            Before::RestartHelps(servers) => broken(servers, Break::FixableByRestart),
            Before::RestartHelpsOne(helped, other) => {
                broken(&[helped], Break::FixableByRestart);
                broken(&[other], Break::Lasting);
            }
            Before::Halted => {
                broken(TARGETS, Break::Lasting);
                place.lab.set("ums2", "fails", "restore").unwrap();
                let halted =
                    place.umsid(&["sync", CLUSTER, "--yes", "--settle", "0", "-o", "json"]).exits(1).report();
                place.lab.set("ums2", "fails", "").unwrap();
                run = halted["run"].as_str().map(str::to_owned);
            }
            Before::CanaryFails => {
                broken(TARGETS, Break::Lasting);
                place.lab.set("ums3", "exit_zero_no_effect", "restore").unwrap();
            }
        }
        let mut typed: Vec<String> = self.arguments.iter().map(|part| (*part).to_owned()).collect();
        match (self.arguments[0], run) {
            (_, Some(run)) => typed.insert(1, run),
            (_, None) => typed.insert(1, CLUSTER.to_owned()),
        }
        if self.arguments[0] == "sync" {
            typed.extend(["--settle", "0"].map(str::to_owned));
        }
        if !matches!(self.arguments[0], "resume" | "backup") {
            typed.push("--yes".to_owned());
        }
        typed
    }

    /// What is typed when its `umsid` died, or it stands still.
    pub(crate) fn again(&self, typed: &[String], run: &str) -> Vec<String> {
        if typed[0] == "rollback" {
            return typed.to_vec();
        }
        if self.rolls_back {
            return ["rollback", run, "--yes"].map(str::to_owned).to_vec();
        }
        vec!["resume".to_owned(), run.to_owned()]
    }
}
