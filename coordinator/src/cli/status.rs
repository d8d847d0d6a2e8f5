//! `umsid status`

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use umsid_common::digest::Fingerprint;
use umsid_common::name::{ClusterName, ServerName, SiteName};
use umsid_proto::model::{HealthStatus, Inspection, RawOutput, ServiceStatus};

use super::look::Eyes;
use super::past::{Past, Told};
use super::prepare::wanted;
use super::unfinished::Unfinished;
use super::{Context, Format, day};
use crate::exit::Exit;
use crate::inventory::{Cluster, Server};
use crate::printout::{Cell, Tone};
use crate::survey::{self, Assessment, MainServer, Named, Report, Silence, Survey, SyncState};

/// Clocks of one installation differ by at most a minute (UMS_FACTS §6).
const LARGEST_SKEW_MS: i64 = 60_000;

/// Show which servers are in sync, and how that is known
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid status                  the only cluster there is
  umsid status hamburg berlin
  umsid status --all -o json
  umsid status hamburg --raw    with all that umsadmin-cli printed

Exit code 0 only if every server of every cluster asked about is known to be in sync; 3 if not, if it is not known, or
while a run that has restored servers is not over.")]
pub(super) struct Status {
    /// Which clusters [default: the only one there is]
    #[arg(value_name = "CLUSTER", conflicts_with = "all")]
    clusters: Vec<ClusterName>,
    /// All clusters
    #[arg(long)]
    all: bool,
    /// Show what umsadmin-cli printed on every server
    #[arg(long)]
    raw: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    all_in_sync: bool,
    clusters: Vec<ClusterDocument<'a>>,
}

#[derive(Serialize)]
struct ClusterDocument<'a> {
    cluster: &'a ClusterName,
    taken: Timestamp,
    all_in_sync: bool,
    counts: Counts,
    main: Option<&'a MainServer>,
    /// Why there is no Main server to go by.
    trouble: Option<String>,
    remedy: Option<&'a str>,
    servers: Vec<ServerDocument<'a>>,
    unfinished_runs: &'a [Unfinished],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    main: usize,
    in_sync: usize,
    not_in_sync: usize,
    unknown: usize,
}

#[derive(Serialize)]
struct ServerDocument<'a> {
    server: &'a ServerName,
    site: Option<&'a SiteName>,
    address: Option<&'a str>,
    via: Option<&'a ServerName>,
    state: SyncState,
    evidence: &'a str,
    fingerprint: Option<Fingerprint>,
    clock_skew_ms: Option<i64>,
    inspection: Option<&'a Inspection>,
    silence: Option<&'a Silence>,
}

/// One cluster, asked and understood.
struct Seen {
    cluster: Cluster,
    survey: Survey,
    assessment: Assessment,
    unfinished: Vec<Unfinished>,
}

impl Status {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let eyes = Eyes::of(context)?;
        let inventory = &eyes.inventory;
        let wanted = wanted(inventory, self.all, &self.clusters, "nothing is known to be in sync")?;
        let clusters: BTreeMap<ClusterName, Cluster> = wanted
            .iter()
            .map(|name| Ok((name.clone(), inventory.cluster(name)?.clone())))
            .collect::<anyhow::Result<_>>()?;
        say_how_many(context, &clusters);
        let tend = eyes.tending(context.out);
        let (past, mut surveys) =
            tokio::join!(past(context, &clusters), survey::look(&eyes.agents, &clusters, tend));
        let seen =
            |name: &ClusterName| Some(Seen::of(clusters.get(name)?, surveys.remove(name)?, past.of(name)));
        let all: Vec<Seen> = wanted.iter().filter_map(seen).collect();
        if context.out.format() == Format::Json {
            let clusters: Vec<_> = all.iter().map(Seen::document).collect();
            let all_in_sync = clusters.iter().all(|cluster| cluster.all_in_sync);
            context.out.json(&Document { all_in_sync, clusters })?;
        } else {
            let mut dispensable = vec!["CERTIFICATE", "CLOCK", "UMS", "SERVICE"];
            if all.len() == 1 {
                dispensable.push("CLUSTER");
            }
            context.out.table_without(HEADER, all.iter().flat_map(Seen::rows).collect(), &dispensable)?;
            for seen in &all {
                seen.explain(context, self.raw)?;
            }
            if all.len() > 1 {
                context.out.say(overall(&all));
            }
        }
        let in_sync = all.iter().all(|seen| seen.assessment.all_in_sync());
        let halfway = all.iter().flat_map(|seen| &seen.unfinished).any(|run| run.touched);
        Ok(if in_sync && !halfway { Exit::Success } else { Exit::NotInSync })
    }
}

