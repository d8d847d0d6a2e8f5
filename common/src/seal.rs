//! A backup with its password, encrypted to the servers that may open it and signed by its source.
//!
//! The sealed file is an age file holding a tar of `ums-id.ksbak`, `password.txt` and `manifest.json`: in an emergency
//! the standard `age` and `tar` open it. age does not say who sealed, so the manifest is signed.

mod content;
mod text;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::x25519;
use age_core::format::{FileKey, Stanza};

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::digest::{Digest, Fingerprint};
use crate::durable::{self, Access, DurableError};
use crate::name::{ClusterName, Identity, Role, RunId, ServerName};
use crate::tls::{Credentials, VerifyError, verify_own};
use content::{BACKUP, Capped, MANIFEST, Packed, Pieces, SignedManifest};

pub use text::{open_text, seal_text};

/// Longest password, in bytes.
const PASSWORD_LIMIT: u64 = 1024;
/// Longest `manifest.json`, in bytes.
const MANIFEST_LIMIT: u64 = 64 * 1024;
/// Most recipients of one backup.
const RECIPIENTS_LIMIT: usize = 64;
/// Bytes for age's header, where a recipient takes about 150: no more than needed.
const HEADER_ROOM: usize = 16 * 1024;

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

    fn from_str(text: &str) -> Result<Self, InvalidRecipient> {
        match text.parse::<x25519::Recipient>() {
            // Written back: one recipient has one text.
            Ok(recipient) => Ok(Self(recipient.to_string())),
            Err(_) => Err(InvalidRecipient(text.chars().take(80).flat_map(char::escape_debug).collect())),
        }
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
pub struct SealKey(x25519::Identity);

impl SealKey {
    /// The key in this file, made (0600, durable) if there is none yet.
    pub fn load_or_generate(path: &Path) -> Result<Self, SealError> {
        if let Some(key) = Self::load_optional(path)? {
            return Ok(key);
        }
        let key = x25519::Identity::generate();
        let text = Zeroizing::new(format!("{}\n", key.to_string().expose_secret()));
        durable::replace(path, text.as_bytes(), Access::Private)?;
        Ok(Self(key))
    }

    /// The key in this file, as `age-keygen` writes it.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        Self::load_optional(path)?.ok_or_else(|| failed("cannot read", path)(io::ErrorKind::NotFound.into()))
    }

    fn load_optional(path: &Path) -> Result<Option<Self>, SealError> {
        let Some(bytes) = durable::read_optional(path)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next().map(str::parse), lines.next()) {
            (Some(Ok(key)), None) => Ok(Some(Self(key))),
            _ => Err(SealError::Key { path: path.to_owned() }),
        }
    }

    /// Whom to seal to so that this key opens it.
    pub fn recipient(&self) -> Recipient {
        Recipient(self.0.to_public().to_string())
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

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SealError + 'a {
    move |source| SealError::Io { doing, path: path.to_owned(), source }
}

impl From<DurableError> for SealError {
    fn from(error: DurableError) -> Self {
        match error {
            DurableError::Io { doing, path, source } => Self::Io { doing, path, source },
            other => Self::Io { doing: "cannot use", path: PathBuf::new(), source: io::Error::other(other) },
        }
    }
}

/// How the sealed file is called in errors: here it is only a stream.
const SEALED: &str = "the sealed backup";

