//! What speaks against carrying out a request: a pure function, so that every refusal can be tested without a server.

use serde::{Deserialize, Serialize};
use umsid_common::name::ServerName;

use super::{Basis, Kind, Plan, Request, RestartScope};
use crate::survey::{MainTrouble, Report, SilenceKind, SyncState, complaint};

/// Oldest UMS the documented procedure is for (UMS_FACTS §1).
const OLDEST_UMS: &str = "12.01.100";

/// Largest difference between the servers' clocks (UMS_FACTS §6), in milliseconds.
const LARGEST_SKEW_MS: i64 = 60_000;

/// Room a server needs for backups and records, in bytes.
const LEAST_DISK: u64 = 64 << 20;

/// Something that speaks against a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// What kind of thing speaks against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// A server does not answer.
    Unreachable,
    /// A certificate stands in the way.
    Certificate,
    /// Which server is Main is not settled, or contradicted.
    Main,
    /// The request names what is not there.
    Request,
    /// The state of servers forbids it.
    Servers,
    /// Whether servers are in sync is not known.
    Unknown,
    /// It is outside of a site's window, or too late in it.
    Window,
}

/// All that speaks against carrying out this plan; empty: nothing.
pub fn preflight(basis: &Basis<'_>, request: &Request, plan: &Plan) -> Vec<Refusal> {
    let mut found = Refusals(Vec::new());
    named_servers(basis, request, &mut found);
    silent_servers(basis, request, plan, &mut found);
    if request.kind == Kind::Sync {
        main_server(basis, request, &mut found);
        unknown_servers(basis, request, &mut found);
    }
    // What follows asks whether steps may be carried out.
    if !plan.is_empty() {
        let servers = plan.servers.keys();
        let reports: Vec<(&ServerName, &Report)> =
            servers.filter_map(|server| Some((server, basis.survey.report(server)?))).collect();
        versions(request, &reports, &mut found);
        clocks(&reports, &mut found);
        for (server, report) in &reports {
            one_server(basis, plan, server, report, &mut found);
        }
        neighbours(basis, plan, &mut found);
    }
    found.0
}

struct Refusals(Vec<Refusal>);

impl Refusals {
    fn add(&mut self, kind: RefusalKind, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Refusal { kind, what: what.into(), remedy: remedy.into() });
    }
}

fn named_servers(basis: &Basis<'_>, request: &Request, found: &mut Refusals) {
    for server in request.only.iter().filter(|server| !basis.cluster.servers.contains_key(server)) {
        let known: Vec<&str> = basis.cluster.servers.keys().map(ServerName::as_str).collect();
        let what = format!("{server} is not in cluster {}", basis.name);
        found.add(RefusalKind::Request, what, format!("its servers are {}", known.join(", ")));
    }
    if let (Ok(main), Kind::Sync) = (&basis.assessment.main, request.kind)
        && request.only.contains(&main.server)
    {
        let what = format!("{} is the Main server: it is the source, not a target", main.server);
        found.add(RefusalKind::Request, what, "leave it out of --only");
    }
}

/// A server that did not answer is unknown, and nothing is done around it unless the servers to work on were named.
fn silent_servers(basis: &Basis<'_>, request: &Request, plan: &Plan, found: &mut Refusals) {
    for (server, answer) in &basis.survey.servers {
        let Err(silence) = &answer.report else { continue };
        let to_be_restarted = request.kind == Kind::Sync && request.restart == RestartScope::All;
        let named = request.only.contains(server);
        if !(request.only.is_empty() || named || to_be_restarted || plan.servers.contains_key(server)) {
            continue;
        }
        let kind = match silence.kind {
            SilenceKind::Certificate | SilenceKind::WrongServer => RefusalKind::Certificate,
            SilenceKind::Unreachable
            | SilenceKind::Refused
            | SilenceKind::Gateway
            | SilenceKind::NotForwarded => RefusalKind::Unreachable,
        };
        let mut remedy = silence.remedy().to_owned();
        if request.only.is_empty() {
            remedy.push_str("; or name the servers to go on with: --only SERVER");
            if request.kind == Kind::Sync {
                remedy.push_str(" --restart restored");
            }
        } else if !named {
            remedy.push_str("; or leave it out of the restarts: --restart restored");
        }
        found.add(kind, format!("{server} did not answer: {}", silence.causes.join(": ")), remedy);
    }
}

fn main_server(basis: &Basis<'_>, request: &Request, found: &mut Refusals) {
    match &basis.assessment.main {
        Err(trouble) => {
            let silent = matches!(trouble, MainTrouble::Silent(_));
            let kind = if silent { RefusalKind::Unreachable } else { RefusalKind::Main };
            found.add(kind, trouble.to_string(), trouble.remedy());
        }
        // Without a label only a person can know that this is Main; the inventory is a person's word too.
        Ok(main) if !main.settled && request.main.is_none() && basis.cluster.main.is_none() => found.add(
            RefusalKind::Main,
            format!("{} is only presumed to be Main: {}", main.server, main.evidence),
            format!("name it yourself: --main {}", main.server),
        ),
        Ok(_) => {}
    }
}

