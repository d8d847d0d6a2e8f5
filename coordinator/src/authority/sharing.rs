//! The authority of several administrators: its register is a document they share.

use std::path::Path;
use std::sync::OnceLock;

use umsid_common::tls;
use zeroize::Zeroizing;

use super::register::Register;
use super::{Authority, AuthorityError, CERTIFICATE_LIFE, text};
use crate::shared::{DocumentKey, Shared};

/// How often a change of the register is tried: others change it too.
const TRIES: usize = 10;

impl Authority {
    /// The authority of which this directory has copies; it can sign with this key, if that could be had.
    pub fn open_shared(
        dir: &Path,
        shared: Shared,
        key_pem: Option<&Zeroizing<String>>,
    ) -> Result<Self, AuthorityError> {
        let authority = Self {
            dir: dir.to_owned(),
            certificate_pem: text(&dir.join("certificate.pem"))?.to_string(),
            key: OnceLock::new(),
            register: Register::load(dir)?.into(),
            life: CERTIFICATE_LIFE,
            shared: Some(shared),
        };
        if let Some(pem) = key_pem {
            authority.take_key(pem, &dir.join("key.sealed"))?;
        }
        Ok(authority)
    }

    /// The private key, PEM: for whoever seals it to the administrators.
    ///
    /// # Errors
    /// [`AuthorityError::Locked`] without it; [`AuthorityError::Unusable`] if it is not this authority's.
    pub fn key_pem(&self) -> Result<Zeroizing<String>, AuthorityError> {
        let key = self.key.get().ok_or(AuthorityError::Locked)?;
        self.key_fits(&self.dir.join("key.pem"))?;
        Ok(Zeroizing::new(key.0.serialize_pem()))
    }

    /// The register as it is written.
    pub fn register_text(&self) -> Result<String, AuthorityError> {
        self.register.read().unwrap_or_else(std::sync::PoisonError::into_inner).to_text()
    }

    fn key_fits(&self, path: &Path) -> Result<(), AuthorityError> {
        let key_pem = self.key.get().map(|key| Zeroizing::new(key.0.serialize_pem()));
        if key_pem.is_some_and(|key_pem| tls::is_key_of(&key_pem, &self.certificate_pem)) {
            return Ok(());
        }
        let why = "it is not the key of this authority: somebody replaced it".to_owned();
        Err(AuthorityError::Unusable { path: path.to_owned(), why })
    }

    /// Changes the newest register there is in the database, and again if that was not the newest any more.
    pub(super) fn change_shared<T>(
        &self,
        shared: &Shared,
        change: impl Fn(&mut Register) -> Result<T, AuthorityError>,
    ) -> Result<(T, Register), AuthorityError> {
        let key = self.key.get().ok_or(AuthorityError::Locked)?;
        let key = DocumentKey::of(&Zeroizing::new(key.0.serialize_pem()));
        for _ in 0..TRIES {
            let newest = shared.newest_register(&key)?;
            let mut register = Register::parse(&self.dir.join("register.json"), newest.body.as_bytes())?;
            let result = change(&mut register)?;
            if shared.replace_register(newest.version, &register.to_text()?, &key)? {
                return Ok((result, register));
            }
        }
        Err(AuthorityError::Crowded)
    }
}
