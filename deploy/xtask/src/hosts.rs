//! `cargo xtask hosts`: the packages on three booted Debian hosts, each with a systemd of its own, and on one without.
//!
//! The UMS Servers are the lab's, as the unit a real one has; the agents come from the package, are enrolled by pairing code
//! and are what is told to them over a network; the coordinator is on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::Value;

use crate::dist;
use crate::enrolling;
use crate::program::{self, Program, talk, target_dir, wait_for};
use crate::told;

pub(crate) mod host;
pub(crate) mod network;
pub(crate) mod tree;

use host::Host;
use network::Network;

/// Install the packages on three booted hosts of our own, and let them go through what hosts go through
#[derive(Args)]
#[command(after_help = "\
It needs root on Debian; what is missing of systemd-container, debootstrap and iproute2 is installed. Hosts, their network
and everything on them are gone afterwards, but for the tree they are copied from.")]
pub(crate) struct Hosts {
    /// Optimised binaries: building them takes minutes
    #[arg(long)]
    release: bool,
}

/// The installation's name, and the cluster's.
const CLUSTER: &str = "hosts";

/// Where they stand.
const SITES: [&str; 4] = ["north", "south", "north", "south"];

/// What `systemd-analyze security` may say of the agent's unit at most. A unit without restrictions has 9.6.
const EXPOSURE: f64 = 1.5;

/// Longer than anything here takes on a busy machine.
const SOON: Duration = Duration::from_secs(120);

/// The UMS Server of a host, as the unit of a real one is named (UMS_FACTS §4).
const UNIT: &str = "igel-ums-server";

/// The same where init scripts are (UMS_FACTS §4).
const SCRIPT: &str = "etc/init.d/igelRMserver";

impl Hosts {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        tree::provide()?;
        let dir = target_dir().join("hosts");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let binaries = program::build(&["umsid", "umsid-agent", "umsid-lab"], self.release)?;
        let version = env!("CARGO_PKG_VERSION");
        let packages = dist::packages(&binaries, version)?;
        let newer = dist::packages(&binaries, &format!("{version}+1"))?;
        let base = tree::base(&dir)?;
        let mut stage = Stage::set(&dir, &base, binaries)?;
        stage.install(&packages)?;
        stage.enrol()?;
        stage.is_unprivileged()?;
        stage.halted_by_a_host_without_power("ums3")?;
        stage.upgraded_while_halted(&newer[0], &["ums1", "ums2", "ums4"])?;
        stage.stays_off_where_it_was_disabled("ums1", &newer[0])?;
        stage.goes_on_after_boot("ums3", &newer[0])?;
        // One with systemd, one without.
        for name in ["ums2", "ums4"] {
            stage.removed_and_installed_again(name, &newer[0])?;
        }
        for name in ["ums2", "ums4"] {
            stage.purged(name)?;
        }
        talk("every host went through it");
        Ok(())
    }
}

/// The hosts, their network, and the administrator's machine.
struct Stage {
    // Hosts end before their network does.
    hosts: Vec<Host>,
    network: Network,
    binaries: PathBuf,
    dir: PathBuf,
    begun: Instant,
    run: String,
}

impl Stage {
    /// Hosts with UMS Servers, all but the first of which are out of sync for good.
    fn set(dir: &Path, base: &Path, binaries: PathBuf) -> anyhow::Result<Self> {
        let dir = dir.join(std::process::id().to_string());
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let network = Network::new()?;
        let mut stage =
            Self { hosts: Vec::new(), network, binaries, dir, begun: Instant::now(), run: String::new() };
        let lab = stage.dir.join("lab");
        // Its servers run here until their hosts are there.
        stage.lab(&["up", "--servers", "4", "--sites", "2", "--cluster", CLUSTER]).read(&[0])?;
        stage.lab(&["break", "ums2", "ums3", "ums4"]).read(&[0])?;
        stage.lab(&["down", "--keep"]).read(&[0])?;
        let plain = tree::plain(base, &stage.dir)?;
        for (number, base) in [(1, base), (2, base), (3, base), (4, &*plain)] {
            let name = format!("ums{number}");
            let mut host = Host::new(base, &stage.dir, &name, 10 + number, &lab)?;
            stand_in(&host, &lab.join("servers").join(&name), &lab)?;
            host.boot(&stage.network)?;
            if !host.systemd {
                host.shell(&format!("/{SCRIPT} start"))?;
            }
            stage.hosts.push(host);
        }
        stage.done("four hosts are up, one of them without systemd");
        Ok(stage)
    }

