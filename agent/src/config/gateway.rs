//! Servers that coordinators reach through this agent, and gateways they reach it through.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use umsid_common::address::check_address;
use umsid_common::name::ServerName;

/// `[gateway]`: servers of this cluster that coordinators reach through this agent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// By the names they are enrolled under: where their agents are from here. With none of them this agent is no gateway.
    pub servers: BTreeMap<ServerName, Behind>,
    /// Connections through this agent at once.
    pub connections: usize,
}

impl Default for Gateway {
    fn default() -> Self {
        Self { servers: BTreeMap::new(), connections: 64 }
    }
}

impl Gateway {
    pub(super) fn unusable(&self) -> Option<(&'static str, String)> {
        (self.connections == 0).then(|| ("gateway.connections", "it must be more than 0".to_owned()))
    }
}

/// Where a server is, as its gateway sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Behind {
    /// Its agent listens there.
    Address(Address),
    /// Its agent may only dial out, and keeps a tunnel to here.
    Tunnel,
}

impl TryFrom<String> for Behind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "tunnel" => Ok(Self::Tunnel),
            _ => text.try_into().map(Self::Address).map_err(|why| format!("{why}, or `tunnel`")),
        }
    }
}

/// `[tunnel]`: gateways this agent keeps a tunnel to, because nobody can connect to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tunnel {
    /// By the names they are enrolled under: where their agents are from here.
    pub gateways: BTreeMap<ServerName, Address>,
}

/// `host:port`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Address(String);

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        check_address(&text).map(|()| Self(text))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Address {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
