//! Calling the lab's programs and waiting for what they do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use umsid_lab::{Lab, Options};

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.exit, Some(0), "{self:?}");
        self.stdout
    }

    #[track_caller]
    pub(crate) fn refused(self, text: &str) {
        assert_eq!(self.exit, Some(1), "{self:?}");
        assert_eq!(self.stdout, "");
        assert!(self.stderr.contains(text), "{self:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests run the lab's programs themselves")]
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").stdin(Stdio::null());
    command
}

/// Runs a program with an empty environment, from the root directory.
#[track_caller]
pub(crate) fn run<A: AsRef<OsStr>>(program: &Path, arguments: &[A]) -> Ran {
    let output = command(program).args(arguments).output().expect("the program runs");
    Ran {
        exit: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Starts a program with its output in pipes.
pub(crate) fn start(program: &Path, arguments: &[&str]) -> Child {
    command(program).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

/// Calls a server's `umsadmin-cli`.
#[track_caller]
pub(crate) fn cli(lab: &Lab, server: &str, arguments: &[&str]) -> Ran {
    run(&lab.server(server).expect("known").umsadmin_cli, arguments)
}

/// Calls a server's init script.
#[track_caller]
pub(crate) fn init(lab: &Lab, server: &str, action: &str) -> Ran {
    run(&lab.server(server).expect("known").init_script, &[action])
}

/// Calls `umsid-lab`.
#[track_caller]
pub(crate) fn umsid_lab(arguments: &[&str]) -> Ran {
    run(Path::new(env!("CARGO_BIN_EXE_umsid-lab")), arguments)
}

/// A lab with this many servers and these settings.
pub(crate) fn lab(servers: usize, settings: &[(&str, &str)]) -> Lab {
    let settings = settings.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    Lab::up(&Options { servers, sites: 1, settings, ..Options::default() }).expect("the lab comes up")
}

/// A directory of the test's own, with a password in a file.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        let scratch = Self(tempfile::tempdir().expect("a directory"));
        scratch.write("password", "correct horse");
        scratch
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).into_os_string().into_string().expect("UTF-8")
    }

    #[expect(clippy::disallowed_methods, reason = "nobody else looks at it yet")]
    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        std::fs::write(self.path(name), content).expect("written");
        self.text(name)
    }
}

/// Backs up the UMS ID of a server to `file` in the scratch directory, under the password there.
#[track_caller]
pub(crate) fn backup(lab: &Lab, server: &str, scratch: &Scratch, file: &str) -> Ran {
    let (file, password) = (scratch.text(file), scratch.text("password"));
    cli(lab, server, &["licensing", "backup", "-o", &file, "--password:file", &password])
}

/// Restores it.
#[track_caller]
pub(crate) fn restore(lab: &Lab, server: &str, scratch: &Scratch, file: &str) -> Ran {
    let (file, password) = (scratch.text(file), scratch.text("password"));
    cli(lab, server, &["licensing", "restore", "-f", &file, "--password:file", &password])
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a page of a server's web port says, and its status; none when nobody answers.
pub(crate) fn page(lab: &Lab, server: &str, path: &str) -> Option<(u16, String)> {
    umsid_lab::https_get(lab.server(server).expect("known").https_port, path, None, None).ok()
}

/// The health a server tells.
pub(crate) fn health(lab: &Lab, server: &str) -> Option<(u16, String)> {
    page(lab, server, "/ums/check-status")
}

pub(crate) fn status(value: &str) -> Option<(u16, String)> {
    Some((200, format!(r#"{{"status":"{value}"}}"#)))
}
