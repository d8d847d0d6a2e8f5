//! Short-lived private files handed to `umsadmin-cli`: passwords, and exported certificates. Overwritten and removed
//! when dropped; what a crash leaves is swept at the next start.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use umsid_common::durable::{self, DurableError};
use umsid_common::name::random_bytes;
use zeroize::Zeroizing;

use crate::exec;

/// The private directory of short-lived files.
#[derive(Clone, Debug)]
pub struct Workspace(PathBuf);

impl Workspace {
    /// Makes sure it is there and private.
    ///
    /// # Errors
    /// Where it is somebody else's or open to others.
    pub fn open(dir: &Path) -> Result<Self, DurableError> {
        durable::private_dir(dir)?;
        Ok(Self(dir.to_owned()))
    }

    /// What is in it although nothing should be running.
    pub fn left_overs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Removes left-overs, except what a program that outlived an agent still uses; how many.
    pub fn sweep(&self) -> usize {
        let unused: Vec<_> = self.left_overs().into_iter().filter(|path| !exec::in_use(path)).collect();
        unused.iter().filter(|path| remove(path)).count()
    }

    /// Writes a password to a new file for one command. `newline`: with a line end, which some programs take for a part
    /// of the password and others want (UMS_FACTS §3: not documented).
    pub fn password(&self, password: &SecretString, newline: bool) -> io::Result<PasswordFile> {
        let mut text = Zeroizing::new(password.expose_secret().as_bytes().to_vec());
        if newline {
            text.push(b'\n');
        }
        let file = PasswordFile { path: self.fresh("password") };
        durable::create_private_file(&file.path)?.write_all(&text)?;
        Ok(file)
    }

    /// A new private directory for what one command writes.
    pub fn directory(&self) -> Result<WorkDir, DurableError> {
        let path = self.fresh("out");
        durable::private_dir(&path)?;
        Ok(WorkDir(path))
    }

    fn fresh(&self, prefix: &str) -> PathBuf {
        self.0.join(format!("{prefix}-{}", data_encoding::HEXLOWER.encode(&random_bytes::<8>())))
    }
}

/// A password in a file, for as long as a command needs it.
#[derive(Debug)]
pub struct PasswordFile {
    path: PathBuf,
}

impl PasswordFile {
    /// For `--password:file`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// A private directory, for as long as a command needs it.
#[derive(Debug)]
pub struct WorkDir(PathBuf);

impl WorkDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Overwrites and removes a file, or removes a directory with all in it. `false` if it is still there.
fn remove(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return true };
    let removed = if found.is_dir() {
        fs::remove_dir_all(path)
    } else {
        if found.is_file()
            && let Err(error) = durable::overwrite(path, 1 << 16)
        {
            tracing::debug!(path = %path.display(), %error, "cannot overwrite");
        }
        fs::remove_file(path)
    };
    if let Err(error) = &removed {
        tracing::warn!(path = %path.display(), %error, "cannot remove");
    }
    removed.is_ok()
}
