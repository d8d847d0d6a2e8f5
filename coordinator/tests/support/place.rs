//! A place to try the whole thing at: a lab, real agents beside its servers, and an administrator's state directory.
//!
//! ```ignore
//! let place = Place::new();                       // three servers, all in sync
//! place.lab.break_server("ums2")?;
//! place.umsid(&["sync", "--yes"]).exits(0);
//! ```
//!
//! Everything has its own directory and ports, and ends when the value is dropped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use umsid_lab::{Lab, Options};
use umsid_testkit::{scratch, wait_for_blocking};

/// Longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The cluster every place has.
pub(crate) const CLUSTER: &str = "hamburg";

/// A lab with agents, and a coordinator that knows them.
pub(crate) struct Place {
    /// The UMS installation.
    pub(crate) lab: Lab,
    agents: RefCell<BTreeMap<String, Agent>>,
    /// The administrator's machine: `state/` is the state directory.
    pub(crate) dir: TempDir,
}

/// How a place is to be.
pub(crate) struct Wanted {
    /// The lab.
    pub(crate) lab: Options,
    /// Put at the end of every agent's `[ums]`, as `verify = "x"` lines.
    pub(crate) ums: String,
    /// Whether the agents are enrolled and run.
    pub(crate) agents: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { lab: Options::default(), ums: String::new(), agents: true }
    }
}

impl Place {
    /// Three servers on two sites, all in sync, ums1 Main.
    pub(crate) fn new() -> Self {
        Self::with(Wanted::default())
    }

    /// The same with these servers out of sync, so that only a restored backup helps.
    pub(crate) fn broken(servers: &[&str]) -> Self {
        let place = Self::new();
        place.lab.break_servers(servers, umsid_lab::Break::Lasting).unwrap();
        place
    }

    /// As wanted.
    pub(crate) fn with(wanted: Wanted) -> Self {
        let Wanted { lab, ums, agents } = wanted;
        let lab = Lab::up(&lab).unwrap();
        let place = Self { lab, agents: RefCell::default(), dir: scratch() };
        place.umsid(&["init", "--name", "test"]).exits(0);
        for server in place.lab.servers().to_vec() {
            place.configure(&server, &ums);
        }
        if agents {
            std::thread::scope(|scope| {
                for server in place.lab.servers() {
                    let (dir, name, site) = (place.dir.path(), &server.name, &server.site);
                    scope.spawn(move || enrol(dir, name, site));
                }
            });
            for server in place.lab.servers() {
                place.start_agent(&server.name);
            }
        }
        place
    }

    fn configure(&self, server: &umsid_lab::Server, ums: &str) {
        let dir = agent_dir(self.dir.path(), &server.name);
        std::fs::create_dir(&dir).unwrap();
        let mut text =
            format!("listen = \"127.0.0.1:{}\"\nstate_dir = {:?}\n\n[ums]\n", free_port(), dir.join("state"));
        let _ = writeln!(text, "umsadmin_cli = {:?}", server.umsadmin_cli);
        let _ = writeln!(text, "install_dir = {:?}", server.install_dir);
        let _ = writeln!(text, "health_url = \"https://127.0.0.1:{}\"", server.https_port);
        let _ = writeln!(text, "host_names = [{:?}]\n{ums}", server.host);
        let _ = writeln!(text, "[service]\ncontrol = \"init-script\"\nscript = {:?}", server.init_script);
        let _ = writeln!(text, "pid_file = {:?}", server.pid_file);
        text.push_str(
            "[health]\nsuccesses = 2\nmin_time = \"20ms\"\ninterval = \"20ms\"\ndeadline = \"20s\"\n",
        );
        text.push_str(
            "fallback_after = \"5s\"\n[timeouts]\nlist = \"20s\"\nbackup = \"20s\"\nrestore = \"30s\"\n",
        );
        text.push_str("export = \"20s\"\nservice = \"20s\"\ngrace = \"200ms\"\n");
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(dir.join("agent.toml"))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .unwrap();
    }

    /// Where the state of `umsid` is.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Where a server's agent listens.
    pub(crate) fn address(&self, server: &str) -> String {
        address(self.dir.path(), server)
    }

    /// Runs `umsid` to its end.
    pub(crate) fn umsid(&self, arguments: &[&str]) -> Ran {
        self.umsid_of(&self.state(), arguments)
    }

    /// Runs `umsid` with another state directory.
    pub(crate) fn umsid_of(&self, state: &Path, arguments: &[&str]) -> Ran {
        umsid(state, arguments)
    }

    /// Begins an `umsid` that is watched: `-o json` is added, and every line of its output is an event.
    pub(crate) fn watch(&self, arguments: &[&str]) -> Watched {
        Watched::begin(&self.state(), arguments)
    }

