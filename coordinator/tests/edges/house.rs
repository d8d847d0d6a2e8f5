//! A coordinator's state directory, and hosts with agents.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use umsid_agent::enroll::{EnrolError, Enrolling, Options};
use umsid_agent::server::StartError;
use umsid_agent::state::{Enrolment, StateError};
use umsid_agent::ums::{Failed, Findings, Previous, Restart, Running as Program, Started, Tell, Ums};
use umsid_agent::{Agent, Config};
use umsid_common::digest::Fingerprint;
use umsid_proto::model::{Health, HealthStatus, Service, ServiceProcess, ServiceStatus, UmsIds};
use umsid_testkit::{free_port, scratch, wait_for};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A coordinator.
pub(crate) struct House {
    pub(crate) dir: TempDir,
}

/// What one command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Makes sure of the exit code, and shows everything if it is another.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.exit, code, "\nstdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Makes sure that standard error says this.
    #[track_caller]
    pub(crate) fn says(self, what: &str) -> Self {
        assert!(self.err.contains(what), "{what:?} is not in:\n{}", self.err);
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in:\n{}", self.out))
    }
}

impl House {
    /// Without `umsid init`.
    pub(crate) fn empty() -> Self {
        Self { dir: scratch() }
    }

    pub(crate) fn new() -> Self {
        let house = Self::empty();
        house.umsid(&["init", "--name", "test", "--trust-domain", "lab"]).exits(0);
        house
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn umsid(&self, args: &[&str]) -> Ran {
        self.umsid_reading("", args)
    }

    /// Ended by force after this time, which fails the test.
    pub(crate) fn umsid_within(&self, limit: Duration, args: &[&str]) -> Ran {
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_umsid"))
            .env("UMSID_STATE_DIR", self.state())
            .args(args)
            .timeout(limit)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let (out, err) = (text(output.stdout), text(output.stderr));
        let exit = output.status.code().unwrap_or_else(|| panic!("{args:?} went on too long:\n{out}\n{err}"));
        Ran { exit, out, err }
    }

    /// With something on standard input.
    pub(crate) fn umsid_reading(&self, stdin: &str, args: &[&str]) -> Ran {
        let output = assert_cmd::Command::new(env!("CARGO_BIN_EXE_umsid"))
            .env("UMSID_STATE_DIR", self.state())
            .args(args)
            .write_stdin(stdin)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { exit: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Everything that must not change when something is refused.
    pub(crate) fn inventory(&self) -> String {
        std::fs::read_to_string(self.state().join("inventory.toml")).unwrap()
    }

    /// Enrols a host by code, as it should go.
    pub(crate) fn enrol(&self, host: &Host, name: &str) -> Enrolment {
        let waiting = host.waits(None);
        let (address, code) = (host.address(), waiting.code());
        self.umsid(&["enroll", &address, "--name", name, "--cluster", "hamburg", "--code", &code]).exits(0);
        waiting.enrolled().unwrap()
    }
}

/// A host with an agent.
pub(crate) struct Host {
    dir: TempDir,
    config: Config,
    ids: UmsIds,
}

impl Host {
    /// A host whose UMS has this Local UMS ID and takes `main` for the Main one.
    pub(crate) fn new(local: &str) -> Self {
        let dir = scratch();
        let config = Config {
            listen: SocketAddr::from(([127, 0, 0, 1], free_port())),
            state_dir: dir.path().join("agent"),
            ..Config::default()
        };
        let print = |text: &str| Some(Fingerprint::sha256_of(text.as_bytes()));
        let ids = UmsIds {
            local: print(local),
            main: print("main"),
            reason: "by a fake".into(),
            ..UmsIds::default()
        };
        Self { dir, config, ids }
    }

    /// The same at another address of the loopback.
    #[cfg(target_os = "linux")]
    pub(crate) fn at(mut self, address: [u8; 4]) -> Self {
        self.config.listen.set_ip(address.into());
        self
    }

    pub(crate) fn address(&self) -> String {
        self.config.listen.to_string()
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }

    /// A file on this host.
    pub(crate) fn copy(&self, file: &Path) -> PathBuf {
        let copy = self.dir.path().join(file.file_name().unwrap());
        std::fs::copy(file, &copy).unwrap();
        copy
    }

    /// `umsid-agent enroll --again [--join FILE]`
    pub(crate) fn waits(&self, join: Option<PathBuf>) -> Waiting {
        let runtime = runtime();
        let options = Options { join, again: true, ..Options::default() };
        let enrolling = runtime.block_on(async {
            wait_for("the state directory to be free", SOON, || async {
                match Enrolling::begin(&self.config, &options).await {
                    Err(EnrolError::State(StateError::InUse { .. })) => None,
                    begun => Some(begun.unwrap()),
                }
            })
            .await
        });
        let code = enrolling.code().map(ToOwned::to_owned);
        let (stop, stopped) = oneshot::channel::<()>();
        let outcome = runtime.spawn(enrolling.complete(async { drop(stopped.await) }));
        Waiting { outcome, _stop: stop, code, runtime }
    }

    /// `umsid-agent run`
    pub(crate) fn runs(&self) -> Running {
        let runtime = runtime();
        let (stop, stopped) = oneshot::channel::<()>();
        let agent = runtime.block_on(async {
            wait_for("the state directory to be free", SOON, || async {
                match Agent::bind(&self.config, Arc::new(FakeUms(self.ids.clone()))).await {
                    Err(StartError::State(StateError::InUse { .. })) => None,
                    bound => Some(bound.unwrap()),
                }
            })
            .await
        });
        runtime.spawn(agent.serve(async { drop(stopped.await) }));
        Running { _stop: stop, _runtime: runtime }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// An agent that waits to be enrolled.
pub(crate) struct Waiting {
    outcome: JoinHandle<Result<Enrolment, EnrolError>>,
    _stop: oneshot::Sender<()>,
    code: Option<String>,
    runtime: Runtime,
}

impl Waiting {
    pub(crate) fn code(&self) -> String {
        self.code.clone().unwrap()
    }

    /// Waits for the end.
    pub(crate) fn enrolled(self) -> Result<Enrolment, EnrolError> {
        let Self { outcome, _stop, runtime, .. } = self;
        runtime.block_on(async { tokio::time::timeout(SOON, outcome).await.unwrap().unwrap() })
    }
}

/// An agent at work; ends when dropped.
pub(crate) struct Running {
    _stop: oneshot::Sender<()>,
    _runtime: Runtime,
}

/// A UMS that can be looked at; nothing here changes it.
struct FakeUms(UmsIds);

const UNCALLED: &str = "nothing here changes a server";

#[tonic::async_trait]
impl Ums for FakeUms {
    async fn look(&self, _quick: bool) -> Findings {
        Findings {
            ums_version: Some("12.09.110".into()),
            ums_ids: self.0.clone(),
            service: self.service().await,
            health: Health {
                status: HealthStatus::Ok,
                source: "check-status".into(),
                detail: String::new(),
                ums_host: String::new(),
                ums_uuid: String::new(),
            },
            update_mode: Some(false),
            distributed: Some(true),
            license: String::new(),
            waited: Duration::ZERO,
            problems: Vec::new(),
        }
    }

    async fn version(&self) -> Option<String> {
        Some("12.09.110".into())
    }

    async fn ids(&self) -> UmsIds {
        self.0.clone()
    }

    async fn back_up(&self, _into: &Path, _password: &SecretString) -> Result<PathBuf, Failed> {
        unreachable!("{UNCALLED}")
    }

    async fn restore(
        &self,
        _file: &Path,
        _password: &SecretString,
        _started: Started<'_>,
        _tell: Tell<'_>,
    ) -> Result<Vec<String>, Failed> {
        unreachable!("{UNCALLED}")
    }

    async fn restart(
        &self,
        _deadline: Option<Duration>,
        _started: Started<'_>,
        _tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        unreachable!("{UNCALLED}")
    }

    async fn await_restarted(
        &self,
        _before: Previous,
        _deadline: Option<Duration>,
        _tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        unreachable!("{UNCALLED}")
    }

    fn is_good(&self, _status: HealthStatus) -> bool {
        unreachable!("{UNCALLED}")
    }

    async fn service(&self) -> Service {
        Service {
            control: "fake".into(),
            status: ServiceStatus::Running,
            process: Some(ServiceProcess { pid: 1, started: Timestamp::UNIX_EPOCH }),
            detail: String::new(),
        }
    }

    async fn at_work(&self, _mark: &str) -> bool {
        unreachable!("{UNCALLED}")
    }

    async fn is_running(&self, _program: Program) -> bool {
        unreachable!("{UNCALLED}")
    }

    async fn await_end(&self, _program: Program, _deadline: Duration) {}
}
