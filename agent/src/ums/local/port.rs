//! The port of the UMS web server, where none is configured. `ports list` tells it, but not everybody who looks has the turn
//! to call `umsadmin-cli`: it is kept for them, and for the agent that comes after this one.

use std::path::{Path, PathBuf};

use umsid_common::durable::{self, Access};

use super::super::installation::{self, WEB_PORT};
use super::LocalUms;
use crate::host::blocking;
use crate::state::read_json;

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("web-port.json")
}

/// The port that was found out last.
pub(super) fn kept(state_dir: &Path) -> Option<u16> {
    read_json(&file(state_dir)).unwrap_or_else(|error| {
        // It can be found out again.
        tracing::warn!(%error, "the port of the UMS web server is not known");
        None
    })
}

impl LocalUms {
    /// Asks for the port of the web server, where none is configured; `true` if that is news. For whoever has the turn and
    /// gets no answer on the port that is known: it may have been changed since.
    pub(super) async fn learn_port(&self) -> bool {
        if self.config.ums.web_port.is_some() || self.config.ums.health_url.is_some() {
            return false;
        }
        let Ok(program) = self.program() else { return false };
        let told = self.cli.ports(&program).await.ok();
        let Some(port) = told.and_then(|ran| installation::web_port_in(&ran.raw.stdout)) else {
            return false;
        };
        if self.memory().web_port.replace(port).unwrap_or(WEB_PORT) == port {
            return false;
        }
        tracing::info!(port, "found the port of the UMS web server");
        let (file, json) = (file(&self.config.state_dir), port.to_string());
        let kept = blocking(move || durable::replace(&file, json.as_bytes(), Access::Private)).await;
        if let Err(error) = kept {
            tracing::warn!(%error, "the port of the UMS web server is known to this agent only");
        }
        true
    }
}
