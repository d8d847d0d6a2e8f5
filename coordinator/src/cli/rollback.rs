//! `umsid rollback`

use std::time::Duration;

use clap::Args;
use umsid_common::name::ServerName;

use super::drive::{Patience, Work, drive};
use super::plan::each_once;
use super::prepare::lock;
use super::resume::situation_of;
use super::runs::{cluster_of, newer_sync, open_journal, run_meant};
use super::{Context, ask};
use crate::exit::{self, Exit};
use crate::plan::touched;
use crate::run::RunError;

/// Put servers back as they were before a run: each its own UMS ID, from its safety backup
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid rollback 20261122t204512-7f3a9c
  umsid rollback 20261122t204512-7f3a9c ums3 --yes

Only for a run that is not over. Each server is restored, restarted and verified, one after another.")]
pub(super) struct Rollback {
    /// Which run, or the beginning of its id
    run: String,
    /// Only these servers [default: all the run has touched]
    #[arg(value_name = "SERVER")]
    servers: Vec<ServerName>,
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
        let runs = journal.runs().await?;
        let run = run_meant(&runs, &self.run)?;
        let _lock = lock(context, cluster_of(&runs, &run)?).await?;
        let log = journal.load(&run).await?;
        if log.is_over() {
            return Err(RunError::Over(run).into());
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
        let names: Vec<&str> =
            if servers.is_empty() { &touched } else { &servers }.iter().map(ServerName::as_str).collect();
        let question = match names.as_slice() {
            [] => format!("End run {run}?"),
            names => format!("Put {} back as before run {run}, and restart there?", names.join(", ")),
        };
        if !ask::yes(self.yes, &question)? {
            context.out.say("nothing was changed");
            return Ok(Exit::Failed);
        }
        // Only these must be within reach: another server that is gone for good must not stand in their way.
        let needed = if servers.is_empty() { touched.clone() } else { servers.clone() };
        let situation = situation_of(context, &log, &needed.into_iter().collect()).await?;
        drive(context, situation, Work::TurnBack(log, servers), &self.patience, Duration::ZERO).await
    }
}
