//! Survey and request become steps. Pure: a plan can be printed, stored, compared, and has a digest.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use umsid_common::digest::{Digest, Fingerprint};
use umsid_common::name::{ClusterName, ServerName, SiteName};
use umsid_common::seal::Recipient;

use crate::inventory::Cluster;
use crate::survey::{Assessment, Baseline, MainServer, Named, Survey, SyncState, Verdict};
use crate::window::Window;

pub mod hours;
mod make;
mod preflight;
mod restore_own;

pub use hours::{Forecast, Hours, Opening};
pub use make::make;
pub use preflight::{Refusal, RefusalKind, preflight};
pub use restore_own::{roll_back, touched};

/// The format of plans: what is in one, and what it means.
pub const VERSION: u32 = 1;

/// What an administrator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which kind of run.
    pub kind: Kind,
    /// Only these servers are to be synchronized; empty: all that are not in sync.
    pub only: Vec<ServerName>,
    /// The Main server by name.
    pub main: Option<ServerName>,
    /// The Main UMS ID by fingerprint.
    pub main_fingerprint: Option<Fingerprint>,
    /// How many targets at a time after the canary.
    pub batch: usize,
    /// Which servers are restarted.
    pub restart: RestartScope,
    /// Restart the targets first, the documented first remedy (UMS_FACTS §1).
    pub restart_first: bool,
    /// Let the canary restore its own safety backup over itself before anything else.
    pub rehearse: bool,
    /// Take a restore without visible effect for one that shows only after the restart: what `licensing list` reads is
    /// not documented (UMS_FACTS §2).
    #[serde(default)]
    pub verify_after_restart: bool,
    /// Disturb servers whatever the windows of their sites.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_windows: bool,
    /// Seconds to wait before the whole cluster is verified: messages between servers lag about 30 (UMS_FACTS §6).
    pub settle_s: u64,
}

impl Request {
    /// A synchronization with the documented defaults.
    pub fn sync() -> Self {
        Self {
            kind: Kind::Sync,
            only: Vec::new(),
            main: None,
            main_fingerprint: None,
            batch: 1,
            restart: RestartScope::All,
            restart_first: false,
            rehearse: false,
            verify_after_restart: false,
            ignore_windows: false,
            settle_s: 45,
        }
    }
}

/// Kinds of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Bring servers back in sync.
    Sync,
    /// Restart servers one after another.
    Restart,
    /// Take safety backups.
    Backup,
}

impl Kind {
    /// One word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Restart => "restart",
            Self::Backup => "backup",
        }
    }
}

/// Which servers are restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartScope {
    /// All, as documented (UMS_FACTS §1).
    All,
    /// Those that were restored.
    Restored,
    /// None.
    None,
}

/// The steps of one run, and what they were derived from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Of this format: [`VERSION`].
    pub version: u32,
    /// The cluster.
    pub cluster: ClusterName,
    /// What was asked for.
    pub request: Request,
    /// When the facts were taken.
    pub surveyed: Timestamp,
    /// The Main server; `None` for runs that need none.
    pub main: Option<MainServer>,
    /// What was known about Main besides the servers' evidence.
    pub named: Named,
    /// May open every backup of this run besides the targets, where the inventory names one.
    pub escrow: Option<Recipient>,
    /// Every server that takes part, and what it was planned on.
    pub servers: BTreeMap<ServerName, Facts>,
    /// When the servers may be disturbed whose sites have windows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hours: BTreeMap<ServerName, Hours>,
    /// The servers to be synchronized, the canary first.
    pub targets: Vec<ServerName>,
    /// What will be done.
    pub steps: Vec<Step>,
    /// Worth knowing before saying yes.
    pub notes: Vec<String>,
}

/// What a plan rests on, of one server. If any of it has changed, the plan is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// host:port, or the gateway that leads there.
    pub address: String,
    /// Where it stands.
    pub site: Option<SiteName>,
    /// What backups for it are sealed to.
    pub recipient: Recipient,
    /// As `12.09.110`.
    pub ums_version: Option<String>,
    /// Whether its UMS ID was the Main one.
    pub state: SyncState,
    /// What it showed.
    pub baseline: Baseline,
}

