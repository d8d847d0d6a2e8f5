//! The only place where TLS is built: version 1.3, both certificates, revocation lists, reload, handshake deadlines.

mod connect;
mod credentials;
mod listener;
mod places;
mod verifier;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroize as _;

use crate::digest::Digest;
use crate::name::Identity;

pub use connect::{
    Carrier, ConnectError, Flow, Opening, Patience, Way, connect, connect_by, connect_for_enrolment,
    connect_for_enrolment_by, connection_fault, resolve_and_connect,
};
pub use credentials::Credentials;
pub use listener::{Accepted, Counted, Limits, Listener};
pub use verifier::identity_of;
use verifier::{Callee, CalleeVerifier, check_signature};

/// The first certificate in a PEM text, DER; `None`: there is none that is whole.
pub fn first_certificate(pem: &str) -> Option<Vec<u8>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|certificate| certificate.to_vec())
}

/// Whether this private key is that of the first certificate, both PEM.
pub fn is_key_of(key_pem: &str, certificate_pem: &str) -> bool {
    let Ok(mut key) = KeyPair::from_pem(key_pem) else { return false };
    let der = first_certificate(certificate_pem).unwrap_or_default();
    let is_of = x509_parser::parse_x509_certificate(&der).is_ok_and(|(_, certificate)| {
        key.public_key_raw() == &*certificate.public_key().subject_public_key.data
    });
    key.zeroize();
    is_of
}

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

impl TlsError {
    fn unusable(path: &Path, why: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_owned(), why: why.into() }
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
pub fn verify_own(chain: &[Vec<u8>], message: &[u8], signature: &[u8]) -> Result<Identity, VerifyError> {
    let leaf = chain.first().ok_or_else(|| VerifyError::Certificate("there is none".into()))?;
    let identity = identity_of(leaf)?;
    check_signature(leaf, message, signature)?;
    Ok(identity)
}

/// Credentials that can change while connections are open: new connections get the new ones.
pub struct Tls {
    files: Files,
    current: ArcSwap<Credentials>,
    changed: tokio::sync::watch::Sender<()>,
}

impl Tls {
    /// Loads the files.
    pub fn load(files: Files) -> Result<Arc<Self>, TlsError> {
        let current = ArcSwap::from_pointee(Credentials::load(&files)?);
        Ok(Arc::new(Self { files, current, changed: tokio::sync::watch::Sender::new(()) }))
    }

    /// The files it was loaded from.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The credentials in use.
    pub fn current(&self) -> Arc<Credentials> {
        self.current.load_full()
    }

    /// Loads the files again; on error the old credentials stay. `true` if something changed.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let new = Credentials::load(&self.files)?;
        if new.content == self.current.load().content {
            return Ok(false);
        }
        self.current.store(Arc::new(new));
        self.changed.send_replace(());
        Ok(true)
    }

    /// Tells when other credentials are in use than before.
    fn changes(&self) -> tokio::sync::watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// A certificate nobody vouches for.
pub struct SelfSigned {
    /// DER.
    pub certificate: Vec<u8>,
    /// PEM (PKCS#8).
    pub key_pem: SecretString,
}

impl SelfSigned {
    /// Makes a key and a certificate for it that lasts one day.
    ///
    /// # Panics
    /// If the operating system has no random bytes to give.
    pub fn generate() -> Self {
        let key = generate_key_pair();
        let mut params = CertificateParams::default();
        let now = std::time::SystemTime::now();
        params.not_before = (now - std::time::Duration::from_secs(3600)).into();
        params.not_after = (now + std::time::Duration::from_secs(24 * 3600)).into();
        let certificate = params.self_signed(&key).expect("a P-256 key signs a certificate without names");
        Self { certificate: certificate.der().to_vec(), key_pem: key.serialize_pem().into() }
    }

    /// SHA-256 of the certificate.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.certificate)
    }
}

/// Makes a P-256 key (PKCS#8 PEM).
///
/// # Panics
/// If the operating system has no random bytes to give.
pub fn generate_key() -> SecretString {
    generate_key_pair().serialize_pem().into()
}

fn generate_key_pair() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the operating system gives random bytes")
}

/// A certificate signing request (PKCS#10 DER) for a key, asking for this identity.
pub fn request(key_pem: &SecretString, identity: &Identity) -> Result<Vec<u8>, TlsError> {
    let unusable = |error: rcgen::Error| TlsError::unusable(Path::new("the private key"), error.to_string());
    let key = KeyPair::from_pem(key_pem.expose_secret()).map_err(unusable)?;
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::URI(identity.to_string().try_into().map_err(unusable)?));
    Ok(params.serialize_request(&key).map_err(unusable)?.der().to_vec())
}

/// A TLS client configuration for asking a local server, whose certificate is self-signed, about its health: takes any
/// certificate and TLS 1.2, because nothing it says is trusted with anything. Never for agents.
///
/// # Panics
/// Never: ring has the cipher suites of both versions.
pub fn unauthenticated_client() -> Arc<ClientConfig> {
    let verifier = CalleeVerifier { callee: Callee::Anybody, provider: provider() };
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has cipher suites for TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// No tickets and no stored sessions: every connection is judged by today's certificates and lists.
fn server_config(
    callers: Arc<dyn ClientCertVerifier>,
    presented: Arc<dyn ResolvesServerCert>,
) -> Arc<ServerConfig> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has cipher suites for TLS 1.3")
        .with_client_cert_verifier(callers)
        .with_cert_resolver(presented);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// As with the server, nothing is resumed.
fn client_config(callee: CalleeVerifier, presented: Arc<dyn ResolvesClientCert>) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("ring has cipher suites for TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(callee))
        .with_client_cert_resolver(presented);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_certificate_is_found_among_other_things() {
        let pem = |what: &str, body: &str| format!("-----BEGIN {what}-----\n{body}\n-----END {what}-----\n");
        let (one, two) = (pem("CERTIFICATE", "b25l"), pem("CERTIFICATE", "dHdv"));
        let text = format!("# ours\n{}{one}{two}", pem("PRIVATE KEY", "a2V5"));
        assert_eq!(first_certificate(&text).as_deref(), Some(&b"one"[..]));
        assert_eq!(first_certificate(&text.replace('\n', "\r\n")).as_deref(), Some(&b"one"[..]));
        assert_eq!(first_certificate("-----BEGIN CERTIFICATE-----\nb25l"), None);
        assert_eq!(first_certificate(""), None);
    }
}
