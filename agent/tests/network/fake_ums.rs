//! A UMS in memory: it has an id, makes and takes backups under a password, and can be stopped at chosen points.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use umsid_agent::ums::{Failed, Findings, Previous, Restart, Running, Started, Tell, Ums};
use umsid_common::digest::Fingerprint;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{
    Effect, Health, HealthStatus, RawOutput, Service, ServiceProcess, ServiceStatus, UmsIds,
};

pub(crate) fn print_of(id: &str) -> Fingerprint {
    Fingerprint::sha256_of(id.as_bytes())
}

/// A point at which the UMS waits as long as the gate is shut.
pub(crate) struct Gate {
    open: watch::Sender<bool>,
    reached: watch::Sender<u32>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: watch::Sender::new(true), reached: watch::Sender::new(0) }
    }
}

impl Gate {
    /// From now on; who passed before does not count as having reached it.
    pub(crate) fn shut(&self) {
        self.reached.send_replace(0);
        self.open.send_replace(false);
    }

    pub(crate) fn open(&self) {
        self.open.send_replace(true);
    }

    /// Returns when somebody stands before the gate, or has passed it.
    pub(crate) async fn reached(&self) {
        let reached = self.reached.subscribe().wait_for(|count| *count > 0).await.map(drop);
        reached.expect("the gate is there");
    }

    async fn pass(&self) {
        self.reached.send_modify(|count| *count += 1);
        self.open.subscribe().wait_for(|open| *open).await.expect("the gate is there");
    }
}

/// How often the UMS was asked to do something.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) back_up: AtomicU32,
    pub(crate) restore: AtomicU32,
    pub(crate) restart: AtomicU32,
    pub(crate) await_end: AtomicU32,
    pub(crate) await_restarted: AtomicU32,
}

pub(crate) struct State {
    /// This server's own UMS ID.
    pub(crate) local: String,
    pub(crate) main: String,
    pub(crate) version: String,
    /// Whether the evidence settles anything.
    pub(crate) tells: bool,
    pub(crate) process: ServiceProcess,
    pub(crate) status: ServiceStatus,
    pub(crate) health: HealthStatus,
    /// A restore has no effect, whatever it says.
    pub(crate) restore_lies: bool,
    /// What a restore puts into place instead of what is in the backup.
    pub(crate) restore_mixes_up: Option<String>,
    pub(crate) fail_restore: Option<Effect>,
    pub(crate) fail_restart: bool,
    /// Printed by every look at the UMS IDs.
    pub(crate) output: String,
}

pub(crate) type Watcher = Box<dyn Fn() + Send + Sync>;

pub(crate) struct FakeUms {
    pub(crate) state: Mutex<State>,
    pub(crate) counts: Counts,
    pub(crate) backing_up: Gate,
    /// Before a restore has its effect, its process known.
    pub(crate) restoring: Gate,
    /// Before a restore's process is known.
    pub(crate) before_restoring: Gate,
    /// Before a restart's program is known.
    pub(crate) before_restarting: Gate,
    pub(crate) restarting: Gate,
    pub(crate) recovering: Gate,
    /// What is asked at the moment a restore begins.
    pub(crate) at_restore: Mutex<Option<Watcher>>,
    /// Whether a restart that outlives the agent comes to its end when it is waited for.
    pub(crate) restarts_later: AtomicBool,
    /// Whether a program of an operation is still at work, of which nothing is on record.
    pub(crate) at_work: AtomicBool,
    /// What a restore that outlives the agent does when it is waited for.
    pub(crate) finishes_later: Mutex<Option<String>>,
    pub(crate) passwords: Mutex<Vec<String>>,
    /// How long a program that outlived the agent was waited for.
    pub(crate) patience: Mutex<Option<Duration>>,
}

fn process(number: u32) -> ServiceProcess {
    ServiceProcess { pid: number, started: Timestamp::from_second(i64::from(number)).unwrap() }
}

impl FakeUms {
    pub(crate) fn new(local: &str, main: &str) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                local: local.into(),
                main: main.into(),
                version: "12.09.110".into(),
                tells: true,
                process: process(1000),
                status: ServiceStatus::Running,
                health: HealthStatus::Ok,
                restore_lies: false,
                restore_mixes_up: None,
                fail_restore: None,
                fail_restart: false,
                output: String::new(),
            }),
            counts: Counts::default(),
            backing_up: Gate::default(),
            restoring: Gate::default(),
            before_restoring: Gate::default(),
            before_restarting: Gate::default(),
            restarting: Gate::default(),
            recovering: Gate::default(),
            at_restore: Mutex::default(),
            restarts_later: AtomicBool::default(),
            at_work: AtomicBool::default(),
            finishes_later: Mutex::default(),
            passwords: Mutex::default(),
            patience: Mutex::default(),
        })
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub(crate) fn local(&self) -> String {
        self.state.lock().unwrap().local.clone()
    }

    /// Another process runs from now on.
    pub(crate) fn replace_process(&self) {
        self.set(|state| state.process = process(state.process.pid + 1));
    }

    pub(crate) fn count(counter: &AtomicU32) -> u32 {
        counter.load(Ordering::SeqCst)
    }

    fn health() -> Health {
        Health {
            status: HealthStatus::Ok,
            source: "check-status".into(),
            detail: String::new(),
            ums_host: String::new(),
            ums_uuid: String::new(),
        }
    }
}

