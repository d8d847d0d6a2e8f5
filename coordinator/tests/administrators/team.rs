//! Administrators, and the database they share.

use std::path::{Path, PathBuf};

use umsid_testkit::PostgresServer;

use crate::place::{Place, Ran, Wanted};

/// What keeps these from running here.
pub(crate) fn missing() -> Option<String> {
    PostgresServer::missing()
}

/// A place whose administrator, `test`, has begun shared state, and others join.
pub(crate) struct Team {
    pub(crate) place: Place,
    pub(crate) url: String,
}

impl Team {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self::at(PostgresServer::shared().unwrap(), wanted)
    }

    pub(crate) fn at(server: &PostgresServer, wanted: Wanted) -> Self {
        let url = server.database();
        let place = Place::with(Wanted { state: Some(url.clone()), ..wanted });
        Self { place, url }
    }

    /// A place whose administrator has her state in files, and an empty database.
    pub(crate) fn in_files(wanted: Wanted) -> Self {
        let url = PostgresServer::shared().unwrap().database();
        Self { place: Place::with(wanted), url }
    }

    /// Without servers, for what needs none.
    pub(crate) fn alone() -> Self {
        Self::new(Wanted { agents: false, ..Wanted::default() })
    }

    /// Two servers out of sync, everything slow enough to be met in the middle.
    pub(crate) fn slow(self) -> Self {
        self.place.lab.break_servers(&["ums2", "ums3"], umsid_lab::Break::Lasting).unwrap();
        let slow = [("backup_delay_ms", "400"), ("restore_delay_ms", "400"), ("stop_ms", "400")];
        self.place.lab.set_many(&["ums2", "ums3"], &slow).unwrap();
        self
    }

    /// The directory of another administrator, who need not be one.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.place.dir.path().join(name)
    }

    /// What another administrator types.
    pub(crate) fn types(&self, name: &str, line: &[&str]) -> Ran {
        self.place.umsid_of(&self.dir(name), line)
    }

    /// The key somebody asks to be let in with.
    pub(crate) fn key_of(&self, name: &str) -> String {
        self.types(name, &["admins", "key"]).exits(0).out.trim().to_owned()
    }

    /// Somebody tries to join.
    pub(crate) fn tries(&self, name: &str) -> Ran {
        self.types(name, &["init", "--name", name, "--state", &self.url])
    }

    /// Somebody is let in, and joins; gives her directory.
    pub(crate) fn joins(&self, name: &str) -> PathBuf {
        let key = self.key_of(name);
        self.place.umsid(&["admins", "add", name, &key]).exits(0);
        self.tries(name).exits(0).shows("joined the shared state");
        self.dir(name)
    }

    /// What the database has under this name.
    pub(crate) fn document(&self, name: &str) -> String {
        self.sql(&format!("SELECT body FROM documents WHERE name = '{name}'"))
    }

    /// Does something in the database behind everybody's back.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let database = self.url.rsplit('/').next().unwrap();
        PostgresServer::shared().unwrap().sql(database, statement)
    }
}

/// Every file below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
