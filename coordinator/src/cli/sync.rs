//! `umsid sync`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::Zoned;
use serde_json::json;
use umsid_common::name::ClusterName;

use super::drive::{Patience, Work, drive, show};
use super::fleet::Fleet;
use super::plan::{PlanFile, Wish, nothing_to_do, present, text};
use super::prepare::{Situation, lock, refuse, wanted};
use super::wait_for::until;
use super::{Context, Format, ask, count};
use crate::exit::{self, Exit};
use crate::plan::{Kind, Plan, RefusalKind, Request};
use crate::report::{Report, Stopwatch};
use crate::survey::complaint;

/// Bring the servers that are out of sync back: back up, transfer, restore, restart, verify
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid sync hamburg
  umsid sync hamburg --yes --batch 2
  umsid sync hamburg --only ums3          the others are not restarted
  umsid sync --plan friday.json --yes
  umsid sync hamburg --yes --wait-for-window
                                          begins when the window of the first server's site opens, and goes on
                                          when those of the others do
  umsid sync --all --max-clusters 8       every cluster that needs it, eight at a time

The plan is shown first, and you are asked. The first server is done completely and verified before any other is touched;
if it fails it is put back as it was. Ctrl-C stops after what is going on; `umsid resume` goes on, `umsid rollback` goes back.
Exit code 0 only if every server that was to be synchronized is verified synchronized. Of several clusters, what becomes of one
never touches another; the exit code is then that of the cluster a person must look at first.")]
pub(super) struct Sync {
    /// Which clusters [default: the only one there is]
    #[arg(value_name = "CLUSTER", conflicts_with = "all")]
    clusters: Vec<ClusterName>,
    /// All clusters
    #[arg(long, conflicts_with_all = ["plan", "main", "main_fingerprint", "only"])]
    all: bool,
    /// How many clusters at a time, where there are several
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    max_clusters: u16,
    /// Carry out exactly this plan, made by `umsid plan --out`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["main", "main_fingerprint", "only", "batch", "restart",
        "restart_first", "rehearse", "settle", "verify_after_restart", "ignore_windows"])]
    plan: Option<PathBuf>,
    #[command(flatten)]
    wish: Wish,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only show the plan
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Wait until the window of the first server is open, and look again then; wait too for those that are closed on the way
    #[arg(long, requires = "yes", conflicts_with_all = ["ignore_windows", "all"])]
    wait_for_window: bool,
    #[command(flatten)]
    patience: Patience,
}

impl Sync {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        if self.all || self.clusters.len() > 1 {
            return self.several(context).await;
        }
        let given = self.plan.as_deref().map(PlanFile::read).transpose()?;
        let request = match &given {
            Some(plan) => plan.request.clone(),
            None => self.wish.request(),
        };
        let named = self.clusters.into_iter().next();
        let cluster = match (&given, named) {
            (Some(plan), Some(named)) if plan.cluster != named => {
                let what = format!("the plan is for cluster {}, not for {named}", plan.cluster);
                return Err(exit::Refusal::new(Exit::Usage, what).remedy("leave the cluster out").into());
            }
            (Some(plan), _) => Some(plan.cluster.clone()),
            (None, named) => named,
        };
        let mut situation = Situation::see(context, cluster.as_ref(), &request).await?;
        while let Some((opens, why)) = self.wait_for_window.then(|| closed(&situation, &request)).flatten() {
            drop(situation);
            until(context, &opens, &why).await;
            situation = Situation::see(context, cluster.as_ref(), &request).await?;
        }
        if self.dry_run {
            return present(context, &situation, &request, None);
        }
        begin(context, situation, &request, given, self.yes, &self.patience, self.wait_for_window).await
    }

    async fn several(self, context: &Context) -> anyhow::Result<Exit> {
        let request = self.wish.request();
        if self.plan.is_some()
            || request.main.is_some()
            || request.main_fingerprint.is_some()
            || !request.only.is_empty()
            || self.wait_for_window
        {
            let what = "--plan, --main, --main-fingerprint, --only and --wait-for-window are about one cluster, and several \
                        are named";
            return Err(exit::Refusal::new(Exit::Usage, what).remedy("name one").into());
        }
        let inventory = context.inventory()?;
        let names = wanted(&inventory, self.all, &self.clusters, "nothing can be synchronized")?;
        let of = |name: &ClusterName| Ok((name.clone(), inventory.cluster(name)?.clone()));
        let fleet = Fleet {
            clusters: names.iter().map(of).collect::<anyhow::Result<_>>()?,
            request,
            at_once: self.max_clusters.into(),
            yes: self.yes,
            dry_run: self.dry_run,
            patience: &self.patience,
        };
        fleet.sync(context).await
    }
}

