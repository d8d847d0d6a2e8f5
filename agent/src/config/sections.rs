//! The sections of the configuration with their defaults.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{CommandLine, Environment, seconds};

/// `[ums]`: the UMS on this host. What is `None` is found out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ums {
    /// How `umsadmin-cli` is run.
    pub umsadmin_cli: Option<CommandLine>,
    /// Where the UMS is installed (UMS_FACTS §4).
    pub install_dir: Option<PathBuf>,
    /// As `12.09.110`.
    pub version: Option<String>,
    /// Names this server goes by in the UMS, besides those found out.
    pub host_names: Vec<String>,
    /// The port of the UMS web server.
    pub web_port: Option<u16>,
    /// Where the UMS Server answers, without path: `https://127.0.0.1:8443`. Wins over `web_port`.
    pub health_url: Option<String>,
    /// Whether it is a Distributed UMS.
    pub distributed: Option<bool>,
    /// Words that call a UMS ID Main; `*` at the end stands for any ending.
    pub main_words: Vec<String>,
    /// Words that call a UMS ID Local.
    pub local_words: Vec<String>,
    /// Words that say a server is not in sync; what they go on to say, as "with the Main UMS ID", calls nothing Main.
    pub not_in_sync_words: Vec<String>,
    /// Words by which a failed restore says that the password was wrong.
    pub password_words: Vec<String>,
    /// Words by which a failed restore says that the server has to be stopped.
    pub stopped_words: Vec<String>,
    /// Words by which output says that something failed although the exit status says otherwise.
    pub error_words: Vec<String>,
    /// Whether the password file ends with a line end.
    pub password_newline: bool,
    /// Whether the UMS Server is stopped for a restore.
    pub stop_server: StopServer,
    /// When `licensing export` is asked besides `licensing list`.
    pub export: UseExport,
    /// Added to the environment of every command; there is nothing in it but this, `PATH`, `HOME`, `LANG` and `LC_ALL`.
    pub environment: Environment,
}

impl Default for Ums {
    fn default() -> Self {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            umsadmin_cli: None,
            install_dir: None,
            version: None,
            host_names: Vec::new(),
            web_port: None,
            health_url: None,
            distributed: None,
            main_words: words(&["main", "haupt*"]),
            local_words: words(&["local", "lokal*", "own", "eigen*"]),
            not_in_sync_words: words(&["not in sync", "not synchron", "out of sync", "nicht synchron"]),
            password_words: words(&["password", "passwort", "kennwort"]),
            stopped_words: words(&[
                "stop",
                "stopped",
                "running",
                "gestoppt",
                "angehalten",
                "beendet",
                "läuft",
            ]),
            error_words: words(&[
                "error*",
                "exception",
                "fail*",
                "fehler*",
                "fehlgeschlagen",
                "cannot",
                "could",
                "must",
                "muss",
                "kann",
                "konnte",
                "wrong",
                "falsch*",
                "invalid",
                "ungültig*",
                "refused",
                "denied",
            ]),
            password_newline: false,
            stop_server: StopServer::IfNeeded,
            export: UseExport::IfNeeded,
            environment: Environment::new(),
        }
    }
}

impl Ums {
    pub(super) fn unusable(&self) -> Option<(&'static str, String)> {
        let lists = [
            ("ums.main_words", &self.main_words),
            ("ums.local_words", &self.local_words),
            ("ums.password_words", &self.password_words),
            ("ums.stopped_words", &self.stopped_words),
            ("ums.error_words", &self.error_words),
        ];
        for (key, words) in lists {
            if let Some(word) = words.iter().find(|word| word.trim_end_matches('*').is_empty()) {
                return Some((key, format!("`{word}` would stand for every word")));
            }
        }
        if let Some(url) = &self.health_url
            && let Err(why) = crate::ums::health::Address::parse(url)
        {
            return Some(("ums.health_url", why));
        }
        if self
            .version
            .as_ref()
            .is_some_and(|version| crate::ums::installation::version_in(version).is_none())
        {
            return Some(("ums.version", "a version looks like 12.09.110".to_owned()));
        }
        None
    }
}

/// Whether the UMS Server is stopped for a restore. Not documented (UMS_FACTS §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopServer {
    /// Never.
    Never,
    /// When a restore fails and says so: stopped, and tried once more.
    IfNeeded,
    /// Before every restore.
    Always,
}

/// When `licensing export` is asked. Every call of `umsadmin-cli` takes a second or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UseExport {
    /// Never.
    Never,
    /// When `licensing list` leaves something open.
    IfNeeded,
    /// Always.
    Always,
}

