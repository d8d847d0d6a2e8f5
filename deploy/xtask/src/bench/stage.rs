//! A fleet to measure umsid on, and umsid itself.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Bed;
use crate::program::{Program, first_line};

/// How often a program's memory is looked at.
const PEEK: Duration = Duration::from_millis(10);

/// How a fleet is to be; see `umsid-fleet --help`.
#[derive(Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) clusters: usize,
    pub(super) servers: usize,
    pub(super) out_of_sync: usize,
    pub(super) call_ms: u64,
    pub(super) restart_ms: u64,
    pub(super) payload: usize,
    /// Whether every UMS is a program that is called.
    pub(super) called: bool,
}

/// A fleet that stands as long as this.
pub(super) struct Stage<'a> {
    bed: &'a Bed,
    state: PathBuf,
    wanted: Wanted,
    fleet: Child,
}

/// One umsid that ran to its end.
pub(super) struct Ran {
    /// Seconds, from its start to its end.
    pub(super) took: f64,
    pub(super) out: String,
    /// Its memory when it was largest, MiB.
    pub(super) peak: f64,
}

impl<'a> Stage<'a> {
    pub(super) fn up(bed: &'a Bed, wanted: Wanted) -> anyhow::Result<Self> {
        let number = |what: usize| what.to_string();
        let mut program =
            Program::new(&bed.programs.join("umsid-fleet")).env("TMPDIR", &bed.dir.to_string_lossy());
        program = program
            .args(["--clusters", &number(wanted.clusters), "--servers", &number(wanted.servers)])
            .args(["--out-of-sync", &number(wanted.out_of_sync), "--payload", &number(wanted.payload)])
            .args(["--call-ms", &wanted.call_ms.to_string(), "--restart-ms", &wanted.restart_ms.to_string()]);
        if wanted.called {
            program = program.args([Path::new("--program"), &bed.programs.join("umsid-fleet-ums")]);
        }
        let mut fleet = program.held().start(&bed.dir.join("fleet.log"))?;
        let state = first_line(&mut fleet).context("the fleet does not stand; see fleet.log")?.into();
        Ok(Self { bed, state, wanted, fleet })
    }

    /// Where a server's agent, of the first cluster, keeps its state.
    pub(super) fn agent_dir(&self, server: usize) -> PathBuf {
        self.state.with_file_name(format!("c001-s{server:04}"))
    }

    /// Where a server's UMS is, if it is a program.
    pub(super) fn ums_dir(&self, server: usize) -> PathBuf {
        self.state.with_file_name("ums").join(format!("c001-s{server:04}"))
    }

    /// Puts the servers of the first cluster out of sync that are to be so; their UMS must be programs.
    pub(super) fn lose(&self) -> anyhow::Result<()> {
        for server in self.wanted.servers - self.wanted.out_of_sync + 1..=self.wanted.servers {
            let mut id = format!("c001-s{server:04}\n").into_bytes();
            id.resize(id.len().max(self.wanted.payload), 0);
            crate::files::write(&self.ums_dir(server).join("id"), 0o600, &id)?;
        }
        Ok(())
    }

    /// Runs umsid to its end, which must be a good one.
    pub(super) fn umsid(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        let begun = Instant::now();
        let program = Program::new(&self.bed.programs.join("umsid"))
            .env("UMSID_STATE_DIR", &self.state.to_string_lossy())
            .args(arguments);
        let mut umsid = program.start(&self.bed.dir.join("umsid.log"))?;
        let (out, pid) = (umsid.stdout.take().context("it has no output")?, umsid.id());
        let reading = std::thread::spawn(move || std::io::read_to_string(out));
        // The kernel keeps the largest; looking for it is not to cost what is measured anything.
        let peaking = std::thread::spawn(move || {
            let mut peak = 0.0_f64;
            loop {
                match memory(pid, "VmHWM:") {
                    gone if gone <= 0.0 => break peak,
                    seen => peak = seen,
                }
                std::thread::sleep(PEEK);
            }
        });
        let status = umsid.wait()?;
        let took = begun.elapsed().as_secs_f64();
        let out = reading.join().ok().context("its output was not read")??;
        let peak = peaking.join().ok().context("its memory was not watched")?;
        ensure!(status.success(), "umsid {} ended with {status}: {out}", arguments.join(" "));
        Ok(Ran { took, out, peak })
    }

    /// Synchronizes the first cluster; the run's events, the last of which is its report.
    pub(super) fn sync(&self, more: &[&str]) -> anyhow::Result<(Ran, Vec<Value>)> {
        let arguments = [&["sync", "c001", "--yes", "--settle", "0", "-o", "json"], more].concat();
        let ran = self.umsid(&arguments)?;
        let events: Vec<Value> = ran
            .out
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .context("umsid printed no JSON")?;
        let outcome = events.last().map(|report| &report["outcome"]);
        ensure!(outcome == Some(&"synchronized".into()), "it is not synchronized: {}", ran.out);
        Ok((ran, events))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        drop(self.fleet.stdin.take());
        drop(self.fleet.wait());
    }
}

/// A process's memory by this line of its status, MiB; 0 if it is gone.
pub(super) fn memory(pid: u32, line: &str) -> f64 {
    memory_in(pid, "status", line)
}

/// The same by a line of another file the kernel has of it.
pub(super) fn memory_in(pid: u32, file: &str, line: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    found.and_then(|text| text.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or_default()
        / 1024.0
}
