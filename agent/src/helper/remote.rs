//! The side that has no rights.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backon::{ConstantBuilder, Retryable as _};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::UnixStream;
use tokio_util::bytes::{Bytes, BytesMut};
use umsid_common::durable::{self, Access};
use umsid_common::name::OperationId;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, Health, HealthStatus, Service, ServiceStatus, UmsIds};

use super::{Answer, Ask, Line, Say};
use crate::config::{self, Config};
use crate::exec;
use crate::host::blocking;
use crate::ums::{Failed, Findings, Previous, Restart, Running, Started, Tell, Ums};

/// How long a helper may take to take up a call: systemd starts it first.
const REACHED: Duration = Duration::from_secs(30);

/// How often it is asked whether what another helper had begun is still at work.
const LOOK: Duration = Duration::from_millis(200);

/// The UMS of this host, through a helper.
pub struct RemoteUms {
    socket: PathBuf,
    health: config::Health,
    timeouts: config::Timeouts,
    largest_backup: u64,
}

/// No answer.
#[derive(Debug)]
struct Lost {
    /// Whether it may have been begun.
    begun: bool,
    failure: Failure,
}

/// What comes with a call that only looks.
const NOTHING: [Bytes; 0] = [];

impl RemoteUms {
    /// Through this socket. Processes are told as the helper tells them from now on.
    ///
    /// # Errors
    /// Where no helper answers there.
    pub async fn connect(socket: &Path, config: &Config) -> Result<Self, Failure> {
        let ums = Self {
            socket: socket.to_owned(),
            health: config.health.clone(),
            timeouts: config.timeouts.clone(),
            largest_backup: config.max_backup_bytes,
        };
        match ums.ask(&Ask::BootMoment).await.map_err(|lost| lost.failure)? {
            Answer::BootMoment(moment) => moment.into_iter().for_each(exec::take_boot_moment),
            other => return Err(unexpected(&other)),
        }
        Ok(ums)
    }

    async fn ask(&self, ask: &Ask) -> Result<Answer, Lost> {
        self.call(ask, NOTHING, &|_, _| {}, &|_| {}).await.map(|(answer, _)| answer)
    }

    async fn call(
        &self,
        ask: &Ask,
        along: impl IntoIterator<Item = Bytes> + Send,
        tell: Tell<'_>,
        told: &(dyn Fn(Running) + Send + Sync),
    ) -> Result<(Answer, Option<BytesMut>), Lost> {
        let reached = async {
            let mut line = Line::new(UnixStream::connect(&self.socket).await?, self.largest_backup);
            line.send(ask).await?;
            Ok::<_, io::Error>(line)
        };
        let reached = tokio::time::timeout(REACHED, reached).await;
        let mut line = reached.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|error| {
            let what = format!("the agent's helper does not answer at {}: {error}", self.socket.display());
            let failure = Failure::new(Code::CommandMissing, what)
                .remedy("on that server: `systemctl status umsid-helper.socket umsid-helper.service`");
            Lost { begun: false, failure }
        })?;
        let answered = async {
            for bytes in along {
                line.send_bytes(bytes).await?;
            }
            loop {
                match line.receive().await? {
                    Say::Doing { text, within } => tell(text, within),
                    Say::Started(running) => told(running),
                    Say::Done(answer) if matches!(*answer, Answer::BackedUp(Ok(()))) => {
                        return Ok((*answer, Some(line.receive_bytes().await?)));
                    }
                    Say::Done(answer) => return Ok((*answer, None)),
                }
            }
        };
        answered.await.map_err(|error: io::Error| Lost {
            begun: true,
            failure: Failure::new(Code::Interrupted, format!("the agent's helper broke off: {error}")),
        })
    }

    /// A helper that breaks off leaves at work what it had begun: that comes to its end before anything else is done.
    async fn await_begun(
        &self,
        asked: &Result<(Answer, Option<BytesMut>), Lost>,
        started: Started<'_>,
        patience: Duration,
        tell: Tell<'_>,
    ) {
        let (Err(Lost { begun: true, .. }), Ok(mark)) = (asked, started.mark.parse::<OperationId>()) else {
            return;
        };
        tell("waiting for what the helper had begun".to_owned(), Some(patience));
        let at_work = || async {
            match self.ask(&Ask::AtWork { mark: mark.clone() }).await {
                Ok(Answer::AtWork(false)) => Ok(()),
                Ok(_) => Err("it is still at work".to_owned()),
                // Another helper is started soon.
                Err(lost) => Err(lost.failure.to_string()),
            }
        };
        let again = ConstantBuilder::default().with_delay(LOOK).without_max_times();
        let ended = tokio::time::timeout(patience, at_work.retry(again)).await;
        if ended.is_err() {
            tracing::error!(%mark, "what a helper had begun may still be at work");
        }
    }
}

fn unexpected(answer: &Answer) -> Failure {
    Failure::new(
        Code::Internal,
        format!("the agent's helper answers something else than was asked: {answer:?}"),
    )
}

impl From<Lost> for Failed {
    fn from(lost: Lost) -> Self {
        Self { failure: lost.failure, effect: if lost.begun { Effect::Possible } else { Effect::None } }
    }
}

