//! The UMS on this host. Everything that needs the server's rights is behind one trait, so that a privileged helper
//! can take it over and leave the network-facing process unprivileged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use umsid_proto::failure::Failure;
use umsid_proto::model::{Effect, Health, HealthStatus, Service, ServiceProcess, UmsIds};

use crate::exec;

pub mod admin_cli;
pub mod health;
pub mod identity;
pub mod installation;
pub mod workspace;

pub mod local;

/// A failure, and what may have changed on this host all the same.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failed {
    /// What and why.
    pub failure: Failure,
    /// What may have changed.
    pub effect: Effect,
}

/// What was found out about the UMS at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub struct Findings {
    /// As `12.09.110`.
    pub ums_version: Option<String>,
    /// The UMS IDs with their evidence; empty with a reason when only a quick look was asked for.
    pub ums_ids: UmsIds,
    /// The UMS Server's service.
    pub service: Service,
    /// Its health.
    pub health: Health,
    /// UMS_FACTS §6.
    pub update_mode: Option<bool>,
    /// UMS_FACTS §4.
    pub distributed: Option<bool>,
    /// First lines of `ums-license state`.
    pub license: String,
    /// Time spent waiting for the UMS.
    pub waited: Duration,
    /// What could not be found out.
    pub problems: Vec<String>,
}

/// A program that is doing something to the UMS: which process, so that an agent that comes back can wait for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Process id.
    pub pid: u32,
    /// Its start, so that another process with the same id is not taken for it.
    pub started: Timestamp,
}

/// What programs are run for, and who is told which process each is as soon as there is one.
#[derive(Clone, Copy)]
pub struct Started<'a> {
    /// Put into the environment of every program: an agent that comes back finds by it what is still at work.
    pub mark: &'a str,
    /// Called with every program.
    pub told: &'a (dyn Fn(Running) + Send + Sync),
}

impl Started<'_> {
    /// Nobody needs to find it again.
    pub fn nobody() -> Self {
        Self { mark: "", told: &|_| {} }
    }
}

/// The UMS Server before a restart, to be told from the one after it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// Its process. `None`: it was stopped, or which process it is was not found.
    pub process: Option<ServiceProcess>,
    /// When the restart was asked for, as [`exec::moment`] tells it.
    pub asked: Timestamp,
}

impl Previous {
    /// With this process, at this moment.
    pub fn now(process: Option<ServiceProcess>) -> Self {
        Self { process, asked: exec::moment() }
    }

    /// Whether this process is one that came after it. Where none was found one may have run all the same: then the start
    /// of the process tells.
    pub fn is_followed_by(&self, process: &ServiceProcess) -> bool {
        match &self.process {
            Some(before) => !exec::same_process(before, process),
            None => exec::started_since(process, self.asked),
        }
    }
}

/// What a restart came to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Restart {
    /// The process before, if one ran.
    pub before: Option<ServiceProcess>,
    /// The process now.
    pub after: Option<ServiceProcess>,
    /// Its health: good several times in a row, for a minimum time.
    pub health: Health,
}

/// Where the doer tells what it does now: the text of a phase, and how long that may take.
pub type Tell<'a> = &'a (dyn Fn(String, Option<Duration>) + Send + Sync);

/// What an agent can do to the UMS of its host. A closed set.
#[tonic::async_trait]
pub trait Ums: Send + Sync + 'static {
    /// Finds out what can be found out; `quick`: without running `umsadmin-cli`. Changes nothing and never fails as a
    /// whole: what could not be found out is in [`Findings::problems`].
    async fn look(&self, quick: bool) -> Findings;

    /// The version of the UMS, as `12.09.110`, without running anything: an update may have changed it since the last look.
    async fn version(&self) -> Option<String>;

    /// The UMS IDs, with their evidence.
    async fn ids(&self) -> UmsIds;

    /// Backs up this host's UMS ID under this password to a new file in `into` (a private directory, absolute): its
    /// path, whatever extension the UMS gave it. Checked to be there, not empty and not over the limit.
    async fn back_up(&self, into: &Path, password: &SecretString) -> Result<PathBuf, Failed>;

    /// Restores the UMS ID from this file. `started` is called once, before the program can have had an effect, with
    /// the process that does it. Returns deviations worth telling: changed owners, a service that was stopped and started again.
    async fn restore(
        &self,
        file: &Path,
        password: &SecretString,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Vec<String>, Failed>;

    /// Restarts the UMS Server and waits until another process runs and is healthy. `started` is called with every
    /// program that is run for it.
    async fn restart(
        &self,
        deadline: Option<Duration>,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed>;

    /// Waits until another process runs and is healthy, without restarting anything: for a restart found started without
    /// outcome.
    async fn await_restarted(
        &self,
        before: Previous,
        deadline: Option<Duration>,
        tell: Tell<'_>,
    ) -> Result<Restart, Failed>;

    /// Whether such an answer is a good one on this host.
    fn is_good(&self, status: HealthStatus) -> bool;

    /// The UMS Server's service as it is now.
    async fn service(&self) -> Service;

    /// Whether a program that was started with this mark is still at work, other than the UMS Server it may have started.
    /// Where that cannot be seen, it may be.
    async fn at_work(&self, mark: &str) -> bool;

    /// Whether this program is there. Where that cannot be seen, it may be.
    async fn is_running(&self, program: Running) -> bool;

    /// Waits until this program has ended, and ends its whole process group at the deadline.
    async fn await_end(&self, program: Running, deadline: Duration);
}
