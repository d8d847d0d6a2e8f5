//! `umsid init`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use data_encoding::HEXLOWER;
use serde::Serialize;
use umsid_common::name::{CallerName, Identity, Role, TrustDomain, random_bytes};

use super::{Context, Format, ask, day};
use crate::authority::Authority;
use crate::exit::Exit;
use crate::inventory::Inventory;

/// Make the state directory: certificate authority, our own certificate, an empty inventory
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid init
  umsid init --name anna --passphrase
  umsid init --state-dir /srv/umsid --passphrase-file /root/ca-passphrase

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
}

#[derive(Serialize)]
struct Made {
    state_dir: PathBuf,
    trust_domain: TrustDomain,
    coordinator: String,
    certificate_until: jiff::Timestamp,
    key_under_passphrase: bool,
}

impl Init {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let home = &context.home;
        home.create().context("nothing was made")?;
        let passphrase = match self.passphrase_file {
            Some(file) => Some(ask::first_line(&file)?),
            None if self.passphrase => Some(ask::new_passphrase()?),
            None => None,
        };
        let trust_domain = match self.trust_domain {
            Some(trust_domain) => trust_domain,
            None => format!("umsid-{}", HEXLOWER.encode(&random_bytes::<4>())).parse()?,
        };
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
        };
        if context.out.format() == Format::Json {
            context.out.json(&made)?;
            return Ok(Exit::Success);
        }
        let key = if made.key_under_passphrase { "key under your passphrase" } else { "key with mode 0600" };
        context.out.text(format_args!(
            "made {}\n  authority/      the certificate authority of `{}`, {key}\n  coordinator/    our certificate, {}, good \
             until {} and renewed by itself\n  inventory.toml  the servers: none yet",
            made.state_dir.display(),
            made.trust_domain,
            made.coordinator,
            day(made.certificate_until)
        ))?;
        context.out.say(
            "next: run `umsid-agent enroll` on a UMS server, then here `umsid enroll HOST --cluster NAME` with the code it \
             prints",
        );
        Ok(Exit::Success)
    }
}

/// This machine's name as far as it does as a name here.
fn machine_name() -> CallerName {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok()).unwrap_or_default().to_lowercase();
    let name = name.trim().split('.').next().unwrap_or_default();
    name.parse().unwrap_or_else(|_| "coordinator".parse().expect("this is a name"))
}
