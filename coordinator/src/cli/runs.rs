//! `umsid runs`

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use umsid_common::name::{ClusterName, RunId, ServerName};

use super::unlock::said;
use super::{Context, Format};
use crate::exit::{Exit, Refusal};
use crate::journal::{Act, Journal, JournalError, LastWord, RecordedAct, RunLog, RunSummary};
use crate::printout::{Cell, Tone};
use crate::report::{Outcome, Report, Stopwatch, Timeline, durations, outcome, seconds};
use crate::run::{Event, Recorded, State, Status, StepResult};

/// List the runs, or show one with everything that was recorded
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  umsid runs
  umsid runs hamburg -o json
  umsid runs show 20261122t204512    any beginning of its id that fits no other
  umsid runs show 20261122t204512 --svg > run.svg"
)]
pub(super) struct Runs {
    /// Only of this cluster
    cluster: Option<ClusterName>,
    /// Those of which the agents of this cluster keep copies, for when the journal here is lost
    #[arg(long, value_name = "CLUSTER", conflicts_with = "cluster")]
    from_agents: Option<ClusterName>,
    #[command(subcommand)]
    show: Option<Show>,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Show a run: its plan, what happened, how long it took, what failed programs printed
    Show {
        /// Which run, or the beginning of its id
        run: String,
        /// Draw when each step went on, as SVG on standard output
        #[arg(long)]
        svg: bool,
    },
}

/// How much of the reason why a run stands still is on the list, in characters; `runs show` has all of it.
const LONGEST_WHY: usize = 100;

/// Text on one line of at most so many characters.
pub(super) fn one_line(text: &str, longest: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= longest {
        return line;
    }
    let start: String = line.chars().take(longest.saturating_sub(1)).collect();
    format!("{}…", start.trim_end())
}

/// The journal of this state directory.
pub(super) async fn open_journal(context: &Context) -> Result<Journal, JournalError> {
    Journal::open(&context.journal()).await
}

/// The run whose id begins like this.
pub(super) fn run_meant(runs: &[RunSummary], text: &str) -> anyhow::Result<RunId> {
    let fitting: Vec<&RunId> =
        runs.iter().map(|run| &run.run).filter(|run| run.as_str().starts_with(text)).collect();
    let names = |runs: &[&RunId]| runs.iter().map(|run| run.as_str()).collect::<Vec<_>>().join(", ");
    match fitting.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err(Refusal::new(Exit::Usage, format!("there is no run `{text}`"))
            .remedy("`umsid runs` lists the runs")
            .into()),
        several => Err(Refusal::new(Exit::Usage, format!("`{text}` fits several runs: {}", names(several)))
            .remedy("write more of its id")
            .into()),
    }
}

/// The cluster of a run on the list.
pub(super) fn cluster_of<'a>(runs: &'a [RunSummary], run: &RunId) -> Result<&'a ClusterName, JournalError> {
    let found = runs.iter().find(|other| other.run == *run);
    found.map(|found| &found.cluster).ok_or_else(|| JournalError::Missing(run.to_string()))
}

/// The only run that is not over.
pub(super) fn unfinished(runs: &[RunSummary]) -> anyhow::Result<RunId> {
    let open: Vec<&RunSummary> = runs
        .iter()
        .filter(|run| !matches!(run.standing, LastWord::Ended(_)))
        .filter(|run| newer_sync(runs, &run.cluster, &run.run).is_none())
        .collect();
    match open.as_slice() {
        [only] => Ok(only.run.clone()),
        [] => Err(Refusal::new(Exit::Usage, "there is no run to resume")
            .remedy("`umsid status` shows how the servers stand")
            .into()),
        several => {
            let list: Vec<String> =
                several.iter().map(|run| format!("{} of {} ({})", run.run, run.cluster, run.kind)).collect();
            Err(Refusal::new(Exit::Usage, format!("several runs are not over: {}", list.join(", ")))
                .remedy("name one: `umsid resume RUN`")
                .into())
        }
    }
}

