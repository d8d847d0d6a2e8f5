//! Servers out of an Ansible inventory: what `ansible-inventory --list` prints, which knows INI, YAML and dynamic inventories.
//!
//! Of a host are read its name, `ansible_host`, and these variables:
//!
//! | variable | says |
//! |---|---|
//! | `umsid_name` or `umsid_agent_name` | the server's name here, in place of the host's in lower case |
//! | `umsid_address` | where its agent listens, `HOST` or `HOST:PORT`, in place of `ansible_host` |
//! | `umsid_agent_port` | the port of its agent, where `umsid_address` says none |
//! | `umsid_site` | where it stands |
//! | `umsid_via` | the server whose agent leads to it, by its name here; it has no address then |
//!
//! `umsid_agent_name` and `umsid_agent_port` are variables of the role `umsid_agent`. `ansible_port` is the port of ssh.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;
use umsid_common::address::with_port;
use umsid_common::name::{ClusterName, InvalidName, ServerName, SiteName};
use umsid_proto::DEFAULT_PORT;

use crate::enrolment::Candidate;

/// The variables that are read.
const NAMES: [&str; 2] = ["umsid_name", "umsid_agent_name"];
const ADDRESS: &str = "umsid_address";
const HOSTS: [&str; 2] = ["ansible_host", "ansible_ssh_host"];
const PORT: &str = "umsid_agent_port";
const SITE: &str = "umsid_site";
const VIA: &str = "umsid_via";

type Variables = BTreeMap<String, Value>;

/// An Ansible inventory.
#[derive(Clone, Debug, Deserialize)]
pub struct Listing {
    #[serde(rename = "_meta")]
    meta: Meta,
    #[serde(flatten)]
    groups: BTreeMap<String, Group>,
}

#[derive(Clone, Debug, Deserialize)]
struct Meta {
    hostvars: BTreeMap<String, Variables>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Group {
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    children: Vec<String>,
    #[serde(default)]
    vars: Variables,
}

/// Why nothing can be taken from an inventory.
#[derive(Debug, thiserror::Error)]
pub enum AnsibleError {
    /// Another text.
    #[error("it is not what `ansible-inventory --list` prints")]
    NotAListing(#[from] serde_json::Error),
    /// Variables of groups are not those of their hosts, as `--export` prints them and some scripts do.
    #[error("the variables of group `{group}` are not given to its hosts: `{variable}` would be overlooked")]
    NotMerged {
        /// The group.
        group: String,
        /// One of its variables.
        variable: String,
    },
    /// No such group.
    #[error("the Ansible inventory has no group `{wanted}`; its groups are {}", .known.join(", "))]
    NoGroup {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A group of nobody.
    #[error("no host is in group {}", .0.join(", "))]
    NoHosts(Vec<String>),
    /// Hosts that cannot be taken as they are: each with what is wrong.
    #[error("{} of the hosts cannot be taken as they are", .0.len())]
    Hosts(Vec<Unfit>),
}

/// What is wrong with a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// Its name in the inventory.
    pub host: String,
    /// What is wrong.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

impl AnsibleError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotAListing(_) => {
                "make it with `ansible-inventory -i YOUR-INVENTORY --list > inventory.json`, whatever kind yours is"
            }
            Self::NotMerged { .. } => {
                "make it with `ansible-inventory -i YOUR-INVENTORY --list`, and without --export"
            }
            Self::NoGroup { .. } => "name one of them with --group; `all` is every host",
            Self::NoHosts(_) => {
                "`ansible-inventory -i YOUR-INVENTORY --graph` shows which host is in which group"
            }
            Self::Hosts(_) => {
                "set the variables that are named, make the inventory's JSON anew, and try again"
            }
        }
    }
}

/// A group of hosts that stand at one site: `GROUP` or `GROUP=SITE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteGroup {
    group: String,
    site: SiteName,
}

impl FromStr for SiteGroup {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (group, site) = text.split_once('=').unwrap_or((text, text));
        Ok(Self { group: group.to_owned(), site: site.to_lowercase().parse()? })
    }
}

/// What is wanted of an inventory.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The hosts of these groups and of the groups in them.
    pub groups: &'a [String],
    /// Into this cluster.
    pub cluster: &'a ClusterName,
    /// Where the hosts of these groups stand.
    pub sites: &'a [SiteGroup],
    /// Where the others stand.
    pub site: Option<&'a SiteName>,
}

