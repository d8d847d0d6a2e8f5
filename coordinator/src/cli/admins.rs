//! `umsid admins`

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use umsid_common::durable;
use umsid_common::name::{CallerName, Identity, Role};
use umsid_common::seal::{Recipient, SealKey};

use super::trust::{self, Told};
use super::{Context, Format, ask, count, day};
use crate::exit::{Exit, Refusal};
use crate::printout::{Cell, Tone};
use crate::shared::{Change, Envelope, Opened, Shared};

/// List the administrators who share this state, let one in, or take one out
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid admins key
      prints the key that is to be let in; type this where the new administrator works
  umsid admins add bert age1...
      type this where somebody works who is one already; then there: umsid init --state URL
  umsid admins
  umsid admins remove bert

The certificate authority's key is in the database, sealed to the administrators' keys and to nobody else. An account at the
database server lets nobody in, and needs to be had besides: this manages no accounts.")]
pub(super) struct Admins {
    #[command(subcommand)]
    command: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List them
    List,
    /// Print the key of whoever works here, made if there is none; it is not secret
    Key,
    /// Let an administrator in
    Add {
        /// What she is called; her certificate will say so
        name: CallerName,
        /// What `umsid admins key` prints where she works
        #[arg(value_name = "KEY")]
        recipient: Recipient,
    },
    /// Take an administrator out: revoke her certificates, seal the authority's key anew
    Remove {
        /// Who
        name: CallerName,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a CallerName,
    recipient: &'a Recipient,
    certificate_until: Option<Timestamp>,
}

#[derive(Serialize)]
struct Removed {
    name: CallerName,
    revoked: usize,
    #[serde(flatten)]
    told: Told,
}

impl Admins {
    /// Whether there must be state to look at.
    pub(super) fn needs_state(&self) -> bool {
        !matches!(self.command, Some(What::Key))
    }

    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.command {
            None | Some(What::List) => list(context),
            Some(What::Key) => key(context),
            Some(What::Add { name, recipient }) => add(context, name, recipient).await,
            Some(What::Remove { name, yes }) => remove(context, name, yes).await,
        }
    }
}

fn shared(context: &Context) -> anyhow::Result<&Shared> {
    context.home.open()?;
    context.shared.as_ref().ok_or_else(|| {
        Refusal::new(Exit::Usage, "the state of this directory is in its own files, and nobody shares it")
            .remedy(
                "`umsid init --move --state postgres://USER@HOST/DATABASE` moves it into a database that others may share",
            )
            .into()
    })
}

fn key(context: &Context) -> anyhow::Result<Exit> {
    durable::private_dir(&context.home.dir)?;
    let recipient = SealKey::load_or_generate(&context.home.administrator_key_path())?.recipient();
    match context.out.format() {
        Format::Json => context.out.json(&serde_json::json!({ "recipient": recipient }))?,
        Format::Table => context.out.text(&recipient)?,
    }
    context.out.say("an administrator lets it in with: umsid admins add NAME KEY");
    Ok(Exit::Success)
}

fn identity(context: &Context, name: &CallerName) -> anyhow::Result<Identity> {
    let trust_domain = context.inventory()?.trust_domain;
    Ok(Identity { trust_domain, role: Role::Coordinator(name.clone()) })
}

