//! What can be told to the agent by hand. Every key has a default or is found out; `deploy/config/agent.toml` shows all.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use umsid_common::telemetry::LogFormat;

mod gateway;
mod sections;

pub use gateway::{Address, Behind, Gateway, Tunnel};
pub use sections::{Health, Limits, Log, Output, Service, ServiceKind, StopServer, Timeouts, Ums, UseExport};

/// The longest duration that is taken: a longer one would reach past the end of the clock that measures it.
const A_YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the agent listens.
    pub listen: SocketAddr,
    /// Where it keeps its keys, records and backups.
    pub state_dir: PathBuf,
    /// A backup of a UMS ID larger than this is taken for no backup, in bytes.
    pub max_backup_bytes: u64,
    /// The UMS on this host.
    pub ums: Ums,
    /// How the UMS Server is started and stopped.
    pub service: Service,
    /// How long commands may take.
    pub timeouts: Timeouts,
    /// When the UMS Server counts as healthy.
    pub health: Health,
    /// What is kept of a command's output.
    pub output: Output,
    /// What the listener bears.
    pub limits: Limits,
    /// Servers that coordinators reach through this agent.
    pub gateway: Gateway,
    /// Gateways this agent keeps a tunnel to.
    pub tunnel: Tunnel,
    /// Log lines.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], umsid_proto::DEFAULT_PORT)),
            state_dir: default_state_dir(),
            max_backup_bytes: 64 << 20,
            ums: Ums::default(),
            service: Service::default(),
            timeouts: Timeouts::default(),
            health: Health::default(),
            output: Output::default(),
            limits: Limits::default(),
            gateway: Gateway::default(),
            tunnel: Tunnel::default(),
            log: Log::default(),
        }
    }
}

#[cfg(not(windows))]
fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/umsid-agent")
}

#[cfg(windows)]
fn default_state_dir() -> PathBuf {
    umsid_windows::folders::program_data()
        .unwrap_or_else(|_| PathBuf::from(r"C:\ProgramData"))
        .join("umsid-agent")
}

/// Where the configuration is looked for unless told otherwise.
pub fn default_path() -> PathBuf {
    if cfg!(windows) {
        default_state_dir().join("agent.toml")
    } else {
        PathBuf::from("/etc/umsid/agent.toml")
    }
}

/// A configuration that cannot be used: which file, which key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there, or was named, but cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may write it, and by that have the agent run what they like.
    #[error("{path}: {who} may write it, and could have the agent run any program")]
    Open {
        /// Which file.
        path: PathBuf,
        /// As the system calls them.
        who: String,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{path}, line {line}, `{key}`: {why}")]
    Text {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// With its section, as `health.interval`.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A value of the right kind that does not do.
    #[error("{path}, `{key}`: {why}")]
    Value {
        /// Which file.
        path: PathBuf,
        /// With its section.
        key: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Config {
    /// Reads this file; without one the default file, which may be missing.
    ///
    /// # Errors
    /// [`ConfigError`]; a file that was named must be there.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let named = path.is_some();
        let path = path.map_or_else(default_path, Path::to_owned);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                refuse_what_others_write(&path)?;
                Self::parse(&text, &path)
            }
            Err(error) if !named && error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }

    /// Understands a configuration; `path` is for error messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let (line, key) = place(text, at);
            ConfigError::Text { path: path.to_owned(), line, key, why: error.message().replace('\n', " ") }
        })?;
        match config.unusable() {
            None => Ok(config),
            Some((key, why)) => Err(ConfigError::Value { path: path.to_owned(), key, why }),
        }
    }

    fn unusable(&self) -> Option<(&'static str, String)> {
        let absolute = |path: &Path| (!path.is_absolute()).then(|| "an absolute path is needed".to_owned());
        if let Some(why) = absolute(&self.state_dir) {
            return Some(("state_dir", why));
        }
        if self.max_backup_bytes == 0 {
            return Some(("max_backup_bytes", "it must be more than 0".to_owned()));
        }
        let directories = [
            ("ums.install_dir", self.ums.install_dir.as_deref()),
            ("service.script", self.service.script.as_deref()),
            ("service.pid_file", self.service.pid_file.as_deref()),
        ];
        for (key, path) in directories {
            if let Some(why) = path.and_then(absolute) {
                return Some((key, why));
            }
        }
        let too_long = || self.durations().into_iter().find(|(_, duration)| *duration > A_YEAR);
        if let Some((key, _)) = too_long() {
            return Some((key, "more than a year is no limit".to_owned()));
        }
        self.ums
            .unusable()
            .or_else(|| self.service.unusable())
            .or_else(|| self.health.unusable())
            .or_else(|| self.gateway.unusable())
    }

    fn durations(&self) -> [(&'static str, Duration); 12] {
        [
            ("timeouts.list", self.timeouts.list),
            ("timeouts.backup", self.timeouts.backup),
            ("timeouts.restore", self.timeouts.restore),
            ("timeouts.export", self.timeouts.export),
            ("timeouts.service", self.timeouts.service),
            ("timeouts.grace", self.timeouts.grace),
            ("health.min_time", self.health.min_time),
            ("health.deadline", self.health.deadline),
            ("health.interval", self.health.interval),
            ("health.probe_timeout", self.health.probe_timeout),
            ("health.fallback_after", self.health.fallback_after),
            ("limits.handshake", self.limits.handshake),
        ]
    }
}