    /// Starts the agent of a server and waits until it listens.
    pub(crate) fn start_agent(&self, server: &str) {
        let agent = Agent::start(self.dir.path(), server);
        self.agents.borrow_mut().insert(server.to_owned(), agent);
    }

    /// Enrols and starts the agent of a server of another place, one without agents, into another cluster of this one's
    /// coordinator.
    pub(crate) fn adopt(&self, other: &Self, server: &str, cluster: &str) {
        enrol_with(&self.state(), cluster, other.dir.path(), server, "elsewhere");
        other.start_agent(server);
    }

    /// Kills the agent of a server, as a crash would; what it had started goes on.
    pub(crate) fn kill_agent(&self, server: &str) {
        self.agents.borrow_mut().remove(server).expect("this agent runs");
    }

    /// How every server stands by `umsid status`, with its exit code.
    pub(crate) fn states(&self) -> BTreeMap<String, String> {
        let status = self.umsid(&["status", "-o", "json"]).json();
        let servers = status["clusters"][0]["servers"].as_array().expect("a list of servers").clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        servers.iter().map(|server| (text(&server["server"]), text(&server["state"]))).collect()
    }

    /// How often this sub-command of `umsadmin-cli` was called on a server.
    pub(crate) fn calls(&self, server: &str, sub_command: &str) -> usize {
        self.lab.calls(server).unwrap().iter().filter(|call| call.is(sub_command)).count()
    }

    /// Invariant 1, and that all servers run with the Main UMS ID: the end of every story with a happy one.
    #[track_caller]
    pub(crate) fn is_well(&self) {
        self.never_created();
        let truth = self.lab.truth().unwrap();
        assert!(truth.all_in_sync(), "{truth:#?}");
    }

    /// `licensing create` was never called.
    #[track_caller]
    pub(crate) fn never_created(&self) {
        for server in self.lab.servers() {
            assert_eq!(self.calls(&server.name, "licensing create"), 0, "on {}", server.name);
        }
    }

    /// How often each server was started so far.
    pub(crate) fn starts(&self) -> Vec<usize> {
        self.lab.truth().unwrap().servers.iter().map(|server| server.starts).collect()
    }

    /// The fingerprint of the UMS ID on a server's disk.
    pub(crate) fn fingerprint(&self, server: &str) -> String {
        self.lab.truth().unwrap().server(server).unwrap().fingerprint.clone()
    }
}

fn agent_dir(place: &Path, server: &str) -> PathBuf {
    place.join(format!("agent-{server}"))
}

fn address(place: &Path, server: &str) -> String {
    let text = std::fs::read_to_string(agent_dir(place, server).join("agent.toml")).unwrap();
    text.split('"').nth(1).expect("the address is the first string").to_owned()
}

/// As an administrator does it: the code the agent prints is given to `umsid enroll`.
fn enrol(place: &Path, server: &str, site: &str) {
    enrol_with(&place.join("state"), CLUSTER, place, server, site);
}

