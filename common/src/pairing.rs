//! How two sides that know a secret prove it to each other during enrolment: by pairing code or join file.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::name::{ClusterName, ServerName, TrustDomain};

/// What both sides know.
#[derive(Clone)]
pub struct Secret(#[expect(dead_code, reason = "used by the proofs")] Zeroizing<Vec<u8>>);

/// What an agent prints and a person carries over: the first half of the hash of the certificate it will present, and a
/// one-time secret of 80 bits, in groups of base32 with a check digit.
pub struct PairingCode {
    /// First 16 bytes of the SHA-256 of the agent's self-signed certificate.
    pub certificate: [u8; 16],
    /// One-time.
    pub secret: Secret,
}

impl PairingCode {
    /// A new code for this certificate.
    pub fn generate(_certificate: &Digest) -> Self {
        todo!()
    }

    /// The code as a person copies it.
    pub fn to_text(&self) -> Zeroizing<String> {
        todo!()
    }
}

/// Text that is not a pairing code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no pairing code: {0}")]
pub struct InvalidCode(String);

impl FromStr for PairingCode {
    type Err = InvalidCode;

    fn from_str(_text: &str) -> Result<Self, InvalidCode> {
        todo!()
    }
}

/// What is enrolled as what, under which anchors.
pub struct Terms<'a> {
    /// SHA-256 of the certificate the agent presents on this connection.
    pub certificate: Digest,
    /// PEM.
    pub anchors_pem: &'a str,
    /// The installation of umsid.
    pub trust_domain: &'a TrustDomain,
    /// Its cluster.
    pub cluster: &'a ClusterName,
    /// Its name.
    pub server: &'a ServerName,
}

impl Secret {
    /// A new secret of 256 bits.
    pub fn generate() -> Self {
        todo!()
    }

    /// SHA-256 of the secret, to recognise it by.
    pub fn digest(&self) -> Digest {
        todo!()
    }

    /// The coordinator's proof that it knows the secret and means these terms.
    pub fn prove_terms(&self, _terms: &Terms<'_>) -> [u8; 32] {
        todo!()
    }

    /// Whether this is the coordinator's proof; in constant time.
    pub fn check_terms(&self, _terms: &Terms<'_>, _proof: &[u8]) -> bool {
        todo!()
    }

    /// The agent's proof that it knows the secret and made this request.
    pub fn prove_request(&self, _certificate: &Digest, _csr: &[u8], _recipient: &str) -> [u8; 32] {
        todo!()
    }

    /// Whether this is the agent's proof; in constant time.
    pub fn check_request(&self, _certificate: &Digest, _csr: &[u8], _recipient: &str, _proof: &[u8]) -> bool {
        todo!()
    }

    /// The coordinator's proof over the certificate it issued.
    pub fn prove_issued(&self, _certificate_pem: &str, _crls_pem: &str) -> [u8; 32] {
        todo!()
    }

    /// Whether this is the coordinator's proof; in constant time.
    pub fn check_issued(&self, _certificate_pem: &str, _crls_pem: &str, _proof: &[u8]) -> bool {
        todo!()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The file that lets one server join without anybody at its console. TOML.
#[derive(Serialize, Deserialize)]
pub struct JoinFile {
    /// The installation of umsid.
    pub trust_domain: TrustDomain,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name: this file is good for no other.
    pub server: ServerName,
    /// End of its use.
    pub expires: Timestamp,
    /// Base32.
    secret: String,
}

impl JoinFile {
    /// A new file for one server.
    pub fn new(
        _trust_domain: TrustDomain,
        _cluster: ClusterName,
        _server: ServerName,
        _expires: Timestamp,
    ) -> Self {
        todo!()
    }

    /// The secret in it.
    pub fn secret(&self) -> Result<Secret, InvalidCode> {
        todo!()
    }
}