/// One action on one server, or one check of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number in the plan, from 1.
    pub no: u32,
    /// What.
    pub what: What,
    /// Why, for people.
    pub why: String,
    /// Steps that must be done first.
    pub after: BTreeSet<u32>,
    /// Seconds this server's UMS is expected to be away, as long as the last restart on record took; `None`: it stays
    /// up, or no restart is on record.
    pub downtime_s: Option<u64>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum What {
    /// Restart the UMS Server and wait until it is healthy.
    Restart {
        /// Where.
        server: ServerName,
    },
    /// Look again whether this target is in sync by now; if so, the rest of its steps are skipped.
    Recheck {
        /// Which.
        server: ServerName,
    },
    /// Save this server's own UMS ID in its vault.
    SafetyBackup {
        /// Where.
        server: ServerName,
    },
    /// Make sure that Main is still the server and UMS ID it was.
    ConfirmMain,
    /// Back up the Main UMS ID, sealed to the targets.
    Backup {
        /// On the Main server.
        server: ServerName,
    },
    /// Stream the sealed backup to the targets.
    Transfer {
        /// From the Main server.
        from: ServerName,
        /// To these.
        to: Vec<ServerName>,
    },
    /// Restore the Main UMS ID, and see that the server holds it.
    Restore {
        /// Where.
        server: ServerName,
    },
    /// Restore the server's own safety backup, and see that it holds its old UMS ID.
    RestoreOwn {
        /// Where.
        server: ServerName,
        /// Why: a rehearsal, or a rollback.
        purpose: Purpose,
    },
    /// See that the server holds the Main UMS ID after its restart.
    Verify {
        /// Which.
        server: ServerName,
    },
    /// See that the server holds the UMS ID it had before the run.
    VerifyOwn {
        /// Which.
        server: ServerName,
    },
    /// Wait for the messages between servers.
    Settle {
        /// How long.
        seconds: u64,
    },
    /// See that every server that was to be synchronized is, and that none has become worse.
    VerifyCluster,
    /// Remove what was transferred.
    Discard {
        /// Where.
        server: ServerName,
    },
}

/// Why a server's own UMS ID is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// To prove the whole path without changing anything.
    Rehearsal,
    /// To put it back as it was.
    Rollback,
}

impl What {
    /// The server it happens on; `None`: the cluster.
    pub fn server(&self) -> Option<&ServerName> {
        match self {
            Self::Restart { server }
            | Self::Recheck { server }
            | Self::SafetyBackup { server }
            | Self::Backup { server }
            | Self::Restore { server }
            | Self::RestoreOwn { server, .. }
            | Self::Verify { server }
            | Self::VerifyOwn { server }
            | Self::Discard { server } => Some(server),
            Self::ConfirmMain | Self::Transfer { .. } | Self::Settle { .. } | Self::VerifyCluster => None,
        }
    }

    /// Whether it may take its server's UMS Server away for a while: a restore may stop it.
    pub fn disturbs(&self) -> bool {
        matches!(self, Self::Restart { .. } | Self::Restore { .. } | Self::RestoreOwn { .. })
    }

    /// What it does, in a few words without the server.
    pub fn title(&self) -> String {
        match self {
            Self::Restart { .. } => "restart UMS Server, wait until healthy".to_owned(),
            Self::Recheck { .. } => "look again".to_owned(),
            Self::SafetyBackup { .. } => "safety backup of its own UMS ID".to_owned(),
            Self::ConfirmMain => "confirm which server is Main".to_owned(),
            Self::Backup { .. } => "back up the Main UMS ID".to_owned(),
            Self::Transfer { to, .. } => {
                let to: Vec<&str> = to.iter().map(ServerName::as_str).collect();
                format!("transfer the sealed backup to {}", to.join(", "))
            }
            Self::Restore { .. } => "restore the Main UMS ID".to_owned(),
            Self::RestoreOwn { purpose: Purpose::Rehearsal, .. } => {
                "rehearse: restore its own UMS ID over itself".to_owned()
            }
            Self::RestoreOwn { purpose: Purpose::Rollback, .. } => {
                "roll back: restore its own UMS ID".to_owned()
            }
            Self::Verify { .. } => "verify".to_owned(),
            Self::VerifyOwn { .. } => "verify that it is as it was".to_owned(),
            Self::Settle { seconds } => format!("wait {seconds} s for messages between servers"),
            Self::VerifyCluster => "verify the whole cluster".to_owned(),
            Self::Discard { .. } => "remove what was transferred".to_owned(),
        }
    }
}

impl Plan {
    /// SHA-256 over the plan's JSON.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a plan is plain data: it can be written as JSON"))
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The step with this number.
    pub fn step(&self, no: u32) -> Option<&Step> {
        self.steps.iter().find(|step| step.no == no)
    }

    /// The servers a backup is on, or goes to: the Main server and the targets.
    pub fn involved(&self) -> Vec<ServerName> {
        let source = self.main.iter().map(|main| main.server.clone());
        source.chain(self.targets.iter().cloned()).collect()
    }

    /// The canary: the first target.
    pub fn canary(&self) -> Option<&ServerName> {
        self.targets.first()
    }

