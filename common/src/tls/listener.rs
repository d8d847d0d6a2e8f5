//! Accepting connections: handshake deadlines, fair shares, and a loop that no odd client ends.
//!
//! Those who have not proved who they are have places of their own, so that they never take one from those who have. Among
//! them an address that takes more than others gives way first, as with sshd's MaxStartups and PerSourceMaxStartups.
//! Who has proved it stays connected only as long as the certificate is good.

use std::future::Future as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::places::{Guest, Loses, Place, Places};
use super::verifier::{AnyCaller, identity_of};
use super::{Credentials, SelfSigned, Tls, provider, server_config};

/// What a listener bears.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Who takes longer for the handshake, from the first packet on, is dropped.
    pub handshake: Duration,
    /// Connections at once that are not done with the handshake. For one more, the address with the most of them loses
    /// its oldest.
    pub handshakes: usize,
    /// Connections at once that are. For one more, the identity with the most of them loses its newest.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(5), handshakes: 256, connections: 512 }
    }
}

/// How long to wait before accepting again when the process has no more descriptors.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How often it is looked whether the certificates of those connected are still good, whatever else happens: they expire.
const INSPECTION: Duration = Duration::from_secs(15);

/// What is dropped is told this often at most.
const TOLD: Duration = Duration::from_secs(10);

/// An accepted connection, handshake done.
pub type Accepted = tokio_rustls::server::TlsStream<Counted>;

/// A connection that is counted until it is closed, and is cut off when it loses its place.
pub struct Counted {
    stream: TcpStream,
    place: Place,
}

/// Accepts mutually authenticated connections, for `tonic`'s `serve_with_incoming_shutdown`.
pub struct Listener {
    tcp: TcpListener,
    config: Config,
    limits: Limits,
}

#[derive(Clone)]
enum Config {
    Reloadable(Arc<Tls>),
    Fixed(Arc<ServerConfig>),
}

impl Listener {
    /// Listens with reloadable credentials.
    pub async fn bind(address: SocketAddr, tls: Arc<Tls>, limits: Limits) -> io::Result<Self> {
        Ok(Self { tcp: TcpListener::bind(address).await?, config: Config::Reloadable(tls), limits })
    }

    /// Listens for an enrolment: presents this self-signed certificate, takes any client certificate (who the caller
    /// is, the secret proves).
    pub async fn bind_enrolment(address: SocketAddr, own: &SelfSigned, limits: Limits) -> io::Result<Self> {
        let unusable =
            |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.expose_secret().as_bytes());
        let key = key.map_err(|error| unusable(&error))?;
        let chain = vec![CertificateDer::from(own.certificate.clone())];
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| unusable(&error))?;
        let presented = Arc::new(SingleCertAndKey::from(certified));
        let config = Config::Fixed(server_config(Arc::new(AnyCaller(provider())), presented));
        Ok(Self { tcp: TcpListener::bind(address).await?, config, limits })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The accepted connections. Ends only by being dropped, and then nothing is accepted any more.
    pub fn incoming(self) -> impl tokio_stream::Stream<Item = io::Result<Accepted>> + Send + use<> {
        let (accepted, incoming) = mpsc::channel(16);
        tokio::spawn(self.accept(accepted));
        ReceiverStream::new(incoming)
    }

    async fn accept(self, accepted: mpsc::Sender<io::Result<Accepted>>) {
        let house = Arc::new(House {
            strangers: Places::new(self.limits.handshakes, Loses::Oldest),
            known: Places::new(self.limits.connections, Loses::Newest),
            config: self.config,
            deadline: self.limits.handshake,
        });
        let mut changed = house.config.changed();
        let mut inspection = interval(INSPECTION);
        inspection.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dropped = Dropped::default();
        loop {
            let next = tokio::select! {
                () = accepted.closed() => return,
                next = self.tcp.accept() => next,
                () = changed.changed() => { house.inspect(); continue }
                _ = inspection.tick() => { house.inspect(); continue }
            };
            let (stream, peer) = match next {
                Ok(next) => next,
                // The peer went away before we came to it.
                Err(error) if is_the_peers(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(EXHAUSTED).await;
                    continue;
                }
            };
            let (place, loser) = house.strangers.take(Guest { who: network(peer.ip()), chain: Vec::new() });
            if let Some(loser) = loser {
                dropped.one_of(&loser, self.limits.handshakes);
            }
            let (house, accepted) = (house.clone(), accepted.clone());
            tokio::spawn(async move {
                match house.let_in(Counted { stream, place }, peer.ip()).await {
                    // Nobody receives any more when we are shutting down.
                    Ok(stream) => drop(accepted.send(Ok(stream)).await),
                    Err(error) => tracing::debug!(%peer, %error, "no handshake"),
                }
            });
        }
    }
}