/// When a run that only a closed window speaks against may be begun, and why not now.
fn closed(situation: &Situation, request: &Request) -> Option<(Zoned, String)> {
    let (plan, refusals) = situation.plan(request);
    match refusals.as_slice() {
        [only] if only.kind == RefusalKind::Window => Some((plan.opens(&Zoned::now())?, only.what.clone())),
        _ => None,
    }
}

/// Shows the plan, asks, carries it out: what `sync`, `restart` and `backup` have in common. A plan `given` in a file is
/// carried out as it is, or not at all. `through`: windows that are closed on the way are waited for.
pub(super) async fn begin(
    context: &Context,
    situation: Situation,
    request: &Request,
    given: Option<Plan>,
    yes: bool,
    patience: &Patience,
    through: bool,
) -> anyhow::Result<Exit> {
    let _lock = lock(context, &situation.name).await?;
    situation.nobody_in_the_middle(context, request.kind).await?;
    let (fresh, refusals) = situation.plan(request);
    if given.is_some() && refusals.is_empty() && fresh.is_empty() {
        return idle(context, &situation);
    }
    if let Some(given) = &given {
        let differences = given.differences(&fresh);
        if !differences.is_empty() {
            for difference in &differences {
                context.out.say(format_args!("- {difference}"));
            }
            return Err(exit::Refusal::new(
                Exit::Failed,
                "the facts have changed since the plan was made; nothing was changed",
            )
            .remedy(format!("make a new one: `umsid plan {} --out FILE`", given.cluster))
            .into());
        }
    }
    if !refusals.is_empty() {
        if context.out.format() == Format::Json {
            let cluster = &situation.name;
            context
                .out
                .json_line(&json!({ "event": "refused", "cluster": cluster, "refusals": refusals }))?;
        }
        return Err(refuse(context, &refusals));
    }
    let plan = given.unwrap_or(fresh);
    if plan.is_empty() {
        return idle(context, &situation);
    }
    let mut thinking = Duration::ZERO;
    if !yes {
        context.out.say(text(context, &plan).trim_end());
        let since = Instant::now();
        if !ask::yes(false, &question(&plan))? {
            context.out.say("nothing was changed");
            return Ok(Exit::Failed);
        }
        thinking = since.elapsed();
    }
    drive(context, situation, Work::Begin(plan), patience, thinking, through).await
}

fn question(plan: &Plan) -> String {
    let restarts = plan.restarts().len();
    match plan.request.kind {
        Kind::Sync => format!(
            "Synchronize {} of {}, with {}?",
            plan.targets.len(),
            count(plan.servers.len(), "server"),
            count(restarts, "restart")
        ),
        Kind::Restart if restarts == 1 => "Restart the UMS Server on 1 server?".to_owned(),
        Kind::Restart => format!("Restart the UMS Server on {restarts} servers, one after another?"),
        Kind::Backup => format!("Take a safety backup on {}?", count(plan.servers.len(), "server")),
    }
}

fn idle(context: &Context, situation: &Situation) -> anyhow::Result<Exit> {
    if context.out.format() == Format::Json {
        let elapsed_ms = u64::try_from(situation.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let watch = Stopwatch { events_before: 0, elapsed_ms, survey_ums_ms: situation.survey.ums_ms() };
        show(context, &Report::nothing_to_do(situation.name.clone(), watch))?;
    } else {
        context.out.text(nothing_to_do(situation))?;
    }
    // What such a server holds is not in use.
    let unwell = situation
        .survey
        .servers
        .keys()
        .find_map(|server| Some((server, complaint(&situation.survey.report(server)?.inspection)?)));
    if let Some((server, complaint)) = unwell {
        return Err(exit::Refusal::new(Exit::Failed, format!("{server} is not healthy: {complaint}"))
            .remedy(format!(
                "read the log of its UMS Server; `umsid restart --only {server}` restarts it. There is nothing to synchronize"
            ))
            .into());
    }
    Ok(if situation.assessment.all_in_sync() { Exit::Success } else { Exit::NotInSync })
}
