//! Accepting connections: handshake deadlines, caps, and a loop that no odd client ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::verifier::AnyCaller;
use super::{SelfSigned, Tls, provider, server_config};

/// What a listener bears.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A client that sends nothing for this long, or takes longer for its handshake, is dropped.
    pub handshake: Duration,
    /// Handshakes at once; more wait.
    pub handshakes: usize,
    /// Connections at once; more are dropped.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(5), handshakes: 64, connections: 512 }
    }
}

/// How long to wait before accepting again when the process has no more descriptors.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// An accepted connection, handshake done.
pub type Accepted = tokio_rustls::server::TlsStream<Counted>;

/// A connection that is counted until it is closed.
pub struct Counted {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
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
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let handshakes = Arc::new(Semaphore::new(self.limits.handshakes));
        loop {
            let next = tokio::select! {
                () = accepted.closed() => return,
                next = self.tcp.accept() => next,
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
            let Ok(place) = places.clone().try_acquire_owned() else {
                tracing::warn!(%peer, limit = self.limits.connections, "dropped: too many connections");
                continue;
            };
            let config = match &self.config {
                Config::Reloadable(tls) => tls.current().server_config(),
                Config::Fixed(config) => config.clone(),
            };
            let stream = Counted { stream, _place: place };
            let (handshakes, accepted, deadline) =
                (handshakes.clone(), accepted.clone(), self.limits.handshake);
            tokio::spawn(async move {
                match handshake(config, stream, &handshakes, deadline).await {
                    // Nobody receives any more when we are shutting down.
                    Ok(stream) => drop(accepted.send(Ok(stream)).await),
                    Err(error) => tracing::debug!(%peer, %error, "no handshake"),
                }
            });
        }
    }
}

/// Who sends nothing holds up nobody: the turn comes after the first byte. Waiting for the turn does not count towards
/// the deadline, or slow clients would use up the time of quick ones.
async fn handshake(
    config: Arc<ServerConfig>,
    stream: Counted,
    turn: &Semaphore,
    deadline: Duration,
) -> io::Result<Accepted> {
    stream.stream.set_nodelay(true)?;
    timeout(deadline, stream.stream.peek(&mut [0])).await??;
    let _turn = turn.acquire().await;
    timeout(deadline, TlsAcceptor::from(config).accept(stream)).await?
}

fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
