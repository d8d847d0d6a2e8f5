//! `umsid sync` of many clusters: everything is looked at first, shown and asked once; then so many clusters at a time, each
//! with its own lock, leases, run and report. What happens to one of them never touches another.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use umsid_common::name::{ClusterName, RunId};

use super::drive::{Patience, Work, asked_to_leave, carry_out};
use super::prepare::{Situation, lock};
use super::{Context, Format, ask, count};
use crate::exit::{self, Exit};
use crate::inventory::Cluster;
use crate::plan::{Plan, Refusal, Request};
use crate::printout::{Cell, Tone};
use crate::progress::Display;
use crate::report::{Outcome, Report, seconds};

/// How several clusters are synchronized.
pub(super) struct Fleet<'a> {
    pub(super) clusters: BTreeMap<ClusterName, Cluster>,
    pub(super) request: Request,
    /// How many of them at a time.
    pub(super) at_once: usize,
    pub(super) yes: bool,
    pub(super) dry_run: bool,
    pub(super) patience: &'a Patience,
}

/// One cluster before anything is done.
struct Outlook {
    servers: usize,
    all_in_sync: bool,
    plan: Plan,
    refusals: Vec<Refusal>,
}

/// What came of one cluster.
#[derive(Debug, Serialize)]
struct Ending {
    cluster: ClusterName,
    /// In one word.
    outcome: String,
    run: Option<RunId>,
    /// Servers that were to be synchronized.
    targets: usize,
    elapsed_ms: u64,
    /// As the exit code of a sync of this cluster alone.
    exit: u8,
    /// What is wrong, from the outside to the cause.
    causes: Vec<String>,
    /// What to do about it.
    remedy: Option<String>,
    #[serde(skip)]
    aftermath: String,
}

