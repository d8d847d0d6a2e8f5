//! The tunnel of an agent that may only dial out: it calls a gateway, and takes connections back through it.
//!
//! One connection is kept, on which the gateway says that somebody wants in. For each of those another is made, and what comes
//! through it goes where every connection to this agent goes, to where it listens: the same handshake, the same limits, the
//! same decisions. The gateway sees what the two ends encrypt.

use std::error::Error as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use umsid_common::carried;
use umsid_common::name::{Identity, Role, ServerName};
use umsid_common::tls::{self, ConnectError, Patience, Tls};
use umsid_proto::failure::Failure;
use umsid_proto::wire::answer_message::Part;
use umsid_proto::wire::gateway_client::GatewayClient;
use umsid_proto::{LARGEST_MESSAGE, wire};

use crate::config;
use crate::state::Enrolment;

/// From one try to build a tunnel to the next: the shortest and the longest pause, which half as much chance is added to.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// A tunnel that lasted so long was a good one: the next is tried at once.
const GOOD: Duration = Duration::from_secs(60);

/// Connections through one tunnel at once; those above are not taken up.
const CONNECTIONS: usize = 64;

/// A tunnel to one gateway.
struct Tunnel {
    gateway: ServerName,
    address: String,
    expected: Identity,
    tls: Arc<Tls>,
    /// Where this agent listens.
    home: SocketAddr,
    idle: Duration,
    places: Arc<Semaphore>,
}

/// A tunnel that could not be built, or has ended.
#[derive(Debug, thiserror::Error)]
enum TunnelError {
    /// No connection to the gateway.
    #[error("no connection to the gateway")]
    Connect(#[from] ConnectError),
    /// It does not want it, or not any more.
    #[error("the gateway refuses: {}", with_remedy(.0))]
    Refused(Box<Failure>),
    /// It ended.
    #[error("the gateway broke off: {0}")]
    Lost(String),
    /// Our own listener.
    #[error("this agent itself does not answer")]
    Home(#[from] io::Error),
}

fn with_remedy(failure: &Failure) -> String {
    if failure.remedy.is_empty() { failure.to_string() } else { format!("{failure}; {}", failure.remedy) }
}

/// Keeps a tunnel to each of these gateways, for as long as what is returned is there.
pub(crate) fn keep(
    config: &config::Tunnel,
    me: &Enrolment,
    tls: &Arc<Tls>,
    home: SocketAddr,
    idle: Duration,
) -> JoinSet<()> {
    let mut kept = JoinSet::new();
    for (gateway, address) in &config.gateways {
        let tunnel = Tunnel {
            gateway: gateway.clone(),
            address: address.to_string(),
            expected: gateway_of(&me.identity(), gateway),
            tls: tls.clone(),
            home: reachable(home),
            idle,
            places: Arc::new(Semaphore::new(CONNECTIONS)),
        };
        kept.spawn(Arc::new(tunnel).last());
    }
    kept
}

/// Who a gateway of this name must be: a server of our own cluster.
pub(crate) fn gateway_of(me: &Identity, gateway: &ServerName) -> Identity {
    let role = match &me.role {
        Role::Agent { cluster, .. } => Role::Agent { cluster: cluster.clone(), server: gateway.clone() },
        other => other.clone(),
    };
    Identity { trust_domain: me.trust_domain.clone(), role }
}

/// An address to connect to, of one to listen on.
fn reachable(mut home: SocketAddr) -> SocketAddr {
    match home {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => home.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => home.set_ip(Ipv6Addr::LOCALHOST.into()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => {}
    }
    home
}

impl Tunnel {
    /// One tunnel after another.
    async fn last(self: Arc<Self>) {
        let (shortest, longest) = PAUSES;
        let pace = ExponentialBuilder::default()
            .with_min_delay(shortest)
            .with_max_delay(longest)
            .with_jitter()
            .without_max_times();
        let mut pauses = pace.build();
        loop {
            let begun = Instant::now();
            let Err(error) = self.one().await;
            let gateway = &self.gateway;
            let because = error.source().map(ToString::to_string);
            tracing::warn!(%gateway, address = self.address, %error, because, "no tunnel; trying again");
            if begun.elapsed() >= GOOD {
                pauses = pace.build();
            }
            tokio::time::sleep(pauses.next().unwrap_or(longest)).await;
        }
    }

    /// Builds one, and answers whoever knocks until it ends.
    async fn one(self: &Arc<Self>) -> Result<std::convert::Infallible, TunnelError> {
        let mut client = self.client().await?;
        let knocks = client.keep_tunnel(wire::KeepTunnelRequest {}).await;
        let mut knocks = knocks.map_err(|status| told(&status))?.into_inner();
        tracing::info!(gateway = %self.gateway, address = self.address, "tunnel open");
        let mut answers = JoinSet::new();
        loop {
            let knock = tokio::select! {
                knock = knocks.next() => knock,
                Some(_) = answers.join_next() => continue,
            };
            let Some(knock) = knock else { return Err(TunnelError::Lost("it ended the tunnel".into())) };
            let number = knock.map_err(|status| told(&status))?.number;
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                tracing::warn!(gateway = %self.gateway, "too many connections through the tunnel: one is not taken up");
                continue;
            };
            let tunnel = self.clone();
            answers.spawn(async move {
                if let Err(error) = tunnel.answer(number).await {
                    let because = error.source().map(ToString::to_string);
                    tracing::warn!(gateway = %tunnel.gateway, %error, because, "a connection through the tunnel ended");
                }
                drop(place);
            });
        }
    }

    async fn client(&self) -> Result<GatewayClient<Channel>, ConnectError> {
        let channel = tls::connect(&self.address, &self.tls, &self.expected, &Patience::default()).await?;
        Ok(GatewayClient::new(channel)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE))
    }

    /// Leads one connection to where we listen.
    async fn answer(&self, number: u64) -> Result<(), TunnelError> {
        let home = TcpStream::connect(self.home).await?;
        home.set_nodelay(true)?;
        let mut client = self.client().await?;
        let (writer, pieces) = carried::outgoing();
        let message = |part| wire::AnswerMessage { part: Some(part) };
        let messages = tokio_stream::once(message(Part::Header(wire::AnswerHeader { number })))
            .chain(pieces.map(move |data| message(Part::Data(data))));
        let chunks = client.answer(messages).await.map_err(|status| told(&status))?.into_inner();
        let pieces = chunks.map(|chunk| chunk.map(|chunk| chunk.data).map_err(io::Error::other));
        let line = tokio::io::join(carried::incoming(pieces), writer);
        // Either side ends it as it likes.
        if let Err(error) = carried::carry(line, home, self.idle).await {
            tracing::debug!(gateway = %self.gateway, %error, "a connection through the tunnel broke off");
        }
        Ok(())
    }
}

fn told(status: &tonic::Status) -> TunnelError {
    if status.details().is_empty() {
        return TunnelError::Lost(umsid_proto::model::line(status.message()));
    }
    TunnelError::Refused(Box::new(Failure::from(status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_we_listen_can_be_connected_to() {
        for (listens, connects) in [
            ("0.0.0.0:8643", "127.0.0.1:8643"),
            ("[::]:1", "[::1]:1"),
            ("10.0.0.1:8643", "10.0.0.1:8643"),
            ("127.0.0.1:2", "127.0.0.1:2"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), connects.parse().unwrap());
        }
    }
}
