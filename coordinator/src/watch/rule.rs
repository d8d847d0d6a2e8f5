//! Whether a cluster may be synchronized now without a person: pure.

use jiff::{SignedDuration, Zoned};

use super::config::Rule;
use super::memory::Remembered;
use crate::condition::{Condition, Kind};
use crate::survey::{Assessment, SyncState};

/// Why it may not be begun now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// No server is known to be out of sync.
    #[error("there is nothing to synchronize")]
    Nothing,
    /// It was not seen often enough.
    #[error("seen out of sync in {seen} of {after} surveys in a row")]
    TooFresh {
        /// So often.
        seen: u32,
        /// Wanted.
        after: u32,
    },
    /// A person has to say which server is Main.
    #[error("the evidence does not settle which server is Main")]
    Main,
    /// Of these servers it is not known how they are.
    #[error("not known: {0}")]
    NotKnown(String),
    /// A run is unfinished, or it is not known whether one is.
    #[error("{0}")]
    Unfinished(String),
    /// The window is closed.
    #[error("the window opens at {0}")]
    Closed(Zoned),
    /// It is open, but not long enough.
    #[error("the window closes in {left:#}, and it may take {takes:#}")]
    NoRoom {
        /// Until it closes.
        left: SignedDuration,
        /// It may take.
        takes: SignedDuration,
    },
    /// Once in a window is enough.
    #[error("it was tried in this window already; a person has to look")]
    Tried,
}

/// Whether it may be begun now.
///
/// # Errors
/// What speaks against it; what a person should know of first.
pub fn may_begin(
    rule: &Rule,
    remembered: &Remembered,
    condition: &Condition,
    assessment: &Assessment,
    now: &Zoned,
) -> Result<(), NotNow> {
    if condition.not_in_sync() == 0 {
        return Err(NotNow::Nothing);
    }
    let unfinished = |kind| matches!(kind, Kind::Run | Kind::Lease | Kind::Journal);
    if let Some(finding) = condition.findings.iter().find(|finding| unfinished(finding.kind)) {
        return Err(NotNow::Unfinished(finding.to_string()));
    }
    if !assessment.main.as_ref().is_ok_and(|main| main.settled) {
        return Err(NotNow::Main);
    }
    let not_known = condition
        .servers
        .iter()
        .filter(|(_, standing)| !standing.answered || standing.state == SyncState::Unknown)
        .map(|(server, _)| server.as_str());
    let not_known: Vec<&str> = not_known.collect();
    if !not_known.is_empty() {
        return Err(NotNow::NotKnown(not_known.join(", ")));
    }
    let seen = remembered.out_of_sync_for();
    if seen < rule.after {
        return Err(NotNow::TooFresh { seen, after: rule.after });
    }
    let Some(left) = rule.window.room(now) else { return Err(NotNow::Closed(rule.window.next(now))) };
    let takes = SignedDuration::try_from(rule.takes).unwrap_or(SignedDuration::MAX);
    if left < takes {
        return Err(NotNow::NoRoom { left, takes });
    }
    // Unless the window has opened again since.
    let tried = remembered.tried.map(|tried| tried.to_zoned(now.time_zone().clone()));
    if tried.is_some_and(|tried| rule.window.next(&tried) > *now) {
        return Err(NotNow::Tried);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
