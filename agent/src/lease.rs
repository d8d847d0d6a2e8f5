//! The exclusive right of one run to change this server: granted, kept and enforced here.
//!
//! What may be granted is decided by [`Book`], which knows nothing of files or clocks. Epochs only rise, and a grant is
//! on disk before it is told. After a restart of the agent a lease counts as live for its whole time again: how long
//! the agent was away, its own clock cannot say.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access, DurableError};
use umsid_common::fault;
use umsid_common::name::RunId;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{LeaseRef, LeaseState};

use crate::state::{StateError, damage, read_json};

/// What a run asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) run: RunId,
    pub(crate) epoch: u64,
    pub(crate) holder: String,
    pub(crate) ttl: Duration,
    pub(crate) plan: Option<Digest>,
    /// The lease somebody found abandoned and wants ended by this grant: just this one, and not under an operation.
    pub(crate) breaks: Option<LeaseRef>,
}

/// Why a lease is not granted, or not held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{} holds the lease on this server for run {}", .0.holder, .0.run)]
    Held(LeaseState),
    #[error("epoch {asked} is not above {granted}, the highest this agent has granted{}", to_whom(.to.as_deref()))]
    Stale { asked: u64, granted: u64, to: Option<Box<Held>> },
    #[error("run {run} does not hold the lease on this server with epoch {epoch}")]
    Lost { run: RunId, epoch: u64, held: Option<LeaseState> },
    #[error("{} unlocked this server at {}: run {run} does not hold it any more", .unlocked.by, .unlocked.at)]
    Unlocked { run: RunId, unlocked: Unlocked },
    #[error("run {0} has an operation going on here")]
    Working(RunId),
    #[error("the lease cannot be recorded")]
    Record(#[from] DurableError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let failure = Self::of(
            match &refusal {
                Refusal::Held(_) => Code::LeaseHeld,
                Refusal::Stale { .. } | Refusal::Unlocked { .. } => Code::StaleEpoch,
                Refusal::Lost { .. } => Code::LeaseLost,
                Refusal::Working(_) => Code::Busy,
                Refusal::Record(error) if error.is_disk_full() => Code::DiskFull,
                Refusal::Record(_) => Code::Internal,
            },
            &refusal,
        );
        match refusal {
            Refusal::Held(held) => {
                failure.remedy(format!("wait until {}, or end run {} first", held.until, held.run)).held(held)
            }
            Refusal::Lost { held: Some(held), .. } => failure.held(held),
            Refusal::Stale { .. } => {
                failure.remedy("another run was here since: look at `umsid status`, then begin again")
            }
            Refusal::Unlocked { run, .. } => failure
                .remedy(format!("ask who unlocked it; then `umsid resume {run}` takes the run up again")),
            Refusal::Lost { held: None, .. } => failure.remedy("take the run up again with `umsid resume`"),
            Refusal::Working(_) => failure.remedy("wait until the operation has ended"),
            Refusal::Record(_) => failure,
        }
    }
}

/// The lease as it is on disk: no deadline, because no clock survives the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Book {
    /// The highest epoch granted.
    epoch: u64,
    held: Option<Held>,
    /// The lease that was given back last: whoever comes too late is told who was here.
    #[serde(default)]
    past: Option<Held>,
    /// The last lease that was broken.
    #[serde(default)]
    unlocked: Option<Unlocked>,
}

/// Who broke a lease, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unlocked {
    /// Whose it was.
    run: RunId,
    /// Its epoch.
    epoch: u64,
    by: String,
    at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    run: RunId,
    epoch: u64,
    holder: String,
    since: Timestamp,
    ttl_ms: u64,
    plan: Option<Digest>,
}

impl Held {
    fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }
}

/// What is wrong with this file of a lease, if it is there.
pub(crate) fn damage(path: &Path) -> Option<StateError> {
    damage::of::<Book>(path)
}

/// A moment on both clocks: the monotonic one decides, the other is for people.
#[derive(Clone, Copy)]
struct Now {
    steady: Instant,
    wall: Timestamp,
}

impl Now {
    fn get() -> Self {
        Self { steady: Instant::now(), wall: Timestamp::now() }
    }
}

