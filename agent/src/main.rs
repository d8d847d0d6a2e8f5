//! The program: what is asked for at the command line, and how it is told what came of it.

use std::error::Error;
use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use umsid_agent::enroll::{Enrolling, Options};
#[cfg(windows)]
use umsid_agent::service::windows;
use umsid_agent::state::StateError;
use umsid_agent::ums::Ums;
use umsid_agent::ums::local::LocalUms;
use umsid_agent::{Agent, Config, manager, owner};
use umsid_common::telemetry::{self, LogFormat};
use umsid_common::tls::Tls;

#[cfg(unix)]
use umsid_agent::helper::SOCKET;

/// Beside one UMS Server: backs up, restores and restarts by the vendor's own tools, as `umsid` tells it.
#[derive(Parser)]
#[command(name = "umsid-agent", version, max_term_width = 100)]
struct Cli {
    /// The configuration file; without it the standard one, which may be missing.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Get this server its certificate: prints a pairing code and waits for `umsid enroll`.
    Enroll {
        /// Listen here while waiting, instead of where the agent will.
        #[arg(long, value_name = "ADDRESS:PORT")]
        listen: Option<SocketAddr>,
        /// A join file made by the coordinator, instead of a pairing code; `-`: from standard input.
        #[arg(long, value_name = "FILE")]
        join: Option<PathBuf>,
        /// Replace the enrolment there is. The safety backups stay.
        #[arg(long)]
        again: bool,
    },
    /// Serve, until told to stop.
    Run {
        /// Have what needs the UMS Server's rights done by umsid-helper, at this socket.
        #[cfg_attr(unix, arg(long, value_name = "SOCKET"))]
        #[cfg_attr(not(unix), arg(skip))]
        helper: Option<PathBuf>,
    },
    /// Show everything the agent finds out about the UMS on this host, how, and what it could not find.
    Doctor {
        /// Where the helper is called, if the agent has one.
        #[cfg_attr(unix, arg(long, value_name = "SOCKET", default_value = SOCKET))]
        #[cfg_attr(not(unix), arg(skip))]
        helper: PathBuf,
    },
    /// Be a Windows service.
    #[cfg(windows)]
    Service {
        #[command(subcommand)]
        command: ServiceCommand,
    },
    /// Start or stop a service, and come back when that is done: how the agent restarts the UMS Server.
    #[cfg(windows)]
    #[command(hide = true)]
    Control {
        /// What to do with it.
        verb: windows::Verb,
        /// Its name.
        name: String,
    },
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into this directory.
    #[command(hide = true)]
    Man {
        /// Which.
        dir: PathBuf,
    },
}

