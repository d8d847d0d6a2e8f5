//! `umsid servers`

use std::str::FromStr;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use umsid_common::address::check_address;
use umsid_common::name::{ClusterName, Identity, Role, ServerName, SiteName};

use super::trust::{self, Told};
use super::{Context, Format, ask, day};
use crate::exit::{Exit, Refusal};
use crate::inventory::{Inventory, Server};
use crate::printout::{Cell, Tone};
use crate::shared;

/// List the enrolled servers, say where one is reached now, or take one out
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid servers
  umsid servers -o json
  umsid servers set hamburg/ums2 --address ums2.example.com:8643
  umsid servers set hamburg/ums3 --via ums1
      ums3 is reached through the agent of ums1: where it is from there, `[gateway]` in the agent.toml of ums1 says
  umsid servers remove hamburg/ums3

Removing a server revokes its certificate; what the agent keeps on that server, its safety backups among it, stays there.")]
pub(super) struct Servers {
    #[command(subcommand)]
    command: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Say where a server is reached from now on
    Set {
        /// Which
        #[arg(value_name = "CLUSTER/SERVER")]
        server: Which,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a server's certificate and take it out of the inventory
    Remove {
        /// Which
        #[arg(value_name = "CLUSTER/SERVER")]
        server: Which,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        passphrase: ask::Passphrase,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Where its agent listens
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    address: Option<String>,
    /// The server of the cluster whose agent leads to it, as its gateway
    #[arg(long, value_name = "SERVER")]
    via: Option<ServerName>,
}

fn address(text: &str) -> Result<String, String> {
    check_address(text).map(|()| text.to_lowercase())
}

/// CLUSTER/SERVER
#[derive(Clone, Debug)]
struct Which {
    cluster: ClusterName,
    server: ServerName,
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (cluster, server) = text.split_once('/').ok_or("it must be CLUSTER/SERVER")?;
        Ok(Self {
            cluster: cluster.parse().map_err(|error| format!("{error}"))?,
            server: server.parse().map_err(|error| format!("{error}"))?,
        })
    }
}

#[derive(Serialize)]
struct Row<'a> {
    cluster: &'a ClusterName,
    server: &'a ServerName,
    site: Option<&'a SiteName>,
    address: Option<&'a str>,
    via: Option<&'a ServerName>,
    named_main: bool,
    enrolled: Timestamp,
    certificate_until: Option<Timestamp>,
}

#[derive(Serialize)]
struct Moved<'a> {
    cluster: &'a ClusterName,
    server: &'a ServerName,
    address: Option<&'a str>,
    via: Option<&'a ServerName>,
    answers: bool,
}

#[derive(Serialize)]
struct Removed {
    cluster: ClusterName,
    server: ServerName,
    revoked: usize,
    #[serde(flatten)]
    told: Told,
}

impl Servers {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.command {
            None => list(context),
            Some(Change::Set { server, place }) => set(context, &server, place).await,
            Some(Change::Remove { server, yes, passphrase }) => {
                remove(context, server, yes, &passphrase).await
            }
        }
    }
}

fn identity(inventory: &Inventory, cluster: &ClusterName, server: &ServerName) -> Identity {
    let role = Role::Agent { cluster: cluster.clone(), server: server.clone() };
    Identity { trust_domain: inventory.trust_domain.clone(), role }
}

fn list(context: &Context) -> anyhow::Result<Exit> {
    let inventory = context.inventory()?;
    let authority = context.authority()?;
    let rows: Vec<Row<'_>> = inventory
        .servers()
        .map(|(cluster, name, server)| Row {
            cluster,
            server: name,
            site: server.site.as_ref(),
            address: server.straight(),
            via: server.via.as_ref(),
            named_main: inventory.clusters[cluster].main.as_ref() == Some(name),
            enrolled: server.enrolled,
            certificate_until: authority
                .newest(&identity(&inventory, cluster, name))
                .map(|entry| entry.not_after),
        })
        .collect();
    if context.out.format() == Format::Json {
        context.out.json(&rows)?;
        return Ok(Exit::Success);
    }
    if rows.is_empty() {
        context
            .out
            .say("no server is enrolled yet: run `umsid-agent enroll` on one, then `umsid enroll` here");
        return Ok(Exit::Success);
    }
    let cells = rows.iter().map(|row| {
        let until = match row.certificate_until {
            Some(until) if until <= Timestamp::now() => {
                Cell::new(format_args!("expired {}", day(until)), Tone::Bad)
            }
            Some(until) => Cell::plain(day(until)),
            None => Cell::new("none", Tone::Bad),
        };
        vec![
            Cell::plain(row.cluster),
            Cell::plain(row.server),
            Cell::plain(row.site.map(SiteName::as_str).unwrap_or_default()),
            Cell::plain(row.address.unwrap_or_default()),
            Cell::plain(row.via.map(ServerName::as_str).unwrap_or_default()),
            Cell::plain(if row.named_main { "named main" } else { "" }),
            Cell::plain(day(row.enrolled)),
            until,
        ]
    });
    let mut header =
        vec!["CLUSTER", "SERVER", "SITE", "ADDRESS", "VIA", "NOTE", "ENROLLED", "CERTIFICATE UNTIL"];
    let mut cells: Vec<_> = cells.collect();
    if rows.iter().all(|row| row.via.is_none()) {
        let via = 4;
        header.remove(via);
        cells.iter_mut().for_each(|row| drop(row.remove(via)));
    }
    context.out.table_without(&header, cells, &["ENROLLED", "CERTIFICATE UNTIL"])?;
    Ok(Exit::Success)
}

