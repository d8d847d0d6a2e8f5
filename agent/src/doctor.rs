//! What the agent finds on this host, how, and what it does not find. Changes nothing.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use umsid_common::tls::{self, Files, Patience, Tls, resolve_and_connect};
use umsid_proto::failure::Failure;
use umsid_proto::model::{Evidence, Label, RawOutput};

use crate::config::{Behind, Config};
use crate::journals;
use crate::owner;
use crate::state::damage;
use crate::tunnel;
use crate::ums::identity;
use crate::ums::local::LocalUms;
use crate::ums::{Findings, Ums as _};

/// How long a server behind this one may take to accept a connection.
const ACCEPT: Duration = Duration::from_secs(5);

/// Shows everything; `true` if nothing was missing that the agent needs for its work. `helper` is where an agent without
/// rights calls its helper.
///
/// # Errors
/// Only where nothing can be written to `out`.
pub async fn show(config: &Config, helper: &Path, out: &mut (impl Write + Send)) -> io::Result<bool> {
    let user = owner::own_user(&config.state_dir);
    // Root leaves nothing of his own in the state of an agent that is somebody else.
    let aside = user.map(|_| tempfile::tempdir()).transpose()?;
    let state_dir = aside.as_ref().map_or(config.state_dir.as_path(), tempfile::TempDir::path);
    let ums = match LocalUms::without_sweeping(&Config { state_dir: state_dir.to_owned(), ..config.clone() })
    {
        Ok(ums) => ums,
        Err(error) => {
            writeln!(out, "{}", chain(&error))?;
            return Ok(false);
        }
    };
    let installation = ums.installation();
    let directory = match &installation.install_dir.value {
        Some(dir) => format!("{} ({})", dir.display(), installation.install_dir.how),
        None => format!("not found ({})", installation.install_dir.how),
    };
    let findings = ums.look(false).await;
    let mut lines = Lines { out };
    let answers = show_agent(&mut lines, config, user, helper).await?;
    let leads = show_gateway(&mut lines, config).await? & show_tunnels(&mut lines, config).await?;
    lines.title("installation")?;
    lines.say("umsadmin-cli", &installation.umsadmin_cli.to_string())?;
    lines.say("install directory", &directory)?;
    lines.say("version in files", &installation.version.to_string())?;
    lines.say("version", findings.ums_version.as_deref().unwrap_or("not found"))?;
    lines.say("Distributed UMS", &installation.distributed.to_string())?;
    lines.say("update mode", yes_no(findings.update_mode))?;

    lines.title("service")?;
    lines.say("control", &findings.service.control)?;
    lines.say("status", &format!("{:?}", findings.service.status).to_lowercase())?;
    let process =
        findings.service.process.map(|process| format!("{}, since {}", process.pid, process.started));
    lines.say("process", process.as_deref().unwrap_or("not found"))?;
    lines.say("detail", &findings.service.detail)?;

    lines.title("health")?;
    lines.say("asked", &ums.probe().address().to_string())?;
    lines.say(
        "status",
        &format!("{:?} ({})", findings.health.status, findings.health.source).to_lowercase(),
    )?;
    lines.say("calls itself", &findings.health.ums_host)?;
    lines.say("detail", &findings.health.detail)?;

    show_ids(&mut lines, &findings)?;

    lines.title("licence")?;
    lines.block(&findings.license)?;

    let left_overs = ums.workspace().left_overs();
    lines.title("left-overs")?;
    for path in &left_overs {
        lines.say("short-lived file", &path.display().to_string())?;
    }
    if left_overs.is_empty() {
        lines.say("short-lived files", "none")?;
    }
    let damaged = damage::damaged(&config.state_dir);
    lines.title("problems")?;
    for error in &damaged {
        lines.say("state", &format!("the agent does not start: {}", chain(error)))?;
        lines.say("what to do", &error.remedy().unwrap_or_default())?;
    }
    let copies = journals::damage(&config.state_dir.join("journals"));
    for (what, remedy) in &copies {
        lines.say("journal copy", what)?;
        lines.say("what to do", remedy)?;
    }
    for problem in &findings.problems {
        lines.block(problem)?;
    }
    let missing = missing(&findings, installation.umsadmin_cli.value.is_some());
    for what in &missing {
        lines.say("needed", what)?;
    }
    if missing.is_empty() && damaged.is_empty() && copies.is_empty() && findings.problems.is_empty() {
        lines.say("problems", "none")?;
    }
    Ok(answers && leads && missing.is_empty() && damaged.is_empty() && copies.is_empty())
}

/// Whether an agent that is a user of its own reaches its helper; `true` where it needs none.
async fn show_agent<W: Write>(
    lines: &mut Lines<'_, W>,
    config: &Config,
    user: Option<u32>,
    helper: &Path,
) -> io::Result<bool> {
    let Some(user) = user else { return Ok(true) };
    lines.title("agent")?;
    lines.say("user", &format!("{user}, who has no rights and calls umsid-helper"))?;
    let answer = match reach(helper, config).await {
        Ok(()) => return lines.say("helper", &format!("answers at {}", helper.display())).map(|()| true),
        Err(failure) => failure,
    };
    lines.say("helper", &answer.to_string())?;
    lines.say("what to do", &answer.remedy)?;
    Ok(false)
}

