//! Finding out how things stand, changing nothing.

use std::time::Duration;

use umsid_proto::model::{HealthStatus, RawOutput, UmsIds};

use super::super::health::ServerStatus;
use super::super::identity::{self, Words};
use super::super::installation::{self, Installation};
use super::{Findings, LocalUms};
use crate::config::{CommandLine, UseExport};
use crate::exec::{ExecError, Ran};

/// `licensing export` came with this version (UMS_FACTS §3).
const EXPORT_SINCE: &str = "12.09.110";

/// Of the licence state so much is passed on, in bytes.
const LICENSE_SHOWN: usize = 2048;

/// The largest certificate that is read, in bytes.
const LARGEST_CERTIFICATE: u64 = 1 << 20;

impl LocalUms {
    pub(super) async fn findings(&self, quick: bool) -> Findings {
        let installation = self.installation();
        let mut problems = Vec::new();
        let (service, (mut health, mut status)) = tokio::join!(self.service_now(), self.ask_health());
        let program = self.program();
        if !quick && health.status == HealthStatus::Unreachable && self.learn_port().await {
            (health, status) = self.ask_health().await;
        }
        if !service.detail.is_empty() && service.process.is_none() {
            problems.push(format!("service {}: {}", service.control, service.detail));
        }

        let ums_version =
            self.version(&installation, status.as_ref(), program.as_ref().ok().filter(|_| !quick)).await;
        if ums_version.is_none() {
            problems.push(format!("the version of the UMS was not found: {}", installation.version.how));
        }
        let distributed = installation.distributed.value;
        if distributed.is_none() {
            problems.push(format!(
                "whether it is a Distributed UMS was not found: {}",
                installation.distributed.how
            ));
        }

        let ums_ids = match quick {
            true => UmsIds { reason: "umsadmin-cli was not asked".to_owned(), ..UmsIds::default() },
            false => self.read_ids().await,
        };
        let (mut update_mode, mut license) = (None, String::new());
        if let (Ok(program), false) = (&program, quick) {
            match self.cli.databases(program).await {
                Ok(ran) => update_mode = update_mode_in(&ran.raw.stdout, distributed),
                Err(error) => problems.push(format!("the data sources were not found out: {error}")),
            }
            if supports(ums_version.as_deref(), "12.09.100") {
                match self.cli.license(program).await {
                    Ok(ran) => license = shortened(&ran.raw.stdout),
                    Err(error) => problems.push(format!("the licence state was not found out: {error}")),
                }
            }
        }
        if let Err(failure) = &program {
            problems.push(failure.to_string());
        }
        Findings {
            ums_version,
            ums_ids,
            service,
            health,
            update_mode,
            distributed,
            license,
            waited: Duration::ZERO,
            problems,
        }
    }

    async fn ask_health(&self) -> (umsid_proto::model::Health, Option<ServerStatus>) {
        let (health, status) = self.probe().look().await;
        if let Some(status) = &status {
            let mut memory = self.memory();
            memory.host.clone_from(&status.host);
            if status.version.is_some() {
                memory.version.clone_from(&status.version);
            }
        }
        (health, status)
    }

    async fn version(
        &self,
        installation: &Installation,
        status: Option<&ServerStatus>,
        program: Option<&CommandLine>,
    ) -> Option<String> {
        let known = installation.version.value.clone().or_else(|| status?.version.clone());
        if known.is_some() {
            return known;
        }
        if let Some(program) = program
            && let Ok(ran) = self.cli.version(program).await
            && let Some(version) = installation::version_in(&ran.raw.stdout)
        {
            self.memory().version = Some(version);
        }
        self.memory().version.clone()
    }

    /// The UMS IDs with their evidence: `licensing list`, and `licensing export` where that leaves something open.
    pub(super) async fn read_ids(&self) -> UmsIds {
        let mut ids = UmsIds::default();
        let program = match self.program() {
            Ok(program) => program,
            Err(failure) => return UmsIds { reason: failure.to_string(), ..ids },
        };
        if self.memory().host.is_empty() {
            // Rows about servers are told apart by names, and only the UMS says which name is this server's.
            self.ask_health().await;
        }
        let words = self.words();
        let mut notes = Vec::new();
        let ran = self.cli.list(&program, true).await;
        self.take_list(ran, &words, &mut ids, &mut notes);
        if !identity::is_labelled(&ids.evidence) {
            let ran = self.cli.list(&program, false).await;
            self.take_list(ran, &words, &mut ids, &mut notes);
        }
        let wanted = match self.config.ums.export {
            UseExport::Never => false,
            UseExport::IfNeeded => !identity::is_settled(&ids.evidence, &[]),
            UseExport::Always => true,
        };
        if wanted {
            self.read_export(&program, &mut ids, &mut notes).await;
        }
        ids.reason = notes.join("; ");
        let ids = identity::conclude(ids, &words);
        self.memory().local = ids.local;
        ids
    }

