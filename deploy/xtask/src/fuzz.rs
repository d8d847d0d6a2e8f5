//! Whatever comes in from outside, thrown at the parsers that take it: the targets in `deploy/fuzz`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, bail, ensure};
use clap::Args;

use crate::program::{self, Program, talk};

/// What installs the tool, where it is missing.
const INSTALL: &str = "cargo install cargo-fuzz --version 0.13.2 --locked --debug --root target/ci-tools";

/// Longest input, in bytes.
const LONGEST: u32 = 8192;

/// Throw input at every parser, beginning with what the kept corpus holds
#[derive(Args)]
pub(crate) struct Fuzz {
    /// Only these targets
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 20, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// How many targets run at once [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    at_once: Option<u32>,
    /// Add to the kept corpus what reached something new
    #[arg(long)]
    keep: bool,
}

impl Fuzz {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let targets = self.chosen()?;
        let bench = Bench::build()?;
        let at_once = match self.at_once {
            Some(number) => usize::try_from(number)?,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let queue = Mutex::new(targets.iter());
        let failures = Mutex::new(Vec::new());
        let work = || {
            // The lock is free again before the target runs.
            let next = || queue.lock().map(|mut queue| queue.next()).ok().flatten();
            while let Some(target) = next() {
                let said = match bench.throw_at(target, self.seconds) {
                    Ok(Ended::Well(said)) => said,
                    Ok(Ended::Crashed(said)) => {
                        failures.lock().map(|mut failures| failures.push(target.clone())).ok();
                        said
                    }
                    Err(error) => {
                        failures.lock().map(|mut failures| failures.push(target.clone())).ok();
                        format!("{target:<16} not run: {error:#}")
                    }
                };
                talk(&said);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..at_once.min(targets.len()) {
                scope.spawn(work);
            }
        });
        let failures = failures.into_inner().unwrap_or_default();
        ensure!(
            failures.is_empty(),
            "{} of {} targets failed: {}",
            failures.len(),
            targets.len(),
            failures.join(", ")
        );
        if self.keep {
            targets.iter().try_for_each(|target| bench.keep(target))?;
        }
        Ok(())
    }

    fn chosen(&self) -> anyhow::Result<Vec<String>> {
        let dir = home().join("targets");
        let mut known = Vec::new();
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                known.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
            }
        }
        known.sort();
        if let Some(stranger) = self.targets.iter().find(|target| !known.contains(target)) {
            bail!("there is no target `{stranger}`: known are {}", known.join(", "));
        }
        Ok(if self.targets.is_empty() { known } else { self.targets.clone() })
    }
}

/// The crate of targets.
fn home() -> PathBuf {
    program::root().join("deploy/fuzz")
}

/// How a target's run ended, and the line that says so.
enum Ended {
    Well(String),
    Crashed(String),
}

/// The targets as built, and where their runs leave what they found.
struct Bench {
    programs: PathBuf,
    scratch: PathBuf,
}

impl Bench {
    /// Builds all targets at once. Without an address sanitizer: there is no unsafe code of ours, and it doubles the time.
    fn build() -> anyhow::Result<Self> {
        let scratch = program::target_dir().join("fuzz");
        let triple = Program::new(Path::new("rustc")).args(["-vV"]).read(&[0])?;
        let triple =
            triple.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
        let installed = program::target_dir().join("ci-tools/bin/cargo-fuzz");
        let tool = if installed.is_file() { installed } else { PathBuf::from("cargo-fuzz") };
        let code = Program::new(&tool)
            .args(["fuzz", "build", "--sanitizer", "none", "--codegen-units", "16", "--target", triple])
            .args(["--fuzz-dir".as_ref(), home().as_os_str()])
            .args(["--target-dir".as_ref(), scratch.as_os_str()])
            // The counters of coverage are an unstable option of a stable compiler.
            .env("RUSTC_BOOTSTRAP", "1")
            .show()
            .with_context(|| format!("is cargo-fuzz installed? `{INSTALL}` does that"))?;
        ensure!(code == 0, "the targets do not build");
        Ok(Self { programs: scratch.join(triple).join("release"), scratch })
    }

