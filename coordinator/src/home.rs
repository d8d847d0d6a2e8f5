//! The state directory: where everything of one coordinator lives.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use umsid_common::durable::{self, DurableError};
use umsid_common::name::{CallerName, ClusterName};
use umsid_common::tls;

/// How long to wait for another `umsid` that changes inventory or authority. It holds the lock for a few round trips to
/// one agent at most.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How often to look whether the lock is free; there is no asynchronous way to wait for a file lock.
const LOCK_POLL: Duration = Duration::from_millis(50);

const ADMINISTRATOR_KEY: &str = "administrator.key";

/// The state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Where it is.
    pub dir: PathBuf,
}

/// The state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// No home directory to put it in.
    #[error("there is no home directory to keep state in")]
    Nowhere,
    /// Nothing there.
    #[error("{dir} holds no state of umsid: run `umsid init` first")]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// There was an inventory.
    #[error("{dir} has no inventory.toml any more, and other state of umsid")]
    NoInventory {
        /// The directory.
        dir: PathBuf,
    },
    /// A file is where the directory should be.
    #[error("{dir} is no directory")]
    NoDirectory {
        /// What was given.
        dir: PathBuf,
    },
    /// An observer's directory, where a coordinator's is needed.
    #[error("{dir} holds an observer's identity, which may look and change nothing")]
    OnlyLooks {
        /// The directory.
        dir: PathBuf,
    },
    /// Something is there already.
    #[error("{dir} is in use already: it holds {found}")]
    Occupied {
        /// The directory.
        dir: PathBuf,
        /// What was found.
        found: String,
    },
    /// Its permissions, or the file system.
    #[error("the state directory cannot be used")]
    Directory(#[from] DurableError),
    /// The lock file cannot be opened or locked.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start what speaks to the database")]
    Thread(#[source] std::io::Error),
    /// Another process holds the lock.
    #[error("another umsid has been changing {dir} for longer than {} s", LOCK_PATIENCE.as_secs())]
    Busy {
        /// The directory.
        dir: PathBuf,
    },
}

/// A right that one process at a time has; ends when dropped, and with the process.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

impl Home {
    /// The directory given, or the default: `/var/lib/umsid` for root, `%ProgramData%\umsid` on Windows, else
    /// `umsid` in `$XDG_STATE_HOME` or `~/.local/state`.
    ///
    /// # Errors
    /// [`HomeError::Nowhere`] if there is no home directory.
    pub fn at(dir: Option<PathBuf>) -> Result<Self, HomeError> {
        dir.or_else(default_dir).map(|dir| Self { dir }).ok_or(HomeError::Nowhere)
    }

    /// The servers: `inventory.toml`.
    pub fn inventory_path(&self) -> PathBuf {
        self.dir.join("inventory.toml")
    }

    /// The journal of runs, where this directory's state is in files: `state.db`.
    pub fn database_path(&self) -> PathBuf {
        self.dir.join("state.db")
    }

    /// Says where the state is, if it is shared: `state-url`.
    pub fn state_url_path(&self) -> PathBuf {
        self.dir.join("state-url")
    }

    /// What was seen of shared state: `documents.seen`.
    pub fn documents_seen_path(&self) -> PathBuf {
        self.dir.join("documents.seen")
    }

    /// What shared secrets are sealed to: `administrator.key`.
    pub fn administrator_key_path(&self) -> PathBuf {
        self.dir.join(ADMINISTRATOR_KEY)
    }

    /// The coordinator's certificate, key, trust anchors and revocation list: `coordinator/`.
    pub fn tls_files(&self) -> tls::Files {
        tls::Files::in_dir(&self.tls_dir())
    }

    /// Where [`Home::tls_files`] are.
    pub fn tls_dir(&self) -> PathBuf {
        if self.is_observers() { self.dir.clone() } else { self.dir.join("coordinator") }
    }

    /// Whether this is a directory as `umsid observer add` makes it: certificate and key beside the inventory, and no
    /// authority.
    pub fn is_observers(&self) -> bool {
        self.dir.join("certificate.pem").exists() && !self.dir.join("coordinator").exists()
    }

    /// The certificate authority: `authority/`.
    pub fn authority_dir(&self) -> PathBuf {
        self.dir.join("authority")
    }

    /// The directory whose [`Home::authority_dir`] this is.
    pub fn of_authority(dir: &Path) -> Option<Self> {
        Some(Self { dir: dir.parent()?.to_owned() })
    }

    /// The authority's key, where this directory's state is in files: `authority/key.pem`, or under a passphrase `authority/key.age`.
    pub fn own_authority_key(&self) -> Option<PathBuf> {
        ["key.pem", "key.age"].map(|key| self.authority_dir().join(key)).into_iter().find(|key| key.exists())
    }

    /// Puts the journal aside, which is somewhere else now; where it is then. `None`: there is none.
    ///
    /// # Errors
    /// Those of the file system.
    #[expect(
        clippy::disallowed_methods,
        reason = "it is whole and durable under either name, and counts under none: losing the new one loses nothing"
    )]
    pub fn put_journal_aside(&self) -> std::io::Result<Option<PathBuf>> {
        let first = self.dir.join("state.moved.db");
        if !self.database_path().exists() {
            return Ok(first.exists().then_some(first));
        }
        let later = (2..).map(|number: u32| self.dir.join(format!("state.moved-{number}.db")));
        let aside = std::iter::once(first).chain(later).find(|path| !path.exists());
        let aside = aside.expect("numbers do not end");
        let named = |path: &Path, suffix| PathBuf::from(format!("{}{suffix}", path.display()));
        // What SQLite keeps beside a database goes along, and first: it is of no other.
        for suffix in ["-shm", "-wal", ""] {
            let (from, to) = (named(&self.database_path(), suffix), named(&aside, suffix));
            match std::fs::rename(from, to) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(Some(aside))
    }

    /// Checks that `umsid init` was here and that nobody else can read it.
    ///
    /// # Errors
    /// [`HomeError::Missing`] before `umsid init`, [`HomeError::NoInventory`] if only part of it is there;
    /// [`HomeError::Directory`] if others have access.
    pub fn open(&self) -> Result<(), HomeError> {
        if self.is_observers() {
            return Err(HomeError::OnlyLooks { dir: self.dir.clone() });
        }
        self.open_to_look()?;
        durable::private_dir(&self.authority_dir())?;
        Ok(())
    }

    /// The same for whoever only looks: an observer's directory does, which has no authority.
    ///
    /// # Errors
    /// As [`Home::open`].
    pub fn open_to_look(&self) -> Result<(), HomeError> {
        self.no_file()?;
        if !self.inventory_path().exists() {
            let dir = self.dir.clone();
            let began =
                self.authority_dir().join("certificate.pem").exists() || self.database_path().exists();
            return Err(if began { HomeError::NoInventory { dir } } else { HomeError::Missing { dir } });
        }
        for dir in [self.dir.clone(), self.tls_dir()] {
            durable::private_dir(&dir)?;
        }
        Ok(())
    }

    fn no_file(&self) -> Result<(), HomeError> {
        if self.dir.exists() && !self.dir.is_dir() {
            return Err(HomeError::NoDirectory { dir: self.dir.clone() });
        }
        Ok(())
    }

    /// Makes the directories; refuses where anything is already.
    ///
    /// # Errors
    /// [`HomeError::Occupied`] names what is there.
    pub fn create(&self) -> Result<(), HomeError> {
        self.no_file()?;
        if let Some(found) = contents(&self.dir) {
            return Err(HomeError::Occupied { dir: self.dir.clone(), found });
        }
        self.make_dirs()
    }

    /// The same for whoever joins shared state, which may be repeated: what an interrupted one leaves is in nobody's way.
    ///
    /// # Errors
    /// As [`Home::create`].
    pub fn create_to_join(&self) -> Result<(), HomeError> {
        self.no_file()?;
        let own = self.own_authority_key().is_some();
        let complete = self.inventory_path().exists() || self.database_path().exists();
        if (own || complete || self.is_observers())
            && let Some(found) = contents(&self.dir)
        {
            return Err(HomeError::Occupied { dir: self.dir.clone(), found });
        }
        self.make_dirs()
    }

    fn make_dirs(&self) -> Result<(), HomeError> {
        for dir in [self.dir.clone(), self.tls_dir(), self.authority_dir()] {
            durable::private_dir(&dir)?;
        }
        Ok(())
    }

    /// Takes the right to change inventory and authority, waiting for whoever has it.
    ///
    /// # Errors
    /// [`HomeError::Busy`] if it does not become free in time.
    pub async fn lock(&self) -> Result<HomeLock, HomeError> {
        let path = self.dir.join("lock");
        let since = Instant::now();
        loop {
            match try_lock(&path)? {
                Some(lock) => return Ok(lock),
                None if since.elapsed() > LOCK_PATIENCE => {
                    return Err(HomeError::Busy { dir: self.dir.clone() });
                }
                None => tokio::time::sleep(LOCK_POLL).await,
            }
        }
    }

    /// Takes the right to carry out runs of a cluster; `None`: another process here has it, and is at work. It tells a
    /// run that goes on from one whose umsid died; see [`crate::shared::lock_cluster`] for other machines.
    ///
    /// # Errors
    /// If the lock file cannot be opened or locked.
    pub fn lock_cluster(&self, cluster: &ClusterName) -> Result<Option<HomeLock>, HomeError> {
        try_lock(&self.dir.join(format!("{cluster}.lock")))
    }

    /// Takes the right to watch; `None`: another process here has it. Two would tell everything twice.
    ///
    /// # Errors
    /// If the lock file cannot be opened or locked.
    pub fn lock_watch(&self) -> Result<Option<HomeLock>, HomeError> {
        try_lock(&self.dir.join("watching"))
    }
}

