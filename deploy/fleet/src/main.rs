//! `umsid-fleet`: a fleet that stands until standard input ends.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use umsid_fleet::{Delays, Fleet, Wanted};

/// Many clusters to try umsid on: real agents with real TLS, a UMS that is a few numbers in memory. Prints where the state
/// directory of their coordinator is when all of them listen, and ends them when its standard input ends
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many clusters
    #[arg(long, default_value_t = 1)]
    clusters: usize,
    /// How many servers each of them has
    #[arg(long, default_value_t = 3)]
    servers: usize,
    /// How many of them are out of sync
    #[arg(long, default_value_t = 0)]
    out_of_sync: usize,
    /// Milliseconds a backup and a restore take, and telling the UMS ID
    #[arg(long, default_value_t = 0)]
    call_ms: u64,
    /// Milliseconds a restart takes
    #[arg(long, default_value_t = 0)]
    restart_ms: u64,
    /// Bytes a backup has at least
    #[arg(long, default_value_t = 0)]
    payload: usize,
    /// Call this program, umsid-fleet-ums, for everything a UMS does
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let fleet = Fleet::up(&Wanted {
        clusters: arguments.clusters,
        servers: arguments.servers,
        out_of_sync: arguments.out_of_sync,
        delays: Delays {
            call: Duration::from_millis(arguments.call_ms),
            restart: Duration::from_millis(arguments.restart_ms),
        },
        payload: arguments.payload,
        program: arguments.program,
        ..Wanted::default()
    })?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", fleet.state().display()).and_then(|()| out.flush())?;
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    Ok(())
}
