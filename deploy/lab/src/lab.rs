//! A lab from outside: what tests and `umsid-lab` do with it.

mod binaries;
mod control;
mod options;
mod raise;
mod truth;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::binaries::binaries;
use self::control::run;
pub use self::options::{Break, Options};
pub use self::truth::{ServerTruth, Truth};
use crate::books::{Call, Lifecycle};
use crate::database::Database;
use crate::description::{Description, Server};
use crate::layout::LabDir;
use crate::ports;
use crate::process;
use crate::settings::{SettingError, Settings};
use crate::ums_id::{Certificate, UmsId, UmsIdError};

/// Why something could not be done with a lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A file of the lab could not be read or written, or a program not started.
    #[error("cannot {what}")]
    File {
        /// What was to be done.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// There is something else in the directory.
    #[error("{} is not empty: a lab wants a directory of its own; `umsid-lab down` removes an old one", .0.display())]
    NotEmpty(PathBuf),
    /// There is no lab in the directory.
    #[error("there is no lab in {}: `umsid-lab up` makes one", .0.display())]
    NoLab(PathBuf),
    /// More sites than servers, no servers, or too many.
    #[error("{servers} servers on {sites} sites cannot be: at least one server per site, at most 50 servers")]
    Size {
        /// Servers asked for.
        servers: usize,
        /// Sites asked for.
        sites: usize,
    },
    /// No server of this name.
    #[error("there is no server `{name}` in the lab; there are: {}", .known.join(", "))]
    NoServer {
        /// The name asked for.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// The Main server cannot be out of sync with itself.
    #[error("`{0}` is the Main server: it cannot be out of sync; `umsid-lab main` makes another server Main")]
    IsMain(String),
    /// No dialect of this name.
    #[error("there is no dialect `{name}`; the dialects are: {}", .known.join(", "))]
    NoDialect {
        /// The name asked for.
        name: String,
        /// Those there are.
        known: Vec<&'static str>,
    },
    /// A setting was refused.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A UMS ID could not be made or read.
    #[error("cannot make or read a UMS ID")]
    UmsId(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A server did not come up.
    #[error("`{name}` is not healthy after {} s; its log is in {}", .waited.as_secs(), .logs.display())]
    NotHealthy {
        /// The server.
        name: String,
        /// How long it was waited for.
        waited: Duration,
        /// Where its logs are.
        logs: PathBuf,
    },
    /// A program of the lab failed.
    #[error("{program} failed: {stderr}")]
    Program {
        /// The program.
        program: String,
        /// What it said.
        stderr: String,
    },
}

impl From<UmsIdError> for LabError {
    fn from(error: UmsIdError) -> Self {
        Self::UmsId(Box::new(error))
    }
}

/// Says what was to be done when a file gets in the way.
trait Doing<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, LabError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl Into<String>) -> Result<T, LabError> {
        self.map_err(|source| LabError::File { what: what.into(), source })
    }
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    dir: LabDir,
    description: Description,
    down_on_drop: bool,
}

impl Lab {
    /// Makes a lab and waits until all its servers are healthy. It is taken down when the value is dropped.
    ///
    /// # Errors
    ///
    /// When the programs cannot be built, the options contradict one another, or a server does not come up.
    pub fn up(options: &Options) -> Result<Self, LabError> {
        let binaries = binaries()?;
        let dir = match &options.dir {
            Some(dir) => dir.clone(),
            None => {
                let parent = binaries.parent().unwrap_or(&binaries).join("umsid-lab");
                parent.join(format!("lab-{}", crate::ums_id::uuid()))
            }
        };
        // A process of its own writes the scripts: no other thread can then inherit one that is open for writing.
        let mut arguments: Vec<OsString> = vec!["up".into(), "--dir".into(), dir.clone().into()];
        arguments.extend(["--output", "json", "--cluster", &options.cluster].map(OsString::from));
        arguments.extend(["--servers".into(), options.servers.to_string().into()]);
        arguments.extend(["--sites".into(), options.sites.to_string().into()]);
        for dialect in &options.dialects {
            arguments.extend(["--dialect", dialect].map(OsString::from));
        }
        for (key, value) in &options.settings {
            arguments.extend(["--set".into(), format!("{key}={value}").into()]);
        }
        if options.bound {
            arguments.extend(["--owner".into(), std::process::id().to_string().into()]);
        }
        let program = binaries.join(format!("umsid-lab{}", std::env::consts::EXE_SUFFIX));
        run(&program, &arguments)?;
        let mut lab = Self::at(&dir)?;
        lab.down_on_drop = true;
        Ok(lab)
    }

