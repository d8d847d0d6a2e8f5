//! `cargo xtask windows`: the programs for Windows, built here and run by Wine.
//!
//! First the tests that ask for nothing Unix has. Then a mixed cluster: one UMS Server on this Linux, two on a Windows each,
//! where they are services; agents installed as services there; the coordinator on Linux, then on Windows. What Wine
//! cannot show is in `deploy/README.md`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::enrolling;
use crate::files;
use crate::program::{self, Program, talk, wait_for};
use crate::told;

mod build;
pub(crate) mod wine;

use wine::{LIBRARY, Windows as Host, path};

/// Build the programs for Windows and try them by Wine, together with those for Linux
#[derive(Args)]
#[command(after_help = "\
What is missing of rustc-web, rust-web-src, gcc-mingw-w64-x86-64 and wine64 is installed, for which root on Debian is needed.
No X server is; every Windows is a directory of its own and is gone afterwards.")]
pub(crate) struct Windows {
    /// Leave out the tests, try the cluster only
    #[arg(long)]
    cluster: bool,
}

/// The installation's name, and the cluster's.
const CLUSTER: &str = "mixed";

/// The service of the UMS Server (UMS_FACTS §4).
const UMS: &str = "IGELRMGUIServer";

/// The service of the agent.
const AGENT: &str = "umsid-agent";

/// A service that needs the UMS Server's.
const BYSTANDER: &str = "Bystander";

/// Where the agent is installed.
const PROGRAMS: &str = "Program Files/umsid";

/// Where its configuration and state are.
const STATE: &str = "ProgramData/umsid-agent";

/// How long a restore takes where something happens in the middle of it.
const SLOW: &str = "restore_delay_ms=4000";

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(120);

impl Windows {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        build::provide()?;
        let begun = Instant::now();
        let windows = build::programs()?;
        let linux = program::build(&["umsid", "umsid-agent", "umsid-lab"], false)?;
        talk(&format!("[{:>4} s] everything is built", begun.elapsed().as_secs()));
        let dir = build::dir().join(std::process::id().to_string());
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut stage = Stage { hosts: Vec::new(), agents: Vec::new(), linux, windows, dir, begun };
        if !self.cluster {
            let host = Host::new(&stage.dir, "tests", &stage.windows.join(LIBRARY))?;
            build::tests(host.prefix())?;
            stage.done("the tests pass on Windows");
        }
        stage.set()?;
        stage.install()?;
        stage.refuses_what_others_may_write()?;
        stage.enrol()?;
        stage.agent_is_killed_in_the_middle()?;
        stage.dependents_come_back()?;
        stage.stopped_in_the_middle_with_the_coordinator_on_windows()?;
        stage.boots()?;
        stage.removed_and_installed_again()?;
        talk("everything went through on Windows");
        Ok(())
    }
}

/// The programs for Windows, as they are tried here; what is missing to build them is installed.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    build::provide()?;
    build::programs()
}

/// The same, optimised, with their dependencies listed in them.
pub(crate) fn release() -> anyhow::Result<PathBuf> {
    build::provide()?;
    build::release()
}

/// What the lab tells of a server.
#[derive(Deserialize)]
struct Lab {
    servers: Vec<Server>,
}

#[derive(Clone, Deserialize)]
struct Server {
    name: String,
    site: String,
    install_dir: PathBuf,
    umsadmin_cli: PathBuf,
    init_script: PathBuf,
    pid_file: PathBuf,
    https_port: u16,
}

/// Everything that was started.
struct Stage {
    /// The Windows hosts: those of ums2 and ums3.
    hosts: Vec<Host>,
    /// The agents on this Linux.
    agents: Vec<Child>,
    linux: PathBuf,
    windows: PathBuf,
    dir: PathBuf,
    begun: Instant,
}

impl Stage {
    fn done(&self, what: &str) {
        talk(&format!("[{:>4} s] {what}", self.begun.elapsed().as_secs()));
    }

    /// A name that no code page of Windows has all letters of, and no shell takes as it is.
    fn lab_dir(&self) -> PathBuf {
        self.dir.join("Lab für Tests & €")
    }

    fn lab(&self, args: &[&str]) -> Program {
        let dir = self.lab_dir();
        Program::new(&self.linux.join("umsid-lab")).args(args).args([Path::new("--dir"), &dir])
    }

    fn server_dir(&self, name: &str) -> PathBuf {
        self.lab_dir().join("servers").join(name)
    }

    fn umsid(&self, args: &[&str]) -> Program {
        let state = self.dir.join("umsid");
        Program::new(&self.linux.join("umsid")).args([Path::new("--state-dir"), &state]).args(args)
    }

