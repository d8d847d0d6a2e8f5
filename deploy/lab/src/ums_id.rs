//! A UMS ID: a real X.509 certificate with its private key (UMS_FACTS §2), and backups of it (§3).

use std::fs;
use std::io;
use std::path::Path;

use age::secrecy::SecretString;
use data_encoding::HEXUPPER;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use sha1::Digest as _;

use crate::store::{self, Access};

/// The cost of the password, as a power of two: next to nothing, because a lab's secrets are none.
const WORK_FACTOR: u8 = 4;

/// Why there is no UMS ID in a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UmsIdError {
    #[error("cannot read or write the UMS ID")]
    File(#[from] io::Error),
    #[error("no certificate and private key in it")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("the private key and the certificate are no pair")]
    NoPair,
    #[error("cannot generate a key and a certificate")]
    Generate(#[from] rcgen::Error),
    #[error("The backup cannot be decrypted: wrong password or damaged file")]
    WrongPassword,
    #[error("The backup is not a UMS ID backup")]
    NoBackup,
    #[error("cannot encrypt the backup")]
    Encrypt(#[source] age::EncryptError),
}

/// A certificate and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UmsId {
    pem: String,
    certificate: CertificateDer<'static>,
}

/// What is encrypted in a backup file.
#[derive(Serialize, Deserialize)]
struct Backup {
    version: String,
    server: String,
    created: String,
    ums_id: String,
    /// Brings a backup to the size asked for.
    padding: String,
}

impl UmsId {
    /// Makes a new one for the installation called `organisation`.
    pub(crate) fn generate(organisation: &str) -> Result<Self, UmsIdError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, format!("UMS ID {}", uuid()));
        params.distinguished_name.push(DnType::OrganizationName, organisation);
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2046, 1, 1);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Self::from_pem(certificate.pem() + &key.serialize_pem())
    }

    pub(crate) fn from_pem(pem: String) -> Result<Self, UmsIdError> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(UmsIdError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(UmsIdError::Pem)?;
        let key = KeyPair::try_from(&key)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| UmsIdError::NoPair)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(UmsIdError::NoPair);
        }
        Ok(Self { certificate, pem })
    }

    pub(crate) fn read(path: &Path) -> Result<Self, UmsIdError> {
        Self::from_pem(fs::read_to_string(path)?)
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), UmsIdError> {
        Ok(store::replace(path, self.pem.as_bytes(), Access::Private)?)
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    pub(crate) fn certificate(&self) -> Certificate {
        Certificate(self.certificate.clone())
    }

    pub(crate) fn fingerprint(&self) -> String {
        self.certificate().sha256()
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, UmsIdError> {
        PrivateKeyDer::from_pem_slice(self.pem.as_bytes()).map_err(UmsIdError::Pem)
    }

    /// A backup of it under `password`, at least `size` bytes long.
    pub(crate) fn backup(
        &self,
        password: &str,
        server: &str,
        version: &str,
        size: u64,
    ) -> Result<Vec<u8>, UmsIdError> {
        let content = Backup {
            version: version.to_owned(),
            server: server.to_owned(),
            created: jiff::Timestamp::now().to_string(),
            ums_id: self.pem.clone(),
            padding: " ".repeat(usize::try_from(size).unwrap_or(usize::MAX)),
        };
        let plain = serde_json::to_vec(&content).map_err(io::Error::from)?;
        let mut recipient = age::scrypt::Recipient::new(SecretString::from(password));
        recipient.set_work_factor(WORK_FACTOR);
        age::encrypt(&recipient, &plain).map_err(UmsIdError::Encrypt)
    }

    /// Opens a backup.
    pub(crate) fn from_backup(file: &[u8], password: &str) -> Result<Self, UmsIdError> {
        let mut identity = age::scrypt::Identity::new(SecretString::from(password));
        identity.set_max_work_factor(WORK_FACTOR);
        let plain = age::decrypt(&identity, file).map_err(|_| UmsIdError::WrongPassword)?;
        let backup: Backup = serde_json::from_slice(&plain).map_err(|_| UmsIdError::NoBackup)?;
        Self::from_pem(backup.ums_id)
    }
}

/// A certificate alone, as the database and the listings know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate(CertificateDer<'static>);

impl Certificate {
    pub(crate) fn from_pem(pem: &str) -> Result<Self, UmsIdError> {
        CertificateDer::from_pem_slice(pem.as_bytes()).map(Self).map_err(UmsIdError::Pem)
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.0
    }

    pub(crate) fn pem(&self) -> String {
        let base64 = data_encoding::BASE64.encode(&self.0);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in base64.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem + "-----END CERTIFICATE-----\n"
    }

    /// SHA-256 over the DER, upper-case hex.
    pub(crate) fn sha256(&self) -> String {
        HEXUPPER.encode(&sha2::Sha256::digest(&self.0))
    }

    /// SHA-1 over the DER, upper-case hex.
    pub(crate) fn sha1(&self) -> String {
        HEXUPPER.encode(&sha1::Sha1::digest(&self.0))
    }

    /// The last day it is valid, as `2046-01-01`.
    pub(crate) fn expires(&self) -> String {
        x509_parser::parse_x509_certificate(&self.0)
            .ok()
            .and_then(|(_, parsed)| {
                jiff::Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
            })
            .map(|time| time.strftime("%Y-%m-%d").to_string())
            .unwrap_or_default()
    }
}

/// A random UUID (version 4).
pub(crate) fn uuid() -> String {
    let mut bytes = random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Sixteen random bytes.
pub(crate) fn random() -> [u8; 16] {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}
