//! The servers this coordinator knows: `inventory.toml`, written by `umsid enroll`, edited by people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, Item, Table, value};
use umsid_common::digest::Fingerprint;
use umsid_common::durable::{self, Access, DurableError};
use umsid_common::name::{ClusterName, ServerName, SiteName, TrustDomain};
use umsid_common::seal::Recipient;

mod contradiction;
mod site;

use contradiction::contradiction;
pub use site::Site;

/// What new inventories begin with.
const PREFACE: &str = "\
# The servers `umsid` looks after. Servers are added by `umsid enroll` and taken out by `umsid servers remove`.
# You may edit `address`, `via`, `site`, and in each cluster:
#   main = \"SERVER\"            the server whose UMS ID is Main, where you want to say so yourself
#   main_fingerprint = \"…\"     the SHA-256 fingerprint the Main UMS ID must have
#   escrow = \"age1…\"           an age recipient that can open every backup too
# and of each site in a cluster, under [clusters.CLUSTER.sites.SITE]:
#   max_down = 2               how many of its servers may be away at a time; 1 unless you say so
#   order = 1                  its turn: the lowest number first, sites without a number last, by name
#   window = \"Sun 02:00-04:00\"  when its servers may be restored and restarted, or a list of such; otherwise at any time
#   time_zone = \"Europe/Berlin\" whose clock that is; otherwise this host's
#   takes = \"20min\"            how long one server is then away; otherwise as long as the last time, or 20 minutes
";

/// All clusters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// What all certificates of this installation have in common.
    pub trust_domain: TrustDomain,
    /// The UMS installations.
    #[serde(default)]
    pub clusters: BTreeMap<ClusterName, Cluster>,
}

/// One UMS installation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The server whose UMS ID is Main, where a person said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<ServerName>,
    /// The fingerprint the Main UMS ID must have, where a person said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main_fingerprint: Option<Fingerprint>,
    /// Somebody who can open every backup too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escrow: Option<Recipient>,
    /// What is said of its sites; of most, nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sites: BTreeMap<SiteName, Site>,
    /// Its servers.
    #[serde(default)]
    pub servers: BTreeMap<ServerName, Server>,
}

impl Cluster {
    /// Where a server stands, if that was said.
    pub fn site_of(&self, server: &ServerName) -> Option<&SiteName> {
        self.servers.get(server)?.site.as_ref()
    }
}

/// One enrolled server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where its agent listens, `host:port`; empty with `via`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// The server of its cluster whose agent leads to it. Where it is from there, that agent's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<ServerName>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteName>,
    /// Whom backups for it are sealed to; pinned at enrolment.
    pub recipient: Recipient,
    /// Serial number of the certificate it was enrolled with, hexadecimal.
    pub serial: String,
    /// When.
    pub enrolled: Timestamp,
}

impl Server {
    /// Where it is reached without anybody in between, `host:port`.
    pub fn straight(&self) -> Option<&str> {
        self.via.is_none().then_some(self.address.as_str())
    }

    /// Where it is, in words: `ums1.example.com:8643`, `through ums1`.
    pub fn place(&self) -> String {
        match &self.via {
            None => self.address.clone(),
            Some(gateway) => format!("through {gateway}"),
        }
    }
}