    fn host(&mut self, name: &str) -> anyhow::Result<&mut Host> {
        let found = self.hosts.iter_mut().find(|host| host.name == name);
        found.with_context(|| format!("there is no Windows {name}"))
    }

    /// The UMS Servers of a lab, all but the first of which are out of sync for good and are services of a Windows each.
    fn set(&mut self) -> anyhow::Result<()> {
        // Its servers run here until their hosts are there.
        self.lab(&["up", "--servers", "3", "--sites", "2", "--cluster", CLUSTER]).read(&[0])?;
        self.lab(&["break", "ums2", "ums3"]).read(&[0])?;
        self.lab(&["down", "--keep"]).read(&[0])?;
        let first = self.server_dir("ums1").join("etc/init.d/igelRMserver");
        Program::new(&first).args(["start"]).start_detached(&self.dir.join("ums1.log"))?.wait()?;
        let installer = self.windows.join("umsid-lab-server.exe");
        for name in ["ums2", "ums3"] {
            let host = Host::new(&self.dir, name, &self.windows.join(LIBRARY))?;
            let server = path(&self.server_dir(name));
            let install = |more: &[&str]| {
                host.program(&path(&installer))
                    .args(["install", "--server", &server])
                    .args(more)
                    .read_quietly()
            };
            install(&[])?;
            install(&["--name", BYSTANDER, "--needs", UMS])?;
            for service in [UMS, BYSTANDER] {
                host.program("net").args(["start", service]).read_quietly()?;
                host.until_service(service, "RUNNING")?;
            }
            self.hosts.push(host);
        }
        self.done("a UMS Server runs on Linux, and one each as a service on two Windows");
        Ok(())
    }

    /// What is installed by hand: programs only administrators write, the service, the configuration it made edited.
    fn install(&self) -> anyhow::Result<()> {
        let programs = ["umsid-agent.exe", "umsid.exe"].map(|name| self.windows.join(name));
        let lab: Lab = serde_json::from_slice(&fs::read(self.lab_dir().join("lab.json"))?)?;
        for host in &self.hosts {
            host.put(&programs, PROGRAMS)?;
            let said = agent(host).args(["service", "install"]).read_quietly()?;
            ensure!(said.contains("is installed"), "service install said: {said}");
            let template = fs::read_to_string(host.disk(STATE).join("agent.toml"));
            let template = template.context("service install made no configuration to edit")?;
            ensure!(template.contains("#listen"), "the configuration is another: {template}");
            let server =
                lab.servers.iter().find(|server| server.name == host.name).context("not in the lab")?;
            files::write(&host.disk(STATE).join("agent.toml"), 0o600, self.config(server, host)?.as_bytes())?;
            let key = r"HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\umsid-agent";
            let source = host.program("reg").args(["query", key]).read_quietly()?;
            ensure!(source.contains("EventCreate.exe"), "the event log knows nothing of the agent: {source}");
            let refused = agent(host).args(["service", "start"]).hear()?;
            ensure!(refused.0 == Some(1), "an agent that is not enrolled runs: {refused:?}");
            ensure!(refused.1.contains("event log"), "where it says why is not said: {refused:?}");
            host.until_service(AGENT, "STOPPED")?;
            let events = host.events()?;
            ensure!(
                events.contains("not enrolled"),
                "why it does not start is not in the event log: {events}"
            );
            let log = self.log(host)?;
            ensure!(log.contains("not enrolled"), "why it does not start is not in its log: {log}");
        }
        self.done("the agents are installed as services");
        Ok(())
    }

    /// What every user may write or open is nothing for a service that is the system.
    fn refuses_what_others_may_write(&self) -> anyhow::Result<()> {
        let host = self.hosts.first().context("there is no Windows")?;
        for (place, mode, back, verb, why) in [
            (
                "ProgramData/umsid-agent/agent.toml",
                0o666,
                0o600,
                &["doctor"][..],
                "could have the agent run any program",
            ),
            (STATE, 0o755, 0o700, &["enroll", "--listen", "127.0.0.1:0"], "may open it too"),
            (PROGRAMS, 0o777, 0o755, &["service", "install"], "whoever does would be the system"),
        ] {
            let place = host.disk(place);
            files::set_mode(&place, mode)?;
            let (code, said) = agent(host).args(verb).hear()?;
            files::set_mode(&place, back)?;
            ensure!(code == Some(1) && said.contains(why), "{verb:?} ended with {code:?}: {said}");
        }
        self.done("what every user may write or open is refused");
        Ok(())
    }

