//! Configured commands that start, stop and restart the UMS Server.

use std::time::Duration;

use umsid_proto::model::{Service, ServiceStatus};

use super::{ProcessSeeker, ServiceControl, ServiceError, by_process};
use crate::config::CommandLine;
use crate::exec::{Program, Ran, Rules};
use crate::ums::Started;

/// What is run for each.
#[derive(Clone, Debug)]
pub struct Commands {
    /// Starts it.
    pub start: CommandLine,
    /// Stops it.
    pub stop: CommandLine,
    /// Restarts it; without one: stop, then start.
    pub restart: Option<CommandLine>,
    /// Exit status 0 while it runs, 3 when it is stopped.
    pub status: Option<CommandLine>,
}

/// The UMS Server, by commands.
pub struct Command {
    name: String,
    commands: Commands,
    rules: Rules,
    deadline: Duration,
    seeker: ProcessSeeker,
}

/// What init scripts exit with for a service that is stopped.
const STOPPED: i32 = 3;

impl Command {
    /// By these commands, each of which must end within `deadline`.
    pub fn new(
        name: String,
        commands: Commands,
        rules: Rules,
        deadline: Duration,
        seeker: ProcessSeeker,
    ) -> Self {
        Self { name, commands, rules, deadline, seeker }
    }

    async fn run(
        &self,
        verb: &'static str,
        command: &CommandLine,
        started: Started<'_>,
    ) -> Result<Ran, ServiceError> {
        let program = Program::new(command.clone(), &self.rules, self.deadline).survives().leaves_children();
        let failed = |source| ServiceError::Command { verb, control: self.name.clone(), source };
        program.run_telling(started).await.and_then(Ran::succeeded).map_err(failed)
    }
}

#[tonic::async_trait]
impl ServiceControl for Command {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn status(&self) -> Service {
        let service = by_process(self.name(), self.seeker.find());
        let Some(command) = &self.commands.status else { return service };
        if service.process.is_some() {
            return service;
        }
        let ran = Program::new(command.clone(), &self.rules, self.deadline).run().await;
        let (status, detail) = match ran {
            Ok(ran) if ran.raw.status == Some(0) => (
                ServiceStatus::Running,
                "it runs, but its process was not found: set service.pid_file".to_owned(),
            ),
            Ok(ran) if ran.raw.status == Some(STOPPED) => (ServiceStatus::Stopped, String::new()),
            Ok(_) => (service.status, service.detail),
            Err(error) => (service.status, format!("{error}")),
        };
        Service { status, detail, ..service }
    }

    async fn start(&self, started: Started<'_>) -> Result<(), ServiceError> {
        self.run("start", &self.commands.start, started).await.map(drop)
    }

    async fn stop(&self, started: Started<'_>) -> Result<(), ServiceError> {
        self.run("stop", &self.commands.stop, started).await.map(drop)
    }

    async fn restart(&self, started: Started<'_>) -> Result<(), ServiceError> {
        if let Some(restart) = &self.commands.restart {
            return self.run("restart", restart, started).await.map(drop);
        }
        self.run("stop", &self.commands.stop, started).await?;
        self.run("start", &self.commands.start, started).await.map(drop)
    }
}
