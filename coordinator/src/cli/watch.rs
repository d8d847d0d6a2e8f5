//! `umsid watch`

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::{Instant, MissedTickBehavior};
use umsid_common::manager;
use umsid_common::name::ClusterName;

use super::drive::Signals;
use super::look::Eyes;
use super::prepare::by;
use super::{Context, count};
use crate::exit::{Exit, Refusal};
use crate::inventory::Inventory;
use crate::watch::book::Book;
use crate::watch::config::Config;
use crate::watch::notice::Notice;
use crate::watch::post::Post;

mod metrics;
mod round;

/// How long after what could not be delivered it is tried again.
const LEFT_FOR: Duration = Duration::from_secs(60);

/// A cluster that could not be asked for lack of an inventory is asked again.
const INVENTORY_AGAIN: Duration = Duration::from_secs(10);

/// Look after clusters: survey them on a schedule, tell when their state changes, synchronize where that was allowed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid watch                       as umsid-watch.service does
  umsid watch --once                from cron
  umsid watch --test-notice         tells everybody something, to see whether it arrives

What is watched, who is told and what is synchronized is in watch.toml. An observer's state directory does, unless something
is to be synchronized. SIGHUP makes it read watch.toml again; SIGTERM and Ctrl-C end it, and halt a sync that is going on
after what it is at: `umsid resume` goes on with it.

With --once, exit code 0 says that all clusters were looked at and everybody was told who had to be.")]
pub(super) struct Watch {
    /// What is to be done
    #[cfg_attr(unix, arg(long, value_name = "FILE", default_value = "/etc/umsid/watch.toml"))]
    #[cfg_attr(
        not(unix),
        arg(long, value_name = "FILE", default_value = r"C:\ProgramData\umsid\watch.toml")
    )]
    config: PathBuf,
    /// Survey every cluster once, tell what there is to tell, and end
    #[arg(long)]
    once: bool,
    /// Only tell everybody something
    #[arg(long, conflicts_with = "once")]
    test_notice: bool,
}

/// What can be read again while it runs.
struct Setup {
    config: Config,
    post: Post,
}

/// Everything at hand while it runs.
struct Watcher<'a> {
    context: &'a Context,
    path: PathBuf,
    setup: Mutex<Arc<Setup>>,
    book: Book,
    shown: Arc<metrics::Shown>,
    /// Who tells: `observer nagios (on monitor1)`.
    from: String,
}

impl Watch {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let eyes = Eyes::of(context)?;
        let setup = Setup::read(&self.config, context, &eyes)?;
        let from = by(&eyes.agents);
        if self.test_notice {
            return test(context, &setup.post, &from).await;
        }
        let Some(_lock) = context.home.lock_watch()? else {
            let what = format!("another umsid watches with {} already", context.home.dir.display());
            return Err(Refusal::new(Exit::Locked, what).remedy("end that one first").into());
        };
        let watcher = Watcher {
            context,
            path: self.config,
            book: Book::open(&context.home.dir.join("watch.json"))?,
            shown: Arc::default(),
            setup: Mutex::new(Arc::new(setup)),
            from,
        };
        if self.once {
            return watcher.once(&eyes.inventory).await;
        }
        watcher.watch().await
    }
}

impl Setup {
    /// What is in the file, if all of it can be done here.
    fn read(path: &std::path::Path, context: &Context, eyes: &Eyes) -> anyhow::Result<Self> {
        let config = Config::load(path)?;
        let named = config.clusters.iter().chain(config.sync.keys());
        named.clone().try_for_each(|name| eyes.inventory.cluster(name).map(|_| ()))?;
        if let (Some(cluster), false) = (config.sync.keys().next(), eyes.may_change()) {
            let who = eyes.agents.tls().current().identity().role.clone();
            let what = format!(
                "`sync.{cluster}` in {} wants {cluster} synchronized, but the certificate here is that of {}, which may look \
                 and change nothing",
                path.display(),
                match who {
                    umsid_common::name::Role::Observer(name) => format!("observer {name}"),
                    _ => "nobody who may".to_owned(),
                }
            );
            return Err(Refusal::new(Exit::Certificate, what)
                .remedy("take `sync` out, or run this with a coordinator's state directory")
                .into());
        }
        let post = Post::open(&config, &context.home)?;
        Ok(Self { config, post })
    }

