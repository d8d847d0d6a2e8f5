//! Making an installation: directories, programs, scripts, certificates, database.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{Doing as _, LabError, Options};
use crate::database::{Database, Licence, Member};
use crate::description::{Description, Server};
use crate::dialects::{dialect, dialects};
use crate::layout::{LabDir, PROGRAMS, SERVER_VARIABLE, ServerDir};
use crate::settings::Settings;
use crate::store::{self, Access};
use crate::ums_id::{UmsId, uuid};
use crate::{ports, service};

/// Most servers in a lab.
const MOST: usize = 50;

pub(super) fn raise(dir: &Path, options: &Options, owner: Option<u32>) -> Result<(), LabError> {
    if options.servers == 0 || options.servers > MOST || options.sites == 0 || options.sites > options.servers
    {
        return Err(LabError::Size { servers: options.servers, sites: options.sites });
    }
    let settings = settings(options)?;
    let lab = empty_directory(dir)?;
    furnish(&lab, options, &settings, owner).inspect_err(|_| {
        // It was empty: nothing but ours is in it, and half a lab is of no use.
        let _ = fs::remove_dir_all(lab.path());
    })
}

fn furnish(lab: &LabDir, options: &Options, settings: &Settings, owner: Option<u32>) -> Result<(), LabError> {
    link_programs(lab)?;
    let mut description = Description {
        dir: lab.path().to_owned(),
        cluster: options.cluster.clone(),
        version: settings.version.clone(),
        owner,
        servers: Vec::new(),
    };
    for number in 0..options.servers {
        let name = format!("ums{}", number + 1);
        let directory = lab.server(&name);
        description.servers.push(Server {
            host: format!("{name}.{}", options.cluster),
            site: format!("site{}", number % options.sites + 1),
            dir: directory.path().to_owned(),
            install_dir: directory.install(),
            umsadmin_cli: directory.umsadmin_cli(),
            init_script: directory.init_script(),
            pid_file: directory.pid_file(),
            https_port: ports::reserve(lab).doing("reserve a port")?,
            name,
        });
    }

    // Every server makes a UMS ID of its own at installation; the first one's becomes the Main UMS ID (UMS_FACTS §2).
    let main = UmsId::generate(&options.cluster)?;
    let mut own = BTreeMap::new();
    let mut members = BTreeMap::new();
    for (number, server) in description.servers.iter().enumerate() {
        let ums_id = if number == 0 { main.clone() } else { UmsId::generate(&options.cluster)? };
        let web_certificate = UmsId::generate(&server.host)?;
        own.insert(server.name.clone(), vec![ums_id.fingerprint()]);
        members.insert(
            server.name.clone(),
            Member {
                host: server.host.clone(),
                port: server.https_port,
                process_id: uuid(),
                version: settings.version.clone(),
                web_certificate: web_certificate.certificate().pem(),
                ums_id: main.certificate().pem(),
            },
        );
        install(lab, &lab.server(&server.name), settings, &main, &web_certificate)?;
    }
    let licence = Licence {
        level: "SUB_SERVICE_SET_UMS_ENTERPRISE".to_owned(),
        expires: "2046-01-01T00:00:00".to_owned(),
        generated_from: vec![main.fingerprint()],
        own,
    };
    let database = Database {
        cluster_fqdn: options.cluster.clone(),
        distributed: true,
        main: description.servers[0].name.clone(),
        main_ums_id: main.certificate().pem(),
        secret: uuid(),
        licence,
        servers: members,
    };
    database.create(lab).doing("write the database")?;
    description.write(lab).doing("write the lab's description")
}

fn settings(options: &Options) -> Result<Settings, LabError> {
    let mut settings = Settings::default();
    for name in &options.dialects {
        let Some(dialect) = dialect(name) else {
            let known = dialects().iter().map(|dialect| dialect.name).collect();
            return Err(LabError::NoDialect { name: name.clone(), known });
        };
        for (key, value) in dialect.settings {
            settings = settings.with(key, value)?;
        }
    }
    for (key, value) in &options.settings {
        settings = settings.with(key, value)?;
    }
    Ok(settings)
}

fn empty_directory(dir: &Path) -> Result<LabDir, LabError> {
    let what = || format!("make the directory {}", dir.display());
    fs::create_dir_all(dir).doing(what())?;
    let dir = dir.canonicalize().doing(what())?;
    if fs::read_dir(&dir).doing(what())?.next().is_some() {
        return Err(LabError::NotEmpty(dir));
    }
    Ok(LabDir::new(dir))
}

/// Links the programs beside this one into the lab; copies them where they lie on another disk.
fn link_programs(lab: &LabDir) -> Result<(), LabError> {
    fs::create_dir_all(lab.bin()).doing("make the lab's bin directory")?;
    let program = std::env::current_exe().doing("find the running program")?;
    for name in PROGRAMS {
        let name = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        let (from, to) = (program.with_file_name(&name), lab.bin().join(&name));
        fs::hard_link(&from, &to)
            .or_else(|_| fs::copy(&from, &to).map(drop))
            .doing(format!("link {} (`cargo build -p umsid-lab` builds it)", from.display()))?;
    }
    Ok(())
}

fn install(
    lab: &LabDir,
    server: &ServerDir,
    settings: &Settings,
    ums_id: &UmsId,
    web_certificate: &UmsId,
) -> Result<(), LabError> {
    ums_id.write(&server.ums_id())?;
    web_certificate.write(&server.web_certificate())?;
    settings.write(server)?;
    let mode = "configsettings.HA_DISTRIBUTED_MODE=true\n";
    let cli = script(lab, server, "umsadmin-cli", "\"$@\"");
    let init = format!(
        "{INIT_HEADER}{}",
        script(lab, server, service::PROGRAM, "init \"$@\"").trim_start_matches("#!/bin/sh\n")
    );
    for (path, text, access) in [
        (server.install().join("rmguiserver/conf/dbsetup_options.properties"), mode, Access::Public),
        (server.install().join("rmadmin/umsadmin-cli"), &cli, Access::Program),
        (server.umsadmin_cli(), &cli, Access::Program),
        (server.init_script(), &init, Access::Program),
    ] {
        store::replace(&path, text.as_bytes(), access).doing(format!("write {}", path.display()))?;
    }
    Ok(())
}

const INIT_HEADER: &str = "#!/bin/sh
### BEGIN INIT INFO
# Provides:          igelRMserver
# Required-Start:    $network
# Required-Stop:     $network
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: IGEL RMGUIServer
### END INIT INFO
";

/// A script that runs a program of the lab for this server, in whatever environment and directory it is called.
fn script(lab: &LabDir, server: &ServerDir, program: &str, arguments: &str) -> String {
    format!(
        "#!/bin/sh\n{SERVER_VARIABLE}={}\nexport {SERVER_VARIABLE}\nexec {} {arguments}\n",
        quoted(server.path()),
        quoted(&lab.bin().join(program))
    )
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}