/// `[service]`: how the UMS Server is started and stopped.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// By what; found out if `None`.
    pub control: Option<ServiceKind>,
    /// The systemd unit, unless `igel-ums-server`.
    pub unit: Option<String>,
    /// The Windows service, unless `IGELRMGUIServer`.
    pub name: Option<String>,
    /// The init script, unless `/etc/init.d/igelRMserver`.
    pub script: Option<PathBuf>,
    /// Put before `systemctl` and the init script, as `["sudo", "-n"]`.
    pub prefix: Vec<String>,
    /// The command that starts it.
    pub start: Option<CommandLine>,
    /// The command that stops it.
    pub stop: Option<CommandLine>,
    /// The command that restarts it; without one: stop, then start.
    pub restart: Option<CommandLine>,
    /// The command whose exit status is 0 while it runs.
    pub status: Option<CommandLine>,
    /// Where its process id is.
    pub pid_file: Option<PathBuf>,
    /// Text in the command line of its process, where there is no process id file; unless the install directory's
    /// `rmguiserver`.
    pub process: Option<String>,
}

/// By what the UMS Server is started and stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceKind {
    /// A systemd unit.
    Systemd,
    /// A Windows service.
    WindowsService,
    /// An init script.
    InitScript,
    /// `umsadmin-cli server …`.
    UmsadminCli,
    /// The commands of this section.
    Command,
}

impl Service {
    pub(super) fn unusable(&self) -> Option<(&'static str, String)> {
        let commands = self.control == Some(ServiceKind::Command);
        let needed = |key, command: &Option<CommandLine>| {
            (commands && command.is_none())
                .then(|| (key, "needed where service.control = \"command\"".to_owned()))
        };
        let elsewhere = match self.control {
            Some(ServiceKind::WindowsService) => !cfg!(windows),
            Some(ServiceKind::Systemd | ServiceKind::InitScript) => cfg!(windows),
            Some(ServiceKind::UmsadminCli | ServiceKind::Command) | None => false,
        };
        if elsewhere {
            return Some(("service.control", "there is no such thing on this system".to_owned()));
        }
        needed("service.start", &self.start).or_else(|| needed("service.stop", &self.stop))
    }
}

/// `[timeouts]`: a command that takes longer is ended, with all it started.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// Commands that only look, as `licensing list`.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub list: Duration,
    /// `licensing backup`.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub backup: Duration,
    /// `licensing restore`.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub restore: Duration,
    /// `licensing export`.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub export: Duration,
    /// Starting or stopping the service, and until its process is there or gone.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub service: Duration,
    /// From the request to end to the order to end.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub grace: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            list: seconds(60),
            backup: seconds(300),
            restore: seconds(300),
            export: seconds(60),
            service: seconds(300),
            grace: seconds(3),
        }
    }
}

/// `[health]`: when the UMS Server counts as healthy.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Good answers in a row.
    pub successes: u32,
    /// From the first of them to the last.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub min_time: Duration,
    /// From the restart.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub deadline: Duration,
    /// Between two questions.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub interval: Duration,
    /// For one answer.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub probe_timeout: Duration,
    /// After a restart, `serverstatus` counts in place of `check-status` only when that has given no usable answer for
    /// this long (UMS_FACTS §5: broken in 12.12.100).
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub fallback_after: Duration,
    /// Whether `warn` is good enough.
    pub warn_is_good: bool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            successes: 3,
            min_time: seconds(10),
            deadline: seconds(600),
            interval: seconds(2),
            probe_timeout: seconds(5),
            fallback_after: seconds(30),
            warn_is_good: false,
        }
    }
}

impl Health {
    pub(super) fn unusable(&self) -> Option<(&'static str, String)> {
        let positive = [("health.interval", self.interval), ("health.probe_timeout", self.probe_timeout)];
        if self.successes == 0 {
            return Some(("health.successes", "it must be more than 0".to_owned()));
        }
        let (key, _) = positive.into_iter().find(|(_, duration)| duration.is_zero())?;
        Some((key, "it must be more than 0".to_owned()))
    }
}

/// `[output]`: what is kept of a command's output.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// Of each stream, in bytes: its beginning and its end.
    pub keep_bytes: usize,
    /// A command that prints more than this on one stream is ended, in bytes.
    pub flood_bytes: u64,
}

impl Default for Output {
    fn default() -> Self {
        Self { keep_bytes: 256 << 10, flood_bytes: 16 << 20 }
    }
}

/// `[limits]`: what the listener bears.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Who takes longer for the TLS handshake is dropped.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub handshake: Duration,
    /// Connections at once that are not done with the handshake; for one more, the address with the most loses its oldest.
    pub handshakes: usize,
    /// Connections at once that are; for one more, the certificate with the most loses its newest.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshake: seconds(5), handshakes: 256, connections: 512 }
    }
}

/// `[log]`: log lines, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// One JSON object a line.
    pub json: bool,
    /// Which lines, as in `RUST_LOG`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self { json: false, filter: "info".to_owned() }
    }
}
