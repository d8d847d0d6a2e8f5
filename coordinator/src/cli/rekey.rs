//! `umsid rekey`

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::prepare::lock;
use super::trust::{self, Told};
use super::{Context, Format, ask, day};
use crate::exit::{Exit, Refusal};
use crate::shared::Change;

/// Make a new key and certificate for this coordinator, and revoke those before them
#[derive(Debug, Args)]
#[command(after_help = "\
For when somebody may have copied the key in the state directory's coordinator/. Who may have copied authority/ too, with its
key not under a passphrase, can make certificates of his own: then begin anew with `umsid init` in another state directory,
and `umsid-agent enroll --again` on every server.")]
pub(super) struct Rekey {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    passphrase: ask::Passphrase,
}

#[derive(Serialize)]
struct Rekeyed {
    coordinator: String,
    certificate_until: jiff::Timestamp,
    revoked: usize,
    #[serde(flatten)]
    told: Told,
}

impl Rekey {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let inventory = context.inventory()?;
        let authority = context.authority()?;
        let files = context.home.tls_files();
        let identity = super::own_identity(&files).context("who this coordinator is cannot be told")?;
        if !ask::yes(self.yes, &format!("Make a new key for {identity} and revoke all before it?"))? {
            return Err(Refusal::new(Exit::Failed, "nothing was changed").into());
        }
        self.passphrase.unlock(&authority)?;
        // A run that goes on has the old key, and would be shut out in the middle.
        let mut locks = Vec::new();
        for cluster in inventory.clusters.keys() {
            locks.push(lock(context, cluster).await?);
        }
        let lock = Change::begin(&context.home).await?;
        let issued = authority.rekey(&files, &identity)?;
        let revoked = authority.revoke(&identity, Some(&issued.serial))?;
        let agents = context.agents(&inventory, &authority)?;
        drop(lock);

        let told = trust::tell(context, &agents, &inventory, &authority).await?;
        let certificate_until = issued.not_after;
        let rekeyed = Rekeyed { coordinator: identity.to_string(), certificate_until, revoked, told };
        if context.out.format() == Format::Json {
            context.out.json(&rekeyed)?;
            return Ok(Exit::Success);
        }
        context.out.text(format_args!(
            "{} has a new key, good until {}; {revoked} of its certificates revoked (revocation list {})",
            rekeyed.coordinator,
            day(certificate_until),
            rekeyed.told.crl_number()
        ))?;
        rekeyed.told.print(context)?;
        Ok(Exit::Success)
    }
}
