//! The command line: one sub-command, one file. Data goes to standard output, talk to standard error.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use umsid_common::name::Identity;
use umsid_common::telemetry::{self, LogFormat};
use umsid_common::tls::{self, Tls};

use crate::agents::Agents;
use crate::authority::Authority;
use crate::database::{Location, StateUrl};
use crate::exit::{self, Exit};
use crate::home::Home;
use crate::inventory::Inventory;
use crate::shared::{Opened, Refreshed, Shared, SharedError};

mod admins;
pub mod ask;
mod backup;
mod check;
mod doctor;
mod drive;
mod enroll;
mod fleet;
mod from_agents;
mod init;
mod inventory;
mod look;
mod observer;
mod past;
mod plan;
mod prepare;
mod rekey;
mod restart;
mod resume;
mod rollback;
mod runs;
mod servers;
mod status;
mod sync;
mod trust;
mod unfinished;
mod unlock;
mod wait_for;
mod watch;

pub(crate) use crate::printout::count;
pub use crate::printout::{Format, Printout};

/// How long a command that has to end in time waits for copies to be refreshed.
const QUICKLY: Duration = Duration::from_secs(2);

/// Finds the UMS servers whose UMS ID is out of sync and brings them back.
#[derive(Debug, Parser)]
#[command(name = "umsid", version, max_term_width = 110, after_help = after_help())]
pub struct Umsid {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Where inventory, certificates and journal are [default: /var/lib/umsid for root, else ~/.local/state/umsid]
    #[arg(long, global = true, env = "UMSID_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The database several administrators share, as postgres://USER@HOST/DATABASE; remembered by the state directory
    ///
    /// What is needed to be let in, `umsid init` says. A password comes from ~/.pgpass or PGPASSWORD.
    #[arg(long, global = true, env = "UMSID_STATE", value_name = "URL")]
    state: Option<StateUrl>,
    /// What is printed on standard output
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    output: Format,
    /// Log lines on standard error, as `info` or `umsid=debug`
    #[arg(
        long,
        global = true,
        env = "UMSID_LOG",
        default_value = "warn",
        hide_env = true,
        value_name = "FILTER"
    )]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Enroll(enroll::Enroll),
    Servers(servers::Servers),
    Inventory(inventory::InventoryCommand),
    Admins(admins::Admins),
    Status(status::Status),
    Check(check::Check),
    Plan(plan::PlanCommand),
    Sync(sync::Sync),
    Restart(restart::Restart),
    Backup(backup::Backup),
    Runs(runs::Runs),
    Resume(resume::Resume),
    Rollback(rollback::Rollback),
    Unlock(unlock::Unlock),
    Watch(watch::Watch),
    Doctor(doctor::Doctor),
    Observer(observer::Observer),
    Rekey(rekey::Rekey),
    /// The exit codes and what they mean
    #[command(long_about = format!("The exit codes of umsid.\n\n{}", exit::table()))]
    ExitCodes,
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into this directory
    #[command(hide = true)]
    Man {
        /// Which
        dir: PathBuf,
    },
}

/// A command line that was not understood, or asks for help, is answered; gives the exit code.
pub fn misread(error: &clap::Error) -> u8 {
    let lenient = Umsid::command().ignore_errors(true).try_get_matches_from(std::env::args_os());
    let for_check = match lenient.as_ref().map(clap::ArgMatches::subcommand_name) {
        Ok(Some(command)) => command == "check",
        // It went wrong before the command was reached.
        Ok(None) | Err(_) => std::env::args_os().any(|argument| argument == "check"),
    };
    if for_check {
        return check::misread(error);
    }
    // With standard output or error gone there is nobody left to tell.
    let _ = error.print();
    u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code())
}

fn after_help() -> String {
    format!(
        "A first session:\n  \
           umsid init\n  \
           umsid enroll ums1.example.com --cluster hamburg    (asks for the code `umsid-agent enroll` prints there)\n  \
           umsid status hamburg\n  \
           umsid sync hamburg\n\n\
         Exit codes:\n{}",
        exit::table()
    )
}

impl Umsid {
    /// Sends log lines to standard error.
    pub fn start_logging(&self) {
        let format = if self.global.output == Format::Json { LogFormat::Json } else { LogFormat::Text };
        telemetry::to_stderr(format, &self.global.log);
    }

