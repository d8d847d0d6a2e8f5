//! `umsid resume`

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use umsid_common::name::{ClusterName, ServerName};

use super::Context;
use super::drive::{Patience, Work, drive};
use super::from_agents::take_over;
use super::prepare::{Situation, lock, refuse};
use super::runs::{cluster_of, newer_sync, open_journal, run_meant, unfinished};
use super::wait_for::{WaitFor, wait_for, window};
use crate::exit::{self, Exit};
use crate::journal::RunLog;
use crate::plan::Kind;
use crate::run::{RunError, needed};

/// Go on with a run that stands still, or whose umsid died
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid resume                    the only run that stands still
  umsid resume 20261122t204512    any beginning of its id that fits no other
  umsid resume --from-agents hamburg
                                  the newest run there, when the journal of this machine is lost or on another one
  umsid resume --wait-for ums3=4h
                                  ums3 is down until somebody switches it on
  umsid resume --wait-for-window  the window of a site is closed: goes on when it opens, and so at every site

What was begun on a server is taken up, never done twice.")]
pub(super) struct Resume {
    /// Which run, or the beginning of its id [default: the only one that stands still]
    run: Option<String>,
    /// Take the run from the copies of its journal that the agents of this cluster keep [default: the newest]
    #[arg(long, value_name = "CLUSTER")]
    from_agents: Option<ClusterName>,
    /// Wait for a server that does not answer yet, before anything is done; more than one may be named
    #[arg(long, value_name = "SERVER=DURATION")]
    wait_for: Vec<WaitFor>,
    /// Wait until the window of the servers that come next is open, as often as one is closed
    #[arg(long, conflicts_with = "ignore_windows")]
    wait_for_window: bool,
    /// Go on whatever the windows of sites; the journal says so
    #[arg(long)]
    ignore_windows: bool,
    #[command(flatten)]
    patience: Patience,
}

impl Resume {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        context.home.open()?;
        let journal = open_journal(context).await?;
        let (run, runs, _lock) = match &self.from_agents {
            Some(cluster) => {
                let lock = lock(context, cluster).await?;
                let run = take_over(context, cluster, self.run.as_deref()).await?;
                (run, journal.runs().await?, lock)
            }
            None => {
                let runs = journal.runs().await?;
                let run = match &self.run {
                    Some(text) => run_meant(&runs, text)?,
                    None => unfinished(&runs)?,
                };
                let lock = lock(context, cluster_of(&runs, &run)?).await?;
                (run, runs, lock)
            }
        };
        let log = journal.load(&run).await?;
        if log.is_over() {
            return Err(RunError::Over(run).into());
        }
        let plan = log.state().plan();
        if plan.request.kind == Kind::Sync
            && let Some(newer) = newer_sync(&runs, &plan.cluster, &run)
        {
            let what = format!("run {newer} came after {run}: what {run} rests on is not so any more");
            return Err(exit::Refusal::new(Exit::Failed, what)
                .remedy(format!(
                    "`umsid status {}` shows how the servers stand; begin a new sync",
                    plan.cluster
                ))
                .into());
        }
        if !self.ignore_windows {
            window(context, log.state(), self.wait_for_window).await?;
        }
        if !self.wait_for.is_empty() {
            let inventory = context.inventory()?;
            let agents = context.agents(&inventory, &context.authority()?)?;
            let servers = &inventory.cluster(&plan.cluster)?.servers;
            wait_for(context, &agents, &plan.cluster, servers, &self.wait_for).await?;
        }
        let situation = situation_of(context, &log, &needed(log.state())).await?;
        let strangers = situation.sealed_to_strangers(log.state());
        if !strangers.is_empty() {
            return Err(refuse(context, &strangers));
        }
        let work = Work::Resume(log, self.ignore_windows);
        drive(context, situation, work, &self.patience, Duration::ZERO, self.wait_for_window).await
    }
}

/// The servers of a run as they stand now; those that are needed have answered.
pub(super) async fn situation_of(
    context: &Context,
    log: &RunLog,
    needed: &BTreeSet<ServerName>,
) -> anyhow::Result<Situation> {
    let plan = log.state().plan();
    let situation = Situation::see(context, Some(&plan.cluster), &plan.request).await?;
    let refusals = situation.silent(needed);
    if refusals.is_empty() { Ok(situation) } else { Err(refuse(context, &refusals)) }
}
