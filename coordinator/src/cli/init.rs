//! `umsid init`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use data_encoding::HEXLOWER;
use serde::Serialize;
use umsid_common::durable::{self, Access};
use umsid_common::name::{CallerName, Identity, Role, TrustDomain, random_bytes};

use super::{Context, Format, ask, day};
use crate::authority::{Authority, Founding};
use crate::database::StateUrl;
use crate::exit::{Exit, Refusal};
use crate::home::machine_name;
use crate::inventory::Inventory;
use crate::shared::{DocumentKey, Envelope, Name, Shared};

mod moving;

/// Make the state directory: certificate authority, our own certificate, an empty inventory
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid init
  umsid init --name anna --passphrase
  umsid init --state-dir /srv/umsid --passphrase-file /root/ca-passphrase
  umsid init --name anna --state postgres://anna@db.example.com/umsid
      begins state that several administrators share, or joins it; who is to join, an administrator lets in before by
      `umsid admins add`, with what `umsid admins key` prints here
  umsid init --move --state postgres://anna@db.example.com/umsid
      moves what one administrator has in files there: servers, certificate authority and journal, all that is to be shared

With a passphrase the certificate authority's key is kept encrypted: `umsid enroll`, `umsid servers remove`,
`umsid observer` and `umsid rekey` ask for it, and certificates are renewed only when they can.")]
pub(super) struct Init {
    /// Name of this coordinator, as agents' logs will show it [default: this machine's name]
    #[arg(long)]
    name: Option<CallerName>,
    /// What all certificates of this installation have in common [default: a new one]
    #[arg(long, value_name = "DOMAIN")]
    trust_domain: Option<TrustDomain>,
    /// Ask for a passphrase and encrypt the certificate authority's key with it
    #[arg(long, conflicts_with = "passphrase_file")]
    passphrase: bool,
    /// Encrypt the certificate authority's key with the first line of this file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Move the state of this directory, which is in files, into the database of --state; a passphrase it has is asked for
    #[arg(long = "move", conflicts_with_all = ["name", "trust_domain", "passphrase"])]
    moves: bool,
}

#[derive(Serialize)]
struct Made {
    state_dir: PathBuf,
    trust_domain: TrustDomain,
    coordinator: String,
    certificate_until: jiff::Timestamp,
    key_under_passphrase: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<InShared>,
}

#[derive(Serialize)]
struct InShared {
    url: String,
    begun: bool,
    /// It was in this directory's files before.
    moved: bool,
    administrators: Vec<CallerName>,
    /// SHA-256 of its certificate.
    authority: String,
}

impl Init {
    pub(super) async fn run(self, context: &Context, state: Option<StateUrl>) -> anyhow::Result<Exit> {
        match (state, self.moves) {
            (Some(url), true) => self.move_to(context, url).await,
            (Some(url), false) => self.shared(context, url).await,
            (None, false) => self.in_files(context),
            (None, true) => {
                let what = "it is not said where the state is to be moved to";
                Err(Refusal::new(Exit::Usage, what).remedy("give the database with --state URL").into())
            }
        }
    }

    fn in_files(self, context: &Context) -> anyhow::Result<Exit> {
        let home = &context.home;
        home.create().context("nothing was made")?;
        let passphrase = match &self.passphrase_file {
            Some(file) => Some(ask::first_line(file)?),
            None if self.passphrase => Some(ask::new_passphrase()?),
            None => None,
        };
        let trust_domain = self.trust_domain()?;
        let name = self.name.unwrap_or_else(machine_name);
        let identity = Identity { trust_domain: trust_domain.clone(), role: Role::Coordinator(name) };

        let authority = Authority::create(&home.authority_dir(), &trust_domain, passphrase.as_ref())?;
        let issued = authority.equip(&home.tls_files(), &identity)?;
        // Last: with the inventory there, the directory is complete.
        Inventory::create(&home.inventory_path(), &trust_domain)?;

        let made = Made {
            state_dir: home.dir.clone(),
            trust_domain,
            coordinator: identity.to_string(),
            certificate_until: issued.not_after,
            key_under_passphrase: passphrase.is_some(),
            shared: None,
        };
        made.print(context)
    }

    fn trust_domain(&self) -> anyhow::Result<TrustDomain> {
        match &self.trust_domain {
            Some(trust_domain) => Ok(trust_domain.clone()),
            None => Ok(format!("umsid-{}", HEXLOWER.encode(&random_bytes::<4>())).parse()?),
        }
    }

