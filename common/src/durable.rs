//! Files that are visible only when whole, verified and on disk.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::digest::{Digest, Digester};
use crate::fault;

mod patience;

use patience::patiently;

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
    let mut file = unfinished(directory_of(path), access)?;
    file.write_all(bytes).map_err(failed("cannot write", path))?;
    if access == Access::Public {
        open_to_all(file.as_file()).map_err(failed("cannot set the mode of", path))?;
    }
    publish(file, path)
}

/// What a write outlives when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlives {
    /// The end of this process.
    Process,
    /// That of the machine too: it is synced.
    Machine,
}

/// Writes a private file on from this length, and cuts off whatever was behind: what a write that broke off left. Made where it is
/// missing. What is before is not touched.
pub fn append(path: &Path, length: u64, bytes: &[u8], outlives: Outlives) -> Result<(), DurableError> {
    fault::moment("file write");
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let opened = only_files(&mut options, Links::Refused, path);
    let mut file = opened.map_err(failed("cannot open", path))?;
    let there = file.metadata().map_err(failed("cannot examine", path))?.len();
    if there < length {
        let why = format!("it has {there} bytes, and had {length}");
        return Err(failed("cannot write on", path)(io::Error::new(io::ErrorKind::UnexpectedEof, why)));
    }
    if there > length {
        file.set_len(length).map_err(failed("cannot write", path))?;
    }
    file.seek(io::SeekFrom::Start(length)).map_err(failed("cannot write", path))?;
    file.write_all(bytes).map_err(failed("cannot write", path))?;
    if outlives == Outlives::Process {
        return Ok(());
    }
    file.sync_data().map_err(failed("cannot sync", path))?;
    if length == 0 { sync_directory(directory_of(path)) } else { Ok(()) }
}

/// Makes the name of a file outlive the machine.
pub fn keep_name(path: &Path) -> Result<(), DurableError> {
    sync_directory(directory_of(path))
}

/// Opens a file for reading. A directory is none, nor is a pipe or device that would hold up for ever whoever opens it.
pub fn open(path: &Path) -> io::Result<File> {
    only_files(File::options().read(true), Links::Followed, path)
}

/// The same where nobody but us puts files: a link there is not ours, and is not followed.
pub fn open_own(path: &Path) -> io::Result<File> {
    only_files(File::options().read(true), Links::Refused, path)
}

/// Overwrites a file of ours with zeros, as many as `most` bytes. What has another name too is left alone: there it may
/// be somebody else's.
pub fn overwrite(path: &Path, most: u64) -> io::Result<()> {
    let mut file = only_files(File::options().write(true), Links::Refused, path)?;
    let found = file.metadata()?;
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(&found) > 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has another name too"));
    }
    io::copy(&mut io::repeat(0).take(found.len().min(most)), &mut file)?;
    file.sync_data()
}

/// Takes the lock file of a directory of ours for writing, and makes it (0600) where there is none.
pub fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    only_files(options.create(true).truncate(false).write(true), Links::Refused, path)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Links {
    Followed,
    Refused,
}

fn only_files(options: &mut fs::OpenOptions, links: Links, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let refused = if links == Links::Refused { OFlags::NOFOLLOW } else { OFlags::empty() };
        // Without waiting for whoever is at the other end of a pipe; with a file it means nothing.
        let flags = (OFlags::NONBLOCK | refused).bits();
        std::os::unix::fs::OpenOptionsExt::custom_flags(options, i32::try_from(flags).unwrap_or_default());
    }
    #[cfg(windows)]
    if links == Links::Refused {
        std::os::windows::fs::OpenOptionsExt::custom_flags(options, OPEN_REPARSE_POINT);
    }
    let file = patiently(|| options.open(path))?;
    let found = file.metadata()?;
    #[cfg(windows)]
    if links == Links::Refused && leads_elsewhere(&found) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a link"));
    }
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    Ok(file)
}

/// FILE_FLAG_OPEN_REPARSE_POINT: what is opened is the link itself.
#[cfg(windows)]
const OPEN_REPARSE_POINT: u32 = 0x0020_0000;

/// FILE_ATTRIBUTE_REPARSE_POINT: a symbolic link, a junction, or anything else that leads to another place.
#[cfg(windows)]
fn leads_elsewhere(found: &fs::Metadata) -> bool {
    std::os::windows::fs::MetadataExt::file_attributes(found) & 0x400 != 0
}

