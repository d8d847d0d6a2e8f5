//! `umsid enroll`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use umsid_common::address::with_port;
use umsid_common::name::{ClusterName, ServerName, SiteName};
use umsid_common::pairing::{PairingCode, Secret};
use umsid_common::tls::Patience;
use umsid_proto::DEFAULT_PORT;

use super::{Context, Format, ask, count};
use crate::agents::Agents;
use crate::authority::Authority;
use crate::enrolment::{Candidate, Enrolled, EnrolmentError, JoinFiles, Registrar};
use crate::exit::{Exit, Refusal};
use crate::home::Home;
use crate::inventory::Inventory;

mod from_ansible;
mod rows;

use from_ansible::FromAnsible;
use rows::{already, behind_nobody, print, row_of};

/// How long to wait before asking a server again whether its agent waits to be enrolled.
const AGAIN: Duration = Duration::from_secs(1);

/// Enrol servers: give each agent its certificate
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid enroll ums1.example.com --cluster hamburg --site north
      asks for the code that `umsid-agent enroll` printed on ums1
  umsid enroll 10.0.0.5:8643 --name ums2 --cluster hamburg --code - < code.txt
  umsid enroll --join-files ./join --cluster hamburg ums1 ums2 ums3 --wait 30m
      makes ./join/ums1.join …; put each on its server, run `umsid-agent enroll --join FILE` there;
      the same command again goes on where it was
  ansible-inventory -i hosts.ini --list | umsid enroll --from-ansible - --group ums_hamburg \\
      --cluster hamburg --join-files ./join --dry-run
      shows what would be made for the hosts of this group of an Ansible inventory; without --dry-run makes it
  umsid enroll ums4 --via ums1 --cluster hamburg
      a server that only ums1 reaches: where it is from there, `[gateway]` in the agent.toml of ums1 says

A code given with --code can be seen by others on this machine while the command runs; `--code -` and the prompt cannot.
Of an Ansible host are read: its name, `ansible_host`, and the variables umsid_name, umsid_address, umsid_site, umsid_via, and
umsid_agent_name and umsid_agent_port of the role umsid_agent. The port of ssh, `ansible_port`, is not.")]
pub(super) struct Enroll {
    /// Servers by host name or address, the port is 8643 unless given; with --via by the names they are to have
    #[arg(required_unless_present = "from_ansible", value_name = "HOST[:PORT]")]
    hosts: Vec<String>,
    #[command(flatten)]
    ansible: FromAnsible,
    /// The UMS installation they belong to
    #[arg(long)]
    cluster: ClusterName,
    /// Where they stand
    #[arg(long)]
    site: Option<SiteName>,
    /// Name of the server here [default: its host name]
    #[arg(long)]
    name: Option<ServerName>,
    /// The server of the cluster whose agent leads to them, as their gateway
    #[arg(long, value_name = "SERVER", conflicts_with = "name")]
    via: Option<ServerName>,
    /// The code `umsid-agent enroll` printed; `-`: from standard input [default: ask]
    #[arg(long, conflicts_with = "join_files")]
    code: Option<String>,
    /// Make a join file for each server in this directory, and enrol those that wait
    #[arg(long, value_name = "DIR")]
    join_files: Option<PathBuf>,
    /// How long to wait for servers that do not wait to be enrolled yet, as `30m`
    #[arg(long, requires = "join_files", value_name = "TIME")]
    wait: Option<SignedDuration>,
    #[command(flatten)]
    passphrase: ask::Passphrase,
}

