//! One look at one cluster, and what follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Parser as _;
use jiff::Timestamp;
use umsid_common::name::ClusterName;

use super::{Setup, Watcher};
use crate::cli::look::{Eyes, Seen};
use crate::cli::past::Past;
use crate::cli::{Command, Context, Umsid};
use crate::condition::{Condition, Finding, Kind, Level};
use crate::exit::{self, Exit};
use crate::watch::config::Rule;
use crate::watch::notice::Notice;
use crate::watch::rule::{NotNow, may_begin};

impl Watcher<'_> {
    /// Looks, remembers, has told what is to be told, and synchronizes where that may be; gives whether it could look.
    pub(super) async fn round(&self, cluster: &ClusterName) -> bool {
        let setup = self.setup();
        let looked = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => return true,
            looked = self.look(cluster, &setup) => looked,
        };
        let (condition, seen) = match looked {
            Ok((seen, eyes)) => {
                self.shown.show(seen.condition.clone(), Some(eyes.own_not_after()));
                (seen.condition.clone(), Some((seen, eyes)))
            }
            Err(error) => {
                tracing::error!(%cluster, "{error:#}");
                let condition = blind(cluster, &error);
                self.shown.show(condition.clone(), None);
                (condition, None)
            }
        };
        let could_look = seen.is_some();
        self.tell(cluster, &setup, &condition);
        if let (Some((seen, eyes)), Some(rule)) = (seen, setup.config.sync.get(cluster)) {
            self.synchronize(cluster, &setup, rule, &seen, &eyes).await;
        }
        could_look
    }

    async fn look(&self, cluster: &ClusterName, setup: &Setup) -> anyhow::Result<(Seen, Eyes)> {
        if let Err(error) = self.context.refresh().await {
            tracing::warn!("going on with copies, which may be old: {:#}", anyhow::Error::new(error));
        }
        let eyes = Eyes::of(self.context)?;
        let entry = eyes.inventory.cluster(cluster)?;
        let (limits, within) = (setup.config.limits(), setup.config.timeout);
        let past = async { Past::read(self.context, [cluster]).await.map(|past| past.of(cluster)) };
        let seen = eyes.see(cluster, entry, &limits, within, past).await;
        // Whoever is slow here keeps nobody waiting for long: the calls have deadlines, and few need any.
        let tend = eyes.tending(self.context.out);
        futures_util::future::join_all(seen.connections.values().cloned().map(tend)).await;
        Ok((seen, eyes))
    }

    /// Remembers what was seen; a change of state goes to everybody.
    fn tell(&self, cluster: &ClusterName, setup: &Setup, condition: &Condition) {
        let mut remembered = self.book.remembered(cluster);
        let change = remembered.take_in(condition, setup.config.confirm);
        let notice = change.as_ref().map(|change| Notice::of_change(change, condition, &self.from));
        let text = notice.as_ref().map(|notice| notice.text.clone());
        match self.book.remember(cluster, remembered, notice, &setup.post.names()) {
            Ok(()) => {
                if let Some(text) = text {
                    self.context.out.say(text);
                }
            }
            // It is found again by the next look.
            Err(error) => tracing::error!(%cluster, "{:#}", anyhow::Error::new(error)),
        }
    }

    async fn synchronize(&self, cluster: &ClusterName, setup: &Setup, rule: &Rule, seen: &Seen, eyes: &Eyes) {
        let mut remembered = self.book.remembered(cluster);
        let now = rule.now();
        match may_begin(rule, &remembered, &seen.condition, &seen.assessment, &now) {
            Ok(()) => {}
            Err(NotNow::Nothing) => return,
            Err(why) => {
                tracing::info!(%cluster, "not synchronized now: {why}");
                return;
            }
        }
        // The configuration was looked at when it was read, the certificate is looked at now.
        if !eyes.may_change() || self.context.stop.is_cancelled() {
            return;
        }
        let before = remembered.tried.replace(Timestamp::now());
        if let Err(error) = self.book.remember(cluster, remembered, None, &Default::default()) {
            tracing::error!(%cluster, "not synchronized, for that cannot be recorded: {:#}", anyhow::Error::new(error));
            return;
        }
        self.context.out.say(format_args!("{cluster}: synchronizing, as `umsid sync {cluster} --yes` does"));
        let outcome = sync(self.context, cluster, rule).await;
        if let Err(Unsynchronized { why, .. }) = &outcome {
            self.context.out.say(format_args!("{cluster}: not synchronized: {why}"));
        }
        let mut remembered = self.book.remembered(cluster);
        let notice = match outcome {
            // Nothing was begun: that is no attempt, and nobody need look.
            Err(Unsynchronized { closed: true, .. }) => {
                remembered.tried = before;
                None
            }
            outcome => {
                let outcome = outcome.map_err(|not| not.why);
                Some(Notice::of_sync(cluster, remembered.told(), &outcome, &self.from))
            }
        };
        if let Err(error) = self.book.remember(cluster, remembered, notice, &setup.post.names()) {
            tracing::error!(%cluster, "{:#}", anyhow::Error::new(error));
        }
    }
}

/// Why a cluster was not synchronized.
struct Unsynchronized {
    why: String,
    /// It was not begun, because the window of a site is closed.
    closed: bool,
}

impl From<String> for Unsynchronized {
    fn from(why: String) -> Self {
        Self { why, closed: false }
    }
}

/// By the command itself, as if a person had typed it: there is no second way.
async fn sync(context: &Context, cluster: &ClusterName, rule: &Rule) -> Result<(), Unsynchronized> {
    let (batch, settle) = (rule.batch.to_string(), rule.settle.as_secs().to_string());
    let line = ["umsid", "sync", cluster.as_str(), "--yes", "--batch", &batch, "--settle", &settle];
    let ended = match Umsid::try_parse_from(line) {
        Ok(Umsid { command: Command::Sync(sync), .. }) => Box::pin(sync.run(context)).await,
        Ok(_) => return Err("the command is not what it should be".to_owned().into()),
        Err(error) => return Err(error.to_string().into()),
    };
    match ended {
        Ok(Exit::Success) => Ok(()),
        Ok(exit) => {
            let meaning = exit::TABLE.iter().find(|(other, _)| *other == exit).map(|(_, meaning)| *meaning);
            Err(meaning.unwrap_or_default().to_owned().into())
        }
        Err(error) => {
            let why = match exit::remedy(&error) {
                Some(remedy) => format!("{error:#} (what to do: {remedy})"),
                None => format!("{error:#}"),
            };
            Err(Unsynchronized { why, closed: exit::of(&error) == Exit::NotNow })
        }
    }
}

/// How a cluster is that could not be looked at.
fn blind(cluster: &ClusterName, error: &anyhow::Error) -> Condition {
    let mut condition = Condition {
        cluster: cluster.clone(),
        taken: Timestamp::now(),
        took: Duration::ZERO,
        findings: Vec::new(),
        servers: BTreeMap::new(),
    };
    let finding = Finding::new(Level::Unknown, Kind::NotKnown, "no server could be asked");
    let remedy = exit::remedy(error).unwrap_or_default();
    condition.add([finding.because(format!("{error:#}")).remedy(remedy)]);
    condition
}
