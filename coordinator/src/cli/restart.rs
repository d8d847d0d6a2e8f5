//! `umsid restart`

use clap::Args;
use umsid_common::name::{ClusterName, ServerName};

use super::Context;
use super::drive::Patience;
use super::plan::each_once;
use super::prepare::Situation;
use super::sync::begin;
use crate::exit::Exit;
use crate::plan::{Kind, Request};

/// Restart the UMS Servers of a cluster one after another, each healthy before the next
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid restart hamburg
  umsid restart hamburg --only ums2 ums3 --yes")]
pub(super) struct Restart {
    /// Which cluster [default: the only one there is]
    cluster: Option<ClusterName>,
    /// Only these servers
    #[arg(long, value_name = "SERVER", num_args = 1.., value_delimiter = ',')]
    only: Vec<ServerName>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Whatever the windows of their sites
    #[arg(long)]
    ignore_windows: bool,
    #[command(flatten)]
    patience: Patience,
}

impl Restart {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let request = Request {
            kind: Kind::Restart,
            only: each_once(self.only),
            ignore_windows: self.ignore_windows,
            ..Request::sync()
        };
        let situation = Situation::see(context, self.cluster.as_ref(), &request).await?;
        begin(context, situation, &request, None, self.yes, &self.patience, false).await
    }
}