fn list(context: &Context) -> anyhow::Result<Exit> {
    let shared = shared(context)?;
    let authority = context.authority()?;
    let Some(opened) = context.opened() else {
        // A copy would not say who is one today: there is none.
        let what = "the database does not answer: who the administrators are is known there only";
        return Err(Refusal::new(Exit::Unreachable, what).remedy("`umsid doctor` says why").into());
    };
    let mut rows = Vec::new();
    for (name, recipient) in &opened.administrators {
        let newest = authority.newest(&identity(context, name)?);
        rows.push(Row { name, recipient, certificate_until: newest.map(|entry| entry.not_after) });
    }
    if context.out.format() == Format::Json {
        context.out.json(&rows)?;
        return Ok(Exit::Success);
    }
    let cells = rows.iter().map(|row| {
        let until = match row.certificate_until {
            Some(until) => Cell::plain(day(until)),
            None => Cell::new("has not joined yet", Tone::Bad),
        };
        vec![Cell::plain(row.name), Cell::plain(row.recipient), until]
    });
    context.out.table(&["ADMINISTRATOR", "KEY", "CERTIFICATE UNTIL"], cells.collect())?;
    context.out.text(format_args!("authority SHA-256 {}", authority.fingerprint()))?;
    context.out.say(format_args!("in {}", shared.url()));
    Ok(Exit::Success)
}

async fn add(context: &Context, name: CallerName, recipient: Recipient) -> anyhow::Result<Exit> {
    let shared = shared(context)?;
    let mut change = Change::begin(&context.home).await?;
    let Opened { mut administrators, key_pem, .. } = change.opened().expect("it is shared").clone();
    let known = administrators.get(&name).is_some_and(|known| *known != recipient);
    let other = administrators.iter().find(|(other, known)| **other != name && **known == recipient);
    if known || other.is_some() {
        let what = match other {
            Some((other, _)) => format!("this is the key of administrator {other}"),
            None => format!("administrator {name} has another key"),
        };
        return Err(Refusal::new(Exit::Usage, format!("{what}; nothing was changed"))
            .remedy("`umsid admins` lists them; `umsid admins remove` takes one out first")
            .into());
    }
    administrators.insert(name.clone(), recipient);
    change.replace_envelope(&Envelope::seal(&key_pem, administrators)?).await?;
    context.out.text(format_args!("{name} is an administrator of {}", shared.url()))?;
    context.out.say(format_args!(
        "next, where {name} works and with an account at the database: umsid init --state '{}'",
        shared.url()
    ));
    Ok(Exit::Success)
}

async fn remove(context: &Context, name: CallerName, yes: bool) -> anyhow::Result<Exit> {
    shared(context)?;
    let inventory = context.inventory()?;
    let authority = context.authority()?;
    let question =
        format!("Revoke the certificates of administrator {name} and seal the authority's key anew?");
    if !ask::yes(yes, &question)? {
        return Err(Refusal::new(Exit::Failed, "nothing was changed").into());
    }
    let mut change = Change::begin(&context.home).await?;
    let Opened { name: own, mut administrators, key_pem } = change.opened().expect("it is shared").clone();
    let refused =
        |what: String| Err(Refusal::new(Exit::Usage, what).remedy("`umsid admins` lists them").into());
    if own == name {
        return refused("nobody takes out herself: another administrator does".into());
    }
    if administrators.remove(&name).is_none() {
        return refused(format!("there is no administrator {name}"));
    }
    // First what protects: if anything breaks off after it, the same command goes on.
    let revoked = authority.revoke(&identity(context, &name)?, None)?;
    change.replace_envelope(&Envelope::seal(&key_pem, administrators)?).await?;
    drop(change);
    let agents = context.agents(&inventory, &authority)?;
    let told = trust::tell(context, &agents, &inventory, &authority).await?;
    let removed = Removed { name, revoked, told };
    if context.out.format() == Format::Json {
        context.out.json(&removed)?;
    } else {
        context.out.text(format_args!(
            "{} is no administrator any more; {} revoked (revocation list {})",
            removed.name,
            count(revoked, "certificate"),
            removed.told.crl_number()
        ))?;
        removed.told.print(context)?;
    }
    context.out.say(format_args!(
        "take {0}'s account away at the database server too. {0} could read the certificate authority's key, and whoever kept \
         it makes certificates of his own: if that cannot be ruled out, begin anew with `umsid init` and another database, and \
         `umsid-agent enroll --again` on every server",
        removed.name
    ));
    Ok(Exit::Success)
}
