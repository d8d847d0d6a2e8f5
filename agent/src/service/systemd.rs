//! The systemd unit of the UMS Server (UMS_FACTS §4).

use std::time::Duration;

use umsid_proto::model::{Service, ServiceProcess, ServiceStatus};

use super::{ProcessSeeker, ServiceControl, ServiceError};
use crate::config::{CommandLine, Config};
use crate::exec::{self, ExecError, Program, Ran, Rules};
use crate::ums::Started;

/// The unit's usual name.
pub const USUAL: &str = "igel-ums-server";

/// What is asked of a unit; systemd 219 and all later ones know these.
const PROPERTIES: &[&str] = &["LoadState", "ActiveState", "SubState", "MainPID", "ControlGroup"];

/// The UMS Server, by systemd.
pub struct Systemd {
    unit: String,
    systemctl: CommandLine,
    prefix: Vec<String>,
    rules: Rules,
    deadline: Duration,
    look: Duration,
    seeker: ProcessSeeker,
}

/// What `systemctl show` says of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// "loaded", "not-found", "masked", "error"
    pub load: String,
    /// "active", "inactive", "failed", "activating", "deactivating", "reloading"
    pub active: String,
    /// As "running", "exited", "dead".
    pub sub: String,
    /// 0 where there is none, as for a unit made from an init script.
    pub main_pid: u32,
    /// As "/system.slice/igel-ums-server.service"; empty when stopped.
    pub control_group: String,
}

impl Shown {
    /// Understands `key=value` lines; unknown keys are passed over, missing ones stay empty.
    pub fn parse(text: &str) -> Self {
        let mut shown = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            match key {
                "LoadState" => value.clone_into(&mut shown.load),
                "ActiveState" => value.clone_into(&mut shown.active),
                "SubState" => value.clone_into(&mut shown.sub),
                "MainPID" => shown.main_pid = value.parse().unwrap_or(0),
                "ControlGroup" => value.clone_into(&mut shown.control_group),
                _ => {}
            }
        }
        shown
    }

    /// The service's state. A unit that is active although its program has ended, as one made from an init script may
    /// be, counts as running only if a process of it is there.
    pub fn status(&self, has_process: bool) -> ServiceStatus {
        match self.active.as_str() {
            "active" if self.sub == "exited" && !has_process => ServiceStatus::Stopped,
            "active" | "reloading" | "refreshing" => ServiceStatus::Running,
            "activating" | "deactivating" | "maintenance" => ServiceStatus::Changing,
            "inactive" | "failed" if self.load == "loaded" || self.load == "masked" => ServiceStatus::Stopped,
            _ => ServiceStatus::Unknown,
        }
    }
}

impl Systemd {
    /// The unit as configured or of the usual name.
    pub fn new(config: &Config, rules: Rules, seeker: ProcessSeeker) -> Self {
        let systemctl = exec::locate("systemctl").unwrap_or_else(|| "/usr/bin/systemctl".into());
        Self {
            unit: config.service.unit.clone().unwrap_or_else(|| USUAL.to_owned()),
            systemctl: CommandLine::program(&systemctl),
            prefix: config.service.prefix.clone(),
            rules,
            deadline: config.timeouts.service,
            look: config.timeouts.list,
            seeker,
        }
    }

    /// Whether systemd runs this host and knows the unit, or why not.
    ///
    /// # Errors
    /// The reason as a sentence.
    pub async fn is_known(&self) -> Result<(), String> {
        match self.show().await {
            Ok(shown) if shown.load == "loaded" => Ok(()),
            Ok(shown) => Err(format!("systemd unit {}: {}", self.unit, or(&shown.load, "not known"))),
            Err(error) => Err(format!("systemd: {error}")),
        }
    }

    async fn show(&self) -> Result<Shown, ExecError> {
        let command = self.systemctl.with(["show", "--no-pager"]);
        let command = PROPERTIES.iter().fold(command, |command, property| command.with(["-p", property]));
        let command = command.with(["--", &self.unit]);
        let ran = Program::new(command, &self.rules, self.look).run().await?.succeeded()?;
        Ok(Shown::parse(&ran.raw.stdout))
    }

    fn process(&self, shown: &Shown) -> Option<ServiceProcess> {
        if shown.main_pid != 0 {
            return exec::process_of(shown.main_pid);
        }
        self.seeker.among(&members(&shown.control_group))
    }

    async fn run(&self, verb: &'static str, started: Started<'_>) -> Result<(), ServiceError> {
        let command = self.systemctl.with([verb, "--", &self.unit]).behind(&self.prefix);
        let program = Program::new(command, &self.rules, self.deadline).survives().leaves_children();
        let failed = |source| ServiceError::Command { verb, control: self.name(), source };
        program.run_telling(started).await.and_then(Ran::succeeded).map(drop).map_err(failed)
    }
}

/// The processes of a control group, in either hierarchy.
fn members(control_group: &str) -> Vec<u32> {
    if control_group.is_empty() || control_group.contains("..") {
        return Vec::new();
    }
    ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"]
        .iter()
        .find_map(|root| std::fs::read_to_string(format!("{root}{control_group}/cgroup.procs")).ok())
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default()
}

fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

#[tonic::async_trait]
impl ServiceControl for Systemd {
    fn name(&self) -> String {
        format!("systemd {}", self.unit)
    }

    async fn status(&self) -> Service {
        let control = self.name();
        match self.show().await {
            Ok(shown) => {
                let process = self.process(&shown);
                let detail =
                    format!("{} ({}), {}", or(&shown.active, "?"), or(&shown.sub, "?"), or(&shown.load, "?"));
                Service { control, status: shown.status(process.is_some()), process, detail }
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
