//! What can be told to a server of the lab: the dialect it speaks and the ways it misbehaves.
//!
//! The settings are a TOML file in the server's directory, read anew at every call of every program.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::layout::ServerDir;
use crate::store::{self, Access};

/// All keys, their values and what they mean.
pub const KEYS: &str = include_str!("keys.md");

/// The UMS's build number.
pub(crate) const BUILD_NUMBER: &str = "45678";

/// Every sub-command that can be named in a setting, those of the init script last.
const SUB_COMMANDS: [&str; 20] = [
    "licensing list",
    "licensing backup",
    "licensing restore",
    "licensing export",
    "licensing create",
    "server start",
    "server stop",
    "server restart",
    "server end-update-mode",
    "web-certs list",
    "web-certs list-assigned-server",
    "ums-cluster list",
    "ports list",
    "db list",
    "ums-license state",
    "version",
    "init start",
    "init stop",
    "init restart",
    "init status",
];

/// Why a setting was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SettingError {
    /// The settings file could not be read or written.
    #[error("cannot read or write the server's settings")]
    File(#[from] io::Error),
    /// The settings file holds something else.
    #[error("the server's settings are damaged")]
    Damaged(#[source] toml::de::Error),
    /// There is no such key.
    #[error("there is no setting `{key}`; the settings are: {}", .known.join(", "))]
    UnknownKey {
        /// The key asked for.
        key: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// The key exists, the value is none of its values.
    #[error("`{value}` is no value for the setting `{key}`: {why}")]
    BadValue {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The settings of one server. `keys.md` says what each means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) version: String,
    pub(crate) list: ListShape,
    pub(crate) list_digest: Digest,
    pub(crate) list_colons: bool,
    pub(crate) list_case: Case,
    pub(crate) list_length: Length,
    pub(crate) list_words: Words,
    pub(crate) list_from: From,
    pub(crate) machine_readable: MachineReadable,
    pub(crate) noise: bool,
    pub(crate) outfile: Outfile,
    pub(crate) outfile_exists: OutfileExists,
    pub(crate) backup_gives: Gives,
    pub(crate) export: Export,
    pub(crate) export_gives: Gives,
    pub(crate) restore: Restore,
    pub(crate) errors: Errors,
    pub(crate) password_newline: PasswordNewline,
    pub(crate) exclusive: bool,
    pub(crate) delay_ms: u64,
    pub(crate) backup_delay_ms: u64,
    pub(crate) restore_delay_ms: u64,
    pub(crate) hang: SubCommands,
    pub(crate) hang_forks_child: bool,
    pub(crate) leaves_child: SubCommands,
    pub(crate) flood: SubCommands,
    pub(crate) fails: SubCommands,
    pub(crate) fails_after_effect: SubCommands,
    pub(crate) exit_zero_no_effect: SubCommands,
    pub(crate) empty_backup: bool,
    pub(crate) backup_size: u64,
    pub(crate) restore_gives: RestoreGives,
    pub(crate) start: Start,
    pub(crate) auto_sync_fails: AutoSyncFails,
    pub(crate) licence_check: bool,
    pub(crate) update_mode: bool,
    pub(crate) init_ms: u64,
    pub(crate) period_ms: u64,
    pub(crate) health: Health,
    pub(crate) serverstatus: ServerStatus,
    pub(crate) stop_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: "12.09.110".to_owned(),
            list: ListShape::IdRows,
            list_digest: Digest::Sha256,
            list_colons: false,
            list_case: Case::Upper,
            list_length: Length::Whole,
            list_words: Words::English,
            list_from: From::Disk,
            machine_readable: MachineReadable::Honoured,
            noise: false,
            outfile: Outfile::AsGiven,
            outfile_exists: OutfileExists::Overwrite,
            backup_gives: Gives::Local,
            export: Export::Pem,
            export_gives: Gives::Local,
            restore: Restore::Plain,
            errors: Errors::Exit1,
            password_newline: PasswordNewline::Kept,
            exclusive: false,
            delay_ms: 0,
            backup_delay_ms: 0,
            restore_delay_ms: 0,
            hang: SubCommands::default(),
            hang_forks_child: false,
            leaves_child: SubCommands::default(),
            flood: SubCommands::default(),
            fails: SubCommands::default(),
            fails_after_effect: SubCommands::default(),
            exit_zero_no_effect: SubCommands::default(),
            empty_backup: false,
            backup_size: 0,
            restore_gives: RestoreGives::File,
            start: Start::Normal,
            auto_sync_fails: AutoSyncFails::False,
            licence_check: true,
            update_mode: false,
            init_ms: 25,
            period_ms: 25,
            health: Health::Ok,
            serverstatus: ServerStatus::Ok,
            stop_ms: 0,
        }
    }
}

