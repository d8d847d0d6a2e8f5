//! Starting and stopping the UMS Server of one server: what the init script and `umsadmin-cli server …` do.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use crate::layout::ServerDir;
use crate::process::{self, Ending};
use crate::store;

/// The program that is the UMS Server.
pub(crate) const PROGRAM: &str = "umsid-lab-server";

/// How long a start waits for the new process to be there.
const START: Duration = Duration::from_secs(10);

/// How long a stop waits before it kills.
const STOP: Duration = Duration::from_secs(20);

/// Why the service could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("cannot start or stop the UMS Server")]
    File(#[from] io::Error),
    #[error("The UMS Server ended while it started: see {}", .0.display())]
    Ended(std::path::PathBuf),
    #[error("The UMS Server does not stop")]
    DoesNotStop,
}

/// The process id of the UMS Server, if it runs.
pub(crate) fn running(server: &ServerDir) -> Option<u32> {
    #[cfg(windows)]
    if server.service_name().exists() {
        return crate::windows::running(server);
    }
    pid_in_file(server).filter(|&pid| process::is_ours(&server.lab(), pid))
}

/// Whether a pid file was left behind by a process that no longer runs.
pub(crate) fn left_pid_file(server: &ServerDir) -> bool {
    server.pid_file().exists() && running(server).is_none()
}

fn pid_in_file(server: &ServerDir) -> Option<u32> {
    fs::read_to_string(server.pid_file()).ok()?.trim().parse().ok()
}

/// Starts the UMS Server and returns as soon as its process is there: well before it is healthy. Does nothing when it
/// runs.
pub(crate) fn start(server: &ServerDir) -> Result<(), ServiceError> {
    store::locked(&server.service_lock(), || start_unlocked(server))?
}

/// Stops the UMS Server and waits for its end. Does nothing when it does not run.
pub(crate) fn stop(server: &ServerDir) -> Result<(), ServiceError> {
    store::locked(&server.service_lock(), || stop_unlocked(server))?
}

/// Stops, then starts.
pub(crate) fn restart(server: &ServerDir) -> Result<(), ServiceError> {
    store::locked(&server.service_lock(), || {
        stop_unlocked(server)?;
        start_unlocked(server)
    })?
}

fn start_unlocked(server: &ServerDir) -> Result<(), ServiceError> {
    #[cfg(windows)]
    if server.service_name().exists() {
        return Ok(crate::windows::start(server)?);
    }
    if running(server).is_some() {
        return Ok(());
    }
    // Neither is there after every end.
    let _ = fs::remove_file(server.pid_file());
    let _ = fs::remove_file(server.running_id());
    fs::create_dir_all(server.logs())?;
    // Cleared at every start, as since 12.02.130 (UMS_FACTS §4).
    let stdout = File::create(server.logs().join("stdout.log"))?;
    let stderr = File::create(server.logs().join("stderr.log"))?;
    let program = server.lab().bin().join(PROGRAM);
    let mut child =
        process::start(&program, &["run".as_ref(), "--server".as_ref(), server.path()], stdout, stderr)?;
    let mut ended = false;
    let there = process::wait_until(START, || {
        ended = child.try_wait().is_ok_and(|status| status.is_some());
        ended || pid_in_file(server) == Some(child.id())
    });
    // Ended after it wrote its pid file is a server that died early: the start itself was fine.
    if there && (!ended || server.pid_file().exists()) {
        Ok(())
    } else {
        Err(ServiceError::Ended(server.logs()))
    }
}

fn stop_unlocked(server: &ServerDir) -> Result<(), ServiceError> {
    #[cfg(windows)]
    if server.service_name().exists() {
        return Ok(crate::windows::stop(server)?);
    }
    let lab = server.lab();
    if let Some(pid) = running(server) {
        process::end(&lab, pid, Ending::Ask);
        if !process::wait_until(STOP, || !process::is_ours(&lab, pid)) {
            process::end(&lab, pid, Ending::Force);
            if !process::wait_until(STOP, || !process::is_ours(&lab, pid)) {
                return Err(ServiceError::DoesNotStop);
            }
        }
    }
    let _ = fs::remove_file(server.pid_file());
    Ok(())
}
