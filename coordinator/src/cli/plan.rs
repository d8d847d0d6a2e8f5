//! `umsid plan`, and what `umsid sync` shows before it asks.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use jiff::Zoned;
use serde::{Deserialize, Serialize};
use umsid_common::digest::{Digest, Fingerprint};
use umsid_common::durable::{self, Access};
use umsid_common::name::{ClusterName, ServerName};

use super::prepare::{Situation, refuse};
use super::{Context, Format, count};
use crate::exit::{self, Exit};
use crate::plan::{self, Forecast, Kind, Plan, Refusal, RefusalKind, Request, RestartScope, What, hours};
use crate::printout::{Cell, Tone};
use crate::survey::SyncState;

/// Largest plan file that is read, in bytes. A plan for fifty servers has a tenth of a megabyte.
const LARGEST_FILE: u64 = 16 << 20;

/// Show what a sync would do, step by step, and write it to a file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid plan hamburg
  umsid plan hamburg --only ums3 --out friday.json
  umsid sync --plan friday.json     carries out exactly that, or refuses if the facts have changed

Nothing is changed. Exit code 0 if nothing speaks against carrying the plan out but, perhaps, that a site's window is closed now;
when it opens is said.")]
pub(super) struct PlanCommand {
    /// Which cluster [default: the only one there is]
    cluster: Option<ClusterName>,
    #[command(flatten)]
    wish: Wish,
    /// Write the plan to this file, for `umsid sync --plan`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What is to be synchronized, and how.
#[derive(Debug, Args)]
pub(super) struct Wish {
    /// The Main server, where the evidence does not settle it
    #[arg(long, value_name = "SERVER")]
    main: Option<ServerName>,
    /// The SHA-256 fingerprint the Main UMS ID must have
    #[arg(long, value_name = "FINGERPRINT")]
    main_fingerprint: Option<Fingerprint>,
    /// Synchronize only these servers; of the others none is restarted unless --restart all is given
    #[arg(long, value_name = "SERVER", num_args = 1.., value_delimiter = ',')]
    only: Vec<ServerName>,
    /// How many servers at a time, after the first; of one site never more than its `max_down` in inventory.toml, or one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Which servers are restarted [default: all; with --only: restored]
    #[arg(long, value_enum, value_name = "WHICH")]
    restart: Option<Restarted>,
    /// Restart the servers first, the documented first remedy; those in sync after it are left alone
    #[arg(long)]
    restart_first: bool,
    /// Let the first server restore its own UMS ID over itself before anything else
    #[arg(long)]
    rehearse: bool,
    /// Seconds to wait for messages between servers before the whole cluster is verified
    #[arg(long, value_name = "SECONDS", default_value_t = 45)]
    settle: u64,
    /// Take a restore that shows no effect for one that shows only after the restart
    #[arg(long)]
    verify_after_restart: bool,
    /// Restore and restart servers whatever the windows of their sites
    #[arg(long)]
    ignore_windows: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Restarted {
    /// All servers, as documented
    All,
    /// Those that were restored
    Restored,
    /// None: the restored UMS ID is in use only after you restart
    None,
}

impl Wish {
    pub(super) fn request(self) -> Request {
        let restart = match self.restart {
            Some(Restarted::All) => RestartScope::All,
            Some(Restarted::Restored) => RestartScope::Restored,
            Some(Restarted::None) => RestartScope::None,
            // Whoever names servers wants the others left alone.
            None if self.only.is_empty() => RestartScope::All,
            None => RestartScope::Restored,
        };
        Request {
            kind: Kind::Sync,
            only: each_once(self.only),
            main: self.main,
            main_fingerprint: self.main_fingerprint,
            batch: self.batch.into(),
            restart,
            restart_first: self.restart_first,
            rehearse: self.rehearse,
            settle_s: self.settle,
            verify_after_restart: self.verify_after_restart,
            ignore_windows: self.ignore_windows,
        }
    }
}

/// The same servers in the same order, none twice.
pub(super) fn each_once(servers: Vec<ServerName>) -> Vec<ServerName> {
    let mut once = Vec::new();
    for server in servers {
        if !once.contains(&server) {
            once.push(server);
        }
    }
    once
}

impl PlanCommand {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let request = self.wish.request();
        let situation = Situation::see(context, self.cluster.as_ref(), &request).await?;
        present(context, &situation, &request, self.out.as_deref())
    }
}

#[derive(Serialize)]
struct Document<'a> {
    cluster: &'a ClusterName,
    digest: Digest,
    plan: &'a Plan,
    nothing_to_do: bool,
    all_in_sync: bool,
    refusals: &'a [Refusal],
    /// When the steps would be begun that are bound to windows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    forecast: Vec<Forecast>,
}

