//! Who types, and what an administrator does who only follows what `umsid` prints.

use std::fmt;
use std::path::{Path, PathBuf};

use super::play::Play;
use crate::place::{Begun, CLUSTER, Place, Ran};

/// How often a run is taken up that stands still.
const TAKEN_UP: usize = 8;

/// Where somebody sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Person {
    /// At the machine of the story's `umsid`.
    Here,
    /// At another machine with the same authority and inventory, and a journal of its own.
    Elsewhere,
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Here => "here",
            Self::Elsewhere => "on another machine",
        })
    }
}

impl Person {
    fn state(self, place: &Place) -> PathBuf {
        match self {
            Self::Here => place.state(),
            Self::Elsewhere => {
                let elsewhere = place.dir.path().join("elsewhere");
                if !elsewhere.exists() {
                    copy(&place.state(), &elsewhere);
                }
                elsewhere
            }
        }
    }

    pub(super) fn begins(self, place: &Place, typed: &[&str]) -> Begun {
        let state = self.state(place).display().to_string();
        let more: &[&str] = match typed[0] {
            "sync" | "resume" => &["--contact-timeout", "5s", "--lease", super::fault::LEASE],
            _ => &[],
        };
        // The last word on where the state is.
        place.begin(&[("UMSID_STATE_DIR", &state)], &[typed, &["-o", "json"], more].concat())
    }

    pub(super) fn types(self, place: &Place, typed: &[&str]) -> Ran {
        place.umsid_of(&self.state(place), typed)
    }
}

/// What came of a run that was followed to its end.
pub(super) enum End {
    /// Nothing is left to be done for any run; how the newest one ended.
    Over(String),
    /// It is not over: what was printed leads elsewhere.
    Stands(Ran),
}

/// Does what is printed, until no run is left that is not over.
pub(super) fn follow(play: &mut Play<'_>, person: Person, back: bool, lost: bool) -> Result<End, String> {
    let (mut from_agents, mut tried) = (lost, false);
    for _ in 0..TAKEN_UP {
        let newest = newest(play, person, from_agents)?;
        let (run, stuck) = match newest {
            Newest::Over(how) => return Ok(End::Over(how)),
            Newest::Open(run) => (run, false),
            Newest::Stuck(run) => (run, true),
        };
        let give_up = ["rollback", &run, "--give-up", "--yes"];
        let mut typed: Vec<String> = match (stuck && tried, back) {
            (true, _) => give_up.map(str::to_owned).to_vec(),
            (false, true) => ["rollback", &run, "--yes"].map(str::to_owned).to_vec(),
            (false, false) => ["resume", &run].map(str::to_owned).to_vec(),
        };
        if from_agents {
            typed.extend(["--from-agents", CLUSTER].map(str::to_owned));
        }
        typed.extend(["-o", "json"].map(str::to_owned));
        let typed: Vec<&str> = typed.iter().map(String::as_str).collect();
        let ran = play.types(person, &typed);
        play.start.exit_is_true(play.place, &ran)?;
        tried = true;
        from_agents = ran.err.contains("--from-agents");
        if ran.err.contains("is locked by run") {
            // Whoever holds the lease is dead: that is what unlocking is for.
            play.types(person, &["unlock", CLUSTER, "--yes"]);
        } else if ran.err.contains("has been at work on") {
            // What is printed: it is ended, and a new run goes from where the servers stand.
            play.types(person, &give_up);
            return Ok(End::Stands(ran));
        } else if ran.err.contains("came after") || (!back && ran.says_to_begin_anew()) {
            // The same, where the run stands in nobody's way.
            return Ok(End::Stands(ran));
        }
    }
    Err(format!("after {TAKEN_UP} times it still is not over"))
}

impl Ran {
    /// Whether what failed is not done again by taking the run up.
    fn says_to_begin_anew(&self) -> bool {
        self.exit != Some(0) && self.out.contains("restores nothing again")
    }
}

enum Newest {
    /// There is none that is to be taken up; how it ended.
    Over(String),
    Open(String),
    /// On its way back a server could not be put as it was, and trying again did not help.
    Stuck(String),
}

fn newest(play: &mut Play<'_>, person: Person, from_agents: bool) -> Result<Newest, String> {
    let typed: &[&str] =
        if from_agents { &["runs", "--from-agents", CLUSTER, "-o", "json"] } else { &["runs", "-o", "json"] };
    let ran = person.types(play.place, typed);
    if ran.exit != Some(0) {
        return Err(format!("`umsid {}` cannot list the runs: {ran:?}", typed.join(" ")));
    }
    let runs = ran.json();
    let newest = &runs["runs"][0];
    let Some(run) = newest["run"].as_str().map(str::to_owned) else {
        return Ok(Newest::Over("no run on record".to_owned()));
    };
    let standing = newest["standing"].as_str().unwrap_or_default();
    if from_agents {
        let open = matches!(standing, "open" | "halted");
        return Ok(if open { Newest::Open(run) } else { Newest::Over(standing.to_owned()) });
    }
    let shown = person.types(play.place, &["runs", "show", &run]);
    Ok(match standing {
        "ended" => Newest::Over(newest["detail"].as_str().unwrap_or_default().to_owned()),
        "stuck" => Newest::Stuck(run),
        // Nothing was done in it.
        _ if shown.err.contains("was never begun") => Newest::Over("never begun".to_owned()),
        _ => Newest::Open(run),
    })
}

/// Everything but the journal.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if !entry.file_name().to_string_lossy().starts_with("state.db") {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