fn enrol_with(state: &Path, cluster: &str, place: &Path, server: &str, site: &str) {
    let config = agent_dir(place, server).join("agent.toml");
    let mut agent = command(&agent_program())
        .arg("--config")
        .arg(config)
        .arg("enroll")
        .stdout(Stdio::piped())
        .stderr(log(place, server))
        .spawn()
        .unwrap();
    let mut code = String::new();
    BufReader::new(agent.stdout.take().expect("it is piped")).read_line(&mut code).unwrap();
    let address = address(place, server);
    let arguments =
        ["enroll", &address, "--name", server, "--site", site, "--cluster", cluster, "--code", code.trim()];
    umsid(state, &arguments).exits(0);
    let status = wait_for_blocking("the agent to be enrolled", SOON, || agent.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

/// What an agent says, for whoever looks at a failed test with the directory kept.
fn log(place: &Path, server: &str) -> Stdio {
    let path = agent_dir(place, server).join("log");
    std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().into()
}

fn umsid(state: &Path, arguments: &[&str]) -> Ran {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_umsid"))
        .env("UMSID_STATE_DIR", state)
        .args(arguments)
        .timeout(SOON * 2)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { exit: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

#[expect(clippy::disallowed_methods, reason = "tests start the programs under test; exec.rs is one of them")]
fn command(program: &Path) -> std::process::Command {
    std::process::Command::new(program)
}

/// The agent's program, built if need be: `cargo test -p umsid` builds its library only.
fn agent_program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let directory = umsid_lab::binaries().unwrap();
        let program = directory.join(format!("umsid-agent{}", std::env::consts::EXE_SUFFIX));
        if !is_current(&program) {
            build_agent(&directory);
        }
        program
    });
    program.clone()
}

fn is_current(program: &Path) -> bool {
    let Ok(built) = std::fs::metadata(program).and_then(|found| found.modified()) else { return false };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate has a parent directory");
    let mut left: Vec<PathBuf> =
        ["agent/src", "common/src", "proto"].iter().map(|part| root.join(part)).collect();
    while let Some(path) = left.pop() {
        let found = std::fs::metadata(&path).unwrap();
        if found.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if found.modified().unwrap() > built {
            return false;
        }
    }
    true
}

fn build_agent(directory: &Path) {
    let mut cargo = command(Path::new(option_env!("CARGO").unwrap_or("cargo")));
    cargo.args(["build", "--quiet", "--package", "umsid-agent", "--bins", "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = directory.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    let built = cargo.output().unwrap();
    assert!(
        built.status.success(),
        "umsid-agent cannot be built:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
}

/// A port that is free, below those the operating system chooses by itself, so that an agent that is started again gets
/// it again.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 600).unwrap() * 10;
    loop {
        let port = 10_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 6_900;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What one command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Its exit code; `None`: a signal ended it.
    pub(crate) exit: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// Makes sure of the exit code, and shows everything if it is another.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.exit, Some(code), "\nstdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Makes sure that standard error says this.
    #[track_caller]
    pub(crate) fn says(self, what: &str) -> Self {
        assert!(self.err.contains(what), "{what:?} is not in:\n{}", self.err);
        self
    }

    /// Makes sure that standard output shows this.
    #[track_caller]
    pub(crate) fn shows(self, what: &str) -> Self {
        assert!(self.out.contains(what), "{what:?} is not in:\n{}", self.out);
        self
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|error| panic!("{error} in:\n{}\n{}", self.out, self.err))
    }

    /// The report a running command ends with.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        let last = self.out.lines().last().unwrap_or_default();
        let report: Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{error} in:\n{}", self.out));
        assert_eq!(report["event"], "report", "in:\n{}\n{}", self.out, self.err);
        report
    }
}

/// An agent that runs.
struct Agent(Child);

impl Agent {
    fn start(place: &Path, server: &str) -> Self {
        let config = agent_dir(place, server).join("agent.toml");
        let child = command(&agent_program())
            .arg("--config")
            .arg(config)
            .arg("run")
            .stdout(Stdio::null())
            .stderr(log(place, server))
            .spawn()
            .unwrap();
        let mut agent = Self(child);
        let address: SocketAddr = address(place, server).parse().unwrap();
        wait_for_blocking("the agent to listen", SOON, || {
            assert_eq!(agent.0.try_wait().unwrap(), None, "the agent of {server} ended");
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
        });
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // One that ended already needs no end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An `umsid` at work, watched by its events.
pub(crate) struct Watched {
    child: Child,
    events: Receiver<String>,
    /// All events so far.
    pub(crate) seen: Vec<Value>,
    errors: PathBuf,
    _scratch: TempDir,
}

impl Watched {
    fn begin(state: &Path, arguments: &[&str]) -> Self {
        let scratch = scratch();
        let errors = scratch.path().join("stderr");
        let mut child = command(Path::new(env!("CARGO_BIN_EXE_umsid")))
            .env("UMSID_STATE_DIR", state)
            .args(arguments)
            .args(["-o", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let (line, events) = channel();
        std::thread::spawn(move || {
            for text in out.lines().map_while(Result::ok) {
                if line.send(text).is_err() {
                    break;
                }
            }
        });
        Self { child, events, seen: Vec::new(), errors, _scratch: scratch }
    }

    /// What it said on standard error so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Waits for an event.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            match self.events.recv_timeout(SOON.saturating_sub(since.elapsed())) {
                Ok(line) => {
                    let event: Value =
                        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                    self.seen.push(event.clone());
                    if is_it(&event) {
                        return event;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let last = self.seen.iter().rev().take(5).map(ToString::to_string).collect::<Vec<_>>();
                    panic!(
                        "{what} never came; the last events, newest first:\n{}\n{}",
                        last.join("\n"),
                        self.said()
                    );
                }
            }
        }
    }

    /// Waits until a step of this kind, as `restore`, is begun on this server; `""`: on the cluster.
    #[track_caller]
    pub(crate) fn until_begun(&mut self, kind: &str, server: &str) -> Value {
        let wanted = if server.is_empty() { Value::Null } else { server.into() };
        self.until(&format!("{kind} on {server}"), |event| {
            event["event"] == "started" && event["do"] == kind && event["server"] == wanted
        })
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGINT, as Ctrl-C sends it.
    #[cfg(unix)]
    pub(crate) fn interrupt(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a process id"), rustix::process::Signal::INT).unwrap();
    }

    /// Waits for its end; the last event must be the report, and is given.
    #[track_caller]
    pub(crate) fn ends(mut self, code: i32) -> Value {
        let report = self.until("the report", |event| event["event"] == "report");
        let status = self.ended();
        assert_eq!(status.code(), Some(code), "{report:#}\n{}", self.said());
        report
    }

    /// Waits for its end, whatever it is.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_for_blocking("umsid to end", SOON, || self.child.try_wait().unwrap())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // One that ended already needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
