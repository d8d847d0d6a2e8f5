//! `cargo xtask bench`: umsid beside what people use today, in the same run on the same machine, so that what is told is a ratio.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::program::{self, Program, root, talk, target_dir};

mod chart;
mod footprint;
mod journal;
mod line;
mod peers;
mod salt;
mod samples;
mod stage;
mod status;
mod sync;
mod transfer;

use peers::Peers;
use samples::{Figure, Samples};
use stage::Stage;

/// Measure umsid beside Ansible, scp, sshd and a minion of Salt, and draw it
#[derive(Args)]
#[command(after_help = "\
It needs root on Debian; what is missing is installed: an sshd of its own on loopback, ansible-core and salt from PyPI,
optimised programs.
Every figure is taken in turns with its peer and told as the median; target/bench/results.json has every sample. What is left out with
--only stays there as it was measured before, with the day and the command of then.")]
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
    /// A sync with a JVM's delays
    Jvm,
    Status,
    Transfer,
    /// Transfers to several at once
    Fan,
    /// A transfer over a long line
    Line,
    Footprint,
    Journal,
}

/// What is measured: which, what it is called, how, and what is told of it.
type Part = (Kind, &'static str, fn(&Bed) -> anyhow::Result<Vec<Samples>>, fn(&[Samples]) -> Vec<Figure>);

const PARTS: [Part; 8] = [
    (Kind::Sync, "sync", sync::measure, sync::figures),
    (Kind::Jvm, "sync with a JVM's delays", sync::measure_slow, sync::figures),
    (Kind::Status, "status", status::measure, status::figures),
    (Kind::Transfer, "transfer", transfer::measure, transfer::figures),
    (Kind::Fan, "transfer to several", transfer::measure_fan, transfer::figures_of_fan),
    (Kind::Line, "long lines", line::measure, line::figures),
    (Kind::Footprint, "footprint", footprint::measure, footprint::figures),
    (Kind::Journal, "journal", journal::measure, journal::figures),
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

/// Everything that was measured, by part.
#[derive(Default, Serialize, Deserialize)]
struct Results(BTreeMap<String, Measured>);

/// One part.
#[derive(Serialize, Deserialize)]
struct Measured {
    occasion: Occasion,
    #[serde(skip_deserializing)]
    figures: Vec<Figure>,
    samples: Vec<Samples>,
}

/// When and how something was measured.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Occasion {
    /// The command that made it.
    command: String,
    /// Day, UTC.
    date: String,
    commit: String,
    machine: String,
}

/// Where the table in the README begins and ends.
const BEGIN: &str = "<!-- measured -->";
const END: &str = "<!-- /measured -->";

impl Bench {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        ensure!(self.runs > 0, "nothing would be measured");
        let programs = match &self.programs {
            Some(dir) => std::path::absolute(dir)?,
            None => {
                // By itself: what others want of a library is in all programs that are built together.
                program::build(&["umsid-agent"], true)?;
                program::build(&["umsid", "umsid-fleet"], true)?
            }
        };
        let dir = target_dir().join("bench");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let peers = Peers::up(&dir)?;
        let bed = Bed { programs, dir: dir.clone(), peers, runs: self.runs, quick: self.quick };
        let begun = Instant::now();
        let occasion = Occasion {
            command: std::env::args()
                .skip(1)
                .fold("cargo xtask".to_owned(), |line, arg| format!("{line} {arg}")),
            date: said("date", &["-u", "+%Y-%m-%d"])?,
            commit: {
                let here = said("git", &["describe", "--always", "--dirty"])?;
                match &self.programs {
                    Some(_) => format!("{here}, with programs built before"),
                    None => here,
                }
            },
            machine: machine()?,
        };
        let kept = dir.join("results.json");
        // What was measured before is in the project, in a fresh checkout there only.
        let published = root().join("deploy/bench/results.json");
        let mut results = Results::load(if kept.exists() { &kept } else { &published })?;
        for (kind, name, measure, _) in PARTS {
            if !self.only.is_empty() && !self.only.contains(&kind) {
                continue;
            }
            talk(&format!("[{:>5} s] measuring {name}", begun.elapsed().as_secs()));
            let measured =
                Measured { occasion: occasion.clone(), figures: Vec::new(), samples: measure(&bed)? };
            results.0.insert(name.to_owned(), measured);
            results.judge();
            // What comes next may fail, or be stopped.
            files::write(&kept, 0o644, &serde_json::to_vec_pretty(&results)?)?;
        }
        let json = serde_json::to_vec_pretty(&results)?;
        let syncs = results.0.get("sync").map_or(&[][..], |part| &part.samples);
        let picture = chart::draw(syncs)?;
        files::write(&dir.join("overhead.svg"), 0o644, picture.as_bytes())?;
        let table = results.table();
        talk(&table);
        if self.publish {
            files::write(&published, 0o644, &json)?;
            files::write(&published.with_file_name("overhead.svg"), 0o644, picture.as_bytes())?;
            publish(&root().join("README.md"), &table)?;
        }
        talk(&format!("[{:>5} s] every sample is in {}", begun.elapsed().as_secs(), kept.display()));
        Ok(())
    }
}

impl Results {
    fn load(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(json) => serde_json::from_slice(&json)
                .with_context(|| format!("{} is of another time: remove it", path.display())),
            Err(_) => Ok(Self::default()),
        }
    }

    /// What is told of the samples.
    fn judge(&mut self) {
        for (_, name, _, told) in PARTS {
            if let Some(part) = self.0.get_mut(name) {
                part.figures = told(&part.samples);
            }
        }
    }

    fn table(&mut self) -> String {
        self.judge();
        let mut text = "| figure | measured | to reach | |\n|---|---|---|---|\n".to_owned();
        let mut occasions: BTreeMap<&Occasion, Vec<&str>> = BTreeMap::new();
        for (name, part) in PARTS.iter().filter_map(|(_, name, ..)| Some((*name, self.0.get(*name)?))) {
            part.figures.iter().for_each(|figure| text.push_str(&figure.row()));
            occasions.entry(&part.occasion).or_default().push(name);
        }
        text.push_str("\nMedians, in turns with the peer:\n");
        for (Occasion { command, date, commit, machine }, parts) in occasions {
            let parts = parts.join(", ");
            text.push_str(&format!("- {parts}: `{command}` on {date}, {machine}, at {commit}\n"));
        }
        text
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
