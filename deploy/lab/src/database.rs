//! What the servers of an installation share: the external database of a Distributed UMS (UMS_FACTS §6).

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::layout::LabDir;
use crate::store::{self, Access};
use crate::ums_id::{Certificate, UmsIdError};

/// The content of the database.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Database {
    pub(crate) cluster_fqdn: String,
    pub(crate) distributed: bool,
    /// Name of the server that is Main.
    pub(crate) main: String,
    /// The certificate of the Main UMS ID, PEM.
    pub(crate) main_ums_id: String,
    /// By this the servers know one another.
    pub(crate) secret: String,
    pub(crate) licence: Licence,
    pub(crate) servers: BTreeMap<String, Member>,
}

/// The UMS licence, generated from the UMS ID (UMS_FACTS §2, *The hazard*). Fingerprints are SHA-256.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Licence {
    pub(crate) level: String,
    pub(crate) expires: String,
    /// The Main UMS IDs it was generated from.
    pub(crate) generated_from: Vec<String>,
    /// Per server, the UMS IDs it has been known by.
    pub(crate) own: BTreeMap<String, Vec<String>>,
}

/// One server, as it made itself known.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) process_id: String,
    pub(crate) version: String,
    /// Its web server's certificate, PEM.
    pub(crate) web_certificate: String,
    /// The certificate of the UMS ID it runs with, PEM.
    pub(crate) ums_id: String,
}

impl Database {
    pub(crate) fn read(lab: &LabDir) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(lab.database())?)?)
    }

    pub(crate) fn create(&self, lab: &LabDir) -> io::Result<()> {
        store::replace(&lab.database(), &serde_json::to_vec_pretty(self)?, Access::Private)
    }

    /// Reads, changes and writes while nobody else does.
    pub(crate) fn change<T>(lab: &LabDir, change: impl FnOnce(&mut Self) -> T) -> io::Result<T> {
        store::locked(&lab.database_lock(), || {
            let mut database = Self::read(lab)?;
            let answer = change(&mut database);
            database.create(lab)?;
            Ok(answer)
        })?
    }

    pub(crate) fn main_certificate(&self) -> Result<Certificate, UmsIdError> {
        Certificate::from_pem(&self.main_ums_id)
    }

    /// Whether `server` may start with the UMS ID of this fingerprint.
    pub(crate) fn licensed(&self, server: &str, fingerprint: &str) -> bool {
        let known = |ids: &Vec<String>| ids.iter().any(|id| id == fingerprint);
        known(&self.licence.generated_from)
            || server != self.main && self.licence.own.get(server).is_some_and(known)
    }
}
