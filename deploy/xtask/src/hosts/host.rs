//! A Debian with its own address and service manager, booted from a directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::network::Network;
use crate::files;
use crate::program::{Program, wait_for};

/// Longer than a host takes to boot on a busy machine.
const BOOT: Duration = Duration::from_secs(90);

/// One of them.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: String,
    /// Whether systemd runs it; else nothing does, and init scripts are called by hand.
    pub(crate) systemd: bool,
    root: PathBuf,
    /// What is the same on all hosts, at the same place.
    shared: PathBuf,
    log: PathBuf,
    machine: Option<Machine>,
}

struct Machine {
    nspawn: Child,
    /// Its process 1, as seen from here.
    init: Pid,
}

impl Host {
    /// A copy of the base tree under this directory, with this last number in its address.
    pub(crate) fn new(
        base: &Path,
        dir: &Path,
        name: &str,
        number: u8,
        shared: &Path,
    ) -> anyhow::Result<Self> {
        let root = dir.join(name);
        Program::new(Path::new("cp")).args([Path::new("-a"), base, &root]).read_quietly()?;
        let host = Self {
            name: name.to_owned(),
            address: Network::address(number),
            systemd: root.join("usr/bin/systemctl").exists(),
            root,
            shared: shared.to_owned(),
            log: dir.join(format!("{name}.log")),
            machine: None,
        };
        host.write("etc/hostname", &format!("{name}\n"))?;
        if !host.systemd {
            return Ok(host);
        }
        host.write(
            "etc/systemd/network/10-host0.network",
            &format!(
                "[Match]\nName=host0\n\n[Network]\nAddress={}/24\nLinkLocalAddressing=no\n",
                host.address
            ),
        )?;
        host.enable("/lib/systemd/system/systemd-networkd.service")?;
        Ok(host)
    }

    /// Writes a file of the host while it is off.
    pub(crate) fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        files::write(&self.root.join(path), 0o644, text.as_bytes())
    }

    /// A link of the host to what is shared.
    pub(crate) fn link(&self, path: &str, to: &Path) -> anyhow::Result<()> {
        let path = self.root.join(path);
        files::make_room(&path)
            .and_then(|()| symlink(to, &path))
            .with_context(|| format!("cannot link {}", path.display()))
    }

    /// Lets a unit be started at boot.
    pub(crate) fn enable(&self, unit: &str) -> anyhow::Result<()> {
        let name = Path::new(unit).file_name().unwrap_or_default().to_string_lossy();
        self.link(&format!("etc/systemd/system/multi-user.target.wants/{name}"), Path::new(unit))
    }

    /// A copy of this file in the host's /root; gives its path there.
    pub(crate) fn put(&self, file: &Path) -> anyhow::Result<String> {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        fs::copy(file, self.root.join("root").join(&*name))?;
        Ok(format!("/root/{name}"))
    }

    /// Boots it, and waits until everything it starts is started.
    pub(crate) fn boot(&mut self, network: &Network) -> anyhow::Result<()> {
        ensure!(self.machine.is_none(), "{} is on already", self.name);
        let (directory, machine) =
            (format!("--directory={}", self.root.display()), format!("--machine={}", self.name));
        let (bind, bridge) =
            (format!("--bind={}", self.shared.display()), format!("--network-bridge={}", Network::BRIDGE));
        let begin: &[&str] = if self.systemd { &["--boot"] } else { &["--as-pid2"] };
        let what: &[&str] = if self.systemd { &[] } else { &["/bin/sleep", "infinity"] };
        let nspawn = network
            .program(Path::new("systemd-nspawn"))
            .args(["--quiet", "--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off"])
            .args(begin)
            .args([directory, machine, bind, bridge])
            .args(what)
            .start_detached(&self.log)?;
        let id = nspawn.id();
        let init = wait_for("its process 1", BOOT, || Ok(first_child(id))).with_context(|| self.trouble())?;
        self.machine = Some(Machine { nspawn, init });
        if self.systemd {
            // Before its manager listens systemctl has nobody to ask.
            wait_for("its service manager", BOOT, || {
                let (code, _) = self.program("systemctl")?.args(["is-system-running", "--wait"]).hear()?;
                Ok((code == Some(0)).then_some(()))
            })
            .with_context(|| self.trouble())?;
        } else {
            let address = format!("{}/24", self.address);
            wait_for("its network card", BOOT, || {
                let (code, _) = self.ip(&["address", "add", &address, "dev", "host0"])?.hear()?;
                Ok((code == Some(0)).then_some(()))
            })
            .with_context(|| self.trouble())?;
            self.ip(&["link", "set", "host0", "up"])?.read_quietly()?;
        }
        wait_for("its address", BOOT, || {
            let addresses = self.ip(&["-4", "address", "show", "host0"])?.read_quietly()?;
            Ok(addresses.contains(&self.address).then_some(()))
        })
    }

    /// `ip` of this machine, in the host's network.
    fn ip(&self, args: &[&str]) -> anyhow::Result<Program> {
        Ok(self.inside(&["--net"], "ip")?.args(args))
    }

    fn trouble(&self) -> String {
        format!("{} does not boot; see {}", self.name, self.log.display())
    }

    /// A program of the host, run there as root.
    pub(crate) fn program(&self, program: &str) -> anyhow::Result<Program> {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Ok(self.inside(&["--all"], "/usr/bin/env")?.args([
            "-i",
            path,
            "HOME=/root",
            "LANG=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
            program,
        ]))
    }

    /// Runs a line of shell there; gives what it prints.
    pub(crate) fn shell(&self, line: &str) -> anyhow::Result<String> {
        let done = self.program("sh")?.args(["-ec", line]).read_quietly();
        done.with_context(|| format!("on {}", self.name))
    }

    fn inside(&self, namespaces: &[&str], program: &str) -> anyhow::Result<Program> {
        let machine = self.machine.as_ref().with_context(|| format!("{} is off", self.name))?;
        let target = format!("--target={}", machine.init.as_raw_nonzero());
        Ok(Program::new(Path::new("nsenter")).args([target]).args(namespaces).args(["--", program]))
    }

    /// Takes the power away: nothing on it gets to do anything more.
    pub(crate) fn cut_power(&mut self) -> anyhow::Result<()> {
        let Some(mut machine) = self.machine.take() else { return Ok(()) };
        // With process 1 everything of its namespace ends.
        let _ = kill_process(machine.init, Signal::KILL);
        machine.nspawn.wait().context("cannot wait for systemd-nspawn")?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.cut_power();
    }
}

/// The child of a process that has only one.
fn first_child(process: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
}
