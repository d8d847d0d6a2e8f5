//! What a UMS Server does before its port opens: licence, automatic synchronization, making itself known.

use std::fs;
use std::io;

use super::log;
use crate::database::Database;
use crate::layout::ServerDir;
use crate::settings::{AutoSyncFails, SettingError, Settings, Start};
use crate::ums_id::{Certificate, UmsId, UmsIdError, uuid};
use crate::web;

/// Header by which servers of one installation know one another.
pub(super) const SECRET_HEADER: &str = "x-ums-cluster-secret";

/// Where Main hands out its UMS ID. What the real one is called is not documented.
pub(super) const UMS_ID_PATH: &str = "/ums/internal/ums-id";

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the UMS ID cannot be read")]
    UmsId(#[from] UmsIdError),
    #[error("the database cannot be reached")]
    Database(#[from] io::Error),
    #[error(
        "no valid license for the external database: the UMS license was not generated from this UMS ID ({0})"
    )]
    Licence(String),
    #[error("the settings cannot be read")]
    Settings(#[from] SettingError),
}

/// Why the automatic synchronization failed.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("connection refused by configuration")]
    Told,
    #[error("Main server not reachable: {0}")]
    Main(#[from] io::Error),
    #[error("Main server answered with status {0}")]
    Status(u16),
    #[error("{0}")]
    UmsId(#[from] UmsIdError),
    #[error("{0}")]
    Settings(#[from] SettingError),
}

pub(super) fn start_up(server: &ServerDir, settings: &Settings) -> Result<(), Refusal> {
    let name = server.name();
    let lab = server.lab();
    if settings.start == Start::OldId && server.former_id().exists() {
        fs::copy(server.former_id(), server.ums_id())?;
    }
    let mut ums_id = UmsId::read(&server.ums_id())?;
    let database = Database::read(&lab)?;
    // A server in update mode runs on a local copy and asks nobody (UMS_FACTS §6).
    if settings.licence_check && !settings.update_mode && !database.licensed(&name, &ums_id.fingerprint()) {
        return Err(Refusal::Licence(ums_id.fingerprint()));
    }
    let is_main = database.main == name;
    if !is_main && ums_id.fingerprint() != database.main_certificate()?.sha256() {
        match synchronize(server, settings, &database) {
            Ok(main) => {
                log(server, "INFO", "UMS ID synchronized with the Main UMS ID");
                ums_id = main;
                ums_id.write(&server.ums_id())?;
            }
            Err(error) => log(server, "ERROR", &format!("UMS ID synchronization failed: {error}")),
        }
    }
    ums_id.write(&server.running_id())?;
    let web_certificate = UmsId::read(&server.web_certificate())?.certificate();
    Database::change(&lab, |database| {
        let certificate = ums_id.certificate().pem();
        if is_main {
            database.main_ums_id.clone_from(&certificate);
        }
        if let Some(member) = database.servers.get_mut(&name) {
            member.ums_id = certificate;
            member.process_id = uuid();
            member.version.clone_from(&settings.version);
            member.web_certificate = web_certificate.pem();
        }
    })?;
    Ok(())
}

/// Fetches the Main UMS ID from the Main server's web port (UMS_FACTS §2).
fn synchronize(server: &ServerDir, settings: &Settings, database: &Database) -> Result<UmsId, SyncError> {
    match settings.auto_sync_fails {
        AutoSyncFails::False => {}
        AutoSyncFails::True => return Err(SyncError::Told),
        AutoSyncFails::Once => {
            Settings::change(server, &[("auto_sync_fails", "false")])?;
            return Err(SyncError::Told);
        }
    }
    let main = database
        .servers
        .get(&database.main)
        .ok_or_else(|| io::Error::other("the database knows no Main server"))?;
    let certificate = Certificate::from_pem(&main.web_certificate)?;
    let header = (SECRET_HEADER, database.secret.as_str());
    let (status, body) = web::get(main.port, UMS_ID_PATH, Some(header), Some(certificate.der()))?;
    if status != 200 {
        return Err(SyncError::Status(status));
    }
    Ok(UmsId::from_pem(body)?)
}