    /// A directory of this target's own.
    fn room(&self, kind: &str, target: &str) -> anyhow::Result<PathBuf> {
        let dir = self.scratch.join(kind).join(target);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    #[expect(clippy::disallowed_methods, reason = "a log in the target directory may be half written")]
    fn throw_at(&self, target: &str, seconds: u32) -> anyhow::Result<Ended> {
        let (found, crashes) = (self.room("found", target)?, self.room("crashes", target)?);
        let program = self.programs.join(target);
        // What is new goes to the first directory.
        let (code, said) = Program::new(&program)
            .args([found.as_os_str(), home().join("corpus").join(target).as_os_str()])
            .args([
                format!("-max_total_time={seconds}"),
                format!("-max_len={LONGEST}"),
                "-rss_limit_mb=2048".to_owned(),
                "-timeout=10".to_owned(),
                "-print_final_stats=1".to_owned(),
                format!("-artifact_prefix={}/", crashes.display()),
            ])
            .hear()?;
        let log = self.scratch.join(format!("{target}.log"));
        fs::write(&log, &said).with_context(|| format!("cannot write {}", log.display()))?;
        if code == Some(0) {
            return Ok(Ended::Well(summary(target, &said)));
        }
        let panicked = said.lines().skip_while(|line| !line.contains("panicked at")).take(4);
        let why: Vec<&str> =
            panicked.chain(said.lines().filter(|line| line.contains("ERROR: libFuzzer"))).collect();
        let file = said
            .lines()
            .find_map(|line| line.split_once("Test unit written to ").map(|(_, file)| file.trim()));
        let again = match file {
            Some(file) => format!("the input: {file}\n  once more: {} {file}", program.display()),
            None => "no input was written".to_owned(),
        };
        Ok(Ended::Crashed(format!(
            "{target:<16} CRASH\n  {}\n  {again}\n  all it said: {}",
            why.join("\n  "),
            log.display()
        )))
    }

    /// Copies to the kept corpus what reaches something nothing there reaches.
    fn keep(&self, target: &str) -> anyhow::Result<()> {
        let kept = home().join("corpus").join(target);
        let before = fs::read_dir(&kept)?.count();
        let (code, said) = Program::new(&self.programs.join(target))
            .args(["-merge=1".to_owned(), format!("-max_len={LONGEST}")])
            .args([&kept, &self.room("found", target)?])
            .hear()?;
        ensure!(code == Some(0), "{target}: the finds could not be added: {said}");
        talk(&format!("{target:<16} {} inputs added", fs::read_dir(&kept)?.count().saturating_sub(before)));
        Ok(())
    }
}

/// One line on a run, from what libFuzzer says.
fn summary(target: &str, said: &str) -> String {
    let number = |line: &str, key: &str| {
        let (_, after) = line.split_once(key)?;
        after.split_whitespace().next()?.parse::<u64>().ok()
    };
    let of = |key: &str| said.lines().rev().find_map(|line| number(line, key)).unwrap_or_default();
    let coverage = of(" cov: ");
    let first = said.lines().filter(|line| line.contains("INITED")).find_map(|line| number(line, " cov: "));
    format!(
        "{target:<16} ok  {:>9} runs, {:>6}/s, coverage {coverage} (+{}), {} new inputs",
        of("stat::number_of_executed_units:"),
        of("stat::average_exec_per_sec:"),
        coverage.saturating_sub(first.unwrap_or(coverage)),
        of("stat::new_units_added:"),
    )
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn a_run_is_told_in_one_line() {
        let said = "#30\tINITED cov: 1200 ft: 1500 corp: 20/4Kb exec/s: 0 rss: 60Mb\n\
                    #99\tNEW    cov: 1210 ft: 1511 corp: 21/4Kb lim: 8192 exec/s: 0 rss: 61Mb L: 5/9 MS: 1 EraseBytes-\n\
                    #70000\tDONE   cov: 1234 ft: 1600 corp: 30/5Kb lim: 8192 exec/s: 3500 rss: 80Mb\n\
                    stat::number_of_executed_units: 70000\n\
                    stat::average_exec_per_sec:     3500\n\
                    stat::new_units_added:          10\n";
        assert_eq!(
            summary("wire", said),
            "wire             ok      70000 runs,   3500/s, coverage 1234 (+34), 10 new inputs"
        );
    }
}
