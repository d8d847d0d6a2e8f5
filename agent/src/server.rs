//! The agent as a server: what it is made of, how it starts, serves and stops.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tonic::transport::Server;
use umsid_common::seal::{SealError, SealKey};
use umsid_common::tls::{Flow, Limits, Listener, Tls, TlsError};

use crate::certificates::Renewal;
use crate::config::{self, Config};
use crate::exec;
use crate::gateway::Gateway;
use crate::host::Host;
use crate::journals::Journals;
use crate::lease::Leases;
use crate::operations::Operations;
use crate::peer::Door;
use crate::rpc::{AgentRpc, GatewayRpc, JournalsRpc, OperationsRpc, TransferRpc};
use crate::spool::Spool;
use crate::state::{StateDir, StateError};
use crate::tunnel;
use crate::ums::Ums;
use crate::vault::Vault;

/// Calls at once on one connection; more wait.
const CALLS: usize = 32;

/// Calls taken back before they were looked at (CVE-2023-44487), and calls that broke the rules, on one connection; with
/// more it ends.
const RESETS: usize = 20;

/// All headers of one call together, bytes.
const LARGEST_HEADERS: u32 = 16 << 10;

/// How long things may take.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// How long nothing may arrive during an upload, and nothing be taken during a download.
    pub idle: Duration,
    /// A lease asked for a shorter time is granted for this one.
    pub shortest_lease: Duration,
    /// A lease asked for a longer time is granted for this one.
    pub longest_lease: Duration,
    /// How long a restart found without outcome is waited for, where nothing says that it goes on.
    pub restart: Duration,
    /// How long a program that outlived the agent before is waited for, until it is ended.
    pub program: Duration,
    /// A connection that says nothing for this long is asked whether it is there, and has as long to answer.
    pub keep_alive: Duration,
    /// A connection is replaced after this time, so that none outlives a change of certificates for long.
    pub connection: Duration,
    /// A connection that is to be replaced is cut off when its calls take longer than this: who watches comes back.
    pub farewell: Duration,
    /// How long an agent that is told to stop lets an operation come to its end.
    pub stop: Duration,
    /// What may be in flight to this agent.
    pub flow: Flow,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(30),
            shortest_lease: Duration::from_secs(10),
            longest_lease: Duration::from_secs(600),
            restart: Duration::from_secs(60),
            program: Duration::from_secs(300),
            keep_alive: Duration::from_secs(20),
            connection: Duration::from_secs(1800),
            farewell: Duration::from_secs(600),
            stop: Duration::from_secs(60),
            flow: Flow::default(),
        }
    }
}

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its state directory cannot be used, or it is not enrolled.
    #[error("cannot start with this state directory")]
    State(#[from] StateError),
    /// Its certificate, key or trust cannot be used.
    #[error("cannot start with these certificates")]
    Tls(#[from] TlsError),
    /// Its certificate is another's.
    #[error("the certificate in {path} is {found}'s, this server was enrolled as {own}")]
    Identity {
        /// The certificate's file.
        path: std::path::PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        own: String,
    },
    /// The key that opens its backups cannot be used.
    #[error("cannot start without the key that opens this server's backups")]
    SealKey(#[from] SealError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// An agent that listens.
pub struct Agent {
    host: Arc<Host>,
    operations: Arc<Operations>,
    gateway: Arc<Gateway>,
    tunnel: config::Tunnel,
    listener: Listener,
    address: SocketAddr,
}

impl Agent {
    /// Takes the state directory, listens, and begins to find out what became of operations a crash interrupted.
    ///
    /// # Errors
    /// [`StartError`] says what is in the way.
    pub async fn bind(config: &Config, ums: Arc<dyn Ums>) -> Result<Self, StartError> {
        // As long as it would have had with the agent that started it.
        let program = config.timeouts.restore.max(config.timeouts.service);
        Self::bind_with(config, ums, Deadlines { program, ..Deadlines::default() }).await
    }

    /// As [`Agent::bind`], with other deadlines.
    ///
    /// # Errors
    /// As [`Agent::bind`].
    pub async fn bind_with(
        config: &Config,
        ums: Arc<dyn Ums>,
        deadlines: Deadlines,
    ) -> Result<Self, StartError> {
        let state = StateDir::open(&config.state_dir)?;
        exec::keep_boot(&state.boot());
        let me = state.enrolment()?;
        let files = state.files();
        let tls = Tls::load(files.clone())?;
        let found = tls.current().identity().clone();
        if found != me.identity() {
            let (found, own) = (found.to_string(), me.identity().to_string());
            return Err(StartError::Identity { path: files.certificate, found, own });
        }
        let key = Arc::new(SealKey::load(&state.seal_key())?);
        let max_backup = config.max_backup_bytes;
        let host = Arc::new(Host {
            leases: Leases::load(state.lease())?,
            journals: Journals::load(state.journals())?,
            spool: Spool::load(state.spool(), max_backup)?,
            vault: Vault::load(state.vault(), state.work(), key.clone(), me.clone(), max_backup)?,
            me,
            tls: tls.clone(),
            key,
            ums,
            state,
            max_backup,
            deadlines,
            renewal: Renewal::default(),
            turn: tokio::sync::Mutex::default(),
            ums_version: Mutex::default(),
        });
        let operations = Operations::load(host.clone())?;
        let gateway = Gateway::new(&config.gateway, host.me.clone(), host.deadlines.idle);
        let limits = Limits {
            handshake: config.limits.handshake,
            handshakes: config.limits.handshakes,
            connections: config.limits.connections,
        };
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = Listener::bind(config.listen, tls, limits).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        operations.recover();
        Ok(Self {
            host,
            operations,
            gateway: Arc::new(gateway),
            tunnel: config.tunnel.clone(),
            listener,
            address,
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Its certificates, for loading them again.
    pub fn credentials(&self) -> Arc<Tls> {
        self.host.tls.clone()
    }

    /// Serves until told to stop; then an operation that is going on may come to its end, for a while. One that does
    /// not is on record as started, and the next start finds out what became of it.
    ///
    /// # Errors
    /// None that a client could cause.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), tonic::transport::Error> {
        let Self { host, operations, gateway, tunnel, listener, address } = self;
        let door = Door::new(
            host.tls.clone(),
            AgentRpc { host: host.clone(), operations: operations.clone() },
            OperationsRpc { operations: operations.clone() },
            TransferRpc { host: host.clone() },
            JournalsRpc { host: host.clone() },
            GatewayRpc { gateway },
        );
        tracing::info!(%address, server = %host.me.server, cluster = %host.me.cluster, "listening");
        // They end with us.
        let _tunnels = tunnel::keep(&tunnel, &host.me, &host.tls, address, host.deadlines.idle);
        let (closing, closed) = tokio::sync::oneshot::channel();
        let server = Server::builder()
            .concurrency_limit_per_connection(CALLS)
            .max_concurrent_streams(CALLS as u32)
            .initial_stream_window_size(host.deadlines.flow.window)
            .initial_connection_window_size(host.deadlines.flow.window)
            .max_frame_size(host.deadlines.flow.frame)
            .http2_max_header_list_size(LARGEST_HEADERS)
            .http2_max_pending_accept_reset_streams(Some(RESETS))
            .http2_max_local_error_reset_streams(Some(RESETS))
            .http2_keepalive_interval(Some(host.deadlines.keep_alive))
            .http2_keepalive_timeout(Some(host.deadlines.keep_alive))
            .max_connection_age(host.deadlines.connection)
            .max_connection_age_grace(host.deadlines.farewell)
            .serve_with_incoming_shutdown(door, listener.incoming(), async move {
                stop.await;
                tracing::info!("stopping");
                operations.close();
                // Nobody waits if the server ended by itself.
                let _ = closing.send(operations);
            });
        tokio::select! {
            served = server => served,
            () = stopped(closed, host.deadlines.stop) => Ok(()),
        }
    }
}

/// Returns when the agent was told to stop and what it may still do is done, or has taken too long.
async fn stopped(closed: tokio::sync::oneshot::Receiver<Arc<Operations>>, patience: Duration) {
    let Ok(operations) = closed.await else { return std::future::pending().await };
    if tokio::time::timeout(patience, operations.idle()).await.is_err() {
        tracing::warn!(
            ?patience,
            "stopping in the middle of an operation: the next start finds out what became of it"
        );
    }
    // Those who watch get the outcome.
    tokio::time::sleep(Duration::from_millis(200)).await;
}