    /// Does what the command line says; gives the exit code.
    ///
    /// # Errors
    /// Those that [`exit::print`] prints. What speaks the language of a monitoring system has none: see `umsid check`.
    pub async fn run(self) -> anyhow::Result<u8> {
        let home = match (Home::at(self.global.state_dir), &self.command) {
            (Ok(home), _) => home,
            (Err(error), Command::Check(check)) => return Ok(check.came_to_nothing(&error.into())),
            (Err(error), _) => return Err(error.into()),
        };
        let mut context = Context {
            home,
            out: Printout::new(self.global.output),
            stop: CancellationToken::new(),
            shared: None,
            opened: Mutex::default(),
        };
        if self.command.needs_state()
            && let Err(error) = context
                .find_state(self.global.state.as_ref(), matches!(self.command, Command::Check(_)))
                .await
        {
            match &self.command {
                Command::Check(check) => return Ok(check.came_to_nothing(&error)),
                // It is what examines such things.
                Command::Doctor(_) if context.shared.is_some() => {}
                _ => return Err(error),
            }
        }
        let exit = match self.command {
            Command::Check(check) => return Ok(check.run(&context).await),
            Command::Init(init) => init.run(&context, self.global.state).await?,
            Command::Enroll(enroll) => enroll.run(&context).await?,
            Command::Servers(servers) => servers.run(&context).await?,
            Command::Inventory(inventory) => inventory.run(&context).await?,
            Command::Admins(admins) => admins.run(&context).await?,
            Command::Status(status) => status.run(&context).await?,
            Command::Plan(plan) => plan.run(&context).await?,
            Command::Sync(sync) => sync.run(&context).await?,
            Command::Restart(restart) => restart.run(&context).await?,
            Command::Backup(backup) => backup.run(&context).await?,
            Command::Runs(runs) => runs.run(&context).await?,
            Command::Resume(resume) => resume.run(&context).await?,
            Command::Rollback(rollback) => rollback.run(&context).await?,
            Command::Unlock(unlock) => unlock.run(&context).await?,
            Command::Watch(watch) => Box::pin(watch.run(&context)).await?,
            Command::Doctor(doctor) => doctor.run(&context).await?,
            Command::Observer(observer) => observer.run(&context).await?,
            Command::Rekey(rekey) => rekey.run(&context).await?,
            Command::ExitCodes => {
                match context.out.format() {
                    Format::Json => context.out.json(&exit::document())?,
                    Format::Table => context.out.text(exit::table().trim_end())?,
                }
                Exit::Success
            }
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "umsid", &mut script);
                context.out.text(String::from_utf8(script)?.trim_end())?;
                Exit::Success
            }
            Command::Man { dir } => {
                clap_mangen::generate_to(Self::command(), &dir).context("the pages cannot be written")?;
                Exit::Success
            }
        };
        Ok(exit.code())
    }
}

impl Command {
    /// Whether it looks at what is known; else it makes that, or needs nothing of it.
    fn needs_state(&self) -> bool {
        match self {
            Self::Init(_) | Self::ExitCodes | Self::Completions { .. } | Self::Man { .. } => false,
            Self::Admins(admins) => admins.needs_state(),
            _ => true,
        }
    }
}

/// What every sub-command has at hand.
pub struct Context {
    /// The state directory.
    pub home: Home,
    /// Where its state is, if several share it.
    pub shared: Option<Shared>,
    opened: Mutex<Option<Opened>>,
    /// Where to print.
    pub out: Printout,
    /// Halts a run after what it is at, as the first Ctrl-C does.
    pub stop: CancellationToken,
}