impl Fleet<'_> {
    /// Looks, asks, does it, and says what came of every cluster.
    pub(super) async fn sync(self, context: &Context) -> anyhow::Result<Exit> {
        let outlooks = self.look(context).await?;
        let (mut endings, mut work) = (Vec::new(), BTreeMap::new());
        let shown = context.out.rendered(OUTLOOK, outlooks.iter().map(|(name, of)| of.row(name)).collect());
        for (name, outlook) in outlooks {
            match outlook.ending(&name) {
                Some(ending) => endings.push(ending),
                None => {
                    work.insert(name, outlook.plan);
                }
            }
        }
        let talks = context.out.format() == Format::Table;
        if self.dry_run {
            match context.out.format() {
                Format::Json => context.out.json(&json!({ "plans": work, "others": endings }))?,
                Format::Table => context.out.text(shown)?,
            }
            return Ok(exit_of(&endings));
        }
        if talks && (!self.yes || work.is_empty()) {
            context.out.say(shown);
        }
        if !work.is_empty() && !self.yes && !ask::yes(false, &question(&work, endings.len()))? {
            context.out.say("nothing was changed");
            return Ok(Exit::Failed);
        }
        if context.out.format() == Format::Json {
            endings.iter().try_for_each(|ending| told(context, ending))?;
        }
        let begun = Instant::now();
        let (ended, printed) = self.carry_out(context, work).await?;
        endings.extend(ended);
        endings.sort_by(|one, other| one.cluster.cmp(&other.cluster));
        match printed.and_then(|()| show(context, &endings, begun.elapsed())) {
            Ok(()) => Ok(exit_of(&endings)),
            Err(error) => Err(unreported(&endings, error)),
        }
    }

    async fn look(&self, context: &Context) -> anyhow::Result<BTreeMap<ClusterName, Outlook>> {
        let situations = Situation::see_many(context, &self.clusters, &self.request).await?;
        let outlook = |situation: Situation| {
            let (plan, refusals) = situation.plan(&self.request);
            let (servers, all_in_sync) =
                (situation.cluster.servers.len(), situation.assessment.all_in_sync());
            (situation.name, Outlook { servers, all_in_sync, plan, refusals })
        };
        Ok(situations.into_iter().map(outlook).collect())
    }

    async fn carry_out(
        &self,
        context: &Context,
        work: BTreeMap<ClusterName, Plan>,
    ) -> anyhow::Result<(Vec<Ending>, io::Result<()>)> {
        let displayed: Vec<_> = work
            .into_iter()
            .map(|(name, plan)| {
                let display = Arc::new(Display::among_others(context.out, &plan));
                (name, plan, display)
            })
            .collect();
        let stop = context.stop.clone();
        let displays: Vec<_> = displayed.iter().map(|(_, _, display)| Arc::clone(display)).collect();
        let asked_to_leave = asked_to_leave(displays, stop.clone())?;
        let runs = displayed.iter().map(|(name, plan, display)| {
            let stop = stop.clone();
            async move {
                let begun = Instant::now();
                let came_of_it = self.one(context, name, plan, display, stop).await;
                let ending = Ending::of(name, plan, came_of_it, begun.elapsed(), display);
                // Said by the last line of its own display already where there was a run.
                if ending.run.is_none() && context.out.format() == Format::Table {
                    context.out.say(format_args!("{name}: {}", ending.causes.join(": ")));
                }
                let printed = told(context, &ending).and(display.unprinted().map_or(Ok(()), Err));
                (ending, printed)
            }
        });
        let all = stream::iter(runs).buffer_unordered(self.at_once).collect::<Vec<_>>();
        tokio::select! {
            ended = all => {
                let (endings, printed): (Vec<Ending>, Vec<io::Result<()>>) = ended.into_iter().unzip();
                Ok((endings, printed.into_iter().collect()))
            }
            () = asked_to_leave => {
                let runs: Vec<String> =
                    displayed.iter().filter_map(|(_, _, display)| Some(display.run()?.to_string())).collect();
                let what = "left at once; what was going on on servers goes on there";
                let remedy = format!("`umsid resume RUN` goes on where one stands; begun were {}", runs.join(", "));
                Err(exit::Refusal::new(Exit::Interrupted, what).remedy(remedy).into())
            }
        }
    }

    /// What was shown of one cluster, or nothing, if it is not so any more.
    async fn one(
        &self,
        context: &Context,
        name: &ClusterName,
        shown: &Plan,
        display: &Arc<Display>,
        stop: CancellationToken,
    ) -> anyhow::Result<Report> {
        if stop.is_cancelled() {
            return Err(exit::Refusal::new(Exit::Interrupted, "not begun: it was asked to stop").into());
        }
        let _lock = lock(context, name).await?;
        let situation = Situation::see(context, Some(name), &self.request).await?;
        situation.nobody_in_the_middle(context, self.request.kind).await?;
        let (fresh, refusals) = situation.plan(&self.request);
        if !refusals.is_empty() {
            return Err(refused(&refusals).into());
        }
        let differences = shown.differences(&fresh);
        if !differences.is_empty() {
            let what = format!("not begun: it is not as it was shown any more: {}", differences.join("; "));
            return Err(exit::Refusal::new(Exit::Failed, what).remedy(format!("`umsid sync {name}`")).into());
        }
        carry_out(situation, Work::Begin(fresh), self.patience, display, stop, Duration::ZERO).await
    }
}

/// What is shown of every cluster before anything is done.
const OUTLOOK: &[&str] = &["CLUSTER", "SERVERS", "TO SYNC", "RESTARTS", "DETAIL"];

/// And afterwards.
const RESULT: &[&str] = &["CLUSTER", "OUTCOME", "SYNCED", "TIME", "RUN", "DETAIL"];

impl Outlook {
    fn row(&self, name: &ClusterName) -> Vec<Cell> {
        let (targets, restarts) = (self.plan.targets.len(), self.plan.restarts().len());
        let (detail, tone) = match self.refusals.as_slice() {
            [] if self.plan.is_empty() && self.all_in_sync => ("all in sync".to_owned(), Tone::Good),
            [] if self.plan.is_empty() => {
                ("nothing to do, but not every server is known to be in sync".to_owned(), Tone::Doubtful)
            }
            [] => {
                let targets: Vec<&str> = self.plan.targets.iter().map(|target| target.as_str()).collect();
                (targets.join(", "), Tone::Plain)
            }
            refusals => (format!("cannot be synchronized now: {}", joined(refusals)), Tone::Bad),
        };
        let (targets, restarts) = if self.refusals.is_empty() { (targets, restarts) } else { (0, 0) };
        vec![
            Cell::plain(name),
            Cell::plain(self.servers),
            Cell::plain(targets),
            Cell::plain(restarts),
            Cell::new(detail, tone),
        ]
    }