    /// One is told where everything is, by way of a `.bat`; the other finds the program in the install directory.
    fn config(&self, server: &Server, host: &Host) -> anyhow::Result<String> {
        let port = program::free_port()?;
        let ums = if server.name == "ums2" {
            format!(
                "umsadmin_cli = '{}'\ninstall_dir = '{}'\nweb_port = {}\n",
                path(&server.umsadmin_cli.with_extension("bat")),
                path(&server.install_dir),
                server.https_port
            )
        } else {
            host.link("lab", &self.lab_dir())?;
            format!("install_dir = 'C:\\lab\\servers\\{}\\opt\\IGEL\\RemoteManager'\n", server.name)
        };
        Ok(format!(
            "listen = \"127.0.0.1:{port}\"\n\n[ums]\n{ums}\n[health]\nmin_time = \"20ms\"\ninterval = \"10ms\"\n"
        ))
    }

    fn log(&self, host: &Host) -> anyhow::Result<String> {
        let mut all = String::new();
        for file in fs::read_dir(host.disk(STATE).join("log")).context("there are no log files")? {
            all.push_str(&fs::read_to_string(file?.path())?);
        }
        Ok(all)
    }

    /// By pairing code, and one by a join file.
    fn enrol(&mut self) -> anyhow::Result<()> {
        self.umsid(&["init", "--name", "admin"]).read_quietly()?;
        let lab: Lab = serde_json::from_slice(&fs::read(self.lab_dir().join("lab.json"))?)?;
        let first = lab.servers.first().context("the lab has no servers")?;
        self.enrol_on_linux(first)?;
        for (host, server) in self.hosts.iter().zip(&lab.servers[1..]) {
            let config = fs::read_to_string(host.disk(STATE).join("agent.toml"))?;
            let address = config.lines().find_map(|line| line.strip_prefix("listen = \"")?.strip_suffix('"'));
            let address = address.context("where the agent listens is not configured")?;
            let enroll =
                ["enroll", address, "--name", &server.name, "--cluster", CLUSTER, "--site", &server.site];
            let log = self.dir.join(format!("{}.enroll.log", host.name));
            if server.name == "ums2" {
                enrolling::by_code(|args| self.umsid(args), agent(host).args(["enroll"]), &enroll, &log)?;
            } else {
                let join = |file: &Path| Ok(agent(host).args(["enroll", "--join", &path(file)]));
                enrolling::by_join_file(|args| self.umsid(args), join, &enroll, &self.dir, &log)?;
            }
            let said = fs::read_to_string(&log)?;
            ensure!(said.contains("umsid-agent service start"), "what comes next is not said: {said}");
            agent(host).args(["service", "start"]).read_quietly()?;
            ensure!(host.service(AGENT)? == "RUNNING", "the service does not run");
        }
        self.stands(&["main", "not-in-sync", "not-in-sync"])?;
        for host in &self.hosts {
            let said = agent(host).args(["doctor"]).read_quietly()?;
            ensure!(said.contains("Windows service IGELRMGUIServer"), "doctor said: {said}");
        }
        self.done("the agents are enrolled and seen");
        self.memory()
    }