    /// Begins shared state in an empty database, or joins what is there. Broken off, it may be repeated.
    async fn shared(self, context: &Context, url: StateUrl) -> anyhow::Result<Exit> {
        if self.passphrase || self.passphrase_file.is_some() {
            let what = "shared state has no passphrase: the authority's key is sealed to the administrators' own keys";
            return Err(Refusal::new(Exit::Usage, what).remedy("leave the passphrase out").into());
        }
        let home = &context.home;
        home.create_to_join().context("nothing was made")?;
        let name = self.name.clone().unwrap_or_else(machine_name);
        let shared = Shared::at(home, url.clone(), name.as_str());
        let own = shared.own_key()?;
        shared.make_tables().await?;
        let begun = !shared.is_begun().await?;
        if begun {
            let trust_domain = self.trust_domain()?;
            let founding = Founding::new(&trust_domain)?;
            let envelope = Envelope::seal(&founding.key_pem(), [(name.clone(), own.recipient())].into())?;
            let documents = [
                (Name::Certificate, founding.certificate_pem.clone()),
                (Name::Register, founding.register_text()?),
                (Name::Inventory, Inventory::empty(&trust_domain)),
                (Name::Key, envelope.to_text()),
            ];
            shared.begin(&documents, &DocumentKey::of(&founding.key_pem()), None).await?;
        }
        let found = shared.look_in(&own, &name).await?;
        let opened = &found.opened;
        if self.name.as_ref().is_some_and(|name| *name != opened.name) {
            let what = format!("this key is that of administrator {}, not of {name}", opened.name);
            return Err(Refusal::new(Exit::Usage, what).remedy("leave --name out").into());
        }
        shared.keep_copies(&found)?;
        let role = Role::Coordinator(opened.name.clone());
        let trust_domain = Inventory::check(&home.inventory_path(), &found.inventory)?.trust_domain;
        let identity = Identity { trust_domain: trust_domain.clone(), role };
        let authority = Authority::open_shared(&home.authority_dir(), shared.clone(), Some(&opened.key_pem))?;
        let issued = authority.equip(&home.tls_files(), &identity)?;
        shared.remember()?;
        // Last, as above.
        durable::replace(&home.inventory_path(), found.inventory.as_bytes(), Access::Private)?;

        let made = Made {
            state_dir: home.dir.clone(),
            trust_domain,
            coordinator: identity.to_string(),
            certificate_until: issued.not_after,
            key_under_passphrase: false,
            shared: Some(InShared {
                url: url.to_string(),
                begun,
                moved: false,
                administrators: opened.administrators.keys().cloned().collect(),
                authority: authority.fingerprint(),
            }),
        };
        made.print(context)
    }
}

impl Made {
    fn print(&self, context: &Context) -> anyhow::Result<Exit> {
        if context.out.format() == Format::Json {
            context.out.json(self)?;
            return Ok(Exit::Success);
        }
        let moved = self.shared.as_ref().is_some_and(|shared| shared.moved);
        let key = match (&self.shared, self.key_under_passphrase) {
            (Some(_), _) => "key sealed in the database",
            (None, true) => "key under your passphrase",
            (None, false) => "key with mode 0600",
        };
        context.out.text(format_args!(
            "{} {}\n  authority/      the certificate authority of `{}`, {key}\n  coordinator/    our certificate, {}, good \
             until {} and renewed by itself\n  inventory.toml  the servers{}",
            if moved { "moved the state of" } else { "made" },
            self.state_dir.display(),
            self.trust_domain,
            self.coordinator,
            day(self.certificate_until),
            if self.shared.is_some() { ": a copy, `umsid inventory edit` changes them" } else { ": none yet" },
        ))?;
        let Some(shared) = &self.shared else {
            context.out.say(
                "next: run `umsid-agent enroll` on a UMS server, then here `umsid enroll HOST --cluster NAME` with the code it \
                 prints",
            );
            return Ok(Exit::Success);
        };
        let done = if shared.begun { "begun" } else { "joined" };
        let all = shared.administrators.iter().map(CallerName::as_str).collect::<Vec<_>>().join(", ");
        context.out.text(format_args!(
            "{done} the shared state {}\n  authority       SHA-256 {}\n  administrators  {all}",
            shared.url, shared.authority
        ))?;
        if shared.begun {
            context.out.say("next: another administrator types `umsid admins key`, and you `umsid admins add NAME KEY` with it");
        } else {
            context
                .out
                .say("the others see the same SHA-256 with `umsid admins`: compare it with one of them");
        }
        Ok(Exit::Success)
    }
}