/// On Windows every user may put files into directories where services have theirs.
#[cfg(windows)]
fn refuse_what_others_write(path: &Path) -> Result<(), ConfigError> {
    use umsid_windows::acl;
    // The owner of what comes with Windows.
    const INSTALLER: &str = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464";
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let us = acl::me().map_err(read)?;
    let found = acl::access(path).map_err(read)?;
    let may = |who: &&String| ![acl::SYSTEM, acl::ADMINISTRATORS, INSTALLER, &us].contains(&who.as_str());
    match std::iter::once(&found.owner).chain(&found.writers).find(may) {
        None => Ok(()),
        Some(other) => Err(ConfigError::Open { path: path.to_owned(), who: other.clone() }),
    }
}

/// Elsewhere it is where only administrators write.
#[cfg(not(windows))]
fn refuse_what_others_write(_: &Path) -> Result<(), ConfigError> {
    Ok(())
}

/// Line and dotted key at this offset of a TOML text.
fn place(text: &str, at: usize) -> (usize, String) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let this = text[start..].lines().next().unwrap_or_default().trim();
    let section = before[..start]
        .lines()
        .rev()
        .find_map(|line| Some(line.trim().strip_prefix('[')?.split_once(']')?.0));
    if let Some(header) = this.strip_prefix('[') {
        return (line, header.split(']').next().unwrap_or_default().to_owned());
    }
    let key = this.split('=').next().unwrap_or_default().trim();
    (line, section.map_or_else(|| key.to_owned(), |section| format!("{section}.{key}")))
}

/// A program with its first arguments: one string is the program's path, an array the program and what goes before
/// our own arguments, as `["sudo", "-n", "/usr/local/bin/umsadmin-cli"]`. No shell ever sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "OneOrMany", into = "Vec<String>")]
pub struct CommandLine(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl TryFrom<OneOrMany> for CommandLine {
    type Error = &'static str;

    fn try_from(text: OneOrMany) -> Result<Self, Self::Error> {
        Self::new(match text {
            OneOrMany::One(program) => vec![program],
            OneOrMany::Many(words) => words,
        })
        .ok_or("a program is needed: its path, or an array of its path and arguments")
    }
}

impl From<CommandLine> for Vec<String> {
    fn from(command: CommandLine) -> Self {
        command.0
    }
}

impl CommandLine {
    /// Program and arguments; `None` if there is no program.
    pub fn new(words: Vec<String>) -> Option<Self> {
        words.first().is_some_and(|program| !program.is_empty()).then_some(Self(words))
    }

    /// A program without arguments of its own.
    ///
    /// A path that is not Unicode becomes another one.
    pub fn program(path: &Path) -> Self {
        Self(vec![path.to_string_lossy().into_owned()])
    }

    /// The program, and the arguments that come first.
    pub fn parts(&self) -> (&str, &[String]) {
        self.0.split_first().map_or(("", &[]), |(program, arguments)| (program, arguments))
    }

    /// The same with more arguments at its end.
    pub fn with<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        Self(self.0.iter().cloned().chain(arguments.into_iter().map(str::to_owned)).collect())
    }

    /// The same with this before it, as `sudo -n`.
    pub fn behind(&self, prefix: &[String]) -> Self {
        Self(prefix.iter().chain(&self.0).cloned().collect())
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.join(" "))
    }
}

/// Names and values added to the environment of every command.
pub type Environment = BTreeMap<String, String>;

impl Log {
    /// How log lines look.
    pub fn log_format(&self) -> LogFormat {
        if self.json { LogFormat::Json } else { LogFormat::Text }
    }
}

impl Limits {
    /// For the listener.
    pub fn tls(&self) -> umsid_common::tls::Limits {
        umsid_common::tls::Limits {
            handshake: self.handshake,
            handshakes: self.handshakes,
            connections: self.connections,
        }
    }
}

/// Half a minute, five minutes: durations in the words people use (`30s`, `5min`, `1h 30m`).
const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
