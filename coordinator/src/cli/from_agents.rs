//! `--from-agents`: a run whose journal is lost here is taken from the copies its agents keep.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;
use umsid_common::name::{ClusterName, RunId, ServerName};

use super::runs::open_journal;
use super::{Context, Format};
use crate::copies::{Copies, Holdings, age, holdings, longer};
use crate::exit::{self, Exit};
use crate::journal::{Journal, JournalError, RunLog};
use crate::printout::{Cell, Tone};
use crate::run::Standing;

/// What the agents of a cluster hold; those that do not answer are named.
pub(super) async fn ask(context: &Context, cluster: &ClusterName) -> anyhow::Result<Holdings> {
    let inventory = context.inventory()?;
    let servers = inventory.cluster(cluster)?;
    let agents = context.agents(&inventory, &context.authority()?)?;
    let holdings = holdings(&agents, cluster, servers).await;
    for (server, why) in &holdings.silent {
        context.out.say(format_args!("{server} did not say what it holds: {why}"));
    }
    Ok(holdings)
}

/// Finds a run on the agents, the newest unless one is named, and writes down here what is missing of its journal. The
/// cluster is to be locked.
pub(super) async fn take_over(
    context: &Context,
    cluster: &ClusterName,
    wanted: Option<&str>,
) -> anyhow::Result<RunId> {
    let holdings = ask(context, cluster).await?;
    let journal = open_journal(context).await?;
    let mut runs = holdings.runs();
    runs.retain(|run| wanted.is_none_or(|text| run.as_str().starts_with(text)));
    let Some(run) = holdings.newest(&journal, runs).await else {
        return Err(nothing(cluster, wanted, &holdings).into());
    };
    let mut copies = holdings.read(&journal, &run).await;
    let longest = copies.longest().map_err(|fork| forked(&run, cluster, fork))?.cloned();
    for (server, why) in copies.damaged.iter().filter(|_| longest.is_some()) {
        context.out.say(format_args!("the copy of {server} cannot be used: {why}"));
    }
    for (server, why) in &copies.silent {
        context.out.say(format_args!("{server} did not give its copy: {why}"));
    }
    let Some(server) = longest else { return Err(unusable(&run, cluster, &copies).into()) };
    let found: Vec<String> =
        copies.whole.iter().map(|(server, log)| format!("{server} {}", log.events().len())).collect();
    let Some(log) = copies.whole.remove(&server) else { return Err(unusable(&run, cluster, &copies).into()) };
    let plan = log.state().plan();
    if plan.cluster != *cluster {
        let what =
            format!("the copy of run {run} on {server} is of cluster {}, not of {cluster}", plan.cluster);
        return Err(exit::Refusal::new(Exit::NeedsOperator, what)
            .remedy("look at that server's agent: it was moved here from another cluster, or somebody plays with it")
            .into());
    }
    context.out.say(format_args!(
        "run {run}: {} of {cluster}, begun by {}; events kept by agents: {}",
        plan.request.kind.as_str(),
        log.state().by(),
        found.join(", ")
    ));
    write_down(&journal, &log, &server.to_string(), cluster).await?;
    Ok(run)
}

