//! The agent as a Windows service: installed, removed, started, stopped; and what the service manager calls.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use umsid_common::durable::{self, Access};
use umsid_windows::acl;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceControlAccept,
    ServiceErrorControl, ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo,
    ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};

use super::log;
use crate::config::{self, Config};
use crate::scm::{self, Controlled, LOOK, NO_SUCH_SERVICE, io_error};
use crate::server::Deadlines;

/// How long an operation that is going on may take to come to its end, and a little more for the rest.
fn stop_time() -> Duration {
    Deadlines::default().stop + Duration::from_secs(15)
}

/// What the service is called, and the source of its events.
pub const NAME: &str = "umsid-agent";

const DISPLAY_NAME: &str = "umsid agent";

const DESCRIPTION: &str =
    "Backs up and restores the UMS ID of the IGEL UMS Server on this host and restarts it, as umsid tells.";

/// Every key of the configuration, explained, at its default.
const TEMPLATE: &[u8] = include_bytes!("../../../deploy/config/agent.toml");

/// How long the agent may take to listen.
const START: Duration = Duration::from_secs(60);

/// ERROR_FAILED_SERVICE_CONTROLLER_CONNECT
const NOT_CALLED: i32 = 1063;
/// ERROR_SERVICE_MARKED_FOR_DELETE
const BEING_DELETED: i32 = 1072;

/// Whom no file belongs that a service runs: a name for each.
const EVERYBODY: [(&str, &str); 4] = [
    (acl::EVERYONE, "everyone"),
    ("S-1-5-11", "every user who has logged on"),
    ("S-1-5-32-545", "all users"),
    ("S-1-5-4", "every user at the console"),
];

/// Installs the service, or brings the one there is up to date: this program, with this configuration.
///
/// # Errors
/// If the configuration does not do, others may replace the program, or whoever asks is no administrator.
pub fn install(config: Option<&Path>, out: &mut impl Write) -> anyhow::Result<()> {
    let (path, found) = configuration(config)?;
    let program = std::env::current_exe().context("which program this is cannot be told")?;
    nobody_else_writes(&program)?;
    let mut arguments: Vec<OsString> = vec!["service".into(), "run".into()];
    if let Some(path) = path {
        arguments.extend(["--config".into(), path.into()]);
    }
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: DISPLAY_NAME.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: program,
        launch_arguments: arguments,
        dependencies: Vec::new(),
        // The system itself: restoring a UMS ID and restarting the UMS Server need no less.
        account_name: None,
        account_password: None,
    };
    let all = ServiceAccess::QUERY_STATUS | ServiceAccess::CHANGE_CONFIG | ServiceAccess::START;
    let (service, done) = match open(all)? {
        Some(service) => {
            service.change_config(&info).map_err(io_error).context("cannot change the service")?;
            (service, "is up to date")
        }
        None => {
            let manager = connect(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
            let made = manager.create_service(&info, all).map_err(io_error).map_err(by_administrators);
            (
                made.context("cannot create the service")?,
                "is installed, and is started with the system from now on",
            )
        }
    };
    furnish(&service).context("cannot set up the service")?;
    settle(config, &found.state_dir)?;
    log::register(NAME).context("cannot make the agent known to the event log")?;
    writeln!(out, "The service {NAME} {done}.")?;
    Ok(())
}

/// The agent's directory, before somebody else makes it; and in it, where no configuration was named, one to edit.
fn settle(named: Option<&Path>, state: &Path) -> anyhow::Result<()> {
    durable::private_dir(state)?;
    let standard = config::default_path();
    if named.is_none() && standard.parent() == Some(state) && !standard.exists() {
        durable::replace(&standard, TEMPLATE, Access::Private)?;
    }
    Ok(())
}

/// What else there is to say of the service.
fn furnish(service: &Service) -> io::Result<()> {
    service.set_description(DESCRIPTION).map_err(io_error)?;
    let restart = |seconds| ServiceAction {
        action_type: ServiceActionType::Restart,
        delay: Duration::from_secs(seconds),
    };
    let actions = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_secs(24 * 3600)),
        reboot_msg: None,
        command: None,
        // The last holds for all later failures too.
        actions: Some(vec![restart(5), restart(30), restart(60)]),
    };
    service.update_failure_actions(actions).map_err(io_error)?;
    // Also when it says itself that it cannot go on.
    optional("failure actions", service.set_failure_actions_on_non_crash_failures(true))?;
    optional("the time before a shutdown", service.set_preshutdown_timeout(stop_time()))
}