/// What there is to do with a Windows service.
#[cfg(windows)]
#[derive(Subcommand)]
enum ServiceCommand {
    /// Install the agent as a service that is started with the system; one that is there is brought up to date.
    Install,
    /// Stop the service and remove it. Enrolment, records and backups stay.
    Uninstall,
    /// Start it, and wait until it runs.
    Start,
    /// Stop it, and wait until it has stopped: an operation that is going on may come to its end.
    Stop,
    /// What the service manager calls.
    #[command(hide = true)]
    Run,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    umsid_common::memory::close_to_others();
    match begin(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told if this cannot be written.
            let _ = tell(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn tell(error: &(dyn Error + 'static)) -> std::io::Result<()> {
    let mut out = std::io::stderr().lock();
    writeln!(out, "umsid-agent: {error}")?;
    let mut remedy = None;
    let mut cause = Some(error);
    while let Some(error) = cause {
        remedy = remedy.or_else(|| error.downcast_ref::<StateError>()?.remedy());
        cause = error.source();
        if let Some(cause) = cause {
            writeln!(out, "  because: {cause}")?;
        }
    }
    remedy.map_or(Ok(()), |remedy| writeln!(out, "  what to do: {remedy}"))
}

fn begin(cli: &Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "umsid-agent", &mut script);
            return std::io::stdout().write_all(&script).context("the script cannot be written");
        }
        Command::Man { dir } => {
            return clap_mangen::generate_to(Cli::command(), dir).context("the pages cannot be written");
        }
        #[cfg(windows)]
        Command::Control { verb, name } => return Ok(windows::control(*verb, name, &mut std::io::stdout())?),
        #[cfg(windows)]
        Command::Service { command } => return service(cli, command),
        Command::Enroll { .. } | Command::Run { .. } | Command::Doctor { .. } => {}
    }
    let config = Config::load(cli.config.as_deref())?;
    if let Command::Enroll { join, .. } = &cli.command {
        owner::become_owner(&config.state_dir, join.as_deref())?;
    }
    let format = if config.log.json { LogFormat::Json } else { LogFormat::Text };
    telemetry::to_stderr(format, &config.log.filter);
    runtime()?.block_on(async {
        match &cli.command {
            Command::Run { helper } => run(&config, helper.as_deref(), told_to_stop()?).await,
            Command::Doctor { helper } => doctor(&config, helper).await,
            Command::Enroll { listen, join, again } => {
                let options =
                    Options { listen: *listen, join: join.clone(), again: *again, ..Options::default() };
                enroll(&config, &options).await
            }
            #[cfg(windows)]
            Command::Service { .. } | Command::Control { .. } => Ok(()),
            Command::Completions { .. } | Command::Man { .. } => Ok(()),
        }
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // An agent waits most of its life: two threads are plenty, and a small stack of them little memory.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

#[cfg(windows)]
fn service(cli: &Cli, command: &ServiceCommand) -> anyhow::Result<()> {
    use umsid_agent::manager::windows as manager;
    let mut out = std::io::stdout();
    let config = cli.config.as_deref();
    match command {
        ServiceCommand::Install => manager::install(config, &mut out),
        ServiceCommand::Uninstall => manager::uninstall(config, &mut out),
        ServiceCommand::Start => manager::start(&mut out),
        ServiceCommand::Stop => manager::stop(&mut out),
        ServiceCommand::Run => {
            manager::serve(config, |config, stop| runtime()?.block_on(run(config, None, stop)))
        }
    }
}

async fn run(config: &Config, helper: Option<&Path>, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let ums: Arc<dyn Ums> = match helper {
        Some(socket) => through(socket, config).await?,
        None => Arc::new(LocalUms::new(config)?),
    };
    let agent = Agent::bind(config, ums).await?;
    reload_when_told(agent.credentials())?;
    manager::ready();
    let stop = async {
        stop.await;
        manager::stopping();
    };
    Ok(manager::lives_during(agent.serve(stop)).await?)
}

#[cfg(unix)]
async fn through(socket: &Path, config: &Config) -> anyhow::Result<Arc<dyn Ums>> {
    let helper = umsid_agent::helper::RemoteUms::connect(socket, config).await;
    Ok(Arc::new(helper.map_err(|failure| anyhow::anyhow!("{failure}; {}", failure.remedy))?))
}

#[cfg(not(unix))]
async fn through(_: &Path, _: &Config) -> anyhow::Result<Arc<dyn Ums>> {
    anyhow::bail!("there is no helper on this system: the service itself has the rights it needs")
}

async fn enroll(config: &Config, options: &Options) -> anyhow::Result<()> {
    let stop = told_to_stop()?;
    let enrolling = Enrolling::begin(config, options).await?;
    let address = enrolling.local_addr();
    let minutes = enrolling.patience().as_secs().div_ceil(60);
    let mut talk = std::io::stderr();
    match enrolling.code() {
        Some(code) => {
            writeln!(talk, "Listening on {address} for {minutes} minutes. Type where the coordinator is:")?;
            writeln!(talk, "  umsid enroll THIS-HOST:{} --cluster CLUSTER --code CODE", address.port())?;
            writeln!(talk, "with this code:")?;
            let mut out = std::io::stdout();
            writeln!(out, "{code}")?;
            out.flush()?;
        }
        None => writeln!(
            talk,
            "Listening on {address} for {minutes} minutes, for the holder of the join file's twin."
        )?,
    }
    let me = enrolling.complete(stop).await?;
    writeln!(talk, "Enrolled as {}.", me.identity())?;
    writeln!(talk, "Start the agent now: {}", manager::how_to_start())?;
    Ok(())
}

async fn doctor(config: &Config, helper: &Path) -> anyhow::Result<()> {
    if umsid_agent::doctor::show(config, helper, &mut std::io::stdout()).await? {
        return Ok(());
    }
    anyhow::bail!("something the agent needs is missing: see above")
}

#[cfg(unix)]
fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(not(unix))]
fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close};
    let mut interrupt = ctrl_c().context("cannot listen for Ctrl-C")?;
    let mut quit = ctrl_break().context("cannot listen for Ctrl-Break")?;
    let mut close = ctrl_close().context("cannot listen for the end of the console")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = close.recv() => {}
        }
    })
}

/// SIGHUP: somebody has replaced certificate files by hand.
#[cfg(unix)]
fn reload_when_told(tls: Arc<Tls>) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match tls.reload() {
                Ok(changed) => tracing::info!(changed, "certificates loaded again"),
                Err(error) => tracing::error!(
                    error = &error as &(dyn Error + 'static),
                    "the certificates cannot be loaded again; those in use stay"
                ),
            }
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn reload_when_told(_tls: Arc<Tls>) -> anyhow::Result<()> {
    Ok(())
}