/// The content, or `None` where there is no such file: missing is an answer, unreadable is an error.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, DurableError> {
    let read = |mut file: File| {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map(|_| bytes)
    };
    match open(path).and_then(read) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("cannot read", path)(error)),
    }
}

/// Removes a file and syncs its directory; `false` if it was not there.
pub fn remove(path: &Path) -> Result<bool, DurableError> {
    remove_all(&[path]).map(|removed| removed > 0)
}

/// Removes files of one directory and syncs that once; how many were there.
pub fn remove_all(paths: &[impl AsRef<Path>]) -> Result<u32, DurableError> {
    let mut removed = 0;
    for path in paths.iter().map(AsRef::as_ref) {
        match patiently(|| fs::remove_file(path)) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("cannot remove", path)(error)),
        }
    }
    match paths.first().filter(|_| removed > 0) {
        Some(path) => sync_directory(directory_of(path.as_ref())).map(|()| removed),
        None => Ok(removed),
    }
}

/// Makes sure this directory exists, is a directory (no link), belongs to us and is closed to everybody else: 0700; on Windows
/// open to the system, to administrators and to whoever runs this.
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
    match not_private(path, &found).map_err(failed("cannot examine", path))? {
        None => Ok(()),
        Some(why) => Err(DurableError::NotPrivate { path: path.to_owned(), why }),
    }
}

/// Creates the directory; `false` if something of that name is there already.
fn make_private(path: &Path) -> io::Result<bool> {
    let made = match create_private(path) {
        // A drive that is not there has no directory above it.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some() => {
            make_private(directory_of(path))?;
            create_private(path)
        }
        made => made,
    };
    match made {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn create_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)?;
    // The umask may have taken from the mode what we need ourselves.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))
}

#[cfg(windows)]
fn create_private(path: &Path) -> io::Result<()> {
    umsid_windows::acl::create_private_dir(path)
}

fn not_private(path: &Path, found: &fs::Metadata) -> io::Result<Option<String>> {
    #[cfg(windows)]
    if leads_elsewhere(found) {
        return Ok(Some("it leads to another place".into()));
    }
    if found.is_symlink() {
        return Ok(Some("it is a symbolic link".into()));
    }
    if !found.is_dir() {
        return Ok(Some("it is not a directory".into()));
    }
    open_to_others(path, found)
}

#[cfg(unix)]
fn open_to_others(_: &Path, found: &fs::Metadata) -> io::Result<Option<String>> {
    use std::os::unix::fs::MetadataExt as _;
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us {
        return Ok(Some(format!("it belongs to user {}, not to user {us} who runs this", found.uid())));
    }
    let mode = found.mode();
    Ok((mode & 0o077 != 0).then(|| format!("its mode is {:04o}, needed is 0700", mode & 0o7777)))
}

#[cfg(windows)]
fn open_to_others(path: &Path, _: &fs::Metadata) -> io::Result<Option<String>> {
    use umsid_windows::acl;
    let us = acl::me()?;
    let found = acl::access(path)?;
    let may = |who: &str| [acl::SYSTEM, acl::ADMINISTRATORS, &us].contains(&who);
    if !may(&found.owner) {
        return Ok(Some(format!("it belongs to {}, not to {us} who runs this", found.owner)));
    }
    let other = found.allowed.into_iter().find(|who| !may(who));
    Ok(other
        .map(|other| format!("{other} may open it too; it is to be open to the system and administrators")))
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
            patiently(|| fs::remove_file(entry.path())).map_err(failed("cannot remove", &entry.path()))?;
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
        Ok(Self { file: unfinished(dir, Access::Private)?, digester: Digester::default(), size: 0, limit })
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

/// A new private file of this name, for reading and writing; an error if there is something of that name.
pub fn create_private_file(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.read(true).write(true).create_new(true).open(path)
    }
    #[cfg(windows)]
    umsid_windows::acl::create_private_file(path)
}

/// A new file of a name nobody can foresee (O_EXCL), removed when dropped. On Unix it is private (0600), whatever it will be.
#[cfg_attr(unix, expect(unused_variables, reason = "there a file can be opened to all when it is whole"))]
fn unfinished(dir: &Path, access: Access) -> Result<NamedTempFile, DurableError> {
    fault::moment("file write");
    let mut builder = tempfile::Builder::new();
    builder.prefix("").rand_bytes(16).suffix(UNFINISHED);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600));
    #[cfg(unix)]
    let made = builder.tempfile_in(dir);
    #[cfg(windows)]
    let made = builder.make_in(dir, |path| match access {
        Access::Private => create_private_file(path),
        Access::Public => File::options().read(true).write(true).create_new(true).open(path),
    });
    made.map_err(failed("cannot create a file in", dir))
}