/// What an older or another Windows may not know (ERROR_INVALID_LEVEL) is done without.
fn optional(what: &str, done: windows_service::Result<()>) -> io::Result<()> {
    const UNKNOWN: i32 = 124;
    match done.map_err(io_error) {
        Err(error) if error.raw_os_error() == Some(UNKNOWN) => {
            tracing::warn!(what, "this system does not know that of a service");
            Ok(())
        }
        done => done,
    }
}

/// Stops and removes the service; what is in the state directory stays.
///
/// # Errors
/// If there is none, it does not stop, or whoever asks is no administrator.
pub fn uninstall(config: Option<&Path>, out: &mut impl Write) -> anyhow::Result<()> {
    let state = configuration(config).map(|(_, config)| config.state_dir);
    existing(ServiceAccess::QUERY_STATUS | ServiceAccess::STOP)?.stop(out)?;
    let service = open(ServiceAccess::DELETE)?.context("there is no such service any more")?;
    service.delete().map_err(io_error).context("cannot remove the service")?;
    drop(service);
    // It is gone when nobody has it open any more.
    let gone = within(stop_time(), || Ok(open(ServiceAccess::QUERY_STATUS)?.is_none()))?;
    ensure!(
        gone,
        "the service is marked for deletion, and goes when every program that looks at it is closed"
    );
    log::forget(NAME).context("the event log still knows the agent")?;
    writeln!(out, "The service {NAME} is removed.")?;
    if let Ok(state) = state {
        writeln!(out, "Enrolment, records and safety backups stay in {}.", state.display())?;
    }
    Ok(())
}

/// Starts the service and waits until the agent listens.
///
/// # Errors
/// If it does not come up, with where it says why.
pub fn start(out: &mut impl Write) -> anyhow::Result<()> {
    existing(ServiceAccess::QUERY_STATUS | ServiceAccess::START)?
        .start(out)
        .map_err(by_administrators)
        .with_context(|| {
            format!(
                "the service does not run: the event log says why (Windows Logs, Application, source {NAME})"
            )
        })
}

/// Stops the service and waits until it has stopped.
///
/// # Errors
/// If it does not.
pub fn stop(out: &mut impl Write) -> anyhow::Result<()> {
    existing(ServiceAccess::QUERY_STATUS | ServiceAccess::STOP)?.stop(out).map_err(by_administrators)
}

