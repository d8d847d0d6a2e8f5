//! The value behind `/ums/check-status`: computed now and then, the stored one given in between (UMS_FACTS §5).

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::layout::ServerDir;
use crate::settings::{self, Settings};

/// `init` for longer than this becomes `err`.
const INIT_LIMIT: Duration = Duration::from_secs(120);

pub(super) struct Health {
    server: ServerDir,
    since: Instant,
    /// None: the status service is not reachable.
    stored: Mutex<Option<&'static str>>,
}

impl Health {
    pub(super) fn new(server: ServerDir) -> Self {
        Self { server, since: Instant::now(), stored: Mutex::new(Some("init")) }
    }

    /// The value as last computed.
    pub(super) fn stored(&self) -> Option<&'static str> {
        *self.stored.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Computes the value again and again.
    pub(super) async fn recompute(&self) -> std::convert::Infallible {
        loop {
            // A settings file that cannot be read now will be at the next look.
            let settings = Settings::read(&self.server).unwrap_or_default();
            let value = compute(&settings, self.since.elapsed());
            *self.stored.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = value;
            tokio::time::sleep(Duration::from_millis(settings.period_ms.max(1))).await;
        }
    }
}

fn compute(settings: &Settings, up: Duration) -> Option<&'static str> {
    let init = match settings.health {
        settings::Health::NotFound => return None,
        settings::Health::Init => true,
        _ => up < Duration::from_millis(settings.init_ms),
    };
    Some(match settings.health {
        _ if init && up > INIT_LIMIT => "err",
        _ if init => "init",
        settings::Health::Warn => "warn",
        settings::Health::Err => "err",
        _ => "ok",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(settings: &Settings, ms: u64) -> Option<&'static str> {
        compute(settings, Duration::from_millis(ms))
    }

    #[test]
    fn init_ends_and_too_long_an_init_is_an_error() {
        let settings = Settings { init_ms: 50, ..Settings::default() };
        assert_eq!(at(&settings, 49), Some("init"));
        assert_eq!(at(&settings, 50), Some("ok"));
        let stuck = Settings { health: settings::Health::Init, ..settings };
        assert_eq!(at(&stuck, 120_000), Some("init"));
        assert_eq!(at(&stuck, 120_001), Some("err"));
    }
}
