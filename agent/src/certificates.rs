//! Renewing this server's certificate, and learning whom to trust and whom no more.
//!
//! Whatever is to be put into place is first checked as a peer would check it, beside the files in use; a connection
//! or a crash that breaks off in the middle leaves a certificate and a key that belong together.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use umsid_common::durable::{self, Access, DurableError};
use umsid_common::tls::{self, Credentials, Files, TlsError};
use umsid_proto::failure::{Code, Failure};

use crate::host::Host;
use crate::state::{Change, StateDir, StateError};

/// New certificates or lists that are not put into place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("they cannot be used")]
    Unusable(#[source] TlsError),
    #[error("the certificate is {found}'s, this agent is {own}")]
    Foreign { found: String, own: String },
    #[error("revocation list {found} was sent as number {announced}")]
    Misnumbered { found: u64, announced: u64 },
    #[error("revocation list {found} is older than {held}, which this agent holds")]
    Older { found: u64, held: u64 },
    #[error("there is no renewal to complete: the agent was started again since it began")]
    NotBegun,
    #[error("they cannot be stored")]
    Store(#[source] StateError),
}

impl From<CertificateError> for Failure {
    fn from(error: CertificateError) -> Self {
        let code = match &error {
            CertificateError::Unusable(_)
            | CertificateError::Foreign { .. }
            | CertificateError::Misnumbered { .. }
            | CertificateError::Older { .. } => Code::Certificate,
            CertificateError::NotBegun => Code::NotFound,
            CertificateError::Store(StateError::File(error)) if error.is_disk_full() => Code::DiskFull,
            CertificateError::Store(_) => Code::Internal,
        };
        let failure = Self::of(code, &error);
        match error {
            CertificateError::NotBegun => failure.remedy("begin the renewal again"),
            _ => failure.remedy("the agent goes on with what it has"),
        }
    }
}

impl From<DurableError> for CertificateError {
    fn from(error: DurableError) -> Self {
        Self::Store(error.into())
    }
}

/// The key of a renewal that has begun. It is not on disk before its certificate is: after a restart a renewal begins
/// again.
#[derive(Default)]
pub(crate) struct Renewal(Mutex<Option<SecretString>>);

impl Host {
    /// Puts new anchors and revocation lists into place.
    pub(crate) fn push_trust(
        &self,
        anchors: String,
        crls: String,
        number: u64,
    ) -> Result<u64, CertificateError> {
        let _one_at_a_time = self.renewal.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stage = Stage::new(&self.state)?;
        let files = Files {
            anchors: stage.put("anchors.pem", &anchors)?,
            crls: stage.put("crls.pem", &crls)?,
            ..self.tls.files().clone()
        };
        let new = self.check(&files)?;
        if new.crl_number() != number {
            return Err(CertificateError::Misnumbered { found: new.crl_number(), announced: number });
        }
        let held = self.tls.current().crl_number();
        if new.crl_number() < held {
            return Err(CertificateError::Older { found: new.crl_number(), held });
        }
        self.put(&Change::of_trust(anchors, crls))?;
        tracing::info!(crl_number = number, "trust anchors and revocation lists put into place");
        Ok(number)
    }

    /// Makes a new key; what to have signed.
    pub(crate) fn begin_renewal(&self) -> Result<Vec<u8>, CertificateError> {
        let key = tls::generate_key();
        let csr = tls::request(&key, &self.me.identity()).map_err(CertificateError::Unusable)?;
        *self.renewal.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
        Ok(csr)
    }

    /// Puts the renewed certificate into place; the end of its life.
    pub(crate) fn complete_renewal(&self, certificate: String) -> Result<Timestamp, CertificateError> {
        let mut renewal = self.renewal.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = renewal.as_ref().ok_or(CertificateError::NotBegun)?;
        let stage = Stage::new(&self.state)?;
        let files = Files {
            certificate: stage.put("certificate.pem", &certificate)?,
            key: stage.put("key.pem", key.expose_secret())?,
            ..self.tls.files().clone()
        };
        let (_, not_after) = self.check(&files)?.validity();
        self.put(&Change::of_certificate(certificate, key))?;
        *renewal = None;
        tracing::info!(%not_after, "certificate renewed");
        Ok(not_after)
    }

    fn check(&self, files: &Files) -> Result<Credentials, CertificateError> {
        let new = Credentials::load(files).map_err(CertificateError::Unusable)?;
        let own = self.me.identity();
        if *new.identity() != own {
            return Err(CertificateError::Foreign {
                found: new.identity().to_string(),
                own: own.to_string(),
            });
        }
        Ok(new)
    }

    fn put(&self, change: &Change) -> Result<(), CertificateError> {
        self.state.change(change).map_err(CertificateError::Store)?;
        self.tls.reload().map(drop).map_err(CertificateError::Unusable)
    }
}

/// A private directory for files that are not in use yet.
pub(crate) struct Stage(tempfile::TempDir);

impl Stage {
    pub(crate) fn new(state: &StateDir) -> Result<Self, DurableError> {
        state.work_dir("stage-").map(Self)
    }

    pub(crate) fn put(&self, name: &str, content: &str) -> Result<PathBuf, DurableError> {
        let path = self.0.path().join(name);
        durable::replace(&path, content.as_bytes(), Access::Private)?;
        Ok(path)
    }
}
