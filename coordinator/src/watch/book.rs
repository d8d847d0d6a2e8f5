//! The file that outlives a restart: what was seen, what was told, and what is still to be delivered.
//!
//! A notice is in it before it is sent, and out of it when its receiver has taken it. In between it may be sent twice, by the
//! same id; it is never lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use umsid_common::durable::{self, Access, DurableError};
use umsid_common::name::ClusterName;

use super::memory::Remembered;
use super::notice::Notice;

/// The file's format.
const VERSION: u32 = 1;

/// What could not be delivered for so long is not news any more.
const STALE: SignedDuration = SignedDuration::from_hours(24);

/// So many notices are kept for receivers that are away; then the oldest are given up.
const MOST: usize = 500;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// Reading or writing failed.
    #[error("what was seen and told cannot be read or written")]
    File(#[from] DurableError),
    /// No content of ours.
    #[error("{path} is damaged, or of another version of umsid: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    clusters: BTreeMap<ClusterName, Remembered>,
    outbox: Vec<Due>,
}

/// A notice, and who has not got it yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Due {
    notice: Notice,
    to: BTreeSet<String>,
}

/// The file, open.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    content: Mutex<Content>,
    /// There is something to be delivered.
    pub news: Notify,
}

impl Book {
    /// The book at this place, a new one if there is none.
    ///
    /// # Errors
    /// [`BookError::Damaged`] where there is something else: what was told would be told again, so a person decides.
    pub fn open(path: &Path) -> Result<Self, BookError> {
        let content = match durable::read_optional(path)? {
            None => Content { version: VERSION, ..Content::default() },
            Some(bytes) => {
                let damaged = |why| BookError::Damaged { path: path.to_owned(), why };
                let content: Content =
                    serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
                if content.version != VERSION {
                    return Err(damaged(format!("its format is {}", content.version)));
                }
                content
            }
        };
        Ok(Self { path: path.to_owned(), content: Mutex::new(content), news: Notify::new() })
    }

    /// What is remembered of a cluster.
    pub fn remembered(&self, cluster: &ClusterName) -> Remembered {
        self.content().clusters.get(cluster).cloned().unwrap_or_default()
    }

    /// Remembers this of a cluster, and what is to be told of it to whom, both or neither.
    ///
    /// # Errors
    /// If it cannot be written: nothing has changed then.
    pub fn remember(
        &self,
        cluster: &ClusterName,
        remembered: Remembered,
        notice: Option<Notice>,
        to: &BTreeSet<String>,
    ) -> Result<(), BookError> {
        self.change(|content| {
            content.clusters.insert(cluster.clone(), remembered);
            if let Some(notice) = notice.filter(|_| !to.is_empty()) {
                content.outbox.push(Due { notice, to: to.clone() });
            }
            let many = content.outbox.len().saturating_sub(MOST);
            for due in content.outbox.drain(..many) {
                tracing::error!(notice = due.notice.id, text = due.notice.text, "given up: too many wait");
            }
        })
    }

    /// What a receiver has not got yet, oldest first.
    pub fn due_for(&self, receiver: &str) -> Vec<Notice> {
        let content = self.content();
        let due = content.outbox.iter().filter(|due| due.to.contains(receiver));
        due.map(|due| due.notice.clone()).collect()
    }

    /// A receiver has got a notice, or never will.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn done(&self, notice: &str, receiver: &str) -> Result<(), BookError> {
        self.change(|content| {
            for due in content.outbox.iter_mut().filter(|due| due.notice.id == notice) {
                due.to.remove(receiver);
            }
            content.outbox.retain(|due| !due.to.is_empty());
        })
    }

    /// Gives up what is no news any more, and what is for receivers that are not there any more; gives what is left.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sweep(&self, receivers: &BTreeSet<String>, now: Timestamp) -> Result<usize, BookError> {
        let stale = |due: &Due| now.duration_since(due.notice.time) > STALE;
        let gone = |due: &Due| due.to.is_disjoint(receivers);
        if self.content().outbox.iter().any(|due| stale(due) || gone(due)) {
            self.change(|content| {
                for due in content.outbox.iter().filter(|due| stale(due) || gone(due)) {
                    let to = due.to.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
                    tracing::error!(
                        notice = due.notice.id,
                        text = due.notice.text,
                        to,
                        "given up: undelivered"
                    );
                }
                content.outbox.retain(|due| !stale(due) && !gone(due));
            })?;
        }
        Ok(self.content().outbox.len())
    }

    /// A panic elsewhere leaves nothing half changed here: see [`Book::change`].
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Content)) -> Result<(), BookError> {
        let mut content = self.content();
        let mut changed = content.clone();
        change(&mut changed);
        if changed != *content {
            let bytes = serde_json::to_vec(&changed)
                .map_err(|error| BookError::Damaged { path: self.path.clone(), why: error.to_string() })?;
            durable::replace(&self.path, &bytes, Access::Private)?;
            *content = changed;
        }
        drop(content);
        self.news.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_told_and_what_is_due_outlive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watch.json");
        let cluster: ClusterName = "hamburg".parse().unwrap();
        let remembered = Remembered { since: Some(Timestamp::UNIX_EPOCH), ..Remembered::default() };
        let notice = Notice::test("us");
        let book = Book::open(&path).unwrap();
        book.remember(&cluster, remembered.clone(), Some(notice.clone()), &to(&["a", "b"])).unwrap();
        drop(book);

        let book = Book::open(&path).unwrap();
        assert_eq!(book.remembered(&cluster), remembered);
        assert_eq!(book.due_for("a"), std::slice::from_ref(&notice));
        book.done(&notice.id, "a").unwrap();
        assert_eq!((book.due_for("a"), book.due_for("b")), (vec![], vec![notice.clone()]));
        drop(book);

        let book = Book::open(&path).unwrap();
        assert_eq!((book.due_for("a"), book.due_for("b")), (vec![], vec![notice.clone()]));
        let now = notice.time;
        assert_eq!(book.sweep(&to(&["b"]), now).unwrap(), 1);
        assert_eq!(book.sweep(&to(&["b"]), now + STALE + SignedDuration::from_secs(1)).unwrap(), 0);
    }

    #[test]
    fn who_is_not_there_any_more_is_waited_for_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let book = Book::open(&dir.path().join("watch.json")).unwrap();
        let cluster: ClusterName = "hamburg".parse().unwrap();
        let notice = Notice::test("us");
        book.remember(&cluster, Remembered::default(), Some(notice.clone()), &to(&["a"])).unwrap();
        assert_eq!(book.sweep(&to(&["b"]), notice.time).unwrap(), 0);
        for _ in 0..MOST + 3 {
            let notice = Some(Notice::test("us"));
            book.remember(&cluster, Remembered::default(), notice, &to(&["a"])).unwrap();
        }
        assert_eq!(book.sweep(&to(&["a"]), notice.time).unwrap(), MOST);
    }

    #[test]
    fn what_is_damaged_is_not_taken_for_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watch.json");
        for damaged in ["", "{", "{\"version\":2,\"clusters\":{},\"outbox\":[]}"] {
            durable::replace(&path, damaged.as_bytes(), Access::Private).unwrap();
            assert!(matches!(Book::open(&path), Err(BookError::Damaged { .. })), "{damaged:?}");
        }
    }
}
