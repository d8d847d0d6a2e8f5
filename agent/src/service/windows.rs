//! The Windows service of the UMS Server (UMS_FACTS §4).
//!
//! What changes the service is done by a program of its own, as on other systems: this one, called with `control`. So it
//! goes on to its end when the agent is stopped in the middle.

use std::io::{self, Write};
use std::time::Duration;

use umsid_proto::model::{Service, ServiceProcess, ServiceStatus};
use windows_service::service::{ServiceAccess, ServiceState};
use winreg::RegKey;
use winreg::enums::HKEY_LOCAL_MACHINE;

use super::{ServiceControl, ServiceError};
use crate::config::{CommandLine, Config};
use crate::exec::{self, Program, Ran, Rules};
use crate::host::blocking;
use crate::scm::{Controlled, NO_SUCH_SERVICE, describe, io_error, open};
use crate::ums::Started;

/// The service's usual name.
pub const USUAL: &str = "IGELRMGUIServer";

/// Where Windows has what services are.
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";

/// What there is to do with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Verb {
    /// Start it, and those that need it and are started with the system.
    Start,
    /// Stop those that need it, and then it.
    Stop,
    /// Stop it and start it; whatever needed it and was running is started again too.
    Restart,
}

/// The UMS Server, by the service manager of Windows.
pub struct WindowsService {
    name: String,
    rules: Rules,
    deadline: Duration,
}

impl WindowsService {
    /// The service as configured or of the usual name.
    pub fn new(config: &Config, rules: Rules) -> Self {
        let name = config.service.name.clone().unwrap_or_else(|| USUAL.to_owned());
        Self { name, rules, deadline: config.timeouts.service }
    }

    /// Whether there is such a service, or why not.
    ///
    /// # Errors
    /// The reason as a sentence.
    pub async fn is_known(&self) -> Result<(), String> {
        let name = self.name.clone();
        blocking(move || look(&name)).await.map(drop).map_err(|error| {
            let why = if error.raw_os_error() == Some(NO_SUCH_SERVICE) {
                "not known".to_owned()
            } else {
                error.to_string()
            };
            format!("Windows service {}: {why}", self.name)
        })
    }

    async fn run(&self, verb: &'static str, started: Started<'_>) -> Result<(), ServiceError> {
        let failed = |source| ServiceError::Command { verb, control: self.name(), source };
        let us = std::env::current_exe().map_err(|source| {
            failed(exec::ExecError::Spawn { command: "umsid-agent control".to_owned(), source })
        })?;
        let command = CommandLine::program(&us).with(["control", verb, &self.name]);
        let program = Program::new(command, &self.rules, self.deadline).survives().leaves_children();
        program.run_telling(started).await.and_then(Ran::succeeded).map(drop).map_err(failed)
    }
}

#[tonic::async_trait]
impl ServiceControl for WindowsService {
    fn name(&self) -> String {
        format!("Windows service {}", self.name)
    }

    async fn status(&self) -> Service {
        let (control, name) = (self.name(), self.name.clone());
        match blocking(move || look(&name)).await {
            Ok((state, process)) => {
                Service { control, status: status(state), process, detail: describe(state).to_owned() }
            }
            Err(error) => {
                Service { control, status: ServiceStatus::Unknown, process: None, detail: error.to_string() }
            }
        }
    }

    async fn start(&self, started: Started<'_>) -> Result<(), ServiceError> {
        self.run("start", started).await
    }

    async fn stop(&self, started: Started<'_>) -> Result<(), ServiceError> {
        self.run("stop", started).await
    }

    async fn restart(&self, started: Started<'_>) -> Result<(), ServiceError> {
        self.run("restart", started).await
    }
}

fn status(state: ServiceState) -> ServiceStatus {
    match state {
        ServiceState::Running => ServiceStatus::Running,
        ServiceState::Stopped => ServiceStatus::Stopped,
        _ => ServiceStatus::Changing,
    }
}

/// Its state, and which process it is since when.
fn look(name: &str) -> io::Result<(ServiceState, Option<ServiceProcess>)> {
    let found = open(name, ServiceAccess::QUERY_STATUS)?.query_status().map_err(io_error)?;
    let pid = found.process_id.filter(|pid| *pid != 0);
    Ok((found.current_state, pid.and_then(exec::process_of)))
}