    fn done(&self, what: &str) {
        talk(&format!("[{:>4} s] {what}", self.begun.elapsed().as_secs()));
    }

    fn lab(&self, args: &[&str]) -> Program {
        Program::new(&self.binaries.join("umsid-lab"))
            .args(args)
            .args([Path::new("--dir"), &self.dir.join("lab")])
    }

    fn umsid(&self, args: &[&str]) -> Program {
        let state = self.dir.join("umsid");
        self.network.program(&self.binaries.join("umsid")).args([Path::new("--state-dir"), &state]).args(args)
    }

    /// Its status, by server.
    fn states(&self) -> anyhow::Result<Vec<String>> {
        let text = self.umsid(&["status", CLUSTER, "-o", "json"]).read(&[0, 3])?;
        told::states(&text)
    }

    fn host(&mut self, name: &str) -> anyhow::Result<&mut Host> {
        self.hosts
            .iter_mut()
            .find(|host| host.name == name)
            .with_context(|| format!("there is no host {name}"))
    }

    /// The packages come by apt, and change nothing until they are told to.
    fn install(&self, [agent, coordinator]: &[PathBuf; 2]) -> anyhow::Result<()> {
        for host in &self.hosts {
            let deb = host.put(agent)?;
            let said = host.shell(&format!("apt-get install -y -q {deb} 2>&1"))?;
            ensure!(said.contains("umsid-agent enroll"), "what comes next is not said: {said}");
            ensure!(!said.contains("rror"), "an error on the way: {said}");
            let (look, idle) = if host.systemd {
                (
                    "systemctl is-active umsid-agent umsid-helper.socket umsid-helper.service || true",
                    "inactive\nactive\ninactive\n",
                )
            } else {
                ("/etc/init.d/umsid-agent status || true", "umsid-agent does not run\n")
            };
            let found = host.shell(look)?;
            ensure!(found == idle, "before the enrolment: {found}");
            if !host.systemd {
                let pid_file = self.dir.join("lab/servers").join(&host.name).join("var/run/igelRMserver.pid");
                host.shell(&format!(
                    "sed -i 's%^#pid_file = .*%pid_file = \"{}\"%' /etc/umsid/agent.toml",
                    pid_file.display()
                ))?;
            }
            host.shell("sed -i 's/^#min_time = .*/min_time = \"2s\"/; s/^#interval = .*/interval = \"200ms\"/' /etc/umsid/agent.toml")?;
            ensure!(
                host.shell("dpkg --verify umsid-agent")?.trim() == "??5?????? c /etc/umsid/agent.toml",
                "files differ"
            );
        }
        let first = self.hosts.first().context("there is no host")?;
        let deb = first.put(coordinator)?;
        first.shell(&format!(
            "apt-get install -y -q {deb} && umsid --version && test -s /usr/share/man/man1/umsid-sync.1.gz"
        ))?;
        if first.systemd {
            let off = first.shell("systemctl is-enabled umsid-watch || true; systemctl is-active umsid-watch || true; stat -c '%U %a' /var/lib/umsid-watch")?;
            ensure!(off == "disabled\ninactive\numsid-watch 700\n", "nobody has enabled umsid-watch: {off}");
        }
        first.shell("apt-get purge -y -q umsid")?;
        let left = first.shell("ls -d /usr/bin/umsid /var/lib/umsid-watch /usr/lib/systemd/system/umsid-watch.service 2>/dev/null || true")?;
        ensure!(left.is_empty(), "there still is: {left}");
        self.done("the packages are installed");
        Ok(())
    }

