//! What whoever manages the agent as a service is told, and how it is started as one.

use std::future::Future;
use std::path::Path;

use umsid_common::manager;

#[cfg(windows)]
pub mod windows;

#[cfg(windows)]
mod log;

/// Where packages and administrators put units.
const UNITS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Where there is no systemd.
const SCRIPT: &str = "/etc/init.d/umsid-agent";

/// What to type so that the agent of this host serves from now on.
pub fn how_to_start() -> &'static str {
    if cfg!(windows) {
        return "umsid-agent service install, then umsid-agent service start";
    }
    if Path::new("/run/systemd/system").is_dir() {
        if UNITS.iter().any(|dir| Path::new(dir).join("umsid-agent.service").exists()) {
            return "systemctl enable --now umsid-agent";
        }
    } else if Path::new(SCRIPT).exists() {
        return "/etc/init.d/umsid-agent start";
    }
    "`umsid-agent run`, or as a service of this host"
}

/// The agent listens.
pub fn ready() {
    #[cfg(windows)]
    windows::tell(windows::Phase::Running);
    manager::ready();
}

/// The agent was told to stop: an operation that is going on comes to its end.
pub fn stopping() {
    #[cfg(windows)]
    windows::tell(windows::Phase::Stopping);
    manager::stopping();
}

/// Tells again and again that the agent lives, as often as that is asked for; ends with what it is done for. A runtime whose
/// threads are all blocked tells nothing, and the agent is started again.
pub async fn lives_during<T>(what: impl Future<Output = T>) -> T {
    let Some(pulse) = manager::pulse() else { return what.await };
    let mut again = tokio::time::interval(pulse);
    let told = tokio::spawn(async move {
        loop {
            again.tick().await;
            manager::lives();
        }
    });
    let done = what.await;
    told.abort();
    done
}
