//! Starting servers and waiting for them; ending everything.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::{Doing as _, Lab, LabError};
use crate::description::Server;
use crate::process::{self, Ending};
use crate::service;
use crate::settings::{self, Settings, Start};
use crate::web;

/// How long a server of the lab may take until its health is `ok`, on top of what its settings ask for.
const HEALTHY: Duration = Duration::from_secs(30);

/// How long processes may take to end before they are killed.
const END: Duration = Duration::from_secs(2);

impl Lab {
    /// Starts or stops servers, all at the same time, by a process each: what it starts is then no child of ours.
    pub(super) fn control<'a>(
        &self,
        how: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<(), LabError> {
        let program = self.dir.bin().join(service::PROGRAM);
        std::thread::scope(|scope| {
            let calls: Vec<_> = names
                .map(|name| {
                    let arguments: [OsString; 3] =
                        [how.into(), "--server".into(), self.dir.server(name).path().into()];
                    let program = &program;
                    scope.spawn(move || run(program, &arguments).map(drop))
                })
                .collect();
            calls.into_iter().try_for_each(|call| match call.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    /// Waits until the health of these servers is `ok`, except where their settings say that it never will be.
    pub(super) fn wait_healthy(&self, servers: &[Server]) -> Result<(), LabError> {
        for server in servers {
            let directory = self.dir.server(&server.name);
            let settings = Settings::read(&directory)?;
            let extra = match settings.start {
                Start::Never | Start::Refuses | Start::DiesAfterMs(_) => continue,
                Start::AfterMs(ms) => ms,
                Start::Normal | Start::OldId => 0,
            };
            if settings.health != settings::Health::Ok {
                continue;
            }
            let waited = HEALTHY
                + Duration::from_millis(extra + settings.init_ms + settings.period_ms.saturating_mul(2));
            if !process::wait_until(waited, || is_ok(server.https_port)) {
                return Err(LabError::NotHealthy {
                    name: server.name.clone(),
                    waited,
                    logs: directory.logs(),
                });
            }
        }
        Ok(())
    }

    pub(super) fn end_processes(&self) {
        for pid in self.processes() {
            process::end(&self.dir, pid, Ending::Ask);
        }
        if !process::wait_until(END, || self.processes().is_empty()) {
            for pid in self.processes() {
                process::end(&self.dir, pid, Ending::Force);
            }
            process::wait_until(END, || self.processes().is_empty());
        }
    }
}

fn is_ok(port: u16) -> bool {
    web::get(port, "/ums/check-status", None, None)
        .is_ok_and(|(status, body)| status == 200 && body == r#"{"status":"ok"}"#)
}

pub(super) fn run(program: &Path, arguments: &[OsString]) -> Result<String, LabError> {
    let output = process::run(program, arguments).doing(format!("run {}", program.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(LabError::Program {
        program: program.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
