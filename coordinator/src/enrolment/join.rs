//! Join files: one for each server, made before any of them waits, used up only when its server is enrolled.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use umsid_common::durable::{self, Access, DurableError};
use umsid_common::name::TrustDomain;
use umsid_common::pairing::{InvalidCode, JoinFile, Secret};
use zeroize::Zeroizing;

use super::Candidate;

/// How long a new join file is good for: long enough to hand out files to all servers of a large installation.
const LIFE: SignedDuration = SignedDuration::from_hours(24);

/// A directory of join files, `SERVER.join` each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinFiles {
    dir: PathBuf,
}

/// A join file cannot be made, read or marked.
#[derive(Debug, thiserror::Error)]
pub enum JoinFilesError {
    /// Reading or writing.
    #[error("the join files cannot be read or written")]
    File(#[from] DurableError),
    /// Content that is no join file.
    #[error("{path} is no join file: {why}")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A join file of another installation, cluster or server.
    #[error("{path} is for {found}, not for {wanted}")]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whom it is for.
        found: String,
        /// Whom it should be for.
        wanted: String,
    },
    /// The secret in it.
    #[error("the secret in a join file is unusable")]
    Secret(#[from] InvalidCode),
}

/// What [`JoinFiles::prepare`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// It was there and is good.
    Kept,
    /// It was made.
    Made,
}

impl JoinFiles {
    /// In this directory, which is made (0700) if it is not there.
    ///
    /// # Errors
    /// If it is open to others: who reads a join file can pose as that server.
    pub fn open(dir: &Path) -> Result<Self, JoinFilesError> {
        durable::private_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where the join file of this server is.
    pub fn path(&self, candidate: &Candidate) -> PathBuf {
        self.dir.join(format!("{}.join", candidate.name))
    }

    /// Whether a good join file of this server is there; nothing is changed.
    ///
    /// # Errors
    /// If what is there is no join file, or is somebody else's.
    pub fn is_there(
        &self,
        trust_domain: &TrustDomain,
        candidate: &Candidate,
        now: Timestamp,
    ) -> Result<bool, JoinFilesError> {
        Ok(self.look(trust_domain, candidate, now)?.is_some())
    }

    /// The join file of this server, unless there is none or an expired one.
    fn look(
        &self,
        trust_domain: &TrustDomain,
        candidate: &Candidate,
        now: Timestamp,
    ) -> Result<Option<JoinFile>, JoinFilesError> {
        let path = self.path(candidate);
        let Some(there) = read(&path)? else { return Ok(None) };
        let whom = |domain: &TrustDomain, cluster: &dyn std::fmt::Display, server: &dyn std::fmt::Display| {
            format!("{cluster}/{server} of {domain}")
        };
        let found = whom(&there.trust_domain, &there.cluster, &there.server);
        let wanted = whom(trust_domain, &candidate.cluster, &candidate.name);
        if found != wanted {
            return Err(JoinFilesError::Foreign { path, found, wanted });
        }
        Ok(Some(there).filter(|there| there.expires > now))
    }

    /// The secret of this server's join file, which is made if there is none or an expired one.
    ///
    /// # Errors
    /// If what is there is no join file, or is somebody else's.
    pub fn prepare(
        &self,
        trust_domain: &TrustDomain,
        candidate: &Candidate,
        now: Timestamp,
    ) -> Result<(Secret, Prepared), JoinFilesError> {
        let path = self.path(candidate);
        if let Some(there) = self.look(trust_domain, candidate, now)? {
            return Ok((there.secret()?, Prepared::Kept));
        }
        let expires = now + LIFE;
        let file =
            JoinFile::new(trust_domain.clone(), candidate.cluster.clone(), candidate.name.clone(), expires);
        let text = toml::to_string(&file)
            .map_err(|error| JoinFilesError::Malformed { path: path.clone(), why: error.to_string() })?;
        durable::replace(&path, Zeroizing::new(text).as_bytes(), Access::Private)?;
        Ok((file.secret()?, Prepared::Made))
    }

    /// Marks it as used, its secret removed: `SERVER.join` becomes `SERVER.join.used`.
    pub fn used(&self, candidate: &Candidate, now: Timestamp) -> Result<(), JoinFilesError> {
        let path = self.path(candidate);
        let used = self.dir.join(format!("{}.join.used", candidate.name));
        let text =
            format!("# {}/{} was enrolled with this join file at {now}\n", candidate.cluster, candidate.name);
        durable::replace(&used, text.as_bytes(), Access::Private)?;
        durable::remove(&path)?;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<JoinFile>, JoinFilesError> {
    let Some(bytes) = durable::read_optional(path)?.map(Zeroizing::new) else { return Ok(None) };
    let malformed = |why: String| JoinFilesError::Malformed { path: path.to_owned(), why };
    let text = std::str::from_utf8(&bytes).map_err(|error| malformed(error.to_string()))?;
    // The message alone: the excerpt that comes with it may show the secret.
    toml::from_str(text).map(Some).map_err(|error| malformed(error.message().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate() -> Candidate {
        Candidate {
            cluster: "hamburg".parse().unwrap(),
            name: "ums1".parse().unwrap(),
            site: None,
            address: "ums1:8643".into(),
            via: None,
        }
    }

    #[test]
    fn a_good_file_is_kept_an_expired_one_is_replaced() {
        let dir = umsid_testkit::scratch();
        let files = JoinFiles::open(dir.path()).unwrap();
        let (domain, now) = ("lab".parse().unwrap(), Timestamp::now());
        let (first, made) = files.prepare(&domain, &candidate(), now).unwrap();
        let (second, kept) = files.prepare(&domain, &candidate(), now).unwrap();
        assert_eq!((made, kept), (Prepared::Made, Prepared::Kept));
        assert_eq!(first.digest(), second.digest());
        let (third, made) = files.prepare(&domain, &candidate(), now + LIFE).unwrap();
        assert_eq!(made, Prepared::Made);
        assert_ne!(first.digest(), third.digest());
    }

    #[test]
    fn somebody_elses_file_is_refused() {
        let dir = umsid_testkit::scratch();
        let files = JoinFiles::open(dir.path()).unwrap();
        files.prepare(&"lab".parse().unwrap(), &candidate(), Timestamp::now()).unwrap();
        let other = Candidate { cluster: "berlin".parse().unwrap(), ..candidate() };
        for (domain, candidate) in [("lab", &other), ("other", &candidate())] {
            let refused = files.prepare(&domain.parse().unwrap(), candidate, Timestamp::now());
            assert!(matches!(refused, Err(JoinFilesError::Foreign { .. })));
        }
    }

    #[test]
    fn a_used_file_holds_no_secret() {
        let dir = umsid_testkit::scratch();
        let files = JoinFiles::open(dir.path()).unwrap();
        let domain = "lab".parse().unwrap();
        files.prepare(&domain, &candidate(), Timestamp::now()).unwrap();
        let text = std::fs::read_to_string(files.path(&candidate())).unwrap();
        let secret = text.lines().find(|line| line.starts_with("secret")).unwrap().split('"').nth(1).unwrap();
        files.used(&candidate(), Timestamp::now()).unwrap();
        assert!(!files.path(&candidate()).exists());
        let used = std::fs::read_to_string(dir.path().join("ums1.join.used")).unwrap();
        assert!(!used.contains(secret) && used.contains("hamburg/ums1"));
    }
}
