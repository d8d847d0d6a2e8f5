//! `watch.toml`; `deploy/config/watch.toml` shows all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Zoned};
use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};
use umsid_common::name::ClusterName;
use ureq::http::Uri;

use crate::condition::{Bounds, Limits};
use crate::window::Window;

/// What is to be watched, how often, and who is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// From one survey of a cluster to the next.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub every: Duration,
    /// Each of them is put off by up to this.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub jitter: Duration,
    /// A server that has not answered in this time has not answered.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// In so many surveys in a row something bad must be seen before anybody is told.
    pub confirm: u32,
    /// Which clusters; none: all there are.
    pub clusters: Vec<ClusterName>,
    /// What is put up with.
    pub limits: LimitsSection,
    /// OpenMetrics over HTTP.
    pub metrics: Option<Metrics>,
    /// Who is told by HTTP.
    pub webhook: Vec<Webhook>,
    /// Who is told by mail.
    pub mail: Vec<Mail>,
    /// Which clusters are synchronized without a person, and when.
    pub sync: BTreeMap<ClusterName, Rule>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(300),
            jitter: Duration::from_secs(30),
            timeout: Duration::from_secs(120),
            confirm: 2,
            clusters: Vec::new(),
            limits: LimitsSection::default(),
            metrics: None,
            webhook: Vec::new(),
            mail: Vec::new(),
            sync: BTreeMap::new(),
        }
    }
}

/// A warning below or above the first number, critical below or above the second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Days left of a certificate.
    pub certificate_days: [u16; 2],
    /// Seconds between a clock and ours.
    pub clock_seconds: [u32; 2],
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self { certificate_days: [30, 7], clock_seconds: [30, 60] }
    }
}

/// OpenMetrics over HTTP, on this host alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// An address of the loopback.
    pub listen: SocketAddr,
}

/// Who is told by HTTP. The address of some is a secret in itself, and may be in a file as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// What it is called here.
    pub name: String,
    /// `https://…`; `http://` on the loopback only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A file with the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// A file with the key of the signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Certificates to trust besides those of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How long one attempt may take.
    #[serde(
        default = "seconds_15",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required"
    )]
    pub timeout: Duration,
    /// How often it is tried before it is left for a minute.
    #[serde(default = "five")]
    pub attempts: u32,
}

/// How a mail server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// TLS after STARTTLS, and no mail without.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Tls,
    /// None, for a server on the loopback.
    None,
}

/// Who is told by mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// What it is called here.
    #[serde(default = "mail")]
    pub name: String,
    /// The mail server.
    pub server: String,
    /// 587 for STARTTLS, 465 for TLS, 25 for none, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How it is spoken to.
    #[serde(default)]
    pub security: Security,
    /// Who logs in there; nobody if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A file with the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Certificates to trust besides those of this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Whom the mail is from.
    pub from: Mailbox,
    /// Who gets it.
    pub to: Vec<Mailbox>,
    /// How long one attempt may take.
    #[serde(
        default = "seconds_15",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required"
    )]
    pub timeout: Duration,
    /// How often it is tried before it is left for a minute.
    #[serde(default = "five")]
    pub attempts: u32,
}

/// When a cluster is synchronized without a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Begun only in this window.
    pub window: Window,
    /// Whose clock the window is read off; that of this host if neither this nor the window says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What is begun must be over before the window closes, if it takes so long.
    #[serde(default = "an_hour", with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub takes: Duration,
    /// In so many surveys in a row the servers must have been seen out of sync.
    #[serde(default = "three")]
    pub after: u32,
    /// How many servers at a time, after the first.
    #[serde(default = "one")]
    pub batch: u16,
    /// How long messages between servers are waited for before the whole cluster is verified.
    #[serde(
        default = "seconds_45",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required"
    )]
    pub settle: Duration,
}

fn seconds_15() -> Duration {
    Duration::from_secs(15)
}

fn seconds_45() -> Duration {
    Duration::from_secs(45)
}

fn an_hour() -> Duration {
    Duration::from_secs(3600)
}

fn five() -> u32 {
    5
}

fn three() -> u32 {
    3
}

fn one() -> u16 {
    1
}

fn mail() -> String {
    "mail".to_owned()
}

/// A `watch.toml` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No TOML, or keys and values there are not.
    #[error("{path}, line {line}: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// Values that do not do.
    #[error("{path}: {why}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Which, and why.
        why: String,
    },
}

