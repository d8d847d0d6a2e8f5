//! The values of settings. `keys.md` says what each means.

use serde::{Deserialize, Serialize};

/// Every sub-command that can be named in a setting, those of the init script last.
pub(super) const SUB_COMMANDS: [&str; 20] = [
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
pub(crate) enum MainSeen {
    Database,
    Itself,
    Stranger,
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