/// Seals the backup at `backup` with its password to these recipients. What was written to `out` is whole only when
/// this returns `Ok`.
pub fn seal(
    backup: &Path,
    password: &SecretString,
    provenance: Provenance,
    recipients: &[Recipient],
    signer: &Credentials,
    out: impl Write,
) -> Result<Manifest, SealError> {
    let password = password.expose_secret();
    if password.len() as u64 > PASSWORD_LIMIT {
        return Err(SealError::Content(format!("the password is longer than {PASSWORD_LIMIT} bytes")));
    }
    if recipients.len() > RECIPIENTS_LIMIT {
        return Err(SealError::Content(format!("it is for more than {RECIPIENTS_LIMIT} recipients")));
    }
    let encryptor = encryptor(recipients)?;

    let mut file = durable::open(backup).map_err(failed("cannot read", backup))?;
    let backup_size = file.metadata().map_err(failed("cannot read", backup))?.len();
    let cannot_write = || failed("cannot write", Path::new(SEALED));
    // age forgets what kind of error met its header; from a buffer the header is written along with the rest.
    let out = BufWriter::with_capacity(HEADER_ROOM, out);
    let sealed = encryptor.wrap_output(out).map_err(cannot_write())?;
    let mut packed = Packed::new(sealed, provenance.taken);
    let digest = packed.add_file(BACKUP, &mut file, backup_size).map_err(|error| match error {
        content::CopyError::Read(source) => failed("cannot read", backup)(source),
        content::CopyError::Write(source) => cannot_write()(source),
    })?;
    packed.add(content::PASSWORD, password.as_bytes()).map_err(cannot_write())?;

    let manifest = Manifest {
        version: 1,
        cluster: provenance.cluster,
        run: provenance.run,
        source: provenance.source,
        fingerprint: provenance.fingerprint,
        backup: digest,
        backup_size,
        recipients: recipients.to_vec(),
        taken: provenance.taken,
        ums_version: provenance.ums_version,
    };
    packed.add(MANIFEST, &SignedManifest::sign(&manifest, signer)?.to_bytes()?).map_err(cannot_write())?;
    let mut out = packed.finish().and_then(age::stream::StreamWriter::finish).map_err(cannot_write())?;
    out.flush().map_err(cannot_write())?;
    Ok(manifest)
}

fn encryptor(recipients: &[Recipient]) -> Result<age::Encryptor, SealError> {
    let recipients: BTreeSet<_> = recipients.iter().collect();
    let keys: Vec<x25519::Recipient> =
        recipients.iter().map(|recipient| recipient.0.parse().expect("it was parsed before")).collect();
    age::Encryptor::with_recipients(keys.iter().map(|key| key as &dyn age::Recipient))
        .map_err(|error| SealError::Content(format!("it cannot be sealed to these recipients: {error}")))
}

/// A key that looks for its part of a header where it probably is. A header does not say whose its parts are, each of them takes a
/// key agreement to try, and with fifty recipients half of them would be tried. [`encryptor`] sorts recipients by their texts,
/// and keys are evenly distributed.
struct Near<'a> {
    key: &'a x25519::Identity,
    place: usize,
}

/// How many places [`place`] tells apart.
const PLACES: usize = 32 * 32;

/// What keys are written in (Bech32), as texts are sorted.
const LETTERS: &str = "023456789acdefghjklmnpqrstuvwxyz";

/// Where a recipient is among all there could be, sorted by their texts.
fn place(recipient: &Recipient) -> usize {
    let letters = recipient.0.chars().skip("age1".len()).take(2);
    letters.fold(0, |before, letter| before * LETTERS.len() + LETTERS.find(letter).unwrap_or_default())
}

/// Among `all`, those beside this place first.
fn from_place(place: usize, all: usize) -> Vec<usize> {
    let probably = place * all / PLACES;
    let mut order: Vec<usize> = (0..all).collect();
    order.sort_by_key(|number| number.abs_diff(probably));
    order
}

impl age::Identity for Near<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        self.key.unwrap_stanza(stanza)
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<Result<FileKey, age::DecryptError>> {
        from_place(self.place, stanzas.len())
            .into_iter()
            .find_map(|number| self.unwrap_stanza(&stanzas[number]))
    }
}

/// Whose word is taken for a manifest.
pub enum Trust<'a> {
    /// A certificate that leads to our anchors, now.
    Anchors(&'a Credentials),
    /// The certificate in the file, whoever issued it: for files that were never out of our own hands.
    OwnVault,
}

impl Trust<'_> {
    fn verify(&self, chain: &[Vec<u8>], message: &[u8], signature: &[u8]) -> Result<Identity, VerifyError> {
        match self {
            Self::Anchors(credentials) => credentials.verify(chain, message, signature),
            Self::OwnVault => verify_own(chain, message, signature),
        }
    }
}

