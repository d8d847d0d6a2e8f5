//! `postgres://user@host/database`: where shared state is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// The URL of a database that several administrators share. It holds no password: that comes from `PGPASSWORD` or
/// `~/.pgpass`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateUrl(String);

/// Text that is no URL of a database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStateUrl {
    /// Another kind of URL, or none.
    #[error("it must be postgres://USER@HOST/DATABASE")]
    Scheme,
    /// A password in it would be kept, and be seen by everybody who lists processes.
    #[error("it must not hold a password: put that into ~/.pgpass or the environment variable PGPASSWORD")]
    Password,
    /// Something in it is not understood.
    #[error("it is not understood: {0}")]
    Malformed(String),
}

impl StateUrl {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How to connect there. Over a network the server has to prove who it is, unless the URL or `PGSSLMODE` says
    /// otherwise.
    pub fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        let options: PgConnectOptions = self.0.parse()?;
        let said = self.0.contains("sslmode=") || self.0.contains("ssl-mode=");
        if said || std::env::var_os("PGSSLMODE").is_some() || stays_here(&options) {
            return Ok(options);
        }
        Ok(options.ssl_mode(PgSslMode::VerifyFull))
    }
}

/// Whether what is said stays on this machine.
fn stays_here(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromStr for StateUrl {
    type Err = InvalidStateUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStateUrl> {
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let Some(rest) = rest else { return Err(InvalidStateUrl::Scheme) };
        let (place, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = place.split('/').next().unwrap_or_default();
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        let named = parameters.split('&').any(|pair| pair.split('=').next() == Some("password"));
        if user.contains(':') || named {
            return Err(InvalidStateUrl::Password);
        }
        match text.parse::<PgConnectOptions>() {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(InvalidStateUrl::Malformed(error.to_string())),
        }
    }
}

impl fmt::Display for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_it_is_refused() {
        for text in [
            "postgres://anna:secret@db.example.com/umsid",
            "postgresql://anna:@db/umsid",
            "postgres://anna@db/umsid?password=secret",
            "postgres://anna@db/umsid?sslmode=require&password=secret",
        ] {
            assert_eq!(text.parse::<StateUrl>(), Err(InvalidStateUrl::Password), "{text}");
        }
        for text in ["umsid", "mysql://anna@db/umsid", "/var/lib/umsid/state.db"] {
            assert_eq!(text.parse::<StateUrl>(), Err(InvalidStateUrl::Scheme), "{text}");
        }
    }

    #[test]
    fn over_a_network_the_server_proves_who_it_is() {
        let mode = |text: &str| text.parse::<StateUrl>().unwrap().options().unwrap().get_ssl_mode();
        assert!(matches!(mode("postgres://anna@db.example.com/umsid"), PgSslMode::VerifyFull));
        assert!(matches!(mode("postgres://anna@192.0.2.1:5433/umsid"), PgSslMode::VerifyFull));
        assert!(matches!(mode("postgres://anna@db/umsid?sslmode=require"), PgSslMode::Require));
        for here in [
            "postgres://anna@127.0.0.1/umsid",
            "postgres://anna@localhost/umsid",
            "postgres://%2Frun%2Fdb/umsid",
        ] {
            assert!(matches!(mode(here), PgSslMode::Prefer), "{here}");
        }
    }
}
