//! A certificate authority that is just being made.

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use umsid_common::name::TrustDomain;
use zeroize::Zeroizing;

use super::register::Register;
use super::{AUTHORITY_LIFE, AuthorityError, Key, common_name, issuer, set_life};

/// A new authority, not written anywhere yet.
pub struct Founding {
    pub(super) key: Key,
    /// PEM.
    pub certificate_pem: String,
    pub(super) register: Register,
}

impl Founding {
    /// Makes key, certificate and an empty register.
    pub fn new(trust_domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let key = Key(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("umsid {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = Timestamp::now();
        set_life(&mut params, now, now + AUTHORITY_LIFE);
        let certificate_pem = params.self_signed(&key.0)?.pem();
        let mut register = Register::new(trust_domain.clone());
        register.sign(&issuer(&certificate_pem, &key)?, now, now + AUTHORITY_LIFE)?;
        Ok(Self { key, certificate_pem, register })
    }

    /// The private key, PEM.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.0.serialize_pem())
    }

    /// The register as it is written.
    pub fn register_text(&self) -> Result<String, AuthorityError> {
        self.register.to_text()
    }
}