/// The answer that fits what was asked, or why there is none.
macro_rules! answer {
    ($asked:expr, $kind:path) => {
        match $asked {
            Ok($kind(answer)) => Ok(answer),
            Ok(other) => Err(Lost { begun: true, failure: unexpected(&other) }),
            Err(lost) => Err(lost),
        }
    };
}

#[tonic::async_trait]
impl Ums for RemoteUms {
    async fn look(&self, quick: bool) -> Findings {
        answer!(self.ask(&Ask::Look { quick }).await, Answer::Findings).unwrap_or_else(|lost| {
            let why = lost.failure.to_string();
            Findings {
                ums_version: None,
                ums_ids: UmsIds { reason: why.clone(), ..UmsIds::default() },
                service: no_service(why.clone()),
                health: Health {
                    status: HealthStatus::Unreachable,
                    source: String::new(),
                    detail: why.clone(),
                    ums_host: String::new(),
                    ums_uuid: String::new(),
                },
                update_mode: None,
                distributed: None,
                license: String::new(),
                waited: Duration::ZERO,
                problems: vec![why],
            }
        })
    }

    async fn version(&self) -> Option<String> {
        answer!(self.ask(&Ask::Version).await, Answer::Version).ok().flatten()
    }

    async fn ids(&self) -> UmsIds {
        answer!(self.ask(&Ask::Ids).await, Answer::Ids)
            .unwrap_or_else(|lost| UmsIds { reason: lost.failure.to_string(), ..UmsIds::default() })
    }

    async fn back_up(&self, into: &Path, password: &SecretString) -> Result<PathBuf, Failed> {
        let nothing = |failure| Failed { failure, effect: Effect::None };
        let asked = self.call(&Ask::BackUp, [of(password)], &|_, _| {}, &|_| {}).await;
        match asked.map_err(|lost| nothing(lost.failure))? {
            (Answer::BackedUp(Ok(())), Some(backup)) => {
                let path = into.join("ums-id.ksbak");
                let file = path.clone();
                let stored = blocking(move || durable::replace(&file, &backup, Access::Private)).await;
                stored.map_err(|error| {
                    let code = if error.is_disk_full() { Code::DiskFull } else { Code::Internal };
                    nothing(Failure::of(code, &error))
                })?;
                Ok(path)
            }
            (Answer::BackedUp(Err(failed)), _) => Err(failed),
            (other, _) => Err(nothing(unexpected(&other))),
        }
    }

    async fn restore(
        &self,
        file: &Path,
        password: &SecretString,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Vec<String>, Failed> {
        let backup = tokio::fs::read(file)
            .await
            .map_err(|error| Failed { failure: Failure::of(Code::Internal, &error), effect: Effect::None })?;
        let ask = Ask::Restore { mark: started.mark.parse().ok() };
        let asked = self.call(&ask, [of(password), backup.into()], tell, started.told).await;
        self.await_begun(&asked, started, self.timeouts.restore, tell).await;
        answer!(asked.map(|(answer, _)| answer), Answer::Restored)?
    }

    async fn restart(
        &self,
        deadline: Option<Duration>,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        let ask = Ask::Restart { deadline, mark: started.mark.parse().ok() };
        let asked = self.call(&ask, NOTHING, tell, started.told).await;
        self.await_begun(&asked, started, self.timeouts.service, tell).await;
        answer!(asked.map(|(answer, _)| answer), Answer::Restarted)?
    }

    async fn await_restarted(
        &self,
        before: Previous,
        deadline: Option<Duration>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed> {
        let asked = self.call(&Ask::AwaitRestarted { before, deadline }, NOTHING, tell, &|_| {}).await;
        answer!(asked.map(|(answer, _)| answer), Answer::Restarted)?
    }

    fn is_good(&self, status: HealthStatus) -> bool {
        self.health.is_good(status)
    }

    async fn service(&self) -> Service {
        answer!(self.ask(&Ask::Service).await, Answer::Service)
            .unwrap_or_else(|lost| no_service(lost.failure.to_string()))
    }

    async fn at_work(&self, mark: &str) -> bool {
        let Ok(mark) = mark.parse() else { return true };
        // Where it cannot be seen, something may be.
        answer!(self.ask(&Ask::AtWork { mark }).await, Answer::AtWork).unwrap_or(true)
    }

    async fn is_running(&self, program: Running) -> bool {
        answer!(self.ask(&Ask::IsRunning { program }).await, Answer::IsRunning).unwrap_or(true)
    }

    async fn await_end(&self, program: Running, deadline: Duration) {
        match self.ask(&Ask::AwaitEnd { program, deadline }).await {
            Ok(_) => {}
            Err(lost) => tracing::error!(why = %lost.failure, "whether a program has ended is not known"),
        }
    }
}

fn of(password: &SecretString) -> Bytes {
    Bytes::copy_from_slice(password.expose_secret().as_bytes())
}

fn no_service(why: String) -> Service {
    Service { control: "not known".to_owned(), status: ServiceStatus::Unknown, process: None, detail: why }
}
