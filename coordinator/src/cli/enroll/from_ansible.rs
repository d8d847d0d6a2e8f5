//! `umsid enroll --from-ansible`: all is checked before anything is written.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use umsid_common::name::{ClusterName, ServerName, SiteName};

use super::Enroll;
use crate::ansible::{AnsibleError, Found, Listing, SiteGroup, Wanted};
use crate::cli::{Context, Format, count};
use crate::enrolment::{Candidate, JoinFiles, address_is_free};
use crate::exit::{Exit, Refusal};
use crate::inventory::{Inventory, Server};
use crate::printout::{Cell, Tone};

/// Largest listing that is read, in bytes: that of ten thousand hosts with a hundred variables each has some thirty megabytes.
const LARGEST: u64 = 128 << 20;

#[derive(Debug, Args)]
pub(super) struct FromAnsible {
    /// Take the servers from this file: what `ansible-inventory --list` printed; `-`: from standard input
    #[arg(long, value_name = "FILE", requires_all = ["groups", "join_files"], conflicts_with_all = ["hosts", "name", "via"])]
    from_ansible: Option<PathBuf>,
    /// Of the Ansible inventory, the hosts of these groups
    #[arg(long = "group", value_name = "GROUP", value_delimiter = ',', requires = "from_ansible")]
    groups: Vec<String>,
    /// Groups of the Ansible inventory whose hosts stand at a site: that of the group's name, or another
    #[arg(long, value_name = "GROUP[=SITE]", value_delimiter = ',', requires = "from_ansible")]
    site_from_groups: Vec<SiteGroup>,
    /// Only show what would be made
    #[arg(long, visible_alias = "check", requires = "from_ansible")]
    pub(super) dry_run: bool,
}

/// A server that is to be enrolled, with what is there of it already.
#[derive(Serialize)]
pub(super) struct Intended {
    cluster: ClusterName,
    server: ServerName,
    /// Empty with `via`.
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<ServerName>,
    site: Option<SiteName>,
    /// Its name in the Ansible inventory.
    host: String,
    /// "to be made", "there", "enrolled"
    join_file: &'static str,
    detail: String,
    #[serde(skip)]
    pub(super) candidate: Candidate,
}

