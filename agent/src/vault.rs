//! The vault: safety backups, this server's own UMS IDs from before anything was restored over them.
//!
//! There is no index that could be lost or wrong: what a sealed file is, its signed manifest says. Every file is opened
//! once at the start; one that cannot be is reported and never counts as a safety backup, nor is it removed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access, DurableError, Incoming};
use umsid_common::fault;
use umsid_common::seal::{self, Manifest, Opened, SealError, SealKey, Trust};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::SafetyBackup;

use crate::state::{Enrolment, StateError, damage, read_json};

/// How many safety backups are kept at least.
const KEPT: usize = 10;

/// A safety backup that is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    #[error("there is no safety backup {0} on this server")]
    Missing(Digest),
    #[error("the safety backup {0} is damaged: it is not what its name says")]
    Altered(Digest),
    #[error("the safety backup {digest} cannot be read")]
    Read {
        digest: Digest,
        #[source]
        source: std::io::Error,
    },
    #[error("the safety backup {digest} cannot be opened")]
    Open {
        digest: Digest,
        #[source]
        source: SealError,
    },
    #[error("the safety backup {digest} is {found}'s, not this server's")]
    Foreign { digest: Digest, found: String },
    #[error("a safety backup cannot be stored")]
    Store(#[from] DurableError),
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let code = match &error {
            VaultError::Missing(_)
            | VaultError::Altered(_)
            | VaultError::Read { .. }
            | VaultError::Open { .. }
            | VaultError::Foreign { .. } => Code::NoSafetyBackup,
            VaultError::Store(error) if error.is_disk_full() => Code::DiskFull,
            VaultError::Store(_) => Code::Internal,
        };
        let failure = Self::of(code, &error);
        match code {
            Code::NoSafetyBackup => failure.remedy("take a new safety backup of this server: `umsid backup`"),
            Code::DiskFull => failure.remedy("make room where the agent keeps its state"),
            _ => failure,
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
struct GoodSync {
    at: Option<Timestamp>,
}

/// What is wrong with the mark of a vault in this directory, if it is there.
pub(crate) fn damage(dir: &Path) -> Option<StateError> {
    damage::of::<GoodSync>(&dir.join("good-sync.json"))
}

struct Shelf {
    /// Oldest first.
    backups: Vec<SafetyBackup>,
    problems: Vec<String>,
    good_sync: GoodSync,
}

/// The safety backups of this server.
pub(crate) struct Vault {
    dir: PathBuf,
    work: PathBuf,
    key: Arc<SealKey>,
    me: Enrolment,
    limit: u64,
    shelf: Mutex<Shelf>,
}

impl Vault {
    /// Looks at every file there is. `limit`: bytes of a backup.
    pub(crate) fn load(
        dir: PathBuf,
        work: PathBuf,
        key: Arc<SealKey>,
        me: Enrolment,
        limit: u64,
    ) -> Result<Self, StateError> {
        let good_sync = read_json(&dir.join("good-sync.json"))?.unwrap_or_default();
        let shelf = Shelf { backups: Vec::new(), problems: Vec::new(), good_sync };
        let vault = Self { dir, work, key, me, limit, shelf: Mutex::new(shelf) };
        vault.take_stock()?;
        Ok(vault)
    }

    fn take_stock(&self) -> Result<(), StateError> {
        let failed = |source| StateError::Directory { doing: "list", path: self.dir.clone(), source };
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "age") {
                continue;
            }
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let found = name.parse().map_err(|_| format!("{} is no safety backup", path.display())).and_then(
                |digest| {
                    self.open(&digest)
                        .map_err(|error| format!("{}", Failure::of(Code::Internal, &error)))
                        .map(|opened| (digest, opened))
                },
            );
            let mut shelf = self.lock();
            match found {
                Ok((digest, opened)) => {
                    let size = path.metadata().map(|found| found.len()).unwrap_or_default();
                    shelf.backups.push(entry_of(digest, size, &opened.manifest));
                }
                Err(problem) => {
                    tracing::warn!(problem, "in the vault");
                    shelf.problems.push(problem);
                }
            }
        }
        self.lock().backups.sort_by_key(|backup| backup.taken);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}.age"))
    }

    /// Begins a file in the vault.
    pub(crate) fn begin(&self, limit: u64) -> Result<Incoming, VaultError> {
        Ok(Incoming::create(&self.dir, limit)?)
    }

    /// Takes a sealed file in; it counts only when it was read back, opened and found to be ours.
    pub(crate) fn add(&self, file: Incoming) -> Result<SafetyBackup, VaultError> {
        let (path, digest, size) = file.commit_as_is(".age")?;
        fault::moment("vault kept after");
        let backup = match self.open(&digest) {
            Ok(opened) => entry_of(digest, size, &opened.manifest),
            Err(error) => {
                durable::remove(&path)?;
                return Err(error);
            }
        };
        let mut shelf = self.lock();
        shelf.backups.push(backup.clone());
        prune(&mut shelf, |old| durable::remove(&self.path(old)).map(drop));
        Ok(backup)
    }

    /// Makes sure that a safety backup is there as it was when it was taken in, which was verified then in every respect.
    pub(crate) fn intact(&self, digest: &Digest) -> Result<SafetyBackup, VaultError> {
        let known = self.lock().backups.iter().find(|backup| backup.digest == *digest).cloned();
        let (file, size) = self.sealed(digest)?;
        match known {
            Some(known) => Ok(known),
            // Somebody has put it back since we looked.
            None => Ok(entry_of(*digest, size, &self.opened(digest, file)?.manifest)),
        }
    }

    /// A safety backup as it is on disk, and its bytes.
    fn sealed(&self, digest: &Digest) -> Result<(File, u64), VaultError> {
        let read = |source| VaultError::Read { digest: *digest, source };
        let path = self.path(digest);
        let file = match durable::open_own(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(VaultError::Missing(*digest));
            }
            file => file.map_err(read)?,
        };
        let (found, size) = durable::digest_of(&file).map_err(read)?;
        if found != *digest {
            return Err(VaultError::Altered(*digest));
        }
        Ok((durable::open_own(&path).map_err(read)?, size))
    }

    /// Opens a safety backup: what is in it was verified in every respect.
    pub(crate) fn open(&self, digest: &Digest) -> Result<Opened, VaultError> {
        let (file, _) = self.sealed(digest)?;
        self.opened(digest, file)
    }

    fn opened(&self, digest: &Digest, file: File) -> Result<Opened, VaultError> {
        let opened = seal::open(file, &self.key, &Trust::OwnVault, &self.work, self.limit)
            .map_err(|source| VaultError::Open { digest: *digest, source })?;
        let manifest = &opened.manifest;
        let me = &self.me;
        if manifest.cluster != me.cluster || manifest.source != me.server || opened.signer != me.identity() {
            let found = format!("{}/{}", manifest.cluster, manifest.source);
            return Err(VaultError::Foreign { digest: *digest, found });
        }
        Ok(opened)
    }

    /// What is there, oldest first, and what is there but of no use.
    pub(crate) fn list(&self) -> (Vec<SafetyBackup>, Vec<String>) {
        let shelf = self.lock();
        (shelf.backups.clone(), shelf.problems.clone())
    }

    /// This server was seen in sync: what is older may go, once there are enough newer ones.
    pub(crate) fn in_sync(&self, now: Timestamp) -> Result<(), VaultError> {
        let mut shelf = self.lock();
        let good_sync = GoodSync { at: Some(now) };
        let json = serde_json::to_vec(&good_sync).expect("a time is JSON");
        durable::replace(&self.dir.join("good-sync.json"), &json, Access::Private)?;
        shelf.good_sync = good_sync;
        Ok(())
    }
}