    /// Typed by root: by pairing code, and one by a join file that only root can read.
    fn enrol(&self) -> anyhow::Result<()> {
        self.umsid(&["init", "--name", "hosts"]).read_quietly()?;
        for (index, (host, site)) in self.hosts.iter().zip(SITES).enumerate() {
            let log = self.dir.join(format!("{}.enroll.log", host.name));
            let enroll =
                ["enroll", &host.address, "--name", &host.name, "--cluster", CLUSTER, "--site", site];
            if index == 1 {
                let join = |file: &Path| {
                    let path = host.put(file)?;
                    let mode = host.shell(&format!("stat -c '%U %a' {path}"))?;
                    ensure!(mode == "root 600\n", "the join file is open: {mode}");
                    Ok(host.program("umsid-agent")?.args(["enroll", "--join", &path]))
                };
                enrolling::by_join_file(|args| self.umsid(args), join, &enroll, &self.dir, &log)?;
            } else {
                let agent = host.program("umsid-agent")?.args(["enroll"]);
                enrolling::by_code(|args| self.umsid(args), agent, &enroll, &log)?;
            }
            let said = fs::read_to_string(&log)?;
            let next = if host.systemd {
                "systemctl enable --now umsid-agent"
            } else {
                "/etc/init.d/umsid-agent start"
            };
            ensure!(said.contains(next), "what comes next is not said: {said}");
            host.shell(next)?;
        }
        let states = self.states()?;
        ensure!(
            states == ["main", "not-in-sync", "not-in-sync", "not-in-sync"],
            "after the enrolment: {states:?}"
        );
        self.done("the agents are enrolled and seen");
        Ok(())
    }

    /// The process that the network reaches has no rights, and nothing to get any with.
    fn is_unprivileged(&self) -> anyhow::Result<()> {
        for host in self.hosts.iter().filter(|host| host.systemd) {
            let process = host.shell("cat /proc/$(systemctl show -p MainPID --value umsid-agent)/status")?;
            let field = |name: &str| {
                let line = process.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
                line.unwrap_or_default().to_owned()
            };
            let own: Vec<String> = field("Uid").split('\t').map(str::to_owned).collect();
            let agent = host.shell("id -u umsid-agent")?;
            ensure!(own.iter().all(|id| id == agent.trim()), "the agent runs as {own:?}, not as {agent}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                ensure!(field(set).trim_matches('0').is_empty(), "the agent has capabilities: {process}");
            }
            ensure!(
                field("NoNewPrivs") == "1" && field("Seccomp") == "2",
                "the agent is not confined: {process}"
            );
            let owned =
                host.shell("find /var/lib/umsid-agent ! -user umsid-agent; stat -c %a /var/lib/umsid-agent")?;
            ensure!(owned == "700\n", "the state is open, or another's: {owned}");
            host.shell("umsid-agent doctor | grep 'answers at /run/umsid-helper.sock'")?;
            let open = host.shell("runuser -u nobody -- umsid-agent doctor 2>&1 || true")?;
            ensure!(open.contains("denied"), "anybody may look: {open}");
        }
        let host = self.hosts.first().context("there is no host")?;
        let text = host.shell("systemd-analyze security --no-pager umsid-agent.service")?;
        let last = text.lines().rfind(|line| line.contains("Overall exposure")).unwrap_or_default();
        let figure = last.split(": ").nth(1).and_then(|rest| rest.split(' ').next());
        let exposure: f64 = figure.and_then(|figure| figure.parse().ok()).context("no exposure is told")?;
        ensure!(exposure <= EXPOSURE, "{text}");
        let memory =
            host.shell("grep -h VmRSS /proc/$(systemctl show -p MainPID --value umsid-agent)/status")?;
        self.done(&format!(
            "the agent has no rights; systemd-analyze security: {exposure}; idle memory: {}",
            memory.split_whitespace().collect::<Vec<_>>().join(" ")
        ));
        Ok(())
    }

    /// In the middle of a restore a host is off.
    fn halted_by_a_host_without_power(&mut self, name: &str) -> anyhow::Result<()> {
        self.lab(&["set", name, "restore_delay_ms=4000"]).read(&[0])?;
        let sync = ["sync", CLUSTER, "--yes", "--settle", "0", "--contact-timeout", "5s", "-o", "json"];
        let log = self.dir.join("sync.log");
        let mut umsid = self.umsid(&sync).start(&log)?;
        self.run = told::until_restored(&mut umsid, name)?;
        self.host(name)?.cut_power()?;
        let code = umsid.wait()?.code();
        ensure!(code == Some(5), "umsid sync exited with {code:?}; see {}", log.display());
        let states = self.umsid(&["status", CLUSTER, "-o", "json"]).read(&[3])?;
        ensure!(states.contains("unknown"), "a host without power is not unknown: {states}");
        self.done(&format!("run {} is halted: {name} lost its power in the middle of the restore", self.run));
        Ok(())
    }

