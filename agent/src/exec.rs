//! The only place where processes are spawned: no shell, an absolute path, an explicit environment, nothing on stdin, a
//! deadline that ends the whole process group, output bounded and kept.
//!
//! Three layers, one duty each: [`Program::run`] spawns and waits, [`Ran::succeeded`] looks at the status, whoever
//! called parses. Every failure carries the command, the status and both streams.

use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use process_wrap::tokio::{ChildWrapper, CommandWrap};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::RawOutput;

use crate::config::{CommandLine, Config, Environment};
use crate::ums::{Running, Started};

mod boot;
mod capture;
mod process;
mod search;
#[cfg(all(test, windows))]
mod windows_tests;

pub use boot::{by_the_clock, first as boot_moment, keep as keep_boot, moment, take as take_boot_moment};
use capture::Capture;
pub use process::{
    Process, await_end, await_gone, carries_mark, find_process, in_use, is_running, marked, process_of,
    same_process, started_since,
};
pub use search::locate;

/// How often the size of a running command's output is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// What programs get of the agent's own environment, besides `PATH`.
const INHERITED: &[&str] = if cfg!(windows) {
    &[
        "ComSpec",
        "PATHEXT",
        "PROCESSOR_ARCHITECTURE",
        "ProgramData",
        "ProgramFiles",
        "SystemDrive",
        "SystemRoot",
        "TEMP",
        "TMP",
        "USERPROFILE",
        "windir",
    ]
} else {
    &["HOME"]
};

/// How long a killed process may take to disappear. One that belongs to another user (behind `sudo`) may never.
const REAP: Duration = Duration::from_secs(2);

/// What holds for every command.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Of each stream, in bytes, are kept.
    pub keep: usize,
    /// More than this on one stream, in bytes, and the command is ended.
    pub flood: u64,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// Added to the environment.
    pub environment: Environment,
}

impl Rules {
    /// As configured.
    pub fn of(config: &Config) -> Self {
        Self {
            keep: config.output.keep_bytes,
            flood: config.output.flood_bytes,
            grace: config.timeouts.grace,
            environment: config.ums.environment.clone(),
        }
    }
}

/// What a program left behind, however it ended.
#[derive(Debug)]
pub struct Ran {
    /// Command, status, both streams.
    pub raw: RawOutput,
    /// From its start to its end.
    pub took: Duration,
}

impl Ran {
    /// Looks at the exit status.
    ///
    /// # Errors
    /// [`ExecError::Failed`] for any other than 0, and when a signal ended the program.
    pub fn succeeded(self) -> Result<Self, ExecError> {
        match self.raw.status {
            Some(0) => Ok(self),
            _ => Err(ExecError::Failed(Box::new(self.raw))),
        }
    }

    /// Both streams, standard output first.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.raw.stdout, self.raw.stderr)
    }
}

/// A program that did not do what programs do: start, end in time, and exit with 0.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such program.
    #[error("{program} is not there")]
    Missing {
        /// As it was named.
        program: String,
        /// The whole command line.
        command: String,
    },
    /// It is there but may not or cannot be executed.
    #[error("{program} cannot be executed")]
    NotExecutable {
        /// As it was named.
        program: String,
        /// The whole command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The operating system could not start it.
    #[error("cannot start {command}")]
    Spawn {
        /// The whole command line.
        command: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took longer than allowed and was ended.
    #[error("`{}` did not end within {}", .raw.command, humane(*.after))]
    TimedOut {
        /// What there was until then.
        raw: Box<RawOutput>,
        /// The deadline.
        after: Duration,
    },
    /// It printed more than allowed and was ended.
    #[error("`{}` printed more than {limit} bytes", .raw.command)]
    Flooded {
        /// Beginning and end of what there was.
        raw: Box<RawOutput>,
        /// In bytes.
        limit: u64,
    },
    /// It ended with another status than 0.
    #[error("`{}` {}", .0.command, ended(.0))]
    Failed(Box<RawOutput>),
}

fn humane(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration)
        .map_or_else(|_| format!("{duration:?}"), |duration| format!("{duration:#}"))
}

fn ended(raw: &RawOutput) -> String {
    let said = [&raw.stderr, &raw.stdout]
        .into_iter()
        .find_map(|text| text.lines().rev().find(|line| !line.trim().is_empty()));
    let said = said
        .map(|line| format!(": {}", line.trim().chars().take(300).collect::<String>()))
        .unwrap_or_default();
    match raw.status {
        Some(status) => format!("ended with exit status {status}{said}"),
        None => format!("was ended by a signal{said}"),
    }
}

