//! `umsid watch`: what it is told to do ([`config`]), what it has seen and told ([`memory`]), and how it tells
//! ([`notice`], [`post`]). When a synchronization may be begun without a person is decided by [`rule`].
//!
//! All of it is pure but [`book`], which owns the one file that outlives a restart, and the two channels, [`webhook`] and
//! [`mail`]. The loop is the command's.

pub mod book;
pub mod config;
pub mod mail;
pub mod memory;
pub mod notice;
pub mod post;
pub mod rule;
pub mod webhook;

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use umsid_common::durable;

/// The longest secret that is read from a file, in bytes.
const LONGEST_SECRET: u64 = 64 << 10;

/// A file with a secret, or with certificates, that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Not readable.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Everybody may read it.
    #[error("{path} can be read by everybody on this host: chmod o= it")]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// Nothing in it, or no text, or far too much.
    #[error("{path} holds no secret: {why}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// The secret in a file, without the end of its line. One that everybody on this host can read is none.
fn secret(path: &Path) -> Result<SecretString, SecretError> {
    use std::io::Read as _;
    let failed = |source| SecretError::Read { path: path.to_owned(), source };
    let unfit = |why| SecretError::Unfit { path: path.to_owned(), why };
    let file = durable::open(path).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if file.metadata().map_err(failed)?.permissions().mode() & 0o007 != 0 {
            return Err(SecretError::Open { path: path.to_owned() });
        }
    }
    let mut text = zeroize::Zeroizing::new(Vec::new());
    file.take(LONGEST_SECRET + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > LONGEST_SECRET {
        return Err(unfit("it is larger than 64 KiB"));
    }
    let text = std::str::from_utf8(&text).map_err(|_| unfit("it is no text"))?.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(unfit("it is empty"));
    }
    Ok(SecretString::from(text.to_owned()))
}

/// All certificates of a PEM file, DER.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, SecretError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let failed = |source| SecretError::Read { path: path.to_owned(), source };
    let pem = std::fs::read(path).map_err(failed)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found.iter().map(|certificate| certificate.to_vec()).collect()),
        _ => Err(SecretError::Unfit { path: path.to_owned(), why: "there is no certificate in it (PEM)" }),
    }
}

#[cfg(test)]
mod tests {
    use umsid_common::durable::Access;

    use super::*;

    #[test]
    fn a_secret_is_what_is_in_the_file_but_for_the_end_of_its_line() {
        use secrecy::ExposeSecret as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        durable::replace(&path, b" a b \r\n", Access::Private).unwrap();
        assert_eq!(secret(&path).unwrap().expose_secret(), " a b ");
        durable::replace(&path, b"\n", Access::Private).unwrap();
        assert!(secret(&path).unwrap_err().to_string().contains("it is empty"));
        durable::replace(&path, &vec![b'x'; 70_000], Access::Private).unwrap();
        assert!(secret(&path).unwrap_err().to_string().contains("larger than"));
        assert!(matches!(secret(&dir.path().join("none")), Err(SecretError::Read { .. })));
        #[cfg(unix)]
        {
            durable::replace(&path, b"x", Access::Public).unwrap();
            assert!(matches!(secret(&path), Err(SecretError::Open { .. })));
        }
    }
}