    fn clusters(&self, inventory: &Inventory) -> BTreeSet<ClusterName> {
        let all = || inventory.clusters.keys().cloned().collect();
        let named: BTreeSet<ClusterName> = self.config.clusters.iter().cloned().collect();
        if named.is_empty() { all() } else { named }
    }
}

async fn test(context: &Context, post: &Post, from: &str) -> anyhow::Result<Exit> {
    let told = post.try_out(&Notice::test(from)).await;
    if told.is_empty() {
        let what = "nobody is to be told: there is neither `webhook` nor `mail` in the configuration";
        return Err(Refusal::new(Exit::Failed, what).into());
    }
    let mut exit = Exit::Success;
    for (name, sent) in told {
        match sent {
            Ok(()) => context.out.text(format_args!("{name}: delivered"))?,
            Err(error) => {
                context.out.text(format_args!("{name}: not delivered: {error}"))?;
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

impl Watcher<'_> {
    fn setup(&self) -> Arc<Setup> {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every cluster once.
    async fn once(&self, inventory: &Inventory) -> anyhow::Result<Exit> {
        let mut signals = Signals::new()?;
        let setup = self.setup();
        let clusters = setup.clusters(inventory);
        let rounds = clusters.iter().map(|cluster| self.round(cluster));
        let work = async {
            let looked = futures_util::future::join_all(rounds).await;
            let left = setup.post.deliver(&self.book).await?;
            anyhow::Ok((looked.into_iter().all(|looked| looked), left))
        };
        let mut work = pin!(work);
        let (looked, left) = tokio::select! {
            done = &mut work => done?,
            () = signals.next() => {
                // A sync that is going on comes to its halt; the second one leaves at once.
                self.context.stop.cancel();
                tokio::select! {
                    done = work => drop(done?),
                    () = signals.next() => {}
                }
                return Ok(Exit::Interrupted);
            }
        };
        if left > 0 {
            return Err(Refusal::new(
                Exit::Failed,
                format!("{} could not be delivered", count(left, "notice")),
            )
            .remedy("what was said above says why; it is tried again by the next `umsid watch`")
            .into());
        }
        Ok(if looked { Exit::Success } else { Exit::Failed })
    }

    /// Until it is told to stop.
    async fn watch(&self) -> anyhow::Result<Exit> {
        let mut signals = Signals::new()?;
        let mut again = Reload::new()?;
        let setup = self.setup();
        let serving = match &setup.config.metrics {
            Some(metrics) => Some(metrics::serve(metrics.listen, Arc::clone(&self.shown)).await?),
            None => None,
        };
        let mut serving = pin!(async {
            match serving {
                Some(serving) => serving.await,
                None => std::future::pending().await,
            }
        });
        let mut delivering = pin!(self.deliver());
        let mut pulse = tokio::time::interval(manager::pulse().unwrap_or(Duration::from_secs(3600)));
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut schedule = Schedule::default();
        let mut rounds = FuturesUnordered::new();
        let told = setup.post.names().into_iter().collect::<Vec<_>>().join(", ");
        let told = if told.is_empty() { "nobody is told".to_owned() } else { format!("told: {told}") };
        self.context.out.say(format_args!("watching as {}; {told}", self.from));
        manager::ready();
        loop {
            tokio::select! {
                () = signals.next() => break,
                () = again.asked() => self.reload(),
                _ = pulse.tick() => manager::lives(),
                ended = &mut serving => return Err(ended.context("metrics cannot be served any more")),
                failed = &mut delivering => return Err(failed),
                Some(cluster) = rounds.next(), if !rounds.is_empty() => schedule.is_done(&cluster, &self.setup().config),
                () = tokio::time::sleep_until(schedule.next()) => {
                    for cluster in schedule.begin(self.clusters()) {
                        rounds.push(async {
                            self.round(&cluster).await;
                            cluster
                        });
                    }
                }
            }
        }
        manager::stopping();
        self.context.stop.cancel();
        self.context.out.say("stopping");
        // A sync that is going on comes to its halt; whoever is only looked at is not waited for.
        while rounds.next().await.is_some() {}
        Ok(Exit::Success)
    }

    /// Those to be watched now; `None`: that cannot be told just now.
    fn clusters(&self) -> Option<BTreeSet<ClusterName>> {
        match Inventory::load(&self.context.home.inventory_path()) {
            Ok(inventory) => Some(self.setup().clusters(&inventory)),
            Err(error) => {
                tracing::error!("{:#}", anyhow::Error::new(error));
                None
            }
        }
    }

    fn reload(&self) {
        let read = || Setup::read(&self.path, self.context, &Eyes::of(self.context)?);
        match read() {
            Ok(setup) => {
                let before = std::mem::replace(
                    &mut *self.setup.lock().unwrap_or_else(PoisonError::into_inner),
                    Arc::new(setup),
                );
                self.context.out.say(format_args!("read {} again", self.path.display()));
                if before.config.metrics != self.setup().config.metrics {
                    self.context.out.say("`metrics` holds from the next start on");
                }
                self.book.news.notify_one();
            }
            Err(error) => {
                self.context.out.say(format_args!("going on as before: {error:#}"));
            }
        }
    }

    /// Delivers what is due, whenever something is; ends with the error that keeps it from being recorded.
    async fn deliver(&self) -> anyhow::Error {
        loop {
            let post = self.setup().post.clone();
            match post.deliver(&self.book).await {
                Ok(0) => self.book.news.notified().await,
                Ok(_) => {
                    // What is new goes at once, what is left in a while.
                    let _ = tokio::time::timeout(LEFT_FOR, self.book.news.notified()).await;
                }
                Err(error) => return error.into(),
            }
        }
    }
}

/// When which cluster is looked at next.
#[derive(Default)]
struct Schedule {
    due: BTreeMap<ClusterName, Instant>,
    going_on: BTreeSet<ClusterName>,
    /// When it is looked for new clusters.
    inventory: Option<Instant>,
}

impl Schedule {
    /// When there is something to do.
    fn next(&self) -> Instant {
        let inventory = self.inventory.unwrap_or_else(Instant::now);
        self.due.values().copied().chain([inventory]).min().unwrap_or(inventory)
    }

    /// Those to be begun now, of those there are; one that is new is begun at once.
    fn begin(&mut self, clusters: Option<BTreeSet<ClusterName>>) -> Vec<ClusterName> {
        let now = Instant::now();
        self.inventory = Some(now + INVENTORY_AGAIN);
        let Some(clusters) = clusters else {
            // Who is due is asked: that the inventory cannot be read is found out there, and told.
            let due = self.due.iter().filter(|(_, due)| **due <= now).map(|(cluster, _)| cluster.clone());
            return self.started(due.collect());
        };
        self.due.retain(|cluster, _| clusters.contains(cluster));
        let due = clusters.into_iter().filter(|cluster| {
            !self.going_on.contains(cluster) && self.due.get(cluster).is_none_or(|due| *due <= now)
        });
        let due = due.collect();
        self.started(due)
    }

    fn started(&mut self, clusters: Vec<ClusterName>) -> Vec<ClusterName> {
        for cluster in &clusters {
            self.due.remove(cluster);
            self.going_on.insert(cluster.clone());
        }
        clusters
    }

    fn is_done(&mut self, cluster: &ClusterName, config: &Config) {
        self.going_on.remove(cluster);
        let jitter = config.jitter.mul_f64(fastrand::f64());
        self.due.insert(cluster.clone(), Instant::now() + config.every + jitter);
    }
}

/// Somebody asks for the configuration to be read again.
struct Reload {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Reload {
    #[cfg(unix)]
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { signal: signal(SignalKind::hangup())? })
    }

    #[cfg(unix)]
    async fn asked(&mut self) {
        self.signal.recv().await;
    }

    #[cfg(not(unix))]
    fn new() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn asked(&mut self) {
        std::future::pending().await
    }
}
