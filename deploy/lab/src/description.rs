//! What a lab is made of: written by `up`, never changed.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::layout::LabDir;
use crate::store::{self, Access};

/// A lab, as `up -o json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The lab's directory.
    pub dir: PathBuf,
    /// The installation's name.
    pub cluster: String,
    /// The UMS version of all servers.
    pub version: String,
    /// The process for which the lab was made; when it ends, the servers end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<u32>,
    /// The servers, Main first.
    pub servers: Vec<Server>,
}

/// One server, and all an agent has to be told about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name in the lab: `ums1`, `ums2`, …
    pub name: String,
    /// The site it stands at: `site1`, `site2`, …
    pub site: String,
    /// Its host name in the UMS database.
    pub host: String,
    /// Its directory: what would be the root of its disk.
    pub dir: PathBuf,
    /// The UMS's install directory.
    pub install_dir: PathBuf,
    /// Its `umsadmin-cli`.
    pub umsadmin_cli: PathBuf,
    /// Its init script: `start`, `stop`, `restart`, `status`.
    pub init_script: PathBuf,
    /// Where its process id is while it runs.
    pub pid_file: PathBuf,
    /// Its HTTPS port on 127.0.0.1.
    pub https_port: u16,
}

impl Description {
    pub(crate) fn read(lab: &LabDir) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(lab.description())?)?)
    }

    pub(crate) fn write(&self, lab: &LabDir) -> io::Result<()> {
        store::replace(&lab.description(), &serde_json::to_vec_pretty(self)?, Access::Public)
    }
}
