//! The only place where TLS is built: version 1.3, both certificates, revocation lists, reload, handshake deadlines.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tonic::transport::Channel;

use crate::digest::Digest;
use crate::name::Identity;

/// The four files that say who we are and whom we trust.
#[derive(Clone, Debug)]
pub struct Files {
    /// Our certificate, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM (PKCS#8), 0600.
    pub key: PathBuf,
    /// Trust anchors, PEM, one or more.
    pub anchors: PathBuf,
    /// Revocation lists, PEM, one for each anchor.
    pub crls: PathBuf,
}

impl Files {
    /// `certificate.pem`, `key.pem`, `anchors.pem` and `crls.pem` of a directory.
    pub fn in_dir(dir: &Path) -> Self {
        let file = |name: &str| dir.join(name);
        Self {
            certificate: file("certificate.pem"),
            key: file("key.pem"),
            anchors: file("anchors.pem"),
            crls: file("crls.pem"),
        }
    }
}

/// Certificates, keys or lists that cannot be used; names the file at fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not readable.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Content that does not do.
    #[error("{path}: {why}")]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What a set of files amounts to, checked: the key belongs to the certificate, and a peer with the same anchors would accept it.
pub struct Credentials {
    _private: (),
}

impl Credentials {
    /// Loads and checks.
    pub fn load(_files: &Files) -> Result<Self, TlsError> {
        todo!()
    }

    /// Who we are.
    pub fn identity(&self) -> &Identity {
        todo!()
    }

    /// The certificate's life.
    pub fn validity(&self) -> (Timestamp, Timestamp) {
        todo!()
    }

    /// Whether a third of the certificate's life or less is left.
    pub fn wants_renewal(&self, _now: Timestamp) -> bool {
        todo!()
    }

    /// Number of the newest revocation list.
    pub fn crl_number(&self) -> u64 {
        todo!()
    }

    /// Our chain, DER, leaf first.
    pub fn chain(&self) -> &[Vec<u8>] {
        todo!()
    }

    /// Signs with the certificate's key (ECDSA P-256, SHA-256, ASN.1).
    pub fn sign(&self, _message: &[u8]) -> Vec<u8> {
        todo!()
    }

    /// Whose signature this is: the chain must lead to our anchors now and not be revoked.
    pub fn verify(&self, _chain: &[Vec<u8>], _message: &[u8], _signature: &[u8]) -> Result<Identity, VerifyError> {
        todo!()
    }
}

/// A signature or certificate that is not to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The chain does not lead to our anchors, is expired or revoked.
    #[error("the certificate is not trusted: {0}")]
    Certificate(String),
    /// The certificate does not carry exactly one SPIFFE ID.
    #[error("the certificate names no one: {0}")]
    Identity(String),
    /// The signature is not this certificate's over this message.
    #[error("the signature is wrong")]
    Signature,
}

/// Whose signature this is by the certificate that came with it, whoever issued that. Only for files that were never
/// out of our own hands.
pub fn verify_own(_chain: &[Vec<u8>], _message: &[u8], _signature: &[u8]) -> Result<Identity, VerifyError> {
    todo!()
}

/// The identity in a certificate (DER): exactly one URI among its alternative names, or nobody.
pub fn identity_of(_certificate: &[u8]) -> Result<Identity, VerifyError> {
    todo!()
}

/// Credentials that can change while connections are open: new connections get the new ones.
pub struct Tls {
    _private: (),
}

impl Tls {
    /// Loads the files.
    pub fn load(_files: Files) -> Result<Arc<Self>, TlsError> {
        todo!()
    }

    /// The files it was loaded from.
    pub fn files(&self) -> &Files {
        todo!()
    }

    /// The credentials in use.
    pub fn current(&self) -> Arc<Credentials> {
        todo!()
    }

    /// Loads the files again; on error the old credentials stay. `true` if something changed.
    pub fn reload(&self) -> Result<bool, TlsError> {
        todo!()
    }
}

/// What a listener bears.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A handshake that takes longer is dropped.
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

/// An accepted connection, handshake done.
pub type Accepted = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

/// Accepts mutually authenticated connections, for `tonic`'s `serve_with_incoming_shutdown`.
pub struct Listener {
    _private: (),
}

impl Listener {
    /// Listens with reloadable credentials.
    pub async fn bind(_address: SocketAddr, _tls: Arc<Tls>, _limits: Limits) -> std::io::Result<Self> {
        todo!()
    }

    /// Listens for an enrolment: presents this self-signed certificate, takes any client certificate (who the caller
    /// is, the secret proves).
    pub async fn bind_enrolment(_address: SocketAddr, _own: &SelfSigned, _limits: Limits) -> std::io::Result<Self> {
        todo!()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        todo!()
    }

    /// The accepted connections.
    pub fn incoming(self) -> impl tokio_stream::Stream<Item = std::io::Result<Accepted>> + Send + use<> {
        tokio_stream::empty()
    }
}

/// A certificate nobody vouches for.
pub struct SelfSigned {
    /// DER.
    pub certificate: Vec<u8>,
    /// PEM (PKCS#8).
    pub key_pem: secrecy::SecretString,
}

impl SelfSigned {
    /// Makes a key and a certificate for it that lasts one day.
    pub fn generate() -> Self {
        todo!()
    }

    /// SHA-256 of the certificate.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.certificate)
    }
}

/// Makes a P-256 key (PKCS#8 PEM).
pub fn generate_key() -> secrecy::SecretString {
    todo!()
}

/// A certificate signing request (PKCS#10 DER) for a key, asking for this identity.
pub fn request(_key_pem: &secrecy::SecretString, _identity: &Identity) -> Result<Vec<u8>, TlsError> {
    todo!()
}

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
    /// Nothing answers there.
    #[error("{address}: no connection: {why}")]
    Unreachable {
        /// host:port
        address: String,
        /// From the operating system, or the deadline.
        why: String,
    },
    /// Something answers, but does not speak TLS 1.3 with a certificate.
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
}

/// How long to try.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// HTTP/2 keep-alive: a ping when nothing was heard for this long; the connection ends when none comes back in as much again.
    pub keep_alive: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), keep_alive: Duration::from_secs(10) }
    }
}

/// Connects to a server that must prove to be `expected`, whatever name or address led there. The channel connects
/// again by itself when the connection is lost.
pub async fn connect(
    _address: &str,
    _tls: &Arc<Tls>,
    _expected: &Identity,
    _patience: &Patience,
) -> Result<Channel, ConnectError> {
    todo!()
}

/// Connects to an agent that waits for enrolment; gives the SHA-256 of the certificate it presented. With `pin`, any
/// other certificate is refused (the first 16 bytes are compared, as many as a pairing code carries).
pub async fn connect_for_enrolment(
    _address: &str,
    _tls: &Arc<Tls>,
    _pin: Option<[u8; 16]>,
    _patience: &Patience,
) -> Result<(Channel, Digest), ConnectError> {
    todo!()
}

/// Finds out of an RPC's error whether the connection was at fault, and how.
pub fn connection_fault(_address: &str, _error: &(dyn Error + 'static)) -> Option<ConnectError> {
    todo!()
}

/// A TLS client configuration for asking a local server, whose certificate is self-signed, about its health: takes any
/// certificate and TLS 1.2, because nothing it says is trusted with anything. Never for agents.
pub fn unauthenticated_client() -> Arc<rustls::ClientConfig> {
    todo!()
}
