//! Files that are visible only when whole, verified and on disk.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::digest::{Digest, Digester};

/// What names of files end in that are not whole yet.
const UNFINISHED: &str = ".incoming";

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Its owner only: mode 0600.
    Private,
    /// Everybody: mode 0644.
    Public,
}

/// A file could not be made durable.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// Reading, writing or syncing failed; `doing` says what, as "cannot write".
    #[error("{doing} {path}")]
    Io {
        /// As "cannot write".
        doing: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More bytes than announced or allowed.
    #[error("{path}: more than {limit} bytes")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Bytes.
        limit: u64,
    },
    /// The content is not what was announced.
    #[error("{path}: {found_size} bytes with SHA-256 {found}, announced were {size} bytes with {expected}")]
    Differs {
        /// Which file.
        path: PathBuf,
        /// Announced.
        expected: Digest,
        /// Announced, bytes.
        size: u64,
        /// Computed.
        found: Digest,
        /// Counted, bytes.
        found_size: u64,
    },
    /// A directory for secrets is a link, somebody else's, or open to others.
    #[error("{path} is not private: {why}")]
    NotPrivate {
        /// Which directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl DurableError {
    /// Whether the file system has no room left.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DurableError + 'a {
    move |source| DurableError::Io { doing, path: path.to_owned(), source }
}

/// Puts a whole new content under this name: temporary file beside it, sync, rename, sync of the directory.
pub fn replace(path: &Path, bytes: &[u8], access: Access) -> Result<(), DurableError> {
    let mut file = unfinished(directory_of(path))?;
    file.write_all(bytes).map_err(failed("cannot write", path))?;
    if access == Access::Public {
        open_to_all(file.as_file()).map_err(failed("cannot set the mode of", path))?;
    }
    publish(file, path)
}

/// The content, or `None` where there is no such file: missing is an answer, unreadable is an error.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, DurableError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("cannot read", path)(error)),
    }
}

/// Removes a file and syncs its directory; `false` if it was not there.
pub fn remove(path: &Path) -> Result<bool, DurableError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(directory_of(path)).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("cannot remove", path)(error)),
    }
}

/// Makes sure this directory exists, is a directory (no link), belongs to us and is closed to everybody else (0700).
///
/// An existing directory is judged, never changed: one that was open to others may already hold what they put there.
///
/// # Errors
/// [`DurableError::NotPrivate`] if it is a link, no directory, somebody else's or open to others.
pub fn private_dir(path: &Path) -> Result<(), DurableError> {
    // Without a trailing slash: with one, a link would be followed.
    let path = path.components().as_path();
    if make_private(path).map_err(failed("cannot create", path))? {
        return sync_directory(directory_of(path));
    }
    let found = fs::symlink_metadata(path).map_err(failed("cannot examine", path))?;
    match not_private(&found) {
        None => Ok(()),
        Some(why) => Err(DurableError::NotPrivate { path: path.to_owned(), why }),
    }
}

/// Creates the directory; `false` if something of that name is there already.
fn make_private(path: &Path) -> io::Result<bool> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let made = match builder.create(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            builder.recursive(true).create(directory_of(path))?;
            builder.recursive(false).create(path)
        }
        made => made,
    };
    match made {
        // The umask may have taken from the mode what we need ourselves.
        #[cfg(unix)]
        Ok(()) => {
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map(|()| true)
        }
        #[cfg(not(unix))]
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn not_private(found: &fs::Metadata) -> Option<String> {
    if found.is_symlink() {
        return Some("it is a symbolic link".into());
    }
    if !found.is_dir() {
        return Some("it is not a directory".into());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let us = rustix::process::geteuid().as_raw();
        if found.uid() != us {
            return Some(format!("it belongs to user {}, not to user {us} who runs this", found.uid()));
        }
        if found.mode() & 0o077 != 0 {
            return Some(format!("its mode is {:04o}, needed is 0700", found.mode() & 0o7777));
        }
    }
    None
}

/// Removes what interrupted writes left in this directory; the number of files removed. No directory, no left-overs.
pub fn sweep(dir: &Path) -> Result<u32, DurableError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("cannot list", dir)(error)),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(failed("cannot list", dir))?;
        let is_dir = entry.file_type().map_err(failed("cannot examine", &entry.path()))?.is_dir();
        if !is_dir && entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            fs::remove_file(entry.path()).map_err(failed("cannot remove", &entry.path()))?;
            removed += 1;
        }
    }
    if removed > 0 {
        sync_directory(dir)?;
    }
    Ok(removed)
}

