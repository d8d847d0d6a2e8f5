//! `cargo xtask bench`: umsid beside what people use today, in the same run on the same machine, so that what is told is a ratio.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::files;
use crate::program::{self, Program, root, talk, target_dir};

mod chart;
mod footprint;
mod peers;
mod samples;
mod stage;
mod status;
mod sync;
mod transfer;

use peers::Peers;
use samples::{Figure, Samples};
use stage::Stage;

/// Measure umsid beside Ansible, scp and sshd, and draw it
#[derive(Args)]
#[command(after_help = "\
It needs root on Debian; what is missing is installed: an sshd of its own on loopback, ansible-core from PyPI, optimised programs.
Every figure is taken in turns with its peer and told as the median; target/bench/results.json has every sample.")]
pub(crate) struct Bench {
    /// Only this
    #[arg(long, value_name = "KIND")]
    only: Vec<Kind>,
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_name = "N")]
    runs: usize,
    /// Few servers and small files: to see that it works
    #[arg(long)]
    quick: bool,
    /// Measure the programs in this directory instead of building some
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Put table and picture into the README
    #[arg(long)]
    publish: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Sync,
    Status,
    Transfer,
    Footprint,
}

/// What is measured: which, what it is called, how, and what is told of it.
type Part = (Kind, &'static str, fn(&Bed) -> anyhow::Result<Vec<Samples>>, fn(&[Samples]) -> Vec<Figure>);

const PARTS: [Part; 4] = [
    (Kind::Sync, "sync", sync::measure, sync::figures),
    (Kind::Status, "status", status::measure, status::figures),
    (Kind::Transfer, "transfer", transfer::measure, transfer::figures),
    (Kind::Footprint, "footprint", footprint::measure, footprint::figures),
];

/// What everything is measured with.
struct Bed {
    /// Optimised programs.
    programs: PathBuf,
    /// For what is made on the way.
    dir: PathBuf,
    peers: Peers,
    runs: usize,
    quick: bool,
}

/// Everything that was measured.
#[derive(Serialize)]
struct Results {
    /// The command that made it.
    command: String,
    /// Day, UTC.
    date: String,
    commit: String,
    machine: String,
    figures: Vec<Figure>,
    samples: Vec<Samples>,
}

/// Where the table in the README begins and ends.
const BEGIN: &str = "<!-- measured -->";
const END: &str = "<!-- /measured -->";

impl Bench {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        ensure!(self.runs > 0, "nothing would be measured");
        let programs = match &self.programs {
            Some(dir) => std::path::absolute(dir)?,
            None => program::build(&["umsid", "umsid-agent", "umsid-fleet"], true)?,
        };
        let dir = target_dir().join("bench");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let peers = Peers::up(&dir)?;
        let bed = Bed { programs, dir: dir.clone(), peers, runs: self.runs, quick: self.quick };
        let begun = Instant::now();
        let wanted = |kind| self.only.is_empty() || self.only.contains(&kind);
        let (mut figures, mut samples) = (Vec::new(), Vec::new());
        for (kind, name, measure, told) in PARTS {
            if !wanted(kind) {
                continue;
            }
            talk(&format!("[{:>5} s] measuring {name}", begun.elapsed().as_secs()));
            let measured = measure(&bed)?;
            figures.extend(told(&measured));
            samples.extend(measured);
        }
        let results = Results {
            command: std::env::args()
                .skip(1)
                .fold("cargo xtask".to_owned(), |line, arg| format!("{line} {arg}")),
            date: said("date", &["-u", "+%Y-%m-%d"])?,
            commit: match &self.programs {
                Some(_) => "a commit nobody told".to_owned(),
                None => said("git", &["rev-parse", "--short", "HEAD"])?,
            },
            machine: machine()?,
            figures,
            samples,
        };
        let json = serde_json::to_vec_pretty(&results)?;
        files::write(&dir.join("results.json"), 0o644, &json)?;
        let picture = chart::draw(&results.samples)?;
        files::write(&dir.join("overhead.svg"), 0o644, picture.as_bytes())?;
        let table = results.table();
        talk(&table);
        if self.publish {
            let home = root().join("deploy/bench");
            files::write(&home.join("results.json"), 0o644, &json)?;
            files::write(&home.join("overhead.svg"), 0o644, picture.as_bytes())?;
            publish(&root().join("README.md"), &table)?;
        }
        talk(&format!(
            "[{:>5} s] every sample is in {}",
            begun.elapsed().as_secs(),
            dir.join("results.json").display()
        ));
        Ok(())
    }
}

impl Results {
    fn table(&self) -> String {
        let mut text = "| figure | measured | to reach | |\n|---|---|---|---|\n".to_owned();
        for figure in &self.figures {
            text.push_str(&figure.row());
        }
        format!(
            "{text}\n`{}` on {}, {}, at {}: medians, in turns with the peer.\n",
            self.command, self.date, self.machine, self.commit
        )
    }
}

fn publish(readme: &Path, table: &str) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(readme)?;
    let (before, rest) = text.split_once(BEGIN).context("the README has no place for it")?;
    let (_, after) = rest.split_once(END).context("the README has no end of that place")?;
    files::write(readme, 0o644, format!("{before}{BEGIN}\n{table}{END}{after}").as_bytes())
}

fn said(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let said = Program::new(Path::new(program)).args(arguments).in_dir(&root()).read_quietly()?;
    Ok(said.trim().to_owned())
}

fn machine() -> anyhow::Result<String> {
    let cores = std::thread::available_parallelism()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    Ok(format!("{cores} cores of {}", cpu.trim_start_matches([' ', '\t', ':'])))
}
