//! The lab's books: which programs were called and how, and when a server started and stopped.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::layout::ServerDir;
use crate::store;

/// One call of `umsadmin-cli` or of the init script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// When it began.
    pub time: Timestamp,
    /// The program's name and its arguments.
    pub argv: Vec<String>,
    /// Its environment, so that a test can look for what must not be in it.
    pub environment: BTreeMap<String, String>,
    /// Its process id.
    pub pid: u32,
    /// Its exit code; none while it runs and when it was killed.
    pub exit: Option<i32>,
    /// The password file it was given.
    pub password_file: Option<PasswordFile>,
}

/// A password file as a call found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordFile {
    /// Where it was.
    pub path: String,
    /// Its permission bits; 0 where there are none, or no such file.
    pub mode: u32,
    /// Those of its directory.
    pub directory_mode: u32,
}

/// What happened to a server's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The process began.
    Started,
    /// Its port is open.
    Listening,
    /// It refused to run.
    Refused,
    /// It died of itself.
    Died,
    /// It was asked to stop and did.
    Stopped,
}

/// One line of a server's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifecycle {
    /// When.
    pub time: Timestamp,
    /// What.
    pub event: Event,
    /// The server's process id.
    pub pid: u32,
}

impl Call {
    /// The sub-command with its options, without the program.
    pub fn arguments(&self) -> &[String] {
        self.argv.get(1..).unwrap_or_default()
    }

    /// Whether the call was of this sub-command, such as `licensing create`, or `igelRMserver restart`.
    pub fn is(&self, sub_command: &str) -> bool {
        let words: Vec<&str> = sub_command.split(' ').collect();
        self.argv.windows(words.len()).any(|window| window == words)
    }

    /// Notes that this process was called as `program` with `arguments`.
    pub(crate) fn begin(server: &ServerDir, program: &str, arguments: &[String]) -> io::Result<Self> {
        let call = Self {
            time: Timestamp::now(),
            argv: std::iter::once(program.to_owned()).chain(arguments.iter().cloned()).collect(),
            environment: std::env::vars_os()
                .map(|(name, value)| (name.to_string_lossy().into(), value.to_string_lossy().into()))
                .collect(),
            pid: std::process::id(),
            exit: None,
            password_file: password_file(arguments),
        };
        store::append_line(&server.calls(), &serde_json::to_string(&call)?)?;
        Ok(call)
    }

    /// Notes how it ended: the same line again, with the exit code.
    pub(crate) fn end(mut self, server: &ServerDir, exit: i32) -> io::Result<()> {
        self.exit = Some(exit);
        store::append_line(&server.calls(), &serde_json::to_string(&self)?)
    }

    /// All calls at a server, in the order they began.
    pub(crate) fn all(server: &ServerDir) -> io::Result<Vec<Self>> {
        let mut calls: Vec<Self> = Vec::new();
        for line in store::lines(&server.calls())? {
            let call: Self = serde_json::from_str(&line)?;
            match calls.iter_mut().find(|begun| begun.pid == call.pid && begun.time == call.time) {
                Some(begun) => *begun = call,
                None => calls.push(call),
            }
        }
        Ok(calls)
    }
}

impl Lifecycle {
    pub(crate) fn note(server: &ServerDir, event: Event) -> io::Result<()> {
        let line = Self { time: Timestamp::now(), event, pid: std::process::id() };
        store::append_line(&server.lifecycle(), &serde_json::to_string(&line)?)
    }

    pub(crate) fn all(server: &ServerDir) -> io::Result<Vec<Self>> {
        store::lines(&server.lifecycle())?.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

fn password_file(arguments: &[String]) -> Option<PasswordFile> {
    let option = "--password:file";
    let at = arguments.iter().position(|argument| argument.starts_with(option))?;
    let path = match arguments[at].strip_prefix(option)?.strip_prefix('=') {
        Some(path) => path,
        None => arguments.get(at + 1)?,
    };
    let directory = Path::new(path).parent().unwrap_or(Path::new("/"));
    Some(PasswordFile { path: path.to_owned(), mode: mode(Path::new(path)), directory_mode: mode(directory) })
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).map_or(0, |found| found.permissions().mode() & 0o7777)
}

#[cfg(not(unix))]
fn mode(_: &Path) -> u32 {
    0
}
