//! Runs of a cluster that were begun and are not over.

use serde::Serialize;
use umsid_common::name::{ClusterName, RunId};

use crate::cli::Context;
use crate::cli::runs::{newer_sync, one_line};
use crate::condition::{Finding, Kind, Level};
use crate::journal::{Journal, JournalError, LastWord, RunSummary};
use crate::plan::touched;
use crate::shared::is_at_work;

/// How much of the reason why a run stands still is said, in characters.
const LONGEST_WHY: usize = 120;

/// A run that is not over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Unfinished {
    pub(super) run: RunId,
    /// Why it stands still; `None`: it has no end and no halt on record.
    pub(super) why: Option<String>,
    /// It could not put a server back as it was.
    pub(super) stuck: bool,
    /// An umsid of this machine, or of another with the same state, carries it out now.
    pub(super) going_on: bool,
    /// Servers may not be as they were before it.
    pub(super) touched: bool,
}

/// Those of a cluster, of the `runs` that are on record.
pub(super) async fn unfinished(
    context: &Context,
    journal: &Journal,
    runs: &[RunSummary],
    cluster: &ClusterName,
) -> Result<Vec<Unfinished>, JournalError> {
    let mut unfinished = Vec::new();
    for run in runs.iter().filter(|run| run.cluster == *cluster) {
        let why = match &run.standing {
            LastWord::Ended(_) => continue,
            LastWord::Halted(why) | LastWord::Stuck(why) => Some(why.clone()),
            LastWord::Open => None,
        };
        if newer_sync(runs, cluster, &run.run).is_some() {
            continue;
        }
        let touched = match journal.load(&run.run).await {
            Ok(log) => !touched(log.state()).is_empty(),
            // Never begun: nothing was done in it.
            Err(JournalError::Torn(_)) => continue,
            // What cannot be read is not known to be harmless.
            Err(JournalError::Corrupt { .. }) => true,
            Err(error) => return Err(error),
        };
        let going_on = why.is_none() && is_at_work(&context.home, cluster).await;
        let stuck = matches!(run.standing, LastWord::Stuck(_));
        unfinished.push(Unfinished { run: run.run.clone(), why, stuck, going_on, touched });
    }
    Ok(unfinished)
}

impl Unfinished {
    /// For whoever watches from afar. What has touched servers and is not going on is as bad as a server out of sync.
    pub(super) fn finding(&self) -> Finding {
        let run = &self.run;
        let (level, how, remedy) = match &self.why {
            None if self.going_on => (Level::Warning, "is going on", "look again when it is over".to_owned()),
            _ if self.stuck => (
                Level::Critical,
                "is stuck on its way back",
                format!("`umsid runs show {run}` says what to type"),
            ),
            why => (
                if self.touched { Level::Critical } else { Level::Warning },
                if why.is_some() { "stands still" } else { "was begun and never ended" },
                format!("`umsid resume {run}`, or `umsid rollback {run}`"),
            ),
        };
        Finding::new(level, Kind::Run, format!("run {run} {how}"))
            .because(self.why.as_deref().map(|why| one_line(why, LONGEST_WHY)).unwrap_or_default())
            .remedy(remedy)
    }
}

impl std::fmt::Display for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let run = &self.run;
        match &self.why {
            None if self.going_on => return write!(f, "run {run} is going on; look again when it is over"),
            None => write!(f, "run {run} was begun and never ended")?,
            Some(why) if self.stuck => {
                let why = one_line(why, LONGEST_WHY);
                return write!(
                    f,
                    "run {run} is stuck on its way back: {why} — umsid runs show {run} says what to type"
                );
            }
            Some(why) => write!(f, "run {run} stands still: {}", one_line(why, LONGEST_WHY))?,
        }
        write!(f, " — umsid resume {run}, or umsid rollback {run}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_a_run_stands_and_what_to_do() {
        let run: RunId = "20261122t100000-aaaaaa".parse().unwrap();
        let mut one = Unfinished { run, why: None, stuck: false, going_on: false, touched: true };
        assert_eq!(
            one.to_string(),
            "run 20261122t100000-aaaaaa was begun and never ended — umsid resume 20261122t100000-aaaaaa, \
             or umsid rollback 20261122t100000-aaaaaa"
        );
        one.going_on = true;
        assert!(!one.to_string().contains("resume"), "{one}");
        assert_eq!((one.finding().level, one.finding().remedy.contains("again")), (Level::Warning, true));
        one.why = Some(format!("no\nroom {}", "x".repeat(500)));
        let said = one.to_string();
        assert!(said.starts_with("run 20261122t100000-aaaaaa stands still: no room x"), "{said}");
        assert!(said.contains("… — umsid resume") && said.len() < 300, "{said}");
        assert_eq!(one.finding().level, Level::Critical);
        one.touched = false;
        assert_eq!(one.finding().level, Level::Warning);
        one.stuck = true;
        assert_eq!(one.finding().level, Level::Critical);
        let said = one.to_string();
        assert!(
            said.contains("is stuck on its way back: no room x") && said.contains("umsid runs show 2026"),
            "{said}"
        );
    }
}
