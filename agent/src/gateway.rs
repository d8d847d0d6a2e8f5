//! The gateway of a site: connects coordinators with servers of its cluster that they cannot reach themselves.
//!
//! What goes through is TLS between coordinator and server. The gateway holds no key for it: it can refuse, delay and cut, and
//! nothing else. It leads to the servers its configuration names, and nowhere else, whatever it is asked for.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use umsid_common::carried;
use umsid_common::name::{Role, ServerName};
use umsid_common::tls::{Carrier, ConnectError, resolve_and_connect};
use umsid_proto::failure::{Code, Failure};

use crate::config::{self, Behind};
use crate::peer::Caller;
use crate::state::Enrolment;

mod tunnels;

use tunnels::{Silence, Tunnels};

/// How long a server behind this one may take to accept a connection. The coordinator waits for it, and for a handshake after it.
const ACCEPT: Duration = Duration::from_secs(5);

/// What leads to the servers behind this one.
pub(crate) struct Gateway {
    me: Enrolment,
    servers: BTreeMap<ServerName, Behind>,
    tunnels: Arc<Tunnels>,
    places: Arc<Semaphore>,
    connections: usize,
    idle: Duration,
}

/// No connection through this agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    /// The configuration does not lead there.
    #[error("{me} forwards to {}, and not to {server}", in_words(.known))]
    NotBehind { me: ServerName, server: ServerName, known: Vec<String> },
    /// There are too many.
    #[error("{connections} connections go through {me} already")]
    Full { me: ServerName, connections: usize },
    /// Nobody answers there.
    #[error("{me} does not reach {server}")]
    Unreachable {
        me: ServerName,
        server: ServerName,
        #[source]
        source: ConnectError,
    },
    /// Its agent has not called.
    #[error("{server} keeps no tunnel to {me}")]
    NoTunnel { me: ServerName, server: ServerName },
    /// Its agent has called, and says nothing.
    #[error("{server} keeps a tunnel to {me}, and does not answer through it")]
    NoAnswer { me: ServerName, server: ServerName },
    /// An agent that is to keep no tunnel here.
    #[error("{me} keeps no tunnel for {caller}")]
    NotExpected { me: ServerName, caller: String },
}

fn in_words(known: &[String]) -> String {
    if known.is_empty() { "nobody".into() } else { known.join(", ") }
}

impl From<GatewayError> for Failure {
    fn from(error: GatewayError) -> Self {
        let (code, remedy) = match &error {
            GatewayError::NotBehind { me, server, .. } => (
                Code::NotFound,
                format!(
                    "on {me}, put {server} with its address into `servers` of [gateway] in agent.toml, and restart the agent; or \
                     correct `via` in inventory.toml"
                ),
            ),
            GatewayError::Full { .. } => (
                Code::Busy,
                "wait until others are done, or raise `connections` of [gateway] in its agent.toml".into(),
            ),
            GatewayError::NoTunnel { me, server } => (
                Code::Unreachable,
                format!(
                    "check that {server} is up, that umsid-agent runs on it, and that [tunnel] of its agent.toml leads to {me}; its log \
                     says what is in the way"
                ),
            ),
            GatewayError::NoAnswer { server, .. } => (
                Code::Unreachable,
                format!("try again; the log of umsid-agent on {server} says what is in the way"),
            ),
            GatewayError::NotExpected { me, .. } => (
                Code::NotAllowed,
                format!(
                    "on {me}, put the server with \"tunnel\" in place of an address into `servers` of [gateway] in agent.toml; tunnels \
                     are for servers of its own cluster"
                ),
            ),
            GatewayError::Unreachable { me, server, .. } => (
                Code::Unreachable,
                format!(
                    "check that {server} is up, that umsid-agent runs on it and that its port is open to {me}; `umsid-agent doctor` \
                     on {me} tries it"
                ),
            ),
        };
        Self::of(code, &error).remedy(remedy)
    }
}

/// A connection to a server behind this one, with its place among all of them.
pub(crate) struct Forwarded {
    server: ServerName,
    stream: Box<dyn Carrier>,
    idle: Duration,
    _place: OwnedSemaphorePermit,
}

impl Gateway {
    pub(crate) fn new(config: &config::Gateway, me: Enrolment, idle: Duration) -> Self {
        Self {
            me,
            servers: config.servers.clone(),
            tunnels: Arc::default(),
            places: Arc::new(Semaphore::new(config.connections)),
            connections: config.connections,
            idle,
        }
    }

    /// How long a connection may stand still.
    pub(crate) fn idle(&self) -> Duration {
        self.idle
    }

    /// Connects with a server behind this one.
    pub(crate) async fn open(&self, server: &ServerName) -> Result<Forwarded, GatewayError> {
        let (me, server) = (self.me.server.clone(), server.clone());
        let Some(behind) = self.servers.get(&server) else {
            let known = self.servers.keys().map(ToString::to_string).collect();
            return Err(GatewayError::NotBehind { me, server, known });
        };
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return Err(GatewayError::Full { me, connections: self.connections });
        };
        let stream: Box<dyn Carrier> = match behind {
            Behind::Address(address) => {
                match resolve_and_connect(address.as_str(), Instant::now() + ACCEPT).await {
                    Ok(stream) => Box::new(stream),
                    Err(source) => return Err(GatewayError::Unreachable { me, server, source }),
                }
            }
            Behind::Tunnel => match self.tunnels.knock(&server).await {
                Ok(stream) => stream,
                Err(Silence::NoTunnel) => return Err(GatewayError::NoTunnel { me, server }),
                Err(Silence::NoAnswer) => return Err(GatewayError::NoAnswer { me, server }),
            },
        };
        Ok(Forwarded { server, stream, idle: self.idle, _place: place })
    }

    /// The tunnels, for an agent that is to keep one here; and who it is by its certificate.
    pub(crate) fn tunnels(
        &self,
        Caller(caller): &Caller,
    ) -> Result<(&Arc<Tunnels>, ServerName), GatewayError> {
        match &caller.role {
            Role::Agent { cluster, server }
                if *cluster == self.me.cluster && self.servers.get(server) == Some(&Behind::Tunnel) =>
            {
                Ok((&self.tunnels, server.clone()))
            }
            _ => {
                let error =
                    GatewayError::NotExpected { me: self.me.server.clone(), caller: caller.to_string() };
                tracing::warn!(%error, "tunnel refused");
                Err(error)
            }
        }
    }
}

impl Forwarded {
    /// Carries bytes between the caller and the server until both are done, one is gone, or neither says anything.
    pub(crate) async fn carry(self, caller: String, line: impl AsyncRead + AsyncWrite) {
        let server = self.server;
        tracing::info!(caller, %server, "forwarding");
        match carried::carry(line, self.stream, self.idle).await {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                tracing::warn!(caller, %server, idle = ?self.idle, "a forwarded connection stood still and was ended");
            }
            // Either side ends it as it likes.
            ended => tracing::info!(caller, %server, ?ended, "forwarded"),
        }
    }
}