impl Settings {
    /// What holds for this server now.
    pub(crate) fn read(server: &ServerDir) -> Result<Self, SettingError> {
        let text = fs::read_to_string(server.settings())?;
        toml::from_str(&text).map_err(SettingError::Damaged)
    }

    /// Also writes the version file, which is to say the same. Its keys are not documented (UMS_FACTS §4).
    pub(crate) fn write(&self, server: &ServerDir) -> Result<(), SettingError> {
        let version = format!("version={}\nbuildNumber={BUILD_NUMBER}\n", self.version);
        store::replace(&server.version_file(), version.as_bytes(), Access::Public)?;
        let text = toml::to_string(self).map_err(io::Error::other)?;
        Ok(store::replace(&server.settings(), text.as_bytes(), Access::Public)?)
    }

    /// Reads, changes and writes one or more settings while nobody else does.
    pub(crate) fn change<K: AsRef<str>, V: AsRef<str>>(
        server: &ServerDir,
        changes: &[(K, V)],
    ) -> Result<(), SettingError> {
        store::locked(&server.settings_lock(), || {
            let mut settings = Self::read(server)?;
            for (key, value) in changes {
                settings = settings.with(key.as_ref(), value.as_ref())?;
            }
            settings.write(server)
        })?
    }

    /// The same settings with one changed.
    pub(crate) fn with(&self, key: &str, value: &str) -> Result<Self, SettingError> {
        let mut table = toml::Table::try_from(self).map_err(io::Error::other)?;
        let bad = |why: String| SettingError::BadValue { key: key.to_owned(), value: value.to_owned(), why };
        let Some(slot) = table.get_mut(key) else {
            let known = table.keys().cloned().collect();
            return Err(SettingError::UnknownKey { key: key.to_owned(), known });
        };
        *slot = match slot {
            toml::Value::Boolean(_) => value
                .parse()
                .map(toml::Value::Boolean)
                .map_err(|_| bad("`true` or `false` is expected".to_owned()))?,
            toml::Value::Integer(_) => {
                let number: u32 = value.parse().map_err(|_| bad("a whole number is expected".to_owned()))?;
                toml::Value::Integer(number.into())
            }
            _ => toml::Value::String(value.to_owned()),
        };
        table.try_into().map_err(|error: toml::de::Error| bad(error.message().to_owned()))
    }

    /// Whether the server's version is `since` or younger.
    pub(crate) fn at_least(&self, since: &str) -> bool {
        let parts = |version: &str| -> Vec<u32> {
            version.split('.').map(|part| part.parse().unwrap_or_default()).collect()
        };
        parts(&self.version) >= parts(since)
    }
}

/// Sub-commands that a setting applies to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct SubCommands(Vec<String>);

impl SubCommands {
    pub(crate) fn has(&self, sub_command: &str) -> bool {
        self.0.iter().any(|named| named == "any" || named == sub_command)
    }
}

impl TryFrom<String> for SubCommands {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut named = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let long = match part {
                "list" | "backup" | "restore" | "export" | "create" => format!("licensing {part}"),
                _ => part.to_owned(),
            };
            if long != "any" && !SUB_COMMANDS.contains(&long.as_str()) {
                return Err(format!("there is no sub-command `{part}`"));
            }
            named.push(long);
        }
        Ok(Self(named))
    }
}

impl std::convert::From<SubCommands> for String {
    fn from(commands: SubCommands) -> Self {
        commands.0.join(",")
    }
}

/// How the UMS Server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Start {
    Normal,
    Refuses,
    Never,
    AfterMs(u64),
    DiesAfterMs(u64),
    OldId,
}