fn entry_of(digest: Digest, size: u64, manifest: &Manifest) -> SafetyBackup {
    SafetyBackup {
        digest,
        size,
        taken: manifest.taken,
        fingerprint: manifest.fingerprint,
        run: manifest.run.clone(),
    }
}

/// Removes the oldest beyond ten, but none from after the last time this server was in sync, and never the last one of
/// a UMS ID: however often a server is backed up, the one it had first stays.
fn prune(shelf: &mut Shelf, remove: impl Fn(&Digest) -> Result<(), DurableError>) {
    while shelf.backups.len() > KEPT
        && let Some(place) = surplus(shelf)
    {
        let old = shelf.backups.remove(place);
        if let Err(error) = remove(&old.digest) {
            tracing::warn!(%error, digest = %old.digest, "cannot remove an old safety backup");
        }
    }
}

/// The oldest that may go: there is another of the same UMS ID, or enough whose UMS ID is not known.
fn surplus(shelf: &Shelf) -> Option<usize> {
    let good_sync = shelf.good_sync.at?;
    shelf.backups.iter().position(|backup| {
        let alike = shelf.backups.iter().filter(|other| other.fingerprint == backup.fingerprint).count();
        let kept = if backup.fingerprint.is_some() { 1 } else { KEPT };
        backup.taken < good_sync && alike > kept
    })
}

