//! `umsid doctor`

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use umsid_common::tls::{Credentials, Tls};
use umsid_proto::PROTOCOL;

use super::{Context, Format, count, day};
use crate::agents::{Agent, AgentError, Agents};
use crate::authority::Authority;
use crate::exit::{self, Exit};
use crate::inventory::Inventory;
use crate::printout::{Cell, Tone};

/// Examine this coordinator and its way to every server
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid doctor
  umsid doctor -o json

Changes nothing. Exit code 0 if nothing failed (warnings allowed), else that of the first failure.")]
pub(super) struct Doctor {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Level {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, Debug, Serialize)]
struct Finding {
    level: Level,
    /// What was examined.
    what: String,
    /// What was found.
    found: String,
    /// What to do; empty if nothing.
    remedy: String,
    #[serde(skip)]
    exit: Exit,
}

fn ok(what: impl Into<String>, found: impl Into<String>) -> Finding {
    let (what, found) = (what.into(), found.into());
    Finding { level: Level::Ok, what, found, remedy: String::new(), exit: Exit::Success }
}

fn warn(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    let (what, found, remedy) = (what.into(), found.into(), remedy.into());
    Finding { level: Level::Warn, what, found, remedy, exit: Exit::Success }
}

fn fail(what: impl Into<String>, error: impl Into<anyhow::Error>) -> Finding {
    let error = error.into();
    Finding {
        level: Level::Fail,
        what: what.into(),
        found: format!("{error:#}"),
        remedy: exit::remedy(&error).unwrap_or_default(),
        exit: exit::of(&error),
    }
}

impl Doctor {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let findings = examine(context).await;
        let worst = findings.iter().find(|finding| finding.level == Level::Fail).map(|finding| finding.exit);
        if context.out.format() == Format::Json {
            context.out.json(&findings)?;
        } else {
            let rows = findings.iter().map(|finding| {
                let (level, tone) = match finding.level {
                    Level::Ok => ("ok", Tone::Good),
                    Level::Warn => ("warn", Tone::Doubtful),
                    Level::Fail => ("FAIL", Tone::Bad),
                };
                let found = if finding.remedy.is_empty() {
                    finding.found.clone()
                } else {
                    format!("{}; what to do: {}", finding.found, finding.remedy)
                };
                vec![Cell::new(level, tone), Cell::plain(&finding.what), Cell::plain(found)]
            });
            context.out.table(&["", "WHAT", "FOUND"], rows.collect())?;
        }
        Ok(worst.unwrap_or(Exit::Success))
    }
}

async fn examine(context: &Context) -> Vec<Finding> {
    let home = &context.home;
    if let Err(error) = home.open() {
        return vec![fail("state directory", error)];
    }
    let mut findings = vec![ok("state directory", format!("{}, closed to others", home.dir.display()))];
    if let Some(shared) = &context.shared {
        findings.push(match context.refresh().await {
            Ok(()) => match context.not_all_moved() {
                Some((left, remedy)) => warn("shared state", left, remedy),
                None => ok("shared state", format!("{} answers", shared.url())),
            },
            Err(error) => fail("shared state", error),
        });
    }
    let inventory = match Inventory::load(&home.inventory_path()) {
        Ok(inventory) => {
            let (clusters, servers) = (inventory.clusters.len(), inventory.servers().count());
            findings.push(if servers == 0 {
                warn("inventory", "no server is enrolled", "`umsid enroll` enrols one")
            } else {
                ok("inventory", format!("{} in {}", count(servers, "server"), count(clusters, "cluster")))
            });
            Some(inventory)
        }
        Err(error) => {
            findings.push(fail("inventory", error));
            None
        }
    };
    let authority = match context.authority() {
        Ok(authority) => {
            let key = if context.shared.is_some() {
                if authority.can_sign() {
                    "its key is in the database, sealed, and opens with ours: certificates are renewed by themselves"
                } else {
                    "its key is in the database and could not be had"
                }
            } else if authority.needs_passphrase() {
                "its key is under a passphrase: certificates are renewed only by commands that ask for it"
            } else {
                "its key is not under a passphrase: certificates are renewed by themselves"
            };
            findings
                .push(ok("certificate authority", format!("{key}; revocation list {}", authority.crl().1)));
            Some(authority)
        }
        Err(error) => {
            findings.push(fail("certificate authority", error));
            None
        }
    };
    let own = own_certificate(context);
    let own_good = own.level != Level::Fail;
    findings.push(own);
    if let (Some(inventory), Some(authority), true) = (inventory, authority, own_good) {
        // Not by `Context::agents`: that would renew what is to be examined.
        match Tls::load(home.tls_files()) {
            Ok(tls) => {
                let agents = Agents::new(tls, inventory.trust_domain.clone()).with_gateways(&inventory);
                findings.extend(servers(&agents, &inventory, &authority).await);
            }
            Err(error) => findings.push(fail("connections", error)),
        }
    }
    findings
}

