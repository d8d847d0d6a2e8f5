//! The privileged half of an agent, where it comes in two: see `umsid_agent::helper`.

#[cfg(not(unix))]
fn main() {}

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    unix::main()
}

#[cfg(unix)]
mod unix {
    use std::io::Write as _;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;
    use std::sync::Arc;
    use std::time::Duration;

    use anyhow::Context as _;
    use clap::{CommandFactory as _, Parser};
    use tokio::net::UnixListener;
    use tokio::signal::unix::{SignalKind, signal};
    use umsid_agent::helper::{self, Helper};
    use umsid_agent::ums::local::LocalUms;
    use umsid_agent::{Config, exec};
    use umsid_common::durable;
    use umsid_common::telemetry::{self, LogFormat};

    /// Does for the agent what needs the rights of the UMS Server's owner. systemd starts it when the agent calls.
    #[derive(Parser)]
    #[command(name = "umsid-helper", version, max_term_width = 100)]
    struct Cli {
        /// The agent's configuration file; without it the standard one, which may be missing.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where it keeps what it needs for itself.
        #[arg(long, value_name = "DIR", default_value = helper::STATE_DIR)]
        state_dir: PathBuf,
        /// Ends when nothing was asked for this many seconds; systemd starts it again.
        #[arg(long, value_name = "SECONDS")]
        idle: Option<u64>,
        /// Listens here, where no service manager hands over a socket.
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// Writes the manual page into this directory, and does nothing else.
        #[arg(long, value_name = "DIR", hide = true)]
        man: Option<PathBuf>,
    }

    pub(super) fn main() -> ExitCode {
        let cli = Cli::parse();
        umsid_common::memory::close_to_others();
        match run(&cli) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // Nobody is left to be told if this cannot be written.
                let _ = writeln!(std::io::stderr(), "umsid-helper: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn run(cli: &Cli) -> anyhow::Result<()> {
        if let Some(dir) = &cli.man {
            return clap_mangen::generate_to(Cli::command(), dir).context("the page cannot be written");
        }
        let config = Config::load(cli.config.as_deref())?;
        let format = if config.log.json { LogFormat::Json } else { LogFormat::Text };
        telemetry::to_stderr(format, &config.log.filter);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(8)
            .enable_all()
            .build()
            .context("cannot start the asynchronous runtime")?;
        runtime.block_on(serve(cli, config))
    }

    async fn serve(cli: &Cli, config: Config) -> anyhow::Result<()> {
        let mut stop = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        // Whoever owns the agent's state is the agent.
        let agents = &config.state_dir;
        let caller = std::fs::metadata(agents)
            .with_context(|| format!("whose the agent is cannot be told: {}", agents.display()))?
            .uid();
        let listener = match &cli.socket {
            Some(path) => {
                listen(path, caller).with_context(|| format!("cannot listen at {}", path.display()))?
            }
            None => handed_over()?,
        };
        durable::private_dir(&cli.state_dir)?;
        exec::keep_boot(&cli.state_dir.join("boot.json"));
        let work = cli.state_dir.join("work");
        durable::private_dir(&work)?;
        let largest_backup = config.max_backup_bytes;
        let own = Config { state_dir: cli.state_dir.clone(), ..config };
        let helper = Helper { ums: Arc::new(LocalUms::new(&own)?), caller, work, largest_backup };
        let told = async move {
            stop.recv().await;
        };
        Arc::new(helper).serve(listener, cli.idle.map(Duration::from_secs), told).await?;
        Ok(())
    }

    fn handed_over() -> anyhow::Result<UnixListener> {
        let useless = "the socket that was handed over is of no use";
        let listener = listenfd::ListenFd::from_env()
            .take_unix_listener(0)
            .context(useless)?
            .context("no socket was handed over: systemd does that, by umsid-helper.socket; else name one with --socket")?;
        listener.set_nonblocking(true).context(useless)?;
        UnixListener::from_std(listener).context(useless)
    }

    /// The caller's alone from the first moment on at which anybody could connect.
    fn listen(path: &Path, caller: u32) -> std::io::Result<UnixListener> {
        match std::fs::symlink_metadata(path) {
            // One that a helper before this one left.
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => return Err(std::io::Error::other("something else is there")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let usual = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        rustix::process::umask(usual);
        let listener = listener?;
        std::os::unix::fs::chown(path, Some(caller), None)?;
        Ok(listener)
    }
}
