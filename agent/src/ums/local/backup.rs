//! `licensing backup`, and whether there really is one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::RawOutput;

use super::LocalUms;

impl LocalUms {
    /// Backs up to a new file in `into`: its path. What failed leaves no file.
    pub(super) async fn backup(&self, into: &Path, password: &SecretString) -> Result<PathBuf, Failure> {
        let program = self.program()?;
        let before = entries(into).map_err(|error| unreadable(into, &error))?;
        let password = self.password_file(password)?;
        // Whether `.ksbak` is appended, forced or left out is not documented: whatever is new here is the backup.
        let asked = into.join("ums-id.ksbak");
        let ran = self.cli.backup(&program, &asked, &password).await;
        drop(password);
        let result = match ran {
            Ok(ran) => self.new_backup(into, &before, &asked, ran.raw),
            Err(error) => Err(error.into_failure()),
        };
        // What it wrote is still there: this is how the disk was when it failed.
        let result = if is_full(into) { result.map_err(no_room) } else { result };
        if result.is_err() {
            for path in entries(into).unwrap_or_default().difference(&before) {
                // Half a backup is a secret nobody needs.
                if let Err(error) = fs::remove_file(path) {
                    tracing::warn!(path = %path.display(), %error, "cannot remove");
                }
            }
        }
        result
    }

    pub(super) fn password_file(
        &self,
        password: &SecretString,
    ) -> Result<super::super::workspace::PasswordFile, Failure> {
        self.workspace.password(password, self.config.ums.password_newline).map_err(|error| {
            let code = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::DiskFull,
                _ => Code::Internal,
            };
            Failure::new(code, "cannot write the password file").because(&error)
        })
    }

    fn new_backup(
        &self,
        into: &Path,
        before: &BTreeSet<PathBuf>,
        asked: &Path,
        raw: RawOutput,
    ) -> Result<PathBuf, Failure> {
        let after = entries(into).map_err(|error| unreadable(into, &error))?;
        let mut new: Vec<_> = after.difference(before).cloned().collect();
        // As asked for, if there is more than one.
        new.sort_by_key(|path| path != asked);
        let Some(file) = new.into_iter().next() else {
            return Err(
                Failure::new(Code::NoEffect, "licensing backup said success but wrote no file").raw(raw)
            );
        };
        let found = fs::symlink_metadata(&file).map_err(|error| unreadable(&file, &error))?;
        let limit = self.config.max_backup_bytes;
        let bad = |what: String, raw| Err(Failure::new(Code::BadBackup, what).raw(raw));
        match found.len() {
            _ if !found.is_file() => bad("licensing backup wrote something that is no file".to_owned(), raw),
            0 => bad("licensing backup wrote a file of 0 bytes".to_owned(), raw),
            size if size > limit => {
                bad(format!("licensing backup wrote {size} bytes, allowed are {limit}"), raw).map_err(
                    |failure| {
                        failure.remedy("raise max_backup_bytes in the agent's configuration if that is right")
                    },
                )
            }
            _ => Ok(file),
        }
    }
}

/// A disk with less room than this takes no backup, in bytes.
const LEAST_ROOM: u64 = 64 << 10;

/// Whether this directory's disk has no room left: no words of another program are needed to tell.
fn is_full(dir: &Path) -> bool {
    crate::host::disk(dir).is_some_and(|disk| disk.free < LEAST_ROOM)
}

fn no_room(mut failure: Failure) -> Failure {
    failure.code = Code::DiskFull;
    failure.causes.insert(0, "there is no room left on the disk".to_owned());
    failure.remedy("make room where the agent keeps its state")
}

fn entries(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Code::Internal, format!("cannot examine {}", path.display())).because(error)
}

/// Adds a cause.
pub(super) trait Because {
    fn because(self, error: &dyn std::fmt::Display) -> Self;
}

impl Because for Failure {
    fn because(mut self, error: &dyn std::fmt::Display) -> Self {
        self.causes.push(error.to_string());
        self
    }
}