fn counted(counter: &AtomicU32) {
    counter.fetch_add(1, Ordering::SeqCst);
}

#[tonic::async_trait]
impl Ums for FakeUms {
    async fn look(&self, quick: bool) -> Findings {
        Findings {
            ums_version: self.version().await,
            ums_ids: if quick { UmsIds::default() } else { self.ids().await },
            service: self.service().await,
            health: Health { status: self.state.lock().unwrap().health, ..Self::health() },
            update_mode: Some(false),
            distributed: Some(true),
            license: String::new(),
            waited: Duration::from_millis(3),
            problems: Vec::new(),
        }
    }

    async fn version(&self) -> Option<String> {
        Some(self.state.lock().unwrap().version.clone())
    }

    async fn ids(&self) -> UmsIds {
        self.recovering.pass().await;
        let state = self.state.lock().unwrap();
        let print = |id: &str| state.tells.then(|| print_of(id));
        let raw = RawOutput { command: "list".into(), stdout: state.output.clone(), ..RawOutput::default() };
        UmsIds {
            local: print(&state.local),
            main: print(&state.main),
            raw: vec![raw],
            reason: "told by a fake".into(),
            ..UmsIds::default()
        }
    }

    async fn back_up(&self, into: &Path, password: &SecretString) -> Result<PathBuf, Failed> {
        counted(&self.counts.back_up);
        self.backing_up.pass().await;
        let password = password.expose_secret();
        self.passwords.lock().unwrap().push(password.to_owned());
        let path = into.join("ums-id.ksbak");
        let content = format!("{}\n{password}", self.local());
        umsid_common::durable::replace(&path, content.as_bytes(), umsid_common::durable::Access::Private)
            .unwrap();
        Ok(path)
    }

    async fn restore(
        &self,
        file: &Path,
        password: &SecretString,
        started: Started<'_>,
        _tell: Tell<'_>,
    ) -> Result<Vec<String>, Failed> {
        counted(&self.counts.restore);
        if let Some(watcher) = &*self.at_restore.lock().unwrap() {
            watcher();
        }
        self.before_restoring.pass().await;
        let content = std::fs::read_to_string(file).unwrap();
        let (id, expected) = content.split_once('\n').unwrap();
        (started.told)(Running { pid: 4242, started: Timestamp::from_second(7).unwrap() });
        self.restoring.pass().await;
        if expected != password.expose_secret() {
            let failure = Failure::new(Code::WrongPassword, "wrong password");
            return Err(Failed { failure, effect: Effect::None });
        }
        let mut state = self.state.lock().unwrap();
        if let Some(effect) = state.fail_restore {
            if effect == Effect::Possible && !state.restore_lies {
                state.local = id.to_owned();
            }
            return Err(Failed { failure: Failure::new(Code::CommandFailed, "exit status 1"), effect });
        }
        if !state.restore_lies {
            state.local = state.restore_mixes_up.clone().unwrap_or_else(|| id.to_owned());
        }
        Ok(vec!["a remark".into()])
    }

    async fn restart(
        &self,
        _deadline: Option<Duration>,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        counted(&self.counts.restart);
        let before = self.state.lock().unwrap().process;
        tell("restarting".into(), Some(Duration::from_secs(1)));
        self.before_restarting.pass().await;
        (started.told)(Running { pid: 4242, started: Timestamp::from_second(7).unwrap() });
        self.restarting.pass().await;
        if self.state.lock().unwrap().fail_restart {
            let failure = Failure::new(Code::NotHealthy, "it did not come back");
            return Err(Failed { failure, effect: Effect::Possible });
        }
        self.replace_process();
        let after = self.state.lock().unwrap().process;
        Ok(Restart { before: Some(before), after: Some(after), health: Self::health() })
    }

    async fn await_restarted(
        &self,
        before: Previous,
        _deadline: Option<Duration>,
        _tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        counted(&self.counts.await_restarted);
        let after = self.state.lock().unwrap().process;
        Ok(Restart { before: before.process, after: Some(after), health: Self::health() })
    }

    fn is_good(&self, status: HealthStatus) -> bool {
        status == HealthStatus::Ok
    }

    async fn service(&self) -> Service {
        let state = self.state.lock().unwrap();
        Service {
            control: "fake".into(),
            status: state.status,
            process: (state.status != ServiceStatus::Stopped).then_some(state.process),
            detail: String::new(),
        }
    }

    async fn at_work(&self, mark: &str) -> bool {
        assert!(mark.parse::<umsid_common::name::OperationId>().is_ok(), "{mark}");
        self.at_work.load(Ordering::SeqCst)
    }

    async fn is_running(&self, _program: Running) -> bool {
        false
    }

    async fn await_end(&self, program: Running, deadline: Duration) {
        *self.patience.lock().unwrap() = Some(deadline);
        assert_eq!((program.pid, program.started), (4242, Timestamp::from_second(7).unwrap()));
        counted(&self.counts.await_end);
        if let Some(id) = self.finishes_later.lock().unwrap().take() {
            self.state.lock().unwrap().local = id;
        }
        if self.restarts_later.swap(false, Ordering::SeqCst) {
            self.replace_process();
        }
    }
}
