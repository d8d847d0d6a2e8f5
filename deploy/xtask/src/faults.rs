//! `cargo xtask faults`: the long form of the tests of everything that can die.

use std::path::Path;

use anyhow::ensure;
use clap::Args;

use crate::program::{Program, root};

/// Let every process die at every moment of every kind of run, and random faults come by a schedule
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask faults                        the whole matrix, and many schedules
  cargo xtask faults --sample               a part of both that fits into CI
  cargo xtask faults --seed 42              the same again
  cargo xtask faults --only 'sync / umsid / journal begun after#1'
  cargo xtask faults --seed 42 --only 'schedule 42'")]
pub(crate) struct Faults {
    /// Only a part of it, chosen by the seed
    #[arg(long)]
    sample: bool,
    /// The same cases and schedules as a run that printed this seed [default: a fresh one]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Only cases and schedules whose name holds this text
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

impl Faults {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let manifest = root().join("Cargo.toml");
        // The whole workspace, so that nothing is built with other features than for all other tests.
        let program = Program::new(Path::new(&cargo))
            .args(["test", "--workspace", "--test", "faults", "--locked", "--manifest-path"])
            .args([&manifest])
            .args(["--", "--nocapture"])
            .args(part_of(&self.only))
            .env("UMSID_FAULTS", if self.sample { "sample" } else { "whole" })
            .env("UMSID_FAULTS_SEED", &self.seed.map_or_else(String::new, |seed| seed.to_string()))
            .env("UMSID_FAULTS_ONLY", &self.only);
        let code = program.show()?;
        ensure!(code == 0, "a fault was not survived: see above");
        Ok(())
    }
}

/// The part of the test program a name belongs to: a schedule, or a case of the matrix. Others look for it in all of it.
fn part_of(name: &str) -> Option<&'static str> {
    if name.starts_with("schedule ") {
        return Some("schedule::");
    }
    name.contains(" / ").then_some("matrix::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_for_one_name_need_not_wait_for_all_others() {
        assert_eq!(part_of("schedule 42"), Some("schedule::"));
        assert_eq!(part_of("sync / umsid / journal begun after#1"), Some("matrix::"));
        assert_eq!(part_of("rehearse"), None);
        assert_eq!(part_of(""), None);
    }
}
