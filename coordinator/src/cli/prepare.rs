//! What every command that runs something begins with: who is asked, what they say, and what that means.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Zoned;
use umsid_common::name::{ClusterName, Role, RunId, ServerName};

use super::{Context, day};
use crate::agents::{Agent, Agents};
use crate::authority::Authority;
use crate::exit::{self, Exit};
use crate::inventory::{Cluster, Inventory};
use crate::journal::{History, Journal, JournalError, LastWord, RunLog};
use crate::plan::{self, Basis, Kind, Plan, Refusal, RefusalKind, Request, Step, What};
use crate::printout::Printout;
use crate::run::State;
use crate::shared::{ClusterLock, Shared, lock_cluster};
use crate::survey::{self, Assessment, Named, SilenceKind, Survey};

/// A cluster as it stands at one moment, and the connections to change it.
pub(super) struct Situation {
    /// The cluster's name.
    pub(super) name: ClusterName,
    /// From the inventory.
    pub(super) cluster: Cluster,
    /// The record of all runs.
    pub(super) journal: Journal,
    /// What earlier runs tell.
    pub(super) history: History,
    /// Who we are, as agents and the journal hold it.
    pub(super) by: String,
    /// What the servers reported.
    pub(super) survey: Survey,
    /// Those that answered.
    pub(super) connections: BTreeMap<ServerName, Agent>,
    /// What is known of Main besides.
    pub(super) named: Named,
    /// What follows.
    pub(super) assessment: Assessment,
    /// When the survey was begun.
    pub(super) begun: Instant,
}

/// The cluster that is meant: the one named, or the only one there is.
pub(super) fn meant(inventory: &Inventory, named: Option<&ClusterName>) -> anyhow::Result<ClusterName> {
    if let Some(name) = named {
        return Ok(inventory.cluster(name).map(|_| name.clone())?);
    }
    let known: Vec<&ClusterName> = inventory.clusters.keys().collect();
    match known.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err(exit::Refusal::new(Exit::Usage, "no server is enrolled yet")
            .remedy("run `umsid-agent enroll` on a UMS server, then `umsid enroll` here")
            .into()),
        several => {
            let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
            Err(exit::Refusal::new(Exit::Usage, format!("which cluster? There are {}", names.join(", ")))
                .remedy("name one")
                .into())
        }
    }
}

/// The clusters that are meant: those named, all, or the only one there is. `so`: what follows where there is none.
pub(super) fn wanted(
    inventory: &Inventory,
    all: bool,
    named: &[ClusterName],
    so: &str,
) -> anyhow::Result<Vec<ClusterName>> {
    let known: Vec<ClusterName> = inventory.clusters.keys().cloned().collect();
    if known.is_empty() {
        return Err(exit::Refusal::new(Exit::NotInSync, format!("no server is enrolled yet, so {so}"))
            .remedy("run `umsid-agent enroll` on a UMS server, then `umsid enroll` here")
            .into());
    }
    if all || (named.is_empty() && known.len() == 1) {
        return Ok(known);
    }
    if named.is_empty() {
        let names: Vec<_> = known.iter().map(ClusterName::as_str).collect();
        return Err(exit::Refusal::new(
            Exit::Usage,
            format!("which cluster? There are {}", names.join(", ")),
        )
        .remedy("name one or more, or say --all")
        .into());
    }
    // All names first: nothing is asked if one of them is wrong.
    named.iter().try_for_each(|name| inventory.cluster(name).map(|_| ()))?;
    Ok(named.to_vec())
}

