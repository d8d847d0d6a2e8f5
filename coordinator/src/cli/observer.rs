//! `umsid observer`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use umsid_common::durable;
use umsid_common::name::{CallerName, Identity, Role};
use umsid_common::tls;

use super::{Context, ask, day};
use crate::exit::{Exit, Refusal};

/// Issue an identity that may look at servers and change nothing, for monitoring
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  umsid observer add nagios --out ./nagios-identity")]
pub(super) struct Observer {
    #[command(subcommand)]
    command: Change,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Make key and certificate of a new observer
    Add {
        /// Its name, as agents' logs will show it
        name: CallerName,
        /// Directory to put key, certificate, anchors and revocation list in
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        #[command(flatten)]
        passphrase: ask::Passphrase,
    },
}

impl Observer {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Change::Add { name, out, passphrase } = self.command;
        let inventory = context.inventory()?;
        let authority = context.authority()?;
        durable::private_dir(&out).context("the directory cannot be used")?;
        let files = tls::Files::in_dir(&out);
        if files.key.exists() {
            let what = format!("{} is there already; nothing was changed", files.key.display());
            return Err(Refusal::new(Exit::Failed, what).remedy("name another directory with --out").into());
        }
        passphrase.unlock(&authority)?;
        let identity = Identity { trust_domain: inventory.trust_domain, role: Role::Observer(name) };
        let issued = authority.equip(&files, &identity)?;
        context.out.text(format_args!(
            "{identity} in {}, good until {}",
            out.display(),
            day(issued.not_after)
        ))?;
        Ok(Exit::Success)
    }
}
