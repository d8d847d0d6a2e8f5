//! State that several administrators share, in a database: documents with versions, and locks.
//!
//! Every administrator has a directory as one alone has it, with copies of the documents: they are refreshed when a command
//! begins, so that looking goes on while the database is away. A change is made under a lock, from the newest version, and
//! is written only if that still is the newest; a lock ends with its connection.

mod change;
mod document;
mod envelope;
mod error;
mod lock;
mod seal;
mod seen;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use umsid_common::durable::{self, Access};
use umsid_common::name::CallerName;
use umsid_common::seal::SealKey;
use umsid_common::tls;

use crate::database::{self, Database, Location, Query, StateUrl};
use crate::home::{Home, HomeError, HomeLock, machine_name};
use crate::journal::{CopyError, Journal};

pub use change::Change;
pub use document::{Document, Name};
pub use envelope::{Envelope, Opened};
pub use error::SharedError;
pub use lock::{ClusterLock, is_at_work, lock_cluster};
pub use seal::DocumentKey;
use seen::Seen;

/// How long to wait for the database where copies do as well.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait for another process here that refreshes or changes the copies.
const TURN: Duration = Duration::from_secs(2);

/// The shared state of one directory.
#[derive(Clone, Debug)]
pub struct Shared {
    home: Home,
    url: StateUrl,
    by: Arc<str>,
}

/// What a refresh came to.
pub struct Refreshed {
    /// The authority's key, and who has it.
    pub opened: Opened,
    /// Where a copy of the inventory was put aside that somebody had edited.
    pub edited: Option<PathBuf>,
    documents: BTreeMap<Name, Document>,
}

/// What is shared, for somebody who is to join.
pub struct Found {
    /// The authority's key, and who has it.
    pub opened: Opened,
    /// The text of the inventory.
    pub inventory: String,
    certificate: String,
    register: String,
}

impl Shared {
    /// The shared state of this directory; `None`: its state is in files.
    pub fn of(home: &Home) -> Result<Option<Self>, SharedError> {
        // Whatever is wrong with the directory, who looks for more in it says.
        if !home.dir.is_dir() {
            return Ok(None);
        }
        let path = home.state_url_path();
        let Some(text) = durable::read_optional(&path)? else { return Ok(None) };
        let url = String::from_utf8_lossy(&text).trim().parse();
        let url = url.map_err(|source| SharedError::Url { path, source })?;
        Ok(Some(Self::at(home, url, &own_name(home))))
    }

    /// The shared state at this URL, for this directory; `by` is who changes it.
    pub fn at(home: &Home, url: StateUrl, by: &str) -> Self {
        Self { home: home.clone(), url, by: by.into() }
    }

    /// Where it is.
    pub fn url(&self) -> &StateUrl {
        &self.url
    }

    fn failed(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> SharedError + '_ {
        move |source| SharedError::Database { doing, at: Location::Server(self.url.clone()), source }
    }

    /// A connection of its own.
    async fn connect(&self) -> Result<PgConnection, SharedError> {
        let options = database::options(&self.url).map_err(self.failed("reach"))?;
        let connected = tokio::time::timeout(database::PATIENCE, PgConnection::connect_with(&options)).await;
        connected.unwrap_or_else(|_| Err(database::silent(database::PATIENCE))).map_err(self.failed("reach"))
    }

    /// This administrator's key, made if there is none.
    pub fn own_key(&self) -> Result<SealKey, SharedError> {
        Ok(SealKey::load_or_generate(&self.home.administrator_key_path())?)
    }

    /// Remembers in the directory that its state is shared, and where.
    pub fn remember(&self) -> Result<(), SharedError> {
        let text = format!("{}\n", self.url);
        Ok(durable::replace(&self.home.state_url_path(), text.as_bytes(), Access::Private)?)
    }

    /// The state of the directory is in its own files again.
    pub fn forget(&self) -> Result<(), SharedError> {
        Ok(durable::remove(&self.home.state_url_path()).map(drop)?)
    }

    /// Makes the tables, where they are not there.
    pub async fn make_tables(&self) -> Result<(), SharedError> {
        let opened = Database::open(&Location::Server(self.url.clone())).await;
        opened.map_err(self.failed("begin"))?.close().await;
        Ok(())
    }

