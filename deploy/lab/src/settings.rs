//! What can be told to a server of the lab: the dialect it speaks and the ways it misbehaves.
//!
//! The settings are a TOML file in the server's directory, read anew at every call of every program.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

pub(crate) use self::values::{
    AutoSyncFails, Case, Digest, Errors, Export, From, Gives, Health, Length, ListShape, MachineReadable,
    MainSeen, Outfile, OutfileExists, PasswordNewline, Restore, RestoreGives, ServerStatus, Start,
    SubCommands, Words,
};
use crate::layout::ServerDir;
use crate::store::{self, Access};

mod values;

/// All keys, their values and what they mean.
pub const KEYS: &str = include_str!("keys.md");

/// The UMS's build number.
pub(crate) const BUILD_NUMBER: &str = "45678";

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
    pub(crate) main_seen: MainSeen,
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
    pub(crate) hangs_after_effect: SubCommands,
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
    pub(crate) start_pending_ms: u64,
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
            main_seen: MainSeen::Database,
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
            hangs_after_effect: SubCommands::default(),
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
            start_pending_ms: 0,
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

#[cfg(test)]
mod tests {
    use super::values::SUB_COMMANDS;
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
