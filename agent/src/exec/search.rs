//! Where programs are looked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Directories where programs are looked for; also the `PATH` of every command.
#[cfg(not(windows))]
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The directories of the system's `PATH`: on Windows there is no fixed set.
#[cfg(not(windows))]
pub(super) fn search_path() -> OsString {
    SEARCH.into()
}

#[cfg(windows)]
pub(super) fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Where a program is: a path as it is if absolute, a bare name looked for in the system's directories.
pub fn locate(program: &str) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.is_absolute() {
        return with_extension(path);
    }
    if path.components().count() != 1 {
        return None;
    }
    std::env::split_paths(&search_path())
        .filter(|dir| dir.is_absolute())
        .find_map(|dir| with_extension(&dir.join(path)))
}

/// The program of this name; on Windows also one whose extension was left out.
fn with_extension(path: &Path) -> Option<PathBuf> {
    const EXTENSIONS: [&str; 3] = ["exe", "bat", "cmd"];
    if path.is_file() {
        return Some(path.to_owned());
    }
    if !cfg!(windows) || path.extension().is_some() {
        return None;
    }
    EXTENSIONS.iter().map(|extension| path.with_extension(extension)).find(|path| path.is_file())
}
