//! Dialling: name, TCP, TLS and the other side's consent, each failure told apart.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error as RustlsError, OtherError};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::Tls;
use super::verifier::{SomebodyElse, describe, nobody};
use crate::digest::Digest;
use crate::name::Identity;

/// No connection, and why, so that a program can branch on it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("{address}: the name cannot be resolved: {why}")]
    Resolve {
        /// host:port
        address: String,
        /// From the resolver.
        why: String,
    },
    /// Nothing answers there, or no more, or not in time: it may be better later. An agent that is stopped, starts, or
    /// has no place free looks so too, although its host accepts the connection.
    #[error("{address}: no connection: {why}")]
    Unreachable {
        /// host:port
        address: String,
        /// From the operating system, or the deadline.
        why: String,
    },
    /// Something answers, and what it says is not TLS 1.3 with a certificate.
    #[error("{address}: no TLS 1.3 there: {why}")]
    Handshake {
        /// host:port
        address: String,
        /// From the TLS library.
        why: String,
    },
    /// A valid certificate, but another server's.
    #[error("{address}: this is {found}, expected was {expected}")]
    WrongServer {
        /// host:port
        address: String,
        /// Whom we dialled.
        expected: String,
        /// Who answered.
        found: String,
    },
    /// Its certificate is expired, revoked, foreign or malformed.
    #[error("{address}: its certificate is not accepted: {why}")]
    Certificate {
        /// host:port
        address: String,
        /// What is wrong with it, as "expired", "revoked", "issued by somebody else".
        why: String,
    },
    /// The other side does not accept ours.
    #[error("{address}: it does not accept our certificate: {why}")]
    Rejected {
        /// host:port
        address: String,
        /// The alert it sent.
        why: String,
    },
    /// It is behind a gateway, and there is no connection to that: of the server itself nothing is known.
    #[error("{address}: no connection to its gateway")]
    Gateway {
        /// What was dialled.
        address: String,
        /// What is wrong with the gateway.
        #[source]
        source: Box<ConnectError>,
    },
    /// It is behind a gateway, and that makes no connections to it.
    #[error("{address}: its gateway refuses: {why}")]
    Refused {
        /// What was dialled.
        address: String,
        /// As the gateway says.
        why: String,
        /// What to do about it.
        remedy: String,
    },
}

impl ConnectError {
    /// Whether it may be better later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Unreachable { .. } => true,
            Self::Gateway { source, .. } => source.is_transient(),
            Self::Handshake { .. }
            | Self::WrongServer { .. }
            | Self::Certificate { .. }
            | Self::Rejected { .. }
            | Self::Refused { .. } => false,
        }
    }
}

/// How long to try.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// HTTP/2 keep-alive: a ping when nothing was heard for this long; the connection ends when none comes back in as much again.
    pub keep_alive: Duration,
    /// What may be in flight.
    pub flow: Flow,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), keep_alive: Duration::from_secs(10), flow: Flow::default() }
    }
}

/// How much may be on its way to us before we have taken it, in bytes; `None`: what the library has by default, 1 to 5 MiB, which is
/// little on a long line: a window fills once each round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Of one stream, and of all of a connection.
    pub window: Option<u32>,
    /// The largest frame.
    pub frame: Option<u32>,
}

impl Default for Flow {
    fn default() -> Self {
        // 75 MB/s at round trips of 80 ms; a coordinator that relays holds as much.
        Self { window: Some(6 << 20), frame: Some(512 << 10) }
    }
}

/// What TLS can be spoken over.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// A connection that comes about.
pub type Opening<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Carrier>, ConnectError>> + Send + 'a>>;

/// How to get to somebody; taken anew for every connection of a channel.
pub trait Way: Send + Sync + 'static {
    /// What errors call the far end, as `host:port`.
    fn name(&self) -> &str;

    /// How many times the patience for a connection it may take.
    fn legs(&self) -> u32 {
        1
    }

    /// Opens a connection, on which TLS is spoken with the far end afterwards, or gives up at this moment.
    fn open(&self, until: Instant) -> Opening<'_>;
}

/// Straight there: `host:port`.
struct Straight(String);

impl Way for Straight {
    fn name(&self) -> &str {
        &self.0
    }

    fn open(&self, until: Instant) -> Opening<'_> {
        Box::pin(async move { Ok(Box::new(resolve_and_connect(&self.0, until).await?) as Box<dyn Carrier>) })
    }
}

/// Connects to a server that must prove to be `expected`, whatever name or address led there. The channel connects
/// again by itself when the connection is lost, each time with the credentials then in use.
pub async fn connect(
    address: &str,
    tls: &Arc<Tls>,
    expected: &Identity,
    patience: &Patience,
) -> Result<Channel, ConnectError> {
    connect_by(Arc::new(Straight(address.to_owned())), tls, expected, patience).await
}

