//! A minion of Salt and its master: what else waits on a server to be told what to do.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};

use super::Bed;
use crate::files;
use crate::program::{Program, free_port, target_dir, wait_for};

/// Salt, and what its package on PyPI needs and does not name.
const PACKAGES: [&str; 20] = [
    "salt==3007.8",
    "PyYAML",
    "Jinja2",
    "MarkupSafe",
    "aiohttp",
    "croniter",
    "cryptography",
    "distro",
    "jmespath",
    "looseversion",
    "msgpack",
    "packaging",
    "psutil",
    "pycryptodomex",
    "pyopenssl",
    "python-dateutil",
    "pyzmq",
    "requests",
    "setproctitle",
    "tornado<6.5",
];

/// How long a master or a minion may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A master that waits for minions.
pub(super) struct Salt {
    venv: PathBuf,
    dir: PathBuf,
    ports: String,
    _master: Group,
}

/// A minion that waits for what its master says.
pub(super) struct Minion {
    processes: Group,
    /// How long it took from its start.
    pub(super) ready: Duration,
}

/// A process with all that it has started, ended when dropped.
struct Group(Child);

impl Salt {
    /// Installs it, and starts the master.
    pub(super) fn up(bed: &Bed) -> anyhow::Result<Self> {
        let venv = target_dir().join("bench-salt");
        if !venv.join("installed").exists() {
            Program::new(Path::new("python3"))
                .args(["-m", "venv", "--clear"])
                .args([&venv])
                .read_quietly()?;
            let pip = Program::new(&venv.join("bin/pip"));
            pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES).read_quietly()?;
            files::write(&venv.join("installed"), 0o600, b"")?;
        }
        let dir = bed.dir.join("salt");
        if dir.exists() {
            std::fs::remove_dir_all(&dir).context("cannot remove what an earlier run left")?;
        }
        let (publish, answers) = (free_port()?, free_port()?);
        let ports = format!("publish_port: {publish}\n");
        let own = dir.join("master.d");
        let config = format!(
            "interface: 127.0.0.1\n{ports}ret_port: {answers}\nroot_dir: {0}\npki_dir: {0}/pki\nauto_accept: true\n\
             worker_threads: 2\n",
            own.display()
        );
        files::write(&own.join("master"), 0o600, config.as_bytes())?;
        let master = Program::new(&venv.join("bin/salt-master")).args([Path::new("-c"), &own]);
        let master = Group(master.start_held(&dir.join("master.log"))?);
        wait_for("Salt's master to listen", PATIENCE, || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", answers)).ok())
        })?;
        let ports = format!("{ports}master_port: {answers}\n");
        Ok(Self { venv, dir, ports, _master: master })
    }

    /// What was installed for it, in bytes.
    pub(super) fn size(&self) -> anyhow::Result<f64> {
        let said = Program::new(Path::new("du")).args(["-sb"]).args([&self.venv]).read_quietly()?;
        Ok(said.split_whitespace().next().unwrap_or_default().parse()?)
    }

    /// Starts a minion; it is there when this returns. Each has another `number` and a directory of its own: one that finds the mark
    /// of another that was ended takes it for alive.
    pub(super) fn minion(&self, number: usize) -> anyhow::Result<Minion> {
        let [own, log] = ["d", "log"].map(|kind| self.dir.join(format!("minion-{number}.{kind}")));
        let config = format!(
            "master: 127.0.0.1\n{}root_dir: {1}\npki_dir: {1}/pki\nid: bench{number}\nlog_level: info\n",
            self.ports,
            own.display()
        );
        files::write(&own.join("minion"), 0o600, config.as_bytes())?;
        let begun = Instant::now();
        let minion = Program::new(&self.venv.join("bin/salt-minion")).args([Path::new("-c"), &own]);
        let processes = Group(minion.start_held(&log)?);
        wait_for("Salt's minion to be ready", PATIENCE, || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            Ok(said.contains("ready to receive requests").then_some(()))
        })?;
        Ok(Minion { processes, ready: begun.elapsed() })
    }
}

impl Minion {
    /// Its processes: it works in children.
    pub(super) fn processes(&self) -> Vec<u32> {
        let group = self.processes.0.id().to_string();
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let in_group = |process: std::fs::DirEntry| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(process.path().join("stat")).ok()?;
            // Behind the name, which may hold anything: state, parent, group.
            let (_, behind) = stat.rsplit_once(')')?;
            (behind.split_whitespace().nth(2) == Some(&group)).then_some(pid)
        };
        all.filter_map(in_group).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        // One that has ended already needs no end.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.0.wait();
    }
}
