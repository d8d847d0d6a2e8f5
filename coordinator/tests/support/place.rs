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
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use umsid_common::durable::{self, Access};
use umsid_lab::{Lab, Options};
use umsid_testkit::{free_port, scratch, wait_for_blocking};

/// Longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// The cluster every place has.
pub(crate) const CLUSTER: &str = "hamburg";

/// With this in the environment, the state of every place is in PostgreSQL.
pub(crate) const IN_POSTGRESQL: &str = "UMSID_TEST_IN_POSTGRESQL";

/// A lab with agents, and a coordinator that knows them.
pub(crate) struct Place {
    /// The UMS installation.
    pub(crate) lab: Lab,
    agents: RefCell<BTreeMap<String, Agent>>,
    /// The administrator's machine: `state/` is the state directory.
    pub(crate) dir: TempDir,
    /// The database of PostgreSQL that its state is in; `None`: it is in files.
    database: Option<String>,
}

/// How a place is to be.
pub(crate) struct Wanted {
    /// The lab.
    pub(crate) lab: Options,
    /// Put at the end of every agent's `[ums]`, as `verify = "x"` lines.
    pub(crate) ums: String,
    /// Whether the agents are enrolled and run.
    pub(crate) agents: bool,
    /// Servers whose agents are elsewhere than on the loopback of this machine.
    pub(crate) hosts: BTreeMap<String, Host>,
    /// The URL of the database the state is in, if not in files.
    pub(crate) state: Option<String>,
}