/// Agents that do not answer take a while: somebody who waits at a terminal is told what for.
fn say_how_many(context: &Context, clusters: &BTreeMap<ClusterName, Cluster>) {
    if std::io::stderr().is_terminal() {
        let servers: usize = clusters.values().map(|cluster| cluster.servers.len()).sum();
        context.out.say(format_args!("asking {}…", super::count(servers, "server")));
    }
}

/// What is said of several clusters altogether.
fn overall(all: &[Seen]) -> String {
    let mut sum = Counts::default();
    for counts in all.iter().map(Seen::counts) {
        sum.main += counts.main;
        sum.in_sync += counts.in_sync;
        sum.not_in_sync += counts.not_in_sync;
        sum.unknown += counts.unknown;
    }
    let well = all.iter().filter(|seen| seen.assessment.all_in_sync()).count();
    format!(
        "{}: {well} all in sync, {} not or not known to be; {} in sync, {} not in sync, {} unknown",
        super::count(all.len(), "cluster"),
        all.len() - well,
        super::count(sum.main + sum.in_sync, "server"),
        sum.not_in_sync,
        sum.unknown
    )
}

/// What the journal tells of these clusters; if it cannot be read, that is said, and looked at with `umsid doctor`.
async fn past(context: &Context, clusters: &BTreeMap<ClusterName, Cluster>) -> Past {
    Past::read(context, clusters.keys()).await.unwrap_or_else(|error| {
        context.out.say(format_args!(
            "the journal tells nothing of earlier runs, and whether a run is unfinished is not known: {:#}",
            anyhow::Error::new(error)
        ));
        Past::default()
    })
}

const HEADER: &[&str] = &[
    "CLUSTER",
    "SITE",
    "SERVER",
    "STATE",
    "EVIDENCE",
    "UMS ID",
    "UMS",
    "SERVICE",
    "HEALTH",
    "CLOCK",
    "CERTIFICATE",
];

impl Seen {
    fn of(cluster: &Cluster, survey: Survey, told: Told) -> Self {
        let named = Named {
            server: cluster.main.clone(),
            fingerprint: cluster.main_fingerprint,
            remembered: told.main,
        };
        let assessment = survey::assess(&survey, &named);
        Self { cluster: cluster.clone(), survey, assessment, unfinished: told.unfinished }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for verdict in self.assessment.servers.values() {
            match verdict.state {
                SyncState::Main => counts.main += 1,
                SyncState::InSync => counts.in_sync += 1,
                SyncState::NotInSync => counts.not_in_sync += 1,
                SyncState::Unknown => counts.unknown += 1,
            }
        }
        counts
    }

    fn rows(&self) -> Vec<Vec<Cell>> {
        let row = |(server, verdict): (&ServerName, &survey::Verdict)| {
            let tone = match verdict.state {
                SyncState::Main | SyncState::InSync => Tone::Good,
                SyncState::NotInSync => Tone::Bad,
                SyncState::Unknown => Tone::Doubtful,
            };
            let site = self.survey.servers.get(server).and_then(|answer| answer.site.as_ref());
            let mut cells = vec![
                Cell::plain(&self.survey.cluster),
                Cell::plain(site.map(SiteName::as_str).unwrap_or_default()),
                Cell::plain(server),
                Cell::new(verdict.state, tone),
                Cell::plain(&verdict.evidence),
                Cell::plain(verdict.fingerprint.map(|print| print.short()).unwrap_or_else(|| "-".into())),
            ];
            match self.survey.report(server) {
                Some(report) => cells.extend(facts(report, self.survey.taken)),
                None => cells.extend(["-"; 5].map(Cell::plain)),
            }
            cells
        };
        self.assessment.servers.iter().map(row).collect()
    }