async fn set(
    context: &Context,
    Which { cluster, server }: &Which,
    Place { address, via }: Place,
) -> anyhow::Result<Exit> {
    context.home.open()?;
    let mut lock = shared::Change::begin(&context.home).await?;
    let before = context.inventory()?;
    let entry =
        Server { address: address.unwrap_or_default(), via, ..before.server(cluster, server)?.clone() };
    let inventory = Inventory::put(&context.home.inventory_path(), cluster, server, &entry)?;
    lock.publish_inventory().await?;
    drop(lock);

    let agents = context.agents(&inventory, &context.authority()?)?;
    let answer = agents.dial(cluster, server, &entry).await;
    let moved = Moved {
        cluster,
        server,
        address: entry.straight(),
        via: entry.via.as_ref(),
        answers: answer.is_ok(),
    };
    match context.out.format() {
        Format::Json => context.out.json(&moved)?,
        Format::Table => context.out.text(format_args!("{cluster}/{server}: {}", entry.place()))?,
    }
    match answer {
        Ok(_) => Ok(Exit::Success),
        Err(error) => Err(anyhow::Error::new(error)
            .context(format!("the inventory is changed, but {server} does not answer there"))),
    }
}

async fn remove(
    context: &Context,
    Which { cluster, server }: Which,
    yes: bool,
    passphrase: &ask::Passphrase,
) -> anyhow::Result<Exit> {
    let inventory = context.inventory()?;
    inventory.server(&cluster, &server)?;
    refuse_gateway(&inventory, &cluster, &server)?;
    let question = format!("Revoke the certificate of {cluster}/{server} and take it out of the inventory?");
    if !ask::yes(yes, &question)? {
        return Err(Refusal::new(Exit::Failed, "nothing was changed").into());
    }
    let authority = context.authority()?;
    passphrase.unlock(&authority)?;

    let mut lock = shared::Change::begin(&context.home).await?;
    // First what protects: if anything breaks off after it, the same command goes on.
    let revoked = authority.revoke(&identity(&inventory, &cluster, &server), None)?;
    let left = Inventory::take_out(&context.home.inventory_path(), &cluster, &server)?;
    lock.publish_inventory().await?;
    let agents = context.agents(&left, &authority)?;
    drop(lock);

    let told = trust::tell(context, &agents, &left, &authority).await?;
    let removed = Removed { cluster, server, revoked, told };
    if context.out.format() == Format::Json {
        context.out.json(&removed)?;
        return Ok(Exit::Success);
    }
    context.out.text(format_args!(
        "{}/{} is out of the inventory; {} of its certificates revoked (revocation list {})",
        removed.cluster,
        removed.server,
        removed.revoked,
        removed.told.crl_number()
    ))?;
    removed.told.print(context)?;
    context.out.say(format_args!(
        "on {}: stop its agent; to enrol it again: umsid-agent enroll --again",
        removed.server
    ));
    Ok(Exit::Success)
}

/// What leads to others goes after them.
fn refuse_gateway(inventory: &Inventory, cluster: &ClusterName, server: &ServerName) -> anyhow::Result<()> {
    let servers = &inventory.cluster(cluster)?.servers;
    let behind: Vec<_> = servers
        .iter()
        .filter(|(_, entry)| entry.via.as_ref() == Some(server))
        .map(|(name, _)| name.to_string())
        .collect();
    let Some(first) = behind.first() else { return Ok(()) };
    let what = format!("{cluster}/{server} is the gateway to {}; nothing was changed", behind.join(", "));
    let remedy = format!(
        "say how they are reached without it, as `umsid servers set {cluster}/{first} --address HOST:PORT`, or remove them first"
    );
    Err(Refusal::new(Exit::Usage, what).remedy(remedy).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_server_is_named_by_cluster_and_name(text in "[a-z0-9./-]{0,20}|\\PC{0,20}") {
            if let Ok(Which { cluster, server }) = text.parse() {
                prop_assert_eq!(format!("{cluster}/{server}"), text);
            }
        }
    }
}