impl ExecError {
    /// What the program printed, or at least which it was.
    pub fn raw(&self) -> RawOutput {
        match self {
            Self::TimedOut { raw, .. } | Self::Flooded { raw, .. } | Self::Failed(raw) => {
                let problem =
                    if matches!(self, Self::Failed(_)) { raw.problem.clone() } else { self.to_string() };
                RawOutput { problem, ..(**raw).clone() }
            }
            Self::Missing { command, .. }
            | Self::NotExecutable { command, .. }
            | Self::Spawn { command, .. } => {
                let problem = self.failure_text();
                RawOutput { command: command.clone(), problem, ..RawOutput::default() }
            }
        }
    }

    fn failure_text(&self) -> String {
        let source = std::error::Error::source(self).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{self}{source}")
    }

    /// Whether the program ran at all, so that it may have had an effect.
    pub fn ran(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Flooded { .. } | Self::Failed(_))
    }

    /// For a caller on another machine, with the output.
    pub fn into_failure(self) -> Failure {
        let code = match &self {
            Self::Missing { .. } | Self::NotExecutable { .. } => Code::CommandMissing,
            Self::TimedOut { .. } => Code::CommandTimeout,
            Self::Spawn { .. } => Code::Internal,
            Self::Flooded { .. } | Self::Failed(_) => Code::CommandFailed,
        };
        Failure::of(code, &self).raw(self.raw())
    }
}

/// A program about to be run.
#[derive(Debug)]
pub struct Program<'a> {
    command: CommandLine,
    rules: &'a Rules,
    deadline: Duration,
    survives: bool,
    leaves_children: bool,
}

impl<'a> Program<'a> {
    /// This program with these arguments, to end within `deadline`.
    pub fn new(command: CommandLine, rules: &'a Rules, deadline: Duration) -> Self {
        Self { command, rules, deadline, survives: false, leaves_children: false }
    }

    /// It goes on when the agent stops or the caller loses interest: for what must not be cut off halfway.
    pub fn survives(self) -> Self {
        Self { survives: true, ..self }
    }