/// Whether the servers behind this one can be reached from here; `true` where it is no gateway.
async fn show_gateway<W: Write>(lines: &mut Lines<'_, W>, config: &Config) -> io::Result<bool> {
    if config.gateway.servers.is_empty() {
        return Ok(true);
    }
    lines.title("gateway")?;
    let with_address = config.gateway.servers.iter().filter_map(|(server, behind)| match behind {
        Behind::Address(address) => Some((server, address)),
        Behind::Tunnel => None,
    });
    let tried = with_address.map(async |(server, address)| {
        (server, address, resolve_and_connect(address.as_str(), Instant::now() + ACCEPT).await)
    });
    let mut all = true;
    for (server, address, connected) in join_all(tried).await {
        match connected {
            Ok(_) => lines.say(server.as_str(), &format!("{address}: something listens there"))?,
            Err(error) => {
                all = false;
                lines.say(server.as_str(), &error.to_string())?;
                lines.say(
                    "what to do",
                    &format!("check that {server} is up, and `servers` of [gateway] in agent.toml"),
                )?;
            }
        }
    }
    for (server, _) in config.gateway.servers.iter().filter(|(_, behind)| **behind == Behind::Tunnel) {
        lines.say(server.as_str(), "calls by itself: the agent's log says when its tunnel is open")?;
    }
    Ok(all)
}

/// Whether the gateways this agent keeps tunnels to can be called from here, and are who they should be.
async fn show_tunnels<W: Write>(lines: &mut Lines<'_, W>, config: &Config) -> io::Result<bool> {
    if config.tunnel.gateways.is_empty() {
        return Ok(true);
    }
    lines.title("tunnel")?;
    let tls = match Tls::load(Files::in_dir(&config.state_dir)) {
        Ok(tls) => tls,
        Err(error) => return lines.say("certificates", &chain(&error)).map(|()| false),
    };
    let me = tls.current().identity().clone();
    let patience = Patience { connect: ACCEPT, ..Patience::default() };
    let called = config.tunnel.gateways.iter().map(async |(gateway, address)| {
        let expected = tunnel::gateway_of(&me, gateway);
        (gateway, address, tls::connect(address.as_str(), &tls, &expected, &patience).await)
    });
    let mut all = true;
    for (gateway, address, connected) in join_all(called).await {
        match connected {
            Ok(_) => lines
                .say(gateway.as_str(), &format!("{address}: it is {gateway}, and takes our certificate"))?,
            Err(error) => {
                all = false;
                lines.say(gateway.as_str(), &chain(&error))?;
                lines.say(
                    "what to do",
                    &format!("check that {gateway} is up, and `gateways` of [tunnel] in agent.toml"),
                )?;
            }
        }
    }
    Ok(all)
}

#[cfg(unix)]
async fn reach(helper: &Path, config: &Config) -> Result<(), Failure> {
    crate::helper::RemoteUms::connect(helper, config).await.map(drop)
}

#[cfg(not(unix))]
async fn reach(_: &Path, _: &Config) -> Result<(), Failure> {
    Ok(())
}

fn show_ids<W: Write>(lines: &mut Lines<'_, W>, findings: &Findings) -> io::Result<()> {
    let ids = &findings.ums_ids;
    let known = |print: Option<umsid_common::digest::Fingerprint>| {
        print.map_or("unknown".to_owned(), |print| print.to_string())
    };
    lines.title("UMS ID")?;
    lines.say("Local", &known(ids.local))?;
    lines.say("Main", &known(ids.main))?;
    lines.say("because", &ids.reason)?;
    for evidence in &ids.evidence {
        lines.say("evidence", &in_words(evidence))?;
    }
    for RawOutput { command, status, stdout, stderr, problem } in &ids.raw {
        let status = status.map_or("no exit status".to_owned(), |status| format!("exit status {status}"));
        lines.say("command", &format!("{command} ({status})"))?;
        for text in [stdout, stderr, problem] {
            lines.block(text)?;
        }
    }
    Ok(())
}

fn in_words(evidence: &Evidence) -> String {
    let label = match evidence.label {
        Label::Main => "Main",
        Label::Local => "Local",
        Label::Unlabelled => "not labelled",
    };
    let subject =
        if evidence.subject.is_empty() { String::new() } else { format!(", of {}", evidence.subject) };
    format!("{label}{subject}: {} in `{}`", evidence.fingerprint.short(), evidence.line)
}

/// What the agent cannot do its work without.
fn missing(findings: &Findings, has_program: bool) -> Vec<&'static str> {
    use umsid_proto::model::{HealthStatus, ServiceStatus};
    let mut missing = Vec::new();
    let mut needs = |there: bool, what| {
        if !there {
            missing.push(what);
        }
    };
    needs(has_program, "umsadmin-cli: set ums.umsadmin_cli");
    needs(
        identity::is_labelled(&findings.ums_ids.evidence),
        "which UMS ID is Local and which is Main: until then `--main` and `--only` must say it",
    );
    needs(
        findings.service.status != ServiceStatus::Unknown,
        "what controls the UMS Server: set service.control",
    );
    let blind = findings.service.status == ServiceStatus::Running && findings.service.process.is_none();
    needs(!blind, "which process the UMS Server is: set service.pid_file or service.process");
    needs(
        findings.health.status != HealthStatus::Unreachable,
        "an answer about health: set ums.health_url, or start the UMS Server",
    );
    missing
}

fn yes_no(known: Option<bool>) -> &'static str {
    match known {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not readable",
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

struct Lines<'a, W: Write> {
    out: &'a mut W,
}

impl<W: Write> Lines<'_, W> {
    fn title(&mut self, title: &str) -> io::Result<()> {
        writeln!(self.out, "{title}")
    }

    fn say(&mut self, what: &str, value: &str) -> io::Result<()> {
        if value.is_empty() { Ok(()) } else { writeln!(self.out, "  {what:<18} {value}") }
    }

    fn block(&mut self, text: &str) -> io::Result<()> {
        text.lines().try_for_each(|line| writeln!(self.out, "    {line}"))
    }
}