/// As [`connect`], another way than straight.
pub async fn connect_by(
    way: Arc<dyn Way>,
    tls: &Arc<Tls>,
    expected: &Identity,
    patience: &Patience,
) -> Result<Channel, ConnectError> {
    let (tls, expected) = (tls.clone(), expected.clone());
    let config = move || tls.current().client_config(&expected);
    channel(way, patience, config, |_| ()).await
}

/// Connects to an agent that waits for enrolment; gives the SHA-256 of the certificate it presented. With `pin`, any
/// other certificate is refused (the first 16 bytes are compared, as many as a pairing code carries). Should the
/// channel connect again, only the very same certificate will do.
pub async fn connect_for_enrolment(
    address: &str,
    tls: &Arc<Tls>,
    pin: Option<[u8; 16]>,
    patience: &Patience,
) -> Result<(Channel, Digest), ConnectError> {
    connect_for_enrolment_by(Arc::new(Straight(address.to_owned())), tls, pin, patience).await
}

/// As [`connect_for_enrolment`], another way than straight.
pub async fn connect_for_enrolment_by(
    way: Arc<dyn Way>,
    tls: &Arc<Tls>,
    pin: Option<[u8; 16]>,
    patience: &Patience,
) -> Result<(Channel, Digest), ConnectError> {
    let tls = tls.clone();
    let presented = Arc::new(OnceLock::<Digest>::new());
    let seen = presented.clone();
    let config = move || {
        let pin = seen.get().map(|digest| digest.as_bytes().to_vec()).or(pin.map(Vec::from));
        tls.current().enrolment_config(pin)
    };
    let first = presented.clone();
    let remember = move |certificate: &[u8]| {
        first.get_or_init(|| Digest::of(certificate));
    };
    let channel = channel(way.clone(), patience, config, remember).await?;
    match presented.get() {
        Some(digest) => Ok((channel, *digest)),
        None => Err(ConnectError::Handshake {
            address: way.name().to_owned(),
            why: "there was no certificate".into(),
        }),
    }
}

async fn channel(
    way: Arc<dyn Way>,
    patience: &Patience,
    config: impl Fn() -> ClientConfig + Clone + Send + Sync + 'static,
    certificate: impl Fn(&[u8]) + Clone + Send + Sync + 'static,
) -> Result<Channel, ConnectError> {
    let (taken, deadline) = (way.clone(), patience.connect * way.legs());
    let connector = tower::service_fn(move |_| {
        let (way, config, certificate) = (taken.clone(), config.clone(), certificate.clone());
        async move { dial(&*way, config(), certificate, deadline).await.map(TokioIo::new) }
    });
    // The connector decides where to; this is only what HTTP/2 wants to see in every request.
    Endpoint::from_static("http://umsid-agent")
        .http2_keep_alive_interval(patience.keep_alive)
        .keep_alive_timeout(patience.keep_alive)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(patience.flow.window)
        .initial_connection_window_size(patience.flow.window)
        .max_frame_size(patience.flow.frame)
        .connect_with_connector(connector)
        .await
        .map_err(|error| {
            let (address, why) = (way.name(), || innermost(&error));
            connection_fault(address, &error)
                .unwrap_or_else(|| ConnectError::Unreachable { address: address.to_owned(), why: why() })
        })
}

type Dialled = BufReader<TlsStream<Box<dyn Carrier>>>;

async fn dial(
    way: &dyn Way,
    config: ClientConfig,
    certificate: impl Fn(&[u8]),
    deadline: Duration,
) -> Result<Dialled, ConnectError> {
    let (until, address) = (Instant::now() + deadline, way.name());
    let late = |doing: &str| format!("{doing} took longer than {deadline:?}");
    // Silence, an end or a reset says nothing of who is there: only words of the other side can be the wrong ones.
    let unreachable = |why| ConnectError::Unreachable { address: address.to_owned(), why };
    let broken = |doing: &str, error: &io::Error| {
        fault_of_io(address, error).unwrap_or_else(|| unreachable(format!("{doing} broke off: {error}")))
    };

    let opened = way.open(until).await?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(nobody(), opened);
    let stream = match tokio::time::timeout_at(until, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(broken("the handshake", &error)),
        Err(_) => return Err(unreachable(late("the handshake"))),
    };
    if let Some(leaf) = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
        certificate(leaf);
    }

    // In TLS 1.3 we are done before the other side has seen our certificate; its verdict is the first thing to read. An
    // HTTP/2 server that accepts us speaks first, with its settings. Nothing is written before: a refusal would
    // otherwise be lost in the reset that answers to data nobody wants.
    let mut stream = BufReader::new(stream);
    match tokio::time::timeout_at(until, stream.fill_buf()).await {
        Ok(Ok([])) => Err(unreachable("it closed the connection after the handshake".into())),
        Ok(Ok(_)) => Ok(stream),
        Ok(Err(error)) => Err(broken("after the handshake the connection", &error)),
        Err(_) => Err(unreachable(late("the first answer after the handshake"))),
    }
}

