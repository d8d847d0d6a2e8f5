//! What is wrong with a database, by its own answer.

use std::error::Error;

use sqlx::migrate::MigrateError;

use super::Location;

/// What is wrong with a database, as far as it makes a difference to whoever has to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// It is not the database it was: malformed, cut short, tables gone.
    Damaged,
    /// A newer umsid has changed its tables.
    Newer,
    /// No answer, or none yet: it is being started or stopped, or the network is down.
    Unreachable,
    /// Name, password, permission, or no database of that name; or it takes no changes.
    Refused,
    /// No room, or too many connections.
    Full,
    /// Anything else.
    Other,
}

impl Ailment {
    /// What to do about it.
    pub fn remedy(self, at: &Location) -> &'static str {
        match (at, self) {
            (_, Self::Newer) => "a newer umsid has changed it: use that version here too",
            (Location::File(_), _) => {
                "check room and permissions of the state directory, then `umsid resume`"
            }
            (Location::Server(_), Self::Unreachable) => {
                "see that the database server runs and can be reached from here, then type it again; a run that halted goes on \
                 with `umsid resume`"
            }
            (Location::Server(_), Self::Refused) => {
                "check user, password (~/.pgpass or PGPASSWORD), the server's certificate (?sslrootcert=FILE) and what that \
                 user may do there, then type it again; a run that halted goes on with `umsid resume`"
            }
            (Location::Server(_), Self::Full) => {
                "make room on the database server (disk, connections), then type it again; a run that halted goes on with `umsid \
                 resume`"
            }
            (Location::Server(_), Self::Damaged) => {
                "put the database back from a backup of the server's; begin no run before that, for what the others did is \
                 in it too"
            }
            (Location::Server(_), Self::Other) => {
                "the log of the database server says more; a run that halted goes on with `umsid resume`"
            }
        }
    }
}

/// What is wrong, by the error that came of it.
pub fn ailment(error: &sqlx::Error) -> Ailment {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(link) = next {
        if let Some(found) = link.downcast_ref::<sqlx::Error>().and_then(by_itself) {
            return found;
        }
        next = link.source();
    }
    Ailment::Other
}

fn by_itself(error: &sqlx::Error) -> Option<Ailment> {
    match error {
        sqlx::Error::Database(answer) => {
            let code = answer.code()?;
            Some(match answer.try_downcast_ref::<sqlx::postgres::PgDatabaseError>() {
                Some(_) => of_postgres(&code),
                None => of_sqlite(&code),
            })
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
            Some(Ailment::Unreachable)
        }
        sqlx::Error::Migrate(error) => match &**error {
            MigrateError::VersionMissing(_) => Some(Ailment::Newer),
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => Some(ailment(error)),
            _ => None,
        },
        // A certificate that is not taken, or no TLS where it is asked for.
        sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => Some(Ailment::Refused),
        sqlx::Error::ColumnNotFound(_) | sqlx::Error::ColumnDecode { .. } => Some(Ailment::Damaged),
        _ => None,
    }
}

/// `SQLITE_CORRUPT`, `SQLITE_NOTADB`, `SQLITE_IOERR_SHORT_READ`, `SQLITE_FULL`
/// (<https://www.sqlite.org/rescode.html>).
fn of_sqlite(code: &str) -> Ailment {
    match code.parse::<i32>() {
        Ok(522) => Ailment::Damaged,
        // The lower eight bits of an extended code are the primary one.
        Ok(code) if matches!(code & 0xff, 11 | 26) => Ailment::Damaged,
        Ok(code) if code & 0xff == 13 => Ailment::Full,
        _ => Ailment::Other,
    }
}

/// The classes of <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn of_postgres(code: &str) -> Ailment {
    match code {
        // Data or index corrupted; a file of the server missing; a table or column gone.
        "XX001" | "XX002" | "58P01" | "42P01" | "42703" => Ailment::Damaged,
        // No such database; no permission; a standby, which takes no changes.
        "3D000" | "42501" | "25006" => Ailment::Refused,
        _ => match code.get(..2) {
            Some("28") => Ailment::Refused,
            Some("53") => Ailment::Full,
            // Connections, the operator's intervention, the server's own disk.
            Some("08" | "57" | "58") => Ailment::Unreachable,
            _ => Ailment::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_postgresql_answers_is_told_apart() {
        for (code, meant) in [
            ("XX001", Ailment::Damaged),
            ("42P01", Ailment::Damaged),
            ("28P01", Ailment::Refused),
            ("42501", Ailment::Refused),
            ("25006", Ailment::Refused),
            ("53100", Ailment::Full),
            ("57P01", Ailment::Unreachable),
            ("08006", Ailment::Unreachable),
            ("23505", Ailment::Other),
        ] {
            assert_eq!(of_postgres(code), meant, "{code}");
        }
    }
}
