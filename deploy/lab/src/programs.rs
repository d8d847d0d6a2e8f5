//! What `umsadmin-cli` and `umsid-lab-server` do, without their command lines.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use crate::books::Call;
use crate::cli;
use crate::layout::{SERVER_VARIABLE, ServerDir};
use crate::service::{self, ServiceError};
use crate::settings::Settings;

pub use crate::cli::hold;

/// What to do with a UMS Server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start it and come back when its process is there.
    Start,
    /// Stop it and come back when its process is gone.
    Stop,
    /// Stop and start.
    Restart,
    /// Say whether it runs.
    Status,
}

/// The server whose program this is, by the environment, or by where the program lies: in an install directory.
///
/// # Errors
///
/// When the environment does not say.
pub fn server_from_environment() -> io::Result<PathBuf> {
    // A `.bat` names it by a way that goes up again.
    let whole = |path: OsString| std::path::absolute(&path).unwrap_or_else(|_| path.into());
    let by_name = std::env::var_os(SERVER_VARIABLE).map(whole);
    by_name.or_else(by_place).ok_or_else(|| {
        io::Error::other(format!(
            "{SERVER_VARIABLE} is not set: call the umsadmin-cli in the directory of a lab's server"
        ))
    })
}

fn by_place() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let server = program.ancestors().nth(5)?;
    (ServerDir::new(server).install().join("rmadmin") == program.parent()?).then(|| server.to_owned())
}

/// `umsadmin-cli` with these arguments, the program's name first. Gives the exit code.
///
/// # Errors
///
/// When the lab itself is broken.
pub fn umsadmin_cli(server: PathBuf, argv: &[OsString]) -> io::Result<u8> {
    cli::run(&ServerDir::new(server), argv)
}

/// The UMS Server itself, until it is told to stop. Gives the exit code.
///
/// # Errors
///
/// When the lab itself is broken.
pub fn run_server(server: PathBuf) -> io::Result<u8> {
    crate::server::run(&ServerDir::new(server))
}

/// Starts or stops the UMS Server. Gives an exit code as the Linux Standard Base has them for init scripts, and what
/// to say.
pub fn control(server: PathBuf, action: Action) -> (u8, String) {
    let server = ServerDir::new(server);
    match carry_out(&server, action) {
        Ok(answer) => answer,
        Err(error) => (1, error.to_string()),
    }
}

/// The init script: as [`control`], noted in the log of calls, and misbehaving as the settings say.
///
/// # Errors
///
/// When the lab itself is broken.
pub fn init_script(server: PathBuf, arguments: &[String]) -> io::Result<(u8, String)> {
    let server = ServerDir::new(server);
    let call = Call::begin(&server, "igelRMserver", arguments)?;
    let settings = Settings::read(&server).map_err(io::Error::other)?;
    let action = match arguments.first().map(String::as_str) {
        Some("start") => Some(Action::Start),
        Some("stop") => Some(Action::Stop),
        Some("restart" | "force-reload") => Some(Action::Restart),
        Some("status") => Some(Action::Status),
        _ => None,
    };
    let (exit, text) = match action {
        None => (2, "Usage: igelRMserver {start|stop|restart|status}".to_owned()),
        Some(action) => {
            let name = format!("init {}", arguments[0]);
            cli::before(&settings, &name);
            let result = if settings.fails.has(&name) {
                (1, "igelRMserver: failed".to_owned())
            } else if settings.exit_zero_no_effect.has(&name) {
                (0, "igelRMserver: done".to_owned())
            } else {
                control(server.path().to_owned(), action)
            };
            if result.0 == 0 {
                cli::after_effect(&settings, &name);
            }
            if settings.leaves_child.has(&name) {
                cli::leave_child(&server);
            }
            if settings.fails_after_effect.has(&name) {
                (1, "igelRMserver: failed".to_owned())
            } else {
                result
            }
        }
    };
    call.end(&server, exit.into())?;
    Ok((exit, text))
}

fn carry_out(server: &ServerDir, action: Action) -> Result<(u8, String), ServiceError> {
    match action {
        Action::Start => service::start(server)?,
        Action::Stop => service::stop(server)?,
        Action::Restart => service::restart(server)?,
        Action::Status => {
            return Ok(match service::running(server) {
                Some(pid) => (0, format!("igelRMserver is running (pid {pid})")),
                None if service::left_pid_file(server) => {
                    (1, "igelRMserver is dead, but its pid file exists".to_owned())
                }
                None => (3, "igelRMserver is stopped".to_owned()),
            });
        }
    }
    Ok((0, "igelRMserver: done".to_owned()))
}