impl TryFrom<String> for Start {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let expected =
            "expected `normal`, `refuses`, `never`, `after:MS`, `dies-after:MS` or `old-id`".to_owned();
        if let Some((how, ms)) = text.split_once(':') {
            let ms = ms.parse().map_err(|_| expected.clone())?;
            return match how {
                "after" => Ok(Self::AfterMs(ms)),
                "dies-after" => Ok(Self::DiesAfterMs(ms)),
                _ => Err(expected),
            };
        }
        match text.as_str() {
            "normal" => Ok(Self::Normal),
            "refuses" => Ok(Self::Refuses),
            "never" => Ok(Self::Never),
            "old-id" => Ok(Self::OldId),
            _ => Err(expected),
        }
    }
}

impl std::convert::From<Start> for String {
    fn from(start: Start) -> Self {
        match start {
            Start::Normal => "normal".to_owned(),
            Start::Refuses => "refuses".to_owned(),
            Start::Never => "never".to_owned(),
            Start::AfterMs(ms) => format!("after:{ms}"),
            Start::DiesAfterMs(ms) => format!("dies-after:{ms}"),
            Start::OldId => "old-id".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ListShape {
    IdRows,
    ServerRows,
    Blocks,
    Unlabelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Digest {
    Sha256,
    Sha1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    Upper,
    Lower,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Length {
    Whole,
    Ends,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Words {
    English,
    German,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum From {
    Disk,
    Running,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MachineReadable {
    Honoured,
    Ignored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outfile {
    AsGiven,
    AppendKsbak,
    ForcedIfMissing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OutfileExists {
    Overwrite,
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Gives {
    Local,
    Main,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Export {
    Pem,
    Der,
    Missing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Restore {
    Plain,
    StopsServer,
    NeedsStopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Errors {
    #[serde(rename = "exit-1")]
    Exit1,
    #[serde(rename = "exit-0-with-text")]
    Exit0WithText,
    #[serde(rename = "exit-0-on-stderr")]
    Exit0OnStderr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PasswordNewline {
    Kept,
    Stripped,
    Rejected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RestoreGives {
    File,
    Other,
    WrongCluster,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AutoSyncFails {
    False,
    True,
    Once,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Health {
    Ok,
    Warn,
    Err,
    Init,
    #[serde(rename = "404")]
    NotFound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ServerStatus {
    Ok,
    #[serde(rename = "404")]
    NotFound,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_explained() {
        let table = toml::Table::try_from(Settings::default()).unwrap();
        for key in table.keys() {
            assert!(KEYS.contains(&format!("`{key}`")), "keys.md does not explain `{key}`");
        }
        for line in KEYS.lines().filter_map(|line| line.strip_prefix("- `")) {
            let key = line.split('`').next().unwrap();
            assert!(table.contains_key(key), "keys.md explains `{key}`, which there is not");
        }
        for sub_command in SUB_COMMANDS {
            assert!(KEYS.replace('\n', " ").contains(&format!("`{sub_command}`")), "{sub_command}");
        }
    }

    #[test]
    fn a_wrong_key_or_value_is_refused_by_name() {
        let settings = Settings::default();
        let error = settings.with("lisst", "x").unwrap_err().to_string();
        assert!(error.contains("no setting `lisst`") && error.contains("list_colons"), "{error}");
        let error = settings.with("list", "x").unwrap_err().to_string();
        assert!(
            error.contains("`x` is no value for the setting `list`") && error.contains("id-rows"),
            "{error}"
        );
        for (key, value) in [
            ("delay_ms", "-1"),
            ("noise", "yes"),
            ("hang", "restart"),
            ("start", "after:soon"),
            ("start", "x:1"),
        ] {
            assert!(settings.with(key, value).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn values_survive_being_written() {
        let settings = Settings::default()
            .with("hang", "restore, server restart")
            .and_then(|settings| settings.with("start", "dies-after:7"))
            .and_then(|settings| settings.with("health", "404"))
            .and_then(|settings| settings.with("auto_sync_fails", "once"))
            .unwrap();
        let read: Settings = toml::from_str(&toml::to_string(&settings).unwrap()).unwrap();
        assert_eq!(read, settings);
        assert!(read.hang.has("licensing restore") && read.hang.has("server restart"));
        assert!(!read.hang.has("licensing list"));
        assert_eq!(read.start, Start::DiesAfterMs(7));
    }

    #[test]
    fn versions_compare_by_number() {
        let settings = Settings { version: "12.10.100".to_owned(), ..Settings::default() };
        assert!(
            settings.at_least("12.09.110")
                && settings.at_least("12.10.100")
                && !settings.at_least("12.10.101")
        );
    }
}
