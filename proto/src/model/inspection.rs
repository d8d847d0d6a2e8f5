//! What an agent sees on its server.

use super::{
    ClusterName, Deserialize, Digest, Fingerprint, Invalid, RunId, Serialize, ServerName, Timestamp, UmsIds,
    digest, fingerprint, line, lines, moment, named, required, wire,
};

/// Everything one agent found out at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The server.
    pub server: ServerName,
    /// Its cluster.
    pub cluster: ClusterName,
    /// Version of the agent.
    pub agent_version: String,
    /// Version of the UMS as `12.09.110`; `None`: not found.
    pub ums_version: Option<String>,
    /// The UMS IDs, with the evidence.
    pub ums_ids: UmsIds,
    /// The UMS Server's service.
    pub service: Service,
    /// What the UMS Server says of its health.
    pub health: Health,
    /// Whether the server runs on a local copy of the database (UMS_FACTS §6); `None`: not readable.
    pub update_mode: Option<bool>,
    /// Whether it is a Distributed UMS (UMS_FACTS §4); `None`: not readable.
    pub distributed: Option<bool>,
    /// What `ums-license state` prints; empty: not readable.
    pub license: String,
    /// The server's clock.
    pub clock: Timestamp,
    /// Where the agent keeps its files; `None`: not readable.
    pub disk: Option<Disk>,
    /// End of the agent certificate's life.
    pub certificate_not_after: Timestamp,
    /// The lease on this server.
    pub lease: Option<LeaseState>,
    /// What its vault holds, oldest first.
    pub safety_backups: Vec<SafetyBackup>,
    /// The highest lease epoch granted so far.
    pub epoch: u64,
    /// Milliseconds of this inspection spent waiting for the UMS.
    pub ums_ms: u64,
    /// What could not be found out, one sentence each.
    pub problems: Vec<String>,
    /// Whether a restore that may have had an effect ended after the UMS Server's process was started, or none was
    /// started since: what runs may be on another UMS ID than the one on disk.
    #[serde(default)]
    pub restart_due: bool,
}

/// A command and all it printed, kept for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawOutput {
    /// The command line; passwords are never in one.
    pub command: String,
    /// Exit status; `None` if it never exited by itself.
    pub status: Option<i32>,
    /// Standard output, bounded.
    pub stdout: String,
    /// Standard error, bounded.
    pub stderr: String,
    /// What went wrong in running it; empty if nothing did.
    pub problem: String,
}

/// The UMS Server's service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// How it is controlled and its name there, as "systemd igel-ums-server".
    pub control: String,
    /// Its state.
    pub status: ServiceStatus,
    /// Its main process, where one is known.
    pub process: Option<ServiceProcess>,
    /// What else there is to say, for a person.
    pub detail: String,
}

/// State of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceStatus {
    /// Could not be found out.
    Unknown,
    /// Running.
    Running,
    /// Stopped.
    Stopped,
    /// Starting or stopping.
    Changing,
}

/// Which process runs since when: a restart counts only when this is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceProcess {
    /// Process id.
    pub pid: u32,
    /// Its start.
    pub started: Timestamp,
}

/// What the UMS Server says of its health (UMS_FACTS §5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Its word, or that there was none.
    pub status: HealthStatus,
    /// What answered: "check-status" or "serverstatus".
    pub source: String,
    /// What else there is to say, for a person.
    pub detail: String,
    /// The host name the UMS gives itself; empty: not told.
    pub ums_host: String,
    /// The id the UMS gives itself; empty: not told.
    pub ums_uuid: String,
}

/// The words of check-status, and `unreachable` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthStatus {
    /// No usable answer.
    Unreachable,
    /// Starting.
    Init,
    /// Good.
    Ok,
    /// Counts as good only where configured.
    Warn,
    /// Bad.
    Err,
}

/// Room where the agent keeps its files, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Free.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// One entry of a server's vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafetyBackup {
    /// SHA-256 of the sealed file.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// When.
    pub taken: Timestamp,
    /// The Local UMS ID at the time, where known.
    pub fingerprint: Option<Fingerprint>,
    /// The run it was made in.
    pub run: RunId,
}