impl Context {
    /// Finds out whether the state is shared, and refreshes the copies if it is.
    ///
    /// # Errors
    /// If `given` is not where this directory's state is, or what is shared is not as it should be. A database that does not answer is said, and no error: there are
    /// the copies.
    async fn find_state(&mut self, given: Option<&StateUrl>, quickly: bool) -> anyhow::Result<()> {
        if self.home.is_observers() {
            return Ok(());
        }
        self.shared = Shared::of(&self.home)?;
        let kept = self.shared.as_ref().map(Shared::url);
        if let Some(given) = given
            && kept != Some(given)
            && self.home.inventory_path().exists()
        {
            let dir = self.home.dir.display();
            let what = match kept {
                Some(kept) => format!("the state of {dir} is in {kept}, not in {given}"),
                None => format!("the state of {dir} is in its own files, not in {given}"),
            };
            return Err(exit::Refusal::new(Exit::Usage, what)
                .remedy("leave --state (UMSID_STATE) out, or name another directory with --state-dir")
                .into());
        }
        let refreshed = match quickly {
            true => tokio::time::timeout(QUICKLY, self.refresh()).await.unwrap_or(Ok(())),
            false => self.refresh().await,
        };
        match refreshed {
            Err(error @ SharedError::Database { .. }) => {
                let error = anyhow::Error::new(error);
                self.out.say(format_args!("going on with copies, which may be old: {error:#}"));
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(()) => {
                if let Some((left, remedy)) = self.not_all_moved() {
                    self.out.say(format_args!("{left}\n  what to do: {remedy}"));
                }
                Ok(())
            }
        }
    }

    /// What a move to a database that was broken off has left, if the state has arrived there, and what to do about it.
    fn not_all_moved(&self) -> Option<(String, String)> {
        let (url, key) = (self.shared.as_ref()?.url(), self.home.own_authority_key()?);
        Some((
            format!(
                "the move to {url} is not finished: the authority's key is still in {} too",
                key.display()
            ),
            format!("type it again: umsid init --move --state '{url}'"),
        ))
    }

    /// Brings the copies of shared state up to date; nothing to do where it is in files.
    pub async fn refresh(&self) -> Result<(), SharedError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let Refreshed { opened, edited, .. } = shared.refresh().await?;
        if let Some(aside) = edited {
            self.out.say(format_args!(
                "inventory.toml here is a copy, and what was edited in it counts for nothing: it is kept as {}; `umsid \
                 inventory edit` changes what all have",
                aside.display()
            ));
        }
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        Ok(())
    }

    /// The shared authority's key, and who has it; `None`: state is in files, or the database did not answer.
    fn opened(&self) -> Option<Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the journal is.
    pub fn journal(&self) -> Location {
        match &self.shared {
            Some(shared) => Location::Server(shared.url().clone()),
            None => Location::File(self.home.database_path()),
        }
    }

    /// Whether there may be runs on record.
    pub fn has_journal(&self) -> bool {
        self.shared.is_some() || self.home.database_path().exists()
    }

    /// The inventory.
    ///
    /// # Errors
    /// Before `umsid init`, or if the file does not do.
    pub fn inventory(&self) -> anyhow::Result<Inventory> {
        self.home.open()?;
        Ok(Inventory::load(&self.home.inventory_path())?)
    }

    /// The certificate authority; it can sign if its key is not under a passphrase.
    pub fn authority(&self) -> anyhow::Result<Authority> {
        self.home.open()?;
        let dir = self.home.authority_dir();
        let Some(shared) = &self.shared else { return Ok(Authority::open(&dir)?) };
        let opened = self.opened();
        let key_pem = opened.as_ref().map(|opened| &opened.key_pem);
        Ok(Authority::open_shared(&dir, shared.clone(), key_pem)?)
    }

    /// A dialler with our credentials, which get the newest revocation list and, where due and possible without
    /// asking, a new certificate first.
    pub fn agents(&self, inventory: &Inventory, authority: &Authority) -> anyhow::Result<Agents> {
        let files = self.home.tls_files();
        self.renew_own(authority, &files).unwrap_or_else(|error| {
            tracing::warn!("the coordinator's certificate was not renewed: {error:#}");
        });
        authority.publish(&files)?;
        let tls = Tls::load(files).context("the coordinator's own certificate cannot be used")?;
        Ok(Agents::new(tls, inventory.trust_domain.clone()).with_gateways(inventory))
    }

    fn renew_own(&self, authority: &Authority, files: &tls::Files) -> anyhow::Result<()> {
        if !authority.can_sign() {
            return Ok(());
        }
        let identity = own_identity(files)?;
        let Some(newest) = authority.newest(&identity) else { return Ok(()) };
        let (life, left) = (
            newest.not_before.duration_until(newest.not_after),
            Timestamp::now().duration_until(newest.not_after),
        );
        if left <= life / 3 {
            let issued = authority.equip(files, &identity)?;
            self.out
                .say(format_args!("renewed the coordinator's certificate until {}", day(issued.not_after)));
        }
        Ok(())
    }
}

/// Who the certificate among these files says we are.
fn own_identity(files: &tls::Files) -> anyhow::Result<Identity> {
    let pem = std::fs::read_to_string(&files.certificate)
        .with_context(|| format!("cannot read {}", files.certificate.display()))?;
    Ok(tls::identity_of(&tls::first_certificate(&pem).context("there is no certificate in the file")?)?)
}

/// A date as people read it.
pub(crate) fn day(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d").to_string()
}