struct Inner {
    book: Book,
    /// End of the lease in the book.
    deadline: Instant,
    /// Operations of the lease's run that are going on.
    working: u32,
}

impl Inner {
    /// The lease that counts: not run out, or with an operation going on under it.
    fn live(&self, now: Now) -> Option<&Held> {
        self.book.held.as_ref().filter(|_| self.working > 0 || now.steady < self.deadline)
    }

    fn describe(&self, held: &Held, now: Now) -> LeaseState {
        let left = self.deadline.saturating_duration_since(now.steady);
        LeaseState {
            run: held.run.clone(),
            epoch: held.epoch,
            holder: held.holder.clone(),
            since: held.since,
            until: now
                .wall
                .saturating_add(SignedDuration::try_from(left).unwrap_or_default())
                .unwrap_or(now.wall),
        }
    }

    /// The book after this wish was granted.
    fn grant(&self, wish: &Wish, now: Now) -> Result<Book, Refusal> {
        if let Some(held) = self.live(now)
            && held.run != wish.run
        {
            if !breaks(wish, held) {
                return Err(Refusal::Held(self.describe(held, now)));
            }
            if self.working > 0 {
                return Err(Refusal::Working(held.run.clone()));
            }
        }
        let mine = self.book.held.as_ref().filter(|held| held.run == wish.run);
        let again = mine.is_some_and(|held| held.epoch == wish.epoch);
        if wish.epoch <= self.book.epoch && !again {
            return Err(self.stale(&wish.run, wish.epoch));
        }
        let broken = self.book.held.as_ref().filter(|held| held.run != wish.run && breaks(wish, held));
        let broken = broken.map(|held| Unlocked {
            run: held.run.clone(),
            epoch: held.epoch,
            by: wish.holder.clone(),
            at: now.wall,
        });
        let held = Held {
            run: wish.run.clone(),
            epoch: wish.epoch,
            holder: wish.holder.clone(),
            since: mine.map_or(now.wall, |held| held.since),
            ttl_ms: u64::try_from(wish.ttl.as_millis()).unwrap_or(u64::MAX),
            plan: wish.plan.or(mine.and_then(|held| held.plan)),
        };
        let unlocked = broken.or_else(|| self.book.unlocked.clone());
        Ok(Book { epoch: wish.epoch, held: Some(held), past: None, unlocked })
    }

    /// Why a run with an epoch below the highest is refused.
    fn stale(&self, run: &RunId, epoch: u64) -> Refusal {
        let theirs = |unlocked: &&Unlocked| unlocked.run == *run && epoch <= unlocked.epoch;
        match self.book.unlocked.as_ref().filter(theirs) {
            Some(unlocked) => Refusal::Unlocked { run: run.clone(), unlocked: unlocked.clone() },
            None => {
                let to = self.book.held.as_ref().or(self.book.past.as_ref());
                let to = to.filter(|to| to.epoch == self.book.epoch).cloned().map(Box::new);
                Refusal::Stale { asked: epoch, granted: self.book.epoch, to }
            }
        }
    }

    /// Whether the caller holds the live lease.
    fn check(&self, lease: &LeaseRef, now: Now) -> Result<&Held, Refusal> {
        let live = self.live(now);
        match live {
            Some(held) if held.run == lease.run && held.epoch == lease.epoch => Ok(held),
            _ if lease.epoch < self.book.epoch => Err(self.stale(&lease.run, lease.epoch)),
            _ => Err(Refusal::Lost {
                run: lease.run.clone(),
                epoch: lease.epoch,
                held: live.map(|held| self.describe(held, now)),
            }),
        }
    }
}

fn to_whom(held: Option<&Held>) -> String {
    held.map_or_else(String::new, |held| {
        format!(": to {} for run {} at {}", held.holder, held.run, held.since)
    })
}

fn breaks(wish: &Wish, held: &Held) -> bool {
    wish.breaks.as_ref().is_some_and(|broken| broken.run == held.run && broken.epoch == held.epoch)
}

/// The lease of this server.
pub(crate) struct Leases {
    path: PathBuf,
    inner: Mutex<Inner>,
}