fn within(time: Duration, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        if done()? {
            return Ok(true);
        }
        if begun.elapsed() >= time {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
}

fn connect(access: ServiceManagerAccess) -> anyhow::Result<ServiceManager> {
    let manager = ServiceManager::local_computer(None::<&OsStr>, access).map_err(io_error);
    manager.map_err(by_administrators).context("cannot reach the service manager")
}

/// The service, if there is one.
fn open(access: ServiceAccess) -> anyhow::Result<Option<Service>> {
    match scm::open(NAME, access) {
        Ok(service) => Ok(Some(service)),
        Err(error) if [Some(NO_SUCH_SERVICE), Some(BEING_DELETED)].contains(&error.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(by_administrators(error)).context("cannot open the service"),
    }
}

fn existing(access: ServiceAccess) -> anyhow::Result<Controlled> {
    open(access)?.context("there is no such service; `umsid-agent service install` makes it")?;
    Ok(Controlled::open(NAME, access, START.max(stop_time()))?)
}

fn by_administrators(error: io::Error) -> anyhow::Error {
    let denied = error.kind() == io::ErrorKind::PermissionDenied;
    let error = anyhow::Error::from(error);
    if denied {
        error.context("administrators may: open the prompt with \"Run as administrator\"")
    } else {
        error
    }
}

/// The configuration and where it is; `None` where nothing was said about that: the standard one is read at every start.
fn configuration(path: Option<&Path>) -> anyhow::Result<(Option<PathBuf>, Config)> {
    let config = Config::load(path)?;
    // The service runs in another directory than whoever types this.
    let path =
        path.map(std::path::absolute).transpose().context("where the configuration is cannot be told")?;
    Ok((path, config))
}

/// Whoever may write what the system runs is the system.
fn nobody_else_writes(program: &Path) -> anyhow::Result<()> {
    for path in program.parent().into_iter().chain([program]) {
        let found =
            acl::access(path).with_context(|| format!("who may write {} cannot be told", path.display()))?;
        let other = EVERYBODY.iter().find(|(who, _)| found.writers.iter().any(|writer| writer == who));
        if let Some((_, who)) = other {
            bail!(
                "{who} may write {}: whoever does would be the system. Put the program where only administrators may write, \
                 as in C:\\Program Files\\umsid",
                path.display()
            );
        }
    }
    Ok(())
}

/// What the service manager is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It listens.
    Running,
    /// It was told to stop; what is going on may come to its end.
    Stopping,
}

/// The service manager of this service, while there is one.
static MANAGER: Mutex<Option<ServiceStatusHandle>> = Mutex::new(None);

/// What the agent does when it is called, and how it is told to stop.
type Work = Box<dyn Fn(&Config, Stop) -> anyhow::Result<()> + Send + Sync>;

/// Comes when the service manager says so.
pub type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Called {
    config: Config,
    work: Work,
    /// What came of it, for the exit code of the program.
    outcome: Mutex<Option<anyhow::Result<()>>>,
}

static CALLED: OnceLock<Called> = OnceLock::new();

define_windows_service!(service_main, be_the_service);

/// Is the service, until the service manager says stop or the work is done.
///
/// # Errors
/// If this was not called by the service manager, or the work fails.
pub fn serve(
    config: Option<&Path>,
    work: impl Fn(&Config, Stop) -> anyhow::Result<()> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let (_, config) = configuration(config).inspect_err(|error| log::fatal(NAME, error))?;
    log::to_file_and_event_log(NAME, &config);
    let called = CALLED.get_or_init(|| Called { config, work: Box::new(work), outcome: Mutex::new(None) });
    match service_dispatcher::start(NAME, service_main).map_err(io_error) {
        Err(error) if error.raw_os_error() == Some(NOT_CALLED) => {
            bail!(
                "this is what the service manager calls; by hand: umsid-agent service start, or umsid-agent run"
            )
        }
        started => started.context("the service manager does not answer")?,
    }
    called.outcome.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(Ok(()))
}

fn be_the_service(_: Vec<OsString>) {
    let Some(called) = CALLED.get() else { return };
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let handler = move |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => {
            // Nobody is left to be told if the agent has ended by itself.
            let _ = stop.send(true);
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    match service_control_handler::register(NAME, handler) {
        Ok(manager) => *MANAGER.lock().unwrap_or_else(PoisonError::into_inner) = Some(manager),
        Err(error) => {
            let error = anyhow::Error::from(io_error(error)).context("the service manager takes no handler");
            *called.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(Err(error));
            return;
        }
    }
    report(ServiceState::StartPending, START, ServiceExitCode::NO_ERROR);
    let stop: Stop = Box::pin(async move {
        // Without a sender there is no service manager any more.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    });
    let outcome = (called.work)(&called.config, stop);
    let code = match &outcome {
        Ok(()) => ServiceExitCode::NO_ERROR,
        Err(error) => {
            log::cannot_go_on(error);
            ServiceExitCode::ServiceSpecific(1)
        }
    };
    *called.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
    report(ServiceState::Stopped, Duration::ZERO, code);
}

/// Tells the service manager, if there is one.
pub(super) fn tell(phase: Phase) {
    match phase {
        Phase::Running => report(ServiceState::Running, Duration::ZERO, ServiceExitCode::NO_ERROR),
        Phase::Stopping => report(ServiceState::StopPending, stop_time(), ServiceExitCode::NO_ERROR),
    }
}

fn report(state: ServiceState, wait_hint: Duration, exit_code: ServiceExitCode) {
    let Some(manager) = *MANAGER.lock().unwrap_or_else(PoisonError::into_inner) else { return };
    let controls_accepted = match state {
        ServiceState::Running => {
            ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN | ServiceControlAccept::PRESHUTDOWN
        }
        // Whoever is told to stop while it starts stops as soon as it has started.
        ServiceState::StartPending => ServiceControlAccept::STOP,
        _ => ServiceControlAccept::empty(),
    };
    let status = ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted,
        exit_code,
        checkpoint: u32::from(matches!(state, ServiceState::StartPending | ServiceState::StopPending)),
        wait_hint,
        process_id: None,
    };
    if let Err(error) = manager.set_service_status(status) {
        tracing::warn!(error = %io_error(error), ?state, "the service manager cannot be told");
    }
}