#[cfg(test)]
mod tests {
    use umsid_common::digest::Fingerprint;

    use super::*;

    fn backup(second: i64) -> SafetyBackup {
        SafetyBackup {
            digest: Digest::of(&second.to_be_bytes()),
            size: 1,
            taken: Timestamp::from_second(second).unwrap(),
            fingerprint: None,
            run: "20261122t204512-7f3a9c".parse().unwrap(),
        }
    }

    fn pruned(backups: Vec<SafetyBackup>, good_sync: Option<i64>) -> Vec<i64> {
        let at = good_sync.map(|second| Timestamp::from_second(second).unwrap());
        let mut shelf = Shelf { backups, problems: Vec::new(), good_sync: GoodSync { at } };
        prune(&mut shelf, |_| Ok(()));
        shelf.backups.iter().map(|backup| backup.taken.as_second()).collect()
    }

    fn of(id: &str, second: i64) -> SafetyBackup {
        SafetyBackup { fingerprint: Some(Fingerprint::sha256_of(id.as_bytes())), ..backup(second) }
    }

    #[test]
    fn ten_are_kept_and_all_since_the_last_good_sync() {
        let unknown = |count| (0..count).map(backup).collect::<Vec<_>>();
        let known = |count| (0..count).map(|second| of("main", second)).collect::<Vec<_>>();
        let kinds: [fn(i64) -> Vec<SafetyBackup>; 2] = [unknown, known];
        for some in kinds {
            assert_eq!(pruned(some(12), Some(100)), (2..12).collect::<Vec<_>>());
            assert_eq!(pruned(some(12), Some(1)), (1..12).collect::<Vec<_>>());
            assert_eq!(pruned(some(12), None), (0..12).collect::<Vec<_>>());
            assert_eq!(pruned(some(3), Some(100)), (0..3).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_last_backup_of_a_ums_id_is_never_pushed_out() {
        // The server's own from before everything, one that does not say, and a year of nightly ones of Main's.
        let mut backups = vec![of("own", 0), backup(1)];
        for night in 2..365 {
            backups.push(of("main", night));
            let left = pruned(backups.clone(), Some(1000));
            backups.retain(|backup| left.contains(&backup.taken.as_second()));
            assert!(backups.len() <= KEPT);
        }
        let left: Vec<_> = backups.iter().map(|backup| backup.taken.as_second()).collect();
        assert_eq!(left, [0, 1].into_iter().chain(357..365).collect::<Vec<_>>());
        // Too many different ones are kept all the same.
        let different = (0..15).map(|second| of(&second.to_string(), second)).collect();
        assert_eq!(pruned(different, Some(1000)), (0..15).collect::<Vec<_>>());
        // Of one that was there before everything and came again, the newer stays.
        let again = [0, 12].map(|second| of("own", second));
        let mut mixed: Vec<_> = (1..12).map(|second| of("main", second)).collect();
        mixed.extend(again);
        mixed.sort_by_key(|backup| backup.taken);
        assert_eq!(pruned(mixed, Some(1000)), (3..13).collect::<Vec<_>>());
    }
}