    fn document(&self) -> ClusterDocument<'_> {
        let trouble = self.assessment.main.as_ref().err();
        let server = |(server, verdict)| self.server_document(server, verdict);
        ClusterDocument {
            cluster: &self.survey.cluster,
            taken: self.survey.taken,
            all_in_sync: self.assessment.all_in_sync(),
            counts: self.counts(),
            main: self.assessment.main.as_ref().ok(),
            trouble: trouble.map(ToString::to_string),
            remedy: trouble.map(survey::MainTrouble::remedy),
            servers: self.assessment.servers.iter().map(server).collect(),
            unfinished_runs: &self.unfinished,
        }
    }

    fn server_document<'a>(
        &'a self,
        server: &'a ServerName,
        verdict: &'a survey::Verdict,
    ) -> ServerDocument<'a> {
        let answer = self.survey.servers.get(server);
        let report = self.survey.report(server);
        let entry = self.cluster.servers.get(server);
        ServerDocument {
            server,
            site: answer.and_then(|answer| answer.site.as_ref()),
            address: entry.and_then(Server::straight),
            via: entry.and_then(|entry| entry.via.as_ref()),
            state: verdict.state,
            evidence: &verdict.evidence,
            fingerprint: verdict.fingerprint,
            clock_skew_ms: report.map(|report| report.skew_ms),
            inspection: report.map(|report| &report.inspection),
            silence: answer.and_then(|answer| answer.report.as_ref().err()),
        }
    }

    /// What the table does not say: what is wrong, what to do, and what umsadmin-cli printed.
    fn explain(&self, context: &Context, raw: bool) -> std::io::Result<()> {
        let name = &self.survey.cluster;
        let counts = self.counts();
        context.out.say(format_args!(
            "{name}: {} main, {} in sync, {} not in sync, {} unknown",
            counts.main, counts.in_sync, counts.not_in_sync, counts.unknown
        ));
        for run in &self.unfinished {
            context.out.say(format_args!("{name}: {run}"));
        }
        if let Err(trouble) = &self.assessment.main {
            context.out.say(format_args!("{name}: {trouble}\n  what to do: {}", trouble.remedy()));
        } else if counts.not_in_sync > 0 && self.unfinished.is_empty() {
            context.out.say(format_args!(
                "{name}: `umsid plan {name}` shows what a sync would do, `umsid sync {name}` does it"
            ));
        }
        for (server, verdict) in &self.assessment.servers {
            let Some(answer) = self.survey.servers.get(server) else { continue };
            match &answer.report {
                Err(silence) => {
                    context
                        .out
                        .say(format_args!("{name}/{server}: no answer\n  what to do: {}", silence.remedy()));
                }
                Ok(report) => {
                    if let Some(trouble) =
                        trouble(report.inspection.service.status, report.inspection.health.status)
                    {
                        context.out.say(format_args!("{name}/{server}: {trouble}"));
                    }
                    for problem in &report.inspection.problems {
                        context.out.say(format_args!("{name}/{server}: {problem}"));
                    }
                    if raw || verdict.state == SyncState::Unknown {
                        show_raw(context, &format!("{name}/{server}"), report)?;
                    }
                    if verdict.state == SyncState::Unknown && self.assessment.main.is_ok() {
                        context.out.say(format_args!(
                            "{name}/{server}: unknown\n  what to do: look in the UMS Console (UMS Administration > Global \
                             Configuration > UMS ID); if it is not in sync: umsid sync {name} --only {server}, with --main \
                             SERVER if need be"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Why nobody can work with this UMS Server now.
fn trouble(service: ServiceStatus, health: HealthStatus) -> Option<String> {
    if service == ServiceStatus::Stopped {
        return Some("its UMS Server is stopped".to_owned());
    }
    let health = match health {
        HealthStatus::Err => "err",
        HealthStatus::Unreachable => "unreachable",
        HealthStatus::Ok | HealthStatus::Warn | HealthStatus::Init => return None,
    };
    Some(format!("its UMS Server does not answer (health {health})"))
}

/// UMS version, service, health, clock, certificate.
fn facts(report: &Report, now: Timestamp) -> [Cell; 5] {
    let inspection = &report.inspection;
    let (service, service_tone) = match inspection.service.status {
        ServiceStatus::Running => ("running", Tone::Good),
        ServiceStatus::Stopped => ("stopped", Tone::Bad),
        ServiceStatus::Changing => ("changing", Tone::Doubtful),
        ServiceStatus::Unknown => ("unknown", Tone::Doubtful),
    };
    let (health, health_tone) = match inspection.health.status {
        HealthStatus::Ok => ("ok", Tone::Good),
        HealthStatus::Warn => ("warn", Tone::Doubtful),
        HealthStatus::Init => ("init", Tone::Doubtful),
        HealthStatus::Err => ("err", Tone::Bad),
        HealthStatus::Unreachable => ("unreachable", Tone::Bad),
    };
    let skew_tone = if report.skew_ms.abs() > LARGEST_SKEW_MS { Tone::Bad } else { Tone::Plain };
    let until = inspection.certificate_not_after;
    let certificate_tone = if until <= now { Tone::Bad } else { Tone::Plain };
    [
        Cell::plain(inspection.ums_version.as_deref().unwrap_or("unknown")),
        Cell::new(service, service_tone),
        Cell::new(health, health_tone),
        Cell::new(skew(report.skew_ms), skew_tone),
        Cell::new(day(until), certificate_tone),
    ]
}

/// As `+0.2 s`.
fn skew(ms: i64) -> String {
    let tenths = (ms.unsigned_abs() + 50) / 100;
    let sign = if tenths == 0 {
        ""
    } else if ms < 0 {
        "-"
    } else {
        "+"
    };
    format!("{sign}{}.{} s", tenths / 10, tenths % 10)
}

fn show_raw(context: &Context, who: &str, report: &Report) -> std::io::Result<()> {
    let raw = &report.inspection.ums_ids.raw;
    if raw.is_empty() {
        context.out.say(format_args!("{who}: nothing was printed by umsadmin-cli"));
    }
    for RawOutput { command, status, stdout, stderr, problem } in raw {
        let status = status.map_or("no exit status".to_owned(), |status| format!("exit status {status}"));
        context.out.text(format_args!("\n{who} $ {} ({status})", visible(command)))?;
        for (name, text) in [("", stdout), ("stderr: ", stderr), ("problem: ", problem)] {
            for line in text.lines() {
                context.out.text(format_args!("  {name}{}", visible(line)))?;
            }
        }
    }
    Ok(())
}

/// What another machine printed, without what would steer this terminal.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_skew_is_told_in_tenths_of_a_second() {
        for (ms, told) in [(0, "0.0 s"), (49, "0.0 s"), (-49, "0.0 s"), (250, "+0.3 s"), (-61_000, "-61.0 s")]
        {
            assert_eq!(skew(ms), told);
        }
        assert!(skew(i64::MIN).starts_with('-'));
    }

    #[test]
    fn a_ums_server_nobody_can_work_with_is_spoken_of() {
        let (running, stopped) = (ServiceStatus::Running, ServiceStatus::Stopped);
        for health in [HealthStatus::Ok, HealthStatus::Warn, HealthStatus::Init] {
            assert_eq!(trouble(running, health), None);
        }
        let silent = trouble(running, HealthStatus::Unreachable).unwrap();
        assert_eq!(silent, "its UMS Server does not answer (health unreachable)");
        assert!(trouble(ServiceStatus::Unknown, HealthStatus::Err).unwrap().contains("(health err)"));
        assert_eq!(trouble(stopped, HealthStatus::Unreachable).unwrap(), "its UMS Server is stopped");
    }

    #[test]
    fn what_a_server_printed_does_not_steer_the_terminal() {
        assert_eq!(visible("a\u{1b}[2J\tb"), "a\u{fffd}[2J\tb");
    }
}
