//! The UMS on this very host, by its own programs and files.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use umsid_common::digest::Fingerprint;
use umsid_common::durable::DurableError;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, HealthStatus, Service, ServiceProcess, ServiceStatus, UmsIds};

use super::admin_cli::AdminCli;
use super::health::{Address, Probe};
use super::identity::Words;
use super::installation::Installation;
use super::workspace::Workspace;
use super::{Failed, Findings, Previous, Restart, Running, Started, Tell, Ums};
use crate::config::{CommandLine, Config};
use crate::exec::{self, Rules};
use crate::service::{self, ServiceControl};

mod backup;
mod look;
mod port;
mod restart;
mod restore;

/// What keeps the agent from working with the UMS at all.
#[derive(Debug, thiserror::Error)]
pub enum LocalUmsError {
    /// The directory for passwords is not private.
    #[error("no private directory for short-lived files")]
    Workspace(#[from] DurableError),
}

/// The UMS on this host.
pub struct LocalUms {
    config: Config,
    cli: Arc<AdminCli>,
    workspace: Workspace,
    control: tokio::sync::OnceCell<Arc<dyn ServiceControl>>,
    memory: Mutex<Memory>,
}

/// What was learnt on the way.
#[derive(Default)]
struct Memory {
    /// The version whose `umsadmin-cli` has no `licensing export`; an empty one stands for an unknown version.
    without_export: Option<String>,
    /// The port `ports list` told, perhaps to an agent before this one.
    web_port: Option<u16>,
    /// The version the UMS told of itself, where its files do not.
    version: Option<String>,
    /// The name the UMS gives this server.
    host: String,
    /// This server's own UMS ID as last seen.
    local: Option<Fingerprint>,
}

impl LocalUms {
    /// With this configuration; left-overs of a crash are swept away.
    ///
    /// # Errors
    /// [`LocalUmsError::Workspace`] where passwords could be read by others.
    pub fn new(config: &Config) -> Result<Self, LocalUmsError> {
        let ums = Self::without_sweeping(config)?;
        let swept = ums.workspace.sweep();
        if swept > 0 {
            tracing::warn!(swept, "removed short-lived files that were left over");
        }
        Ok(ums)
    }

    /// For looking only, beside an agent that may be at work.
    pub(crate) fn without_sweeping(config: &Config) -> Result<Self, LocalUmsError> {
        Ok(Self {
            cli: Arc::new(AdminCli::new(Rules::of(config), config.timeouts.clone())),
            workspace: Workspace::open(&config.state_dir.join("ums"))?,
            control: tokio::sync::OnceCell::new(),
            memory: Mutex::new(Memory { web_port: port::kept(&config.state_dir), ..Memory::default() }),
            config: config.clone(),
        })
    }

    pub(crate) fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn installation(&self) -> Installation {
        Installation::find(&self.config)
    }

    /// How to run `umsadmin-cli`, found anew each time: an update may move it.
    fn program(&self) -> Result<CommandLine, Failure> {
        let found = self.installation().umsadmin_cli;
        found.value.ok_or_else(|| {
            Failure::new(Code::CommandMissing, format!("umsadmin-cli was not found: {}", found.how))
                .remedy("set ums.umsadmin_cli in the agent's configuration")
        })
    }

    /// What controls the service. What was found once is kept; what was not is looked for again.
    pub(crate) async fn control(&self) -> Result<&dyn ServiceControl, service::ServiceError> {
        let find = || async {
            let found = service::discover(&self.config, &self.installation(), &self.cli).await?;
            tracing::info!(control = found.name(), "found what controls the UMS Server");
            Ok(Arc::from(found))
        };
        self.control.get_or_try_init(find).await.map(AsRef::as_ref)
    }

    pub(crate) fn probe(&self) -> Probe {
        let configured = self.config.ums.health_url.as_ref().and_then(|url| Address::parse(url).ok());
        let port =
            self.config.ums.web_port.or(self.memory().web_port).unwrap_or(super::installation::WEB_PORT);
        Probe::new(configured.unwrap_or_else(|| Address::local(port)), self.config.health.probe_timeout)
    }

    /// Words and this server's names, for reading `licensing list`.
    pub(crate) fn words(&self) -> Words {
        let mut hosts = self.config.ums.host_names.clone();
        hosts.push(self.memory().host.clone());
        hosts.extend(sysinfo::System::host_name());
        let ums = &self.config.ums;
        Words::new(&ums.main_words, &ums.local_words, &ums.not_in_sync_words, &hosts)
    }

    async fn service_now(&self) -> Service {
        match self.control().await {
            Ok(control) => control.status().await,
            Err(error) => Service {
                control: "not found".to_owned(),
                status: ServiceStatus::Unknown,
                process: None,
                detail: error.to_string(),
            },
        }
    }
}

fn failed(failure: Failure, effect: Effect) -> Failed {
    Failed { failure, effect }
}

#[tonic::async_trait]
impl Ums for LocalUms {
    async fn look(&self, quick: bool) -> Findings {
        let since = Instant::now();
        let findings = self.findings(quick).await;
        Findings { waited: since.elapsed(), ..findings }
    }

    async fn version(&self) -> Option<String> {
        self.installation().version.value.or_else(|| self.memory().version.clone())
    }

    async fn ids(&self) -> UmsIds {
        self.read_ids().await
    }

    async fn back_up(&self, into: &Path, password: &SecretString) -> Result<PathBuf, Failed> {
        self.backup(into, password).await.map_err(|failure| failed(failure, Effect::None))
    }

    async fn restore(
        &self,
        file: &Path,
        password: &SecretString,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Vec<String>, Failed> {
        self.restore_from(file, password, started, tell).await
    }

    async fn restart(
        &self,
        deadline: Option<Duration>,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        self.restart_server(deadline, started, tell).await
    }

    async fn await_restarted(
        &self,
        before: Previous,
        deadline: Option<Duration>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        let until = Instant::now() + deadline.unwrap_or(self.config.health.deadline);
        self.healthy_again(before, until, tell).await
    }

    fn is_good(&self, status: HealthStatus) -> bool {
        self.config.health.is_good(status)
    }

    async fn service(&self) -> Service {
        self.service_now().await
    }

    async fn at_work(&self, mark: &str) -> bool {
        // Behind another program, as `sudo`, the environment is another one.
        let behind = self.program().is_ok_and(|program| !program.parts().1.is_empty());
        if behind || !self.config.service.prefix.is_empty() {
            return true;
        }
        let server = self.service_now().await.process;
        let other =
            |process: &ServiceProcess| server.is_none_or(|server| !exec::same_process(&server, process));
        exec::marked(mark).is_none_or(|marked| marked.iter().any(other))
    }

    async fn is_running(&self, program: Running) -> bool {
        exec::is_running(&exec::Process { pid: program.pid, started: program.started })
    }

    async fn await_end(&self, program: Running, deadline: Duration) {
        if !exec::await_end(program, deadline, self.config.timeouts.grace).await {
            tracing::error!(pid = program.pid, "could not be ended: it belongs to another user");
        }
        self.workspace.sweep();
    }
}
