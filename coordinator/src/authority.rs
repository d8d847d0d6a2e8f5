//! The certificate authority: who may call whom, for how long, and no more.
//!
//! It lives in one directory: `certificate.pem`, the key as `key.pem` (0600) or, under a passphrase, `key.age`, and
//! `register.json` with every certificate ever issued and the current revocation list. Where several administrators share it,
//! certificate and register are copies of what is in the database, and the key is in memory only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, RwLock};
use std::time::{Duration, SystemTime};

use age::secrecy::{ExposeSecret as _, SecretString};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use sha2::{Digest as _, Sha256};
use umsid_common::durable::{self, Access, DurableError};
use umsid_common::name::{CallerName, Identity, Role, TrustDomain, random_bytes};
use umsid_common::tls;
use zeroize::{Zeroize as _, Zeroizing};

use crate::home::Home;
use crate::shared::{Shared, SharedError};

mod founding;
mod register;
mod sharing;

pub use founding::Founding;
pub use register::Entry;
use register::Register;

/// Life of the authority itself. Agents keep a set of anchors, so that it can be replaced before this ends.
const AUTHORITY_LIFE: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);

/// Life of every certificate it issues: renewed when a third is left, so anybody may be away for eight months.
const CERTIFICATE_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Certificates begin this much in the past: clocks differ.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// scrypt's work factor (log2) for the key under a passphrase: what OWASP asks for; 128 MiB and half a second.
const WORK_FACTOR: u8 = if cfg!(test) { 10 } else { 17 };

/// The authority cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Reading or writing its files.
    #[error("the certificate authority's files cannot be read or written")]
    File(#[from] DurableError),
    /// A file that is not there.
    #[error("the certificate authority lacks {path}")]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// A file that does not do.
    #[error("{path}: {why}")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The register's lock.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The state of its directory went into a database since it was read.
    #[error("the certificate authority was moved to a database meanwhile: nothing was changed")]
    Moved,
    /// The register is shared, and the database says no.
    #[error("the certificate authority's register cannot be changed")]
    Shared(#[from] SharedError),
    /// The register is shared, and others change it all the time.
    #[error("others are changing the certificate authority's register")]
    Crowded,
    /// The key is shared, and could not be had.
    #[error("the certificate authority's key is in the database, and could not be had from there")]
    Away,
    /// The key is under a passphrase and was not unlocked.
    #[error("the certificate authority's key is under a passphrase")]
    Locked,
    /// Not the passphrase.
    #[error("the passphrase does not open the certificate authority's key")]
    WrongPassphrase,
    /// A request for a certificate that is not granted.
    #[error("the request for a certificate is refused: {0}")]
    Request(String),
    /// The library could not make it.
    #[error("cannot make the certificate or list: {0}")]
    Making(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Making(error.to_string())
    }
}

/// The private key; removed from memory when dropped.
struct Key(KeyPair);

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A certificate just issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// PEM.
    pub certificate_pem: String,
    /// Hexadecimal.
    pub serial: String,
    /// End of its life.
    pub not_after: Timestamp,
}

/// The certificate authority.
pub struct Authority {
    dir: PathBuf,
    certificate_pem: String,
    key: OnceLock<Key>,
    register: RwLock<Register>,
    life: SignedDuration,
    shared: Option<Shared>,
}

