//! The UMS Server's service: started, stopped, restarted, and which process it is since when, so that a restart counts
//! only when another process is there (UMS_FACTS §4).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Service, ServiceProcess, ServiceStatus};

use crate::config::{CommandLine, Config, ServiceKind};
use crate::exec::{self, ExecError, Rules};
use crate::ums::Started;
use crate::ums::admin_cli::AdminCli;
use crate::ums::installation::Installation;

pub mod command;
pub mod init_script;
pub mod systemd;
#[cfg(windows)]
pub mod windows;

/// A service that could not be queried, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The program that does it failed.
    #[error("cannot {verb} {control}")]
    Command {
        /// As "restart".
        verb: &'static str,
        /// As "systemd igel-ums-server".
        control: String,
        /// Why.
        #[source]
        source: ExecError,
    },
    /// Nothing on this host controls the service.
    #[error("nothing was found that controls the UMS Server: {0}")]
    NotFound(String),
}

impl ServiceError {
    /// For a caller on another machine, with the output.
    pub fn into_failure(self) -> Failure {
        let failure = Failure::of(Code::ServiceControl, &self);
        match self {
            Self::Command { source, .. } => failure.raw(source.raw()),
            Self::NotFound(_) => failure.remedy("set service.control in the agent's configuration"),
        }
    }
}

