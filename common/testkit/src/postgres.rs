//! A server of PostgreSQL that is the test's own: its data and its socket in a scratch directory, no port.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

/// Where distributions keep the programs of each version, besides the search path.
const PLACES: [&str; 2] = ["/usr/lib/postgresql", "/usr/pgsql"];

/// Who the server runs as where the test is root, whom it refuses: `nobody`.
const NOBODY: u32 = 65_534;

/// Ends the server when nobody holds its standard input any more, however that comes about.
const KEEPER: &str = r#"
dir=$1; shift
"$@" initdb -N -A trust --no-instructions -E UTF8 --locale=C.UTF-8 -U umsid -D "$dir/data" >"$dir/log" 2>&1 &&
cat >>"$dir/data/postgresql.conf" <<END &&
listen_addresses = ''
unix_socket_directories = '$dir'
fsync = off
max_connections = 200
END
"$@" pg_ctl -w -D "$dir/data" -l "$dir/data/server.log" start >>"$dir/log" 2>&1 && echo ready || echo failed
read -r _
"$@" pg_ctl -m immediate -D "$dir/data" stop >>"$dir/log" 2>&1
rm -rf "$dir"
"#;

/// A server of PostgreSQL of our own, stopped and its data removed when dropped, or when the test's process ends.
/// Its only role, `umsid`, may do everything and has no password.
pub struct PostgresServer {
    keeper: Child,
    /// Holds the socket.
    dir: PathBuf,
    databases: AtomicUsize,
}

impl PostgresServer {
    /// Why there can be none here, if that is so.
    pub fn missing() -> Option<String> {
        programs()
            .is_none()
            .then(|| "needs PostgreSQL's server (Debian: `apt-get install postgresql`)".to_owned())
    }

    /// The one server of this process, for whoever needs a database and not a server.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<PostgresServer>> = OnceLock::new();
        SHARED.get_or_init(|| programs().map(|_| Self::start())).as_ref()
    }

    /// Starts one.
    ///
    /// # Panics
    /// If it cannot be; see [`PostgresServer::missing`].
    pub fn start() -> Self {
        // Left to the keeper: a static is never dropped.
        let dir = TempDir::with_prefix("umsid-pg-").expect("a temporary directory").keep();
        if is_root() {
            std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).expect("the directory is given away");
        }
        let mut keeper = program("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&dir)
            .args(prefix())
            .env("PATH", path())
            .env("PGOPTIONS", "")
            .current_dir(&dir)
            // A terminal's Ctrl-C must not end who cleans up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut said = String::new();
        let out = keeper.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut said).expect("the keeper speaks");
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert_eq!(said.trim(), "ready", "no server:\n{log}");
        Self { keeper, dir, databases: AtomicUsize::new(0) }
    }

    /// The URL of a new, empty database.
    pub fn database(&self) -> String {
        let name = format!("state{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url("umsid", &name)
    }

    /// The URL of a database for this role.
    pub fn url(&self, role: &str, database: &str) -> String {
        let socket = self.dir.display().to_string().replace('/', "%2F");
        format!("postgres://{role}@{socket}/{database}")
    }

    /// Carries out statements in a database; what they give, a row a line.
    ///
    /// # Panics
    /// If one of them fails.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let mut psql = program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "umsid", "-d", database, "-h"]);
        let output = psql.arg(&self.dir).args(["-c", statements]).env("PATH", path()).output();
        said(&output.expect("psql"))
    }

    /// Stops it at once, as a crash would; connections end.
    pub fn stop(&self) {
        self.control(&["-m", "immediate", "stop"]);
    }

    /// Starts it again.
    pub fn start_again(&self) {
        self.control(&["-l", &self.dir.join("data/server.log").display().to_string(), "start"]);
    }

    fn control(&self, what: &[&str]) {
        let prefix = prefix();
        let mut control = program("env");
        control.args(&prefix).args(["pg_ctl", "-w", "-D"]).arg(self.dir.join("data")).args(what);
        // Not piped: the server would hold the pipe.
        let log = std::fs::File::options().append(true).open(self.dir.join("log")).expect("the log");
        control.env("PATH", path()).current_dir(&self.dir).stdin(Stdio::null());
        let status = control.stdout(log.try_clone().expect("twice")).stderr(log).status().expect("pg_ctl");
        assert!(status.success(), "{what:?}: {status}");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Its input ends: it does the rest.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a server that the test starts, and keeps an eye on itself")]
fn program(name: &str) -> Command {
    Command::new(name)
}

/// The directory of the newest server's programs.
fn programs() -> Option<PathBuf> {
    let versions = PLACES.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    found.sort();
    found.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    found.into_iter().rev().find(|place| place.join("initdb").is_file() && place.join("pg_ctl").is_file())
}

/// The search path with the server's programs first.
fn path() -> std::ffi::OsString {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let all = programs().into_iter().chain(std::env::split_paths(&usual));
    std::env::join_paths(all).expect("what was a path is one again")
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|found| std::os::unix::fs::MetadataExt::uid(&found) == 0)
}

/// What makes a command that of a user the server takes.
fn prefix() -> Vec<String> {
    if !is_root() {
        return vec!["env".into()];
    }
    let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
    vec!["setpriv".into(), user, group, "--clear-groups".into()]
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
