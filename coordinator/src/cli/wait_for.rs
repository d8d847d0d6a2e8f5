//! Servers that are waited for before a run goes on: one that is switched on in the morning, or comes back from its update.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use jiff::{SignedDuration, Timestamp, Zoned};
use umsid_common::name::{ClusterName, ServerName};

use super::Context;
use super::drive::duration;
use crate::agents::{AgentError, Agents};
use crate::exit::{self, Exit};
use crate::inventory::Server;
use crate::plan::Opening;
use crate::plan::hours::moment;
use crate::run::{State, closing, waits_at};

/// How often is looked, at first and later.
const PACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The longest wait without a look at the clock.
const PIECE: Duration = Duration::from_secs(30);

/// A server, and for how long it is waited for: `ums3=4h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WaitFor {
    pub(super) server: ServerName,
    pub(super) at_most: Duration,
}

impl FromStr for WaitFor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (server, at_most) = text.split_once('=').ok_or("it looks like SERVER=4h")?;
        let server = server.parse().map_err(|error| format!("`{server}` is no server's name: {error}"))?;
        Ok(Self { server, at_most: duration(at_most)? })
    }
}

/// Waits until each of these servers answers, all at once. One that answers with something else than itself is not waited for:
/// that does not pass by itself.
///
/// # Errors
/// If one does not answer in time; it says what was waited for, since when, and what would have ended the wait.
pub(super) async fn wait_for(
    context: &Context,
    agents: &Agents,
    cluster: &ClusterName,
    servers: &BTreeMap<ServerName, Server>,
    wanted: &[WaitFor],
) -> anyhow::Result<()> {
    let waits = wanted.iter().map(|wait| async move {
        let entry = servers.get(&wait.server);
        let known = || servers.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let entry = entry.ok_or_else(|| {
            exit::Refusal::new(Exit::Usage, format!("cluster {cluster} has no server {}", wait.server))
                .remedy(format!("--wait-for takes one of {}", known()))
        })?;
        one(context, agents, cluster, wait, entry).await
    });
    futures_util::future::try_join_all(waits).await.map(drop)
}

async fn one(
    context: &Context,
    agents: &Agents,
    cluster: &ClusterName,
    wait: &WaitFor,
    entry: &Server,
) -> anyhow::Result<()> {
    let (server, since) = (&wait.server, Timestamp::now());
    let until =
        SignedDuration::try_from(wait.at_most).ok().and_then(|at_most| since.checked_add(at_most).ok());
    let until = until
        .map_or("for ever".to_owned(), |until| until.strftime("until %Y-%m-%d %H:%M:%S UTC").to_string());
    let pace = ExponentialBuilder::default()
        .with_min_delay(PACE.0)
        .with_max_delay(PACE.1)
        .with_jitter()
        .without_max_times();
    let dial = async || agents.dial(cluster, server, entry).await.map(drop);
    let mut told = false;
    let tell = |error: &AgentError, _: Duration| {
        if !std::mem::replace(&mut told, true) {
            context.out.say(format_args!(
                "waiting for the agent of {server} at {} to answer, {until}: {:#}",
                entry.address,
                anyhow::Error::new(error.clone())
            ));
        }
    };
    let answered = dial.retry(pace).when(AgentError::is_transient).notify(tell);
    match tokio::time::timeout(wait.at_most, answered).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => {
            let since = since.strftime("%Y-%m-%d %H:%M:%S UTC");
            let what = format!("{server} did not answer, waited for since {since}");
            let remedy = "switch it on, or see what its umsid-agent says; then `umsid resume` again";
            Err(exit::Refusal::new(Exit::Unreachable, what).remedy(remedy).into())
        }
    }
}

/// Waits until a run that stands still may disturb the server that comes next, if it is to wait for that.
///
/// # Errors
/// If it is not, and it may not now: with the moment when, and what to type. Nothing was done then.
pub(super) async fn window(context: &Context, state: &State, wait: bool) -> anyhow::Result<()> {
    let since = Zoned::now();
    let Some((step, opening)) = waits_at(state, &since) else { return Ok(()) };
    let why = closing(state, step, &since).unwrap_or_default();
    let refuse =
        |remedy: &str| exit::Refusal::new(Exit::NotNow, format!("nothing was done: {why}")).remedy(remedy);
    let opens = match opening {
        Opening::Now => return Ok(()),
        Opening::At(opens) if wait => opens,
        Opening::At(_) => {
            return Err(refuse("--wait-for-window waits until then; --ignore-windows goes on now").into());
        }
        Opening::Never => {
            return Err(
                refuse("--ignore-windows goes on now; or roll the run back and begin a new one").into()
            );
        }
    };
    until(context, &opens, &why).await;
    Ok(())
}

/// Waits until a window opens.
pub(super) async fn until(context: &Context, opens: &Zoned, why: &str) {
    let (since, opening) = (moment(&Zoned::now()), moment(opens));
    context.out.say(format_args!("waiting for a window since {since} until {opening}: {why}"));
    // In pieces: the clock on the wall may be set, and a machine may sleep.
    while let Ok(left) = Duration::try_from(opens.duration_since(&Zoned::now()))
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(PIECE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_and_a_time_are_told_apart() {
        let wait: WaitFor = "ums3=4h".parse().unwrap();
        assert_eq!((wait.server.as_str(), wait.at_most), ("ums3", Duration::from_secs(4 * 3600)));
        for (wrong, why) in
            [("ums3", "SERVER=4h"), ("ums3=soon", "looks like"), ("=4h", "no server"), ("a=-1s", "negative")]
        {
            let said = wrong.parse::<WaitFor>().unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }
}
