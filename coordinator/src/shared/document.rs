//! What is shared, one text each, with a version that only rises.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use super::seen::Seen;
use super::{DocumentKey, Shared, SharedError};
use crate::database::{self, Query};

/// Which document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// The servers.
    Inventory,
    /// The authority's certificate; never changed.
    Certificate,
    /// Every certificate issued, and the revocation list.
    Register,
    /// The authority's key, sealed to the administrators.
    Key,
}

impl Name {
    pub(super) const ALL: [Self; 4] = [Self::Inventory, Self::Certificate, Self::Register, Self::Key];

    fn as_str(self) -> &'static str {
        match self {
            Self::Inventory => "inventory.toml",
            Self::Certificate => "authority/certificate.pem",
            Self::Register => "authority/register.json",
            Self::Key => "authority/key.json",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A document as it is in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// From 1; 0: not there.
    pub version: u64,
    /// Who wrote it last.
    pub by: String,
    /// When.
    pub at: String,
    /// All of it.
    pub body: String,
    /// That an administrator wrote it: see [`DocumentKey`].
    pub mac: String,
}

fn of_row(row: &PgRow) -> Result<(String, Document), sqlx::Error> {
    let version = u64::try_from(row.try_get::<i64, _>("version")?).unwrap_or(0);
    let document = Document {
        version,
        by: row.try_get("changed_by")?,
        at: row.try_get("changed_at")?,
        body: row.try_get("body")?,
        mac: row.try_get("mac")?,
    };
    Ok((row.try_get("name")?, document))
}

impl Shared {
    /// All documents there are.
    pub(super) async fn read_all(
        &self,
        connection: &mut PgConnection,
    ) -> Result<BTreeMap<Name, Document>, SharedError> {
        let all = Query::new("SELECT name, version, changed_by, changed_at, body, mac FROM documents");
        let rows = database::answer(all.bound().fetch_all(connection)).await.map_err(self.failed("read"))?;
        let mut documents = BTreeMap::new();
        for row in &rows {
            let (name, document) = of_row(row).map_err(self.failed("read"))?;
            if let Some(known) = Name::ALL.iter().find(|known| known.as_str() == name) {
                documents.insert(*known, document);
            }
        }
        Ok(documents)
    }

    /// One of these documents, which must be there and of an administrator.
    pub(super) fn one_of<'a>(
        &self,
        documents: &'a BTreeMap<Name, Document>,
        name: Name,
        key: &DocumentKey,
    ) -> Result<&'a Document, SharedError> {
        let missing = || SharedError::Missing { url: self.url.clone(), name };
        let document = documents.get(&name).ok_or_else(missing)?;
        if !key.is_of(name, document) {
            let why = "no administrator wrote this: somebody altered it in the database".to_owned();
            return Err(SharedError::Unusable { url: self.url.clone(), name, why });
        }
        Ok(document)
    }

    /// The newest version of a document.
    pub(super) async fn read(
        &self,
        connection: &mut PgConnection,
        name: Name,
        key: &DocumentKey,
    ) -> Result<Document, SharedError> {
        Ok(self.one_of(&self.read_all(connection).await?, name, key)?.clone())
    }

    /// Writes a document if `version` of it is the newest, 0: if there is none, and gives it as it is there then; `None`: it is
    /// not. That it was seen is for whoever knows that it stays.
    pub(super) async fn replace(
        &self,
        connection: &mut PgConnection,
        name: Name,
        (version, body): (u64, &str),
        key: &DocumentKey,
    ) -> Result<Option<Document>, SharedError> {
        let sql = match version {
            0 => {
                "INSERT INTO documents (name, changed_by, changed_at, body, mac, version) \
                 VALUES ($1, $2, $3, $4, $5, $6 + 1) ON CONFLICT DO NOTHING"
            }
            _ => {
                "UPDATE documents SET changed_by = $2, changed_at = $3, body = $4, mac = $5, version = version + 1 \
                 WHERE name = $1 AND version = $6"
            }
        };
        let (by, at) = (self.by.to_string(), Timestamp::now().to_string());
        let mut new = Document { version: version + 1, by, at, body: body.to_owned(), mac: String::new() };
        new.mac = key.mac(name, &new);
        let query =
            Query::new(sql).text(name.as_str()).text(&new.by).text(&new.at).text(&new.body).text(&new.mac);
        let query = query.number(version);
        let done = database::answer(query.bound().execute(connection)).await.map_err(self.failed("write"))?;
        Ok((done.rows_affected() == 1).then_some(new))
    }

    /// The same, for good.
    pub(super) async fn put(
        &self,
        connection: &mut PgConnection,
        name: Name,
        new: (u64, &str),
        key: &DocumentKey,
    ) -> Result<bool, SharedError> {
        let written = self.replace(connection, name, new, key).await?;
        if let Some(document) = &written {
            Seen::written(self, name, document)?;
        }
        Ok(written.is_some())
    }

    /// The register of certificates as it is in the database, from where there is no runtime.
    pub(crate) fn newest_register(&self, key: &DocumentKey) -> Result<Document, SharedError> {
        super::blocking(async { self.read(&mut self.connect().await?, Name::Register, key).await })
    }

    /// Writes the register if this version is the newest; `false`: it is not. From where there is no runtime.
    pub(crate) fn replace_register(
        &self,
        version: u64,
        body: &str,
        key: &DocumentKey,
    ) -> Result<bool, SharedError> {
        super::blocking(async {
            self.put(&mut self.connect().await?, Name::Register, (version, body), key).await
        })
    }
}
