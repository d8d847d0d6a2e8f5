//! The two databases that state is kept in: SQLite in a file of one administrator, PostgreSQL for several.
//!
//! A statement is written once, with `$1` for what is put into it: both take that.

mod ailment;
mod url;

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Connection as _, Decode, Encode, Row as _, Type};

pub use ailment::{Ailment, ailment};
pub use url::{InvalidStateUrl, StateUrl};

/// How long to wait for a server of databases: to be connected, and for each answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Connections of one process: a run writes one thing at a time, and lists are read beside it.
const CONNECTIONS: u32 = 2;

static OF_SQLITE: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");
static OF_POSTGRES: sqlx::migrate::Migrator = sqlx::migrate!("migrations/postgres");

/// Where a database is: what a person is told of it, and nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file of SQLite.
    File(PathBuf),
    /// A database of PostgreSQL.
    Server(StateUrl),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(url) => url.fmt(f),
        }
    }
}

/// A database, its tables made. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Database {
    pool: Pool,
    location: Location,
}

#[derive(Clone, Debug)]
enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Database {
    /// Opens the database there, and makes what tables it lacks.
    pub async fn open(location: &Location) -> Result<Self, sqlx::Error> {
        match location {
            Location::File(path) => Self::open_file(path).await,
            Location::Server(url) => Self::open_server(url).await,
        }
    }

    async fn open_file(path: &Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).connect_with(options).await?;
        OF_SQLITE.run(&pool).await?;
        Ok(Self { pool: Pool::Sqlite(pool), location: Location::File(path.to_owned()) })
    }

    async fn open_server(url: &StateUrl) -> Result<Self, sqlx::Error> {
        let options = options(url)?;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE / 3)
            .connect_lazy_with(options.clone());
        let database = Self { pool: Pool::Postgres(pool.clone()), location: Location::Server(url.clone()) };
        // Whoever may not make tables need not, where they are made.
        match database.newest_migration().await? {
            found if found == newest(&OF_POSTGRES) => {}
            _ => in_time(&pool, async { Ok(OF_POSTGRES.run(&pool).await?) }).await?,
        }
        Ok(database)
    }

    /// The version of the tables on the server; `None`: there are none.
    async fn newest_migration(&self) -> Result<Option<i64>, sqlx::Error> {
        let there = Query::new("SELECT CAST(to_regclass('_sqlx_migrations') AS TEXT) AS there");
        let [row] = self.fetch(there).await?.try_into().map_err(|_| sqlx::Error::RowNotFound)?;
        if row.optional_text("there")?.is_none() {
            return Ok(None);
        }
        let newest = Query::new("SELECT max(version) AS newest FROM _sqlx_migrations WHERE success");
        let [row] = self.fetch(newest).await?.try_into().map_err(|_| sqlx::Error::RowNotFound)?;
        row.get::<Option<i64>>("newest")
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// Carries out a statement; how many rows it changed. When this returns, they are on disk.
    pub async fn execute(&self, query: Query) -> Result<u64, sqlx::Error> {
        match &self.pool {
            Pool::Sqlite(pool) => Ok(query.bound().execute(pool).await?.rows_affected()),
            Pool::Postgres(pool) => {
                in_time(pool, async { Ok(query.bound().execute(pool).await?.rows_affected()) }).await
            }
        }
    }

    /// The rows a statement gives.
    pub async fn fetch(&self, query: Query) -> Result<Vec<Row>, sqlx::Error> {
        match &self.pool {
            Pool::Sqlite(pool) => {
                Ok(query.bound().fetch_all(pool).await?.into_iter().map(Row::Sqlite).collect())
            }
            Pool::Postgres(pool) => {
                let rows = in_time(pool, query.bound().fetch_all(pool)).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
        }
    }

    /// Begins a change of several statements: all of it or nothing.
    pub async fn begin(&self) -> Result<Change, sqlx::Error> {
        match &self.pool {
            Pool::Sqlite(pool) => Ok(Change::Sqlite(pool.begin().await?)),
            Pool::Postgres(pool) => Ok(Change::Postgres(in_time(pool, pool.begin()).await?)),
        }
    }

    /// Ends all connections.
    pub async fn close(&self) {
        match &self.pool {
            Pool::Sqlite(pool) => pool.close().await,
            Pool::Postgres(pool) => pool.close().await,
        }
    }
}

fn newest(migrations: &sqlx::migrate::Migrator) -> Option<i64> {
    migrations.iter().map(|migration| migration.version).max()
}

/// How the server at this URL is connected to. What is committed there is on its disk, and a machine that is gone holds no
/// lock for long.
pub fn options(url: &StateUrl) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(url.options()?.application_name("umsid").options([
        ("synchronous_commit", "on"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
    ]))
}

/// A server that does not answer is an error, after a while.
async fn in_time<T>(
    pool: &PgPool,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Err(sqlx::Error::PoolTimedOut)) => {
            // The pool tries again and again, and keeps to itself why it had to.
            let options = pool.connect_options();
            match tokio::time::timeout(PATIENCE, PgConnection::connect_with(&options)).await {
                Ok(Err(why)) => Err(why),
                Ok(Ok(_)) | Err(_) => Err(sqlx::Error::PoolTimedOut),
            }
        }
        Ok(result) => result,
        Err(_) => Err(silent(PATIENCE)),
    }
}