impl Situation {
    /// Asks every server of a cluster. `main` and its fingerprint of the request win over the inventory's.
    pub(super) async fn see(
        context: &Context,
        name: Option<&ClusterName>,
        request: &Request,
    ) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let inventory = context.inventory()?;
        let name = meant(&inventory, name)?;
        let cluster = inventory.cluster(&name)?.clone();
        let authority = context.authority()?;
        let agents = context.agents(&inventory, &authority)?;
        let by = by(&agents);
        let past = async {
            let journal = Journal::open(&context.journal()).await?;
            let history = journal.history(&name, cluster.servers.keys()).await?;
            Ok::<_, JournalError>((journal, history))
        };
        let (past, (survey, connections)) = tokio::join!(past, survey::take(&agents, &name, &cluster));
        let (journal, history) = past?;
        tend(context, &agents, &authority, &connections).await;
        let named = named(request, &cluster, &history);
        let assessment = survey::assess(&survey, &named);
        Ok(Self { name, cluster, journal, history, by, survey, connections, named, assessment, begun })
    }

    /// Asks every server of many clusters, and keeps no connection: a look, after which [`Situation::see`] comes for each
    /// that something is to be done in.
    pub(super) async fn see_many(
        context: &Context,
        clusters: &BTreeMap<ClusterName, Cluster>,
        request: &Request,
    ) -> anyhow::Result<Vec<Self>> {
        let begun = Instant::now();
        let inventory = context.inventory()?;
        let authority = Arc::new(context.authority()?);
        let agents = context.agents(&inventory, &authority)?;
        let by = by(&agents);
        let past = async {
            let journal = Journal::open(&context.journal()).await?;
            let mut histories = Vec::new();
            for (name, cluster) in clusters {
                histories.push(journal.history(name, cluster.servers.keys()).await?);
            }
            Ok::<_, JournalError>((journal, histories))
        };
        let tend = tending(context.out, &agents, &authority);
        let (past, mut surveys) = tokio::join!(past, survey::look(&agents, clusters, tend));
        let (journal, histories) = past?;
        let seen = clusters.iter().zip(histories).filter_map(|((name, cluster), history)| {
            let survey = surveys.remove(name)?;
            let (cluster, connections) = (cluster.clone(), BTreeMap::new());
            let (journal, by) = (journal.clone(), by.clone());
            let named = named(request, &cluster, &history);
            let assessment = survey::assess(&survey, &named);
            let name = name.clone();
            Some(Self { name, cluster, journal, history, by, survey, connections, named, assessment, begun })
        });
        Ok(seen.collect())
    }

    /// The plan for a request, and all that speaks against it.
    pub(super) fn plan(&self, request: &Request) -> (Plan, Vec<Refusal>) {
        let basis = Basis {
            name: &self.name,
            cluster: &self.cluster,
            survey: &self.survey,
            assessment: &self.assessment,
            named: &self.named,
            restarts: &self.history.restarts,
            restores: &self.history.restores,
        };
        let plan = plan::make(&basis, request);
        let mut refusals = plan::preflight(&basis, request, &plan);
        refusals.extend(plan.closed(&Zoned::now()));
        (plan, refusals)
    }

    /// What speaks against going on with a plan that is on record: servers that are needed and do not answer.
    pub(super) fn silent(&self, needed: &BTreeSet<ServerName>) -> Vec<Refusal> {
        let silent = needed.iter().filter_map(|server| {
            let Some(answer) = self.survey.servers.get(server) else {
                return Some(Refusal {
                    kind: RefusalKind::Request,
                    what: format!("{server} takes part in the run, but is not in the inventory any more"),
                    remedy: "enrol it again, or begin a new run".to_owned(),
                });
            };
            let silence = answer.report.as_ref().err()?;
            let kind = match silence.kind {
                SilenceKind::Certificate | SilenceKind::WrongServer => RefusalKind::Certificate,
                SilenceKind::Unreachable
                | SilenceKind::Refused
                | SilenceKind::Gateway
                | SilenceKind::NotForwarded => RefusalKind::Unreachable,
            };
            let what = format!("{server} did not answer: {}", silence.causes.join(": "));
            Some(Refusal { kind, what, remedy: silence.remedy().to_owned() })
        });
        silent.collect()
    }

    /// What speaks against sealing the backup as the plan on record has it: whoever can write to the journal could have put a key
    /// of his own there, and the inventory is believed.
    pub(super) fn sealed_to_strangers(&self, state: &State) -> Vec<Refusal> {
        let plan = state.plan();
        let seals = |step: &Step| matches!(step.what, What::Backup { .. }) && !state.is_settled(step.no);
        if state.turned_back().is_some() || !state.steps().any(seals) {
            return Vec::new();
        }
        let refusal = |what: &str| Refusal {
            kind: RefusalKind::Servers,
            what: format!("the run would seal the backup to another key of {what} than the inventory has"),
            remedy: format!(
                "begin a new one: `umsid sync {}`. If neither was enrolled nor edited since, somebody altered the journal",
                plan.cluster
            ),
        };
        let strange = plan.servers.iter().filter(|(server, facts)| {
            self.cluster.servers.get(*server).is_none_or(|entry| entry.recipient != facts.recipient)
        });
        let mut refusals: Vec<Refusal> = strange.map(|(server, _)| refusal(server.as_str())).collect();
        if plan.escrow.as_ref().is_some_and(|escrow| Some(escrow) != self.cluster.escrow.as_ref()) {
            refusals.push(refusal("escrow"));
        }
        refusals
    }

    /// Refuses where a run of this cluster was begun and never came to an end or a halt: its umsid died, or is at it
    /// elsewhere.
    pub(super) async fn nobody_in_the_middle(&self, context: &Context, kind: Kind) -> anyhow::Result<()> {
        let new = match kind {
            Kind::Sync => "this begins a new one, and after it that one cannot go on any more",
            Kind::Restart | Kind::Backup => {
                "this begins a new one, and after it that one can only be rolled back"
            }
        };
        for run in self.journal.runs().await?.into_iter().filter(|run| run.cluster == self.name) {
            match run.standing {
                LastWord::Ended(_) => {}
                LastWord::Halted(_) | LastWord::Stuck(_) => {
                    if !self.is_superseded(&run.run).await? {
                        context.out.say(format_args!(
                            "run {} stands still: `umsid resume {}` goes on with it, {new}",
                            run.run, run.run
                        ));
                    }
                }
                LastWord::Open => match self.journal.load(&run.run).await {
                    // Never begun: nothing was done in it.
                    Err(JournalError::Torn(_)) => {}
                    Err(error @ JournalError::Corrupt { .. }) => {
                        context.out.say(format_args!("{:#}", anyhow::Error::new(error)));
                    }
                    Err(error) => return Err(error.into()),
                    Ok(log) => return Err(self.in_the_middle(&log)),
                },
            }
        }
        Ok(())
    }

    /// Whether a newer synchronization of this cluster is on record.
    async fn is_superseded(&self, run: &RunId) -> Result<bool, JournalError> {
        Ok(super::runs::newer_sync(&self.journal.runs().await?, &self.name, run).is_some())
    }

    /// Whoever is at it here holds the cluster's lock, so that its umsid is dead, or on another machine.
    fn in_the_middle(&self, log: &RunLog) -> anyhow::Error {
        let run = log.run();
        let leases = self.survey.servers.keys().filter_map(|server| {
            let lease = self.survey.report(server)?.inspection.lease.as_ref()?;
            (lease.run == *run).then_some(lease.until)
        });
        let leased = leases.max().map_or(String::new(), |until| {
            format!("; servers stay locked for it until {}", until.strftime("%H:%M:%S UTC"))
        });
        let what = format!(
            "run {run} of {} has no end: its umsid was stopped in the middle{leased}",
            log.state().by()
        );
        exit::Refusal::new(Exit::NeedsOperator, what)
            .remedy(format!(
                "`umsid resume {run}` goes on, `umsid rollback {run}` puts servers back, `umsid rollback {run} --give-up` ends \
                 it as it stands"
            ))
            .into()
    }
}

