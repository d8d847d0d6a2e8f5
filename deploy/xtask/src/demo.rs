//! The main job from end to end, on a lab: enrol, status, plan, sync, status.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::enrolling;
use crate::program::{self, Program, talk};

/// The cluster's name in the demo.
const CLUSTER: &str = "demo";

/// Start a lab of servers on two sites, some of them out of sync, and synchronize it
#[derive(Args)]
pub(crate) struct Demo {
    /// How many servers; two thirds of them are put out of sync
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=50))]
    servers: u32,
    /// `json` prints exactly one JSON document on standard output
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// How long every call of umsadmin-cli takes, in milliseconds: a real one needs a second or more
    #[arg(long, default_value_t = 0, value_name = "MS")]
    ums_delay_ms: u64,
    /// Leave the lab up, and print how to go on by hand
    #[arg(long, conflicts_with = "end")]
    keep: bool,
    /// End a lab that was left up
    #[arg(long, value_name = "DIR")]
    end: Option<PathBuf>,
    /// Optimised binaries: building them takes minutes
    #[arg(long)]
    release: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// What the demo tells with `-o json`.
#[derive(Serialize)]
struct Told {
    servers: u32,
    before: Counts,
    after: Counts,
    run: Run,
}

/// Servers in each state.
#[derive(Default, Serialize, Deserialize)]
struct Counts {
    main: u32,
    in_sync: u32,
    not_in_sync: u32,
    unknown: u32,
}

/// What `umsid sync -o json` tells in its last line, as far as it is of interest here.
#[derive(Default, Serialize, Deserialize)]
struct Run {
    #[serde(alias = "run")]
    id: String,
    outcome: String,
    elapsed_ms: u64,
    ums_ms: u64,
    overhead_ms: u64,
}

/// What `umsid-lab up -o json` tells.
#[derive(Deserialize)]
struct Lab {
    servers: Vec<Server>,
}

#[derive(Deserialize)]
struct Server {
    name: String,
    site: String,
    install_dir: String,
    umsadmin_cli: String,
    init_script: String,
    pid_file: String,
    https_port: u16,
}

/// Everything that was started, and the way to end it.
struct Stage {
    binaries: PathBuf,
    dir: PathBuf,
    agents: Vec<Child>,
    keep: bool,
}

impl Demo {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let packages = ["umsid", "umsid-agent", "umsid-lab"];
        let binaries = program::build(&packages, self.release)?;
        if let Some(dir) = &self.end {
            return end(&binaries, dir);
        }
        let dir = program::target_dir().join("demo").join(std::process::id().to_string());
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut stage = Stage { binaries, dir, agents: Vec::new(), keep: false };
        let told = self.perform(&mut stage)?;
        if self.output == Output::Json {
            print(&serde_json::to_string(&told)?)?;
        }
        if self.keep {
            stage.keep = true;
            stage.tell_how_to_go_on();
        }
        Ok(())
    }

    fn perform(&self, stage: &mut Stage) -> anyhow::Result<Told> {
        let lab = self.raise(stage)?;
        stage.umsid(&["init", "--name", "demo"]).read_quietly()?;
        for server in &lab.servers {
            stage.enrol(server)?;
        }
        let before = self.status(stage, &[3])?;
        if self.output == Output::Table {
            let plan = ["plan", CLUSTER, "--settle", "0"];
            stage.heading(&plan)?;
            ensure!(stage.umsid(&plan).show()? == 0, "umsid plan failed");
        }
        let run = self.synchronize(stage)?;
        let after = self.status(stage, &[0])?;
        Ok(Told { servers: self.servers, before, after, run })
    }

    fn raise(&self, stage: &Stage) -> anyhow::Result<Lab> {
        let (servers, delay) = (self.servers.to_string(), self.ums_delay_ms.to_string());
        let up = ["up", "--servers", &servers, "--sites", "2", "--ums-delay-ms", &delay, "-o", "json"];
        let text = stage.lab(&up).read(&[0])?;
        let lab: Lab = serde_json::from_str(&text).context("umsid-lab up printed something else")?;
        let broken = usize::try_from(self.servers * 2 / 3)?;
        let names = lab.servers.iter().rev().take(broken).map(|server| server.name.as_str());
        let names: Vec<&str> = std::iter::once("break").chain(names).collect();
        stage.lab(&names).read(&[0])?;
        talk(&format!("a lab of {} UMS servers is up, {broken} of them out of sync", lab.servers.len()));
        Ok(lab)
    }

    /// Shows the status and gives the number of servers in each state.
    fn status(&self, stage: &Stage, allowed: &[i32]) -> anyhow::Result<Counts> {
        if self.output == Output::Table {
            stage.heading(&["status", CLUSTER])?;
            let code = stage.umsid(&["status", CLUSTER]).show()?;
            ensure!(allowed.contains(&code), "umsid status exited with {code}");
            return Ok(Counts::default());
        }
        let text = stage.umsid(&["status", CLUSTER, "-o", "json"]).read(allowed)?;
        let status: Value = serde_json::from_str(&text).context("umsid status printed something else")?;
        let counts = status.pointer("/clusters/0/counts").context("umsid status counts no servers")?;
        serde_json::from_value(counts.clone()).context("umsid status counts otherwise")
    }

    /// Synchronizes and gives the run's report.
    fn synchronize(&self, stage: &Stage) -> anyhow::Result<Run> {
        // The lab's servers learn from each other at once: there is no lag to wait for.
        let sync = ["sync", CLUSTER, "--yes", "--settle", "0"];
        if self.output == Output::Table {
            stage.heading(&sync)?;
            let code = stage.umsid(&sync).show()?;
            ensure!(code == 0, "umsid sync exited with {code}");
            return Ok(Run::default());
        }
        let text = stage.umsid(&[&sync[..], &["-o", "json"]].concat()).read(&[0])?;
        let report = text.lines().last().context("umsid sync printed nothing")?;
        serde_json::from_str(report).context("umsid sync ended with something else")
    }
}

