//! How a cluster is, for whoever watches it from afar: one level, and what speaks for it.
//!
//! [`judge`] is pure: a survey and what follows from it become findings. What is not known is never [`Level::Ok`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use umsid_common::name::{ClusterName, ServerName, SiteName};
use umsid_proto::model::{HealthStatus, Inspection, ServiceStatus};

use crate::survey::{self, Assessment, MainTrouble, Report, Survey, SyncState};

/// The four states of the plugin interface that monitoring systems share, the gravest last: what is certainly bad goes before
/// what is not known, and that before what can wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// All is known to be well.
    #[default]
    Ok,
    /// It will be bad, or may be.
    Warning,
    /// It cannot be told.
    Unknown,
    /// It is bad.
    Critical,
}

impl Level {
    /// The number of the plugin interface.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }

    /// The word of the plugin interface.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A server gave no answer.
    NoAnswer,
    /// A server does not hold the Main UMS ID.
    NotInSync,
    /// It cannot be told whether a server holds it.
    NotKnown,
    /// There is no Main server to go by.
    Main,
    /// The UMS Server of a server is not well.
    Unwell,
    /// A server runs on a copy of the database.
    UpdateMode,
    /// A server's clock and ours differ.
    Clock,
    /// An agent's certificate ends.
    Certificate,
    /// The certificate we look with ends.
    OwnCertificate,
    /// A run is not over.
    Run,
    /// A run holds a server.
    Lease,
    /// The record of runs cannot be read.
    Journal,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How grave.
    pub level: Level,
    /// Where; `None`: the cluster as a whole.
    pub server: Option<ServerName>,
    /// What it is about.
    pub kind: Kind,
    /// In a few words.
    pub what: String,
    /// The evidence, or why; may be empty.
    pub detail: String,
    /// What to do; may be empty.
    pub remedy: String,
}

impl Finding {
    /// About the cluster.
    pub fn new(level: Level, kind: Kind, what: impl Into<String>) -> Self {
        Self { level, server: None, kind, what: what.into(), detail: String::new(), remedy: String::new() }
    }

    fn at(mut self, server: &ServerName) -> Self {
        self.server = Some(server.clone());
        self
    }

    /// The evidence, or why.
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// What to do.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// With the server: `ums2 not in sync`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Some(server) => write!(f, "{server} {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// From where on something is a warning, and from where on critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Warning.
    pub warning: Duration,
    /// Critical.
    pub critical: Duration,
}

/// What is put up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The least that must be left of a certificate's life.
    pub certificate: Bounds,
    /// The most a clock may differ from ours.
    pub skew: Bounds,
}

const DAY: u64 = 24 * 3600;

/// A certificate that is still not renewed with 30 days left has missed eleven weeks in which it should have been. Clocks of
/// one installation differ by at most a minute (UMS_FACTS §6).
impl Default for Limits {
    fn default() -> Self {
        let bounds = |warning, critical| Bounds {
            warning: Duration::from_secs(warning),
            critical: Duration::from_secs(critical),
        };
        Self { certificate: bounds(30 * DAY, 7 * DAY), skew: bounds(30, 60) }
    }
}

/// How one server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Where it stands.
    pub site: Option<SiteName>,
    /// Its UMS ID.
    pub state: SyncState,
    /// Whether its agent answered.
    pub answered: bool,
    /// Whether its UMS Server is well.
    pub well: bool,
    /// Its clock minus ours.
    pub skew_ms: Option<i64>,
    /// End of its agent's certificate.
    pub certificate_not_after: Option<Timestamp>,
}

/// How a cluster is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Which.
    pub cluster: ClusterName,
    /// When its servers were asked.
    pub taken: Timestamp,
    /// How long that took.
    pub took: Duration,
    /// What is not as it should be, the gravest first.
    pub findings: Vec<Finding>,
    /// Every server.
    pub servers: BTreeMap<ServerName, Standing>,
}

