//! `umsadmin-cli licensing …`: what is done to UMS IDs.

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::{Backup, Export, Password, Restore};
use super::id_list::{OfServer, UmsIds};
use super::table::Style;
use super::{Failure, fail};
use crate::database::Database;
use crate::layout::ServerDir;
use crate::service;
use crate::settings::{
    self, Gives, MainSeen, Outfile, OutfileExists, PasswordNewline, RestoreGives, Settings,
};
use crate::ums_id::{Certificate, UmsId};

pub(super) fn list(server: &ServerDir, settings: &Settings, style: &Style) -> Result<String, Failure> {
    let database = Database::read(&server.lab())?;
    let local = shown(server, settings)?.certificate();
    let (main, main_server) = match settings.main_seen {
        MainSeen::Database => (database.main_certificate()?, Some(database.main.clone())),
        MainSeen::Itself => (local.clone(), Some(server.name())),
        // Some certificate that is no UMS ID, the same for all who ask.
        MainSeen::Stranger => {
            (Certificate::from_pem(&database.servers[&database.main].web_certificate)?, None)
        }
    };
    let mut servers = Vec::new();
    for (name, member) in database.servers {
        let ums_id =
            if name == server.name() { local.clone() } else { Certificate::from_pem(&member.ums_id)? };
        servers.push(OfServer { host: member.host, is_main: main_server.as_ref() == Some(&name), ums_id });
    }
    let ids = UmsIds { main, local, servers };
    Ok(ids.print(settings, style))
}

/// The local UMS ID that `list` and `export` show.
fn shown(server: &ServerDir, settings: &Settings) -> Result<UmsId, Failure> {
    let running = settings.list_from == settings::From::Running
        && service::running(server).is_some()
        // A server that has just begun has not read its UMS ID yet.
        && server.running_id().exists();
    Ok(UmsId::read(&if running { server.running_id() } else { server.ums_id() })?)
}

/// Main's UMS ID, wherever Main keeps it.
fn of_main(server: &ServerDir) -> Result<UmsId, Failure> {
    let lab = server.lab();
    let main = Database::read(&lab)?.main;
    Ok(UmsId::read(&lab.server(&main).ums_id())?)
}

pub(super) fn backup(
    server: &ServerDir,
    settings: &Settings,
    options: &Backup,
    effect: bool,
) -> Result<String, Failure> {
    let file = outfile(&options.outfile, settings.outfile);
    let said = format!("The UMS ID was backed up to {}\n", file.display());
    if !effect {
        return Ok(said);
    }
    let password = password(&options.password, settings)?;
    if file.exists() && settings.outfile_exists == OutfileExists::Refuse {
        return fail(format!("The file {} already exists", file.display()));
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if options.parent {
        fs::create_dir_all(parent)?;
    } else if !parent.is_dir() {
        return fail(format!("The directory {} does not exist", parent.display()));
    }
    std::thread::sleep(Duration::from_millis(settings.backup_delay_ms));
    let content = if settings.empty_backup {
        Vec::new()
    } else {
        let ums_id = match settings.backup_gives {
            Gives::Local => UmsId::read(&server.ums_id())?,
            Gives::Main => of_main(server)?,
        };
        ums_id.backup(&password, &server.name(), &settings.version, settings.backup_size)?
    };
    write_plainly(&file, &content)?;
    Ok(said)
}

/// The name the backup really gets.
fn outfile(given: &Path, how: Outfile) -> PathBuf {
    let append = match how {
        Outfile::AsGiven => false,
        Outfile::AppendKsbak => true,
        Outfile::ForcedIfMissing => given.extension().is_none_or(|extension| extension != "ksbak"),
    };
    if !append {
        return given.to_owned();
    }
    let mut name = given.as_os_str().to_owned();
    name.push(".ksbak");
    PathBuf::from(name)
}

pub(super) fn restore(
    server: &ServerDir,
    settings: &Settings,
    options: &Restore,
    effect: bool,
) -> Result<String, Failure> {
    let said = "The UMS ID was restored\n".to_owned();
    if !effect {
        return Ok(said);
    }
    let password = password(&options.password, settings)?;
    if settings.restore == settings::Restore::NeedsStopped && service::running(server).is_some() {
        return fail("The UMS Server is running. Stop it before the UMS ID is restored".to_owned());
    }
    let file = fs::read(&options.file).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => fail(format!("The file {} does not exist", options.file.display())),
        _ => Err(error.into()),
    })?;
    let mut ums_id = UmsId::from_backup(&file, &password)?;
    match settings.restore_gives {
        RestoreGives::File => {}
        RestoreGives::Other => ums_id = UmsId::generate(&Database::read(&server.lab())?.cluster_fqdn)?,
        RestoreGives::WrongCluster => ums_id = UmsId::generate("ums.another-installation.example")?,
    }
    std::thread::sleep(Duration::from_millis(settings.restore_delay_ms));
    put(server, &ums_id)?;
    if settings.restore == settings::Restore::StopsServer {
        service::stop(server)?;
    }
    Ok(said)
}

pub(super) fn create(server: &ServerDir, effect: bool) -> Result<String, Failure> {
    if effect {
        put(server, &UmsId::generate(&Database::read(&server.lab())?.cluster_fqdn)?)?;
    }
    Ok("A new UMS ID was created\n".to_owned())
}

/// Puts a UMS ID in the place of the server's own. Nothing of the old one is kept where the UMS would find it.
fn put(server: &ServerDir, ums_id: &UmsId) -> Result<(), Failure> {
    UmsId::read(&server.ums_id())?.write(&server.former_id())?;
    Ok(ums_id.write(&server.ums_id())?)
}

pub(super) fn export(
    server: &ServerDir,
    settings: &Settings,
    options: &Export,
    effect: bool,
) -> Result<String, Failure> {
    let file = &options.outfile;
    let said = format!("The certificate was exported to {}\n", file.display());
    if !effect {
        return Ok(said);
    }
    if file.exists() && !options.force {
        return fail(format!("The file {} already exists. Use --force to overwrite it", file.display()));
    }
    let certificate = match settings.export_gives {
        Gives::Local => shown(server, settings)?.certificate(),
        Gives::Main => of_main(server)?.certificate(),
    };
    match settings.export {
        settings::Export::Der => write_plainly(file, certificate.der())?,
        _ => write_plainly(file, certificate.pem().as_bytes())?,
    }
    Ok(said)
}

fn password(from: &Password, settings: &Settings) -> Result<String, Failure> {
    let Some(file) = &from.file else { return password_from_console() };
    let mut password = fs::read_to_string(file)
        .or_else(|error| fail(format!("The password file {} cannot be read: {error}", file.display())))?;
    if password.ends_with('\n') {
        match settings.password_newline {
            PasswordNewline::Kept => {}
            PasswordNewline::Stripped => password.truncate(password.trim_end_matches(['\r', '\n']).len()),
            PasswordNewline::Rejected => {
                return fail("The password contains characters which are not allowed".to_owned());
            }
        }
    }
    if password.is_empty() {
        return fail("The password must not be empty".to_owned());
    }
    Ok(password)
}

/// Without a terminal it is unreliable (UMS_FACTS §3): here it fails.
fn password_from_console() -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return fail("No console available to read the password from".to_owned());
    }
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Writes as any program does: over what is there, and not in one step.
fn write_plainly(file: &Path, content: &[u8]) -> io::Result<()> {
    use io::Write as _;
    fs::File::create(file)?.write_all(content)
}
