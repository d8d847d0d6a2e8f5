//! `umsid backup`

use clap::Args;
use umsid_common::name::{ClusterName, ServerName};

use super::Context;
use super::drive::Patience;
use super::plan::each_once;
use super::prepare::Situation;
use super::sync::begin;
use crate::exit::Exit;
use crate::plan::{Kind, Request};

/// Save every server's own UMS ID now, each in its own agent's vault
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid backup hamburg
  umsid backup hamburg --only ums1

Nothing is changed on the UMS, so nothing is asked. Safety backups are sealed to the server they were made on.")]
pub(super) struct Backup {
    /// Which cluster [default: the only one there is]
    cluster: Option<ClusterName>,
    /// Only these servers
    #[arg(long, value_name = "SERVER", num_args = 1.., value_delimiter = ',')]
    only: Vec<ServerName>,
    #[command(flatten)]
    patience: Patience,
}

impl Backup {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let request = Request { kind: Kind::Backup, only: each_once(self.only), ..Request::sync() };
        let situation = Situation::see(context, self.cluster.as_ref(), &request).await?;
        begin(context, situation, &request, None, true, &self.patience, false).await
    }
}