    /// Whether there is shared state at the URL already, or what is left of some.
    pub async fn is_begun(&self) -> Result<bool, SharedError> {
        let any = Query::new(
            "SELECT EXISTS (SELECT FROM documents) OR EXISTS (SELECT FROM runs) OR EXISTS (SELECT FROM acts) AS any",
        );
        let mut connection = self.connect().await?;
        let row = database::answer(any.bound().fetch_one(&mut connection)).await;
        row.and_then(|row| row.try_get("any")).map_err(self.failed("read"))
    }

    /// Begins shared state with these documents, and all that this journal holds if there is one: all of it or nothing.
    ///
    /// # Errors
    /// If somebody else began it at the same time. Nothing has arrived then, but for [`SharedError::InDoubt`].
    pub async fn begin(
        &self,
        documents: &[(Name, String)],
        key: &DocumentKey,
        journal: Option<&Journal>,
    ) -> Result<(), SharedError> {
        let mut connection = self.connect().await?;
        let mut change = connection.begin().await.map_err(self.failed("write"))?;
        for (name, body) in documents {
            if self.replace(&mut change, *name, (0, body), key).await?.is_none() {
                return Err(SharedError::Overtaken { name: *name, by: "another".into() });
            }
        }
        if let Some(journal) = journal {
            journal.copy_to(&mut change).await.map_err(|error| match error {
                CopyError::Read(error) => SharedError::Journal(error),
                CopyError::Write(source) => self.failed("write")(source),
            })?;
        }
        database::answer(change.commit()).await.map_err(|source| match source {
            // The server's own no.
            sqlx::Error::Database(_) => self.failed("write")(source),
            source => SharedError::InDoubt { url: self.url.clone(), source },
        })
    }

    /// What somebody finds who is to join: `name` is who that would be.
    ///
    /// # Errors
    /// [`SharedError::NoAdministrator`] if nobody let her in.
    pub async fn look_in(&self, own: &SealKey, name: &CallerName) -> Result<Found, SharedError> {
        let documents = self.read_all(&mut self.connect().await?).await?;
        let opened = self.open(&documents, own, name)?;
        let key = opened.document_key();
        let take = |name: Name| self.one_of(&documents, name, &key).map(|document| document.body.clone());
        Ok(Found {
            inventory: take(Name::Inventory)?,
            certificate: take(Name::Certificate)?,
            register: take(Name::Register)?,
            opened,
        })
    }

    /// Opens the envelope. What authenticates the documents is made of the key in it, so that this must be the authority's: who
    /// writes to the database could seal one of his own to us.
    fn open(
        &self,
        documents: &BTreeMap<Name, Document>,
        own: &SealKey,
        name: &CallerName,
    ) -> Result<Opened, SharedError> {
        let body = |name| match documents.get(&name) {
            Some(document) => Ok(document.body.as_str()),
            None => Err(SharedError::Missing { url: self.url.clone(), name }),
        };
        let opened = Envelope::read(self, body(Name::Key)?)?.open(self, own, name)?;
        let certificate = body(Name::Certificate)?;
        let pinned = durable::read_optional(&self.copy(Name::Certificate))?;
        if pinned.is_some_and(|pinned| pinned != certificate.as_bytes()) {
            return Err(SharedError::Stranger { url: self.url.clone(), dir: self.home.dir.clone() });
        }
        if !tls::is_key_of(&opened.key_pem, certificate) {
            let why = "it is not the key of this authority: somebody replaced it".to_owned();
            return Err(SharedError::Unusable { url: self.url.clone(), name: Name::Key, why });
        }
        Ok(opened)
    }

    /// Brings the copies of the authority into the directory of who joins.
    pub fn keep_copies(&self, found: &Found) -> Result<(), SharedError> {
        self.keep_copy(Name::Certificate, &found.certificate)?;
        self.keep_copy(Name::Register, &found.register)
    }

    /// Brings the copies of the documents up to date, unless another process here is changing them.
    ///
    /// # Errors
    /// Then the copies are as they were.
    pub async fn refresh(&self) -> Result<Refreshed, SharedError> {
        // Before they are read: nobody here writes newer ones meanwhile.
        let alone = match tokio::time::timeout(TURN, self.home.lock()).await {
            Ok(Ok(lock)) => Some(lock),
            Ok(Err(HomeError::Busy { .. })) | Err(_) => None,
            Ok(Err(error)) => return Err(error.into()),
        };
        self.refreshed(alone.is_some()).await
    }

