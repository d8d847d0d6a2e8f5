//! A UMS that is called as a program, as the real one is: `umsid-fleet-ums`. What it costs to call it is measured along.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use umsid_agent::Config;
use umsid_agent::config::CommandLine;
use umsid_agent::exec::{Program, Ran, Rules};
use umsid_agent::ums::{Failed, Findings, Previous, Restart, Running, Started, Tell, Ums};
use umsid_common::durable::{self, Access};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, HealthStatus, RawOutput, Service, ServiceProcess, ServiceStatus, UmsIds};

use crate::ums::{Delays, print_of, well};

/// Longer than anything it is told to take.
const DEADLINE: Duration = Duration::from_secs(600);

/// One server's UMS, called as a program.
pub(crate) struct Called {
    program: PathBuf,
    dir: PathBuf,
    rules: Rules,
}

impl Called {
    /// Makes its directory.
    pub(crate) fn new(
        program: &Path,
        dir: &Path,
        local: &str,
        main: &str,
        delays: Delays,
        payload: usize,
    ) -> anyhow::Result<Self> {
        durable::private_dir(dir)?;
        let mut id = format!("{local}\n").into_bytes();
        id.resize(id.len().max(payload), 0);
        let delays = format!("{} {}\n", delays.call.as_millis(), delays.restart.as_millis());
        let files = [
            ("id", id),
            ("main", format!("{main}\n").into_bytes()),
            ("process", b"1000\n".to_vec()),
            ("delays", delays.into_bytes()),
        ];
        for (name, content) in files {
            durable::replace(&dir.join(name), &content, Access::Private)?;
        }
        let rules = Rules::of(&Config::default());
        Ok(Self { program: program.to_owned(), dir: dir.to_owned(), rules })
    }

    async fn call(&self, verb: &str, files: &[&Path], started: Option<Started<'_>>) -> Result<Ran, Failed> {
        let mut arguments = vec![verb.to_owned(), self.dir.display().to_string()];
        arguments.extend(files.iter().map(|file| file.display().to_string()));
        let command = CommandLine::program(&self.program).with(arguments.iter().map(String::as_str));
        let program = Program::new(command, &self.rules, DEADLINE).survives();
        let ran = match started {
            Some(started) => program.run_telling(started).await,
            None => program.run().await,
        };
        ran.and_then(Ran::succeeded)
            .map_err(|error| Failed { failure: error.into_failure(), effect: Effect::Possible })
    }

    fn process(&self) -> Option<ServiceProcess> {
        let pid: u32 = std::fs::read_to_string(self.dir.join("process")).ok()?.trim().parse().ok()?;
        Some(ServiceProcess { pid, started: Timestamp::UNIX_EPOCH + Duration::from_secs(u64::from(pid)) })
    }

    /// A password in a file beside the backup, removed with its directory.
    fn password(beside: &Path, password: &SecretString) -> Result<PathBuf, Failed> {
        let path = beside.with_file_name("password.txt");
        let failed = |error: io::Error| Failed {
            failure: Failure::new(Code::Internal, error.to_string()),
            effect: Effect::None,
        };
        drop(std::fs::remove_file(&path));
        let mut file = durable::create_private_file(&path).map_err(failed)?;
        file.write_all(password.expose_secret().as_bytes()).map_err(failed)?;
        Ok(path)
    }
}

#[tonic::async_trait]
impl Ums for Called {
    async fn look(&self, quick: bool) -> Findings {
        let begun = Instant::now();
        let ums_ids = if quick { UmsIds::default() } else { self.ids().await };
        Findings {
            ums_version: self.version().await,
            ums_ids,
            service: self.service().await,
            health: well(),
            update_mode: Some(false),
            distributed: Some(true),
            license: String::new(),
            waited: begun.elapsed(),
            problems: Vec::new(),
        }
    }

    async fn version(&self) -> Option<String> {
        Some("12.09.110".to_owned())
    }

    async fn ids(&self) -> UmsIds {
        let Ok(ran) = self.call("list", &[], None).await else { return UmsIds::default() };
        let after = |label: &str| {
            let line = ran.raw.stdout.lines().find_map(|line| line.strip_prefix(label));
            line.map(|id| print_of(id.trim()))
        };
        UmsIds {
            local: after("Local UMS ID:"),
            main: after("Main UMS ID:"),
            raw: vec![RawOutput { command: "licensing list".to_owned(), ..RawOutput::default() }],
            reason: "told by a program".to_owned(),
            ..UmsIds::default()
        }
    }

    async fn back_up(&self, into: &Path, password: &SecretString) -> Result<PathBuf, Failed> {
        let path = into.join("ums-id.ksbak");
        let password = Self::password(&path, password)?;
        self.call("backup", &[&path, &password], None).await?;
        Ok(path)
    }

    async fn restore(
        &self,
        file: &Path,
        password: &SecretString,
        started: Started<'_>,
        _tell: Tell<'_>,
    ) -> Result<Vec<String>, Failed> {
        let password = Self::password(file, password)?;
        self.call("restore", &[file, &password], Some(started)).await?;
        Ok(Vec::new())
    }

    async fn restart(
        &self,
        _deadline: Option<Duration>,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        let before = self.process();
        tell("restarting".to_owned(), None);
        self.call("restart", &[], Some(started)).await?;
        Ok(Restart { before, after: self.process(), health: well() })
    }

    async fn await_restarted(
        &self,
        before: Previous,
        _deadline: Option<Duration>,
        _tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        match self.process() {
            Some(after) if before.is_followed_by(&after) => {
                Ok(Restart { before: before.process, after: Some(after), health: well() })
            }
            _ => Err(Failed {
                failure: Failure::new(Code::NotHealthy, "it was not restarted"),
                effect: Effect::None,
            }),
        }
    }

    fn is_good(&self, status: HealthStatus) -> bool {
        status == HealthStatus::Ok
    }

    async fn service(&self) -> Service {
        Service {
            control: "program".to_owned(),
            status: ServiceStatus::Running,
            process: self.process(),
            detail: String::new(),
        }
    }

    async fn at_work(&self, _mark: &str) -> bool {
        false
    }

    async fn is_running(&self, _program: Running) -> bool {
        false
    }

    async fn await_end(&self, _program: Running, _deadline: Duration) {}
}