    /// Makes a lab with the programs in the directory of this one: what `umsid-lab up` does.
    ///
    /// # Errors
    ///
    /// As [`Lab::up`].
    pub fn raise(dir: &Path, options: &Options, owner: Option<u32>) -> Result<Self, LabError> {
        raise::raise(dir, options, owner)?;
        let lab = Self::at(dir)?;
        let names = lab.description.servers.iter().map(|server| server.name.as_str());
        let up = lab.control("start", names).and_then(|()| lab.wait_healthy(&lab.description.servers));
        match up {
            Ok(()) => Ok(lab),
            Err(error) => {
                // Its logs are worth keeping; its processes are not.
                lab.end_processes();
                Err(error)
            }
        }
    }

    /// The lab in a directory. Dropping the value does not take it down.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn at(dir: &Path) -> Result<Self, LabError> {
        let dir = LabDir::new(dir.canonicalize().map_err(|_| LabError::NoLab(dir.to_owned()))?);
        let description = Description::read(&dir).map_err(|_| LabError::NoLab(dir.path().to_owned()))?;
        Ok(Self { dir, description, down_on_drop: false })
    }

    /// What the lab is made of.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Its servers; `ums1` is first.
    pub fn servers(&self) -> &[Server] {
        &self.description.servers
    }

    /// The server of this name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn server(&self, name: &str) -> Result<&Server, LabError> {
        self.servers().iter().find(|server| server.name == name).ok_or_else(|| LabError::NoServer {
            name: name.to_owned(),
            known: self.servers().iter().map(|server| server.name.clone()).collect(),
        })
    }

    /// Leaves the lab up when this value is dropped and when this process ends.
    ///
    /// # Errors
    ///
    /// When its description cannot be written.
    pub fn keep(mut self) -> Result<PathBuf, LabError> {
        self.down_on_drop = false;
        self.description.owner = None;
        self.description.write(&self.dir).doing("write the lab's description")?;
        Ok(self.dir.path().to_owned())
    }

    /// Puts a server out of sync: it gets a UMS ID of its own and is restarted with it.
    ///
    /// # Errors
    ///
    /// For the Main server, an unknown one, and one that does not come up again.
    pub fn break_server(&self, name: &str) -> Result<(), LabError> {
        self.break_servers(&[name], Break::Lasting)
    }

    /// Puts servers out of sync, all at the same time.
    ///
    /// # Errors
    ///
    /// As [`Lab::break_server`]; then nothing has been done to any.
    pub fn break_servers(&self, names: &[&str], how: Break) -> Result<(), LabError> {
        let main = Database::read(&self.dir).doing("read the database")?.main;
        let broken: Vec<Server> =
            names.iter().map(|name| self.server(name).cloned()).collect::<Result<_, _>>()?;
        if names.contains(&main.as_str()) {
            return Err(LabError::IsMain(main));
        }
        self.control("stop", names.iter().copied())?;
        // From here on there is nothing from before that a server could come up with.
        for former in self.servers().iter().map(|server| self.dir.server(&server.name).former_id()) {
            if former.exists() {
                std::fs::remove_file(former).doing("forget a former UMS ID")?;
            }
        }
        for name in names {
            let server = self.dir.server(name);
            let ums_id = UmsId::generate(&self.description.cluster)?;
            let own = ums_id.fingerprint();
            Database::change(&self.dir, |database| {
                database.licence.own.entry((*name).to_owned()).or_default().push(own);
            })
            .doing("change the database")?;
            ums_id.write(&server.ums_id())?;
            let fails = if how == Break::Lasting { "true" } else { "once" };
            Settings::change(&server, &[("auto_sync_fails", fails)])?;
        }
        self.control("start", names.iter().copied())?;
        self.wait_healthy(&broken)
    }

    /// Moves Main to another server, as a fail-over would; its own UMS ID is the Main UMS ID from then on, and the
    /// licence is generated from it too.
    ///
    /// # Errors
    ///
    /// When there is no such server.
    pub fn make_main(&self, name: &str) -> Result<(), LabError> {
        self.server(name)?;
        let ums_id = Database::read(&self.dir).doing("read the database")?.servers[name].ums_id.clone();
        let fingerprint = Certificate::from_pem(&ums_id)?.sha256();
        Database::change(&self.dir, |database| {
            database.main = name.to_owned();
            database.main_ums_id = ums_id;
            database.licence.generated_from.push(fingerprint);
        })
        .doing("change the database")
    }

    /// Changes a setting of a server; [`KEYS`](crate::KEYS) explains all.
    ///
    /// # Errors
    ///
    /// For an unknown server, key or value.
    pub fn set(&self, name: &str, key: &str, value: &str) -> Result<(), LabError> {
        self.set_many(&[name], &[(key, value)])
    }

    /// Changes settings of several servers.
    ///
    /// # Errors
    ///
    /// As [`Lab::set`].
    pub fn set_many<K: AsRef<str>, V: AsRef<str>>(
        &self,
        names: &[&str],
        changes: &[(K, V)],
    ) -> Result<(), LabError> {
        for name in names {
            self.server(name)?;
        }
        for name in names {
            Settings::change(&self.dir.server(name), changes)?;
        }
        Ok(())
    }

    /// How things really stand.
    ///
    /// # Errors
    ///
    /// When the lab's files cannot be read.
    pub fn truth(&self) -> Result<Truth, LabError> {
        truth::truth(&self.dir, &self.description)
    }

    /// Every call of `umsadmin-cli` and of the init script at a server, in order.
    ///
    /// # Errors
    ///
    /// For an unknown server, or when the log cannot be read.
    pub fn calls(&self, name: &str) -> Result<Vec<Call>, LabError> {
        self.server(name)?;
        Call::all(&self.dir.server(name)).doing("read the log of calls")
    }

    /// When a server started and stopped, in order.
    ///
    /// # Errors
    ///
    /// As [`Lab::calls`].
    pub fn lifecycle(&self, name: &str) -> Result<Vec<Lifecycle>, LabError> {
        self.server(name)?;
        Lifecycle::all(&self.dir.server(name)).doing("read the server's history")
    }

    /// Process ids of everything of this lab that runs: servers, calls that hang, children left behind.
    pub fn processes(&self) -> Vec<u32> {
        process::all_ours(&self.dir)
    }

    /// Ends every process of the lab and removes its directory.
    ///
    /// # Errors
    ///
    /// When the directory cannot be removed.
    pub fn down(mut self) -> Result<(), LabError> {
        self.down_on_drop = false;
        self.take_down()
    }

    /// Ends every process of the lab and leaves its directory.
    pub fn down_keeping_files(mut self) {
        self.down_on_drop = false;
        self.end_processes();
        ports::release(self.servers().iter().map(|server| server.https_port));
    }

    fn take_down(&self) -> Result<(), LabError> {
        self.end_processes();
        ports::release(self.servers().iter().map(|server| server.https_port));
        fs::remove_dir_all(self.dir.path()).doing(format!("remove {}", self.dir.path().display()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.down_on_drop {
            // Nobody is left to be told.
            let _ = self.take_down();
        }
    }
}