/// A lease as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// The run that holds it.
    pub run: RunId,
    /// Only rises.
    pub epoch: u64,
    /// For people: "coordinator anna (anna@admin1)".
    pub holder: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when, unless renewed.
    pub until: Timestamp,
}

impl From<Inspection> for wire::Inspection {
    fn from(model: Inspection) -> Self {
        Self {
            server: model.server.into(),
            cluster: model.cluster.into(),
            agent_version: model.agent_version,
            ums_version: model.ums_version.unwrap_or_default(),
            ums_ids: Some(model.ums_ids.into()),
            service: Some(model.service.into()),
            health: Some(model.health.into()),
            update_mode: model.update_mode,
            distributed: model.distributed,
            license: model.license,
            clock_unix_ms: model.clock.as_millisecond(),
            disk: model.disk.map(|disk| wire::Disk { free_bytes: disk.free, total_bytes: disk.total }),
            certificate_not_after_unix_ms: model.certificate_not_after.as_millisecond(),
            lease: model.lease.map(Into::into),
            safety_backups: model.safety_backups.into_iter().map(Into::into).collect(),
            epoch: model.epoch,
            ums_ms: model.ums_ms,
            problems: model.problems,
            restart_due: model.restart_due,
        }
    }
}

impl TryFrom<wire::Inspection> for Inspection {
    type Error = Invalid;

    fn try_from(wire: wire::Inspection) -> Result<Self, Invalid> {
        Ok(Self {
            server: named("inspection.server", &wire.server)?,
            cluster: named("inspection.cluster", &wire.cluster)?,
            agent_version: line(&wire.agent_version),
            ums_version: Some(line(&wire.ums_version)).filter(|version| !version.is_empty()),
            ums_ids: required("inspection.ums_ids", wire.ums_ids)?.try_into()?,
            service: required("inspection.service", wire.service)?.try_into()?,
            health: required("inspection.health", wire.health)?.try_into()?,
            update_mode: wire.update_mode,
            distributed: wire.distributed,
            license: lines(&wire.license),
            clock: moment("inspection.clock", wire.clock_unix_ms)?,
            disk: wire.disk.map(|disk| Disk { free: disk.free_bytes, total: disk.total_bytes }),
            certificate_not_after: moment(
                "inspection.certificate_not_after",
                wire.certificate_not_after_unix_ms,
            )?,
            lease: wire.lease.map(TryInto::try_into).transpose()?,
            safety_backups: wire
                .safety_backups
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            epoch: wire.epoch,
            ums_ms: wire.ums_ms,
            problems: wire.problems.iter().map(|problem| line(problem)).collect(),
            restart_due: wire.restart_due,
        })
    }
}

impl From<RawOutput> for wire::RawOutput {
    fn from(model: RawOutput) -> Self {
        let RawOutput { command, status, stdout, stderr, problem } = model;
        Self { command, status, stdout, stderr, problem }
    }
}

impl From<wire::RawOutput> for RawOutput {
    fn from(wire: wire::RawOutput) -> Self {
        let wire::RawOutput { command, status, stdout, stderr, problem } = wire;
        let (stdout, stderr) = (lines(&stdout), lines(&stderr));
        Self { command: line(&command), status, stdout, stderr, problem: line(&problem) }
    }
}

impl From<Service> for wire::Service {
    fn from(model: Service) -> Self {
        let status = match model.status {
            ServiceStatus::Unknown => wire::ServiceStatus::Unknown,
            ServiceStatus::Running => wire::ServiceStatus::Running,
            ServiceStatus::Stopped => wire::ServiceStatus::Stopped,
            ServiceStatus::Changing => wire::ServiceStatus::Changing,
        };
        Self {
            control: model.control,
            status: status.into(),
            process: model.process.map(Into::into),
            detail: model.detail,
        }
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = Invalid;

    fn try_from(wire: wire::Service) -> Result<Self, Invalid> {
        let status = match wire.status() {
            wire::ServiceStatus::Running => ServiceStatus::Running,
            wire::ServiceStatus::Stopped => ServiceStatus::Stopped,
            wire::ServiceStatus::Changing => ServiceStatus::Changing,
            wire::ServiceStatus::Unknown | wire::ServiceStatus::Unspecified => ServiceStatus::Unknown,
        };
        Ok(Self {
            status,
            control: line(&wire.control),
            process: wire.process.map(TryInto::try_into).transpose()?,
            detail: line(&wire.detail),
        })
    }
}

impl From<ServiceProcess> for wire::ServiceProcess {
    fn from(model: ServiceProcess) -> Self {
        Self { pid: model.pid, started_unix_ms: model.started.as_millisecond() }
    }
}

impl TryFrom<wire::ServiceProcess> for ServiceProcess {
    type Error = Invalid;

