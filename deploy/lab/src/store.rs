//! How the lab keeps its files: replaced in one step, appended line by line.
//!
//! Readers in other processes never see half a file. Nothing is synced to disk: a lab does not outlive its machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// What a file's permissions are to be. Windows ignores it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Access {
    /// Everybody may read (0644).
    Public,
    /// The owner alone (0600).
    Private,
    /// Everybody may run it (0755).
    Program,
}

/// Puts `content` at `path` in one step, over whatever is there.
pub(crate) fn replace(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("the path has no directory"))?;
    fs::create_dir_all(directory)?;
    let mut builder = tempfile::Builder::new();
    builder.prefix(".new-");
    permit(&mut builder, access);
    let mut file = builder.tempfile_in(directory)?;
    file.write_all(content)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(unix)]
fn permit(builder: &mut tempfile::Builder<'_, '_>, access: Access) {
    use std::os::unix::fs::PermissionsExt as _;
    builder.permissions(fs::Permissions::from_mode(match access {
        Access::Public => 0o644,
        Access::Private => 0o600,
        Access::Program => 0o755,
    }));
}

#[cfg(not(unix))]
fn permit(_: &mut tempfile::Builder<'_, '_>, _: Access) {}

/// Appends one line, whole, to a file only the owner may read: several processes may write to it.
pub(crate) fn append_line(path: &Path, line: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// The lines of a file; none when there is no such file.
pub(crate) fn lines(path: &Path) -> io::Result<Vec<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Does `deed` while no other process of the lab holds the lock file at `path`.
pub(crate) fn locked<T>(path: &Path, deed: impl FnOnce() -> T) -> io::Result<T> {
    let mut lock = fd_lock::RwLock::new(lock_file(path)?);
    let _held = lock.write()?;
    Ok(deed())
}

/// As [`locked`], but does nothing and answers `None` when somebody else holds the lock.
pub(crate) fn locked_or_none<T>(path: &Path, deed: impl FnOnce() -> T) -> io::Result<Option<T>> {
    let mut lock = fd_lock::RwLock::new(lock_file(path)?);
    match lock.try_write() {
        Ok(_held) => Ok(Some(deed())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock_file(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}