    /// Enrolment, records and configuration outlive an upgrade.
    fn upgraded_while_halted(&mut self, deb: &Path, names: &[&str]) -> anyhow::Result<()> {
        for name in names {
            let host = self.host(name)?;
            upgrade(host, deb)?;
        }
        self.done("the package was upgraded on the others meanwhile");
        Ok(())
    }

    /// What an administrator has switched off no upgrade switches on.
    fn stays_off_where_it_was_disabled(&mut self, name: &str, deb: &Path) -> anyhow::Result<()> {
        let host = self.host(name)?;
        let deb = host.put(deb)?;
        host.shell("systemctl disable --now umsid-agent")?;
        host.shell(&format!("apt-get install -y -q --reinstall {deb}"))?;
        let state =
            host.shell("systemctl is-active umsid-agent || systemctl is-enabled umsid-agent || true")?;
        ensure!(state == "inactive\ndisabled\n", "a disabled agent after an upgrade: {state}");
        host.shell("systemctl enable --now umsid-agent")?;
        self.done("a disabled agent stayed off");
        Ok(())
    }

    /// Booted again, the agent is there by itself, and the run goes on where it stood.
    fn goes_on_after_boot(&mut self, name: &str, deb: &Path) -> anyhow::Result<()> {
        let index = self.hosts.iter().position(|host| host.name == name).context("there is no such host")?;
        self.lab(&["set", name, "restore_delay_ms=0"]).read(&[0])?;
        self.hosts[index].boot(&self.network)?;
        self.hosts[index].shell("systemctl is-active umsid-agent")?;
        // What was begun there has to be found out about first.
        wait_for("the agent to tell how its server stands", SOON, || {
            Ok((!self.states()?.contains(&"unknown".to_owned())).then_some(()))
        })?;
        upgrade(&self.hosts[index], deb)?;
        let report = told::report(&self.umsid(&["resume", "-o", "json"]).read(&[0])?)?;
        ensure!(report["outcome"] == "synchronized" && report["run"] == self.run.as_str(), "{report:#}");
        let states = self.states()?;
        ensure!(states == ["main", "in-sync", "in-sync", "in-sync"], "after the run: {states:?}");
        let truth: Value = serde_json::from_str(&self.lab(&["status", "-o", "json"]).read(&[0])?)?;
        let servers = truth["servers"].as_array().context("the lab tells of no servers")?;
        ensure!(servers.iter().all(|server| server["in_sync"] == true), "{truth:#}");
        for host in &self.hosts {
            host.shell(&ums_is_up(host))?;
            host.shell(agent_is_up(host))?;
            if host.systemd {
                let failed = host.shell("systemctl --failed --no-legend")?;
                ensure!(failed.is_empty(), "units have failed on {}: {failed}", host.name);
            }
        }
        self.done("booted again, the run went on and ended synchronized");
        Ok(())
    }

    /// Whoever installs again goes on where he was.
    fn removed_and_installed_again(&mut self, name: &str, deb: &Path) -> anyhow::Result<()> {
        let host = self.host(name)?;
        host.shell("apt-get remove -y -q umsid-agent")?;
        let left = host.shell("ls -d /usr/bin/umsid-agent /usr/libexec/umsid-helper /run/umsid-helper.sock /usr/lib/systemd/system/umsid-* 2>/dev/null || true; grep -hxE 'umsid-(agent|helper)' /proc/[0-9]*/comm || true")?;
        ensure!(left.is_empty(), "after the removal there still is: {left}");
        host.shell("test -e /etc/umsid/agent.toml && test -e /var/lib/umsid-agent/enrolment.json")?;
        let deb = host.put(deb)?;
        host.shell(&format!("apt-get install -y -q {deb}"))?;
        if !host.systemd {
            // Where no init system runs either, Debian's scripts start nothing.
            host.shell("/etc/init.d/umsid-agent start")?;
        }
        host.shell(agent_is_up(host))?;
        let states = self.states()?;
        ensure!(states == ["main", "in-sync", "in-sync", "in-sync"], "installed again: {states:?}");
        self.done(&format!("removed from {name} and installed again, the agent is who it was"));
        Ok(())
    }

