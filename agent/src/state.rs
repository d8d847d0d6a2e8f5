//! The state directory: what of an agent outlives it. Private, and never used by two agents at once.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use umsid_common::durable::{self, Access, DurableError};
use umsid_common::name::{ClusterName, Identity, Role, ServerName, TrustDomain};
use umsid_common::tls::Files;
use zeroize::{Zeroize, Zeroizing};

use crate::exec;

pub(crate) mod damage;

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another agent works here.
    #[error("{path} is in use by another umsid-agent")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The lock file cannot be had.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No certificate yet.
    #[error(
        "this server is not enrolled: {path} is missing; type `umsid-agent enroll` here and then `umsid enroll` where the coordinator is"
    )]
    NotEnrolled {
        /// Where it would be.
        path: PathBuf,
    },
    /// A file whose content means nothing. Corrupt is not absent: somebody has to look at it.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] DurableError),
    /// A directory cannot be listed or cleared.
    #[error("cannot {doing} {path}")]
    Directory {
        /// As "list".
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What this server is called, and in whose installation of umsid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The installation of umsid.
    pub trust_domain: TrustDomain,
    /// This server's cluster.
    pub cluster: ClusterName,
    /// This server.
    pub server: ServerName,
}

impl Enrolment {
    /// As this server's certificate says it.
    pub fn identity(&self) -> Identity {
        Identity {
            trust_domain: self.trust_domain.clone(),
            role: Role::Agent { cluster: self.cluster.clone(), server: self.server.clone() },
        }
    }
}

/// The directory, locked for this agent as long as this value lives.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: File,
    /// Left over, but still in use by a program that outlived the agent before.
    left_over: Mutex<Vec<PathBuf>>,
}

