//! Files in the state directory whose content means nothing: which there are, and what to do about each.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::{Change, Enrolment, StateError, read_json};
use crate::{lease, operations, spool, vault};

impl StateError {
    /// What to do about a damaged file and what that costs; `None` where what it says is all there is to say.
    pub fn remedy(&self) -> Option<String> {
        let Self::Damaged { path, .. } = self else { return None };
        let dir = path.parent().and_then(Path::file_name).and_then(OsStr::to_str);
        let file = path.file_name().and_then(OsStr::to_str);
        let path = path.display();
        Some(match (dir, file) {
            (Some("operations"), _) => format!(
                "move {path} out of the directory. What became of that operation is not known then: look at this server's UMS ID with `umsid status`, restart the UMS Server if a restore was going on, and begin a new run instead of resuming that one"
            ),
            (Some("spool"), _) => format!(
                "move {path} and the file ending in .age of the same name out of the directory. The run they are of has to be begun anew; nothing on this server is lost"
            ),
            (_, Some("lease.json")) => format!(
                "make sure that no run is at work on this server, then move {path} out of the directory. Who held this server is forgotten then, so that an older run could be resumed here: look at `umsid runs` first"
            ),
            (_, Some("good-sync.json")) => format!(
                "move {path} out of the directory. No safety backup is lost; none is removed until this server was in sync again"
            ),
            (_, Some("enrolment.json")) => format!(
                "move {path} out of the directory and enrol this server again with `umsid-agent enroll`, under the same name in the same cluster. The safety backups stay"
            ),
            (_, Some("change.json")) => format!(
                "move {path} out of the directory. A change of certificates stays half done then: if the agent does not start, enrol this server again with `umsid-agent enroll --again`. The safety backups stay"
            ),
            _ => format!("move {path} out of the directory and keep it until you know what it was"),
        })
    }
}

/// Everything in this state directory that would keep the agent from starting. Changes nothing, so that it may be asked
/// beside an agent at work.
pub(crate) fn damaged(root: &Path) -> Vec<StateError> {
    let mut found: Vec<_> = [
        of::<Enrolment>(&root.join("enrolment.json")),
        of::<Change>(&root.join("change.json")),
        lease::damage(&root.join("lease.json")),
        vault::damage(&root.join("vault")),
    ]
    .into_iter()
    .flatten()
    .collect();
    found.extend(operations::damage(&root.join("operations")));
    found.extend(spool::damage(&root.join("spool")));
    found
}

/// What is wrong with this file, if it is there.
pub(crate) fn of<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<StateError> {
    read_json::<T>(path).err()
}

/// What is wrong with those JSON files of this directory whose names are `N`s, by what `damage` says of each.
pub(crate) fn within<N: std::str::FromStr>(
    dir: &Path,
    damage: impl Fn(&Path) -> Option<StateError>,
) -> Vec<StateError> {
    let failed = |source| StateError::Directory { doing: "list", path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![failed(error)],
    };
    let of_entry = |entry: io::Result<std::fs::DirEntry>| {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => return Some(failed(error)),
        };
        let is_ours = path.extension() == Some(OsStr::new("json"))
            && path.file_stem().and_then(OsStr::to_str).is_some_and(|stem| stem.parse::<N>().is_ok());
        if is_ours { damage(&path) } else { None }
    };
    let mut found: Vec<_> = entries.filter_map(of_entry).collect();
    found.sort_by_key(ToString::to_string);
    found
}