    /// What cannot be had back stays: the safety backups and the key that opens them.
    fn purged(&mut self, name: &str) -> anyhow::Result<()> {
        let host = self.host(name)?;
        let said = host.shell("apt-get purge -y -q umsid-agent 2>&1")?;
        ensure!(said.contains("the safety backups and their key stay in /var/lib/umsid-agent"), "{said}");
        let left = host.shell("cd /var/lib/umsid-agent && ls; ls -d /etc/umsid /var/lib/umsid-helper /etc/init.d/umsid-agent 2>/dev/null || true")?;
        ensure!(left == "seal.key\nvault\n", "after the purge there is: {left}");
        ensure!(!host.shell("ls /var/lib/umsid-agent/vault")?.is_empty(), "the safety backups are gone");
        let started = host.shell("find /etc/systemd/system /etc/rc?.d -name '*umsid*'")?;
        ensure!(started.is_empty(), "it would still be started: {started}");
        host.shell(&ums_is_up(host))?;
        self.done(&format!("purged from {name}, only the safety backups are left"));
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.hosts.clear();
        if std::env::var_os("UMSID_HOSTS_KEEP").is_none()
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            talk(&format!("{} could not be removed: {error}", self.dir.display()));
        }
    }
}

/// The lab's UMS Server, where and as what a real one is.
fn stand_in(host: &Host, server: &Path, lab: &Path) -> anyhow::Result<()> {
    host.link("opt/IGEL/RemoteManager", &server.join("opt/IGEL/RemoteManager"))?;
    host.link("usr/local/bin/umsadmin-cli", &server.join("bin/umsadmin-cli"))?;
    if !host.systemd {
        return host.link(SCRIPT, &server.join(SCRIPT));
    }
    let unit = format!("etc/systemd/system/{UNIT}.service");
    let (program, server) = (lab.join("bin/umsid-lab-server"), server.display());
    host.write(
        &unit,
        &format!(
            "[Unit]\nDescription=UMS Server (stand-in)\n\n[Service]\nExecStart={} run --server {server}\n\n\
             [Install]\nWantedBy=multi-user.target\n",
            program.display()
        ),
    )?;
    host.enable(&format!("/{unit}"))
}

fn ums_is_up(host: &Host) -> String {
    if host.systemd { format!("systemctl is-active {UNIT}") } else { format!("/{SCRIPT} status") }
}

/// And will be after a boot.
fn agent_is_up(host: &Host) -> &'static str {
    if host.systemd {
        "systemctl is-active umsid-agent umsid-helper.socket && systemctl is-enabled umsid-agent umsid-helper.socket"
    } else {
        "/etc/init.d/umsid-agent status && test -e /etc/rc2.d/S*umsid-agent"
    }
}

fn upgrade(host: &Host, deb: &Path) -> anyhow::Result<()> {
    let before =
        host.shell("cd /var/lib/umsid-agent && find . -type f ! -name '*.lock' | sort | xargs sha256sum")?;
    let deb = host.put(deb)?;
    host.shell(&format!("apt-get install -y -q {deb}"))?;
    let after =
        host.shell("cd /var/lib/umsid-agent && find . -type f ! -name '*.lock' | sort | xargs sha256sum")?;
    ensure!(before == after, "the upgrade changed the state on {}: {before}{after}", host.name);
    host.shell("grep -q '^min_time' /etc/umsid/agent.toml")?;
    host.shell(agent_is_up(host))?;
    let older = host.shell("readlink /proc/[0-9]*/exe | grep '/umsid-.*(deleted)' || true")?;
    ensure!(older.is_empty(), "after the upgrade an older one still runs on {}: {older}", host.name);
    let version = host.shell("dpkg-query -W -f '${Version}' umsid-agent")?;
    ensure!(version.ends_with("+1"), "{} has version {version}", host.name);
    Ok(())
}