impl Enroll {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let inventory = context.inventory()?;
        if let Some(gateway) = &self.via {
            inventory.server(&self.cluster, gateway)?;
        }
        let candidates = match self.ansible.read(context, &self, &inventory)? {
            Some(found) if self.ansible.dry_run => return from_ansible::show(context, &found),
            Some(found) => {
                context.out.say(from_ansible::table(context, &found));
                found.into_iter().map(|found| found.candidate).collect()
            }
            None => self.hosts.iter().map(|host| self.candidate(host)).collect::<anyhow::Result<Vec<_>>>()?,
        };
        twice(&candidates)?;
        let authority = context.authority()?;
        self.passphrase.unlock(&authority)?;
        let agents = context.agents(&inventory, &authority)?;
        match &self.join_files {
            Some(dir) => {
                self.by_join_files(context, &inventory, candidates, authority, agents, dir.clone()).await
            }
            None => self.by_code(context, candidates, &authority, &agents).await,
        }
    }

    fn candidate(&self, host: &str) -> anyhow::Result<Candidate> {
        let usage = |why: String| Refusal::new(Exit::Usage, why);
        if let Some(gateway) = &self.via {
            return self.behind(host, gateway);
        }
        let address = with_port(host, DEFAULT_PORT)
            .map_err(|why| usage(why).remedy("name servers as HOST or HOST:PORT"))?;
        let name = match &self.name {
            Some(_) if self.hosts.len() > 1 => {
                return Err(usage("--name goes with one server only".into())
                    .remedy("enrol servers with names of their own one at a time")
                    .into());
            }
            Some(name) => name.clone(),
            None => {
                let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
                host.parse().map_err(|error| {
                    usage(format!("`{host}` does not do as a name"))
                        .because(anyhow::Error::new(error))
                        .remedy("give the server a name with --name")
                })?
            }
        };
        let (cluster, site) = (self.cluster.clone(), self.site.clone());
        Ok(Candidate { cluster, name, site, address, via: None })
    }

    /// A server behind a gateway, which knows it by its name.
    fn behind(&self, name: &str, gateway: &ServerName) -> anyhow::Result<Candidate> {
        let name: ServerName = name.parse().map_err(|error| {
            Refusal::new(Exit::Usage, format!("`{name}` does not do as a name"))
                .because(anyhow::Error::new(error))
                .remedy(format!(
                    "with --via a server is called by its name; its address stands in the agent.toml of {gateway}"
                ))
        })?;
        if name == *gateway {
            return Err(Refusal::new(Exit::Usage, format!("{name} cannot be its own gateway"))
                .remedy("enrol the gateway itself without --via")
                .into());
        }
        let (cluster, site) = (self.cluster.clone(), self.site.clone());
        Ok(Candidate { cluster, name, site, address: String::new(), via: Some(gateway.clone()) })
    }

    async fn by_code(
        &self,
        context: &Context,
        candidates: Vec<Candidate>,
        authority: &Authority,
        agents: &Agents,
    ) -> anyhow::Result<Exit> {
        let Ok([candidate]) = <[Candidate; 1]>::try_from(candidates) else {
            return Err(Refusal::new(Exit::Usage, "with a code, one server is enrolled at a time")
                .remedy("for several at once use --join-files DIR")
                .into());
        };
        let code = self.code()?;
        let registrar = Registrar { home: &context.home, authority, agents, patience: Patience::default() };
        let enrolled = registrar.enrol(&candidate, &code.secret, Some(code.certificate)).await;
        let enrolled = enrolled.map_err(|error| refusal(&candidate, error))?;
        let row = row_of(&candidate, &Ok(enrolled));
        if context.out.format() == Format::Json {
            context.out.json(&row)?;
        } else {
            context.out.text(format_args!("{}/{} {}: {}", row.cluster, row.server, row.state, row.detail))?;
        }
        context.out.say(format_args!(
            "next: the other servers of {0} in the same way, then `umsid status {0}`",
            candidate.cluster
        ));
        Ok(Exit::Success)
    }

    fn code(&self) -> anyhow::Result<PairingCode> {
        use age::secrecy::ExposeSecret as _;
        let wrong = |error| {
            Refusal::new(Exit::WrongPassword, "the code cannot be used")
                .because(anyhow::Error::new(error))
                .remedy("copy it once more from what `umsid-agent enroll` prints")
        };
        match self.code.as_deref() {
            Some(code) if code != "-" => Ok(code.parse().map_err(wrong)?),
            None if std::io::IsTerminal::is_terminal(&std::io::stdin()) => {
                let typed = ask::hidden("code that `umsid-agent enroll` printed", "--code")?;
                Ok(typed.expose_secret().parse().map_err(wrong)?)
            }
            Some(_) | None => {
                let given = ask::stdin()?;
                if given.is_empty() {
                    return Err(Refusal::new(Exit::Usage, "no code was given: standard input is empty")
                        .remedy("run it on a terminal, which asks for the code, or give the code with --code CODE")
                        .into());
                }
                Ok(given.parse().map_err(wrong)?)
            }
        }
    }

    async fn by_join_files(
        &self,
        context: &Context,
        inventory: &Inventory,
        candidates: Vec<Candidate>,
        authority: Authority,
        agents: Agents,
        dir: PathBuf,
    ) -> anyhow::Result<Exit> {
        let files = JoinFiles::open(&dir).context("the directory of the join files cannot be used")?;
        let mut tries = tokio::task::JoinSet::new();
        let (authority, home) = (Arc::new(authority), Arc::new(context.home.clone()));
        let wait = self.wait.map(|wait| wait.unsigned_abs()).unwrap_or_default();
        let until = Instant::now() + wait;
        let (mut rows, mut worst) = (Vec::new(), Exit::Success);
        for candidate in candidates {
            if inventory.server(&candidate.cluster, &candidate.name).is_ok() {
                rows.push(already(&candidate));
                continue;
            }
            let (secret, _) = files.prepare(&inventory.trust_domain, &candidate, Timestamp::now())?;
            if let Some(gateway) = not_enrolled_gateway(inventory, &candidate) {
                worst = Exit::Unreachable;
                rows.push(behind_nobody(&candidate, gateway));
                continue;
            }
            let waiter = Waiter {
                home: home.clone(),
                authority: authority.clone(),
                agents: agents.clone(),
                files: files.clone(),
            };
            tries.spawn(async move {
                let result = waiter.enrol(&candidate, &secret, until).await;
                (candidate, result)
            });
        }
        let open = tries.len() + rows.iter().filter(|row| row.state == "waiting").count();
        if open > 0 {
            let limit =
                if wait.is_zero() { String::new() } else { format!("; waiting until {}", clock(wait)) };
            context.out.say(format_args!(
                "{} in {}: put each on its server and run `umsid-agent enroll --join FILE` there{limit}",
                count(open, "join file"),
                dir.display(),
            ));
        }
        while let Some(joined) = tries.join_next().await {
            let (candidate, result) = joined.context("enrolling a server broke off")?;
            let row = match &result {
                Ok(enrolled) => row_of(&candidate, &Ok(enrolled.clone())),
                Err(_) => row_of(&candidate, &result),
            };
            context.out.say(format_args!("{}/{}: {} {}", row.cluster, row.server, row.state, row.detail));
            worst = worst.max(match result {
                Ok(_) => Exit::Success,
                Err(error) if error.is_not_yet() => Exit::Unreachable,
                Err(error) => crate::exit::of(&refusal(&candidate, error)),
            });
            rows.push(row);
        }
        rows.sort_by(|a, b| a.server.cmp(&b.server));
        print(context, &rows)?;
        if worst != Exit::Success {
            context.out.say("run the same command again to go on with those that are not enrolled");
        }
        Ok(worst)
    }
}