/// Waits for the answer of a server, and not forever.
pub(crate) async fn answer<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Err(silent(PATIENCE)))
}

/// What a server that does not answer for so long comes to.
pub(crate) fn silent(patience: Duration) -> sqlx::Error {
    let why = format!("no answer within {} s", patience.as_secs());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, why))
}

/// Several statements of which all count or none.
pub enum Change {
    /// In a file.
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    /// On a server.
    Postgres(sqlx::Transaction<'static, sqlx::Postgres>),
}

impl Change {
    /// Carries out a statement; how many rows it changed.
    pub async fn execute(&mut self, query: Query) -> Result<u64, sqlx::Error> {
        match self {
            Self::Sqlite(change) => Ok(query.bound().execute(&mut **change).await?.rows_affected()),
            Self::Postgres(change) => Ok(query.bound().execute(&mut **change).await?.rows_affected()),
        }
    }

    /// Makes it count; when this returns, it is on disk.
    pub async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(change) => change.commit().await,
            Self::Postgres(change) => change.commit().await,
        }
    }
}

/// A statement and what is put into it.
pub struct Query {
    sql: Cow<'static, str>,
    values: Vec<Value>,
}

enum Value {
    Text(String),
    Number(i64),
}

impl Query {
    /// A statement, as `DELETE FROM runs WHERE run = $1`.
    pub fn new(sql: &'static str) -> Self {
        Self { sql: Cow::Borrowed(sql), values: Vec::new() }
    }

    /// A statement that puts so many rows of so many columns in, as `INSERT INTO runs (run, cluster) VALUES `.
    pub fn rows(start: &'static str, rows: usize, columns: usize) -> Self {
        let row = |row: usize| {
            let places: Vec<String> =
                (1..=columns).map(|place| format!("${}", row * columns + place)).collect();
            format!("({})", places.join(", "))
        };
        let all: Vec<String> = (0..rows).map(row).collect();
        Self { sql: Cow::Owned(format!("{start}{}", all.join(", "))), values: Vec::new() }
    }

    /// Puts a text in.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.values.push(Value::Text(text.into()));
        self
    }

    /// Puts a number in.
    pub fn number(mut self, number: u64) -> Self {
        self.values.push(Value::Number(i64::try_from(number).unwrap_or(i64::MAX)));
        self
    }

    pub(crate) fn bound<'q, D: sqlx::Database>(self) -> sqlx::query::Query<'q, D, D::Arguments>
    where
        String: Encode<'q, D> + Type<D>,
        i64: Encode<'q, D> + Type<D>,
    {
        // What is put in is never in the text.
        let query = sqlx::query(AssertSqlSafe(self.sql.into_owned()));
        self.values.into_iter().fold(query, |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Number(number) => query.bind(number),
        })
    }
}

/// One row of an answer.
pub enum Row {
    /// From a file.
    Sqlite(SqliteRow),
    /// From a server.
    Postgres(PgRow),
}

impl Row {
    fn get<T>(&self, column: &str) -> Result<T, sqlx::Error>
    where
        T: for<'r> Decode<'r, sqlx::Sqlite>
            + Type<sqlx::Sqlite>
            + for<'r> Decode<'r, sqlx::Postgres>
            + Type<sqlx::Postgres>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    /// The text in this column.
    pub fn text(&self, column: &str) -> Result<String, sqlx::Error> {
        self.get(column)
    }

    /// The text in this column, if there is one.
    pub fn optional_text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
        self.get(column)
    }

    /// The number in this column; 0 if it is below.
    pub fn number(&self, column: &str) -> Result<u64, sqlx::Error> {
        Ok(u64::try_from(self.get::<i64>(column)?).unwrap_or(0))
    }
}

#[cfg(all(test, unix))]
mod tests;
