//! Every certificate ever issued, and the revocation list: one file, so that both always fit together.

use std::path::Path;

use jiff::Timestamp;
use rcgen::{CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber};
use serde::{Deserialize, Serialize};
use umsid_common::durable::{self, Access};
use umsid_common::name::{Identity, TrustDomain};

use super::{AuthorityError, whole_seconds};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    pub(super) trust_domain: TrustDomain,
    /// Of the list in `crl_pem`; only rises.
    pub(super) crl_number: u64,
    pub(super) crl_pem: String,
    pub(super) issued: Vec<Entry>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Hexadecimal.
    pub serial: String,
    /// Its SPIFFE ID.
    pub identity: String,
    /// Begin of its life.
    pub not_before: Timestamp,
    /// End of its life.
    pub not_after: Timestamp,
    /// When it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

impl Register {
    pub(super) fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, crl_number: 0, crl_pem: String::new(), issued: Vec::new() }
    }

    pub(super) fn load(dir: &Path) -> Result<Self, AuthorityError> {
        let path = dir.join("register.json");
        let bytes =
            durable::read_optional(&path)?.ok_or_else(|| AuthorityError::Missing { path: path.clone() })?;
        Self::parse(&path, &bytes)
    }

    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, AuthorityError> {
        serde_json::from_slice(bytes)
            .map_err(|error| AuthorityError::Unusable { path: path.to_owned(), why: error.to_string() })
    }

    pub(super) fn save(&self, dir: &Path) -> Result<(), AuthorityError> {
        Ok(durable::replace(&dir.join("register.json"), self.to_text()?.as_bytes(), Access::Private)?)
    }

    pub(super) fn to_text(&self) -> Result<String, AuthorityError> {
        serde_json::to_string_pretty(self).map_err(|error| AuthorityError::Making(error.to_string()))
    }

    pub(super) fn newest(&self, identity: &Identity) -> Option<&Entry> {
        let identity = identity.to_string();
        self.issued
            .iter()
            .filter(|entry| entry.identity == identity && entry.revoked.is_none())
            .max_by_key(|entry| entry.not_before)
    }

    pub(super) fn revoke(&mut self, identity: &Identity, keep: Option<&str>, now: Timestamp) -> usize {
        let identity = identity.to_string();
        let mut revoked = 0;
        for entry in &mut self.issued {
            let kept = keep == Some(entry.serial.as_str());
            if entry.identity == identity && entry.revoked.is_none() && entry.not_after > now && !kept {
                entry.revoked = Some(now);
                revoked += 1;
            }
        }
        revoked
    }

    /// Makes the next revocation list. Certificates that are past their life need no revocation any more.
    pub(super) fn sign(
        &mut self,
        issuer: &Issuer<'_, &KeyPair>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<(), AuthorityError> {
        let number = self.crl_number + 1;
        let revoked_certs = self
            .issued
            .iter()
            .filter(|entry| entry.not_after > now)
            .filter_map(|entry| entry.revoked.map(|at| (entry, at)))
            .map(|(entry, at)| {
                let serial = data_encoding::HEXLOWER
                    .decode(entry.serial.as_bytes())
                    .map_err(|error| AuthorityError::Making(format!("serial {}: {error}", entry.serial)))?;
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&serial),
                    revocation_time: whole_seconds(at).into(),
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect::<Result<_, AuthorityError>>()?;
        let list = CertificateRevocationListParams {
            this_update: whole_seconds(now).into(),
            next_update: whole_seconds(until).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        self.crl_pem = list.signed_by(issuer)?.pem()?;
        self.crl_number = number;
        Ok(())
    }
}
