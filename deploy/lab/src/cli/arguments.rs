//! The options of `umsadmin-cli` as documented (UMS_FACTS §3). Wrong usage is clap's business: exit 2, as picocli's.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

/// Command line of the UMS Administrator
#[derive(Debug, Parser)]
#[command(name = "umsadmin-cli", disable_version_flag = true, disable_help_subcommand = true)]
pub(super) struct Arguments {
    /// Print the output in a machine-readable form
    #[arg(long)]
    pub(super) machine_readable: bool,
    /// Separator for the machine-readable output
    #[arg(long, value_name = "separator")]
    pub(super) separator: Option<String>,
    /// Print tables without the header
    #[arg(long)]
    pub(super) no_header: bool,
    /// Suppress all output
    #[arg(long)]
    pub(super) quiet: bool,
    /// Print version information and exit
    #[arg(short = 'V', long, action = ArgAction::SetTrue)]
    pub(super) version: bool,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Manage the UMS ID
    #[command(subcommand)]
    Licensing(Licensing),
    /// Control the local UMS Server
    #[command(subcommand)]
    Server(Service),
    /// Manage web certificates
    #[command(subcommand)]
    WebCerts(WebCerts),
    /// Manage the cluster's name
    #[command(subcommand)]
    UmsCluster(UmsCluster),
    /// Manage ports
    #[command(subcommand)]
    Ports(Ports),
    /// Manage data sources
    #[command(subcommand)]
    Db(Db),
    /// Show the UMS license
    #[command(subcommand)]
    UmsLicense(UmsLicense),
}

#[derive(Debug, Subcommand)]
pub(super) enum Licensing {
    /// Show the current UMS IDs
    List,
    /// Back up the UMS ID
    Backup(Backup),
    /// Restore the UMS ID from a backup
    Restore(Restore),
    /// Export the certificate of the UMS ID
    Export(Export),
    /// Create a new UMS ID
    Create,
}

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The backup file
    #[arg(short, long, value_name = "FILE")]
    pub(super) outfile: PathBuf,
    /// Create the directories of the file
    #[arg(short, long)]
    pub(super) parent: bool,
    #[command(flatten)]
    pub(super) password: Password,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup file
    #[arg(short, long, value_name = "FILE")]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) password: Password,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Password {
    /// Read the password from a file
    #[arg(id = "password:file", long = "password:file", value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Read the password from the console
    #[arg(id = "password:in", long = "password:in")]
    pub(super) console: bool,
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The certificate file
    #[arg(short, long, value_name = "FILE")]
    pub(super) outfile: PathBuf,
    /// Overwrite an existing file
    #[arg(short, long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Service {
    /// Start the local UMS Server
    Start,
    /// Stop the local UMS Server
    Stop,
    /// Restart the local UMS Server
    Restart,
    /// End the update mode
    EndUpdateMode,
}

#[derive(Debug, Subcommand)]
pub(super) enum WebCerts {
    /// List the web certificates
    List,
    /// List the servers a web certificate is assigned to
    ListAssignedServer {
        /// SHA-1 fingerprint of the certificate
        #[arg(short, long, value_name = "SHA1")]
        fingerprint: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum UmsCluster {
    /// Show the cluster FQDN
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum Ports {
    /// List all ports and the SSL-only flag
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum Db {
    /// List the data sources
    List,
}

#[derive(Debug, Subcommand)]
pub(super) enum UmsLicense {
    /// Show the state of the UMS license
    State,
}

impl Command {
    /// Its name in full, and the UMS version it appeared in.
    pub(super) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Licensing(Licensing::List) => ("licensing list", "6.09.100"),
            Self::Licensing(Licensing::Backup(_)) => ("licensing backup", "6.09.100"),
            Self::Licensing(Licensing::Restore(_)) => ("licensing restore", "6.09.100"),
            Self::Licensing(Licensing::Export(_)) => ("licensing export", "12.09.110"),
            Self::Licensing(Licensing::Create) => ("licensing create", "6.09.100"),
            Self::Server(Service::Start) => ("server start", "6.10.100"),
            Self::Server(Service::Stop) => ("server stop", "6.10.100"),
            Self::Server(Service::Restart) => ("server restart", "6.10.100"),
            Self::Server(Service::EndUpdateMode) => ("server end-update-mode", "6.10.100"),
            Self::WebCerts(WebCerts::List) => ("web-certs list", "12.04.100"),
            Self::WebCerts(WebCerts::ListAssignedServer { .. }) => {
                ("web-certs list-assigned-server", "12.04.100")
            }
            Self::UmsCluster(UmsCluster::List) => ("ums-cluster list", "12.02.100"),
            Self::Ports(Ports::List) => ("ports list", "6.09.100"),
            Self::Db(Db::List) => ("db list", "6.09.100"),
            Self::UmsLicense(UmsLicense::State) => ("ums-license state", "12.09.100"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_are_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
