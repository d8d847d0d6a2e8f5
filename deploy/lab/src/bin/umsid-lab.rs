//! `umsid-lab`: makes a UMS installation to try things on, breaks it, and takes it down again.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use umsid_lab::{Break, Lab, Options, Server, Truth};

/// A UMS installation to try things on, on loopback and in a directory of its own
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an installation and start its servers
    Up(Up),
    /// Put servers out of sync, so that a restart does not help
    Break {
        /// The servers
        #[arg(required = true, value_name = "SERVER")]
        servers: Vec<String>,
        /// Let the next restart put it right
        #[arg(long)]
        fixable_by_restart: bool,
        #[command(flatten)]
        dir: Dir,
    },
    /// Show how things really stand
    Status {
        #[command(flatten)]
        dir: Dir,
        #[command(flatten)]
        format: Format,
    },
    /// Change settings of a server, or of all
    #[command(after_long_help = umsid_lab::KEYS)]
    Set {
        /// The server, or `all`
        server: String,
        /// Settings; `--help` explains all keys
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
        #[command(flatten)]
        dir: Dir,
    },
    /// List the dialects
    Dialects,
    /// Make another server Main, as a fail-over would
    Main {
        /// The server
        server: String,
        #[command(flatten)]
        dir: Dir,
    },
    /// Stop the servers and remove the directory
    Down {
        /// Leave the directory
        #[arg(long)]
        keep: bool,
        #[command(flatten)]
        dir: Dir,
    },
}

#[derive(Args)]
struct Dir {
    /// The lab's directory
    #[arg(long, default_value = "target/umsid-lab/default")]
    dir: PathBuf,
}

#[derive(Args)]
struct Format {
    /// How to print
    #[arg(short, long, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Args)]
struct Up {
    /// How many servers
    #[arg(long, default_value_t = 3)]
    servers: usize,
    /// How many sites they stand at
    #[arg(long, default_value_t = 2)]
    sites: usize,
    /// Name of the installation
    #[arg(long, default_value = "ums.lab.example")]
    cluster: String,
    /// UMS version
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// How the UMS speaks; several may be named (`umsid-lab dialects` lists them)
    #[arg(long, value_name = "NAME")]
    dialect: Vec<String>,
    /// Duration of every call of umsadmin-cli, ms; a real one takes a second or more
    #[arg(long, default_value_t = 0, value_name = "MS")]
    ums_delay_ms: u32,
    /// How long a server's health is `init` after a start, ms
    #[arg(long, default_value_t = 25, value_name = "MS")]
    init_ms: u32,
    /// How often health is computed, ms; a real server does it once a minute
    #[arg(long, default_value_t = 25, value_name = "MS")]
    period_ms: u32,
    /// A setting of every server; `umsid-lab set --help` explains all keys
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// End the servers when this process ends
    #[arg(long, hide = true)]
    owner: Option<u32>,
    #[command(flatten)]
    dir: Dir,
    #[command(flatten)]
    format: Format,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[expect(clippy::print_stderr, reason = "an error of the program goes to stderr")]
fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("umsid-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match command {
        Command::Up(up) => raise(up, &mut out)?,
        Command::Break { servers, fixable_by_restart, dir } => {
            let how = if fixable_by_restart { Break::FixableByRestart } else { Break::Lasting };
            Lab::at(&dir.dir)?.break_servers(&names(&servers), how)?;
        }
        Command::Status { dir, format } => {
            let truth = Lab::at(&dir.dir)?.truth()?;
            match format.output {
                Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&truth)?)?,
                Output::Table => show_truth(&truth, &mut out)?,
            }
        }
        Command::Set { server, settings, dir } => {
            let lab = Lab::at(&dir.dir)?;
            let all: Vec<String> = match server.as_str() {
                "all" => lab.servers().iter().map(|server| server.name.clone()).collect(),
                _ => vec![server],
            };
            lab.set_many(&names(&all), &settings)?;
        }
        Command::Dialects => {
            for dialect in umsid_lab::dialects() {
                writeln!(out, "{:<26} {}", dialect.name, dialect.description)?;
            }
        }
        Command::Main { server, dir } => Lab::at(&dir.dir)?.make_main(&server)?,
        Command::Down { keep: true, dir } => Lab::at(&dir.dir)?.down_keeping_files(),
        Command::Down { keep: false, dir } => Lab::at(&dir.dir)?.down()?,
    }
    Ok(())
}

fn raise(up: Up, out: &mut impl Write) -> anyhow::Result<()> {
    let mut settings = vec![
        ("delay_ms".to_owned(), up.ums_delay_ms.to_string()),
        ("init_ms".to_owned(), up.init_ms.to_string()),
        ("period_ms".to_owned(), up.period_ms.to_string()),
    ];
    settings.extend(up.version.map(|version| ("version".to_owned(), version)));
    settings.extend(up.set);
    let options = Options {
        servers: up.servers,
        sites: up.sites,
        cluster: up.cluster,
        dialects: up.dialect,
        settings,
        ..Options::default()
    };
    let lab = Lab::raise(&up.dir.dir, &options, up.owner)?;
    match up.format.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(lab.description())?)?,
        Output::Table => show_servers(lab.servers(), out)?,
    }
    Ok(())
}

fn names(servers: &[String]) -> Vec<&str> {
    servers.iter().map(String::as_str).collect()
}

fn show_servers(servers: &[Server], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<8} {:<7} {:<6} UMSADMIN-CLI", "SERVER", "SITE", "HTTPS")?;
    for server in servers {
        let cli = server.umsadmin_cli.display();
        writeln!(out, "{:<8} {:<7} {:<6} {cli}", server.name, server.site, server.https_port)?;
    }
    Ok(())
}

fn show_truth(truth: &Truth, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:<8} {:<7} {:<12} {:<8} {:<6} FINGERPRINT", "SERVER", "SITE", "UMS ID", "PID", "STARTS")?;
    for server in &truth.servers {
        let state = match server {
            server if server.needs_restart => "restart due",
            server if server.is_main => "main",
            server if server.in_sync => "in sync",
            _ => "not in sync",
        };
        let pid = server.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let (name, site, starts) = (&server.name, &server.site, server.starts);
        writeln!(out, "{name:<8} {site:<7} {state:<12} {pid:<8} {starts:<6} {}", server.fingerprint)?;
    }
    Ok(())
}