/// The newest synchronization of a cluster that began after this run: what the run rests on is not so any more.
pub(super) fn newer_sync(runs: &[RunSummary], cluster: &ClusterName, run: &RunId) -> Option<RunId> {
    let this = runs.iter().find(|other| other.run == *run)?.begun;
    runs.iter()
        .filter(|other| other.cluster == *cluster && other.kind == "sync" && other.begun > this)
        .max_by_key(|other| other.begun)
        .map(|other| other.run.clone())
}

/// The synchronization that began after one that is not over, and does not go on any more.
fn overtaken_by(runs: &[RunSummary], run: &RunId) -> Option<RunId> {
    let this = runs.iter().find(|other| other.run == *run)?;
    if this.kind != "sync" || matches!(this.standing, LastWord::Ended(_)) {
        return None;
    }
    newer_sync(runs, &this.cluster, run)
}

#[derive(Serialize)]
struct Entry<'a> {
    run: &'a RunId,
    cluster: &'a ClusterName,
    kind: &'a str,
    begun: jiff::Timestamp,
    standing: &'static str,
    detail: &'a str,
    overtaken_by: Option<RunId>,
}

fn entry<'a>(run: &'a RunSummary, runs: &[RunSummary]) -> Entry<'a> {
    let (standing, detail) = match &run.standing {
        LastWord::Open => ("open", ""),
        LastWord::Halted(why) => ("halted", why.as_str()),
        LastWord::Stuck(why) => ("stuck", why.as_str()),
        LastWord::Ended(how) => ("ended", how.as_str()),
    };
    let (RunSummary { run, cluster, kind, begun, .. }, overtaken_by) = (run, overtaken_by(runs, &run.run));
    Entry { run, cluster, kind, begun: *begun, standing, detail, overtaken_by }
}

impl Runs {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let inventory = context.inventory()?;
        if let Some(cluster) = &self.from_agents {
            return super::from_agents::list(context, cluster).await;
        }
        let journal = open_journal(context).await?;
        let runs = journal.runs().await?;
        if let Some(Show::Show { run, svg }) = self.show {
            let log = journal.load(&run_meant(&runs, &run)?).await?;
            let newer = overtaken_by(&runs, log.run());
            if svg {
                let plan = log.state().plan();
                let title = format!("{} of {}, run {}", plan.request.kind.as_str(), plan.cluster, log.run());
                context.out.text(Timeline::of(log.state(), log.events()).svg(&title))?;
                return Ok(Exit::Success);
            }
            let acts = journal.history_of_acts(Some(&log.state().plan().cluster)).await?;
            return show(context, &log, &acts, newer.as_ref());
        }
        if let Some(cluster) = &self.cluster
            && !runs.iter().any(|run| run.cluster == *cluster)
        {
            // A cluster that is not enrolled any more may still have runs.
            inventory.cluster(cluster)?;
        }
        let of_it = |run: &&RunSummary| self.cluster.as_ref().is_none_or(|cluster| run.cluster == *cluster);
        let list: Vec<Entry<'_>> = runs.iter().filter(of_it).map(|run| entry(run, &runs)).collect();
        if context.out.format() == Format::Json {
            context.out.json(&json!({ "runs": list }))?;
        } else if list.is_empty() {
            context.out.text("no run is on record")?;
        } else {
            let rows = list.iter().map(|entry| {
                let (standing, tone) = match (entry.standing, entry.detail) {
                    ("ended", how @ ("synchronized" | "done")) => (how, Tone::Good),
                    ("ended", how) => (how, Tone::Doubtful),
                    ("halted", _) => ("halted", Tone::Bad),
                    ("stuck", _) => ("stuck", Tone::Bad),
                    (_, _) => ("open", Tone::Bad),
                };
                let why = match entry.standing {
                    _ if entry.overtaken_by.is_some() => {
                        entry.overtaken_by.iter().map(|newer| format!("{newer} came after it")).collect()
                    }
                    "halted" | "stuck" => one_line(entry.detail, LONGEST_WHY),
                    "open" => "going on, or its umsid died".to_owned(),
                    _ => String::new(),
                };
                vec![
                    Cell::plain(entry.run),
                    Cell::plain(entry.cluster),
                    Cell::plain(entry.kind),
                    Cell::plain(entry.begun.strftime("%Y-%m-%d %H:%M:%S")),
                    Cell::new(standing, tone),
                    Cell::plain(why),
                ]
            });
            let header = ["RUN", "CLUSTER", "KIND", "BEGUN (UTC)", "STANDING", "WHY"];
            context.out.table_without(&header, rows.collect(), &["BEGUN (UTC)"])?;
        }
        Ok(Exit::Success)
    }
}