    /// What it started stays when it has ended: for commands that start services.
    pub fn leaves_children(self) -> Self {
        Self { leaves_children: true, ..self }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// All of [`ExecError`] except `Failed`.
    pub async fn run(self) -> Result<Ran, ExecError> {
        self.run_for(None).await
    }

    /// Runs it to its end; `started` is told which process it is as soon as there is one.
    ///
    /// # Errors
    /// All of [`ExecError`] except `Failed`.
    pub async fn run_telling(self, started: Started<'_>) -> Result<Ran, ExecError> {
        self.run_for(Some(started)).await
    }

    async fn run_for(self, started: Option<Started<'_>>) -> Result<Ran, ExecError> {
        let since = Instant::now();
        let command = self.command.to_string();
        let spawn_failed = |source| ExecError::Spawn { command: command.clone(), source };
        let stdout = Capture::new().map_err(spawn_failed)?;
        let stderr = Capture::new().map_err(spawn_failed)?;
        let mut child = self.spawn(&stdout, &stderr, started.as_ref().map_or("", |started| started.mark))?;
        let mut group = process::Group::of(child.id(), self.survives);
        tracing::debug!(%command, pid = child.id(), "started");
        // To find out since when it runs, several files of the system are read.
        if let (Some(started), Some(pid)) = (started, child.id()) {
            (started.told)(running(pid));
        }

        let (end, status) = self.wait(&mut *child, since, [&stdout, &stderr]).await;
        // Whoever is left of its group goes, unless it was its job to start something.
        if !(self.leaves_children && matches!(end, End::ByItself)) {
            kill(&mut *child);
        }
        group.release();

        let mut raw = RawOutput {
            command: command.clone(),
            status: status.and_then(|status| status.code()),
            stdout: stdout.close(self.rules.keep),
            stderr: stderr.close(self.rules.keep),
            problem: String::new(),
        };
        if status.is_none() {
            raw.problem = "it was killed but has not ended".to_owned();
        }
        let took = since.elapsed();
        tracing::debug!(%command, status = raw.status, ?took, "ended");
        let raw_of = |raw| Box::new(raw);
        match end {
            End::ByItself => Ok(Ran { raw, took }),
            End::Deadline => Err(ExecError::TimedOut { raw: raw_of(raw), after: self.deadline }),
            End::Flood => Err(ExecError::Flooded { raw: raw_of(raw), limit: self.rules.flood }),
        }
    }

    fn spawn(
        &self,
        stdout: &Capture,
        stderr: &Capture,
        mark: &str,
    ) -> Result<Box<dyn ChildWrapper>, ExecError> {
        let (name, arguments) = self.command.parts();
        let command = self.command.to_string();
        let missing = || ExecError::Missing { program: name.to_owned(), command: command.clone() };
        let spawn_failed = |source| ExecError::Spawn { command: command.clone(), source };
        let program = locate(name).ok_or_else(missing)?;
        let (stdout, stderr) =
            (stdout.handle().map_err(spawn_failed)?, stderr.handle().map_err(spawn_failed)?);

        let mut wrap = CommandWrap::with_new(program, |command| {
            command.args(arguments).env_clear().envs(self.environment());
            if !mark.is_empty() {
                command.env(process::MARK, mark);
            }
            command.current_dir(if cfg!(windows) { r"C:\" } else { "/" });
            command.stdin(std::process::Stdio::null()).stdout(stdout).stderr(stderr);
            command.kill_on_drop(!self.survives);
        });
        #[cfg(unix)]
        wrap.wrap(process_wrap::tokio::ProcessGroup::leader());
        #[cfg(windows)]
        {
            if !self.survives {
                // The job as well: it ends with the agent.
                wrap.wrap(process_wrap::tokio::KillOnDrop);
            }
            wrap.wrap(process_wrap::tokio::JobObject);
        }
        wrap.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => missing(),
            io::ErrorKind::PermissionDenied => not_executable(name, &command, source),
            _ if is_no_program(&source) => not_executable(name, &command, source),
            _ => ExecError::Spawn { command: command.clone(), source },
        })
    }

    fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut all: Vec<(OsString, OsString)> = vec![("PATH".into(), search::search_path())];
        // Windows programs, and Java on any system, do not start without these.
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                all.push((name.into(), value));
            }
        }
        if cfg!(unix) {
            all.push(("LANG".into(), "C.UTF-8".into()));
            all.push(("LC_ALL".into(), "C.UTF-8".into()));
        }
        all.extend(self.rules.environment.iter().map(|(name, value)| (name.into(), value.into())));
        all
    }

    /// Waits until it ended, by itself or because it had to: how, and its status if it was seen.
    async fn wait(
        &self,
        child: &mut dyn ChildWrapper,
        since: Instant,
        streams: [&Capture; 2],
    ) -> (End, Option<std::process::ExitStatus>) {
        let deadline = tokio::time::Instant::from_std(since + self.deadline);
        let end = loop {
            tokio::select! {
                biased;
                status = child.wait() => return (End::ByItself, status.ok()),
                () = tokio::time::sleep_until(deadline) => break End::Deadline,
                () = tokio::time::sleep(LOOK) => {
                    if streams.iter().any(|stream| stream.length() > self.rules.flood) {
                        break End::Flood;
                    }
                }
            }
        };
        tracing::warn!(command = %self.command, ?end, "is ended with its process group");
        if matches!(end, End::Deadline)
            && ask_to_end(child)
            && let Ok(status) = tokio::time::timeout(self.rules.grace, child.wait()).await
        {
            return (end, status.ok());
        }
        kill(child);
        let status = tokio::time::timeout(REAP, child.wait()).await;
        (end, status.ok().and_then(Result::ok))
    }
}

#[derive(Debug)]
enum End {
    ByItself,
    Deadline,
    Flood,
}

fn not_executable(program: &str, command: &str, source: io::Error) -> ExecError {
    ExecError::NotExecutable { program: program.to_owned(), command: command.to_owned(), source }
}

/// Neither a binary of this machine nor a script with an interpreter line.
fn is_no_program(error: &io::Error) -> bool {
    #[cfg(unix)]
    return error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error());
    #[cfg(not(unix))]
    return error.raw_os_error() == Some(193);
}

fn running(pid: u32) -> Running {
    let started = process_of(pid).map_or_else(jiff::Timestamp::now, |process| process.started);
    Running { pid, started }
}

/// Asks the whole group to end; `false` where there is no way to ask.
#[cfg(unix)]
fn ask_to_end(child: &mut dyn ChildWrapper) -> bool {
    child.signal(rustix::process::Signal::TERM.as_raw()).is_ok()
}

#[cfg(not(unix))]
fn ask_to_end(_child: &mut dyn ChildWrapper) -> bool {
    false
}

/// Ends the whole group; one that is gone already is as good.
fn kill(child: &mut dyn ChildWrapper) {
    let _ = child.start_kill();
}