    fn enrol_on_linux(&mut self, server: &Server) -> anyhow::Result<()> {
        let port = program::free_port()?;
        let config = self.dir.join("ums1.toml");
        let text = format!(
            "listen = \"127.0.0.1:{port}\"\nstate_dir = '{}'\n\n[ums]\numsadmin_cli = '{}'\ninstall_dir = '{}'\n\
             web_port = {}\n\n[service]\ncontrol = \"init-script\"\nscript = '{}'\npid_file = '{}'\n\n\
             [health]\nmin_time = \"20ms\"\ninterval = \"10ms\"\n",
            self.dir.join("ums1.state").display(),
            server.umsadmin_cli.display(),
            server.install_dir.display(),
            server.https_port,
            server.init_script.display(),
            server.pid_file.display()
        );
        files::write(&config, 0o600, text.as_bytes())?;
        let program = self.linux.join("umsid-agent");
        let agent = |verb: &str| Program::new(&program).args([Path::new("--config"), &config]).args([verb]);
        let (address, log) = (format!("127.0.0.1:{port}"), self.dir.join("ums1.enroll.log"));
        let enroll = ["enroll", &address, "--name", "ums1", "--cluster", CLUSTER, "--site", &server.site];
        enrolling::by_code(|args| self.umsid(args), agent("enroll"), &enroll, &log)?;
        self.agents.push(agent("run").start_detached(&self.dir.join("ums1.agent.log"))?);
        wait_for("the agent on Linux to listen", SOON, || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(())
    }

    /// Idle, of the unoptimised programs.
    fn memory(&self) -> anyhow::Result<()> {
        for process in fs::read_dir("/proc")?.flatten().map(|entry| entry.path()) {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            // A bystander of another run is not ours.
            let environment = fs::read(process.join("environ")).unwrap_or_default();
            let ours = String::from_utf8_lossy(&environment).contains(&*self.dir.to_string_lossy());
            if ours && line.contains("umsid-agent.exe") && line.contains("service run") {
                let status = fs::read_to_string(process.join("status"))?;
                let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
                let memory = memory.split_whitespace().collect::<Vec<_>>().join(" ");
                self.done(&format!("an idle agent on Windows, and Wine with it: {memory}"));
            }
        }
        Ok(())
    }

    /// Its status, by server.
    fn stands(&self, expected: &[&str]) -> anyhow::Result<()> {
        let text = self.umsid(&["status", CLUSTER, "-o", "json"]).read(&[0, 3])?;
        let states = told::states(&text)?;
        ensure!(states == expected, "expected was {expected:?}, found is {states:?}: {text}");
        Ok(())
    }

    fn synchronized(&self, report: &str) -> anyhow::Result<()> {
        let report: Value = told::report(report)?;
        ensure!(report["outcome"] == "synchronized", "{report:#}");
        self.stands(&["main", "in-sync", "in-sync"])?;
        // Each server's own truth, by its own host.
        let tell = path(&self.windows.join("umsid-lab.exe"));
        let lab = path(&self.lab_dir());
        for host in &self.hosts {
            let text = host.program(&tell).args(["status", "-o", "json", "--dir", &lab]).read_quietly()?;
            let truth: Value =
                serde_json::from_str(&text).context("umsid-lab status printed something else")?;
            let servers = truth["servers"].as_array().context("the lab tells of no servers")?;
            let server = servers.iter().find(|server| server["name"] == host.name.as_str());
            let server = server.context("the lab does not know the server")?;
            ensure!(
                server["in_sync"] == true && server["running_fingerprint"] == truth["main_fingerprint"],
                "{truth:#}"
            );
        }
        Ok(())
    }

    /// An agent that dies in the middle of a restore does not take it along; started again, the run goes on.
    fn agent_is_killed_in_the_middle(&mut self) -> anyhow::Result<()> {
        self.lab(&["set", "ums3", SLOW, "start_pending_ms=1500"]).read(&[0])?;
        let sync = ["sync", CLUSTER, "--yes", "--settle", "0", "--contact-timeout", "5s", "-o", "json"];
        let log = self.dir.join("sync.log");
        let mut umsid = self.umsid(&sync).start(&log)?;
        let run = told::until_restored(&mut umsid, "ums3")?;
        let host = self.host("ums3")?;
        host.program("taskkill").args(["/f", "/im", "umsid-agent.exe"]).read_quietly()?;
        let code = umsid.wait()?.code();
        ensure!(code == Some(5), "umsid sync exited with {code:?}; see {}", log.display());
        let host = self.host("ums3")?;
        // Windows sees that the process is gone, and starts it again after a while; Wine's service manager sees it only now.
        agent(host).args(["service", "start"]).read_quietly()?;
        let report = self.umsid(&["resume", "-o", "json"]).read(&[0])?;
        ensure!(told::report(&report)?["run"] == run.as_str(), "another run went on: {report}");
        self.synchronized(&report)?;
        let calls = fs::read_to_string(self.server_dir("ums3").join("lab/calls.log"))?;
        let restores =
            calls.lines().filter(|line| line.contains("\"restore\"") && line.contains("\"exit\":0"));
        ensure!(restores.count() == 1, "it was not restored once: {calls}");
        self.done("an agent was killed in the middle of a restore, and the run ended synchronized");
        Ok(())
    }

    /// What needs the UMS Server was stopped before it, and runs again.
    fn dependents_come_back(&self) -> anyhow::Result<()> {
        for host in &self.hosts {
            for service in [UMS, BYSTANDER] {
                ensure!(host.service(service)? == "RUNNING", "{service} on {} does not run", host.name);
            }
            let log = fs::read_to_string(self.server_dir(&host.name).join("lab/bystander.log"))?;
            ensure!(
                log == "started\nstopped\nstarted\n",
                "what needs the UMS Server on {}: {log}",
                host.name
            );
        }
        self.done("services that need the UMS Server run again");
        Ok(())
    }

    /// A service that is told to stop lets the restore come to its end. The coordinator is a program for Windows this time.
    fn stopped_in_the_middle_with_the_coordinator_on_windows(&mut self) -> anyhow::Result<()> {
        let (tell, lab) = (path(&self.windows.join("umsid-lab.exe")), path(&self.lab_dir()));
        for name in ["ums2", "ums3"] {
            self.host(name)?.program(&tell).args(["break", name, "--dir", &lab]).read_quietly()?;
        }
        self.lab(&["set", "ums2", SLOW]).read(&[0])?;
        let home = self.host("ums2")?.disk("ProgramData/umsid");
        Program::new(Path::new("cp"))
            .args([Path::new("-a"), &self.dir.join("umsid"), &home])
            .read_quietly()?;
        let umsid = |host: &Host, args: &[&str]| host.program(r"C:\Program Files\umsid\umsid.exe").args(args);
        let states = umsid(self.host("ums2")?, &["status", CLUSTER, "-o", "json"]).read(&[3])?;
        let states = told::states(&states)?;
        ensure!(states == ["main", "not-in-sync", "not-in-sync"], "before the run: {states:?}");
        let sync = ["sync", CLUSTER, "--yes", "--settle", "0", "--contact-timeout", "5s", "-o", "json"];
        let log = self.dir.join("sync-on-windows.log");
        let mut running = umsid(self.host("ums2")?, &sync).start(&log)?;
        told::until_restored(&mut running, "ums2")?;
        let host = self.host("ums2")?;
        let begun = Instant::now();
        agent(host).args(["service", "stop"]).read_quietly()?;
        let took = begun.elapsed();
        ensure!(host.service(AGENT)? == "STOPPED", "the service runs");
        let calls = fs::read_to_string(self.server_dir("ums2").join("lab/calls.log"))?;
        let restores =
            calls.lines().filter(|line| line.contains("\"restore\"") && line.contains("\"exit\":0"));
        ensure!(
            restores.count() == 2,
            "the service stopped before the restore had ended, after {took:?}: {calls}"
        );
        let code = running.wait()?.code();
        ensure!(code == Some(5), "umsid sync exited with {code:?}; see {}", log.display());
        let host = self.host("ums2")?;
        agent(host).args(["service", "start"]).read_quietly()?;
        let report = umsid(host, &["resume", "-o", "json"]).read(&[0])?;
        self.synchronized(&report)?;
        self.done("a service was stopped in the middle of a restore, and the coordinator on Windows went on");
        Ok(())
    }

    /// After a power cut everything is there by itself.
    fn boots(&mut self) -> anyhow::Result<()> {
        let host = self.host("ums3")?;
        host.cut_power()?;
        self.stands(&["main", "in-sync", "unknown"])?;
        let host = self.host("ums3")?;
        host.boot()?;
        host.until_service(AGENT, "RUNNING")?;
        host.until_service(UMS, "RUNNING")?;
        wait_for("all to be in sync after the boot", SOON, || {
            let states = told::states(&self.umsid(&["status", CLUSTER, "-o", "json"]).read(&[0, 3])?)?;
            Ok((states == ["main", "in-sync", "in-sync"]).then_some(()))
        })?;
        self.done("after a power cut the services are there by themselves");
        Ok(())
    }

    /// Whoever installs again goes on where he was.
    fn removed_and_installed_again(&mut self) -> anyhow::Result<()> {
        let host = self.host("ums3")?;
        let said = agent(host).args(["service", "uninstall"]).read_quietly()?;
        ensure!(said.contains(r"C:\ProgramData\umsid-agent"), "what stays is not said: {said}");
        ensure!(host.disk(STATE).join("enrolment.json").exists(), "the enrolment is gone");
        let gone = host.program("sc").args(["query", AGENT]).read_quietly();
        ensure!(gone.is_err(), "the service is still there");
        ensure!(host.service(UMS)? == "RUNNING", "the UMS Server does not run");
        agent(host).args(["service", "install"]).read_quietly()?;
        agent(host).args(["service", "start"]).read_quietly()?;
        self.stands(&["main", "in-sync", "in-sync"])?;
        self.done("removed and installed again, the agent is who it was");
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.hosts.clear();
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let keep = std::env::var_os("UMSID_WINDOWS_KEEP").is_some();
        let down: &[&str] = if keep { &["down", "--keep"] } else { &["down"] };
        if self.lab_dir().exists()
            && let Err(error) = self.lab(down).read(&[0])
        {
            talk(&format!("the lab could not be ended: {error:#}"));
        }
        if !keep && let Err(error) = fs::remove_dir_all(&self.dir) {
            talk(&format!("{} could not be removed: {error}", self.dir.display()));
        }
    }
}

/// The agent that is installed on this Windows.
fn agent(host: &Host) -> Program {
    host.program(r"C:\Program Files\umsid\umsid-agent.exe")
}