/// What a cluster's servers said, judged.
pub fn judge(survey: &Survey, assessment: &Assessment, limits: &Limits) -> Condition {
    let mut findings = Vec::new();
    let mut servers = BTreeMap::new();
    for (server, verdict) in &assessment.servers {
        let answer = survey.servers.get(server);
        let report = survey.report(server);
        servers.insert(
            server.clone(),
            Standing {
                site: answer.and_then(|answer| answer.site.clone()),
                state: verdict.state,
                answered: report.is_some(),
                well: report.is_some_and(|report| survey::complaint(&report.inspection).is_none()),
                skew_ms: report.map(|report| report.skew_ms),
                certificate_not_after: report.map(|report| report.inspection.certificate_not_after),
            },
        );
        match (report, answer.and_then(|answer| answer.report.as_ref().err())) {
            (Some(report), _) => {
                let unknown = verdict.state == SyncState::Unknown && assessment.main.is_ok();
                if verdict.state == SyncState::NotInSync {
                    let remedy = format!(
                        "`umsid plan {0}` shows what a sync would do, `umsid sync {0}` does it",
                        survey.cluster
                    );
                    let finding = Finding::new(Level::Critical, Kind::NotInSync, "not in sync");
                    findings.push(finding.because(&verdict.evidence).remedy(remedy).at(server));
                } else if unknown {
                    let remedy =
                        "look in the UMS Console (UMS Administration > Global Configuration > UMS ID)";
                    let finding = Finding::new(Level::Unknown, Kind::NotKnown, "perhaps not in sync");
                    findings.push(finding.because(&verdict.evidence).remedy(remedy).at(server));
                }
                findings.extend(of_report(server, report, survey.taken, limits));
            }
            (None, silence) => {
                let finding = Finding::new(Level::Critical, Kind::NoAnswer, "did not answer");
                let causes = silence.map(|silence| silence.causes.join(": ")).unwrap_or_default();
                let remedy = silence.map(survey::Silence::remedy).unwrap_or_default();
                findings.push(finding.because(causes).remedy(remedy).at(server));
            }
        }
    }
    if let Err(trouble) = &assessment.main {
        findings.push(
            Finding::new(of_trouble(trouble), Kind::Main, trouble.to_string()).remedy(trouble.remedy()),
        );
    }
    if servers.is_empty() {
        let finding = Finding::new(Level::Unknown, Kind::NotKnown, "no server is enrolled");
        findings.push(finding.remedy("`umsid enroll` enrols one"));
    }
    let mut condition = Condition {
        cluster: survey.cluster.clone(),
        taken: survey.taken,
        took: Duration::ZERO,
        findings: Vec::new(),
        servers,
    };
    condition.add(findings);
    if !assessment.all_in_sync() && condition.level() == Level::Ok {
        condition.add([Finding::new(
            Level::Unknown,
            Kind::NotKnown,
            "not all servers are known to be in sync",
        )]);
    }
    condition
}

/// Where servers contradict each other, one of them is not in sync; where nothing is said, nothing is known.
fn of_trouble(trouble: &MainTrouble) -> Level {
    match trouble {
        MainTrouble::Several(_)
        | MainTrouble::NoHolder(_)
        | MainTrouble::Contradicted(_)
        | MainTrouble::Silent(_) => Level::Critical,
        MainTrouble::NobodyKnows | MainTrouble::NotHere(_) => Level::Unknown,
    }
}

fn of_report(server: &ServerName, report: &Report, now: Timestamp, limits: &Limits) -> Vec<Finding> {
    let inspection = &report.inspection;
    let mut findings: Vec<Finding> = unwell(inspection).into_iter().collect();
    if inspection.update_mode == Some(true) {
        findings.push(
            Finding::new(Level::Warning, Kind::UpdateMode, "in update mode")
                .because("it runs on a local copy of the database"),
        );
    }
    let skew = Duration::from_millis(report.skew_ms.unsigned_abs());
    if let Some(level) = level_above(skew, limits.skew) {
        let what = format!("clock off by {} s", skew.as_secs());
        let finding = Finding::new(level, Kind::Clock, what);
        findings.push(finding.remedy("set the clocks, there and here, by a time server"));
    }
    findings.extend(
        ending(Kind::Certificate, inspection.certificate_not_after, now, limits.certificate)
            .map(|finding| finding.remedy("`umsid status`, typed at the coordinator, renews it")),
    );
    if let Some(lease) = inspection.lease.as_ref().filter(|lease| lease.until > inspection.clock) {
        findings.push(
            Finding::new(Level::Warning, Kind::Lease, format!("locked for run {}", lease.run)).because(
                format!("by {} since {}", lease.holder, lease.since.strftime("%Y-%m-%d %H:%M:%S UTC")),
            ),
        );
    }
    findings.into_iter().map(|finding| finding.at(server)).collect()
}

