//! A UMS that is a few numbers in memory: it costs nothing, so that what is measured or tried is ours.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use umsid_agent::ums::{Failed, Findings, Previous, Restart, Running, Started, Tell, Ums};
use umsid_common::digest::Fingerprint;
use umsid_common::durable::{self, Access};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{
    Effect, Health, HealthStatus, RawOutput, Service, ServiceProcess, ServiceStatus, UmsIds,
};

/// How long the UMS of every server takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    /// For a backup, a restore, and for telling its UMS ID.
    pub call: Duration,
    /// For a restart.
    pub restart: Duration,
}

/// One server's UMS.
pub struct Paper {
    main: String,
    delays: Delays,
    /// Bytes a backup is padded to.
    payload: usize,
    state: Mutex<State>,
}

struct State {
    /// The UMS ID on its disk.
    local: String,
    process: u32,
    restarts: usize,
}

impl Paper {
    /// A UMS Server that holds `local` and calls `main` Main.
    pub(crate) fn new(local: &str, main: &str, delays: Delays, payload: usize) -> Arc<Self> {
        let state = Mutex::new(State { local: local.to_owned(), process: 1000, restarts: 0 });
        Arc::new(Self { main: main.to_owned(), delays, payload, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it holds the Main UMS ID.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.state().local == self.main
    }

    /// How often it was restarted.
    pub(crate) fn restarts(&self) -> usize {
        self.state().restarts
    }

    /// Its UMS ID becomes another.
    pub(crate) fn lose(&self, local: &str) {
        local.clone_into(&mut self.state().local);
    }

    fn process(&self) -> ServiceProcess {
        let pid = self.state().process;
        ServiceProcess { pid, started: Timestamp::UNIX_EPOCH + Duration::from_secs(u64::from(pid)) }
    }

    async fn called(&self) {
        if !self.delays.call.is_zero() {
            tokio::time::sleep(self.delays.call).await;
        }
    }

    fn failed(code: Code, what: impl Into<String>) -> Failed {
        Failed { failure: Failure::new(code, what), effect: Effect::None }
    }
}

pub(crate) fn print_of(id: &str) -> Fingerprint {
    Fingerprint::sha256_of(id.as_bytes())
}

pub(crate) fn well() -> Health {
    Health {
        status: HealthStatus::Ok,
        source: "check-status".to_owned(),
        detail: String::new(),
        ums_host: String::new(),
        ums_uuid: String::new(),
    }
}

/// The program that does it: none, in truth.
fn program() -> Running {
    Running { pid: 1, started: Timestamp::UNIX_EPOCH }
}

#[tonic::async_trait]
impl Ums for Paper {
    async fn look(&self, quick: bool) -> Findings {
        Findings {
            ums_version: self.version().await,
            ums_ids: if quick { UmsIds::default() } else { self.ids().await },
            service: self.service().await,
            health: well(),
            update_mode: Some(false),
            distributed: Some(true),
            license: String::new(),
            waited: self.delays.call,
            problems: Vec::new(),
        }
    }

    async fn version(&self) -> Option<String> {
        Some("12.09.110".to_owned())
    }

    async fn ids(&self) -> UmsIds {
        self.called().await;
        UmsIds {
            local: Some(print_of(&self.state().local)),
            main: Some(print_of(&self.main)),
            raw: vec![RawOutput { command: "licensing list".to_owned(), ..RawOutput::default() }],
            reason: "told by a UMS on paper".to_owned(),
            ..UmsIds::default()
        }
    }

    async fn back_up(&self, into: &Path, password: &SecretString) -> Result<PathBuf, Failed> {
        self.called().await;
        let path = into.join("ums-id.ksbak");
        let mut content = format!("{}\n{}\n", self.state().local, password.expose_secret()).into_bytes();
        content.resize(content.len().max(self.payload), 0);
        durable::replace(&path, &content, Access::Private)
            .map_err(|error| Self::failed(Code::CommandFailed, error.to_string()))?;
        Ok(path)
    }

    async fn restore(
        &self,
        file: &Path,
        password: &SecretString,
        started: Started<'_>,
        _tell: Tell<'_>,
    ) -> Result<Vec<String>, Failed> {
        (started.told)(program());
        self.called().await;
        let content = std::fs::read(file)
            .map_err(|error| Self::failed(Code::CommandFailed, format!("cannot read the backup: {error}")))?;
        let mut lines = content.split(|byte| *byte == b'\n').map(String::from_utf8_lossy);
        let (id, under) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        if under != password.expose_secret() {
            return Err(Self::failed(Code::WrongPassword, "the password does not open this backup"));
        }
        self.lose(&id);
        Ok(Vec::new())
    }

    async fn restart(
        &self,
        _deadline: Option<Duration>,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        let before = self.process();
        tell("restarting".to_owned(), None);
        (started.told)(program());
        if !self.delays.restart.is_zero() {
            tokio::time::sleep(self.delays.restart).await;
        }
        {
            let mut state = self.state();
            state.process += 1;
            state.restarts += 1;
        }
        Ok(Restart { before: Some(before), after: Some(self.process()), health: well() })
    }

    async fn await_restarted(
        &self,
        before: Previous,
        _deadline: Option<Duration>,
        _tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        let after = self.process();
        if before.is_followed_by(&after) {
            return Ok(Restart { before: before.process, after: Some(after), health: well() });
        }
        Err(Failed { failure: Failure::new(Code::NotHealthy, "it was not restarted"), effect: Effect::None })
    }

    fn is_good(&self, status: HealthStatus) -> bool {
        status == HealthStatus::Ok
    }

    async fn service(&self) -> Service {
        Service {
            control: "paper".to_owned(),
            status: ServiceStatus::Running,
            process: Some(self.process()),
            detail: String::new(),
        }
    }

    async fn at_work(&self, _mark: &str) -> bool {
        false
    }

    async fn is_running(&self, _program: Running) -> bool {
        false
    }

    async fn await_end(&self, _program: Running, _deadline: Duration) {}
}