    /// How this ends where there is nothing to be done; `None`: there is.
    fn ending(&self, name: &ClusterName) -> Option<Ending> {
        let nothing = |exit: Exit, outcome: &str| Ending {
            cluster: name.clone(),
            outcome: outcome.to_owned(),
            run: None,
            targets: 0,
            elapsed_ms: 0,
            exit: exit.code(),
            causes: Vec::new(),
            remedy: None,
            aftermath: String::new(),
        };
        if !self.refusals.is_empty() {
            let error = anyhow::Error::new(refused(&self.refusals));
            let ending = nothing(exit::of(&error), "refused");
            return Some(Ending { causes: causes(&error), remedy: exit::remedy(&error), ..ending });
        }
        let exit = if self.all_in_sync { Exit::Success } else { Exit::NotInSync };
        self.plan.is_empty().then(|| nothing(exit, Outcome::NothingToDo.as_str()))
    }
}

impl Ending {
    fn of(
        name: &ClusterName,
        plan: &Plan,
        came_of_it: anyhow::Result<Report>,
        took: Duration,
        display: &Display,
    ) -> Self {
        let elapsed_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let (cluster, targets) = (name.clone(), plan.targets.len());
        match came_of_it {
            Ok(report) => Self {
                outcome: report.outcome.as_str().to_owned(),
                exit: report.exit().code(),
                causes: report.halt.iter().map(|halt| halt.why.clone()).collect(),
                remedy: report.next.first().map(|advice| format!("{}  {}", advice.command, advice.does)),
                aftermath: report.aftermath(),
                run: report.run,
                elapsed_ms: report.elapsed_ms,
                cluster,
                targets,
            },
            Err(error) => Self {
                outcome: if display.run().is_some() { "stopped" } else { "not begun" }.to_owned(),
                run: display.run(),
                exit: exit::of(&error).code(),
                causes: causes(&error),
                remedy: exit::remedy(&error),
                aftermath: String::new(),
                elapsed_ms,
                cluster,
                targets,
            },
        }
    }

    fn row(&self) -> Vec<Cell> {
        let good = self.exit == Exit::Success.code();
        vec![
            Cell::plain(&self.cluster),
            Cell::new(&self.outcome, if good { Tone::Good } else { Tone::Bad }),
            Cell::plain(if good { self.targets } else { 0 }),
            Cell::plain(seconds(self.elapsed_ms)),
            Cell::plain(self.run.as_ref().map_or("-", |run| run.as_str())),
            Cell::plain(if self.causes.is_empty() { "-".to_owned() } else { self.causes.join(": ") }),
        ]
    }
}

fn causes(error: &anyhow::Error) -> Vec<String> {
    error.chain().map(ToString::to_string).collect()
}

fn joined(refusals: &[Refusal]) -> String {
    refusals.iter().map(|refusal| refusal.what.as_str()).collect::<Vec<_>>().join("; ")
}

/// All that speaks against a run, in one error.
fn refused(refusals: &[Refusal]) -> exit::Refusal {
    let mut remedies: Vec<&str> = refusals.iter().map(|refusal| refusal.remedy.as_str()).collect();
    remedies.dedup();
    exit::Refusal::new(super::prepare::exit_of_all(refusals), joined(refusals)).remedy(remedies.join("; "))
}

fn question(work: &BTreeMap<ClusterName, Plan>, others: usize) -> String {
    let targets: usize = work.values().map(|plan| plan.targets.len()).sum();
    let restarts: usize = work.values().map(|plan| plan.restarts().len()).sum();
    let others =
        if others == 0 { String::new() } else { format!(" ({} left alone)", count(others, "other")) };
    format!(
        "Synchronize {} in {}{others}, with {}?",
        count(targets, "server"),
        count(work.len(), "cluster"),
        count(restarts, "restart")
    )
}

