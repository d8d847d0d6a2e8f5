//! The Windows form of a server: its UMS Server is a Windows service, as a real one is (UMS_FACTS §4), its `umsadmin-cli` a
//! program in the install directory, and a `.bat` that calls it.
//!
//! A Windows has one UMS Server at most, so a server of a lab is taken over by the Windows it is to run on.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use windows_service::service::{
    Service, ServiceAccess, ServiceControl, ServiceControlAccept, ServiceDependency, ServiceErrorControl,
    ServiceExitCode, ServiceInfo, ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};

use crate::layout::{PROGRAMS, SERVER_VARIABLE, ServerDir};
use crate::process;
use crate::settings::Settings;
use crate::store::{self, Access};

/// How long a service may take to stop or to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a service is to be.
#[derive(Debug, Clone)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Another service that has to run first.
    pub needs: Option<String>,
}

/// Makes this Windows the host of a server: lays its programs out and installs its UMS Server as a service. One that needs
/// another service is a bystander: it does nothing but run.
///
/// # Errors
///
/// When the service cannot be installed or the programs not be put there.
pub fn install(server: std::path::PathBuf, role: &Role) -> io::Result<()> {
    let server = ServerDir::new(server);
    let (bin, own) = (server.lab().bin(), std::env::current_exe()?);
    fs::create_dir_all(&bin)?;
    for name in PROGRAMS {
        let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        put(&own.with_file_name(&name), &bin.join(&name))?;
    }
    if role.needs.is_none() {
        let program = format!("umsadmin-cli{}", std::env::consts::EXE_SUFFIX);
        put(&bin.join(&program), &server.install().join("rmadmin").join(&program))?;
        // By where it lies: no code page can spoil that.
        let batch = format!(
            "@echo off\r\nsetlocal\r\nset \"{SERVER_VARIABLE}=%~dp0..\"\r\n\
             \"%~dp0..\\opt\\IGEL\\RemoteManager\\rmadmin\\{program}\" %*\r\nexit /b %ERRORLEVEL%\r\n"
        );
        store::replace(&server.umsadmin_cli_batch(), batch.as_bytes(), Access::Program)?;
        store::replace(&server.service_name(), role.name.as_bytes(), Access::Public)?;
    }
    let info = ServiceInfo {
        name: role.name.clone().into(),
        display_name: OsString::from(if role.needs.is_none() {
            "IGEL RMGUIServer"
        } else {
            "A bystander of IGEL RMGUIServer"
        }),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: bin.join(format!("{}{}", crate::service::PROGRAM, std::env::consts::EXE_SUFFIX)),
        launch_arguments: vec![
            "service".into(),
            "--name".into(),
            role.name.clone().into(),
            "--server".into(),
            server.path().into(),
        ],
        dependencies: role.needs.iter().map(|name| ServiceDependency::Service(name.into())).collect(),
        account_name: None,
        account_password: None,
    };
    let manager = connect(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
    manager.create_service(&info, ServiceAccess::QUERY_STATUS).map(drop).map_err(windows_error)
}

fn put(from: &std::path::Path, to: &std::path::Path) -> io::Result<()> {
    if to.exists() {
        return Ok(());
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

fn connect(access: ServiceManagerAccess) -> io::Result<ServiceManager> {
    ServiceManager::local_computer(None::<&OsStr>, access).map_err(windows_error)
}

fn windows_error(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        other => io::Error::other(other),
    }
}

/// The service a server's UMS Server is on this Windows.
fn service(server: &ServerDir, access: ServiceAccess) -> io::Result<Service> {
    let name = fs::read_to_string(server.service_name())?;
    connect(ServiceManagerAccess::CONNECT)?.open_service(name, access).map_err(windows_error)
}

/// The process id of the UMS Server, if it runs.
pub(crate) fn running(server: &ServerDir) -> Option<u32> {
    let status = service(server, ServiceAccess::QUERY_STATUS).ok()?.query_status().ok()?;
    status.process_id.filter(|pid| *pid != 0 && status.current_state != ServiceState::Stopped)
}

/// Starts the UMS Server and comes back when the service manager says that it runs. Does nothing when it does.
pub(crate) fn start(server: &ServerDir) -> io::Result<()> {
    const ALREADY_RUNNING: i32 = 1056;
    let service = service(server, ServiceAccess::QUERY_STATUS | ServiceAccess::START)?;
    match service.start(&[] as &[OsString]).map_err(windows_error) {
        Err(error) if error.raw_os_error() == Some(ALREADY_RUNNING) => {}
        done => done?,
    }
    until(&service, |state| state != ServiceState::StartPending);
    Ok(())
}

/// Stops the UMS Server and waits for its end. Does nothing when it does not run.
pub(crate) fn stop(server: &ServerDir) -> io::Result<()> {
    const NOT_ACTIVE: i32 = 1062;
    let service = service(server, ServiceAccess::QUERY_STATUS | ServiceAccess::STOP)?;
    match service.stop().map_err(windows_error) {
        Err(error) if error.raw_os_error() == Some(NOT_ACTIVE) => {}
        done => drop(done?),
    }
    match until(&service, |state| state == ServiceState::Stopped) {
        true => Ok(()),
        false => Err(io::Error::other("the service does not stop")),
    }
}

fn until(service: &Service, wanted: impl Fn(ServiceState) -> bool) -> bool {
    process::wait_until(PATIENCE, || service.query_status().is_ok_and(|found| wanted(found.current_state)))
}

/// What the service manager called this process for.
struct Called {
    server: ServerDir,
    name: String,
    bystander: bool,
}

static CALLED: OnceLock<Called> = OnceLock::new();

define_windows_service!(service_main, be_the_service);

/// Is the service until the service manager says stop.
///
/// # Errors
///
/// When the service manager has not called this process.
pub fn serve(server: std::path::PathBuf, name: &str) -> io::Result<()> {
    let server = ServerDir::new(server);
    let own = fs::read_to_string(server.service_name()).unwrap_or_default();
    let called = Called { bystander: own != name, name: name.to_owned(), server };
    let called = CALLED.get_or_init(|| called);
    service_dispatcher::start(&called.name, service_main).map_err(windows_error)
}

fn be_the_service(_: Vec<OsString>) {
    let Some(called) = CALLED.get() else { return };
    let (stop, stopped) = watch::channel(false);
    let handler = move |control| match control {
        ServiceControl::Stop | ServiceControl::Shutdown => {
            // A process that has just ended by itself needs no telling.
            let _ = stop.send(true);
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let Ok(manager) = service_control_handler::register(&called.name, handler) else { return };
    report(&manager, ServiceState::StartPending, ServiceExitCode::NO_ERROR);
    let pending = Settings::read(&called.server).map_or(0, |settings| settings.start_pending_ms);
    std::thread::sleep(Duration::from_millis(pending));
    report(&manager, ServiceState::Running, ServiceExitCode::NO_ERROR);
    let exit = if called.bystander {
        stand_by(&called.server, stopped)
    } else {
        crate::server::run_until(&called.server, stopped)
    };
    let code = match exit {
        Ok(0) => ServiceExitCode::NO_ERROR,
        Ok(code) => ServiceExitCode::ServiceSpecific(code.into()),
        Err(_) => ServiceExitCode::ServiceSpecific(1),
    };
    report(&manager, ServiceState::Stopped, code);
}

fn stand_by(server: &ServerDir, mut stopped: watch::Receiver<bool>) -> io::Result<u8> {
    store::append_line(&server.bystander(), "started")?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    // Without a sender there is nothing to wait for.
    let _ = runtime.block_on(stopped.wait_for(|stopped| *stopped));
    store::append_line(&server.bystander(), "stopped")?;
    Ok(0)
}

fn report(manager: &ServiceStatusHandle, state: ServiceState, exit_code: ServiceExitCode) {
    let takes_orders = state == ServiceState::Running;
    let status = ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: if takes_orders {
            ServiceControlAccept::STOP
        } else {
            ServiceControlAccept::empty()
        },
        exit_code,
        checkpoint: 0,
        wait_hint: PATIENCE,
        process_id: None,
    };
    // A service manager that is gone needs no telling.
    let _ = manager.set_service_status(status);
}
