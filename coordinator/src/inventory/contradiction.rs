//! Whether an inventory that can be read contradicts itself.

use std::collections::BTreeMap;

use umsid_common::address::check_address;
use umsid_common::name::ServerName;

use super::{Cluster, Inventory, Server, alternatives};

/// The key at fault and what is wrong with it.
pub(super) fn contradiction(inventory: &Inventory) -> Option<(String, String)> {
    let sites = inventory.clusters.iter().flat_map(|(cluster, content)| {
        content.sites.iter().map(move |(name, site)| (format!("clusters.{cluster}.sites.{name}"), site))
    });
    for (key, site) in sites {
        if let Some((of, why)) = site.complaint() {
            return Some((format!("{key}.{of}"), why));
        }
    }
    let mut addresses: BTreeMap<String, String> = BTreeMap::new();
    let mut recipients: BTreeMap<&str, String> = BTreeMap::new();
    for (cluster, name, server) in inventory.servers() {
        let (key, who) = (format!("clusters.{cluster}.servers.{name}"), format!("{cluster}/{name}"));
        if let Some((of, why)) = no_way(&inventory.clusters[cluster], name, server) {
            return Some((format!("{key}.{of}"), why));
        }
        if server.via.is_none()
            && let Some(other) = addresses.insert(server.address.to_lowercase(), who.clone())
        {
            return Some((
                format!("{key}.address"),
                format!("`{}` is the address of {other} too", server.address),
            ));
        }
        if let Some(other) = recipients.insert(server.recipient.as_str(), who) {
            return Some((
                format!("{key}.recipient"),
                format!("it is the recipient of {other} too: one server has two names"),
            ));
        }
    }
    inventory.clusters.iter().find_map(|(cluster, content)| {
        let main = content.main.as_ref().filter(|main| !content.servers.contains_key(main))?;
        let all: Vec<String> = content.servers.keys().map(ToString::to_string).collect();
        Some((
            format!("clusters.{cluster}.main"),
            format!("the cluster has no server `{main}`{}", alternatives(main.as_str(), &all)),
        ))
    })
}

/// Why a server cannot be reached as it says, and the key at fault: straight, or through one that is.
fn no_way(cluster: &Cluster, name: &ServerName, server: &Server) -> Option<(&'static str, String)> {
    let Some(gateway) = &server.via else {
        return check_address(&server.address).err().map(|why| ("address", why));
    };
    let no = |why: String| Some(("via", why));
    match cluster.servers.get(gateway) {
        _ if !server.address.is_empty() => {
            no(format!("it has an `address` too: where it is from {gateway}, the agent there is told"))
        }
        Some(_) if gateway == name => no("it cannot be its own gateway".into()),
        Some(Server { via: Some(next), .. }) => {
            no(format!("`{gateway}` is behind `{next}` itself, and a way leads through one gateway at most"))
        }
        Some(_) => None,
        None => {
            let all: Vec<String> = cluster.servers.keys().map(ToString::to_string).collect();
            no(format!("the cluster has no server `{gateway}`{}", alternatives(gateway.as_str(), &all)))
        }
    }
}