impl StateDir {
    /// Makes the directory (0700) where it is missing, takes the lock, finishes what a crash left half done and removes
    /// what it left over.
    ///
    /// # Errors
    /// [`StateError::InUse`] if another agent runs on it.
    pub fn open(root: &Path) -> Result<Self, StateError> {
        durable::private_dir(root)?;
        let path = root.join("lock");
        let lock =
            durable::open_lock(&path).map_err(|source| StateError::Lock { path: path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateError::InUse { path: root.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(StateError::Lock { path, source }),
        }
        let state = Self { root: root.to_owned(), _lock: lock, left_over: Mutex::default() };
        for dir in [state.operations(), state.spool(), state.vault(), state.journals()] {
            durable::private_dir(&dir)?;
            durable::sweep(&dir)?;
        }
        durable::sweep(root)?;
        state.clear_work()?;
        state.finish_change()?;
        Ok(state)
    }

    pub(crate) fn boot(&self) -> PathBuf {
        self.root.join("boot.json")
    }

    /// Certificate, key, anchors and revocation lists.
    pub fn files(&self) -> Files {
        Files::in_dir(&self.root)
    }

    /// The key that opens backups sealed to this server.
    pub fn seal_key(&self) -> PathBuf {
        self.root.join("seal.key")
    }

    /// The lease and the highest epoch granted.
    pub fn lease(&self) -> PathBuf {
        self.root.join("lease.json")
    }

    /// One record for each operation.
    pub fn operations(&self) -> PathBuf {
        self.root.join("operations")
    }

    /// Sealed backups on their way.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Safety backups.
    pub fn vault(&self) -> PathBuf {
        self.root.join("vault")
    }

    /// Copies of the journals of runs.
    pub fn journals(&self) -> PathBuf {
        self.root.join("journals")
    }

    /// For what must not outlive its command; emptied at every start.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// A private directory in [`StateDir::work`], removed when dropped.
    pub(crate) fn work_dir(&self, prefix: &str) -> Result<TempDir, DurableError> {
        let path = self.work();
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let made = builder.tempdir_in(&path);
        made.map_err(|source| DurableError::Io { doing: "cannot create a directory in", path, source })
    }

    /// The key of an enrolment by join file that is not complete yet.
    pub fn pending_key(&self) -> PathBuf {
        self.root.join("pending-key.pem")
    }

    fn clear_work(&self) -> Result<(), StateError> {
        let path = self.work();
        durable::private_dir(&path)?;
        let failed = |source| StateError::Directory { doing: "list", path: path.clone(), source };
        let (mut in_use, mut unused) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if exec::in_use(&path) { in_use.push(path) } else { unused.push(path) }
        }
        unused.iter().try_for_each(|path| remove_all(path))?;
        *self.left_over.lock().unwrap_or_else(PoisonError::into_inner) = in_use;
        Ok(())
    }

    /// Removes what a program that outlived the agent before still used at the start. Once it has ended.
    pub(crate) fn clear_left_over(&self) {
        for path in std::mem::take(&mut *self.left_over.lock().unwrap_or_else(PoisonError::into_inner)) {
            if let Err(error) = remove_all(&path) {
                tracing::warn!(%error, path = %path.display(), "cannot remove what is left over");
            }
        }
    }

    fn enrolment_file(&self) -> PathBuf {
        self.root.join("enrolment.json")
    }

    fn change_file(&self) -> PathBuf {
        self.root.join("change.json")
    }

    /// Who this server is.
    ///
    /// # Errors
    /// [`StateError::NotEnrolled`] before `umsid-agent enroll`.
    pub fn enrolment(&self) -> Result<Enrolment, StateError> {
        let path = self.enrolment_file();
        read_json(&path)?.ok_or(StateError::NotEnrolled { path })
    }

    /// Puts new credentials into place, all of them or none, whatever dies in between.
    pub fn change(&self, change: &Change) -> Result<(), StateError> {
        // From here on the change is decided: a crash before it is carried out is made good at the next start.
        let json = Zeroizing::new(
            serde_json::to_vec(change)
                .map_err(|source| StateError::Damaged { path: self.change_file(), source })?,
        );
        durable::replace(&self.change_file(), &json, Access::Private)?;
        self.carry_out(change)
    }

    fn finish_change(&self) -> Result<(), StateError> {
        match read_json::<Change>(&self.change_file())? {
            Some(change) => self.carry_out(&change),
            None => Ok(()),
        }
    }

    fn carry_out(&self, change: &Change) -> Result<(), StateError> {
        let files = self.files();
        let put = |path: &Path, content: &Option<String>| match content {
            Some(content) => durable::replace(path, content.as_bytes(), Access::Private),
            None => Ok(()),
        };
        put(&files.key, &change.key)?;
        put(&files.certificate, &change.certificate)?;
        put(&files.anchors, &change.anchors)?;
        put(&files.crls, &change.crls)?;
        if let Some(enrolment) = &change.enrolment {
            let path = self.enrolment_file();
            let json = serde_json::to_vec_pretty(enrolment)
                .map_err(|source| StateError::Damaged { path: path.clone(), source })?;
            durable::replace(&path, &json, Access::Private)?;
        }
        durable::remove(&self.change_file())?;
        Ok(())
    }
}

/// New content of some of the files that say who we are and whom we trust, PEM. What is `None` stays.
#[derive(Serialize, Deserialize)]
pub struct Change {
    /// Our certificate, leaf first.
    pub certificate: Option<String>,
    /// Its key.
    pub key: Option<String>,
    /// Trust anchors.
    pub anchors: Option<String>,
    /// Revocation lists.
    pub crls: Option<String>,
    /// Who we are.
    pub enrolment: Option<Enrolment>,
}

impl Change {
    /// New anchors and revocation lists.
    pub fn of_trust(anchors: String, crls: String) -> Self {
        Self { certificate: None, key: None, anchors: Some(anchors), crls: Some(crls), enrolment: None }
    }

    /// A new certificate and its key.
    pub fn of_certificate(certificate: String, key: &SecretString) -> Self {
        let key = Some(key.expose_secret().to_owned());
        Self { certificate: Some(certificate), key, anchors: None, crls: None, enrolment: None }
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// A JSON file; `None`: there is none.
pub(crate) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, StateError> {
    let Some(bytes) = durable::read_optional(path)?.map(Zeroizing::new) else { return Ok(None) };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|source| StateError::Damaged { path: path.to_owned(), source })
}

fn remove_all(path: &Path) -> Result<(), StateError> {
    let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let removed = if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Directory { doing: "clear", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