/// What is known of Main besides what servers say.
fn named(request: &Request, cluster: &Cluster, history: &History) -> Named {
    Named {
        server: request.main.clone().or_else(|| cluster.main.clone()),
        fingerprint: request.main_fingerprint.or(cluster.main_fingerprint),
        remembered: history.main.clone(),
    }
}

/// The right to carry out runs of a cluster from here; nobody else has it until this is dropped.
///
/// # Errors
/// If another umsid is at work; its run is named. If the state was moved since this command began, from files into a database.
pub(super) async fn lock(context: &Context, cluster: &ClusterName) -> anyhow::Result<ClusterLock> {
    let lock = lock_wherever(context, cluster).await?;
    let now = Shared::of(&context.home)?;
    if now.as_ref().map(Shared::url) != context.shared.as_ref().map(Shared::url) {
        let what =
            format!("the state of {} was moved meanwhile: nothing was changed", context.home.dir.display());
        return Err(exit::Refusal::new(Exit::Locked, what).remedy("type it again").into());
    }
    Ok(lock)
}

/// The same for whoever moves the state.
pub(super) async fn lock_wherever(context: &Context, cluster: &ClusterName) -> anyhow::Result<ClusterLock> {
    if let Some(lock) = lock_cluster(&context.home, cluster).await? {
        return Ok(lock);
    }
    let who = match context.has_journal() {
        true => at_work(&Journal::open(&context.journal()).await?, cluster).await?,
        false => String::new(),
    };
    Err(exit::Refusal::new(Exit::Locked, format!("another umsid is at work on {cluster}{who}"))
        .remedy("wait until it is done, or stop it where it runs")
        .into())
}