impl Config {
    /// What is in a file.
    ///
    /// # Errors
    /// If it cannot be read or does not do; nothing of it is used then.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.get(..start).unwrap_or(&text).matches('\n').count() + 1;
            ConfigError::Malformed { path: path.to_owned(), line, why: error.message().to_owned() }
        })?;
        match config.complaint() {
            None => Ok(config),
            Some(why) => Err(ConfigError::Unfit { path: path.to_owned(), why }),
        }
    }

    /// What is put up with.
    pub fn limits(&self) -> Limits {
        let days = |days: u16| Duration::from_secs(u64::from(days) * 24 * 3600);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let ([c_warning, c_critical], [s_warning, s_critical]) =
            (self.limits.certificate_days, self.limits.clock_seconds);
        Limits {
            certificate: Bounds { warning: days(c_warning), critical: days(c_critical) },
            skew: Bounds { warning: seconds(s_warning), critical: seconds(s_critical) },
        }
    }

    fn complaint(&self) -> Option<String> {
        const A_SECOND: Duration = Duration::from_secs(1);
        const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
        for (key, value, least) in [
            ("every", self.every, A_SECOND),
            ("jitter", self.jitter, Duration::ZERO),
            ("timeout", self.timeout, A_SECOND),
        ] {
            if value < least || value > A_WEEK {
                return Some(format!("`{key}` is between {} s and a week", least.as_secs()));
            }
        }
        if self.confirm == 0 {
            return Some("`confirm` is at least 1".to_owned());
        }
        let LimitsSection { certificate_days: [cw, cc], clock_seconds: [sw, sc] } = self.limits;
        if cc > cw || sc < sw {
            return Some("`limits`: a warning comes before what is critical".to_owned());
        }
        if let Some(metrics) = self.metrics.as_ref().filter(|metrics| !metrics.listen.ip().is_loopback()) {
            return Some(format!(
                "`metrics.listen`: {} is no address of the loopback; there is neither TLS nor a password there",
                metrics.listen.ip()
            ));
        }
        let mut names = BTreeSet::new();
        let all = self.webhook.iter().map(|one| &one.name).chain(self.mail.iter().map(|one| &one.name));
        for name in all {
            if name.is_empty() || !names.insert(name) {
                return Some(format!("every `webhook` and `mail` has a `name` of its own, not `{name}`"));
            }
        }
        let of_webhook = self.webhook.iter().find_map(Webhook::complaint);
        let of_mail = || self.mail.iter().find_map(Mail::complaint);
        let of_rule = || {
            let mut rules = self.sync.iter();
            rules.find_map(|(cluster, rule)| Some(format!("`sync.{cluster}`: {}", rule.complaint()?)))
        };
        of_webhook.or_else(of_mail).or_else(of_rule)
    }
}

/// Where a webhook may be: by HTTPS anywhere, else on the loopback. What is wrong is said without the address.
pub(super) fn unfit_address(url: &str) -> Option<&'static str> {
    let Ok(url) = url.parse::<Uri>() else { return Some("its address is no URL") };
    let Some(host) = url.host() else { return Some("its address has no host") };
    let loopback = host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    match url.scheme_str() {
        Some("https") => None,
        Some("http") if loopback => None,
        _ => Some("its address begins with https://, or with http:// on the loopback"),
    }
}

impl Webhook {
    fn complaint(&self) -> Option<String> {
        let why = match (&self.url, &self.url_file) {
            (Some(url), None) => unfit_address(url),
            (None, Some(_)) => None,
            _ => Some("it has either `url` or `url_file`"),
        };
        let why = why
            .or((self.attempts == 0 || self.timeout.is_zero())
                .then_some("`attempts` and `timeout` are not 0"));
        Some(format!("webhook `{}`: {}", self.name, why?))
    }
}

impl Mail {
    fn complaint(&self) -> Option<String> {
        let loopback = self.server == "localhost"
            || self.server.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        let why = match () {
            () if self.to.is_empty() => "nobody is in `to`",
            () if self.user.is_some() != self.password_file.is_some() => {
                "`user` and `password_file` go together"
            }
            () if self.security == Security::None && !loopback => {
                "`security = \"none\"` is for a server on the loopback"
            }
            () if self.attempts == 0 || self.timeout.is_zero() => "`attempts` and `timeout` are not 0",
            () => return None,
        };
        Some(format!("mail `{}`: {why}", self.name))
    }
}

impl Rule {
    /// Now, on the clock of the rule.
    pub fn now(&self) -> Zoned {
        match &self.time_zone {
            // It was looked at when the file was read.
            Some(name) => Zoned::now().with_time_zone(TimeZone::get(name).unwrap_or(TimeZone::UTC)),
            None => Zoned::now(),
        }
    }

    fn complaint(&self) -> Option<String> {
        if let Some(name) = self.time_zone.as_ref().filter(|name| TimeZone::get(name).is_err()) {
            return Some(format!("no time zone `{name}` is known here"));
        }
        if self.after == 0 || self.batch == 0 {
            return Some("`after` and `batch` are at least 1".to_owned());
        }
        let takes = SignedDuration::try_from(self.takes).unwrap_or(SignedDuration::MAX);
        // A window is not always as long as it says, but never longer.
        let opens = self.window.next(&self.now());
        let room = self.window.room(&opens).unwrap_or_default();
        (takes > room).then(|| {
            format!("nothing that takes {takes:#} fits into the window `{}`; see `takes`", self.window)
        })
    }
}

#[cfg(test)]
mod tests;