/// What the tasks of a listener share.
struct House {
    strangers: Arc<Places>,
    known: Arc<Places>,
    config: Config,
    deadline: Duration,
}

impl House {
    /// The handshake, and a place among those who are known after it.
    async fn let_in(&self, stream: Counted, address: IpAddr) -> io::Result<Accepted> {
        stream.stream.set_nodelay(true)?;
        let (config, credentials) = self.config.current();
        // A place lost meanwhile shows as the end of the stream.
        let mut stream = timeout(self.deadline, TlsAcceptor::from(config).accept(stream)).await??;
        let (counted, tls) = stream.get_mut();
        let chain = tls.peer_certificates().unwrap_or_default().to_vec();
        let who = chain.first().and_then(|leaf| identity_of(leaf).ok());
        let who = who.map_or_else(|| network(address), |identity| identity.to_string());
        let (place, loser) = self.known.take(Guest { who: who.clone(), chain });
        counted.place = place;
        if let Some(loser) = loser {
            tracing::warn!(loser, newcomer = who, "a connection was dropped: there are too many");
        }
        // The lists may have changed during the handshake, and those connected been looked at before this one was.
        if let (Some(before), Config::Reloadable(tls)) = (credentials, &self.config)
            && !Arc::ptr_eq(&before, &tls.current())
        {
            self.inspect();
        }
        Ok(stream)
    }

    /// Cuts off whose certificate is not good any more.
    fn inspect(&self) {
        let Config::Reloadable(tls) = &self.config else { return };
        let (credentials, now) = (tls.current(), Timestamp::now());
        let ended = self.known.clear(|chain| credentials.still_good(chain, now).is_ok());
        if ended > 0 {
            tracing::warn!(ended, "connections were ended: their certificates are not good any more");
        }
    }
}

impl Config {
    fn current(&self) -> (Arc<ServerConfig>, Option<Arc<Credentials>>) {
        match self {
            Self::Reloadable(tls) => {
                let credentials = tls.current();
                (credentials.server_config(), Some(credentials))
            }
            Self::Fixed(config) => (config.clone(), None),
        }
    }

    fn changed(&self) -> Changed {
        match self {
            Self::Reloadable(tls) => Changed(Some(tls.changes())),
            Self::Fixed(_) => Changed(None),
        }
    }
}

/// Changes of the credentials, if they ever change.
struct Changed(Option<watch::Receiver<()>>);

impl Changed {
    async fn changed(&mut self) {
        let Some(changes) = &mut self.0 else { return std::future::pending().await };
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Who cannot be told from whom: an address, and with IPv6 all that one subscriber has of them.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let prefix = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64));
            format!("{prefix}/64")
        }
    }
}

/// A flood of connections is no flood of log lines.
#[derive(Default)]
struct Dropped {
    untold: u64,
    told: Option<Instant>,
}

impl Dropped {
    fn one_of(&mut self, whose: &str, limit: usize) {
        self.untold += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TOLD) {
            let count = std::mem::take(&mut self.untold);
            tracing::warn!(count, last = whose, limit, "dropped: too many connections without a handshake");
            self.told = Some(Instant::now());
        }
    }
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl Counted {
    /// Whoever waits for the stream is woken when the place is lost.
    fn cut_off(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match Pin::new(&mut self.place).poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.cut_off(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.cut_off(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.cut_off(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