/// One cluster is done, for programs.
fn told(context: &Context, ending: &Ending) -> io::Result<()> {
    if context.out.format() != Format::Json {
        return Ok(());
    }
    let mut document = serde_json::to_value(ending).map_err(io::Error::other)?;
    if let Some(fields) = document.as_object_mut() {
        fields.insert("event".to_owned(), json!("cluster"));
    }
    context.out.json_line(&document)
}

fn show(context: &Context, endings: &[Ending], took: Duration) -> io::Result<()> {
    let exit = exit_of(endings).code();
    if context.out.format() == Format::Json {
        let good = endings.iter().filter(|ending| ending.exit == Exit::Success.code()).count();
        let document = json!({ "event": "fleet", "clusters": endings, "good": good, "exit": exit });
        return context.out.json_line(&document);
    }
    context.out.table(RESULT, endings.iter().map(Ending::row).collect())?;
    let bad: Vec<&Ending> = endings.iter().filter(|ending| ending.exit != Exit::Success.code()).collect();
    context.out.text(format_args!(
        "{}: {} well, {} not, after {}",
        count(endings.len(), "cluster"),
        endings.len() - bad.len(),
        bad.len(),
        seconds(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
    ))?;
    for ending in bad {
        let name = &ending.cluster;
        if !ending.aftermath.is_empty() {
            context.out.say(format_args!("{name}:\n{}", ending.aftermath.trim_end()));
        } else if let Some(remedy) = &ending.remedy {
            context.out.say(format_args!("{name}: {}\n  what to do: {remedy}", ending.outcome));
        }
    }
    Ok(())
}

/// Every run went to its end; that their reader does not know must not look like success.
fn unreported(endings: &[Ending], error: io::Error) -> anyhow::Error {
    let exit = match exit_of(endings) {
        Exit::Success => Exit::Failed,
        exit => exit,
    };
    let what = "what became of the clusters could not be printed";
    exit::Refusal::new(exit, what).remedy("`umsid runs` lists the runs").because(error).into()
}

/// What a person must look at first counts most.
fn exit_of(endings: &[Ending]) -> Exit {
    let order = [
        Exit::Interrupted,
        Exit::NeedsOperator,
        Exit::Failed,
        Exit::Certificate,
        Exit::Unreachable,
        Exit::Locked,
        Exit::NotInSync,
        Exit::NotNow,
        Exit::Success,
    ];
    let found = order.into_iter().find(|exit| endings.iter().any(|ending| ending.exit == exit.code()));
    let known = endings.iter().all(|ending| order.iter().any(|exit| exit.code() == ending.exit));
    if known { found.unwrap_or(Exit::Success) } else { Exit::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(exit: Exit) -> Ending {
        Ending {
            cluster: "hamburg".parse().unwrap(),
            outcome: String::new(),
            run: None,
            targets: 1,
            elapsed_ms: 0,
            exit: exit.code(),
            causes: Vec::new(),
            remedy: None,
            aftermath: String::new(),
        }
    }

    #[test]
    fn one_cluster_that_is_not_well_is_enough_not_to_succeed() {
        for (exit, _) in exit::TABLE {
            let all = [ending(Exit::Success), ending(*exit), ending(Exit::Success)];
            assert_eq!(exit_of(&all) == Exit::Success, *exit == Exit::Success, "{exit:?}");
        }
        assert_eq!(exit_of(&[ending(Exit::NotInSync), ending(Exit::NeedsOperator)]), Exit::NeedsOperator);
        assert_eq!(exit_of(&[ending(Exit::Unreachable), ending(Exit::NotInSync)]), Exit::Unreachable);
        assert_eq!(exit_of(&[ending(Exit::NotNow), ending(Exit::Success)]), Exit::NotNow);
        // A kind that is not in the order is no success.
        assert_eq!(exit_of(&[ending(Exit::Success), ending(Exit::WrongPassword)]), Exit::Failed);
    }
}