impl FromAnsible {
    /// The servers that are meant; `None`: none are to be taken from Ansible.
    ///
    /// # Errors
    /// All that is wrong with them. Nothing was written then.
    pub(super) fn read(
        &self,
        context: &Context,
        enroll: &Enroll,
        inventory: &Inventory,
    ) -> anyhow::Result<Option<Vec<Intended>>> {
        let (Some(file), Some(dir)) = (&self.from_ansible, &enroll.join_files) else { return Ok(None) };
        let wanted = Wanted {
            groups: &self.groups,
            cluster: &enroll.cluster,
            sites: &self.site_from_groups,
            site: enroll.site.as_ref(),
        };
        let found = Listing::parse(&text(file)?).and_then(|listing| listing.servers(&wanted));
        let found = found.map_err(|error| refused(context, file, error))?;
        let files = if dir.exists() { Some(JoinFiles::open(dir)?) } else { None };
        let all: Vec<&Candidate> = found.iter().map(|found| &found.candidate).collect();
        for candidate in &all {
            gateway_is_known(inventory, candidate, &all)?;
            address_is_free(inventory, candidate).map_err(|error| {
                let remedy = error.remedy();
                let what = format!("{} cannot be enrolled; nothing was changed", candidate.name);
                Refusal::new(Exit::Failed, what).remedy(remedy).because(anyhow::Error::new(error))
            })?;
        }
        found
            .into_iter()
            .map(|found| intended(inventory, files.as_ref(), found))
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

fn text(file: &Path) -> anyhow::Result<String> {
    let read = || {
        let mut text = String::new();
        let input: Box<dyn std::io::Read> = if file == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            Box::new(std::fs::File::open(file)?)
        };
        input.take(LARGEST).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    Ok(read().map_err(|error| {
        Refusal::new(Exit::Usage, format!("cannot read {}", place(file)))
            .remedy("name the file that holds what `ansible-inventory --list` printed")
            .because(error)
    })?)
}

fn place(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

fn refused(context: &Context, file: &Path, error: AnsibleError) -> anyhow::Error {
    if let AnsibleError::Hosts(unfit) = &error {
        for unfit in unfit {
            context.out.say(format_args!("- {}: {}\n  what to do: {}", unfit.host, unfit.why, unfit.remedy));
        }
    }
    let remedy = error.remedy();
    let what = format!("no server can be taken from {}; nothing was changed", place(file));
    Refusal::new(Exit::Usage, what).remedy(remedy).because(error).into()
}

/// A gateway is enrolled already, or with the others.
fn gateway_is_known(inventory: &Inventory, candidate: &Candidate, all: &[&Candidate]) -> anyhow::Result<()> {
    let Some(gateway) = &candidate.via else { return Ok(()) };
    let among = all.iter().find(|other| other.name == *gateway);
    let behind = match (among, inventory.server(&candidate.cluster, gateway)) {
        (Some(other), _) => other.via.as_ref(),
        (None, Ok(server)) => server.via.as_ref(),
        (None, Err(error)) => {
            let what =
                format!("{} is behind {gateway}, which is not among them and not enrolled", candidate.name);
            return Err(Refusal::new(Exit::Usage, what)
                .remedy("umsid_via names a server as it is called here: change it, or take that host in too with --group")
                .because(error)
                .into());
        }
    };
    let Some(behind) = behind else { return Ok(()) };
    let what = format!("{} is behind {gateway}, which is behind {behind} itself", candidate.name);
    Err(Refusal::new(Exit::Usage, what)
        .remedy("a way leads through one gateway at most: change umsid_via")
        .into())
}

fn intended(inventory: &Inventory, files: Option<&JoinFiles>, found: Found) -> anyhow::Result<Intended> {
    let Found { host, candidate } = found;
    let (join_file, detail) = match inventory.server(&candidate.cluster, &candidate.name) {
        Ok(server) => ("enrolled", as_enrolled(server, &candidate)),
        Err(_) => {
            let there = match files {
                Some(files) => files.is_there(&inventory.trust_domain, &candidate, Timestamp::now())?,
                None => false,
            };
            if there {
                ("there", "from an earlier time, and still good".to_owned())
            } else {
                ("to be made", "-".to_owned())
            }
        }
    };
    Ok(Intended {
        cluster: candidate.cluster.clone(),
        server: candidate.name.clone(),
        address: candidate.address.clone(),
        via: candidate.via.clone(),
        site: candidate.site.clone(),
        host,
        join_file,
        detail,
        candidate,
    })
}

/// What Ansible says otherwise of a server that is enrolled: it stays as it is.
fn as_enrolled(server: &Server, candidate: &Candidate) -> String {
    let mut otherwise = Vec::new();
    if (&server.address, &server.via) != (&candidate.address, &candidate.via) {
        otherwise.push(format!("it is at {} here", server.place()));
    }
    if candidate.site.is_some() && server.site != candidate.site {
        let site = server.site.as_ref().map_or("no site", SiteName::as_str);
        otherwise.push(format!("it stands at {site} here"));
    }
    if otherwise.is_empty() {
        return "nothing to do".to_owned();
    }
    format!(
        "{}: `umsid servers set {}/{}` changes it",
        otherwise.join(", "),
        candidate.cluster,
        candidate.name
    )
}

/// For people.
pub(super) fn table(context: &Context, intended: &[Intended]) -> String {
    let cells = intended.iter().map(|one| {
        let tone = match one.join_file {
            "enrolled" if one.detail != "nothing to do" => Tone::Doubtful,
            "enrolled" => Tone::Good,
            _ => Tone::Plain,
        };
        let address = one.via.as_ref().map_or_else(|| one.address.clone(), |via| format!("through {via}"));
        vec![
            Cell::plain(format_args!("{}/{}", one.cluster, one.server)),
            Cell::plain(address),
            Cell::plain(one.site.as_ref().map_or("-", SiteName::as_str)),
            Cell::plain(&one.host),
            Cell::new(one.join_file, tone),
            Cell::plain(&one.detail),
        ]
    });
    let header = ["SERVER", "ADDRESS", "SITE", "ANSIBLE HOST", "JOIN FILE", "DETAIL"];
    context.out.rendered(&header, cells.collect())
}

/// What would be made, on standard output.
pub(super) fn show(context: &Context, intended: &[Intended]) -> anyhow::Result<Exit> {
    if context.out.format() == Format::Json {
        context.out.json(&intended)?;
    } else {
        context.out.text(table(context, intended))?;
    }
    let new = intended.iter().filter(|one| one.join_file == "to be made").count();
    context.out.say(format_args!(
        "{new} of {} would be made; nothing was changed",
        count(intended.len(), "join file")
    ));
    Ok(Exit::Success)
}
