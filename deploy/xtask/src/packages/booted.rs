//! The `.rpm` on a host with a systemd that runs. Its `rpm` is Debian's, and knows of no other package there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;

use crate::hosts::host::Host;
use crate::hosts::network::Network;
use crate::program::Program;

/// The first and the newer package of the agent: one that runs goes on as the newer one, with all it has; one that was disabled
/// stays off; none is left when the package is removed.
pub(super) fn rpm(dir: &Path, base: &Path, linux: &Path, package: &Path, newer: &Path) -> anyhow::Result<()> {
    let network = Network::new()?;
    let mut host = host(dir, base)?;
    host.boot(&network)?;
    let (package, newer) = (host.put(package)?, host.put(newer)?);
    host.shell(&format!("rpm --install --nodeps {package}"))?;
    let idle = is_active(&host)?;
    ensure!(idle == "inactive\nactive\n", "before the enrolment: {idle}");
    enrol(dir, &network, linux, &host)?;

    host.shell("systemctl start umsid-agent")?;
    let (before, process) = (state(&host)?, process(&host)?);
    host.shell(&format!("rpm --upgrade --nodeps {newer}"))?;
    ensure!(is_active(&host)? == "active\nactive\n", "after the upgrade: {}", is_active(&host)?);
    ensure!(self::process(&host)? != process, "after the upgrade the older agent still runs");
    ensure!(state(&host)? == before, "the upgrade changed the state: {before}{}", state(&host)?);

    host.shell("systemctl disable --now umsid-agent")?;
    host.shell(&format!("rpm --upgrade --nodeps --oldpackage {package}"))?;
    let off = host.shell("systemctl is-active umsid-agent || systemctl is-enabled umsid-agent || true")?;
    ensure!(off == "inactive\ndisabled\n", "a disabled agent after an upgrade: {off}");

    host.shell("systemctl enable --now umsid-agent")?;
    host.shell("rpm --erase umsid-agent")?;
    let left = host.shell("grep -hxE 'umsid-(agent|helper)' /proc/[0-9]*/comm || true; ls /run/umsid-helper.sock 2>/dev/null || true; systemctl --failed --no-legend; find /etc/systemd -name '*umsid*'")?;
    ensure!(left.is_empty(), "after the removal there still is: {left}");
    ensure!(state(&host)? == before, "the removal changed the state: {before}{}", state(&host)?);
    host.shell(&format!("rpm --install --nodeps {newer}"))?;
    ensure!(is_active(&host)? == "active\nactive\n", "installed again: {}", is_active(&host)?);
    Ok(())
}

/// A host that has `rpm`.
fn host(dir: &Path, base: &Path) -> anyhow::Result<Host> {
    let tree: PathBuf = dir.join("rpm.base");
    Program::new(Path::new("cp")).args([Path::new("-a"), base, &tree]).read_quietly()?;
    let install = "apt-get update -qq && apt-get install -y -qq --no-install-recommends rpm";
    Program::new(Path::new("chroot"))
        .args([&tree])
        .args(["sh", "-ec", install])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .read_quietly()?;
    let shared = dir.join("rpm.shared");
    fs::create_dir_all(&shared)?;
    Host::new(&tree, dir, "rpm", 11, &shared)
}

fn enrol(dir: &Path, network: &Network, linux: &Path, host: &Host) -> anyhow::Result<()> {
    let home = dir.join("rpm.umsid");
    let umsid = |args: &[&str]| {
        network.program(&linux.join("umsid")).args([Path::new("--state-dir"), &home]).args(args)
    };
    umsid(&["init", "--name", "packages"]).read_quietly()?;
    let join = dir.join("rpm.join");
    let there = join.display().to_string();
    let make = ["enroll", &host.address, "--name", &host.name, "--cluster", "c", "--join-files", &there];
    // It says which servers it has not reached.
    umsid(&make).hear()?;
    let file = host.put(&join.join(format!("{}.join", host.name)))?;
    let log = dir.join("rpm.enroll.log");
    let mut waiting = host.program("umsid-agent")?.args(["enroll", "--join", &file]).start(&log)?;
    umsid(&[&make[..], &["--wait", "60s"]].concat()).read_quietly()?;
    ensure!(waiting.wait()?.success(), "umsid-agent enroll failed: {}", fs::read_to_string(&log)?);
    Ok(())
}

fn is_active(host: &Host) -> anyhow::Result<String> {
    host.shell("systemctl is-active umsid-agent umsid-helper.socket || true")
}

fn process(host: &Host) -> anyhow::Result<String> {
    host.shell("systemctl show -p MainPID --value umsid-agent")
}

fn state(host: &Host) -> anyhow::Result<String> {
    host.shell("cd /var/lib/umsid-agent && find . -type f ! -name '*.lock' | sort | xargs sha256sum")
}
