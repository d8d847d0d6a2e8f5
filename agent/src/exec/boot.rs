//! When this host was started. Linux knows since when a process runs only as a time after that, and moves the moment of
//! the start when the clock is set: by its start as the clock tells it, a process would be another one afterwards. So
//! everything is counted from the moment as it was seen first, by whichever agent, since the host was started.

use std::path::Path;
use std::sync::OnceLock;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use umsid_common::durable::{self, Access};

/// The moment as it was seen first, in seconds.
static FIRST: OnceLock<i64> = OnceLock::new();

/// On disk: for an agent that is started again after the clock was set.
#[derive(Serialize, Deserialize)]
struct Boot {
    /// What the system calls this time of running.
    id: String,
    moment: i64,
}

/// Takes the moment from this file, if it is of this time of running; else puts it there.
pub fn keep(path: &Path) {
    let (Some(id), Some(now)) = (id(), now()) else { return };
    let kept = durable::read_optional(path).ok().flatten();
    let kept = kept.and_then(|json| serde_json::from_slice::<Boot>(&json).ok());
    if let Some(kept) = kept.filter(|kept| kept.id == id) {
        FIRST.get_or_init(|| kept.moment);
        return;
    }
    let boot = Boot { id, moment: *FIRST.get_or_init(|| now) };
    let json = serde_json::to_vec(&boot).expect("a name and a number are JSON");
    if let Err(error) = durable::replace(path, &json, Access::Private) {
        tracing::warn!(%error, "a process may be taken for another one if the clock is set while no agent runs");
    }
}

/// The moment as it was seen first, in seconds; `None` where that cannot be told.
pub fn first() -> Option<i64> {
    let now = now()?;
    Some(*FIRST.get_or_init(|| now))
}

/// Takes the moment from another process, so that both tell the start of a process alike.
pub fn take(first: i64) {
    FIRST.get_or_init(|| first);
}

/// By how many seconds the clock was set since.
pub(super) fn moved() -> i64 {
    match now() {
        Some(now) if cfg!(target_os = "linux") => moved_from(*FIRST.get_or_init(|| now), now),
        _ => 0,
    }
}

/// Less than this is rounding.
fn moved_from(first: i64, now: i64) -> i64 {
    if (now - first).abs() <= 1 { 0 } else { now - first }
}

/// The start of a process by the clock as it is now: for people, and for comparing it with what the clock said lately.
pub fn by_the_clock(started: Timestamp) -> Timestamp {
    started.saturating_add(SignedDuration::from_secs(moved())).unwrap_or(started)
}

/// This moment as the starts of processes are told.
pub fn moment() -> Timestamp {
    let now = Timestamp::now();
    now.saturating_sub(SignedDuration::from_secs(moved())).unwrap_or(now)
}

fn now() -> Option<i64> {
    i64::try_from(sysinfo::System::boot_time().ok()?).ok()
}

fn id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_told_from_rounding() {
        assert_eq!(moved_from(1_000_000, 1_000_001), 0);
        assert_eq!(moved_from(1_000_000, 999_999), 0);
        assert_eq!(moved_from(1_000_000, 1_018_000), 18_000);
        assert_eq!(moved_from(1_000_000, 982_000), -18_000);
    }

    #[test]
    fn the_first_moment_of_this_time_of_running_is_kept() {
        let directory = umsid_testkit::scratch();
        let path = directory.path().join("boot.json");
        keep(&path);
        let kept = std::fs::read(&path).unwrap();
        let boot: Boot = serde_json::from_slice(&kept).unwrap();
        assert!((boot.moment - now().unwrap()).abs() <= 1);
        keep(&path);
        assert_eq!(std::fs::read(&path).unwrap(), kept);
        // Of another time of running, or no sense at all: made anew.
        for other in [r#"{"id":"x","moment":5}"#, "{"] {
            durable::replace(&path, other.as_bytes(), Access::Private).unwrap();
            keep(&path);
            assert_eq!(std::fs::read(&path).unwrap(), kept);
        }
    }
}
