//! A backup with its password, encrypted to the servers that may open it and signed by its source.
//!
//! The sealed file is an age file holding a tar of `ums-id.ksbak`, `password.txt` and `manifest.json`: in an emergency
//! the standard `age` and `tar` open it. age does not say who sealed, so the manifest is signed.

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Fingerprint};
use crate::name::{ClusterName, Identity, RunId, ServerName};
use crate::tls::{Credentials, VerifyError};

/// Whom a sealed backup is for: an age X25519 recipient, `age1…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient(String);

impl Recipient {
    /// As `age1…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text that is not a recipient.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no age recipient: it looks like age1… with 62 characters")]
pub struct InvalidRecipient(String);

impl FromStr for Recipient {
    type Err = InvalidRecipient;

    fn from_str(_text: &str) -> Result<Self, InvalidRecipient> {
        todo!()
    }
}

impl TryFrom<String> for Recipient {
    type Error = InvalidRecipient;

    fn try_from(text: String) -> Result<Self, InvalidRecipient> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> String {
        recipient.0
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The key that opens what was sealed to its recipient.
pub struct SealKey {
    _private: (),
}

impl SealKey {
    /// The key in this file, made (0600, durable) if there is none yet.
    pub fn load_or_generate(_path: &Path) -> Result<Self, SealError> {
        todo!()
    }

    /// The key in this file.
    pub fn load(_path: &Path) -> Result<Self, SealError> {
        todo!()
    }

    /// Whom to seal to so that this key opens it.
    pub fn recipient(&self) -> Recipient {
        todo!()
    }
}

/// What the source says of a backup, and signs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this format: 1.
    pub version: u32,
    /// Whose UMS ID it is: never restored in another cluster.
    pub cluster: ClusterName,
    /// The run it was made in.
    pub run: RunId,
    /// The server it was made on.
    pub source: ServerName,
    /// Of the UMS ID in it, where the evidence settled that.
    pub fingerprint: Option<Fingerprint>,
    /// SHA-256 of `ums-id.ksbak`.
    pub backup: Digest,
    /// Its length in bytes.
    pub backup_size: u64,
    /// Whom it was sealed to.
    pub recipients: Vec<Recipient>,
    /// When.
    pub taken: Timestamp,
    /// Of the UMS that made it, as `12.09.110`; empty if not known.
    pub ums_version: String,
}

/// What the source knows of a backup; the rest of the [`Manifest`] is found while sealing.
pub struct Provenance {
    /// See [`Manifest::cluster`].
    pub cluster: ClusterName,
    /// See [`Manifest::run`].
    pub run: RunId,
    /// See [`Manifest::source`].
    pub source: ServerName,
    /// See [`Manifest::fingerprint`].
    pub fingerprint: Option<Fingerprint>,
    /// See [`Manifest::ums_version`].
    pub ums_version: String,
    /// See [`Manifest::taken`].
    pub taken: Timestamp,
}

/// Sealing or opening failed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Reading or writing failed; `doing` as "cannot write".
    #[error("{doing} {path}")]
    Io {
        /// As "cannot write".
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A key file that holds no key.
    #[error("{path} holds no age key")]
    Key {
        /// Which file.
        path: PathBuf,
    },
    /// Not sealed to this key, or altered.
    #[error("it cannot be opened with this server's key: {0}")]
    Closed(String),
    /// Opened, but not what a sealed backup holds.
    #[error("its content is not a backup with password and manifest: {0}")]
    Content(String),
    /// Larger than allowed.
    #[error("it holds more than {0} bytes")]
    TooLarge(u64),
    /// The manifest's signature does not hold.
    #[error("its manifest is not signed by who it should be")]
    Signature(#[source] VerifyError),
}

/// Seals the backup at `backup` with its password to these recipients.
pub fn seal(
    _backup: &Path,
    _password: &SecretString,
    _provenance: Provenance,
    _recipients: &[Recipient],
    _signer: &Credentials,
    _out: impl Write,
) -> Result<Manifest, SealError> {
    todo!()
}

/// Whose word is taken for a manifest.
pub enum Trust<'a> {
    /// A certificate that leads to our anchors, now.
    Anchors(&'a Credentials),
    /// The certificate in the file, whoever issued it: for files that were never out of our own hands.
    OwnVault,
}

/// What was in a sealed backup, its signature verified.
pub struct Opened {
    /// As signed.
    pub manifest: Manifest,
    /// Who signed.
    pub signer: Identity,
    /// The backup, a private file in the directory given.
    pub backup: tempfile::TempPath,
    /// Its password.
    pub password: SecretString,
}

/// Opens a sealed backup into a private directory: no more than `limit` bytes, digest and signature verified, else
/// nothing is left there.
pub fn open(
    _sealed: impl Read,
    _key: &SealKey,
    _trust: &Trust<'_>,
    _into: &Path,
    _limit: u64,
) -> Result<Opened, SealError> {
    todo!()
}