/// An inventory that cannot be used, or something that is not in it.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// Reading or writing failed.
    #[error("the inventory cannot be read or written")]
    File(#[from] DurableError),
    /// No such file.
    #[error("there is no {path}")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Content that does not do; `key` is empty where none is to blame.
    #[error("{path}, line {line}{}: {why}", if .key.is_empty() { String::new() } else { format!(", key `{}`", .key) })]
    Malformed {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// With dots, as `clusters.hamburg.main`.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Content that contradicts itself.
    #[error("{path}, key `{key}`: {why}")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// With dots.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// No such cluster.
    #[error("there is no cluster `{wanted}`{}", alternatives(.wanted.as_str(), .known))]
    UnknownCluster {
        /// What was asked for.
        wanted: ClusterName,
        /// What there is.
        known: Vec<String>,
    },
    /// No such server.
    #[error("cluster `{cluster}` has no server `{wanted}`{}", alternatives(.wanted.as_str(), .known))]
    UnknownServer {
        /// Where it was looked for.
        cluster: ClusterName,
        /// What was asked for.
        wanted: ServerName,
        /// What there is.
        known: Vec<String>,
    },
}

/// `: did you mean …? known are …`
fn alternatives(wanted: &str, known: &[String]) -> String {
    let alike = known
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match (alike, known) {
        (_, []) => ": none is enrolled yet".into(),
        (Some((_, name)), [_]) => format!(": did you mean `{name}`?"),
        (Some((_, name)), all) => format!(": did you mean `{name}`? Known: {}", all.join(", ")),
        (None, all) => format!(": known: {}", all.join(", ")),
    }
}

impl Inventory {
    /// Writes an inventory without servers.
    ///
    /// # Errors
    /// If it cannot be written. An existing one is replaced: the caller looks first.
    pub fn create(path: &Path, trust_domain: &TrustDomain) -> Result<(), InventoryError> {
        Ok(durable::replace(path, Self::empty(trust_domain).as_bytes(), Access::Private)?)
    }

    /// The text of an inventory without servers.
    pub fn empty(trust_domain: &TrustDomain) -> String {
        format!("{PREFACE}\ntrust_domain = \"{trust_domain}\"\n")
    }

    /// Checks a text; `path` is where it will be.
    ///
    /// # Errors
    /// As [`Inventory::load`].
    pub fn check(path: &Path, text: &str) -> Result<Self, InventoryError> {
        parse(path, text)
    }

    /// Reads and checks.
    ///
    /// # Errors
    /// Names the file and the key at fault.
    pub fn load(path: &Path) -> Result<Self, InventoryError> {
        parse(path, &read(path)?)
    }

    /// The cluster of this name.
    ///
    /// # Errors
    /// [`InventoryError::UnknownCluster`] with those there are.
    pub fn cluster(&self, name: &ClusterName) -> Result<&Cluster, InventoryError> {
        self.clusters.get(name).ok_or_else(|| InventoryError::UnknownCluster {
            wanted: name.clone(),
            known: self.clusters.keys().map(ToString::to_string).collect(),
        })
    }

    /// The server of this name.
    ///
    /// # Errors
    /// [`InventoryError::UnknownCluster`] or [`InventoryError::UnknownServer`], with those there are.
    pub fn server(&self, cluster: &ClusterName, name: &ServerName) -> Result<&Server, InventoryError> {
        let servers = &self.cluster(cluster)?.servers;
        servers.get(name).ok_or_else(|| InventoryError::UnknownServer {
            cluster: cluster.clone(),
            wanted: name.clone(),
            known: servers.keys().map(ToString::to_string).collect(),
        })
    }

    /// All servers with their names.
    pub fn servers(&self) -> impl Iterator<Item = (&ClusterName, &ServerName, &Server)> {
        self.clusters.iter().flat_map(|(cluster, content)| {
            content.servers.iter().map(move |(name, server)| (cluster, name, server))
        })
    }

    /// Adds a server to the file, or replaces it there; comments and order stay. Holds the home's lock, the caller.
    ///
    /// # Errors
    /// If the file does not do before or after; then it is as it was.
    pub fn put(
        path: &Path,
        cluster: &ClusterName,
        name: &ServerName,
        server: &Server,
    ) -> Result<Self, InventoryError> {
        edit(path, |document| {
            let clusters = table(document.as_table_mut(), "clusters", true);
            let servers = table(table(clusters, cluster.as_str(), false), "servers", true);
            let entry = table(servers, name.as_str(), false);
            match &server.via {
                None => {
                    entry["address"] = value(&server.address);
                    entry.remove("via");
                }
                Some(gateway) => {
                    entry["via"] = value(gateway.as_str());
                    entry.remove("address");
                }
            }
            match &server.site {
                Some(site) => entry["site"] = value(site.as_str()),
                None => drop(entry.remove("site")),
            }
            entry["recipient"] = value(server.recipient.as_str());
            entry["serial"] = value(&server.serial);
            entry["enrolled"] = value(server.enrolled.to_string());
        })
    }

    /// Takes a server out of the file, and what names it as Main; the cluster goes with its last server, unless a
    /// person wrote something else into it.
    ///
    /// # Errors
    /// If the file does not do before or after; then it is as it was.
    pub fn take_out(path: &Path, cluster: &ClusterName, name: &ServerName) -> Result<Self, InventoryError> {
        edit(path, |document| {
            let clusters = table(document.as_table_mut(), "clusters", true);
            let Some(content) = clusters.get_mut(cluster.as_str()).and_then(Item::as_table_mut) else {
                return;
            };
            if content.get("main").and_then(Item::as_str) == Some(name.as_str()) {
                content.remove("main");
            }
            let servers = table(content, "servers", true);
            servers.remove(name.as_str());
            if servers.is_empty() {
                content.remove("servers");
                if content.is_empty() {
                    clusters.remove(cluster.as_str());
                }
            }
        })
    }
}

fn read(path: &Path) -> Result<String, InventoryError> {
    let bytes =
        durable::read_optional(path)?.ok_or_else(|| InventoryError::Missing { path: path.to_owned() })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        InventoryError::Malformed {
            path: path.to_owned(),
            line,
            key: String::new(),
            why: "it is not UTF-8 text".into(),
        }
    })
}