/// What was in a sealed backup, its signature verified.
pub struct Opened {
    /// As signed.
    pub manifest: Manifest,
    /// Who signed: the agent of the server the manifest names as its source.
    pub signer: Identity,
    /// The backup, a private file in the directory given, removed when dropped.
    pub backup: tempfile::TempPath,
    /// Its password.
    pub password: SecretString,
}

/// Opens a sealed backup into a private directory: no more than `limit` bytes, digest and signature verified, else
/// nothing is left there.
///
/// Whether the manifest is the one wanted (cluster, run, source, fingerprint), the caller decides.
///
/// # Errors
/// [`SealError::Closed`] if it is not for this key, altered or cut short; [`SealError::TooLarge`];
/// [`SealError::Content`] if anything but the three files is in it, or the manifest names other content or other
/// recipients; [`SealError::Signature`] if it is not signed by the source's own agent.
pub fn open(
    sealed: impl Read,
    key: &SealKey,
    trust: &Trust<'_>,
    into: &Path,
    limit: u64,
) -> Result<Opened, SealError> {
    let (sealed, left) = Capped::new(sealed, HEADER_ROOM as u64);
    let decryptor = age::Decryptor::new_buffered(sealed).map_err(closed)?;
    left.set(u64::MAX);
    let near = Near { key: &key.0, place: place(&key.recipient()) };
    let plain = decryptor.decrypt(std::iter::once(&near as &dyn age::Identity)).map_err(closed)?;
    let mut pieces = Pieces::new(plain);

    let mut file = tempfile::Builder::new();
    file.prefix("").rand_bytes(16).suffix(".ksbak");
    let mut file =
        file.make_in(into, durable::create_private_file).map_err(failed("cannot create a file in", into))?;
    let (digest, size) = pieces.extract(BACKUP, limit, &mut file, into)?;
    let password = Zeroizing::new(pieces.take(content::PASSWORD, PASSWORD_LIMIT)?);
    let password = std::str::from_utf8(&password)
        .map(SecretString::from)
        .map_err(|_| SealError::Content("the password is not UTF-8".into()))?;
    let signed = SignedManifest::from_bytes(&pieces.take(MANIFEST, MANIFEST_LIMIT)?)?;
    pieces.finish()?;

    let (manifest, signer) = signed.verify(trust)?;
    if (manifest.backup, manifest.backup_size) != (digest, size) {
        return Err(SealError::Content("the backup is not the one its manifest names".into()));
    }
    // Else one of the servers that may open it could seal it anew to one that must not have it.
    if !manifest.recipients.contains(&key.recipient()) {
        return Err(SealError::Content(
            "its manifest does not name this server's key among the recipients".into(),
        ));
    }
    let source = Role::Agent { cluster: manifest.cluster.clone(), server: manifest.source.clone() };
    if signer.role != source {
        let why = format!("it was signed by {signer}, not by the agent of {}", manifest.source);
        return Err(SealError::Signature(VerifyError::Identity(why)));
    }
    Ok(Opened { manifest, signer, backup: file.into_temp_path(), password })
}

fn closed(error: age::DecryptError) -> SealError {
    match error {
        age::DecryptError::Io(error) => content::unreadable(error),
        other => SealError::Closed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tries_few_parts_of_a_header_that_are_not_its_own() {
        let all: BTreeSet<Recipient> =
            (0..RECIPIENTS_LIMIT).map(|_| SealKey(x25519::Identity::generate()).recipient()).collect();
        let tried = |(number, recipient): (usize, &Recipient)| {
            let order = from_place(place(recipient), all.len());
            order.iter().position(|tried| *tried == number).expect("all are tried")
        };
        let tried: usize = all.iter().enumerate().map(tried).sum();
        // In the order they come it would be half of all; from the place it is about a ninth.
        assert!(tried < all.len() * all.len() / 4, "{tried}");
    }
}