/// Starts or stops a service of this name and waits until that is done; each step is said. Nothing here ends by itself:
/// whoever runs this program has a deadline for it.
///
/// # Errors
/// Which service, and what Windows says of it.
pub fn control(verb: Verb, name: &str, out: &mut impl Write) -> io::Result<()> {
    let all = ServiceAccess::QUERY_STATUS | ServiceAccess::START | ServiceAccess::STOP;
    let service = Controlled::open(name, all, Duration::MAX)?;
    let before = needing(name)?;
    let was_running =
        |needing: &Controlled| needing.state().is_ok_and(|state| state != ServiceState::Stopped);
    let running: Vec<bool> = before.iter().map(was_running).collect();
    // What could be stopped last can be started first.
    let start_again = |out: &mut dyn Write, wanted: &dyn Fn(&Controlled) -> io::Result<bool>| {
        for (needing, running) in before.iter().zip(&running).rev() {
            if *running || wanted(needing)? {
                needing.start(out)?;
            }
        }
        Ok(())
    };
    if verb != Verb::Start {
        let mut to_stop = before.iter().zip(&running).filter(|(_, running)| **running);
        let stopped = to_stop.try_for_each(|(needing, _)| needing.stop(out)).and_then(|()| service.stop(out));
        if let Err(error) = stopped {
            // It runs on: so may they. That it does not stop is what there is to tell.
            let _ = start_again(out, &|_| Ok(false));
            return Err(error);
        }
    }
    if verb == Verb::Stop {
        return Ok(());
    }
    service.start(out)?;
    start_again(out, &|needing| Ok(verb == Verb::Start && needing.starts_with_the_system()?))
}

/// The services that need this one, in the order in which they can be stopped.
fn needing(name: &str) -> io::Result<Vec<Controlled>> {
    let access = ServiceAccess::QUERY_STATUS
        | ServiceAccess::QUERY_CONFIG
        | ServiceAccess::START
        | ServiceAccess::STOP;
    let services = RegKey::predef(HKEY_LOCAL_MACHINE).open_subkey(SERVICES)?;
    let mut all = Vec::new();
    for service in services.enum_keys() {
        let service = service?;
        // One without this value needs none.
        let needs: Vec<String> = services
            .open_subkey(&service)
            .and_then(|key| key.get_value("DependOnService"))
            .unwrap_or_default();
        if !needs.is_empty() {
            all.push((service, needs));
        }
    }
    in_order(name, &all).into_iter().map(|name| Controlled::open(name, access, Duration::MAX)).collect()
}

/// Of these services, each with those it needs, the ones that need this one, or one that does: none before one that needs it.
fn in_order<'a>(name: &str, all: &'a [(String, Vec<String>)]) -> Vec<&'a str> {
    fn visit<'a>(
        name: &str,
        all: &'a [(String, Vec<String>)],
        seen: &mut Vec<&'a str>,
        found: &mut Vec<&'a str>,
    ) {
        let needs_it = |needs: &[String]| needs.iter().any(|needed| needed.eq_ignore_ascii_case(name));
        for (service, _) in all.iter().filter(|(_, needs)| needs_it(needs)) {
            if !seen.contains(&service.as_str()) {
                seen.push(service);
                visit(service, all, seen, found);
                found.push(service);
            }
        }
    }
    let mut found = Vec::new();
    visit(name, all, &mut Vec::new(), &mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_stopped_before_one_that_needs_it() {
        let all = [("web", "ums"), ("watch", "web"), ("log", "UMS"), ("other", "disk"), ("ums", "disk")];
        let mut all: Vec<_> = all.map(|(name, needs)| (name.to_owned(), vec![needs.to_owned()])).into();
        assert_eq!(in_order("ums", &all), ["watch", "web", "log"]);
        assert_eq!(in_order("watch", &all), [""; 0]);
        // As nobody could install them, but anybody write them.
        all.push(("ums".to_owned(), vec!["watch".to_owned()]));
        assert_eq!(in_order("ums", &all).len(), 4);
    }

    #[test]
    fn what_is_installed_here_is_read() {
        assert!(needing("there is no such service").unwrap().is_empty());
    }
}
