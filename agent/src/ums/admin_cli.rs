//! `umsadmin-cli`: one method for each sub-command we use (UMS_FACTS §3). The one that makes a new UMS ID at once is not
//! among them, and there is no way to run an arbitrary one.

use std::path::Path;
use std::time::Duration;

use tokio::sync::Mutex;

use super::Started;
use super::workspace::PasswordFile;
use crate::config::{CommandLine, Timeouts};
use crate::exec::{ExecError, Program, Ran, Rules};

/// The vendor's command line program. Calls wait for each other: whether two at once lock each other out is not
/// documented (UMS_FACTS §3).
#[derive(Debug)]
pub struct AdminCli {
    rules: Rules,
    timeouts: Timeouts,
    gate: Mutex<()>,
}

impl AdminCli {
    /// With these rules and deadlines.
    pub fn new(rules: Rules, timeouts: Timeouts) -> Self {
        Self { rules, timeouts, gate: Mutex::new(()) }
    }

    /// `licensing list`: the current UMS IDs.
    pub async fn list(&self, program: &CommandLine, machine_readable: bool) -> Result<Ran, ExecError> {
        let arguments: &[&str] = if machine_readable {
            &["--machine-readable", "licensing", "list"]
        } else {
            &["licensing", "list"]
        };
        self.look(program, arguments, self.timeouts.list).await
    }

    /// `licensing backup` to a new file.
    pub async fn backup(
        &self,
        program: &CommandLine,
        file: &Path,
        password: &PasswordFile,
    ) -> Result<Ran, ExecError> {
        let (file, password) = (file.to_string_lossy(), password.path().to_string_lossy());
        let arguments = ["licensing", "backup", "--outfile", &file, "--password:file", &password];
        self.look(program, &arguments, self.timeouts.backup).await
    }

    /// `licensing restore`. Once started it is not cut off when the agent stops.
    pub async fn restore(
        &self,
        program: &CommandLine,
        file: &Path,
        password: &PasswordFile,
        started: Started<'_>,
    ) -> Result<Ran, ExecError> {
        let (file, password) = (file.to_string_lossy(), password.path().to_string_lossy());
        let command = program.with(["licensing", "restore", "--file", &file, "--password:file", &password]);
        let _alone = self.gate.lock().await;
        let restore = Program::new(command, &self.rules, self.timeouts.restore).survives();
        restore.run_telling(started).await?.succeeded()
    }

    /// `licensing export` of the certificate to a new file; since 12.09.110.
    pub async fn export(&self, program: &CommandLine, file: &Path) -> Result<Ran, ExecError> {
        let file = file.to_string_lossy();
        self.look(program, &["licensing", "export", "--outfile", &file], self.timeouts.export).await
    }

    /// `--version`.
    pub async fn version(&self, program: &CommandLine) -> Result<Ran, ExecError> {
        self.look(program, &["--version"], self.timeouts.list).await
    }

    /// `db list`: the data sources.
    pub async fn databases(&self, program: &CommandLine) -> Result<Ran, ExecError> {
        self.look(program, &["db", "list"], self.timeouts.list).await
    }

    /// `ums-license state`; since 12.09.100.
    pub async fn license(&self, program: &CommandLine) -> Result<Ran, ExecError> {
        self.look(program, &["ums-license", "state"], self.timeouts.list).await
    }

    /// `ports list`: the ports of the UMS Server.
    pub async fn ports(&self, program: &CommandLine) -> Result<Ran, ExecError> {
        self.look(program, &["ports", "list"], self.timeouts.list).await
    }

    /// `web-certs list`: the certificates of the web servers; since 12.04.100.
    pub async fn web_certificates(&self, program: &CommandLine) -> Result<Ran, ExecError> {
        self.look(program, &["web-certs", "list"], self.timeouts.list).await
    }

    /// `web-certs list-assigned-server`: the servers that use the certificate with this SHA-1; since 12.04.100.
    pub async fn assigned_servers(&self, program: &CommandLine, sha1: &str) -> Result<Ran, ExecError> {
        self.look(program, &["web-certs", "list-assigned-server", "-f", sha1], self.timeouts.list).await
    }

    /// `server start`.
    pub async fn server_start(&self, program: &CommandLine, started: Started<'_>) -> Result<Ran, ExecError> {
        self.service(program, "start", started).await
    }

    /// `server stop`.
    pub async fn server_stop(&self, program: &CommandLine, started: Started<'_>) -> Result<Ran, ExecError> {
        self.service(program, "stop", started).await
    }

    /// `server restart`.
    pub async fn server_restart(
        &self,
        program: &CommandLine,
        started: Started<'_>,
    ) -> Result<Ran, ExecError> {
        self.service(program, "restart", started).await
    }

    async fn service(
        &self,
        program: &CommandLine,
        verb: &str,
        started: Started<'_>,
    ) -> Result<Ran, ExecError> {
        let _alone = self.gate.lock().await;
        let command = program.with(["server", verb]);
        let program = Program::new(command, &self.rules, self.timeouts.service).survives().leaves_children();
        program.run_telling(started).await?.succeeded()
    }

    async fn look(
        &self,
        program: &CommandLine,
        arguments: &[&str],
        deadline: Duration,
    ) -> Result<Ran, ExecError> {
        let command = program.with(arguments.iter().copied());
        let _alone = self.gate.lock().await;
        Program::new(command, &self.rules, deadline).run().await?.succeeded()
    }
}