fn parse(path: &Path, text: &str) -> Result<Inventory, InventoryError> {
    let inventory: Inventory =
        toml::from_str(text).map_err(|error| malformed(path, text, error.span(), error.message()))?;
    match contradiction(&inventory) {
        None => Ok(inventory),
        Some((key, why)) => Err(InventoryError::Contradiction { path: path.to_owned(), key, why }),
    }
}

fn malformed(path: &Path, text: &str, span: Option<std::ops::Range<usize>>, why: &str) -> InventoryError {
    let at = span.map_or(0, |span| span.start);
    let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let document = toml_edit::Document::parse(text).ok();
    let key = document.map(|document| key_at(document.as_table(), at).join(".")).unwrap_or_default();
    InventoryError::Malformed { path: path.to_owned(), line, key, why: why.trim().replace('\n', "; ") }
}

/// The innermost key whose name or value stands at this place in the text.
fn key_at(table: &dyn toml_edit::TableLike, at: usize) -> Vec<String> {
    let holds =
        |span: Option<std::ops::Range<usize>>| span.is_some_and(|span| span.start <= at && at < span.end);
    for (name, item) in table.iter() {
        let inner = item.as_table_like().map(|inner| key_at(inner, at)).unwrap_or_default();
        let named = table.key(name).is_some_and(|key| holds(key.span()));
        if named || !inner.is_empty() || holds(item.span()) {
            return std::iter::once(name.to_owned()).chain(inner).collect();
        }
    }
    Vec::new()
}

/// The table under this key, made if need be; `implicit`: without a header of its own.
fn table<'a>(parent: &'a mut Table, key: &str, implicit: bool) -> &'a mut Table {
    let item = parent.entry(key).or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(implicit);
        Item::Table(table)
    });
    if !item.is_table() {
        // `servers = {}` or `servers.a = {…}`: same content, in the form this file uses.
        let inline = std::mem::take(item).into_table().unwrap_or_default();
        *item = Item::Table(inline);
    }
    item.as_table_mut().expect("it was made a table above")
}

fn edit(path: &Path, change: impl FnOnce(&mut DocumentMut)) -> Result<Inventory, InventoryError> {
    let text = read(path)?;
    parse(path, &text)?;
    let mut document: DocumentMut = text
        .parse()
        .map_err(|error: toml_edit::TomlError| malformed(path, &text, error.span(), error.message()))?;
    change(&mut document);
    let text = document.to_string();
    let inventory = parse(path, &text)?;
    durable::replace(path, text.as_bytes(), Access::Private)?;
    Ok(inventory)
}

#[cfg(test)]
mod tests;
