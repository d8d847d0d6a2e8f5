//! What whoever manages this process as a service is told: that it is ready, that it lives, that it is stopping. Where nobody
//! has asked for that nobody is told.

use std::time::Duration;

/// It is at work.
pub fn ready() {
    tell(State::Ready);
}

/// It lives.
pub fn lives() {
    tell(State::Lives);
}

/// It was told to stop.
pub fn stopping() {
    tell(State::Stopping);
}

/// How often it is to be told that this lives: half of what is asked for, as the documentation of the watchdog recommends.
pub fn pulse() -> Option<Duration> {
    watchdog().map(|patience| (patience / 2).max(Duration::from_millis(1)))
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

#[cfg(not(target_os = "linux"))]
fn tell(state: State) {
    tracing::debug!(?state, "no service manager is told");
}

#[cfg(target_os = "linux")]
fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

#[cfg(not(target_os = "linux"))]
fn watchdog() -> Option<Duration> {
    None
}