fn unwell(inspection: &Inspection) -> Option<Finding> {
    let (level, what) = match (inspection.service.status, inspection.health.status) {
        (ServiceStatus::Stopped, _) => (Level::Critical, "UMS Server is stopped"),
        (_, HealthStatus::Err) => (Level::Critical, "UMS Server reports err"),
        (_, HealthStatus::Unreachable) => (Level::Critical, "UMS Server does not answer"),
        (_, HealthStatus::Init) => (Level::Warning, "UMS Server is starting"),
        (_, HealthStatus::Warn) => (Level::Warning, "UMS Server reports warn"),
        (_, HealthStatus::Ok) => return None,
    };
    Some(Finding::new(level, Kind::Unwell, what).because(&inspection.health.detail))
}

/// What is to be said of a certificate that ends then; `None`: it is long.
pub fn ending(kind: Kind, not_after: Timestamp, now: Timestamp, bounds: Bounds) -> Option<Finding> {
    let left = not_after.duration_since(now);
    let below = |bound: Duration| left < SignedDuration::try_from(bound).unwrap_or(SignedDuration::MAX);
    let level = match () {
        () if below(bounds.critical) => Level::Critical,
        () if below(bounds.warning) => Level::Warning,
        () => return None,
    };
    let whose = if kind == Kind::OwnCertificate { "our own certificate" } else { "certificate" };
    let what = if left.is_negative() {
        format!("{whose} has ended")
    } else {
        format!("{whose} ends in {} days", left.as_hours() / 24)
    };
    Some(Finding::new(level, kind, what).because(not_after.strftime("on %Y-%m-%d %H:%M:%S UTC").to_string()))
}

fn level_above(value: Duration, bounds: Bounds) -> Option<Level> {
    match () {
        () if value > bounds.critical => Some(Level::Critical),
        () if value > bounds.warning => Some(Level::Warning),
        () => None,
    }
}

impl Condition {
    /// The gravest of all findings.
    pub fn level(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or_default()
    }

    /// Puts more findings to it.
    pub fn add(&mut self, findings: impl IntoIterator<Item = Finding>) {
        self.findings.extend(findings);
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    }

    /// How many servers hold the Main UMS ID, the Main server among them.
    pub fn in_sync(&self) -> usize {
        self.servers
            .values()
            .filter(|server| matches!(server.state, SyncState::Main | SyncState::InSync))
            .count()
    }

    /// How many servers are known not to.
    pub fn not_in_sync(&self) -> usize {
        self.servers.values().filter(|server| server.state == SyncState::NotInSync).count()
    }

    /// How many did not answer.
    pub fn unanswered(&self) -> usize {
        self.servers.values().filter(|server| !server.answered).count()
    }

    /// How many runs are not over.
    pub fn unfinished_runs(&self) -> usize {
        self.findings.iter().filter(|finding| finding.kind == Kind::Run).count()
    }

    /// The largest difference between a clock and ours.
    pub fn largest_skew_ms(&self) -> Option<u64> {
        self.servers.values().filter_map(|server| server.skew_ms).map(i64::unsigned_abs).max()
    }

    /// Seconds until the first of the agents' certificates ends.
    pub fn certificate_s(&self) -> Option<i64> {
        let first = self.servers.values().filter_map(|server| server.certificate_not_after).min()?;
        Some(first.duration_since(self.taken).as_secs())
    }

    /// In one line, without the cluster's name: `3 of 3 servers in sync`, or what is wrong, the gravest first.
    pub fn summary(&self) -> String {
        let good = format!("{} of {} servers in sync", self.in_sync(), self.servers.len());
        if self.findings.is_empty() {
            return good;
        }
        /// More is told by the lines below.
        const MOST: usize = 4;
        let mut told: Vec<String> = self.findings.iter().take(MOST).map(ToString::to_string).collect();
        if self.findings.len() > MOST {
            told.push(format!("and {} more", self.findings.len() - MOST));
        }
        if self.level() == Level::Warning {
            told.insert(0, good);
        }
        told.join(", ")
    }
}

#[cfg(test)]
mod tests;