/// Shows the plan for a request on standard output, and writes it to a file if asked to.
pub(super) fn present(
    context: &Context,
    situation: &Situation,
    request: &Request,
    file: Option<&Path>,
) -> anyhow::Result<Exit> {
    let (plan, refusals) = situation.plan(request);
    let all_in_sync = situation.assessment.all_in_sync();
    if context.out.format() == Format::Json {
        context.out.json(&Document {
            cluster: &situation.name,
            digest: plan.digest(),
            plan: &plan,
            nothing_to_do: plan.is_empty(),
            all_in_sync,
            refusals: &refusals,
            forecast: plan.forecast(&Zoned::now()),
        })?;
    } else if !plan.is_empty() {
        context.out.text(text(context, &plan).trim_end())?;
    }
    // A plan is made on Friday for the night on Sunday.
    let (closed, refusals): (Vec<_>, Vec<_>) =
        refusals.into_iter().partition(|refusal| refusal.kind == RefusalKind::Window);
    if !refusals.is_empty() {
        return Err(refuse(context, &refusals));
    }
    for closed in closed {
        context
            .out
            .say(format_args!("it cannot be begun now: {}\n  what to do: {}", closed.what, closed.remedy));
    }
    if let Some(path) = file {
        PlanFile::write(path, &plan)?;
        context.out.say(format_args!(
            "wrote {}: `umsid sync --plan {}` carries it out",
            path.display(),
            path.display()
        ));
    }
    if !plan.is_empty() {
        return Ok(Exit::Success);
    }
    if context.out.format() == Format::Table {
        context.out.text(nothing_to_do(situation))?;
    }
    Ok(if all_in_sync { Exit::Success } else { Exit::NotInSync })
}

/// Why there is nothing to do: because all is well, or only of what was asked about.
pub(super) fn nothing_to_do(situation: &Situation) -> String {
    let verdicts = &situation.assessment.servers;
    if situation.assessment.all_in_sync() {
        return format!("{}: nothing to do, all {} servers are in sync", situation.name, verdicts.len());
    }
    let others: Vec<String> = verdicts
        .iter()
        .filter(|(_, verdict)| !matches!(verdict.state, SyncState::Main | SyncState::InSync))
        .map(|(server, verdict)| format!("{server} is {}", verdict.state))
        .collect();
    format!("{}: nothing to do of what was asked for, but {}", situation.name, others.join(", "))
}