impl Stage {
    fn lab(&self, args: &[&str]) -> Program {
        Program::new(&self.binaries.join("umsid-lab"))
            .args(args)
            .args([Path::new("--dir"), &self.dir.join("lab")])
    }

    fn umsid(&self, args: &[&str]) -> Program {
        let state = self.dir.join("umsid");
        Program::new(&self.binaries.join("umsid")).args([Path::new("--state-dir"), &state]).args(args)
    }

    fn heading(&self, args: &[&str]) -> anyhow::Result<()> {
        print(&format!("\n$ umsid {}", args.join(" ")))
    }

    /// Enrols an agent for this server as an administrator would, and starts it.
    fn enrol(&mut self, server: &Server) -> anyhow::Result<()> {
        let port = program::free_port()?;
        let (config, log) =
            (self.dir.join(format!("{}.toml", server.name)), self.dir.join(format!("{}.log", server.name)));
        std::fs::File::create(&config)?.write_all(self.config(server, port).as_bytes())?;
        let agent = self.binaries.join("umsid-agent");
        let agent = |verb: &str| Program::new(&agent).args([Path::new("--config"), &config]).args([verb]);
        let host = format!("127.0.0.1:{port}");
        let enroll = ["enroll", &host, "--name", &server.name, "--cluster", CLUSTER, "--site", &server.site];
        enrolling::by_code(|args| self.umsid(args), agent("enroll"), &enroll, &log)
            .with_context(|| format!("{} could not be enrolled", server.name))?;
        self.agents.push(agent("run").start_detached(&log)?);
        wait_until_listening(port, &log)
    }

    fn config(&self, server: &Server, port: u16) -> String {
        let state = self.dir.join(format!("{}.state", server.name));
        format!(
            "listen = \"127.0.0.1:{port}\"\nstate_dir = '{}'\n\n[ums]\numsadmin_cli = '{}'\ninstall_dir = '{}'\n\
             web_port = {}\n\n[service]\ncontrol = \"init-script\"\nscript = '{}'\npid_file = '{}'\n\n\
             # The lab's servers are up at once, and compute their health anew every few milliseconds.\n\
             [health]\nmin_time = \"20ms\"\ninterval = \"10ms\"\n",
            state.display(),
            server.umsadmin_cli,
            server.install_dir,
            server.https_port,
            server.init_script,
            server.pid_file
        )
    }

    fn tell_how_to_go_on(&self) {
        let (dir, binaries) = (self.dir.display(), self.binaries.display());
        let pids: Vec<String> = self.agents.iter().map(|agent| agent.id().to_string()).collect();
        if let Ok(mut file) = std::fs::File::create(self.dir.join("agents.pid")) {
            let _ = file.write_all(pids.join("\n").as_bytes());
        }
        talk(&format!(
            "\nThe lab is still up. Go on by hand:\n\n  \
             export PATH=\"{binaries}:$PATH\" UMSID_STATE_DIR={dir}/umsid\n  \
             umsid status\n  \
             umsid-lab break ums2 --dir {dir}/lab      # put a server out of sync again\n  \
             umsid sync --settle 0\n  \
             umsid runs\n  \
             umsid-lab set --help                      # let the UMS misbehave\n  \
             umsid-agent --config {dir}/ums1.toml doctor\n\n\
             and end it with:\n\n  cargo demo --end {dir}\n"
        ));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if let Err(error) = self.lab(&["down"]).read(&[0]) {
            talk(&format!("the lab could not be ended: {error:#}"));
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            talk(&format!("{} could not be removed: {error}", self.dir.display()));
        }
    }
}

/// Ends a lab that was left up: only processes that still are the agents of that lab.
fn end(binaries: &Path, dir: &Path) -> anyhow::Result<()> {
    let dir = dir.canonicalize().with_context(|| format!("there is no {}", dir.display()))?;
    let pids = std::fs::read_to_string(dir.join("agents.pid"));
    let pids = pids.with_context(|| format!("{} is no lab that was left up", dir.display()))?;
    for pid in pids.lines().filter_map(|line| line.parse::<i32>().ok()) {
        end_agent(pid, &dir);
    }
    let stage = Stage { binaries: binaries.to_owned(), dir, agents: Vec::new(), keep: false };
    drop(stage);
    Ok(())
}

#[cfg(unix)]
fn end_agent(pid: i32, dir: &Path) {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let ours = String::from_utf8_lossy(&line).contains(&*dir.to_string_lossy());
    if let (true, Some(pid)) = (ours, rustix::process::Pid::from_raw(pid)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

#[cfg(not(unix))]
fn end_agent(_pid: i32, _dir: &Path) {}

fn wait_until_listening(port: u16, log: &Path) -> anyhow::Result<()> {
    let what = format!("the agent to listen; see {}", log.display());
    program::wait_for(&what, Duration::from_secs(15), || {
        Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok())
    })?;
    Ok(())
}

/// Data, on standard output.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