fn own_certificate(context: &Context) -> Finding {
    let what = "our certificate";
    match Credentials::load(&context.home.tls_files()) {
        Err(error) => fail(what, error),
        Ok(credentials) => {
            let found = format!("{}, good until {}", credentials.identity(), day(credentials.validity().1));
            if credentials.wants_renewal(Timestamp::now()) {
                warn(
                    what,
                    found,
                    "it is renewed by the next command, if the certificate authority's key may be used",
                )
            } else {
                ok(what, found)
            }
        }
    }
}

async fn servers(agents: &Agents, inventory: &Inventory, authority: &Authority) -> Vec<Finding> {
    let mut dialled = tokio::task::JoinSet::new();
    for (cluster, name, server) in inventory.servers() {
        let (agents, cluster, name, server) = (agents.clone(), cluster.clone(), name.clone(), server.clone());
        dialled.spawn(async move {
            let answer = agents.dial(&cluster, &name, &server).await;
            let place = match &server.via {
                None => format!("at {}", server.address),
                Some(gateway) => format!("through {gateway}"),
            };
            (format!("{cluster}/{name} {place}"), answer)
        });
    }
    let mut answers = dialled.join_all().await;
    answers.sort_by(|(one, _), (other, _)| one.cmp(other));
    answers.into_iter().flat_map(|(who, answer)| server_findings(who, answer, authority)).collect()
}

fn server_findings(who: String, answer: Result<Agent, AgentError>, authority: &Authority) -> Vec<Finding> {
    let agent = match answer {
        Ok(agent) => agent,
        Err(error) => return vec![fail(who, error)],
    };
    let hello = agent.hello();
    let mut findings = Vec::new();
    let skew = hello.skew_ms;
    if skew.abs() > 60_000 {
        findings.push(warn(
            who.clone(),
            format!("its clock and ours differ by {} s", skew / 1000),
            "set the clocks by a time server: UMS servers may differ by a minute at most",
        ));
    }
    if hello.wants_renewal(Timestamp::now()) {
        findings.push(warn(
            who.clone(),
            format!("its certificate ends on {}", day(hello.certificate.1)),
            if authority.can_sign() { "`umsid status` renews it" } else { "enrol it again: umsid enroll" },
        ));
    }
    if hello.crl_number < authority.crl().1 {
        findings.push(warn(
            who.clone(),
            format!("it has revocation list {}", hello.crl_number),
            "`umsid status` gives it the newest",
        ));
    }
    if findings.is_empty() {
        findings.push(ok(
            who,
            format!(
                "agent {}, protocol {} (newest here {}), answered in {} ms, certificate until {}",
                hello.agent_version,
                hello.protocol,
                PROTOCOL.0,
                hello.round_trip.as_millis(),
                day(hello.certificate.1)
            ),
        ));
    }
    findings
}
