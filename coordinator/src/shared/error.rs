//! Why shared state cannot be used, and what to do about it.

use std::path::PathBuf;

use umsid_common::durable::DurableError;
use umsid_common::name::CallerName;
use umsid_common::seal::{Recipient, SealError};

use super::{Name, lock};
use crate::database::{Ailment, InvalidStateUrl, Location, StateUrl, ailment};
use crate::exit::{self, Exit};
use crate::home::HomeError;
use crate::journal::JournalError;

/// Shared state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SharedError {
    /// The database said no, or nothing.
    #[error("cannot {doing} the shared state {at}")]
    Database {
        /// As "read".
        doing: &'static str,
        /// Where it is.
        at: Location,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Not a URL of shared state.
    #[error("{path} does not say where the shared state is")]
    Url {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: InvalidStateUrl,
    },
    /// A document that should be there is not.
    #[error("the shared state {url} has no {name}")]
    Missing {
        /// Where.
        url: StateUrl,
        /// Which.
        name: Name,
    },
    /// Moving the state there was broken off before anything had arrived.
    #[error("the state of {} was to be moved to {url}, and is not there yet", dir.display())]
    HalfMoved {
        /// Where to.
        url: StateUrl,
        /// Where it is.
        dir: PathBuf,
    },
    /// Moving the state there was broken off, and what is there now is another's.
    #[error("the state of {} was to be moved to {url}, and what is there is somebody else's", dir.display())]
    Taken {
        /// Where to.
        url: StateUrl,
        /// Where it is.
        dir: PathBuf,
    },
    /// The connection was lost, or the server silent, while it was to take all there is.
    #[error("whether {url} has taken it is not known")]
    InDoubt {
        /// Where.
        url: StateUrl,
        /// What became of the connection.
        #[source]
        source: sqlx::Error,
    },
    /// The journal in files cannot be read.
    #[error("the journal cannot be moved")]
    Journal(#[source] JournalError),
    /// A document that does not do.
    #[error("{name} of the shared state {url}: {why}")]
    Unusable {
        /// Where.
        url: StateUrl,
        /// Which.
        name: Name,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate authority there is not the one this directory belongs to.
    #[error("the shared state {url} is of another certificate authority than {}", dir.display())]
    Stranger {
        /// Where.
        url: StateUrl,
        /// The directory.
        dir: PathBuf,
    },
    /// The state is older than what was seen of it.
    #[error("{name} of the shared state {url} is older than what was seen of it here")]
    Older {
        /// Where.
        url: StateUrl,
        /// Which.
        name: Name,
        /// What remembers it.
        seen: PathBuf,
    },
    /// The authority's key is not sealed to this administrator.
    #[error("{recipient} is the key of no administrator of {url}: they are {known}")]
    NoAdministrator {
        /// Where.
        url: StateUrl,
        /// Our own.
        recipient: Recipient,
        /// Those there are.
        known: String,
        /// Who that could be.
        name: CallerName,
    },
    /// Somebody else was faster.
    #[error("{name} of the shared state was changed by {by} at the same time: nothing was changed here")]
    Overtaken {
        /// Which.
        name: Name,
        /// Who.
        by: String,
    },
    /// Somebody holds the lock.
    #[error("another administrator has been changing {url} for longer than {} s", lock::PATIENCE.as_secs())]
    Busy {
        /// Where.
        url: StateUrl,
    },
    /// The own key.
    #[error("the key of this administrator cannot be used")]
    Key(#[from] SealError),
    /// The own directory.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A copy.
    #[error("a copy of the shared state cannot be kept")]
    Copy(#[from] DurableError),
}

impl SharedError {
    /// How the program ends, and what to do.
    pub fn judge(&self) -> Option<(Exit, String)> {
        let (exit, remedy) = match self {
            Self::Database { at, source, .. } => {
                let ailment = ailment(source);
                let exit = match ailment {
                    Ailment::Unreachable => Exit::Unreachable,
                    Ailment::Damaged => Exit::NeedsOperator,
                    _ => Exit::Failed,
                };
                (exit, ailment.remedy(at).into())
            }
            Self::Url { path, .. } => (Exit::Failed, format!("correct the URL in {}", path.display())),
            Self::Missing { .. } | Self::Unusable { .. } => (
                Exit::NeedsOperator,
                "put the database back from a backup of the server's; an empty one is begun by `umsid init --state URL` in \
                 another state directory"
                    .into(),
            ),
            Self::Stranger { .. } => (
                Exit::NeedsOperator,
                "if the installation was set up anew, join it with `umsid init --state URL` in another state directory; \
                 else somebody replaced what is in the database"
                    .into(),
            ),
            Self::Older { seen, .. } => (
                Exit::NeedsOperator,
                format!(
                    "somebody put an older state back: certificates and servers of since then are unknown to it. If that was meant, \
                     remove {}",
                    seen.display()
                ),
            ),
            Self::NoAdministrator { recipient, name, url, .. } => (
                Exit::Certificate,
                format!(
                    "one of them types `umsid admins add {name} {recipient}`; then here again: umsid init --state '{url}'"
                ),
            ),
            Self::Overtaken { .. } => (Exit::Locked, "look at what is there now, then type it again".into()),
            Self::Busy { .. } => (Exit::Locked, "wait until the other is done".into()),
            Self::Key(_) => (Exit::Failed, "administrator.key in the state directory is yours alone: put it back from a backup".into()),
            Self::Home(error) => {
                let (exit, remedy) = exit::of_home(error);
                (exit, remedy.into())
            }
            Self::HalfMoved { url, dir } => (
                Exit::NeedsOperator,
                format!(
                    "type it again: umsid init --move --state '{url}'; to stay with files instead, drop that database, where it may \
                     still arrive, and remove {}",
                    dir.join("state-url").display()
                ),
            ),
            Self::Taken { dir, .. } => (
                Exit::NeedsOperator,
                format!(
                    "to stay with files, remove {}; then they can be moved to an empty database",
                    dir.join("state-url").display()
                ),
            ),
            Self::InDoubt { .. } => {
                (Exit::Unreachable, "type the same again when the database answers, and before anything else".into())
            }
            Self::Copy(_) | Self::Journal(_) => return None,
        };
        Some((exit, remedy))
    }
}