/// A host with a network of its own.
pub(crate) struct Host {
    /// Where the agent listens.
    pub(crate) listen: SocketAddr,
    /// The network namespace everything of this host runs in.
    pub(crate) network: PathBuf,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            lab: Options::default(),
            ums: String::new(),
            agents: true,
            hosts: BTreeMap::new(),
            state: None,
        }
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
        let Wanted { lab, ums, agents, hosts, state } = wanted;
        let lab = Lab::up(&lab).unwrap();
        let mut place = Self { lab, agents: RefCell::default(), dir: scratch(), database: None };
        place.begin_state(state);
        for server in place.lab.servers().to_vec() {
            place.configure(&server, &ums, hosts.get(&server.name));
        }
        if agents {
            place.enrol_agents();
        }
        place
    }

    /// In files, or in a database: one of its own where the whole program is to run with that.
    fn begin_state(&mut self, url: Option<String>) {
        let url = url.or_else(|| {
            std::env::var_os(IN_POSTGRESQL)?;
            let url = postgresql().database();
            self.database = url.rsplit_once('/').map(|(_, name)| name.to_owned());
            Some(url)
        });
        let shared = url.iter().flat_map(|url| ["--state", url]);
        self.umsid(&["init", "--name", "test"].into_iter().chain(shared).collect::<Vec<_>>()).exits(0);
    }

    /// All that is on record of runs is gone for good: here, or in the database of all administrators.
    pub(crate) fn lose_journal(&self) {
        match &self.database {
            Some(database) => drop(postgresql().sql(database, "TRUNCATE events, runs")),
            None => lose_journal(&self.state()),
        }
    }

    /// Enrols and starts the agent of every server.
    pub(crate) fn enrol_agents(&self) {
        std::thread::scope(|scope| {
            for server in self.lab.servers() {
                let (dir, name, site) = (self.dir.path(), &server.name, &server.site);
                scope.spawn(move || enrol(dir, name, site));
            }
        });
        for server in self.lab.servers() {
            self.start_agent(&server.name);
        }
    }

    /// Enrols a server again, whose agent does not run.
    pub(crate) fn enrol_again(&self, server: &str) {
        let (place, site) = (self.dir.path(), &self.lab.server(server).unwrap().site);
        enrol_with(&self.state(), CLUSTER, place, server, site, &["--again"]);
    }

    /// Enrols a server again, whose agent does not run, through the agent of another.
    pub(crate) fn enrol_through(&self, gateway: &str, server: &str) {
        let site = &self.lab.server(server).unwrap().site;
        let whom = [server, "--via", gateway, "--site", site, "--cluster", CLUSTER];
        enrol_as(&self.state(), self.dir.path(), server, &["--again"], &whom);
    }

    fn configure(&self, server: &umsid_lab::Server, ums: &str, host: Option<&Host>) {
        let dir = agent_dir(self.dir.path(), &server.name);
        std::fs::create_dir(&dir).unwrap();
        if let Some(host) = host {
            // For whoever starts a program of this host.
            let network = format!("--net={}", host.network.display());
            durable::replace(&dir.join("network"), network.as_bytes(), Access::Private).unwrap();
        }
        let listen =
            host.map_or_else(|| format!("127.0.0.1:{}", free_port()), |host| host.listen.to_string());
        let mut text = format!("listen = {listen:?}\nstate_dir = {:?}\n\n[ums]\n", dir.join("state"));
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
        umsid(state, &[], arguments)
    }

    /// Starts an `umsid` with this put into its environment, and lets it go: `-o json` is not added.
    pub(crate) fn begin(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Begun {
        Begun::new(&self.state(), environment, arguments)
    }

    /// The same with another state directory.
    pub(crate) fn begin_of(&self, state: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Begun {
        Begun::new(state, environment, arguments)
    }

    /// Begins an `umsid` that is watched: `-o json` is added, and every line of its output is an event.
    pub(crate) fn watch(&self, arguments: &[&str]) -> Watched {
        self.watch_with(&[], arguments)
    }

    /// The same with another state directory.
    pub(crate) fn watch_of(&self, state: &Path, arguments: &[&str]) -> Watched {
        Watched::begin(state, &[], arguments)
    }

    /// The same with this put into its environment.
    pub(crate) fn watch_with(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Watched {
        Watched::begin(&self.state(), environment, arguments)
    }

    /// Starts the agent of a server and waits until it listens.
    pub(crate) fn start_agent(&self, server: &str) {
        self.start_agent_with(server, &[]);
    }

    /// The same with this put into its environment.
    pub(crate) fn start_agent_with(&self, server: &str, environment: &[(&str, &str)]) {
        let agent = Agent::start(self.dir.path(), server, environment);
        self.agents.borrow_mut().insert(server.to_owned(), agent);
    }

    /// The process id of a server's agent.
    pub(crate) fn agent_pid(&self, server: &str) -> u32 {
        self.agents.borrow()[server].0.id()
    }

    /// Whether the agent of a server that was started has ended by itself since.
    pub(crate) fn agent_died(&self, server: &str) -> bool {
        let mut agents = self.agents.borrow_mut();
        let agent = agents.get_mut(server).expect("this agent was started");
        agent.0.try_wait().unwrap().is_some()
    }

    /// Divides a server's agent from now on: what has the network runs as this user, without rights, and the helper is
    /// root's. Needs root.
    pub(crate) fn divide(&self, server: &str, user: u32) -> Helper {
        self.kill_agent(server);
        let dir = self.agent_dir(server);
        for open in [self.dir.path(), &dir] {
            std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o711)).unwrap();
        }
        std::fs::set_permissions(dir.join("agent.toml"), std::fs::Permissions::from_mode(0o644)).unwrap();
        give(&dir.join("state"), user);
        std::fs::create_dir(dir.join("helper")).unwrap();
        std::fs::set_permissions(dir.join("helper"), std::fs::Permissions::from_mode(0o711)).unwrap();
        // Where it was built is perhaps not for everybody to see.
        // By another process: a program that this one has open for writing, or a fork of it, cannot be run.
        let copied = command(Path::new("cp")).arg(agent_program()).arg(dir.join("umsid-agent")).status();
        assert!(copied.unwrap().success());
        let helper = Helper::start(&dir, server);
        self.start_agent(server);
        helper
    }

    /// What a helper says that cannot listen there.
    pub(crate) fn helper_listens_at(&self, server: &str, socket: &Path) -> String {
        let dir = self.agent_dir(server);
        let output = command(&agent_program().with_file_name("umsid-helper"))
            .arg("--config")
            .arg(dir.join("agent.toml"))
            .arg("--socket")
            .arg(socket)
            .output()
            .unwrap();
        assert!(!output.status.success(), "it runs");
        String::from_utf8(output.stderr).unwrap()
    }

    /// What the agent of a divided one says when another user than its own starts it.
    pub(crate) fn runs_as(&self, user: u32, server: &str, socket: &Path) -> String {
        let dir = self.agent_dir(server);
        let output = command(&dir.join("umsid-agent"))
            .arg("--config")
            .arg(dir.join("agent.toml"))
            .arg("run")
            .arg("--helper")
            .arg(socket)
            .uid(user)
            .output()
            .unwrap();
        assert!(!output.status.success(), "it runs");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Where a server's agent has its configuration, its state and its log.
    pub(crate) fn agent_dir(&self, server: &str) -> PathBuf {
        agent_dir(self.dir.path(), server)
    }

    /// Enrols and starts the agent of a server of another place, one without agents, into another cluster of this one's
    /// coordinator.
    pub(crate) fn adopt(&self, other: &Self, server: &str, cluster: &str) {
        enrol_with(&self.state(), cluster, other.dir.path(), server, "elsewhere", &[]);
        other.start_agent(server);
    }

    /// Changes an agent's configuration and starts it again.
    pub(crate) fn reconfigure(&self, server: &str, change: impl FnOnce(&str) -> String) {
        let path = self.agent_dir(server).join("agent.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let changed = change(&text);
        assert_ne!(changed, text, "nothing to change");
        durable::replace(&path, changed.as_bytes(), Access::Private).unwrap();
        self.kill_agent(server);
        self.start_agent(server);
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
    enrol_with(&place.join("state"), CLUSTER, place, server, site, &[]);
}

fn enrol_with(state: &Path, cluster: &str, place: &Path, server: &str, site: &str, how: &[&str]) {
    let address = address(place, server);
    enrol_as(state, place, server, how, &[&address, "--name", server, "--site", site, "--cluster", cluster]);
}

/// The agent is told `how`, and the coordinator `whom`.
fn enrol_as(state: &Path, place: &Path, server: &str, how: &[&str], whom: &[&str]) {
    let config = agent_dir(place, server).join("agent.toml");
    let mut agent = on_host(place, server, &agent_program())
        .arg("--config")
        .arg(config)
        .arg("enroll")
        .args(how)
        .stdout(Stdio::piped())
        .stderr(log(place, server))
        .spawn()
        .unwrap();
    let mut code = String::new();
    BufReader::new(agent.stdout.take().expect("it is piped")).read_line(&mut code).unwrap();
    umsid(state, &[], &[&["enroll"], whom, &["--code", code.trim()]].concat()).exits(0);
    let status = wait_for_blocking("the agent to be enrolled", SOON, || agent.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

/// What an agent says, for whoever looks at a failed test with the directory kept.
fn log(place: &Path, server: &str) -> Stdio {
    let path = agent_dir(place, server).join("log");
    std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().into()
}

pub(crate) fn umsid(state: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_umsid"))
        .env("UMSID_STATE_DIR", state)
        .envs(environment.iter().copied())
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

/// A program as it runs on a server's host: in its network, if it has one of its own.
fn on_host(place: &Path, server: &str, program: &Path) -> std::process::Command {
    let Ok(network) = std::fs::read_to_string(agent_dir(place, server).join("network")) else {
        return command(program);
    };
    // It becomes the program: the process id is that one's.
    let mut nsenter = command(Path::new("nsenter"));
    nsenter.arg(network).arg(program);
    nsenter
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

/// The agent's own tests bring its program with them, and in a test of the whole workspace nothing it stands on is built with
/// other features than before.
fn build_agent(directory: &Path) {
    let mut cargo = command(Path::new(option_env!("CARGO").unwrap_or("cargo")));
    cargo.args(["test", "--quiet", "--no-run", "--workspace", "--test", "ums_config", "--manifest-path"]);
    cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"));
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
    fn start(place: &Path, server: &str, environment: &[(&str, &str)]) -> Self {
        let dir = agent_dir(place, server);
        let helper = dir.join("helper");
        // One whose state is another user's has no rights: it runs as that user, and has a helper.
        let owner = std::fs::metadata(dir.join("state")).unwrap().uid();
        let mut agent = match helper.exists() {
            true => command(&dir.join("umsid-agent")),
            false => on_host(place, server, &agent_program()),
        };
        agent.arg("--config").arg(dir.join("agent.toml")).arg("run");
        if helper.exists() {
            agent.uid(owner).arg("--helper").arg(helper.join("socket"));
        }
        let child = agent
            .envs(environment.iter().copied())
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

/// The half of an agent that has the rights.
pub(crate) struct Helper {
    child: Child,
    dir: PathBuf,
}

impl Helper {
    fn start(dir: &Path, server: &str) -> Self {
        let place = dir.parent().expect("an agent's directory is in its place");
        let child = command(&agent_program().with_file_name("umsid-helper"))
            .arg("--config")
            .arg(dir.join("agent.toml"))
            .arg("--state-dir")
            .arg(dir.join("helper/state"))
            .arg("--socket")
            .arg(dir.join("helper/socket"))
            .stdout(Stdio::null())
            .stderr(log(place, server))
            .spawn()
            .unwrap();
        let mut helper = Self { child, dir: dir.to_owned() };
        wait_for_blocking("the helper to listen", SOON, || {
            assert_eq!(helper.child.try_wait().unwrap(), None, "the helper of {server} ended");
            std::os::unix::net::UnixStream::connect(helper.socket()).ok()
        });
        helper
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("helper/socket")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, and starts another.
    pub(crate) fn dies_and_comes_back(&mut self, server: &str) {
        self.dies();
        *self = Self::start(&self.dir, server);
    }

    /// Ends it at once.
    pub(crate) fn dies(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // One that ended already needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes a directory another user's, with all that is in it.
fn give(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user);
        }
    }
}

/// An `umsid` at work that writes into files.
pub(crate) struct Begun {
    child: Child,
    output: TempDir,
}

impl Begun {
    fn new(state: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        let output = scratch();
        let file = |name| std::fs::File::create(output.path().join(name)).unwrap();
        let child = command(Path::new(env!("CARGO_BIN_EXE_umsid")))
            .env("UMSID_STATE_DIR", state)
            .envs(environment.iter().copied())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .unwrap();
        Self { child, output }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGINT, as Ctrl-C sends it.
    #[cfg(unix)]
    pub(crate) fn interrupt(&self) {
        interrupt(&self.child);
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// What it has said so far; its exit code if it has ended, and not by a signal.
    pub(crate) fn said(&mut self) -> Ran {
        let text = |name| std::fs::read_to_string(self.output.path().join(name)).unwrap_or_default();
        let (out, err) = (text("out"), text("err"));
        Ran { exit: self.ended().and_then(|status| status.code()), out, err }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // One that ended already needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn postgresql() -> &'static umsid_testkit::PostgresServer {
    umsid_testkit::PostgresServer::shared().expect("PostgreSQL is there")
}

/// What is in the journal of this state directory is gone for good.
pub(crate) fn lose_journal(state: &Path) {
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        // After a clean end the database is one file.
        let _ = std::fs::remove_file(state.join(file));
    }
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a process id"), rustix::process::Signal::INT).unwrap();
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
    fn begin(state: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        let scratch = scratch();
        let errors = scratch.path().join("stderr");
        let mut child = command(Path::new(env!("CARGO_BIN_EXE_umsid")))
            .env("UMSID_STATE_DIR", state)
            .envs(environment.iter().copied())
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

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
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
        interrupt(&self.child);
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