impl Authority {
    /// Makes a new authority in this (empty, private) directory; the key goes under the passphrase, if there is one.
    ///
    /// # Errors
    /// If a file cannot be written. The register is written last: without it there is no authority.
    pub fn create(
        dir: &Path,
        trust_domain: &TrustDomain,
        passphrase: Option<&SecretString>,
    ) -> Result<Self, AuthorityError> {
        let Founding { key, certificate_pem, register } = Founding::new(trust_domain)?;
        let pem = Zeroizing::new(key.0.serialize_pem());
        match passphrase {
            None => durable::replace(&dir.join("key.pem"), pem.as_bytes(), Access::Private)?,
            Some(passphrase) => {
                let mut recipient = age::scrypt::Recipient::new(passphrase.clone());
                recipient.set_work_factor(WORK_FACTOR);
                let sealed = age::encrypt(&recipient, pem.as_bytes())
                    .map_err(|error| AuthorityError::Making(error.to_string()))?;
                durable::replace(&dir.join("key.age"), &sealed, Access::Private)?;
            }
        }
        durable::replace(&dir.join("certificate.pem"), certificate_pem.as_bytes(), Access::Private)?;
        register.save(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            certificate_pem,
            key: key.into(),
            register: register.into(),
            life: CERTIFICATE_LIFE,
            shared: None,
        })
    }

    /// The authority in this directory; its key is loaded if that needs no passphrase.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let certificate_pem = text(&dir.join("certificate.pem"))?;
        let register = Register::load(dir)?.into();
        let authority = Self {
            dir: dir.to_owned(),
            certificate_pem: certificate_pem.to_string(),
            key: OnceLock::new(),
            register,
            life: CERTIFICATE_LIFE,
            shared: None,
        };
        if !authority.needs_passphrase() {
            authority.take_key(&text(&dir.join("key.pem"))?, &dir.join("key.pem"))?;
        }
        Ok(authority)
    }

    /// The same, issuing certificates of another life than a year.
    pub fn with_life(mut self, life: SignedDuration) -> Self {
        self.life = life;
        self
    }

    /// Whether the key is kept under a passphrase.
    pub fn needs_passphrase(&self) -> bool {
        self.dir.join("key.age").exists()
    }

    /// Whether it can sign now, without asking for a passphrase.
    pub fn can_sign(&self) -> bool {
        self.key.get().is_some()
    }

    /// Makes it able to sign.
    ///
    /// # Errors
    /// [`AuthorityError::WrongPassphrase`].
    pub fn unlock(&self, passphrase: &SecretString) -> Result<(), AuthorityError> {
        if self.can_sign() {
            return Ok(());
        }
        if self.shared.is_some() {
            return Err(AuthorityError::Away);
        }
        let path = self.dir.join("key.age");
        let sealed =
            durable::read_optional(&path)?.ok_or_else(|| AuthorityError::Missing { path: path.clone() })?;
        let mut identity = age::scrypt::Identity::new(passphrase.clone());
        identity.set_max_work_factor(WORK_FACTOR + 2);
        let unusable = |why: String| AuthorityError::Unusable { path: path.clone(), why };
        let pem = match age::decrypt(&identity, &sealed) {
            Ok(pem) => Zeroizing::new(pem),
            Err(age::DecryptError::DecryptionFailed | age::DecryptError::KeyDecryptionFailed) => {
                return Err(AuthorityError::WrongPassphrase);
            }
            Err(error) => return Err(unusable(error.to_string())),
        };
        let pem = std::str::from_utf8(&pem).map_err(|error| unusable(error.to_string()))?;
        self.take_key(pem, &path)
    }

    fn take_key(&self, pem: &str, path: &Path) -> Result<(), AuthorityError> {
        let key = Key(KeyPair::from_pem(pem).map_err(|error| AuthorityError::Unusable {
            path: path.to_owned(),
            why: format!("it holds no private key: {error}"),
        })?);
        // Unlocked twice at once, it is the same key.
        let _ = self.key.set(key);
        Ok(())
    }

    /// The trust anchors, PEM.
    pub fn anchors_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// SHA-256 of its certificate, hexadecimal: what people compare.
    pub fn fingerprint(&self) -> String {
        let der = tls::first_certificate(&self.certificate_pem).unwrap_or_default();
        data_encoding::HEXLOWER.encode(&Sha256::digest(der))
    }

    /// The current revocation list, PEM, and its number.
    pub fn crl(&self) -> (String, u64) {
        let register = self.register.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        (register.crl_pem.clone(), register.crl_number)
    }

    /// The certificate last issued to this identity, of those that are not revoked.
    pub fn newest(&self, identity: &Identity) -> Option<Entry> {
        let register = self.register.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        register.newest(identity).cloned()
    }

    /// The newest certificate of every observer, of those that are good.
    pub fn observers(&self) -> BTreeMap<CallerName, Entry> {
        let register = self.register.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Timestamp::now();
        let good = register.issued.iter().filter(|entry| entry.revoked.is_none() && entry.not_after > now);
        let of_observer = |entry: &Entry| match entry.identity.parse::<Identity>().ok()?.role {
            Role::Observer(name) => Some((name, entry.clone())),
            Role::Agent { .. } | Role::Coordinator(_) => None,
        };
        // In the order of issue: the last one stays.
        good.filter_map(of_observer).collect()
    }

    /// Issues a certificate for the key in this request (PKCS#10 DER), which must ask for this identity and nothing else.
    ///
    /// # Errors
    /// [`AuthorityError::Locked`] without the key; [`AuthorityError::Request`] if the request is malformed, not signed
    /// by its key, for another kind of key, or for another identity.
    pub fn issue(&self, csr: &[u8], identity: &Identity) -> Result<Issued, AuthorityError> {
        let key = self.key.get().ok_or(AuthorityError::Locked)?;
        let refused = |why: String| AuthorityError::Request(why);
        let asked = CertificateSigningRequestParams::from_der(&csr.into())
            .map_err(|error| refused(error.to_string()))?;
        if asked.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(refused("its key is not a P-256 key".into()));
        }
        let uri = identity.to_string().try_into().map(SanType::URI)?;
        if asked.params.subject_alt_names != [uri.clone()] {
            return Err(refused(format!("it does not ask to be {identity}, and only that")));
        }
        let now = Timestamp::now();
        let not_after = now + self.life;
        let mut serial = random_bytes::<16>();
        // Positive, and always of this length.
        serial[0] = serial[0] & 0x7f | 0x40;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(identity.trust_domain.as_str());
        params.subject_alt_names = vec![uri];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, now, not_after);
        let certificate = params.signed_by(&asked.public_key, &issuer(&self.certificate_pem, key)?)?;

        // On record before anybody has it: what is not on record could not be revoked.
        let serial = data_encoding::HEXLOWER.encode(&serial);
        let entry = Entry {
            serial: serial.clone(),
            identity: identity.to_string(),
            not_before: now - BACKDATED,
            not_after,
            revoked: None,
        };
        self.change(|register| {
            register.issued.push(entry.clone());
            Ok(())
        })?;
        Ok(Issued { certificate_pem: certificate.pem(), serial, not_after })
    }

    /// Revokes every certificate of this identity, except the one to `keep`; the number of certificates revoked.
    ///
    /// # Errors
    /// [`AuthorityError::Locked`] without the key, and then nothing is revoked.
    pub fn revoke(&self, identity: &Identity, keep: Option<&str>) -> Result<usize, AuthorityError> {
        let key = self.key.get().ok_or(AuthorityError::Locked)?;
        let issuer = issuer(&self.certificate_pem, key)?;
        let now = Timestamp::now();
        self.change(|register| {
            let revoked = register.revoke(identity, keep, now);
            if revoked > 0 {
                register.sign(&issuer, now, now + AUTHORITY_LIFE)?;
            }
            Ok(revoked)
        })
    }

    /// Reads the register anew, changes and saves it, alone.
    fn change<T>(
        &self,
        change: impl Fn(&mut Register) -> Result<T, AuthorityError>,
    ) -> Result<T, AuthorityError> {
        let _alone = RegisterLock::take(&self.dir)?;
        let (result, register) = match &self.shared {
            // Read from files before they were moved.
            None if Home::of_authority(&self.dir).is_some_and(|home| home.state_url_path().exists()) => {
                return Err(AuthorityError::Moved);
            }
            None => {
                let mut register = Register::load(&self.dir)?;
                (change(&mut register)?, register)
            }
            Some(shared) => self.change_shared(shared, change)?,
        };
        register.save(&self.dir)?;
        *self.register.write().unwrap_or_else(std::sync::PoisonError::into_inner) = register;
        Ok(result)
    }

    /// Gives a coordinator or observer what it needs in a directory: key (made if there is none), certificate, anchors,
    /// revocation list.
    pub fn equip(&self, files: &tls::Files, identity: &Identity) -> Result<Issued, AuthorityError> {
        match durable::read_optional(&files.key)? {
            Some(pem) => {
                let pem = Zeroizing::new(pem);
                self.equip_with(&String::from_utf8_lossy(&pem).into_owned().into(), files, identity)
            }
            None => self.rekey(files, identity),
        }
    }

    /// The same, with a new key. If it breaks off between key and certificate, these do not fit each other until it is done
    /// again.
    pub fn rekey(&self, files: &tls::Files, identity: &Identity) -> Result<Issued, AuthorityError> {
        let key = tls::generate_key();
        durable::replace(&files.key, key.expose_secret().as_bytes(), Access::Private)?;
        self.equip_with(&key, files, identity)
    }

    fn equip_with(
        &self,
        key_pem: &SecretString,
        files: &tls::Files,
        identity: &Identity,
    ) -> Result<Issued, AuthorityError> {
        let unusable = |error: tls::TlsError| AuthorityError::Unusable {
            path: files.key.clone(),
            why: error.to_string(),
        };
        let csr = tls::request(key_pem, identity).map_err(unusable)?;
        let issued = self.issue(&csr, identity)?;
        durable::replace(&files.anchors, self.certificate_pem.as_bytes(), Access::Private)?;
        self.publish(files)?;
        durable::replace(&files.certificate, issued.certificate_pem.as_bytes(), Access::Private)?;
        Ok(issued)
    }

    /// Puts the current revocation list where these credentials look for it; `true` if it was another.
    pub fn publish(&self, files: &tls::Files) -> Result<bool, AuthorityError> {
        let (crl_pem, _) = self.crl();
        if durable::read_optional(&files.crls)?.is_some_and(|there| there == crl_pem.as_bytes()) {
            return Ok(false);
        }
        durable::replace(&files.crls, crl_pem.as_bytes(), Access::Private)?;
        Ok(true)
    }
}