impl Leases {
    /// As the agent before left it.
    pub(crate) fn load(path: PathBuf) -> Result<Arc<Self>, StateError> {
        let book: Book = read_json(&path)?.unwrap_or_default();
        let deadline = Instant::now() + book.held.as_ref().map_or(Duration::ZERO, Held::ttl);
        Ok(Arc::new(Self { path, inner: Mutex::new(Inner { book, deadline, working: 0 }) }))
    }

    // What is under the lock is replaced as a whole: a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, book: &Book) -> Result<(), Refusal> {
        let json = serde_json::to_vec_pretty(book).expect("a book of names and numbers is JSON");
        let what = if book.held.is_some() { "granted" } else { "given back" };
        fault::moment(format_args!("lease {what} before"));
        durable::replace(&self.path, &json, Access::Private)?;
        fault::moment(format_args!("lease {what} after"));
        Ok(())
    }

    /// Grants the lease, again too: the same run with the same epoch, or with a higher one.
    pub(crate) fn acquire(&self, wish: &Wish) -> Result<LeaseState, Refusal> {
        let mut inner = self.lock();
        let now = Now::get();
        let book = inner.grant(wish, now)?;
        self.record(&book)?;
        inner.book = book;
        inner.deadline = now.steady + wish.ttl;
        let held = inner.book.held.as_ref().expect("it was granted");
        Ok(inner.describe(held, now))
    }

    /// Another full time. A lease that has run out must be acquired again.
    pub(crate) fn renew(&self, lease: &LeaseRef) -> Result<LeaseState, Refusal> {
        let mut inner = self.lock();
        let now = Now::get();
        let ttl = inner.check(lease, now)?.ttl();
        inner.deadline = now.steady + ttl;
        let held = inner.book.held.as_ref().expect("it was checked");
        Ok(inner.describe(held, now))
    }

    /// Gives the lease back; again, or after it has run out, too.
    pub(crate) fn release(&self, lease: &LeaseRef) -> Result<(), Refusal> {
        let mut inner = self.lock();
        match &inner.book.held {
            None if lease.epoch == inner.book.epoch => return Ok(()),
            Some(held) if held.run == lease.run && held.epoch == lease.epoch => {}
            _ => inner.check(lease, Now::get()).map(drop)?,
        }
        if inner.working > 0 {
            return Err(Refusal::Working(lease.run.clone()));
        }
        let past = inner.book.held.clone().or(inner.book.past.clone());
        let book = Book { held: None, past, ..inner.book.clone() };
        self.record(&book)?;
        inner.book = book;
        Ok(())
    }

    /// Whether the caller holds the live lease.
    pub(crate) fn check(&self, lease: &LeaseRef) -> Result<(), Refusal> {
        self.lock().check(lease, Now::get()).map(drop)
    }

    /// As [`Leases::check`]; and until the result is dropped the lease does not run out and cannot be given back.
    pub(crate) fn engage(self: &Arc<Self>, lease: &LeaseRef) -> Result<Engaged, Refusal> {
        let mut inner = self.lock();
        inner.check(lease, Now::get())?;
        inner.working += 1;
        Ok(Engaged(self.clone()))
    }

    /// For an operation found unfinished: keeps its run's lease alive, if that is still the one on record.
    pub(crate) fn engage_again(self: &Arc<Self>, run: &RunId) -> Option<Engaged> {
        let mut inner = self.lock();
        inner.book.held.as_ref().filter(|held| held.run == *run)?;
        inner.working += 1;
        Some(Engaged(self.clone()))
    }

    /// The lease in force and the highest epoch granted.
    pub(crate) fn current(&self) -> (Option<LeaseState>, u64) {
        let inner = self.lock();
        let now = Now::get();
        (inner.live(now).map(|held| inner.describe(held, now)), inner.book.epoch)
    }
}

/// An operation is going on under the lease.
pub(crate) struct Engaged(Arc<Leases>);

impl Drop for Engaged {
    fn drop(&mut self) {
        self.0.lock().working -= 1;
    }
}

#[cfg(test)]
#[path = "lease/tests.rs"]
mod tests;