/// Syncs the file by its name, for another program may have put another in its place; renames; syncs the directory.
fn publish(file: NamedTempFile, path: &Path) -> Result<(), DurableError> {
    let by_name =
        patiently(|| File::options().write(true).open(file.path())).map_err(failed("cannot open", path))?;
    fault::moment("file sync");
    by_name.sync_all().map_err(failed("cannot sync", path))?;
    put_into_place(file, path).map_err(failed("cannot put into place", path))?;
    sync_directory(directory_of(path))
}

#[cfg(unix)]
fn put_into_place(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Also in the place of a file that somebody is reading: the library's own way is refused then.
#[cfg(windows)]
#[expect(clippy::disallowed_methods, reason = "this is where files are renamed")]
fn put_into_place(file: NamedTempFile, path: &Path) -> io::Result<()> {
    let mut file = file.into_temp_path();
    patiently(|| fs::rename(&file, path))?;
    file.disable_cleanup(true);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use umsid_testkit::scratch;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn missing_is_an_answer_and_unreadable_is_an_error() {
        let dir = scratch();
        let path = dir.path().join("file");
        assert_eq!(read_optional(&path).unwrap(), None);
        replace(&path, b"", Access::Private).unwrap();
        assert_eq!(read_optional(&path).unwrap(), Some(vec![]));
        assert!(matches!(read_optional(dir.path()), Err(DurableError::Io { doing: "cannot read", .. })));
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = scratch();
        let path = dir.path().join("file");
        replace(&path, b"one", Access::Private).unwrap();
        // So it is on Windows too, but not with Wine.
        #[cfg(unix)]
        let old = File::open(&path).unwrap();
        replace(&path, b"two", Access::Private).unwrap();
        #[cfg(unix)]
        assert_eq!(io::read_to_string(old).unwrap(), "one", "who had it open keeps reading the old one");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["file"]);
        assert!(replace(&dir.path().join("no/such/dir"), b"x", Access::Private).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn access_is_what_was_asked_for_whatever_was_there() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = scratch();
        let path = dir.path().join("file");
        for (access, mode) in [(Access::Private, 0o600), (Access::Public, 0o644), (Access::Private, 0o600)] {
            replace(&path, b"x", access).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        let incoming = Incoming::create(dir.path(), 1).unwrap();
        assert_eq!(fs::metadata(incoming.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_comes_in_is_seen_only_when_it_is_what_was_announced() {
        let dir = scratch();
        let path = dir.path().join("file");
        let digest = Digest::of(b"content");
        let attempt = |pieces: &[&str], digest: &Digest, size| {
            let mut incoming = Incoming::create(dir.path(), 10).unwrap();
            for piece in pieces {
                incoming.write(piece.as_bytes())?;
            }
            assert!(!path.exists());
            incoming.commit(&path, digest, size)
        };
        let too_large = attempt(&["content", "more"], &digest, 11);
        assert!(matches!(too_large, Err(DurableError::TooLarge { limit: 10, .. })));
        for (pieces, size) in
            [(&["conten"][..], 7), (&["contenT"], 7), (&["content"], 6), (&[], 7), (&["content", "x"], 7)]
        {
            let differs = attempt(pieces, &digest, size);
            assert!(matches!(differs, Err(DurableError::Differs { .. })), "{pieces:?} {size}: {differs:?}");
            assert_eq!(names(dir.path()), [""; 0], "something was left behind");
        }
        attempt(&["con", "", "tent"], &digest, 7).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content");
        assert_eq!(names(dir.path()), ["file"]);
    }

    // On Windows a file that is open keeps its name.
    #[cfg(unix)]
    #[test]
    fn a_file_another_program_wrote_is_hashed_when_committed() {
        let dir = scratch();
        let put = |incoming: &Incoming, text: &str| {
            // As programs do: a new file in place of the old one.
            fs::remove_file(incoming.path()).unwrap();
            File::create_new(incoming.path()).unwrap().write_all(text.as_bytes()).unwrap();
        };
        let incoming = Incoming::create(dir.path(), 10).unwrap();
        put(&incoming, "content");
        let (path, digest, size) = incoming.commit_as_is(".age").unwrap();
        assert_eq!((digest, size), (Digest::of(b"content"), 7));
        assert_eq!(path, dir.path().join(format!("{digest}.age")));
        assert_eq!(fs::read(&path).unwrap(), b"content");

        let incoming = Incoming::create(dir.path(), 10).unwrap();
        put(&incoming, "far too long");
        assert!(matches!(incoming.commit_as_is(".age"), Err(DurableError::TooLarge { .. })));
        assert_eq!(names(dir.path()).len(), 1);
    }

    #[test]
    fn left_overs_are_swept_and_nothing_else() {
        let dir = scratch();
        replace(&dir.path().join("whole"), b"x", Access::Private).unwrap();
        let mut torn = Incoming::create(dir.path(), 10).unwrap();
        torn.write(b"half").unwrap();
        // As if the process had died here.
        torn.file.disable_cleanup(true);
        drop(torn);
        fs::create_dir(dir.path().join("dir.incoming")).unwrap();
        assert_eq!(names(dir.path()).len(), 3);
        assert_eq!(sweep(dir.path()).unwrap(), 1);
        assert_eq!(names(dir.path()), ["dir.incoming", "whole"]);
        assert_eq!(sweep(dir.path()).unwrap(), 0);
        assert_eq!(sweep(&dir.path().join("none")).unwrap(), 0);
    }

    #[cfg(windows)]
    #[test]
    fn a_drive_that_is_not_there_is_an_error() {
        assert!(private_dir(Path::new(r"Q:\a\b")).is_err());
        assert!(private_dir(Path::new(r"Q:\")).is_err());
    }

    #[cfg(windows)]
    #[test]
    fn a_file_that_is_held_for_a_moment_is_waited_for_and_one_held_for_good_is_an_error() {
        use std::os::windows::fs::OpenOptionsExt as _;
        let dir = scratch();
        let path = dir.path().join("file");
        replace(&path, b"one", Access::Private).unwrap();
        // As a virus scanner: nobody else may do anything with it.
        let hold = || File::options().read(true).share_mode(0).open(&path).unwrap();
        for what in
            [|path: &Path| replace(path, b"two", Access::Private), |path: &Path| remove(path).map(drop)]
        {
            let held = hold();
            let letting_go = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(300));
                drop(held);
            });
            what(&path).unwrap();
            letting_go.join().unwrap();
        }
        assert!(!path.exists());
        replace(&path, b"three", Access::Private).unwrap();
        let held = hold();
        assert!(remove(&path).is_err());
        drop(held);
        assert_eq!(read_optional(&path).unwrap(), Some(b"three".to_vec()));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_where_the_file_shall_be_is_replaced_not_followed() {
        let dir = scratch();
        let (secret, path) = (dir.path().join("secret"), dir.path().join("file"));
        replace(&secret, b"secret", Access::Private).unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        replace(&path, b"new", Access::Private).unwrap();
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
        assert!(!fs::symlink_metadata(&path).unwrap().is_symlink());
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_is_private_or_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = scratch();
        let made = dir.path().join("a/b");
        private_dir(&made).unwrap();
        private_dir(&made).unwrap();
        for made in [&made, &dir.path().join("a")] {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }

        let refused = |path: &Path, why: &str| {
            let error = private_dir(path).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&made, &link).unwrap();
        refused(&link, "symbolic link");
        refused(&dir.path().join("link/"), "symbolic link");
        replace(&dir.path().join("file"), b"", Access::Private).unwrap();
        refused(&dir.path().join("file"), "not a directory");
        for mode in [0o750, 0o701, 0o770] {
            fs::set_permissions(&made, fs::Permissions::from_mode(mode)).unwrap();
            refused(&made, &format!("its mode is {mode:04o}"));
            assert_eq!(
                fs::metadata(&made).unwrap().permissions().mode() & 0o777,
                mode,
                "judged, not changed"
            );
        }
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&made, Some(4242), None).unwrap();
            fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).unwrap();
            refused(&made, "belongs to user 4242");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_told_apart() {
        let full = File::options().write(true).open("/dev/full").unwrap().write_all(b"x").unwrap_err();
        assert!(failed("cannot write", Path::new("/dev/full"))(full).is_disk_full());
        let missing = replace(Path::new("/no/such/dir"), b"x", Access::Private).unwrap_err();
        assert!(!missing.is_disk_full());
    }
}