/// A connection to `host:port`.
///
/// # Errors
/// [`ConnectError::Resolve`] or [`ConnectError::Unreachable`].
pub async fn resolve_and_connect(address: &str, until: Instant) -> Result<TcpStream, ConnectError> {
    let unresolved = |why| ConnectError::Resolve { address: address.to_owned(), why };
    let addresses: Vec<_> = match tokio::time::timeout_at(until, tokio::net::lookup_host(address)).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(unresolved(error.to_string())),
        Err(_) => return Err(unresolved("looking up the name took too long".into())),
    };
    connect_tcp(address, &addresses, until)
        .await
        .map_err(|why| ConnectError::Unreachable { address: address.to_owned(), why })
}

/// The first of these addresses of `dialled` that answers; each gets its share of the time left.
async fn connect_tcp(dialled: &str, addresses: &[SocketAddr], until: Instant) -> Result<TcpStream, String> {
    let mut why = "the name has no address".to_owned();
    for (tried, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        // Who dialled an address knows which one it was.
        let told = match address.to_string() {
            same if same == dialled => String::new(),
            other => format!("{other}: "),
        };
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        why = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => match stream.set_nodelay(true) {
                Ok(()) => return Ok(stream),
                Err(error) => format!("{told}{error}"),
            },
            Ok(Err(error)) => format!("{told}{error}"),
            Err(_) => format!("{told}no answer in {share:.1?}"),
        };
    }
    Err(why)
}

/// Finds out of an RPC's error whether the connection was at fault, and how.
pub fn connection_fault(address: &str, error: &(dyn Error + 'static)) -> Option<ConnectError> {
    let mut next = Some(error);
    let mut lost = false;
    while let Some(error) = next {
        if let Some(fault) = fault_of_one(address, error) {
            return Some(fault);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            if let Some(fault) = fault_of_io(address, error) {
                return Some(fault);
            }
            lost = true;
        }
        lost |= error.is::<tonic::transport::Error>();
        next = error.source();
    }
    lost.then(|| ConnectError::Unreachable { address: address.to_owned(), why: innermost(error) })
}

fn fault_of_one(address: &str, error: &(dyn Error + 'static)) -> Option<ConnectError> {
    if let Some(fault) = error.downcast_ref::<ConnectError>() {
        return Some(fault.clone());
    }
    error.downcast_ref::<RustlsError>().map(|error| fault_of_tls(address, error))
}

/// An I/O error hides what it was made of from `source()`.
fn fault_of_io(address: &str, error: &io::Error) -> Option<ConnectError> {
    let inner = error.get_ref()?;
    if let Some(nested) = inner.downcast_ref::<io::Error>() {
        return fault_of_io(address, nested);
    }
    fault_of_one(address, inner)
}

fn fault_of_tls(address: &str, error: &RustlsError) -> ConnectError {
    use AlertDescription as Alert;
    let address = address.to_owned();
    match error {
        RustlsError::InvalidCertificate(CertificateError::Other(OtherError(why)))
            if let Some(other) = why.downcast_ref::<SomebodyElse>() =>
        {
            ConnectError::WrongServer {
                address,
                expected: other.expected.clone(),
                found: other.found.clone(),
            }
        }
        RustlsError::InvalidCertificate(_) | RustlsError::InvalidCertRevocationList(_) => {
            ConnectError::Certificate { address, why: describe(error) }
        }
        RustlsError::AlertReceived(alert) => {
            let why = match alert {
                Alert::CertificateExpired => "expired, or not valid yet",
                Alert::CertificateRevoked => "revoked",
                Alert::UnknownCA => "issued by somebody else",
                Alert::AccessDenied => "it names no one of that trust domain",
                Alert::CertificateRequired => "there was none",
                Alert::UnsupportedCertificate => "not made for this purpose",
                Alert::BadCertificate | Alert::CertificateUnknown | Alert::DecryptError => {
                    "malformed or not understood"
                }
                other => {
                    return ConnectError::Handshake { address, why: format!("it sent the alert {other:?}") };
                }
            };
            ConnectError::Rejected { address, why: why.to_owned() }
        }
        other => ConnectError::Handshake { address, why: other.to_string() },
    }
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