/// A server out of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The host's name there.
    pub host: String,
    /// What it is to be here.
    pub candidate: Candidate,
}

impl Listing {
    /// Reads what `ansible-inventory --list` prints.
    ///
    /// # Errors
    /// If it is something else, or was made so that hosts lack variables of their groups.
    pub fn parse(text: &str) -> Result<Self, AnsibleError> {
        let listing: Self = serde_json::from_str(text)?;
        let read = NAMES.iter().chain(&HOSTS).chain([&ADDRESS, &PORT, &SITE, &VIA]);
        let of_group = |(name, group): (&String, &Group)| {
            let variable = read.clone().find(|variable| group.vars.contains_key(**variable))?;
            Some((name.clone(), (*variable).to_owned()))
        };
        match listing.groups.iter().find_map(of_group) {
            Some((group, variable)) => Err(AnsibleError::NotMerged { group, variable }),
            None => Ok(listing),
        }
    }

    /// The servers that are wanted, in the inventory's order.
    ///
    /// # Errors
    /// If there is no such group, or any host cannot be taken: all that is wrong is told at once.
    pub fn servers(&self, wanted: &Wanted<'_>) -> Result<Vec<Found>, AnsibleError> {
        let mut hosts: Vec<&str> = Vec::new();
        for group in wanted.groups {
            for host in self.hosts(group)? {
                if !hosts.contains(&host) {
                    hosts.push(host);
                }
            }
        }
        if hosts.is_empty() {
            return Err(AnsibleError::NoHosts(wanted.groups.to_vec()));
        }
        let mut at = BTreeMap::<&str, Vec<&SiteName>>::new();
        for SiteGroup { group, site } in wanted.sites {
            for host in self.hosts(group)? {
                at.entry(host).or_default().push(site);
            }
        }
        let (mut found, mut unfit) = (Vec::<Found>::new(), Vec::new());
        let nothing = Variables::new();
        for host in hosts {
            let sites = at.get(host).map_or(&[][..], Vec::as_slice);
            let host =
                Host { name: host, variables: self.meta.hostvars.get(host).unwrap_or(&nothing), sites };
            let server = host.candidate(wanted).and_then(|candidate| {
                let server = Found { host: host.name.to_owned(), candidate };
                host.is_another(&server, &found).map(|()| server)
            });
            match server {
                Ok(server) => found.push(server),
                Err(why) => unfit.push(why),
            }
        }
        if unfit.is_empty() { Ok(found) } else { Err(AnsibleError::Hosts(unfit)) }
    }

    /// The hosts of a group and of the groups in it, each once.
    fn hosts(&self, group: &str) -> Result<Vec<&str>, AnsibleError> {
        let is_child = self.groups.values().any(|of| of.children.iter().any(|child| child == group));
        // Groups without hosts are named as children only.
        if !self.groups.contains_key(group) && !is_child {
            let known = self.groups.keys().cloned().collect();
            return Err(AnsibleError::NoGroup { wanted: group.to_owned(), known });
        }
        let (mut open, mut seen, mut hosts) = (vec![group], BTreeSet::new(), Vec::new());
        while let Some(name) = open.pop() {
            let Some(group) = self.groups.get(name).filter(|_| seen.insert(name)) else { continue };
            for host in &group.hosts {
                if !hosts.contains(&host.as_str()) {
                    hosts.push(host);
                }
            }
            open.extend(group.children.iter().rev().map(String::as_str));
        }
        Ok(hosts)
    }
}

struct Host<'a> {
    name: &'a str,
    variables: &'a Variables,
    /// Of the groups that stand for sites.
    sites: &'a [&'a SiteName],
}

