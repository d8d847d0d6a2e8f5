//! `umsid rollback`

use std::time::Duration;

use clap::Args;
use umsid_common::name::{ClusterName, ServerName};

use super::drive::{Patience, Work, drive, show};
use super::from_agents::take_over;
use super::plan::each_once;
use super::prepare::{by, lock};
use super::resume::situation_of;
use super::runs::{cluster_of, newer_sync, open_journal, run_meant};
use super::{Context, ask};
use crate::exit::{self, Exit};
use crate::journal::RunLog;
use crate::plan::touched;
use crate::report::{Report, Stopwatch};
use crate::run::{RunError, give_up};

/// Put servers back as they were before a run: each its own UMS ID, from its safety backup
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid rollback 20261122t204512-7f3a9c
  umsid rollback 20261122t204512-7f3a9c ums3 --yes
  umsid rollback 20261122t204512-7f3a9c --give-up

Only for a run that is not over. Each server is restored, restarted and verified, one after another. A server that cannot
be put back leaves the run stuck, and says what to type: the others can be put back by name, and --give-up ends the run.")]
pub(super) struct Rollback {
    /// Which run, or the beginning of its id
    run: String,
    /// Only these servers [default: all the run has touched]
    #[arg(value_name = "SERVER")]
    servers: Vec<ServerName>,
    /// Take the run from the copies of its journal that the agents of this cluster keep: `umsid runs --from-agents`
    #[arg(long, value_name = "CLUSTER")]
    from_agents: Option<ClusterName>,
    /// End the run as it stands: what could not be put back stays as it is
    #[arg(long, conflicts_with = "servers")]
    give_up: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    patience: Patience,
}

impl Rollback {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        context.home.open()?;
        let journal = open_journal(context).await?;
        let (run, runs, _lock) = match &self.from_agents {
            Some(cluster) => {
                let lock = lock(context, cluster).await?;
                let run = take_over(context, cluster, Some(&self.run)).await?;
                (run, journal.runs().await?, lock)
            }
            None => {
                let runs = journal.runs().await?;
                let run = run_meant(&runs, &self.run)?;
                let lock = lock(context, cluster_of(&runs, &run)?).await?;
                (run, runs, lock)
            }
        };
        let log = journal.load(&run).await?;
        if log.is_over() {
            return Err(RunError::Over(run).into());
        }
        if self.give_up {
            return end(context, log, self.yes).await;
        }
        let servers = each_once(self.servers);
        let touched = touched(log.state());
        if let Some(other) = servers.iter().find(|server| !touched.contains(server)) {
            let why = format!("the run restored nothing on {other}: it is as it was");
            return Err(RunError::NothingToRollBack(why).into());
        }
        if touched.is_empty() && log.state().turned_back().is_none() {
            context.out.say(format_args!(
                "run {run} restored nothing: every server is as it was; only what was transferred is removed"
            ));
        }
        if let Some(newer) = newer_sync(&runs, &log.state().plan().cluster, &run) {
            let what =
                format!("run {newer} came after {run}: rolling {run} back would undo what that put in order");
            return Err(exit::Refusal::new(Exit::Failed, what)
                .remedy(format!("`umsid status {}` shows how the servers stand", log.state().plan().cluster))
                .into());
        }
        // Only these must be within reach: another server that is gone for good must not stand in their way.
        let underway = log.state().still_to_put_back();
        let meant = match (servers.is_empty(), underway.is_empty()) {
            (false, _) => servers.clone(),
            (true, false) => underway,
            (true, true) => touched,
        };
        let names: Vec<&str> = meant.iter().map(ServerName::as_str).collect();
        let question = match names.as_slice() {
            [] => format!("End run {run}?"),
            names => format!("Put {} back as before run {run}, and restart there?", names.join(", ")),
        };
        if !ask::yes(self.yes, &question)? {
            context.out.say("nothing was changed");
            return Ok(Exit::Failed);
        }
        let situation = situation_of(context, &log, &meant.into_iter().collect()).await?;
        drive(context, situation, Work::TurnBack(log, servers), &self.patience, Duration::ZERO, false).await
    }
}

/// Ends a run that nobody wants to take further, once that is meant.
async fn end(context: &Context, mut log: RunLog, yes: bool) -> anyhow::Result<Exit> {
    let (run, left) = (log.run().clone(), touched(log.state()));
    for server in &left {
        context.out.say(format_args!(
            "{server} may not be as it was before the run; its own UMS ID stays in its agent's vault, if it is there"
        ));
    }
    if !ask::yes(yes, &format!("End run {run} as it stands, for good?"))? {
        context.out.say("nothing was changed");
        return Ok(Exit::Failed);
    }
    let agents = context.agents(&context.inventory()?, &context.authority()?)?;
    give_up(&mut log, &by(&agents)).await?;
    let watch = Stopwatch { events_before: log.events().len(), ..Stopwatch::default() };
    let report = Report::of(&log, watch, true);
    show(context, &report)?;
    Ok(report.exit())
}
