//! The whole record, put into the database of several administrators.

use sqlx::postgres::PgConnection;

use super::{Journal, JournalError};
use crate::database::{self, Query};

/// Rows that are written at once: a statement of PostgreSQL takes 65535 values.
pub(super) const AT_ONCE: usize = 1000;

/// A journal could not be copied.
#[derive(Debug)]
pub enum CopyError {
    /// It could not be read.
    Read(JournalError),
    /// The other database did not take it.
    Write(sqlx::Error),
}

/// A table: how it is read in parts, and how it is written.
struct Table {
    read: &'static str,
    write: &'static str,
    columns: &'static [Column],
}

enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// In the order in which one refers to the other.
const TABLES: [Table; 3] = [
    Table {
        read: "SELECT run, cluster, kind, begun FROM runs ORDER BY run LIMIT $1 OFFSET $2",
        write: "INSERT INTO runs (run, cluster, kind, begun) VALUES ",
        columns: &[Column::Text("run"), Column::Text("cluster"), Column::Text("kind"), Column::Text("begun")],
    },
    Table {
        read: "SELECT run, number, at, body, link FROM events ORDER BY run, number LIMIT $1 OFFSET $2",
        write: "INSERT INTO events (run, number, at, body, link) VALUES ",
        columns: &[
            Column::Text("run"),
            Column::Number("number"),
            Column::Text("at"),
            Column::Text("body"),
            Column::Text("link"),
        ],
    },
    Table {
        read: "SELECT number, at, cluster, body, link FROM acts ORDER BY number LIMIT $1 OFFSET $2",
        write: "INSERT INTO acts (number, at, cluster, body, link) VALUES ",
        columns: &[
            Column::Number("number"),
            Column::Text("at"),
            Column::Text("cluster"),
            Column::Text("body"),
            Column::Text("link"),
        ],
    },
];

impl Journal {
    /// Copies all of it as it is, links and all: what was altered here is found altered there. The change of the other database is
    /// the caller's to commit.
    pub async fn copy_to(&self, target: &mut PgConnection) -> Result<(), CopyError> {
        for table in &TABLES {
            let mut done = 0;
            loop {
                let part = Query::new(table.read).number(AT_ONCE as u64).number(done);
                let rows = self.read(part).await.map_err(CopyError::Read)?;
                if rows.is_empty() {
                    break;
                }
                let mut insert = Query::rows(table.write, rows.len(), table.columns.len());
                for row in &rows {
                    for column in table.columns {
                        let unreadable = |source| CopyError::Read(self.failed("read")(source));
                        insert = match column {
                            Column::Text(name) => insert.text(row.text(name).map_err(unreadable)?),
                            Column::Number(name) => insert.number(row.number(name).map_err(unreadable)?),
                        };
                    }
                }
                let written = database::answer(insert.bound().execute(&mut *target)).await;
                written.map_err(CopyError::Write)?;
                done += rows.len() as u64;
            }
        }
        Ok(())
    }

    /// Ends its connections: what is in its file is all of it.
    pub async fn close(self) {
        self.database.close().await;
    }
}