fn show(
    context: &Context,
    log: &RunLog,
    acts: &[RecordedAct],
    newer: Option<&RunId>,
) -> anyhow::Result<Exit> {
    let (state, events) = (log.state(), log.events());
    let mut report =
        Report::of(log, Stopwatch { elapsed_ms: whole_ms(events), ..Stopwatch::default() }, true);
    if newer.is_some() {
        report.overtaken();
    }
    if context.out.format() == Format::Json {
        let steps: Vec<_> = rows(state, events).into_iter().map(|row| row.document()).collect();
        context.out.json(&json!({
            "run": log.run(),
            "cluster": state.plan().cluster,
            "by": state.by(),
            "outcome": outcome(state),
            "overtaken_by": newer,
            "plan": state.plan(),
            "digest": state.plan().digest(),
            "steps": steps,
            "failures": report.failures,
            "left_over": report.left_over,
            "next": report.next,
            "events": events,
        }))?;
        return Ok(Exit::Success);
    }
    let plan = state.plan();
    let begun =
        events.first().map_or(String::new(), |first| first.at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    let how = match outcome(state) {
        Outcome::Halted => "not over".to_owned(),
        Outcome::Stuck => "stuck on its way back".to_owned(),
        other => other.as_str().to_owned(),
    };
    let mut text = format!(
        "run {}: {} of {}, begun {begun} by {}: {how}\n",
        log.run(),
        plan.request.kind.as_str(),
        plan.cluster,
        state.by()
    );
    if let Some(main) = &plan.main {
        let _ = writeln!(text, "Main: {}: {}", main.server, main.evidence);
    }
    let _ = writeln!(text, "plan {}", plan.digest());
    context.out.text(text)?;
    let cells = rows(state, events).into_iter().map(|row| row.cells());
    context.out.table(
        &["STEP", "SERVER", "WHAT", "STATUS", "TRIES", "TIME", "OF IT UMS", "REMARKS"],
        cells.collect(),
    )?;
    if !report.timeline.is_empty() {
        context.out.text(format_args!("\n{}", report.timeline))?;
    }
    context.out.text(format_args!("{}{}", history(events), unlocked(log.run(), acts)))?;
    let aftermath = report.aftermath();
    if !aftermath.is_empty() {
        context.out.text(aftermath.trim_end())?;
    }
    if let Some(newer) = newer {
        context.out.text(format_args!("run {newer} came after it: it does not go on any more"))?;
    }
    Ok(Exit::Success)
}

fn whole_ms(events: &[Recorded]) -> u64 {
    match (events.first(), events.last()) {
        (Some(first), Some(last)) => {
            u64::try_from(last.at.duration_since(first.at).as_millis()).unwrap_or_default()
        }
        _ => 0,
    }
}

/// What happened besides the steps: who came and went.
fn history(events: &[Recorded]) -> String {
    let mut text = String::new();
    for recorded in events {
        let what = match &recorded.event {
            Event::Begun { by, version, .. } => format!("begun by {by}, umsid {version}"),
            Event::Leased { epoch, by } => format!("servers locked by {by}, epoch {epoch}"),
            Event::WindowsIgnored { by } => format!("windows ignored by {by}"),
            Event::TurnedBack { why, .. } => format!("went back: {why}"),
            Event::Halted(halt) => format!("halted: {}", halt.why),
            Event::Ended { outcome } => format!("ended: {}", outcome.as_str()),
            Event::GivenUp { by, .. } => format!("given up by {by}"),
            Event::Started { .. } | Event::Finished { .. } | Event::Skipped { .. } => continue,
        };
        let _ = writeln!(text, "{}  {what}", recorded.at.strftime("%Y-%m-%d %H:%M:%S"));
    }
    text
}

/// Who took servers from the run, and when.
fn unlocked(run: &RunId, acts: &[RecordedAct]) -> String {
    let its = acts.iter().filter(|recorded| match &recorded.act {
        Act::Unlocking { found, .. } => found.values().any(|lease| lease.run == *run),
        Act::Unlocked { .. } => false,
    });
    its.map(|recorded| format!("{}  {}\n", recorded.at.strftime("%Y-%m-%d %H:%M:%S"), said(&recorded.act)))
        .collect()
}

/// One step of a run.
struct Row {
    no: u32,
    server: Option<ServerName>,
    what: String,
    status: &'static str,
    tone: Tone,
    attempts: u32,
    ms: Option<u64>,
    ums_ms: u64,
    remarks: Vec<String>,
}

fn rows(state: &State, events: &[Recorded]) -> Vec<Row> {
    let durations = durations(events);
    let row = |step: &crate::plan::Step| {
        let progress = state.progress(step.no);
        let (status, tone, ums_ms, remarks) = match progress.map(|progress| &progress.status) {
            Some(Status::Ended(StepResult::Done { ums_ms, remarks, .. })) => {
                ("done", Tone::Good, *ums_ms, remarks.clone())
            }
            Some(Status::Ended(StepResult::Failed { ums_ms, failure, .. })) => {
                ("failed", Tone::Bad, *ums_ms, vec![failure.to_string()])
            }
            Some(Status::Ended(StepResult::Unknown { ums_ms, finding })) => {
                ("unknown", Tone::Bad, *ums_ms, vec![finding.clone()])
            }
            Some(Status::Begun) => ("begun", Tone::Doubtful, 0, Vec::new()),
            Some(Status::Skipped(why)) => ("not needed", Tone::Plain, 0, vec![why.clone()]),
            Some(Status::Waiting) | None => ("not begun", Tone::Plain, 0, Vec::new()),
        };
        Row {
            no: step.no,
            server: step.what.server().cloned(),
            what: step.what.title(),
            status,
            tone,
            attempts: progress.map_or(0, |progress| progress.attempt),
            ms: durations.get(&step.no).copied(),
            ums_ms,
            remarks,
        }
    };
    state.all_steps().map(row).collect()
}

impl Row {
    fn cells(self) -> Vec<Cell> {
        vec![
            Cell::plain(self.no),
            Cell::plain(self.server.as_ref().map_or("cluster", ServerName::as_str)),
            Cell::plain(self.what),
            Cell::new(self.status, self.tone),
            Cell::plain(self.attempts),
            Cell::plain(self.ms.map_or("-".to_owned(), seconds)),
            Cell::plain(if self.ms.is_some() { seconds(self.ums_ms) } else { "-".to_owned() }),
            Cell::plain(self.remarks.join("; ")),
        ]
    }

    fn document(self) -> serde_json::Value {
        json!({
            "step": self.no,
            "server": self.server,
            "what": self.what,
            "status": self.status,
            "attempts": self.attempts,
            "ms": self.ms,
            "ums_ms": self.ums_ms,
            "remarks": self.remarks,
        })
    }
}

#[cfg(test)]
mod tests;