impl Host<'_> {
    fn unfit(&self, why: impl Into<String>, remedy: impl Into<String>) -> Unfit {
        Unfit { host: self.name.to_owned(), why: why.into(), remedy: remedy.into() }
    }

    fn candidate(&self, wanted: &Wanted<'_>) -> Result<Candidate, Unfit> {
        let name = self.server_name()?;
        let site = self.site(wanted)?;
        let via = match self.text(VIA)? {
            None => None,
            Some(via) => Some(self.parsed::<ServerName>(VIA, &via)?),
        };
        if via.as_ref() == Some(&name) {
            return Err(self.unfit("it cannot be its own gateway", format!("change {VIA}")));
        }
        let address = if via.is_some() { String::new() } else { self.address()? };
        Ok(Candidate { cluster: wanted.cluster.clone(), name, site, address, via })
    }

    fn server_name(&self) -> Result<ServerName, Unfit> {
        match NAMES.map(|name| self.text(name)) {
            [Ok(Some(one)), Ok(Some(other))] if one != other => Err(self.unfit(
                format!("it has two names, `{one}` and `{other}`"),
                format!("{} is enough", NAMES[0]),
            )),
            [Ok(Some(one)), Ok(_)] => self.parsed(NAMES[0], &one),
            [Ok(None), Ok(Some(other))] => self.parsed(NAMES[1], &other),
            [Ok(None), Ok(None)] => self
                .name
                .to_lowercase()
                .parse()
                .map_err(|error: InvalidName| self.unfit(error.to_string(), format!("set {}", NAMES[0]))),
            [Err(unfit), _] | [_, Err(unfit)] => Err(unfit),
        }
    }

    fn site(&self, wanted: &Wanted<'_>) -> Result<Option<SiteName>, Unfit> {
        if let Some(site) = self.text(SITE)? {
            return self.parsed(SITE, &site).map(Some);
        }
        let mut sites = self.sites.to_vec();
        sites.dedup();
        match (sites.as_slice(), wanted.site) {
            ([site], _) => Ok(Some((*site).clone())),
            ([], Some(site)) => Ok(Some(site.clone())),
            ([], None) if wanted.sites.is_empty() => Ok(None),
            ([], None) => Err(self.unfit(
                "it is in none of the groups that stand for sites",
                format!("name its group too, set {SITE}, or say --site SITE for all such hosts"),
            )),
            ([one, other, ..], _) => {
                Err(self
                    .unfit(format!("it would stand at two sites, {one} and {other}"), format!("set {SITE}")))
            }
        }
    }

    fn address(&self) -> Result<String, Unfit> {
        let port = match self.text(PORT)? {
            None => DEFAULT_PORT,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
                self.unfit(format!("its {PORT} `{port}` is no port"), "it is a number from 1 to 65535")
            })?,
        };
        let by = [ADDRESS, HOSTS[0], HOSTS[1]];
        for variable in by {
            let Some(text) = self.text(variable)? else { continue };
            // Only ours may come with a port; another's IPv6 address has none.
            return with_port(&text, port).map_err(|why| {
                self.unfit(format!("its {variable} does not do: {why}"), format!("set {ADDRESS}"))
            });
        }
        with_port(self.name, port).map_err(|why| self.unfit(why, format!("set {ADDRESS}")))
    }

    /// What a variable says; what only Ansible could fill in is no address and no name.
    fn text(&self, variable: &str) -> Result<Option<String>, Unfit> {
        let text = match self.variables.get(variable) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => {
                return Err(
                    self.unfit(format!("its {variable} is neither text nor a number"), "write it as text")
                );
            }
        };
        if text.contains("{{") || text.contains("{%") {
            let shown: String = text.chars().take(80).collect();
            let remedy = match variable {
                "ansible_host" | "ansible_ssh_host" => format!("set {ADDRESS}"),
                _ => "write what it stands for".to_owned(),
            };
            let why = format!("its {variable} is `{shown}`, which only Ansible itself can fill in");
            return Err(self.unfit(why, remedy));
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    fn parsed<T: FromStr<Err = InvalidName>>(&self, variable: &str, text: &str) -> Result<T, Unfit> {
        text.parse().map_err(|error: InvalidName| self.unfit(error.to_string(), format!("change {variable}")))
    }

    fn is_another(&self, server: &Found, others: &[Found]) -> Result<(), Unfit> {
        let (name, address) = (&server.candidate.name, &server.candidate.address);
        for other in others {
            if other.candidate.name == *name {
                return Err(self.unfit(
                    format!("{} would be called {name} too", other.host),
                    format!("set {} of one of them", NAMES[0]),
                ));
            }
            if server.candidate.via.is_none() && other.candidate.address == *address {
                return Err(self.unfit(
                    format!("{address} is the address of {} too", other.host),
                    format!("one server is enrolled once; set {ADDRESS} or {PORT} of one of them"),
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