/// Adds to the journal here what a copy has and it has not. What it has of the run must fit.
async fn write_down(
    journal: &Journal,
    log: &RunLog,
    place: &str,
    cluster: &ClusterName,
) -> anyhow::Result<()> {
    let here = match journal.load(log.run()).await {
        Ok(here) => here.records().to_vec(),
        Err(JournalError::Missing(_) | JournalError::Torn(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let further = longer(("this machine", &here), (place, log.records()));
    if further.map_err(|fork| forked(log.run(), cluster, fork))? {
        journal.adopt(log, here.len()).await?;
    }
    Ok(())
}

/// Shows what agents hold; changes nothing.
pub(super) async fn list(context: &Context, cluster: &ClusterName) -> anyhow::Result<Exit> {
    let holdings = ask(context, cluster).await?;
    let journal = open_journal(context).await?;
    let mut found = Vec::new();
    for run in holdings.runs() {
        found.push((holdings.read(&journal, &run).await, run));
    }
    found.sort_by_cached_key(|(copies, run)| Reverse(age(run, copies.epoch())));
    let entries: Vec<Entry> = found.into_iter().map(|(copies, run)| entry(&copies, run)).collect();
    if context.out.format() == Format::Json {
        context.out.json(&json!({ "runs": entries, "silent": holdings.silent }))?;
    } else if entries.is_empty() && holdings.silent.is_empty() {
        context.out.text("no agent holds a copy of a run")?;
    } else if !entries.is_empty() {
        let rows = entries.iter().map(|entry| {
            let copies: Vec<String> =
                entry.copies.iter().map(|(server, events)| format!("{server} {events}")).collect();
            let tone = if entry.problem.is_empty() { Tone::Plain } else { Tone::Bad };
            vec![
                Cell::plain(&entry.run),
                Cell::plain(&entry.kind),
                Cell::plain(&entry.by),
                Cell::new(&entry.standing, tone),
                Cell::plain(copies.join(", ")),
                Cell::new(&entry.problem, tone),
            ]
        });
        context.out.table(&["RUN", "KIND", "BEGUN BY", "STANDING", "EVENTS", "WHY"], rows.collect())?;
    }
    Ok(if holdings.agents.is_empty() { Exit::Unreachable } else { Exit::Success })
}

#[derive(Serialize)]
struct Entry {
    run: RunId,
    kind: String,
    by: String,
    standing: String,
    /// How many events each agent has.
    copies: BTreeMap<ServerName, usize>,
    /// What speaks against going on from the copies.
    problem: String,
}

fn entry(copies: &Copies, run: RunId) -> Entry {
    let mut problems: Vec<String> =
        copies.damaged.iter().chain(&copies.silent).map(|(server, why)| format!("{server}: {why}")).collect();
    let longest = copies.longest().unwrap_or_else(|fork| {
        problems.insert(0, fork.to_string());
        None
    });
    let state = longest.and_then(|server| copies.whole.get(server)).map(RunLog::state);
    let standing = state.map_or("not known".to_owned(), |state| match state.standing() {
        Standing::Halted(_) => "halted".to_owned(),
        Standing::Ended(how) => how.as_str().to_owned(),
        Standing::Open | Standing::Going => "open".to_owned(),
    });
    Entry {
        run,
        kind: state.map_or(String::new(), |state| state.plan().request.kind.as_str().to_owned()),
        by: state.map_or(String::new(), |state| state.by().to_owned()),
        standing,
        copies: copies.whole.iter().map(|(server, log)| (server.clone(), log.events().len())).collect(),
        problem: problems.join("; "),
    }
}

fn afresh(cluster: &ClusterName) -> String {
    format!(
        "`umsid status {cluster}` shows how the servers stand; a new `umsid sync {cluster}` starts from there"
    )
}

fn nothing(cluster: &ClusterName, wanted: Option<&str>, holdings: &Holdings) -> exit::Refusal {
    let what = wanted.map_or("a run".to_owned(), |wanted| format!("a run `{wanted}`"));
    let silent: Vec<&str> = holdings.silent.keys().map(|server| server.as_str()).collect();
    if silent.is_empty() {
        let what = format!("no agent of {cluster} holds a copy of {what}");
        return exit::Refusal::new(Exit::Failed, what).remedy(afresh(cluster));
    }
    let what = match holdings.agents.is_empty() {
        true => format!("no agent of {cluster} said what it holds: whether there is {what} is not known"),
        false => format!(
            "no agent that answered holds a copy of {what}; {} did not answer, so that it is not known whether there is one",
            silent.join(", ")
        ),
    };
    exit::Refusal::new(Exit::Unreachable, what).remedy("`umsid doctor` shows what is in the way")
}

fn unusable(run: &RunId, cluster: &ClusterName, copies: &Copies) -> exit::Refusal {
    let of = |found: &BTreeMap<ServerName, String>, how: &str| -> Vec<String> {
        found.iter().map(|(server, why)| format!("{server}: {how}{why}")).collect()
    };
    let mut why = of(&copies.damaged, "");
    why.extend(of(&copies.silent, "no answer: "));
    let exit = if copies.damaged.is_empty() && !copies.silent.is_empty() {
        Exit::Unreachable
    } else {
        Exit::NeedsOperator
    };
    let why = if why.is_empty() { vec!["they end before its first event".to_owned()] } else { why };
    exit::Refusal::new(exit, format!("no copy of run {run} can be used: {}", why.join("; ")))
        .remedy(afresh(cluster))
}

fn forked(run: &RunId, cluster: &ClusterName, fork: crate::copies::Fork) -> anyhow::Error {
    let what = format!("run {run} cannot be taken from the agents");
    exit::Refusal::new(Exit::NeedsOperator, what)
        .remedy(format!(
            "two machines went on with it, and which of them knew better is for a person to say. {}",
            afresh(cluster)
        ))
        .because(fork)
        .into()
}