/// The plan as people read it.
pub(super) fn text(context: &Context, plan: &Plan) -> String {
    let mut text = format!(
        "{} of {}, by what its servers said at {}\n",
        plan.request.kind.as_str(),
        plan.cluster,
        plan.surveyed.strftime("%Y-%m-%d %H:%M:%S UTC")
    );
    if let Some(main) = &plan.main {
        let print = main.fingerprint.map_or("fingerprint not known".to_owned(), |print| print.short());
        let _ = writeln!(text, "Main: {} ({print}): {}", main.server, main.evidence);
    }
    if !plan.targets.is_empty() {
        let targets = plan.targets.iter().map(|target| {
            let state = plan.servers.get(target).map_or(SyncState::Unknown, |facts| facts.state);
            let canary = if plan.canary() == Some(target) { ", the canary" } else { "" };
            format!("{target} ({state}{canary})")
        });
        let _ = writeln!(text, "to be synchronized: {}", targets.collect::<Vec<_>>().join(", "));
    }
    let forecast = plan.forecast(&Zoned::now());
    let rows = plan.steps.iter().map(|step| {
        let downtime = match (&step.what, step.downtime_s) {
            (What::Restart { .. }, Some(seconds)) => format!("about {seconds} s"),
            (What::Restart { .. }, None) => "no restart on record".to_owned(),
            _ => "-".to_owned(),
        };
        let mut row = vec![
            Cell::plain(step.no),
            Cell::plain(step.what.server().map_or("cluster", ServerName::as_str)),
            Cell::plain(step.what.title()),
            Cell::plain(&step.why),
            Cell::plain(downtime),
        ];
        if !forecast.is_empty() {
            row.push(window(forecast.iter().find(|forecast| forecast.step == step.no)));
        }
        row
    });
    let mut header = vec!["STEP", "SERVER", "WHAT", "WHY", "DOWNTIME"];
    header.extend((!forecast.is_empty()).then_some("WINDOW"));
    let _ = writeln!(text, "\n{}\n", context.out.rendered(&header, rows.collect()));
    for note in &plan.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let restarts = plan.restarts().len();
    let _ = writeln!(
        text,
        "{}, {}; plan {}",
        count(plan.steps.len(), "step"),
        count(restarts, "restart"),
        plan.digest()
    );
    text
}

/// The window a step falls in, and when it is begun there if what is reckoned comes true.
fn window(forecast: Option<&Forecast>) -> Cell {
    match forecast {
        None => Cell::plain("-"),
        Some(Forecast { begins: Some(begins), hours, .. }) => {
            Cell::plain(format_args!("{hours}: about {}", hours::moment(begins)))
        }
        Some(Forecast { begins: None, hours, .. }) => {
            Cell::new(format_args!("{hours}: never long enough"), Tone::Bad)
        }
    }
}

/// A plan in a file, with its digest: what was altered is noticed.
#[derive(Deserialize, Serialize)]
pub(super) struct PlanFile {
    plan: Plan,
    digest: Digest,
}

impl PlanFile {
    fn write(path: &Path, plan: &Plan) -> anyhow::Result<()> {
        let file = Self { plan: plan.clone(), digest: plan.digest() };
        let mut text = serde_json::to_vec_pretty(&file).context("cannot write the plan")?;
        text.push(b'\n');
        durable::replace(path, &text, Access::Private).context("cannot write the plan")
    }

    /// The plan in a file.
    ///
    /// # Errors
    /// If it cannot be read, is empty, is no plan, or was altered: nothing is done then.
    pub(super) fn read(path: &Path) -> anyhow::Result<Plan> {
        let text = bounded(path).with_context(|| format!("cannot read the plan {}", path.display()))?;
        let refuse = |what: String| {
            exit::Refusal::new(Exit::Usage, what).remedy("make it again: `umsid plan CLUSTER --out FILE`")
        };
        if text.is_empty() {
            return Err(refuse(format!("{} is empty: it holds no plan", path.display())).into());
        }
        let file: Self = serde_json::from_slice(&text)
            .map_err(|error| refuse(format!("{} holds no plan", path.display())).because(error))?;
        if file.plan.version != plan::VERSION {
            let what = format!(
                "{} is a plan of format {}, this umsid reads format {}",
                path.display(),
                file.plan.version,
                plan::VERSION
            );
            return Err(refuse(what).into());
        }
        if file.plan.digest() != file.digest {
            let what = format!("{} was altered: its digest is not that of the plan in it", path.display());
            return Err(refuse(what).into());
        }
        Ok(file.plan)
    }
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST_FILE >> 20)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
