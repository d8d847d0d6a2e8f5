//! How things really stand in a lab, told by the lab itself and not by any of its programs.

use serde::{Deserialize, Serialize};

use super::{Doing as _, LabError};
use crate::books::{Event, Lifecycle};
use crate::database::Database;
use crate::description::Description;
use crate::layout::LabDir;
use crate::service;
use crate::ums_id::UmsId;

/// The state of an installation. Fingerprints are SHA-256 over the certificate's DER, 64 lower-case digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// Name of the Main server.
    pub main: String,
    /// Fingerprint of the Main UMS ID.
    pub main_fingerprint: String,
    /// The servers; `ums1` is first.
    pub servers: Vec<ServerTruth>,
}

/// The state of one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTruth {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// Whether it is Main.
    pub is_main: bool,
    /// Fingerprint of the UMS ID on its disk.
    pub fingerprint: String,
    /// Fingerprint of the UMS ID its running process read at its start.
    pub running_fingerprint: Option<String>,
    /// Whether the UMS ID on its disk is the Main UMS ID.
    pub in_sync: bool,
    /// Whether its process runs with another UMS ID than the one on its disk.
    pub needs_restart: bool,
    /// Its process, if it runs.
    pub pid: Option<u32>,
    /// How often it was started so far.
    pub starts: usize,
}

impl Truth {
    /// Whether every server runs with the Main UMS ID.
    pub fn all_in_sync(&self) -> bool {
        self.servers.iter().all(|server| {
            server.in_sync && server.running_fingerprint.as_ref() == Some(&self.main_fingerprint)
        })
    }

    /// The server of this name.
    pub fn server(&self, name: &str) -> Option<&ServerTruth> {
        self.servers.iter().find(|server| server.name == name)
    }
}

pub(super) fn truth(lab: &LabDir, description: &Description) -> Result<Truth, LabError> {
    let database = Database::read(lab).doing("read the database")?;
    let main_fingerprint = database.main_certificate()?.sha256().to_ascii_lowercase();
    let mut servers = Vec::new();
    for server in &description.servers {
        let directory = lab.server(&server.name);
        let fingerprint = UmsId::read(&directory.ums_id())?.fingerprint().to_ascii_lowercase();
        let pid = service::running(&directory);
        // A process that has just begun has not read its UMS ID yet.
        let running_fingerprint = pid
            .and_then(|_| UmsId::read(&directory.running_id()).ok())
            .map(|id| id.fingerprint().to_ascii_lowercase());
        let starts = Lifecycle::all(&directory).doing("read the server's history")?;
        servers.push(ServerTruth {
            name: server.name.clone(),
            site: server.site.clone(),
            is_main: server.name == database.main,
            in_sync: fingerprint == main_fingerprint,
            needs_restart: running_fingerprint.as_ref().is_some_and(|running| *running != fingerprint),
            fingerprint,
            running_fingerprint,
            pid,
            starts: starts.iter().filter(|line| line.event == Event::Started).count(),
        });
    }
    Ok(Truth { main: database.main, main_fingerprint, servers })
}