    fn take_list(
        &self,
        ran: Result<Ran, ExecError>,
        words: &Words,
        ids: &mut UmsIds,
        notes: &mut Vec<String>,
    ) {
        match ran {
            Ok(ran) => {
                for evidence in identity::read(&ran.raw.stdout, words) {
                    let label = (evidence.fingerprint, evidence.label, &evidence.subject);
                    if !ids
                        .evidence
                        .iter()
                        .any(|known| (known.fingerprint, known.label, &known.subject) == label)
                    {
                        ids.evidence.push(evidence);
                    }
                }
                ids.raw.push(ran.raw);
            }
            Err(error) => {
                notes.push(error.to_string());
                ids.raw.push(error.raw());
            }
        }
    }

    async fn read_export(&self, program: &CommandLine, ids: &mut UmsIds, notes: &mut Vec<String>) {
        let version = self.installation().version.value.or_else(|| self.memory().version.clone());
        let known_without = self.memory().without_export == Some(version.clone().unwrap_or_default());
        if known_without || !supports(version.as_deref(), EXPORT_SINCE) {
            notes.push("this version has no licensing export".to_owned());
            return;
        }
        match self.export(program).await {
            Ok((raw, file)) => {
                ids.raw.push(raw);
                match identity::exported(&file, &ids.evidence) {
                    Ok((seen, evidence)) => {
                        ids.certificates.push(seen);
                        ids.evidence.extend(evidence);
                    }
                    Err(error) => notes.push(error.to_string()),
                }
            }
            Err((raw, why)) => {
                if is_unknown_command(&raw) {
                    self.memory().without_export = Some(version.unwrap_or_default());
                }
                ids.raw.push(raw);
                notes.push(format!("licensing export: {why}"));
            }
        }
    }

    /// Exports to a private directory and reads what is there then, whatever its name became.
    async fn export(&self, program: &CommandLine) -> Result<(RawOutput, Vec<u8>), (RawOutput, String)> {
        let no_room = |error: &dyn std::error::Error| {
            let raw = RawOutput { command: format!("{program} licensing export"), ..RawOutput::default() };
            (raw, error.to_string())
        };
        let dir = self.workspace.directory().map_err(|error| no_room(&error))?;
        let ran = self.cli.export(program, &dir.path().join("ums-id.crt")).await;
        let raw = ran.map_err(|error| (error.raw(), error.to_string()))?.raw;
        let files = std::fs::read_dir(dir.path()).map_err(|error| no_room(&error))?;
        let small = |path: &std::path::PathBuf| {
            std::fs::symlink_metadata(path)
                .is_ok_and(|found| found.is_file() && found.len() <= LARGEST_CERTIFICATE)
        };
        let file = files.flatten().map(|entry| entry.path()).find(small);
        match file.map(std::fs::read) {
            Some(Ok(bytes)) => Ok((raw, bytes)),
            Some(Err(error)) => Err((raw, error.to_string())),
            None => Err((raw, "it said success but wrote no file".to_owned())),
        }
    }
}

/// Whether a version, where one is known, is not older than that.
fn supports(version: Option<&str>, since: &str) -> bool {
    version.and_then(|version| installation::at_least(version, since)) != Some(false)
}

/// As picocli refuses what it does not know: exit status 2, or its words.
fn is_unknown_command(raw: &RawOutput) -> bool {
    let said = format!("{}{}", raw.stdout, raw.stderr).to_lowercase();
    raw.status == Some(2) || said.contains("unmatched argument") || said.contains("unknown option")
}

/// Whether a Distributed UMS runs on its local copy (UMS_FACTS §6): its active data source is an embedded one, while a
/// Distributed UMS has an external one. `None` where `db list` is not understood.
fn update_mode_in(text: &str, distributed: Option<bool>) -> Option<bool> {
    if distributed != Some(true) {
        return None;
    }
    let is_active = |line: &&str| {
        line.split([';', ' ', '\t'])
            .find(|word| !word.is_empty())
            .is_some_and(|first| first.eq_ignore_ascii_case("true"))
    };
    let active: Vec<&str> = text.lines().filter(is_active).collect();
    match active.as_slice() {
        [one] => Some(one.to_lowercase().contains("embedded")),
        _ => None,
    }
}

fn shortened(text: &str) -> String {
    let text = text.trim();
    let mut end = text.len().min(LICENSE_SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "ACTIVE DATABASE HOST      USER    DB-TYPE     ID\n";

    #[test]
    fn a_distributed_server_on_an_embedded_database_is_in_update_mode() {
        let embedded = format!("{HEADER}true   rmdb     localhost igelums Embedded DB  1\n");
        let external = format!(
            "{HEADER}false  rmdb localhost igelums Embedded DB 1\ntrue rmdb db1 igelums PostgreSQL 2\n"
        );
        assert_eq!(update_mode_in(&embedded, Some(true)), Some(true));
        assert_eq!(update_mode_in(&external, Some(true)), Some(false));
        assert_eq!(update_mode_in("true;rmdb;localhost;igelums;Embedded DB;1\n", Some(true)), Some(true));
    }

    #[test]
    fn update_mode_is_not_guessed() {
        assert_eq!(update_mode_in("true rmdb localhost igelums Embedded DB 1", Some(false)), None);
        assert_eq!(update_mode_in("true rmdb localhost igelums Embedded DB 1", None), None);
        assert_eq!(update_mode_in("something else", Some(true)), None);
        assert_eq!(update_mode_in("true a\ntrue b\n", Some(true)), None);
    }
}