/// The right to change the register in this directory; ends when dropped.
pub(crate) struct RegisterLock {
    _file: std::fs::File,
}

impl RegisterLock {
    /// Takes it, waiting for whoever has it.
    pub(crate) fn take(authority_dir: &Path) -> Result<Self, AuthorityError> {
        let path = authority_dir.join("lock");
        let failed = |source| AuthorityError::Lock { path: path.clone(), source };
        let file =
            std::fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        file.lock().map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn issuer<'a>(certificate_pem: &str, key: &'a Key) -> Result<Issuer<'static, &'a KeyPair>, AuthorityError> {
    Ok(Issuer::from_ca_cert_pem(certificate_pem, &key.0)?)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// X.509 knows whole seconds only.
fn set_life(params: &mut CertificateParams, now: Timestamp, until: Timestamp) {
    params.not_before = whole_seconds(now - BACKDATED).into();
    params.not_after = whole_seconds(until).into();
}

fn whole_seconds(moment: Timestamp) -> SystemTime {
    let seconds = u64::try_from(moment.as_second()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn text(path: &Path) -> Result<Zeroizing<String>, AuthorityError> {
    let bytes = durable::read_optional(path)?.map(Zeroizing::new);
    let bytes = bytes.ok_or_else(|| AuthorityError::Missing { path: path.to_owned() })?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Zeroizing::new(text.to_owned())),
        Err(error) => Err(AuthorityError::Unusable { path: path.to_owned(), why: error.to_string() }),
    }
}

#[cfg(test)]
mod tests;
