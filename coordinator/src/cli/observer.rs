//! `umsid observer`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use umsid_common::durable::{self, Access};
use umsid_common::name::{CallerName, Identity, Role};
use umsid_common::tls;

use super::trust::{self, Told};
use super::{Context, Format, ask, day};
use crate::exit::{Exit, Refusal};
use crate::printout::Cell;

/// Identities that may look at servers and change nothing, for monitoring: list, issue or revoke them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid observer
  umsid observer add nagios --out ./nagios-identity
  umsid observer remove nagios")]
pub(super) struct Observer {
    #[command(subcommand)]
    command: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Make key and certificate of a new observer
    Add {
        /// Its name, as agents' logs will show it
        name: CallerName,
        /// Directory to put key, certificate, anchors, revocation list and the inventory in: a state directory for looking
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        passphrase: ask::Passphrase,
    },
    /// Revoke an observer's certificates
    Remove {
        /// Which
        name: CallerName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        #[command(flatten)]
        passphrase: ask::Passphrase,
    },
}

#[derive(Serialize)]
struct Row {
    observer: CallerName,
    certificate_until: Timestamp,
}

#[derive(Serialize)]
struct Removed {
    observer: CallerName,
    revoked: usize,
    #[serde(flatten)]
    told: Told,
}

impl Observer {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.command {
            None => list(context),
            Some(Change::Add { name, out, passphrase }) => add(context, name, &out, &passphrase),
            Some(Change::Remove { name, yes, passphrase }) => remove(context, name, yes, &passphrase).await,
        }
    }
}

fn list(context: &Context) -> anyhow::Result<Exit> {
    let observers = context.authority()?.observers().into_iter();
    let rows: Vec<Row> =
        observers.map(|(observer, entry)| Row { observer, certificate_until: entry.not_after }).collect();
    if context.out.format() == Format::Json {
        context.out.json(&rows)?;
        return Ok(Exit::Success);
    }
    if rows.is_empty() {
        context
            .out
            .say("there is no observer: `umsid observer add NAME --out DIR` issues an identity for one");
        return Ok(Exit::Success);
    }
    let cells =
        rows.iter().map(|row| vec![Cell::plain(&row.observer), Cell::plain(day(row.certificate_until))]);
    context.out.table(&["OBSERVER", "CERTIFICATE UNTIL"], cells.collect())?;
    Ok(Exit::Success)
}

fn add(
    context: &Context,
    name: CallerName,
    out: &Path,
    passphrase: &ask::Passphrase,
) -> anyhow::Result<Exit> {
    let inventory = context.inventory()?;
    let authority = context.authority()?;
    durable::private_dir(out).context("the directory cannot be used")?;
    let files = tls::Files::in_dir(out);
    if files.key.exists() {
        let what = format!("{} is there already; nothing was changed", files.key.display());
        return Err(Refusal::new(Exit::Failed, what).remedy("name another directory with --out").into());
    }
    passphrase.unlock(&authority)?;
    let identity = Identity { trust_domain: inventory.trust_domain, role: Role::Observer(name) };
    let issued = authority.equip(&files, &identity)?;
    // With the servers beside it the directory is all that a host needs that only looks.
    let servers = durable::read_optional(&context.home.inventory_path())?.context("the inventory is gone")?;
    durable::replace(&out.join("inventory.toml"), &servers, Access::Private)?;
    context.out.text(format_args!(
        "{identity} in {}, good until {}",
        out.display(),
        day(issued.not_after)
    ))?;
    context.out.say(format_args!(
        "`umsid --state-dir {} check --all` looks with it; bring the directory to the host that is to look",
        out.display()
    ));
    Ok(Exit::Success)
}

async fn remove(
    context: &Context,
    name: CallerName,
    yes: bool,
    passphrase: &ask::Passphrase,
) -> anyhow::Result<Exit> {
    let inventory = context.inventory()?;
    let authority = context.authority()?;
    let known = authority.observers();
    if !known.contains_key(&name) {
        let known: Vec<&str> = known.keys().map(CallerName::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Refusal::new(Exit::Usage, format!("there is no observer `{name}`"))
            .remedy(format!("`umsid observer` lists them. Known: {known}"))
            .into());
    }
    if !ask::yes(yes, &format!("Revoke the certificates of observer {name}?"))? {
        return Err(Refusal::new(Exit::Failed, "nothing was changed").into());
    }
    passphrase.unlock(&authority)?;
    let identity =
        Identity { trust_domain: inventory.trust_domain.clone(), role: Role::Observer(name.clone()) };
    let revoked = authority.revoke(&identity, None)?;
    let agents = context.agents(&inventory, &authority)?;
    let told = trust::tell(context, &agents, &inventory, &authority).await?;
    let removed = Removed { observer: name, revoked, told };
    if context.out.format() == Format::Json {
        context.out.json(&removed)?;
        return Ok(Exit::Success);
    }
    context.out.text(format_args!(
        "{} of the certificates of observer {} revoked (revocation list {})",
        removed.revoked,
        removed.observer,
        removed.told.crl_number()
    ))?;
    removed.told.print(context)?;
    Ok(Exit::Success)
}
