//! What whoever manages this process as a service is told: that it is ready, that it lives, that it is stopping. Where nobody
//! has asked for that nobody is told.

use std::future::Future;
use std::path::Path;

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
    tell(State::Ready);
}

/// The agent was told to stop: an operation that is going on comes to its end.
pub fn stopping() {
    tell(State::Stopping);
}

/// Tells again and again that the agent lives, as often as that is asked for; ends with what it is done for. A runtime whose
/// threads are all blocked tells nothing, and the agent is started again.
pub async fn lives_during<T>(what: impl Future<Output = T>) -> T {
    let Some(patience) = watchdog() else { return what.await };
    // Half of it, as the documentation of the watchdog recommends.
    let mut again = tokio::time::interval((patience / 2).max(std::time::Duration::from_millis(1)));
    let told = tokio::spawn(async move {
        loop {
            again.tick().await;
            tell(State::Lives);
        }
    });
    let done = what.await;
    told.abort();
    done
}

#[derive(Clone, Copy, Debug)]
enum State {
    Ready,
    Lives,
    Stopping,
}

#[cfg(target_os = "linux")]
fn tell(state: State) {
    let notice = match state {
        State::Ready => sd_notify::NotifyState::Ready,
        State::Lives => sd_notify::NotifyState::Watchdog,
        State::Stopping => sd_notify::NotifyState::Stopping,
    };
    if let Err(error) = sd_notify::notify(&[notice]) {
        tracing::warn!(%error, ?state, "the service manager cannot be told");
    }
}

#[cfg(windows)]
fn tell(state: State) {
    windows::tell(match state {
        State::Ready => windows::Phase::Running,
        State::Lives => return,
        State::Stopping => windows::Phase::Stopping,
    });
}

#[cfg(target_os = "linux")]
fn watchdog() -> Option<std::time::Duration> {
    sd_notify::watchdog_enabled()
}

#[cfg(windows)]
fn watchdog() -> Option<std::time::Duration> {
    None
}