    fn try_from(wire: wire::ServiceProcess) -> Result<Self, Invalid> {
        Ok(Self { pid: wire.pid, started: moment("process.started", wire.started_unix_ms)? })
    }
}

impl From<Health> for wire::Health {
    fn from(model: Health) -> Self {
        let status = match model.status {
            HealthStatus::Unreachable => wire::HealthStatus::Unreachable,
            HealthStatus::Init => wire::HealthStatus::Init,
            HealthStatus::Ok => wire::HealthStatus::Ok,
            HealthStatus::Warn => wire::HealthStatus::Warn,
            HealthStatus::Err => wire::HealthStatus::Err,
        };
        Self {
            status: status.into(),
            source: model.source,
            detail: model.detail,
            ums_host: model.ums_host,
            ums_uuid: model.ums_uuid,
        }
    }
}

impl TryFrom<wire::Health> for Health {
    type Error = Invalid;

    fn try_from(wire: wire::Health) -> Result<Self, Invalid> {
        let status = match wire.status() {
            wire::HealthStatus::Unreachable => HealthStatus::Unreachable,
            wire::HealthStatus::Init => HealthStatus::Init,
            wire::HealthStatus::Ok => HealthStatus::Ok,
            wire::HealthStatus::Warn => HealthStatus::Warn,
            wire::HealthStatus::Err => HealthStatus::Err,
            wire::HealthStatus::Unspecified => return Err(Invalid::new("health.status", "it is missing")),
        };
        Ok(Self {
            status,
            source: line(&wire.source),
            detail: line(&wire.detail),
            ums_host: line(&wire.ums_host),
            ums_uuid: line(&wire.ums_uuid),
        })
    }
}

impl From<SafetyBackup> for wire::SafetyBackup {
    fn from(model: SafetyBackup) -> Self {
        Self {
            digest: model.digest.as_bytes().to_vec(),
            size: model.size,
            taken_unix_ms: model.taken.as_millisecond(),
            fingerprint: model.fingerprint.map(Into::into),
            run: model.run.into(),
        }
    }
}

impl TryFrom<wire::SafetyBackup> for SafetyBackup {
    type Error = Invalid;

    fn try_from(wire: wire::SafetyBackup) -> Result<Self, Invalid> {
        Ok(Self {
            digest: digest("safety_backup.digest", &wire.digest)?,
            size: wire.size,
            taken: moment("safety_backup.taken", wire.taken_unix_ms)?,
            fingerprint: wire
                .fingerprint
                .map(|wire| fingerprint("safety_backup.fingerprint", &wire))
                .transpose()?,
            run: named("safety_backup.run", &wire.run)?,
        })
    }
}

impl From<LeaseState> for wire::Lease {
    fn from(model: LeaseState) -> Self {
        Self {
            run: model.run.into(),
            epoch: model.epoch,
            holder: model.holder,
            since_unix_ms: model.since.as_millisecond(),
            until_unix_ms: model.until.as_millisecond(),
        }
    }
}

impl TryFrom<wire::Lease> for LeaseState {
    type Error = Invalid;

    fn try_from(wire: wire::Lease) -> Result<Self, Invalid> {
        Ok(Self {
            run: named("lease.run", &wire.run)?,
            epoch: wire.epoch,
            holder: line(&wire.holder),
            since: moment("lease.since", wire.since_unix_ms)?,
            until: moment("lease.until", wire.until_unix_ms)?,
        })
    }
}