/// Which run is going on, and whose it is; empty if that cannot be told.
async fn at_work(journal: &Journal, cluster: &ClusterName) -> anyhow::Result<String> {
    let runs = journal.runs().await?;
    let open = runs.iter().find(|run| run.cluster == *cluster && run.standing == LastWord::Open);
    let Some(open) = open else { return Ok(String::new()) };
    let by = journal.load(&open.run).await.map(|log| log.state().by().to_owned());
    let by = by.map_or(String::new(), |by| format!(" of {by}"));
    Ok(format!(": run {}{by}", open.run))
}

/// Gives every agent what it lacks: revocation list, certificate. What cannot be given is said, and no reason to stop.
pub(super) async fn tend(
    context: &Context,
    agents: &Agents,
    authority: &Authority,
    connections: &BTreeMap<ServerName, Agent>,
) {
    for agent in connections.values() {
        tend_one(context.out, agents, authority, agent).await;
    }
}

/// The same for each of many agents, as it answers.
pub(super) fn tending(
    out: Printout,
    agents: &Agents,
    authority: &Arc<Authority>,
) -> impl Fn(Agent) -> BoxFuture<'static, ()> + Clone + Send + 'static + use<> {
    let (agents, authority) = (agents.clone(), Arc::clone(authority));
    move |agent| {
        let (agents, authority) = (agents.clone(), Arc::clone(&authority));
        async move { tend_one(out, &agents, &authority, &agent).await }.boxed()
    }
}

/// The same for one agent.
async fn tend_one(out: Printout, agents: &Agents, authority: &Authority, agent: &Agent) {
    let place = format!("{}/{}", agent.cluster(), agent.server());
    match agents.tend(agent, authority).await {
        Ok(tended) => {
            if let Some(until) = tended.renewed {
                out.say(format_args!("renewed the certificate of {place} until {}", day(until)));
            }
        }
        Err(error) => out.say(format_args!("{place}: {:#}", anyhow::Error::new(error))),
    }
}

/// Who we are: `coordinator anna (anna@admin1)`, `observer nagios (on monitor1)`.
pub(super) fn by(agents: &Agents) -> String {
    let credentials = agents.tls().current();
    let name = match &credentials.identity().role {
        Role::Coordinator(name) => format!("coordinator {name}"),
        Role::Observer(name) => format!("observer {name}"),
        _ => credentials.identity().to_string(),
    };
    let variable = |names: &[&str]| names.iter().find_map(|name| std::env::var(name).ok());
    let user = variable(&["SUDO_USER", "USER", "LOGNAME", "USERNAME"]);
    let host =
        std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| variable(&["COMPUTERNAME"]));
    match (user, host) {
        (Some(user), Some(host)) => format!("{name} ({user}@{})", host.trim()),
        (Some(user), None) => format!("{name} ({user})"),
        (None, Some(host)) => format!("{name} (on {})", host.trim()),
        (None, None) => name,
    }
}

/// Says all that speaks against a run, each with what to do, and gives the error to end with.
pub(super) fn refuse(context: &Context, refusals: &[Refusal]) -> anyhow::Error {
    let exit = exit_of_all(refusals);
    if let [only] = refusals {
        return exit::Refusal::new(exit, &only.what)
            .remedy(format!("{}. Nothing was changed", only.remedy))
            .into();
    }
    for refusal in refusals {
        context.out.say(format_args!("- {}\n  what to do: {}", refusal.what, refusal.remedy));
    }
    let what = format!("{} things speak against it; nothing was changed", refusals.len());
    exit::Refusal::new(exit, what).into()
}

/// The exit code of several reasons together.
pub(super) fn exit_of_all(refusals: &[Refusal]) -> Exit {
    let exit = refusals.iter().map(|refusal| exit_of(refusal.kind)).min_by_key(|exit| precedence(*exit));
    exit.unwrap_or(Exit::Failed)
}

fn exit_of(kind: RefusalKind) -> Exit {
    match kind {
        RefusalKind::Request => Exit::Usage,
        RefusalKind::Certificate => Exit::Certificate,
        RefusalKind::Unreachable => Exit::Unreachable,
        RefusalKind::Main => Exit::NeedsOperator,
        RefusalKind::Servers => Exit::Failed,
        RefusalKind::Unknown => Exit::NotInSync,
        RefusalKind::Window => Exit::NotNow,
    }
}

/// Which of several reasons gives the exit code: what the caller can correct at once first, then what others follow from.
fn precedence(exit: Exit) -> usize {
    let order = [
        Exit::Usage,
        Exit::Certificate,
        Exit::Unreachable,
        Exit::NeedsOperator,
        Exit::Failed,
        Exit::NotInSync,
        Exit::NotNow,
    ];
    order.iter().position(|other| *other == exit).unwrap_or(order.len())
}
