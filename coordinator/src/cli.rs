//! The command line: one sub-command, one file. Data goes to standard output, talk to standard error.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use data_encoding::BASE64;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use umsid_common::name::Identity;
use umsid_common::telemetry::{self, LogFormat};
use umsid_common::tls::{self, Tls};

use crate::agents::Agents;
use crate::authority::Authority;
use crate::exit::{self, Exit};
use crate::home::Home;
use crate::inventory::Inventory;

pub mod ask;
mod backup;
mod check;
mod doctor;
mod drive;
mod enroll;
mod fleet;
mod from_agents;
mod init;
mod look;
mod observer;
mod past;
mod plan;
mod prepare;
pub mod printout;
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

pub use printout::{Format, Printout};

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
        let context =
            Context { home, out: Printout::new(self.global.output), stop: CancellationToken::new() };
        let exit = match self.command {
            Command::Check(check) => return Ok(check.run(&context).await),
            Command::Init(init) => init.run(&context)?,
            Command::Enroll(enroll) => enroll.run(&context).await?,
            Command::Servers(servers) => servers.run(&context).await?,
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

/// What every sub-command has at hand.
pub struct Context {
    /// The state directory.
    pub home: Home,
    /// Where to print.
    pub out: Printout,
    /// Halts a run after what it is at, as the first Ctrl-C does.
    pub stop: CancellationToken,
}

impl Context {
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
        Ok(Authority::open(&self.home.authority_dir())?)
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
    Ok(tls::identity_of(&first_certificate(&pem).context("there is no certificate in the file")?)?)
}

/// The first certificate of a PEM file, DER.
fn first_certificate(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN CERTIFICATE-----")?;
    let (body, _) = rest.split_once("-----END CERTIFICATE-----")?;
    BASE64.decode(body.split_whitespace().collect::<String>().as_bytes()).ok()
}

/// A date as people read it.
pub(crate) fn day(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d").to_string()
}

/// As `1 server`, `2 servers`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
