//! The spool: sealed backups on their way, those this server made for others and those that were uploaded here.
//!
//! A file is called by the digest of its content and belongs to a run, as its note (`<digest>.json`) says. One without
//! the other was left by a crash and is removed at the start.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use tokio_stream::{Stream, StreamExt as _};
use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access, DurableError, Incoming};
use umsid_common::fault;
use umsid_common::name::RunId;
use umsid_proto::failure::{Code, Failure};

use crate::host::{blocking, disk};
use crate::state::{StateError, damage, read_json};

/// What a sealed file may have over the backup in it: headers, manifest, signature.
const OVERHEAD: u64 = 1 << 20;

/// Room that must be left on the disk after an upload.
const RESERVE: u64 = 16 << 20;

/// An upload slower than this, in bytes a second, is given up.
const SLOWEST: u64 = 16 << 10;

/// Whose a file is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    run: RunId,
    origin: Origin,
    size: u64,
}

/// What is wrong with the notes in this directory.
pub(crate) fn damage(dir: &Path) -> Vec<StateError> {
    damage::within::<Digest>(dir, damage::of::<Note>)
}

/// Where a file in the spool comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// Made here, for download.
    Made,
    /// Uploaded, to be restored here.
    Uploaded,
}

/// A file that is not taken in, or not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("there is no file {0} of this run here")]
    Missing(Digest),
    #[error("{size} bytes were announced, at most {limit} are taken")]
    TooLarge { size: u64, limit: u64 },
    #[error("0 bytes were announced: that is no backup")]
    Empty,
    #[error("{size} bytes were announced, {free} are free on the disk")]
    NoRoom { size: u64, free: u64 },
    #[error("more than the {0} bytes announced arrived")]
    TooMany(u64),
    #[error("the upload ended after {arrived} of {size} bytes")]
    TooFew { arrived: u64, size: u64 },
    #[error("nothing arrived for too long: {arrived} of {size} bytes so far")]
    TooSlow { arrived: u64, size: u64 },
    #[error("the upload broke off")]
    Broken(#[source] tonic::Status),
    #[error("a file cannot be stored")]
    Store(#[from] DurableError),
}

impl From<SpoolError> for Failure {
    fn from(error: SpoolError) -> Self {
        let code = match &error {
            SpoolError::Missing(_) => Code::NotFound,
            SpoolError::TooLarge { .. } | SpoolError::Empty => Code::BadBackup,
            SpoolError::NoRoom { .. } => Code::DiskFull,
            SpoolError::TooMany(_) | SpoolError::TooFew { .. } => Code::DigestMismatch,
            SpoolError::TooSlow { .. } | SpoolError::Broken(_) => Code::Interrupted,
            SpoolError::Store(error) if error.is_disk_full() => Code::DiskFull,
            SpoolError::Store(DurableError::Differs { .. }) => Code::DigestMismatch,
            SpoolError::Store(_) => Code::Internal,
        };
        let failure = Self::of(code, &error);
        match error {
            _ if code == Code::DiskFull => failure.remedy("make room where the agent keeps its state"),
            SpoolError::TooLarge { .. } => failure.remedy(
                "if the backup really is that large, raise max_backup_bytes in the agent's configuration",
            ),
            _ => failure,
        }
    }
}

/// The sealed backups on their way.
pub(crate) struct Spool {
    dir: PathBuf,
    limit: u64,
    notes: Mutex<BTreeMap<Digest, Note>>,
}

impl Spool {
    /// Finds what is there. `max_backup`: bytes of a backup.
    pub(crate) fn load(dir: PathBuf, max_backup: u64) -> Result<Self, StateError> {
        let spool = Self { dir, limit: max_backup.saturating_add(OVERHEAD), notes: Mutex::default() };
        let failed = |source| StateError::Directory { doing: "list", path: spool.dir.clone(), source };
        for entry in std::fs::read_dir(&spool.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let Ok(digest) = name.parse::<Digest>() else { continue };
            let whole = spool.path(&digest).exists() && spool.note(&digest).exists();
            if whole {
                spool.lock().extend(read_json(&spool.note(&digest))?.map(|note| (digest, note)));
            } else {
                durable::remove(&path)?;
            }
        }
        Ok(spool)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}.age"))
    }

    fn note(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{digest}.json"))
    }

    /// Begins a file.
    pub(crate) fn begin(&self, size: u64) -> Result<Incoming, SpoolError> {
        Ok(Incoming::create(&self.dir, size)?)
    }

    /// Largest sealed file taken, in bytes.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes in a file that was uploaded, if it is what was announced.
    pub(crate) fn keep_upload(
        &self,
        file: Incoming,
        announced: (Digest, u64),
        run: &RunId,
    ) -> Result<(), SpoolError> {
        let (digest, size) = announced;
        let mut notes = self.lock();
        fault::moment("spool upload before");
        file.commit(&self.path(&digest), &digest, size)?;
        fault::moment("spool upload after");
        self.own(&mut notes, digest, Note { run: run.clone(), origin: Origin::Uploaded, size })
    }

    /// Takes in a file made here; its digest and bytes.
    pub(crate) fn keep_made(&self, file: Incoming, run: &RunId) -> Result<(Digest, u64), SpoolError> {
        let mut notes = self.lock();
        let (_, digest, size) = file.commit_as_is(".age")?;
        fault::moment("spool made after");
        self.own(&mut notes, digest, Note { run: run.clone(), origin: Origin::Made, size })?;
        Ok((digest, size))
    }

    fn own(&self, notes: &mut BTreeMap<Digest, Note>, digest: Digest, note: Note) -> Result<(), SpoolError> {
        let json = serde_json::to_vec(&note).expect("a note of names and numbers is JSON");
        if let Err(error) = durable::replace(&self.note(&digest), &json, Access::Private) {
            durable::remove(&self.path(&digest))?;
            notes.remove(&digest);
            return Err(error.into());
        }
        notes.insert(digest, note);
        Ok(())
    }

    /// Opens a file of this run.
    pub(crate) fn open(
        &self,
        digest: &Digest,
        run: &RunId,
        origin: Origin,
    ) -> Result<(File, u64), SpoolError> {
        let size = match self.lock().get(digest) {
            Some(note) if note.run == *run && note.origin == origin => note.size,
            _ => return Err(SpoolError::Missing(*digest)),
        };
        match durable::open_own(&self.path(digest)) {
            Ok(file) => Ok((file, size)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(SpoolError::Missing(*digest)),
            Err(source) => {
                Err(DurableError::Io { doing: "cannot read", path: self.path(digest), source }.into())
            }
        }
    }

    /// Removes what a run left here; the number of files.
    pub(crate) fn discard(&self, run: &RunId) -> Result<u32, SpoolError> {
        self.remove(|owner| owner == run)
    }

    /// Whether another run left something here.
    pub(crate) fn has_of_others(&self, run: &RunId) -> bool {
        self.lock().values().any(|note| note.run != *run)
    }

    /// Removes what all other runs left here; the number of files. None of them can go on any more once this one has done
    /// something here, and of those that were given up nobody else comes to remove it.
    pub(crate) fn discard_others(&self, run: &RunId) -> Result<u32, SpoolError> {
        self.remove(|owner| owner != run)
    }

    fn remove(&self, is_meant: impl Fn(&RunId) -> bool) -> Result<u32, SpoolError> {
        let mut notes = self.lock();
        let meant: Vec<_> =
            notes.iter().filter(|(_, note)| is_meant(&note.run)).map(|(digest, _)| *digest).collect();
        let files: Vec<PathBuf> =
            meant.iter().flat_map(|digest| [self.path(digest), self.note(digest)]).collect();
        let there = meant.iter().filter(|digest| self.path(digest).exists()).count();
        durable::remove_all(&files)?;
        notes.retain(|digest, _| !meant.contains(digest));
        Ok(u32::try_from(there).unwrap_or(u32::MAX))
    }

    /// Takes in the bytes of an upload: exactly as many as announced, with exactly the digest announced, in time.
    /// Otherwise nothing is left of it. `idle`: how long nothing may arrive.
    pub(crate) async fn receive(
        &self,
        announced: (Digest, u64),
        mut pieces: impl Stream<Item = Result<Vec<u8>, SpoolError>> + Unpin,
        idle: Duration,
    ) -> Result<Incoming, SpoolError> {
        let (_, size) = announced;
        if size == 0 {
            return Err(SpoolError::Empty);
        }
        if size > self.limit {
            return Err(SpoolError::TooLarge { size, limit: self.limit });
        }
        if let Some(disk) = disk(&self.dir)
            && disk.free < size.saturating_add(RESERVE)
        {
            return Err(SpoolError::NoRoom { size, free: disk.free });
        }
        let mut file = self.begin(size)?;
        let end = Instant::now() + idle + Duration::from_secs(size / SLOWEST);
        loop {
            let arrived = file.size();
            let next = timeout_at(end.min(Instant::now() + idle), pieces.next()).await;
            let piece = match next.map_err(|_| SpoolError::TooSlow { arrived, size })? {
                Some(piece) => piece?,
                None if arrived < size => return Err(SpoolError::TooFew { arrived, size }),
                None => return Ok(file),
            };
            if arrived + piece.len() as u64 > size {
                return Err(SpoolError::TooMany(size));
            }
            file = blocking(move || file.write(&piece).map(|()| file)).await?;
        }
    }
}
