//! What came of a run, as the lab, the agents' directories and the journal tell it.

use std::collections::BTreeMap;
use std::path::Path;

use umsid_lab::{Event, Lifecycle, Truth};

use crate::place::Place;

/// How things stood when a run was typed.
pub(crate) struct Start {
    fingerprints: BTreeMap<String, String>,
    holds: BTreeMap<String, String>,
    starts: BTreeMap<String, usize>,
    restores: BTreeMap<String, usize>,
    history: BTreeMap<String, usize>,
}

/// What came of it: what must be the same whoever dies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// How the run stands in the journal.
    pub(crate) run: String,
    /// What each server holds and runs on.
    pub(crate) holds: BTreeMap<String, String>,
    /// Files in the agents' directories for what passes through.
    pub(crate) left_over: Vec<String>,
}

/// What it took: more of it is allowed only where something died in the middle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Starts of each UMS Server.
    pub(crate) starts: BTreeMap<String, usize>,
    /// Calls of `licensing restore` on each server.
    pub(crate) restores: BTreeMap<String, usize>,
}

/// What each server holds and runs on; `own`: what each held when the run was typed.
fn holds(truth: &Truth, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let told = |print: Option<&String>, own: &String| match print {
        None => "nothing",
        Some(print) if *print == truth.main_fingerprint => "the Main UMS ID",
        Some(print) if print == own => "its own UMS ID",
        Some(_) => "a stranger's UMS ID",
    };
    let holds = truth.servers.iter().map(|server| {
        let own = &own[&server.name];
        let on_disk = told(Some(&server.fingerprint), own);
        let runs_on = told(server.running_fingerprint.as_ref(), own);
        (server.name.clone(), format!("holds {on_disk}, runs on {runs_on}"))
    });
    holds.collect()
}

fn names(place: &Place) -> impl Iterator<Item = String> {
    place.lab.servers().iter().map(|server| server.name.clone())
}

impl Start {
    pub(crate) fn of(place: &Place) -> Self {
        let truth = place.lab.truth().unwrap();
        let servers = || truth.servers.iter();
        let fingerprints = servers().map(|it| (it.name.clone(), it.fingerprint.clone())).collect();
        Self {
            holds: holds(&truth, &fingerprints),
            fingerprints,
            starts: servers().map(|server| (server.name.clone(), server.starts)).collect(),
            restores: names(place)
                .map(|name| (name.clone(), place.calls(&name, "licensing restore")))
                .collect(),
            history: names(place)
                .map(|name| (name.clone(), place.lab.lifecycle(&name).unwrap().len()))
                .collect(),
        }
    }

    pub(crate) fn outcome(&self, place: &Place, run: String) -> Outcome {
        let truth = place.lab.truth().unwrap();
        Outcome { run, holds: holds(&truth, &self.fingerprints), left_over: left_over(place) }
    }

    /// What a run comes to that is rolled back.
    pub(crate) fn as_it_was(&self) -> Outcome {
        Outcome { run: "ended: rolled-back".to_owned(), holds: self.holds.clone(), left_over: Vec::new() }
    }

    pub(crate) fn cost(&self, place: &Place) -> Cost {
        let truth = place.lab.truth().unwrap();
        let starts = truth.servers.iter().map(|it| (it.name.clone(), it.starts - self.starts[&it.name]));
        let restores =
            names(place).map(|it| (it.clone(), place.calls(&it, "licensing restore") - self.restores[&it]));
        Cost { starts: starts.collect(), restores: restores.collect() }
    }

    /// Two servers of one site that were down at the same time since.
    pub(crate) fn down_together(&self, place: &Place) -> Option<String> {
        let mut down: Vec<(String, String, Lifecycle, Option<Lifecycle>)> = Vec::new();
        for server in place.lab.servers() {
            let history = place.lab.lifecycle(&server.name).unwrap();
            let since = &history[self.history[&server.name]..];
            let ends = |event: Event| matches!(event, Event::Stopped | Event::Died | Event::Refused);
            for (number, gone) in since.iter().enumerate().filter(|(_, line)| ends(line.event)) {
                let back = since[number..].iter().find(|line| line.event == Event::Listening).cloned();
                down.push((server.site.clone(), server.name.clone(), gone.clone(), back));
            }
        }
        for (site, name, gone, _) in &down {
            let meanwhile = down.iter().find(|(other_site, other, since, until)| {
                site == other_site
                    && name != other
                    && since.time <= gone.time
                    && until.as_ref().is_none_or(|until| until.time > gone.time)
            });
            if let Some((_, other, ..)) = meanwhile {
                return Some(format!("{name} and {other} of {site} were down together at {}", gone.time));
            }
        }
        None
    }
}

/// Files in the agents' directories for what passes through.
pub(crate) fn left_over(place: &Place) -> Vec<String> {
    let mut left_over = Vec::new();
    for name in names(place) {
        for part in ["spool", "work"] {
            files(&place.agent_dir(&name).join("state").join(part), &mut left_over);
        }
    }
    left_over
}

fn files(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), found);
        } else {
            found.push(entry.path().display().to_string());
        }
    }
}
