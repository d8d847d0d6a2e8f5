//! `umsid-fleet-line`: what a long line makes of a transfer, with what may be in flight as umsid has it, or as the library.
#![expect(clippy::print_stdout, reason = "it is a program that prints")]

use std::time::Duration;

use clap::Parser;
use umsid_common::tls::Flow;

/// Transfers a backup from agent to agent through a coordinator over long lines, sealed and verified, and prints the seconds it took
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Bytes of the backup
    #[arg(long, default_value_t = 256 << 20)]
    bytes: usize,
    /// Milliseconds of a round trip
    #[arg(long, default_value_t = 80)]
    round_trip_ms: u64,
    /// With the windows the HTTP/2 library has by default
    #[arg(long)]
    default_windows: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let flow = match arguments.default_windows {
        true => Flow { window: None, frame: None },
        false => Flow::default(),
    };
    let took = umsid_fleet::transfer(arguments.bytes, Duration::from_millis(arguments.round_trip_ms), flow)?;
    println!("{took}");
    Ok(())
}