    /// The servers whose UMS Server is restarted, in order.
    pub fn restarts(&self) -> Vec<&ServerName> {
        self.steps
            .iter()
            .filter_map(|step| match &step.what {
                What::Restart { server } => Some(server),
                _ => None,
            })
            .collect()
    }

    /// The servers whose UMS Server may be away for a while.
    pub fn disturbed(&self) -> BTreeSet<&ServerName> {
        self.steps.iter().filter(|step| step.what.disturbs()).filter_map(|step| step.what.server()).collect()
    }

    /// What differs between the facts this plan rests on and those of a newer plan; empty: nothing.
    pub fn differences(&self, now: &Plan) -> Vec<String> {
        let mut differences = Vec::new();
        let main = |plan: &Plan| plan.main.as_ref().map(|main| (main.server.clone(), main.fingerprint));
        if main(self) != main(now) {
            let name = |plan: &Plan| {
                plan.main.as_ref().map_or("none".to_owned(), |main| match main.fingerprint {
                    Some(print) => format!("{} with {}", main.server, print.short()),
                    None => main.server.to_string(),
                })
            };
            differences.push(format!("Main was {}, is {}", name(self), name(now)));
        }
        let servers: BTreeSet<_> = self.servers.keys().chain(now.servers.keys()).collect();
        for server in servers {
            match (self.servers.get(server), now.servers.get(server)) {
                (Some(then), Some(now)) => then.differences(now, server, &mut differences),
                (Some(_), None) => differences.push(format!("{server} is no longer there")),
                (None, Some(_)) => differences.push(format!("{server} is new")),
                (None, None) => {}
            }
        }
        let windows = |plan: &Plan| -> BTreeMap<ServerName, Vec<Window>> {
            plan.hours.iter().map(|(server, hours)| (server.clone(), hours.windows.clone())).collect()
        };
        if windows(self) != windows(now) {
            differences.push("servers may be disturbed at other times now".to_owned());
        }
        if self.escrow != now.escrow {
            differences.push("another escrow recipient may open the backups now".to_owned());
        }
        // How long restarts took lately is no fact the plan rests on.
        let steps = |plan: &Plan| -> Vec<Step> {
            plan.steps.iter().map(|step| Step { downtime_s: None, ..step.clone() }).collect()
        };
        if differences.is_empty() && (self.targets != now.targets || steps(self) != steps(now)) {
            differences.push("the same request leads to other steps now".to_owned());
        }
        differences
    }
}

impl Facts {
    fn differences(&self, now: &Facts, server: &ServerName, differences: &mut Vec<String>) {
        if self.address != now.address {
            differences.push(format!("{server}: address was {}, is {}", self.address, now.address));
        }
        if self.recipient != now.recipient {
            differences.push(format!("{server}: was enrolled again with another key"));
        }
        if self.site != now.site {
            differences.push(format!("{server}: stands at another site"));
        }
        if self.ums_version != now.ums_version {
            let text = |version: &Option<String>| version.clone().unwrap_or_else(|| "unknown".to_owned());
            differences.push(format!(
                "{server}: UMS version was {}, is {}",
                text(&self.ums_version),
                text(&now.ums_version)
            ));
        }
        if self.state != now.state {
            differences.push(format!("{server}: was {}, is {}", self.state, now.state));
        } else if self.baseline != now.baseline {
            differences.push(format!("{server}: shows another UMS ID"));
        }
    }
}

fn facts(cluster: &Cluster, survey: &Survey, verdict: &Verdict, server: &ServerName) -> Option<Facts> {
    let (entry, report) = (cluster.servers.get(server)?, survey.report(server)?);
    Some(Facts {
        address: entry.place(),
        site: entry.site.clone(),
        recipient: entry.recipient.clone(),
        ums_version: report.inspection.ums_version.clone(),
        state: verdict.state,
        baseline: Baseline::of(survey, &report.inspection.ums_ids),
    })
}

/// What a plan is made from.
pub struct Basis<'a> {
    /// The cluster's name.
    pub name: &'a ClusterName,
    /// From the inventory.
    pub cluster: &'a Cluster,
    /// What its servers reported.
    pub survey: &'a Survey,
    /// What follows from that.
    pub assessment: &'a Assessment,
    /// What is known about Main besides.
    pub named: &'a Named,
    /// Seconds the last restart of each server took, where one is on record.
    pub restarts: &'a BTreeMap<ServerName, u64>,
    /// Seconds the last restore on each server took, where one is on record.
    pub restores: &'a BTreeMap<ServerName, u64>,
}

#[cfg(test)]
mod tests;