/// This machine's name as far as it does as a name here.
pub(crate) fn machine_name() -> CallerName {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok()).unwrap_or_default().to_lowercase();
    let name = name.trim().split('.').next().unwrap_or_default();
    name.parse().unwrap_or_else(|_| "coordinator".parse().expect("this is a name"))
}

fn try_lock(path: &Path) -> Result<Option<HomeLock>, HomeError> {
    let failed = |source| HomeError::Lock { path: path.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(HomeLock { _file: file })),
        Err(TryLockError::Error(source)) => Err(failed(source)),
        Err(TryLockError::WouldBlock) => Ok(None),
    }
}

/// What is in a directory, for a person; `None`: it is empty or not there. An interrupted `init` leaves empty
/// directories at worst, and may be repeated.
fn contents(dir: &Path) -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| {
            std::fs::read_dir(entry.path()).is_ok_and(|mut inner| inner.next().is_some())
                || !entry.path().is_dir()
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        // Made by whoever asks to become an administrator, before there is anything to be one of.
        .filter(|name| name != ADMINISTRATOR_KEY)
        .collect();
    names.sort();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(unix)]
fn default_dir() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/umsid"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("umsid"))
}

#[cfg(windows)]
fn default_dir() -> Option<PathBuf> {
    Some(umsid_windows::folders::program_data().ok()?.join("umsid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(dir: &tempfile::TempDir) -> Home {
        Home { dir: dir.path().join("state") }
    }

    #[test]
    fn before_init_it_says_what_to_run() {
        let dir = tempfile::tempdir().unwrap();
        let error = home(&dir).open().unwrap_err().to_string();
        assert!(error.ends_with("run `umsid init` first"), "{error}");
    }

    #[test]
    fn a_lost_inventory_is_no_reason_to_begin_anew() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        home.create().unwrap();
        assert!(matches!(home.open(), Err(HomeError::Missing { .. })));
        durable::replace(&home.authority_dir().join("certificate.pem"), b"", durable::Access::Private)
            .unwrap();
        assert!(matches!(home.open(), Err(HomeError::NoInventory { .. })));
    }

    #[test]
    fn a_directory_with_something_in_it_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        home.create().unwrap();
        home.create().unwrap();
        durable::replace(&home.tls_dir().join("key.pem"), b"x", durable::Access::Private).unwrap();
        let error = home.create().unwrap_err().to_string();
        assert!(error.ends_with("it holds coordinator"), "{error}");
    }

    #[test]
    fn an_observers_directory_is_for_looking_alone() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        durable::private_dir(&home.dir).unwrap();
        for file in ["inventory.toml", "certificate.pem"] {
            durable::replace(&home.dir.join(file), b"", durable::Access::Private).unwrap();
        }
        home.open_to_look().unwrap();
        assert_eq!(home.tls_dir(), home.dir);
        assert!(matches!(home.open(), Err(HomeError::OnlyLooks { .. })));
        assert!(!home.authority_dir().exists(), "looking made a directory");
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_open_to_others_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        home.create().unwrap();
        durable::replace(&home.inventory_path(), b"", durable::Access::Private).unwrap();
        home.open().unwrap();
        std::fs::set_permissions(home.authority_dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(home.open(), Err(HomeError::Directory(DurableError::NotPrivate { .. }))));
    }

    #[test]
    fn no_journal_is_put_aside_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        home.create().unwrap();
        assert_eq!(home.put_journal_aside().unwrap(), None);
        let journal = |text: &[u8]| durable::replace(&home.database_path(), text, durable::Access::Private);
        let mut put = Vec::new();
        for text in [b"one", b"two"] {
            journal(text).unwrap();
            put.push(home.put_journal_aside().unwrap().unwrap());
        }
        let kept = put.iter().map(|path| std::fs::read(path).unwrap());
        assert_eq!(kept.collect::<Vec<_>>(), [b"one", b"two"]);
        assert_eq!(home.put_journal_aside().unwrap(), Some(put.swap_remove(0)));
    }

    #[test]
    fn only_one_at_a_time_carries_out_runs_of_a_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        home.create().unwrap();
        let (here, there) = ("hamburg".parse().unwrap(), "berlin".parse().unwrap());
        let held = home.lock_cluster(&here).unwrap().unwrap();
        assert!(home.lock_cluster(&here).unwrap().is_none());
        assert!(home.lock_cluster(&there).unwrap().is_some());
        drop(held);
        assert!(home.lock_cluster(&here).unwrap().is_some());
    }

    #[tokio::test]
    async fn only_one_at_a_time_changes_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir);
        home.create().unwrap();
        let held = home.lock().await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(200), home.lock()).await;
        assert!(waiting.is_err(), "a second lock was granted");
        drop(held);
        home.lock().await.unwrap();
    }
}