fn unknown_servers(basis: &Basis<'_>, request: &Request, found: &mut Refusals) {
    if basis.assessment.main.is_err() || !request.only.is_empty() {
        return;
    }
    for (server, verdict) in &basis.assessment.servers {
        // Servers that did not answer have been named already.
        if verdict.state == SyncState::Unknown && basis.survey.report(server).is_some() {
            found.add(
                RefusalKind::Unknown,
                format!("{server}: whether it is in sync is unknown: {}", verdict.evidence),
                "`umsid status --raw` shows what its UMS printed; name the servers to synchronize: --only SERVER",
            );
        }
    }
}

fn versions(request: &Request, reports: &[(&ServerName, &Report)], found: &mut Refusals) {
    let mut versions = Vec::new();
    for (server, report) in reports {
        let Some(version) = &report.inspection.ums_version else {
            let what = format!("{server}: its UMS version could not be found out");
            let remedy =
                "run `umsid-agent doctor` there; `version` in section [ums] of agent.toml can name it";
            found.add(RefusalKind::Servers, what, remedy);
            continue;
        };
        if request.kind == Kind::Sync && parts(version) < parts(OLDEST_UMS) {
            let what = format!("{server} runs UMS {version}, older than {OLDEST_UMS}");
            let remedy = "the procedure is documented for newer versions only: update the UMS first";
            found.add(RefusalKind::Servers, what, remedy);
        }
        versions.push((parts(version), format!("{server} {version}")));
    }
    if versions.windows(2).any(|pair| pair[0].0 != pair[1].0) {
        let list: Vec<String> = versions.into_iter().map(|(_, text)| text).collect();
        let what = format!("the servers run different versions of the UMS: {}", list.join(", "));
        found.add(RefusalKind::Servers, what, "all servers of an installation must run the same version");
    }
}

/// The parts are zero-padded (UMS_FACTS §4), but nobody promises that they stay so: compare numbers.
fn parts(version: &str) -> Vec<u64> {
    version.split('.').map(|part| part.parse().unwrap_or_default()).collect()
}

fn clocks(reports: &[(&ServerName, &Report)], found: &mut Refusals) {
    let slowest = reports.iter().min_by_key(|(_, report)| report.skew_ms);
    let fastest = reports.iter().max_by_key(|(_, report)| report.skew_ms);
    let (Some((slow, behind)), Some((fast, ahead))) = (slowest, fastest) else { return };
    let apart = ahead.skew_ms - behind.skew_ms;
    if apart > LARGEST_SKEW_MS {
        let what = format!("the clocks of {slow} and {fast} are {} s apart", apart / 1000);
        found.add(RefusalKind::Servers, what, "at most 60 s are allowed: correct the time (NTP) first");
    }
}

/// A server that is down and has no part in this would be down together with its neighbour that has.
fn neighbours(basis: &Basis<'_>, plan: &Plan, found: &mut Refusals) {
    let disturbed = plan.disturbed();
    for (other, answer) in &basis.survey.servers {
        let Ok(report) = &answer.report else { continue };
        let Some(site) = basis.cluster.site_of(other).filter(|_| !plan.servers.contains_key(other)) else {
            continue;
        };
        let with_it = disturbed.iter().find(|server| basis.cluster.site_of(server) == Some(site));
        if let (Some(server), Some(complaint)) = (with_it, complaint(&report.inspection)) {
            let what = format!("{other} is not healthy, at the site of {server} ({site}): {complaint}");
            let remedy = format!(
                "bring it up first (`umsid restart --only {other}`), or name it too, so that its turn comes before that of {server}"
            );
            found.add(RefusalKind::Servers, what, remedy);
        }
    }
}

fn one_server(basis: &Basis<'_>, plan: &Plan, server: &ServerName, report: &Report, found: &mut Refusals) {
    let inspection = &report.inspection;
    if inspection.cluster != *basis.name {
        let what = format!("{server} belongs to cluster {}", inspection.cluster);
        found.add(RefusalKind::Servers, what, "a UMS ID never goes to a server of another cluster");
    }
    if inspection.update_mode == Some(true) {
        let what = format!("{server} is in update mode: its changes would be lost");
        found.add(RefusalKind::Servers, what, "end it there with `umsadmin-cli server end-update-mode`");
    }
    // A target may be down just because its UMS ID is wrong; the others must be well before one of them is restarted.
    if plan.request.kind == Kind::Sync
        && !plan.targets.contains(server)
        && let Some(complaint) = complaint(inspection)
    {
        let what = format!("{server} is not healthy: {complaint}");
        found.add(
            RefusalKind::Servers,
            what,
            "bring it up first, so that no restart takes the last server away",
        );
    }
    if let Some(disk) = inspection.disk.filter(|disk| disk.free < LEAST_DISK) {
        let what = format!("{server} has only {} MiB free where its agent keeps backups", disk.free >> 20);
        found.add(RefusalKind::Servers, what, "make room: 64 MiB are needed");
    }
}
