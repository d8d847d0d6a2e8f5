//! Restarting the UMS Server. The reply of whoever restarts it proves nothing: another process must be there, and then
//! it must be healthy several times in a row, for a minimum time.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, Health, HealthStatus, RawOutput, ServiceProcess, ServiceStatus};

use super::super::health::{Probation, Verdict, word};
use super::{Failed, LocalUms, Previous, Restart, Started, Tell, failed};
use crate::exec;
use crate::service::ServiceError;

/// The end of a log that goes along with a failure, in bytes.
const LOG_TAIL: u64 = 8 << 10;

/// How often a process that must appear or stay is looked at, where health is asked less often.
const LOOK: Duration = Duration::from_millis(100);

impl LocalUms {
    pub(super) async fn restart_server(
        &self,
        deadline: Option<Duration>,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        let until = Instant::now() + deadline.unwrap_or(self.config.health.deadline);
        let control = self.control().await.map_err(|error| failed(error.into_failure(), Effect::None))?;
        let before = control.status().await;
        let previous = Previous::now(before.process);
        tell(format!("restarting {}", control.name()), Some(self.config.timeouts.service));
        let done = match before.status {
            ServiceStatus::Stopped => control.start(started).await,
            _ => control.restart(started).await,
        };
        done.map_err(|error| failed(error.into_failure(), Effect::Possible))?;
        self.healthy_again(previous, until, tell).await
    }

    /// Waits until another process is there and healthy.
    pub(super) async fn healthy_again(
        &self,
        before: Previous,
        until: Instant,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        let possible = |failure| failed(failure, Effect::Possible);
        let after = self.another_process(before, until, tell).await.map_err(possible)?;
        let health = self.good_health(after, until, tell).await.map_err(possible)?;
        Ok(Restart { before: before.process, after: Some(after), health })
    }

    async fn another_process(
        &self,
        before: Previous,
        until: Instant,
        tell: Tell<'_>,
    ) -> Result<ServiceProcess, Failure> {
        let control = self.control().await.map_err(ServiceError::into_failure)?;
        let until = until.min(Instant::now() + self.config.timeouts.service);
        let mut told = false;
        loop {
            let service = control.status().await;
            if let Some(process) = service.process.filter(|process| before.is_followed_by(process)) {
                return Ok(process);
            }
            if Instant::now() >= until {
                let what = match service.process {
                    Some(process) => {
                        format!("the process before the restart, {}, is still there", process.pid)
                    }
                    None if service.status == ServiceStatus::Running => {
                        "the UMS Server runs, but which process it is was not found".to_owned()
                    }
                    None => format!(
                        "after the restart no process of the UMS Server is there ({})",
                        service.control
                    ),
                };
                let failure = Failure::new(Code::NotRestarted, what).raw(self.log_tail());
                return Err(match service.detail.is_empty() {
                    true => failure,
                    false => failure.remedy(service.detail),
                });
            }
            if !told {
                tell(
                    "waiting for the new process".to_owned(),
                    Some(until.saturating_duration_since(Instant::now())),
                );
                told = true;
            }
            tokio::time::sleep(self.config.health.interval.min(LOOK)).await;
        }
    }

    /// Good answers several times in a row, for the minimum time. Everything asked is asked of the new process, so a
    /// stored value of the old one cannot come; that a value is up to a minute old (UMS_FACTS §5) does no harm then. One
    /// that stays silent may answer on another port than the one that is known.
    async fn good_health(
        &self,
        process: ServiceProcess,
        until: Instant,
        tell: Tell<'_>,
    ) -> Result<Health, Failure> {
        let rules = &self.config.health;
        let mut probe = self.probe();
        let began = Instant::now();
        let mut ask_port_at = rules.fallback_after;
        let mut probation = Probation::new(rules);
        let mut said = String::new();
        loop {
            let health = probe.health(probation.may_fall_back(began.elapsed())).await;
            self.still_there(&process)?;
            if health.status == HealthStatus::Unreachable && began.elapsed() >= ask_port_at {
                if self.learn_port().await {
                    probe = self.probe();
                }
                ask_port_at = began.elapsed() + rules.fallback_after;
            }
            let left = until.saturating_duration_since(Instant::now());
            match probation.take(&health, began.elapsed(), left) {
                Verdict::Healthy => return Ok(health),
                Verdict::TooLate => return Err(self.not_healthy(&health)),
                Verdict::NotYet(text) if text == said => {}
                Verdict::NotYet(text) => {
                    tell(text.clone(), Some(left));
                    said = text;
                }
            }
            self.pause(rules.interval.min(left), &process).await?;
        }
    }

    /// Waits, but not for a process that has died.
    async fn pause(&self, interval: Duration, process: &ServiceProcess) -> Result<(), Failure> {
        let end = Instant::now() + interval;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(LOOK)).await;
            self.still_there(process)?;
        }
    }

    fn still_there(&self, process: &ServiceProcess) -> Result<(), Failure> {
        if exec::is_running(process) {
            return Ok(());
        }
        let what = format!("the new process, {}, has ended before it was healthy", process.pid);
        Err(Failure::new(Code::NotHealthy, what)
            .remedy(
                "read the UMS Server's log; a UMS ID that the licence does not cover keeps it from starting",
            )
            .raw(self.log_tail()))
    }

    fn not_healthy(&self, last: &Health) -> Failure {
        let detail = if last.detail.is_empty() { String::new() } else { format!(": {}", last.detail) };
        let what = format!(
            "the UMS Server was not healthy in time: the last answer was {}{detail}",
            word(last.status)
        );
        Failure::new(Code::NotHealthy, what)
            .remedy("the server was left running; read its log, and roll it back if its UMS ID is at fault")
            .raw(self.log_tail())
    }

    /// The end of the server's newest log, as if a program had printed it.
    fn log_tail(&self) -> RawOutput {
        let Some(dir) = self.installation().logs() else { return RawOutput::default() };
        let Some(file) = newest(&dir) else {
            return RawOutput {
                command: dir.display().to_string(),
                problem: "no log there".to_owned(),
                ..RawOutput::default()
            };
        };
        let (stdout, problem) = match tail(&file) {
            Ok(text) => (text, String::new()),
            Err(error) => (String::new(), error.to_string()),
        };
        RawOutput {
            command: format!("the end of {}", file.display()),
            stdout,
            problem,
            ..RawOutput::default()
        }
    }
}

fn newest(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let files = entries.filter_map(|entry| {
        let found = entry.metadata().ok().filter(|found| found.is_file() && found.len() > 0)?;
        Some((found.modified().ok()?, entry.path()))
    });
    files.max().map(|(_, path)| path)
}

fn tail(file: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
