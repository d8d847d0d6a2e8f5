//! What can be asked of a lab.

use std::path::PathBuf;

/// What lab to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many servers; the first, `ums1`, is Main.
    pub servers: usize,
    /// How many sites; the servers are dealt out to them in turn.
    pub sites: usize,
    /// The lab's directory, absent or empty. None: a new one below the target directory.
    pub dir: Option<PathBuf>,
    /// The installation's name.
    pub cluster: String,
    /// Names of dialects; a later one overrides an earlier one.
    pub dialects: Vec<String>,
    /// Settings of every server, over the dialects.
    pub settings: Vec<(String, String)>,
    /// End the servers when the process that called `up` ends.
    pub bound: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: 3,
            sites: 2,
            dir: None,
            cluster: "ums.lab.example".to_owned(),
            dialects: Vec::new(),
            settings: Vec::new(),
            bound: true,
        }
    }
}

/// How a server is put out of sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Its automatic synchronization fails at every start: only a restored backup helps.
    Lasting,
    /// The next restart synchronizes it: the documented first remedy.
    FixableByRestart,
}
