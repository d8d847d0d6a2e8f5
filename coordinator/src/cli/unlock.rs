//! `umsid unlock`

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use umsid_common::name::{ClusterName, RunId, ServerName};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{LeaseRef, LeaseState, Operation};

use super::prepare::{by, lock, meant};
use super::runs::open_journal;
use super::{Context, Format, ask, count};
use crate::agents::{Agent, AgentError, Agents};
use crate::exit::{self, Exit, Refusal};
use crate::inventory::Server;
use crate::journal::{Act, Journal, RecordedAct};
use crate::printout::{Cell, Tone};
use crate::run::{LARGEST_EPOCH, is_fence};
use crate::survey::Silence;

/// How long we hold what we broke, should we die before giving it back.
const BRIEFLY: Duration = Duration::from_secs(10);

/// Take the servers of a cluster from a run whose umsid is gone for good
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid unlock hamburg
  umsid unlock hamburg --yes
  umsid unlock --history    who did that, and when

A run holds its servers for a minute after its umsid was last heard of; waiting that long is as good. What is going on on a
server is never interrupted. A run that is unlocked although its umsid lives halts as soon as it turns to a server.")]
pub(super) struct Unlock {
    /// Which cluster [default: the only one there is]
    cluster: Option<ClusterName>,
    /// Show who unlocked servers, and when; nothing is done
    #[arg(long, conflicts_with = "yes")]
    history: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// A server that answered.
struct Seen {
    agent: Agent,
    lease: Option<LeaseState>,
    epoch: u64,
    going_on: Option<Operation>,
}

type Look = BTreeMap<ServerName, Result<Seen, AgentError>>;

impl Unlock {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let inventory = context.inventory()?;
        if self.history {
            return history(context, self.cluster.as_ref()).await;
        }
        let cluster = meant(&inventory, self.cluster.as_ref())?;
        // A run that is carried out from here needs no unlocking: it can be stopped.
        let _lock = lock(context, &cluster).await?;
        let agents = context.agents(&inventory, &context.authority()?)?;
        let look = look(&agents, &cluster, &inventory.cluster(&cluster)?.servers).await;
        let held: BTreeMap<ServerName, LeaseState> = look
            .iter()
            .filter_map(|(server, seen)| Some((server.clone(), seen.as_ref().ok()?.lease.clone()?)))
            .collect();
        let silent = silent(&look);
        if context.out.format() == Format::Table {
            let header = ["SERVER", "RUN", "HELD BY", "SINCE (UTC)", "UNTIL (UTC)", "GOING ON"];
            context.out.table(&header, look.iter().map(|(server, seen)| row(server, seen)).collect())?;
        }
        if held.is_empty() {
            return nothing(context, &cluster, &silent);
        }
        nothing_going_on(&look)?;
        let names: Vec<&str> = held.keys().map(ServerName::as_str).collect();
        let mut runs: Vec<&str> = held.values().map(|lease| lease.run.as_str()).collect();
        runs.sort_unstable();
        runs.dedup();
        let question =
            format!("Take {} from run {}, whose umsid is gone?", names.join(", "), runs.join(", "));
        if !ask::yes(self.yes, &question)? {
            context.out.say("nothing was changed");
            return Ok(Exit::Failed);
        }
        let journal = open_journal(context).await?;
        let (free, refused) = unlock(&journal, &cluster, &look, held, by(&agents)).await?;
        tell(context, &cluster, &free, &refused, &silent)?;
        Ok(match refused.values().next() {
            Some(failure) => exit::of_code(failure.code),
            None if silent.is_empty() => Exit::Success,
            None => Exit::Unreachable,
        })
    }
}

/// Asks every server at once who holds it, and what is going on there; no `umsadmin-cli` is run for that.
async fn look(agents: &Agents, cluster: &ClusterName, servers: &BTreeMap<ServerName, Server>) -> Look {
    let mut asked = JoinSet::new();
    for (name, server) in servers {
        let (agents, cluster, name, server) = (agents.clone(), cluster.clone(), name.clone(), server.clone());
        asked.spawn(async move {
            let seen = async {
                let agent = agents.dial(&cluster, &name, &server).await?;
                let inspection = agent.inspect(true).await?;
                let going_on = agent.operations(None).await?.into_iter().find(|it| it.outcome.is_none());
                Ok(Seen { agent, lease: inspection.lease, epoch: inspection.epoch, going_on })
            };
            let seen = seen.await;
            (name, seen)
        });
    }
    asked.join_all().await.into_iter().collect()
}

