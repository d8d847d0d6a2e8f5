//! What the programs did and said in a case, for whoever looks at a failure; and how an administrator goes on.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::place::{Begun, Place, Ran};

/// Longer than any case takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the programs said.
#[derive(Default)]
pub(crate) struct Story {
    pub(crate) told: Vec<String>,
    /// Whether the fault came at all.
    pub(crate) came: bool,
    /// How often the run had to be taken up by hand.
    pub(crate) resumed: usize,
    pub(crate) run: String,
    /// How that stands, once it is over.
    pub(crate) standing: String,
}

impl Story {
    /// Waits until `umsid` ends; meanwhile an agent that died is started again, as the service manager would.
    pub(crate) fn await_end(
        &mut self,
        place: &Place,
        umsid: &mut Begun,
        victim: Option<&str>,
    ) -> Result<Ran, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(victim) = victim {
                self.revive(place, victim);
            }
            let ended = umsid.ended().is_some();
            if ended || Instant::now() > until {
                let ran = umsid.said();
                self.told.push(format!("-- umsid ended with {:?}:\n{}\n{}", ran.exit, ran.out, ran.err));
                return if ended { Ok(ran) } else { Err("it never ended".to_owned()) };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts an agent again if it died.
    pub(crate) fn revive(&mut self, place: &Place, victim: &str) {
        if place.agent_died(victim) {
            self.came = true;
            self.told.push(format!("-- the agent of {victim} died"));
            place.start_agent(victim);
        }
    }
}

/// Begins an `umsid` that tells what it does as JSON, and is less patient than people are.
pub(crate) fn begin(place: &Place, environment: &[(&str, &str)], typed: &[String], contact: &str) -> Begun {
    let mut arguments: Vec<&str> = typed.iter().map(String::as_str).collect();
    arguments.extend(["-o", "json"]);
    if matches!(arguments[0], "sync" | "restart" | "backup" | "resume" | "rollback") {
        arguments.extend(["--contact-timeout", contact]);
    }
    place.begin(environment, &arguments)
}

/// The run an `umsid` worked on: every line it prints names it, from the first on.
pub(crate) fn run_of(ran: &Ran) -> Option<String> {
    let event: serde_json::Value = serde_json::from_str(ran.out.lines().next()?).ok()?;
    Some(event["run"].as_str()?.to_owned())
}

/// It may be on record before anything is said of it.
pub(crate) fn newest_run(place: &Place) -> Option<String> {
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    runs["runs"][0]["run"].as_str().map(str::to_owned)
}

/// How a run stands, as `ended: synchronized`.
pub(crate) fn standing(place: &Place, run: &str) -> Option<String> {
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    let found = runs["runs"].as_array().unwrap().iter().find(|other| other["run"] == run)?.clone();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    if text("standing") == "open" && place.umsid(&["runs", "show", run]).err.contains("was never begun") {
        return Some("never begun".to_owned());
    }
    Some(format!("{}: {}", text("standing"), text("detail")))
}

pub(crate) fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

pub(crate) fn servers(place: &Place) -> Vec<String> {
    place.lab.servers().iter().map(|server| server.name.clone()).collect()
}