/// What starts, stops and knows the UMS Server.
#[tonic::async_trait]
pub trait ServiceControl: Send + Sync {
    /// What it is, as "systemd igel-ums-server".
    fn name(&self) -> String;
    /// The service as it is now; what cannot be found out is in [`Service::detail`].
    async fn status(&self) -> Service;
    /// Starts it. `started` is called with the program that does it.
    async fn start(&self, started: Started<'_>) -> Result<(), ServiceError>;
    /// Stops it.
    async fn stop(&self, started: Started<'_>) -> Result<(), ServiceError>;
    /// Stops and starts it. `started` is called with every program that is run for it.
    async fn restart(&self, started: Started<'_>) -> Result<(), ServiceError>;
}

/// Finds what controls the UMS Server: as configured, else the Windows service, the systemd unit, the init script,
/// `umsadmin-cli`.
///
/// # Errors
/// [`ServiceError::NotFound`] with everything that was looked at.
pub async fn discover(
    config: &Config,
    installation: &Installation,
    cli: &Arc<AdminCli>,
) -> Result<Box<dyn ServiceControl>, ServiceError> {
    let rules = Rules::of(config);
    let seeker = ProcessSeeker::new(config, installation);
    let mut looked = Vec::new();
    let wanted = |kind| config.service.control.is_none_or(|configured| configured == kind);

    #[cfg(windows)]
    if wanted(ServiceKind::WindowsService) {
        let service = windows::WindowsService::new(config, rules.clone());
        match service.is_known().await {
            Ok(()) => return Ok(Box::new(service)),
            Err(_) if config.service.control.is_some() => return Ok(Box::new(service)),
            Err(why) => looked.push(why),
        }
    }
    if cfg!(not(windows)) && wanted(ServiceKind::Systemd) {
        let unit = systemd::Systemd::new(config, rules.clone(), seeker.clone());
        match unit.is_known().await {
            Ok(()) => return Ok(Box::new(unit)),
            // A unit somebody named is used even if systemd does not know it now: its status says so.
            Err(_) if config.service.control.is_some() => return Ok(Box::new(unit)),
            Err(why) => looked.push(why),
        }
    }
    if cfg!(not(windows)) && wanted(ServiceKind::InitScript) {
        let script = config.service.script.clone().unwrap_or_else(|| PathBuf::from(init_script::USUAL));
        if config.service.control.is_some() || script.is_file() {
            return Ok(Box::new(init_script::control(&script, config, rules, seeker)));
        }
        looked.push(format!("no init script {}", script.display()));
    }
    if config.service.control == Some(ServiceKind::Command)
        && let (Some(start), Some(stop)) = (config.service.start.clone(), config.service.stop.clone())
    {
        let commands = command::Commands {
            start,
            stop,
            restart: config.service.restart.clone(),
            status: config.service.status.clone(),
        };
        return Ok(Box::new(command::Command::new(
            "command".to_owned(),
            commands,
            rules,
            config.timeouts.service,
            seeker,
        )));
    }
    if wanted(ServiceKind::UmsadminCli) {
        match &installation.umsadmin_cli.value {
            Some(program) => {
                return Ok(Box::new(AdminCliControl {
                    program: program.clone(),
                    cli: Arc::clone(cli),
                    seeker,
                }));
            }
            None => looked.push(format!("umsadmin-cli: {}", installation.umsadmin_cli.how)),
        }
    }
    Err(ServiceError::NotFound(looked.join("; ")))
}

/// Finds the UMS Server's process where the service manager does not tell.
#[derive(Clone, Debug)]
pub struct ProcessSeeker {
    pid_file: Option<PathBuf>,
    texts: Vec<String>,
}

impl ProcessSeeker {
    /// By the process id file if one is configured, else by the command line.
    pub fn new(config: &Config, installation: &Installation) -> Self {
        let server = installation
            .install_dir
            .value
            .as_ref()
            .map(|dir| dir.join("rmguiserver").to_string_lossy().into_owned());
        let texts = match &config.service.process {
            Some(text) => vec![text.clone()],
            None => server.into_iter().collect(),
        };
        Self { pid_file: config.service.pid_file.clone(), texts }
    }

    /// The process, if it runs, or why it was not found.
    pub fn find(&self) -> Result<Option<ServiceProcess>, String> {
        if let Some(file) = &self.pid_file {
            return by_file(file);
        }
        if self.texts.is_empty() {
            return Err(
                "neither service.pid_file nor service.process is set and no install directory is known"
                    .to_owned(),
            );
        }
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        Ok(exec::find_process(&texts))
    }

    /// Of these processes the server's: one with the expected command line, else the oldest.
    pub fn among(&self, pids: &[u32]) -> Option<ServiceProcess> {
        let texts: Vec<&str> = self.texts.iter().map(String::as_str).collect();
        let matching = exec::find_process(&texts).filter(|process| pids.contains(&process.pid));
        let oldest = || {
            pids.iter()
                .filter_map(|pid| exec::process_of(*pid))
                .min_by_key(|process| (process.started, process.pid))
        };
        matching.filter(|_| !texts.is_empty()).or_else(oldest)
    }
}

fn by_file(file: &Path) -> Result<Option<ServiceProcess>, String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{}: {error}", file.display())),
    };
    let pid = text.split_whitespace().next().unwrap_or_default();
    let pid = pid.parse().map_err(|_| format!("{} holds no process id", file.display()))?;
    Ok(exec::process_of(pid))
}

/// A service as its process shows it, where the service manager has nothing more to say.
fn by_process(control: String, found: Result<Option<ServiceProcess>, String>) -> Service {
    let (status, process, detail) = match found {
        Ok(Some(process)) => (ServiceStatus::Running, Some(process), String::new()),
        Ok(None) => (ServiceStatus::Stopped, None, String::new()),
        Err(why) => (ServiceStatus::Unknown, None, why),
    };
    Service { control, status, process, detail }
}

/// `umsadmin-cli server start|stop|restart` (UMS_FACTS §3).
struct AdminCliControl {
    program: CommandLine,
    cli: Arc<AdminCli>,
    seeker: ProcessSeeker,
}

impl AdminCliControl {
    fn failed(&self, verb: &'static str) -> impl FnOnce(ExecError) -> ServiceError {
        let control = self.name();
        move |source| ServiceError::Command { verb, control, source }
    }
}

#[tonic::async_trait]
impl ServiceControl for AdminCliControl {
    fn name(&self) -> String {
        "umsadmin-cli server".to_owned()
    }

    async fn status(&self) -> Service {
        by_process(self.name(), self.seeker.find())
    }

    async fn start(&self, started: Started<'_>) -> Result<(), ServiceError> {
        self.cli.server_start(&self.program, started).await.map(drop).map_err(self.failed("start"))
    }

    async fn stop(&self, started: Started<'_>) -> Result<(), ServiceError> {
        self.cli.server_stop(&self.program, started).await.map(drop).map_err(self.failed("stop"))
    }

    async fn restart(&self, started: Started<'_>) -> Result<(), ServiceError> {
        self.cli.server_restart(&self.program, started).await.map(drop).map_err(self.failed("restart"))
    }
}