/// Enrols one server as soon as its agent waits for it.
struct Waiter {
    home: Arc<Home>,
    authority: Arc<Authority>,
    agents: Agents,
    files: JoinFiles,
}

impl Waiter {
    async fn enrol(
        &self,
        candidate: &Candidate,
        secret: &Secret,
        until: Instant,
    ) -> Result<Enrolled, EnrolmentError> {
        let registrar = Registrar {
            home: &self.home,
            authority: &self.authority,
            agents: &self.agents,
            patience: Patience::default(),
        };
        loop {
            match registrar.enrol(candidate, secret, None).await {
                Err(error) if error.is_not_yet() && Instant::now() + AGAIN < until => {
                    tokio::time::sleep(AGAIN).await;
                }
                Ok(enrolled) => {
                    // It is enrolled all the same, and will be found so the next time.
                    if let Err(error) = self.files.used(candidate, Timestamp::now()) {
                        tracing::warn!(server = %candidate.name, "its join file could not be marked as used: {error}");
                    }
                    return Ok(enrolled);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

fn twice(candidates: &[Candidate]) -> anyhow::Result<()> {
    for (at, one) in candidates.iter().enumerate() {
        let same = |other: &&Candidate| {
            other.name == one.name || (one.via.is_none() && other.address == one.address)
        };
        if let Some(other) = candidates[..at].iter().find(same) {
            let what = format!("{} and {} are one server, or have one name", other.place(), one.place());
            return Err(Refusal::new(Exit::Usage, what).remedy("name each server once").into());
        }
    }
    Ok(())
}

fn refusal(candidate: &Candidate, error: EnrolmentError) -> anyhow::Error {
    let remedy = error.remedy();
    let exit = match &error {
        EnrolmentError::WrongPin { .. } | EnrolmentError::NotProven { .. } => Some(Exit::WrongPassword),
        EnrolmentError::NotWaiting { .. } | EnrolmentError::Lost { .. } => Some(Exit::Unreachable),
        _ => None,
    };
    let what = format!("{}/{} was not enrolled; nothing was changed", candidate.cluster, candidate.name);
    let below = anyhow::Error::new(error);
    let exit = exit.unwrap_or_else(|| crate::exit::of(&below));
    let remedy = if remedy.is_empty() { crate::exit::remedy(&below).unwrap_or_default() } else { remedy };
    Refusal::new(exit, what).remedy(remedy).because(below).into()
}

/// The gateway that has to be enrolled before this server can be.
fn not_enrolled_gateway<'a>(inventory: &Inventory, candidate: &'a Candidate) -> Option<&'a ServerName> {
    candidate.via.as_ref().filter(|gateway| inventory.server(&candidate.cluster, gateway).is_err())
}

/// The time of day in so long.
fn clock(wait: Duration) -> String {
    let until = jiff::Zoned::now().saturating_add(wait);
    until.strftime("%H:%M:%S").to_string()
}
