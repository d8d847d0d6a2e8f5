//! Services of Windows, as its service manager has them: looked at, started, stopped. The UMS Server's is one, the agent's
//! another.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use windows_service::service::{Service, ServiceAccess, ServiceExitCode, ServiceStartType, ServiceState};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

/// How often a service that is changing is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// So often a service that does not take an order is asked again: for two seconds.
const TRIES: u32 = 20;

/// ERROR_ACCESS_DENIED
const DENIED: i32 = 5;
/// ERROR_SERVICE_ALREADY_RUNNING
const ALREADY_RUNNING: i32 = 1056;
/// ERROR_SERVICE_DOES_NOT_EXIST
pub(crate) const NO_SUCH_SERVICE: i32 = 1060;
/// ERROR_SERVICE_CANNOT_ACCEPT_CTRL: it is starting or stopping just now.
const NOT_NOW: i32 = 1061;
/// ERROR_SERVICE_NOT_ACTIVE
const NOT_ACTIVE: i32 = 1062;

/// The service of this name.
pub(crate) fn open(name: impl AsRef<OsStr>, access: ServiceAccess) -> io::Result<Service> {
    let manager = ServiceManager::local_computer(None::<&OsStr>, ServiceManagerAccess::CONNECT);
    manager.and_then(|manager| manager.open_service(name, access)).map_err(io_error)
}

/// What Windows says, without the library's words around it.
pub(crate) fn io_error(error: windows_service::Error) -> io::Error {
    match error {
        windows_service::Error::Winapi(error) => error,
        other => io::Error::other(other),
    }
}

/// Whether it is about to be something else.
fn is_changing(state: ServiceState) -> bool {
    !matches!(state, ServiceState::Running | ServiceState::Stopped | ServiceState::Paused)
}

/// As `sc query` calls it.
pub(crate) fn describe(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Running => "RUNNING",
        ServiceState::Stopped => "STOPPED",
        ServiceState::StartPending => "START_PENDING",
        ServiceState::StopPending => "STOP_PENDING",
        ServiceState::ContinuePending => "CONTINUE_PENDING",
        ServiceState::PausePending => "PAUSE_PENDING",
        ServiceState::Paused => "PAUSED",
    }
}

/// A service, to be looked at, started, stopped.
pub(crate) struct Controlled {
    name: String,
    handle: Service,
    patience: Duration,
}

impl Controlled {
    /// The service of this name; one that is changing is waited for as long as `patience`.
    pub(crate) fn open(name: &str, access: ServiceAccess, patience: Duration) -> io::Result<Self> {
        let handle = open(name, access).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open the service {name}: {error}"))
        })?;
        Ok(Self { name: name.to_owned(), handle, patience })
    }

    fn failed(&self, doing: &str, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("cannot {doing} {}: {error}", self.name))
    }

    /// What it is doing.
    pub(crate) fn state(&self) -> io::Result<ServiceState> {
        let found = self.handle.query_status().map_err(io_error);
        found.map(|found| found.current_state).map_err(|error| self.failed("look at", &error))
    }

    /// Whether the system starts it.
    pub(crate) fn starts_with_the_system(&self) -> io::Result<bool> {
        let found = self.handle.query_config().map_err(io_error);
        let found = found.map_err(|error| self.failed("read the configuration of", &error))?;
        Ok(found.start_type == ServiceStartType::AutoStart)
    }

    /// Stops it, and comes back when it has stopped.
    pub(crate) fn stop(&self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        writeln!(out, "stopping {}", self.name)?;
        let mut tries = 0;
        loop {
            // One that is just starting takes no order to stop.
            let state = self.settled()?;
            if state == ServiceState::Stopped {
                return writeln!(out, "{} has stopped", self.name);
            }
            match self.handle.stop().map_err(io_error) {
                Ok(_) => {}
                Err(error) if [Some(NOT_NOW), Some(NOT_ACTIVE)].contains(&error.raw_os_error()) => {
                    std::thread::sleep(LOOK)
                }
                // Its process may be gone, and the service manager see that only with this.
                Err(error) if tries < TRIES && error.raw_os_error() != Some(DENIED) => tries += 1,
                Err(error) => return Err(self.failed("stop", &error)),
            }
            self.until(
                |state| !matches!(state, ServiceState::Running | ServiceState::Paused),
                Duration::from_secs(1),
            )?;
        }
    }

    /// Starts it, and comes back when it runs.
    pub(crate) fn start(&self, out: &mut (impl Write + ?Sized)) -> io::Result<()> {
        writeln!(out, "starting {}", self.name)?;
        self.settled()?;
        match self.handle.start(&[] as &[OsString]).map_err(io_error) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(ALREADY_RUNNING) => {}
            Err(error) => return Err(self.failed("start", &error)),
        }
        match self.settled()? {
            ServiceState::Running => writeln!(out, "{} is running", self.name),
            state => Err(self.failed("start", &io::Error::other(self.why(state)))),
        }
    }

    /// Its state, when it is about to change no more.
    fn settled(&self) -> io::Result<ServiceState> {
        let settled = self.until(|state| !is_changing(state), self.patience)?;
        let still =
            || Ok::<_, io::Error>(io::Error::other(format!("it is still {}", describe(self.state()?))));
        match settled {
            Some(state) => Ok(state),
            None => Err(self.failed("wait for", &still()?)),
        }
    }

    fn until(
        &self,
        wanted: impl Fn(ServiceState) -> bool,
        within: Duration,
    ) -> io::Result<Option<ServiceState>> {
        let begun = Instant::now();
        loop {
            let state = self.state()?;
            if wanted(state) {
                return Ok(Some(state));
            }
            if begun.elapsed() >= within {
                return Ok(None);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn why(&self, state: ServiceState) -> String {
        let code = self.handle.query_status().map(|found| found.exit_code);
        let code = match code {
            Ok(ServiceExitCode::Win32(0)) | Err(_) => String::new(),
            Ok(ServiceExitCode::Win32(code)) => {
                format!(": {}", io::Error::from_raw_os_error(code.cast_signed()))
            }
            Ok(ServiceExitCode::ServiceSpecific(code)) => format!(": it ended with {code}"),
        };
        format!("it is {}{code}", describe(state))
    }
}