/// A private file that is being written, hashed on the way, and invisible until committed. Dropped uncommitted, it is removed.
pub struct Incoming {
    file: NamedTempFile,
    digester: Digester,
    size: u64,
    limit: u64,
}

impl Incoming {
    /// Begins a file in this directory that may not grow past `limit` bytes.
    pub fn create(dir: &Path, limit: u64) -> Result<Self, DurableError> {
        Ok(Self { file: unfinished(dir)?, digester: Digester::default(), size: 0, limit })
    }

    /// Takes in the next piece.
    ///
    /// # Errors
    /// [`DurableError::TooLarge`] past the limit, and then nothing of the piece is written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DurableError> {
        let size = self.size + bytes.len() as u64;
        if size > self.limit {
            return Err(DurableError::TooLarge { path: self.path().to_owned(), limit: self.limit });
        }
        self.file.write_all(bytes).map_err(|source| failed("cannot write", self.path())(source))?;
        self.digester.update(bytes);
        self.size = size;
        Ok(())
    }

    /// Bytes taken in so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where the bytes are until the commit: for programs that write or read the file themselves. A file into which
    /// nothing was taken in by [`Incoming::write`] is hashed when it is committed.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Makes it visible as `path` if it is what was announced; else it is removed.
    pub fn commit(self, path: &Path, expected: &Digest, size: u64) -> Result<(), DurableError> {
        let (found, found_size) = self.finish()?;
        if found != *expected || found_size != size {
            let path = path.to_owned();
            return Err(DurableError::Differs { path, expected: *expected, size, found, found_size });
        }
        publish(self.file, path)
    }

    /// Makes it visible as what it is, under a name derived from its digest: `dir`/`<digest><suffix>`.
    pub fn commit_as_is(self, suffix: &str) -> Result<(PathBuf, Digest, u64), DurableError> {
        let (digest, size) = self.finish()?;
        let path = directory_of(self.path()).join(format!("{digest}{suffix}"));
        publish(self.file, &path)?;
        Ok((path, digest, size))
    }

    fn finish(&self) -> Result<(Digest, u64), DurableError> {
        if self.size > 0 {
            return Ok((self.digester.clone().finish(), self.size));
        }
        // Another program may have written it, or put another file in its place.
        let path = self.path();
        let file = File::open(path).map_err(failed("cannot read", path))?;
        let (digest, size) = digest_of(file.take(self.limit + 1)).map_err(failed("cannot read", path))?;
        if size > self.limit {
            return Err(DurableError::TooLarge { path: path.to_owned(), limit: self.limit });
        }
        Ok((digest, size))
    }
}

/// For what writes into any [`io::Write`]. The error keeps its kind, so a full disk is still told apart.
impl io::Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Incoming::write(self, bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(DurableError::Io { source, .. }) => Err(source),
            Err(error) => Err(io::Error::new(io::ErrorKind::FileTooLarge, error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// SHA-256 and length in bytes of all that can be read.
pub fn digest_of(mut from: impl io::Read) -> io::Result<(Digest, u64)> {
    let (mut digester, mut size) = (Digester::default(), 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok((digester.finish(), size)),
            Ok(length) => {
                digester.update(&buffer[..length]);
                size += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A new private file of a name nobody can foresee (O_EXCL, 0600), removed when dropped.
fn unfinished(dir: &Path) -> Result<NamedTempFile, DurableError> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("").rand_bytes(16).suffix(UNFINISHED);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
    builder.tempfile_in(dir).map_err(failed("cannot create a file in", dir))
}

/// Syncs the file by its name, for another program may have put another in its place; renames; syncs the directory.
fn publish(file: NamedTempFile, path: &Path) -> Result<(), DurableError> {
    let by_name = File::options().write(true).open(file.path()).map_err(failed("cannot open", path))?;
    by_name.sync_all().map_err(failed("cannot sync", path))?;
    file.persist(path).map_err(|error| failed("cannot put into place", path)(error.error))?;
    sync_directory(directory_of(path))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(unix)]
fn open_to_all(file: &File) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
}

#[cfg(not(unix))]
fn open_to_all(_file: &File) -> io::Result<()> {
    Ok(())
}

/// A rename is on disk only when the directory is.
#[cfg(unix)]
fn sync_directory(dir: &Path) -> Result<(), DurableError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("cannot sync", dir))
}

/// Windows journals renames itself and does not open directories for syncing.
#[cfg(not(unix))]
fn sync_directory(_dir: &Path) -> Result<(), DurableError> {
    Ok(())
}
