//! The stand-in `umsadmin-cli`: options and tables as documented (UMS_FACTS §3), the rest as the server's settings say.

mod arguments;
mod id_list;
mod licensing;
mod misbehaviour;
mod state;
mod table;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::time::Duration;

use clap::Parser as _;

use self::arguments::{Arguments, Command, Licensing, Service};
use self::table::Style;
use crate::books::Call;
use crate::database::Database;
use crate::layout::ServerDir;
use crate::service::{self, ServiceError};
use crate::settings::{Errors, Export, MachineReadable, SettingError, Settings};
use crate::store;
use crate::ums_id::UmsIdError;

pub use self::misbehaviour::hold;
pub(crate) use self::misbehaviour::{after_effect, before, leave_child};

/// Exit code of wrong usage, as picocli's.
const USAGE: u8 = 2;

/// Why a sub-command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    UmsId(#[from] UmsIdError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Settings(#[from] SettingError),
    #[error(transparent)]
    File(#[from] io::Error),
}

fn fail<T>(text: String) -> Result<T, Failure> {
    Err(Failure::Refused(text))
}

/// What one call prints and how it ends.
#[derive(Debug, Default)]
struct Answer {
    stdout: String,
    stderr: String,
    exit: u8,
}

/// Runs `umsadmin-cli` with these arguments (the program's name first) at `server`. The answer is the exit code.
pub(crate) fn run(server: &ServerDir, argv: &[OsString]) -> io::Result<u8> {
    let given: Vec<String> =
        argv.iter().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let call = Call::begin(server, "umsadmin-cli", &given)?;
    let settings = Settings::read(server).map_err(io::Error::other)?;
    let answer = if settings.exclusive {
        store::locked_or_none(&server.cli_lock(), || answer(server, &settings, argv))?
            .unwrap_or_else(|| failed(&settings, "Another instance of umsadmin-cli is running"))
    } else {
        answer(server, &settings, argv)
    };
    // Whoever listens may have gone away: no reason to end differently.
    let _ = io::stdout().write_all(answer.stdout.as_bytes());
    let _ = io::stderr().write_all(answer.stderr.as_bytes());
    call.end(server, answer.exit.into())?;
    Ok(answer.exit)
}

fn answer(server: &ServerDir, settings: &Settings, argv: &[OsString]) -> Answer {
    std::thread::sleep(Duration::from_millis(settings.delay_ms));
    let arguments = match Arguments::try_parse_from(argv) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => {
            return Answer { stderr: error.to_string(), exit: USAGE, ..Answer::default() };
        }
        Err(help) => return Answer { stdout: help.to_string(), ..Answer::default() },
    };
    if arguments.version {
        misbehaviour::before(settings, "version");
        let stdout = format!("umsadmin-cli {}\n", settings.version);
        return finish(settings, &arguments, Answer { stdout, ..Answer::default() });
    }
    let Some(command) = &arguments.command else {
        let stderr = "Missing required subcommand\nUsage: umsadmin-cli [OPTIONS] [COMMAND]\n".to_owned();
        return Answer { stderr, exit: USAGE, ..Answer::default() };
    };
    let (name, since) = command.name();
    let missing =
        name == "licensing export" && settings.export == Export::Missing || !settings.at_least(since);
    if missing {
        let word = name.rsplit(' ').next().unwrap_or(name);
        let stderr = format!("Unmatched argument: '{word}'\nUsage: umsadmin-cli [OPTIONS] [COMMAND]\n");
        return Answer { stderr, exit: USAGE, ..Answer::default() };
    }
    misbehaviour::before(settings, name);
    let result = if settings.fails.has(name) {
        fail("Internal error: java.lang.NullPointerException".to_owned())
    } else {
        carry_out(server, settings, &arguments, command, !settings.exit_zero_no_effect.has(name))
    };
    if result.is_ok() {
        misbehaviour::after_effect(settings, name);
    }
    let answer = match result {
        Ok(_) if settings.fails_after_effect.has(name) => {
            failed(settings, "Internal error: java.lang.NullPointerException")
        }
        Ok(stdout) => Answer { stdout, ..Answer::default() },
        Err(error) => failed(settings, &error.to_string()),
    };
    if settings.leaves_child.has(name) {
        misbehaviour::leave_child(server);
    }
    finish(settings, &arguments, answer)
}

fn failed(settings: &Settings, text: &str) -> Answer {
    let text = format!("Error: {text}\n");
    match settings.errors {
        Errors::Exit1 => Answer { stderr: text, exit: 1, ..Answer::default() },
        Errors::Exit0OnStderr => Answer { stderr: text, ..Answer::default() },
        Errors::Exit0WithText => Answer { stdout: text, ..Answer::default() },
    }
}

fn finish(settings: &Settings, arguments: &Arguments, mut answer: Answer) -> Answer {
    if settings.noise {
        misbehaviour::add_noise(&mut answer.stdout, &mut answer.stderr);
    }
    if arguments.quiet {
        answer.stdout.clear();
        answer.stderr.clear();
    }
    answer
}

/// Does what was asked for, or only says so when it is to have no effect.
fn carry_out(
    server: &ServerDir,
    settings: &Settings,
    arguments: &Arguments,
    command: &Command,
    effect: bool,
) -> Result<String, Failure> {
    let style = style(settings, arguments);
    match command {
        Command::Licensing(Licensing::List) => licensing::list(server, settings, &style),
        Command::Licensing(Licensing::Backup(options)) => {
            licensing::backup(server, settings, options, effect)
        }
        Command::Licensing(Licensing::Restore(options)) => {
            licensing::restore(server, settings, options, effect)
        }
        Command::Licensing(Licensing::Export(options)) => {
            licensing::export(server, settings, options, effect)
        }
        Command::Licensing(Licensing::Create) => licensing::create(server, effect),
        Command::Server(service) => control(server, service, effect),
        Command::WebCerts(arguments::WebCerts::List) => state::web_certs(server, &style),
        Command::WebCerts(arguments::WebCerts::ListAssignedServer { fingerprint }) => {
            state::assigned_servers(server, fingerprint, &style)
        }
        Command::UmsCluster(_) => state::cluster(server, &style),
        Command::Ports(_) => state::ports(server, &style),
        Command::Db(_) => state::databases(server, settings, &style),
        Command::UmsLicense(_) => state::licence(server),
    }
}

fn control(server: &ServerDir, service: &Service, effect: bool) -> Result<String, Failure> {
    let said = match service {
        Service::Start => "UMS Server started\n",
        Service::Stop => "UMS Server stopped\n",
        Service::Restart => "UMS Server restarted\n",
        Service::EndUpdateMode => "Update mode ended\n",
    };
    if effect {
        match service {
            Service::Start => service::start(server)?,
            Service::Stop => service::stop(server)?,
            Service::Restart => service::restart(server)?,
            Service::EndUpdateMode => Settings::change(server, &[("update_mode", "false")])?,
        }
    }
    Ok(said.to_owned())
}

fn style(settings: &Settings, arguments: &Arguments) -> Style {
    let separator = match (settings.machine_readable, &arguments.separator) {
        (MachineReadable::Ignored, _) => None,
        (MachineReadable::Honoured, Some(separator)) => Some(separator.clone()),
        (MachineReadable::Honoured, None) => arguments.machine_readable.then(|| ";".to_owned()),
    };
    Style { separator, header: !arguments.no_header }
}

/// Whether the server's own database answers: what every listing needs.
fn database(server: &ServerDir) -> Result<Database, Failure> {
    Ok(Database::read(&server.lab())?)
}