    /// The same for whoever has the right to change things here already.
    pub async fn refresh_alone(&self, _alone: &HomeLock) -> Result<Refreshed, SharedError> {
        self.refreshed(true).await
    }

    async fn refreshed(&self, keep: bool) -> Result<Refreshed, SharedError> {
        let work = async {
            let mut connection = self.connect().await?;
            self.refresh_by(&mut connection, keep).await
        };
        tokio::time::timeout(PATIENCE, work)
            .await
            .unwrap_or_else(|_| Err(self.failed("read")(database::silent(PATIENCE))))
    }

    async fn refresh_by(&self, connection: &mut PgConnection, keep: bool) -> Result<Refreshed, SharedError> {
        // Before the documents: others here may write newer ones, and remember them, meanwhile.
        let before = Seen::load(self)?;
        let documents = self.read_all(connection).await?;
        let half_moved = self.home.own_authority_key().is_some();
        if half_moved && documents.is_empty() {
            return Err(SharedError::HalfMoved { url: self.url.clone(), dir: self.home.dir.clone() });
        }
        let opened =
            self.open(&documents, &self.own_key()?, &self.called()).map_err(|error| match error {
                SharedError::NoAdministrator { .. } | SharedError::Stranger { .. } if half_moved => {
                    SharedError::Taken { url: self.url.clone(), dir: self.home.dir.clone() }
                }
                error => error,
            })?;
        let key = opened.document_key();
        let mut seen = before.clone();
        for name in Name::ALL {
            if !seen.takes(name, self.one_of(&documents, name, &key)?) {
                let seen = self.home.documents_seen_path();
                return Err(SharedError::Older { url: self.url.clone(), name, seen });
            }
        }
        if !keep {
            return Ok(Refreshed { opened, edited: None, documents });
        }
        self.keep_copy(Name::Register, &documents[&Name::Register].body)?;
        let edited = self.keep_inventory(&documents[&Name::Inventory].body, &mut seen)?;
        if seen != before {
            Seen::load(self)?.and(seen).save(self)?;
        }
        Ok(Refreshed { opened, edited, documents })
    }

    /// Keeps a copy of the inventory; what a person wrote into the one before is put aside, and the path of it given.
    fn keep_inventory(&self, body: &str, seen: &mut Seen) -> Result<Option<PathBuf>, SharedError> {
        let there = durable::read_optional(&self.home.inventory_path())?.unwrap_or_default();
        let mut edited = None;
        if there != body.as_bytes() {
            if !seen.is_ours(&there) {
                let aside = self.home.dir.join("inventory.edited.toml");
                durable::replace(&aside, &there, Access::Private)?;
                edited = Some(aside);
            }
            self.keep_copy(Name::Inventory, body)?;
        }
        seen.note(body.as_bytes());
        Ok(edited)
    }

    /// What this administrator is called, as far as that is known here.
    fn called(&self) -> CallerName {
        let last = self.by.rsplit('/').next().unwrap_or_default();
        last.parse().unwrap_or_else(|_| machine_name())
    }

    /// Where the copy of a document is.
    pub fn copy(&self, name: Name) -> PathBuf {
        match name {
            Name::Inventory => self.home.inventory_path(),
            Name::Certificate => self.home.authority_dir().join("certificate.pem"),
            Name::Register => self.home.authority_dir().join("register.json"),
            Name::Key => self.home.authority_dir().join("key.sealed"),
        }
    }

    fn keep_copy(&self, name: Name, body: &str) -> Result<(), SharedError> {
        let path = self.copy(name);
        if durable::read_optional(&path)?.is_some_and(|there| there == body.as_bytes()) {
            return Ok(());
        }
        Ok(durable::replace(&path, body.as_bytes(), Access::Private)?)
    }
}

/// Who a directory belongs to, by its certificate; empty before it has one.
fn own_name(home: &Home) -> String {
    let pem = std::fs::read_to_string(home.tls_files().certificate).unwrap_or_default();
    let identity = tls::first_certificate(&pem).and_then(|der| tls::identity_of(&der).ok());
    identity.map(|identity| identity.to_string()).unwrap_or_default()
}

/// Does what needs a runtime where there is none at hand: in a thread of its own.
pub(crate) fn blocking<T: Send>(
    work: impl Future<Output = Result<T, SharedError>> + Send,
) -> Result<T, SharedError> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| runtime.block_on(work))
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(SharedError::Home(HomeError::Thread(error))),
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
