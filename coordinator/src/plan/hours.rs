//! When servers may be disturbed, and whether what is begun then ends in time. Pure: whoever asks says what time it is.

use std::fmt;

use jiff::{SignedDuration, Zoned};
use serde::{Deserialize, Serialize};
use umsid_common::name::ServerName;

use super::{Basis, Kind, Plan, Purpose, Refusal, RefusalKind, Step, What};
use crate::window::{self, Window};

/// What a restore is reckoned with where none is on record, in seconds: what an agent gives it unless told otherwise.
const RESTORE_S: u64 = 5 * 60;

/// The same of a restart: five minutes for the service manager, ten until the UMS Server is healthy.
const RESTART_S: u64 = 15 * 60;

/// When one server may be disturbed, and how long that takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hours {
    /// In any of these, from its beginning to its end; those that follow each other without a gap are one.
    pub windows: Vec<Window>,
    /// Seconds a restore is reckoned with.
    pub restore_s: u64,
    /// Seconds a restart is reckoned with, until the UMS Server is healthy.
    pub restart_s: u64,
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let windows: Vec<String> = self.windows.iter().map(Window::to_string).collect();
        f.write_str(&windows.join(" or "))
    }
}

/// Whether something may be begun at a moment.
#[derive(Clone, Debug, PartialEq)]
pub enum Opening {
    /// It may.
    Now,
    /// From this moment on.
    At(Zoned),
    /// Never: no window is long enough.
    Never,
}

/// When a step would be begun, if all of the plan came one after another and took as long as reckoned.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Its number.
    pub step: u32,
    /// `None`: no window is long enough.
    pub begins: Option<Zoned>,
    /// The server's windows.
    pub hours: Hours,
}

impl Hours {
    /// Of this server; `None`: it may be disturbed at any time.
    pub(super) fn of(basis: &Basis<'_>, server: &ServerName) -> Option<Self> {
        let site = basis.cluster.sites.get(basis.cluster.site_of(server)?)?;
        let (restore_s, restart_s) = match site.takes {
            Some(takes) => (0, takes.as_secs()),
            None => (
                basis.restores.get(server).copied().unwrap_or(RESTORE_S),
                basis.restarts.get(server).copied().unwrap_or(RESTART_S),
            ),
        };
        let windows = site.windows();
        (!windows.is_empty()).then_some(Self { windows, restore_s, restart_s })
    }

    /// When something that takes so long may be begun.
    pub fn opening(&self, now: &Zoned, takes: SignedDuration) -> Opening {
        if window::fits(&self.windows, now, takes) {
            return Opening::Now;
        }
        window::next_for(&self.windows, now, takes).map_or(Opening::Never, Opening::At)
    }
}

impl Plan {
    /// The hours of the server a step of the plan disturbs, and how long it is then disturbed: with a restore goes the
    /// restart after it. `None`: it may be begun at any time.
    pub fn bound(&self, step: &Step) -> Option<(&Hours, SignedDuration)> {
        if self.request.ignore_windows {
            return None;
        }
        let hours = self.hours.get(step.what.server()?)?;
        let seconds = match &step.what {
            What::Restart { .. } => hours.restart_s,
            What::Restore { server } => {
                let then = What::Restart { server: server.clone() };
                let restarted = self.steps.iter().any(|other| other.no > step.no && other.what == then);
                hours.restore_s.saturating_add(if restarted { hours.restart_s } else { 0 })
            }
            What::RestoreOwn { purpose: Purpose::Rehearsal, .. } => hours.restore_s.max(1),
            // On the way back nothing waits: a server that is not as it was is worse than one that is away.
            _ => return None,
        };
        Some((hours, self::seconds(seconds)))
    }

    /// When a step of the plan may be begun.
    pub fn opening(&self, step: &Step, now: &Zoned) -> Opening {
        self.bound(step).map_or(Opening::Now, |(hours, takes)| hours.opening(now, takes))
    }

    /// When each step that is bound to windows would be begun, the first at this moment if it may.
    pub fn forecast(&self, now: &Zoned) -> Vec<Forecast> {
        let mut moment = now.clone();
        let bound = self.steps.iter().filter_map(|step| Some((step, self.bound(step)?)));
        bound
            .map(|(step, (hours, takes))| {
                let begins = match hours.opening(&moment, takes) {
                    Opening::Now => Some(moment.clone()),
                    Opening::At(opens) => Some(opens.with_time_zone(now.time_zone().clone())),
                    Opening::Never => None,
                };
                // The restart after a restore is a step of its own.
                let own = match &step.what {
                    What::Restore { .. } => seconds(hours.restore_s),
                    _ => takes,
                };
                if let Some(begins) = &begins {
                    moment = begins.saturating_add(own);
                }
                Forecast { step: step.no, begins, hours: hours.clone() }
            })
            .collect()
    }

    /// When it may be begun, if not now: when the first step that is bound to windows may.
    pub fn opens(&self, now: &Zoned) -> Option<Zoned> {
        match self.opening(self.steps.iter().find(|step| self.bound(step).is_some())?, now) {
            Opening::At(opens) => Some(opens),
            Opening::Now | Opening::Never => None,
        }
    }

    /// What speaks against beginning it now: a window that is closed, or too short for ever.
    pub fn closed(&self, now: &Zoned) -> Option<Refusal> {
        let bound = || self.steps.iter().filter_map(|step| Some((step, self.bound(step)?)));
        let refusal = |what, remedy| Some(Refusal { kind: RefusalKind::Window, what, remedy });
        let never = bound().find(|(_, (hours, takes))| hours.opening(now, *takes) == Opening::Never);
        if let Some((step, (hours, takes))) = never {
            return refusal(
                format!("{} never fits into its window, {hours}: it may take {takes:#}", self.place(step)),
                "widen the window in inventory.toml, or say in `takes` how long it takes there; or --ignore-windows".to_owned(),
            );
        }
        let (step, (hours, takes)) = bound().next()?;
        match hours.opening(now, takes) {
            Opening::Now | Opening::Never => None,
            Opening::At(opens) => refusal(
                closed(&self.place(step), hours, takes, &opens),
                match self.request.kind {
                    Kind::Sync => format!(
                        "`umsid sync {} --yes --wait-for-window` waits until then, --ignore-windows begins it now",
                        self.cluster
                    ),
                    Kind::Restart | Kind::Backup => "begin it then, or now with --ignore-windows".to_owned(),
                },
            ),
        }
    }

    fn place(&self, step: &Step) -> String {
        let server = step.what.server().map_or("the cluster", ServerName::as_str);
        format!("{server}: step {} ({})", step.no, step.what.title())
    }
}

fn seconds(seconds: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// What a step waits for, in words.
pub(crate) fn closed(step: &str, hours: &Hours, takes: SignedDuration, opens: &Zoned) -> String {
    format!("{step} may take {takes:#}, and its window, {hours}, has room for that from {} on", moment(opens))
}

/// A moment as people read it, with its clock.
pub fn moment(moment: &Zoned) -> String {
    moment.strftime("%a %Y-%m-%d %H:%M %Z").to_string()
}

#[cfg(test)]
mod tests;