fn silent(look: &Look) -> BTreeMap<ServerName, String> {
    let silence = |error: &AgentError| Silence::from(error).causes.join(": ");
    look.iter().filter_map(|(server, seen)| Some((server.clone(), silence(seen.as_ref().err()?)))).collect()
}

fn clock(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn row(server: &ServerName, seen: &Result<Seen, AgentError>) -> Vec<Cell> {
    let seen = match seen {
        Ok(seen) => seen,
        Err(_) => {
            let dash = || Cell::plain("-");
            return vec![
                Cell::plain(server),
                dash(),
                Cell::new("did not answer", Tone::Bad),
                dash(),
                dash(),
                dash(),
            ];
        }
    };
    let going_on = seen.going_on.as_ref().map_or("nothing".to_owned(), describe);
    match &seen.lease {
        Some(lease) => vec![
            Cell::plain(server),
            Cell::plain(&lease.run),
            Cell::new(&lease.holder, Tone::Doubtful),
            Cell::plain(clock(lease.since)),
            Cell::plain(clock(lease.until)),
            Cell::plain(going_on),
        ],
        None => {
            let dash = || Cell::plain("-");
            vec![
                Cell::plain(server),
                dash(),
                Cell::new("nobody", Tone::Good),
                dash(),
                dash(),
                Cell::plain(going_on),
            ]
        }
    }
}

fn describe(operation: &Operation) -> String {
    format!("{} (step {}) since {} UTC", operation.kind, operation.id.step, clock(operation.recorded))
}

/// There is no lease to break, as far as servers answered.
fn nothing(
    context: &Context,
    cluster: &ClusterName,
    silent: &BTreeMap<ServerName, String>,
) -> anyhow::Result<Exit> {
    tell(context, cluster, &[], &BTreeMap::new(), silent)?;
    if silent.is_empty() {
        context.out.say(format_args!("{cluster}: nothing to unlock: no run holds a server"));
        return Ok(Exit::Success);
    }
    let servers = count(silent.len(), "server");
    context.out.say(format_args!("{cluster}: no run holds a server that answered; {servers} did not answer"));
    Ok(Exit::Unreachable)
}

/// An operation comes to its end under its lease; nobody takes a server from under it.
fn nothing_going_on(look: &Look) -> anyhow::Result<()> {
    let busy: Vec<String> = look
        .iter()
        .filter_map(|(server, seen)| {
            Some(format!("{server}: {}", describe(seen.as_ref().ok()?.going_on.as_ref()?)))
        })
        .collect();
    if busy.is_empty() {
        return Ok(());
    }
    let what =
        format!("nothing was unlocked: something is going on, and is never interrupted: {}", busy.join("; "));
    Err(Refusal::new(Exit::Locked, what)
        .remedy("wait until it has come to its end, which it does by itself; then `umsid unlock` again")
        .into())
}

/// Breaks the leases that were found, raises the epoch everywhere else, and gives back what that took. In the journal
/// before and after.
async fn unlock(
    journal: &Journal,
    cluster: &ClusterName,
    look: &Look,
    found: BTreeMap<ServerName, LeaseState>,
    by: String,
) -> anyhow::Result<(Vec<ServerName>, BTreeMap<ServerName, Failure>)> {
    let reached: Vec<(&ServerName, &Seen)> =
        look.iter().filter_map(|(server, seen)| Some((server, seen.as_ref().ok()?))).collect();
    let epoch = reached.iter().map(|(_, seen)| seen.epoch).max().unwrap_or_default().saturating_add(1);
    if epoch > LARGEST_EPOCH {
        return Err(Refusal::new(
            Exit::NeedsOperator,
            format!("an agent speaks of lease epoch {}", epoch - 1),
        )
        .remedy("its lease.json is damaged, or somebody plays with it: put that server's agent in order")
        .into());
    }
    let id = RunId::new(Timestamp::now());
    let silent = silent(look).into_keys().collect();
    let begun = Act::Unlocking { by: by.clone(), id: id.clone(), epoch, found, silent };
    journal.record_act(cluster, &begun).await?;
    let mut asked = JoinSet::new();
    for (server, seen) in reached {
        let (server, agent, lease) =
            (server.clone(), seen.agent.clone(), LeaseRef { run: id.clone(), epoch });
        let broken = seen.lease.as_ref().map(|held| LeaseRef { run: held.run.clone(), epoch: held.epoch });
        let by = by.clone();
        asked.spawn(async move { (server, take(&agent, &lease, &by, broken.as_ref()).await) });
    }
    let (mut free, mut refused) = (Vec::new(), BTreeMap::new());
    for (server, taken) in asked.join_all().await {
        match taken {
            Ok(()) => free.push(server),
            Err(error) => drop(refused.insert(server, error)),
        }
    }
    free.sort();
    let ended = Act::Unlocked { id, free: free.clone(), refused: refused.clone() };
    journal.record_act(cluster, &ended).await?;
    Ok((free, refused))
}

async fn take(agent: &Agent, lease: &LeaseRef, by: &str, broken: Option<&LeaseRef>) -> Result<(), Failure> {
    let failed = |error: AgentError| match error {
        AgentError::Failure(failure) => *failure,
        other => Failure::of(Code::Internal, &other),
    };
    agent.break_lease(lease, by, BRIEFLY, broken).await.map_err(failed)?;
    match agent.release_lease(lease).await {
        // Somebody came in between: then it is free all the same, and taken again.
        Err(AgentError::Failure(failure)) if is_fence(&failure) => Ok(()),
        // It runs out by itself.
        Err(error) => {
            tracing::debug!(server = %agent.server(), %error, "lease not released");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Says what came of it.
fn tell(
    context: &Context,
    cluster: &ClusterName,
    free: &[ServerName],
    refused: &BTreeMap<ServerName, Failure>,
    silent: &BTreeMap<ServerName, String>,
) -> anyhow::Result<()> {
    if context.out.format() == Format::Json {
        context
            .out
            .json(&json!({ "cluster": cluster, "free": free, "refused": refused, "silent": silent }))?;
    } else if !free.is_empty() {
        let names: Vec<&str> = free.iter().map(ServerName::as_str).collect();
        context.out.text(format_args!("{cluster}: no run holds {} any more", names.join(", ")))?;
    }
    for (server, failure) in refused {
        let remedy = if failure.remedy.is_empty() { String::new() } else { format!(": {}", failure.remedy) };
        context.out.say(format_args!("{server} was not unlocked: {failure}{remedy}"));
    }
    for (server, why) in silent {
        context.out.say(format_args!(
            "{server} did not answer: {why}\n  what to do: `umsid unlock {cluster}` again when it does; a run may still hold it"
        ));
    }
    Ok(())
}

#[derive(Serialize)]
struct History<'a> {
    acts: &'a [RecordedAct],
}

/// Who unlocked what, and what came of it.
async fn history(context: &Context, cluster: Option<&ClusterName>) -> anyhow::Result<Exit> {
    let acts = open_journal(context).await?.history_of_acts(cluster).await?;
    if context.out.format() == Format::Json {
        context.out.json(&History { acts: &acts })?;
    } else if acts.is_empty() {
        context.out.text("nobody has unlocked anything")?;
    } else {
        let rows = acts.iter().map(|recorded| {
            let (at, cluster) = (Cell::plain(clock(recorded.at)), Cell::plain(&recorded.cluster));
            vec![at, cluster, Cell::plain(said(&recorded.act))]
        });
        context.out.table(&["WHEN (UTC)", "CLUSTER", "WHAT"], rows.collect())?;
    }
    Ok(Exit::Success)
}

/// An act in one line.
pub(super) fn said(act: &Act) -> String {
    match act {
        Act::Unlocking { by, epoch, found, .. } => {
            let held = found
                .iter()
                .map(|(server, lease)| format!("{server} from run {} of {}", lease.run, lease.holder));
            format!("{by} unlocks with epoch {epoch}: {}", held.collect::<Vec<_>>().join(", "))
        }
        Act::Unlocked { free, refused, .. } => {
            let names = |names: Vec<&ServerName>| {
                names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
            };
            let mut text = format!("unlocked: {}", names(free.iter().collect()));
            if !refused.is_empty() {
                text = format!("{text}; not unlocked: {}", names(refused.keys().collect()));
            }
            text
        }
    }
}
