//! The trees hosts are copied from, and the programs they are made and booted with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::files;
use crate::program::{Program, talk};
use crate::system;

/// Installs what is missing here.
pub(crate) fn provide() -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "booting hosts needs root");
    system::provide(
        &[
            ("/usr/bin/systemd-nspawn", "systemd-container"),
            ("/usr/sbin/debootstrap", "debootstrap"),
            ("/usr/sbin/ip", "iproute2"),
        ],
        "booting hosts",
    )
}

/// The tree hosts are copied from; made once.
pub(crate) fn base(dir: &Path) -> anyhow::Result<PathBuf> {
    let base = dir.join("base");
    if base.exists() {
        return Ok(base);
    }
    let part = dir.join("base.part");
    if part.exists() {
        fs::remove_dir_all(&part).context("cannot remove what an earlier debootstrap left")?;
    }
    // From where this machine has its own packages.
    let lists =
        Program::new(Path::new("apt-get")).args(["indextargets", "--format", "$(CODENAME) $(REPO_URI)"]);
    let lists = lists.read_quietly()?;
    let mirror = lists.lines().find_map(|line| line.strip_prefix("bookworm "));
    let mirror = mirror.context("this machine knows no mirror of Debian 12 (bookworm)")?;
    talk("making a Debian tree by debootstrap");
    Program::new(Path::new("debootstrap"))
        .args(["--variant=minbase", "--include=systemd,systemd-sysv,dbus", "bookworm"])
        .args([&part])
        .args([mirror])
        .read_quietly()?;
    files::rename(&part, &base)?;
    Ok(base)
}

/// The same without systemd, in this directory.
pub(crate) fn plain(base: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
    let plain = dir.join("plain");
    Program::new(Path::new("cp")).args([Path::new("-a"), base, &plain]).read_quietly()?;
    Program::new(Path::new("chroot"))
        .args([&plain])
        .args(["apt-get", "purge", "-y", "-q", "--allow-remove-essential", "systemd-sysv", "systemd", "dbus"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .read_quietly()?;
    Ok(plain)
}
