//! What this machine has to have.

use std::path::Path;

use anyhow::ensure;

use crate::program::{Program, talk};

/// Installs the packages whose file is missing here; `why` is for whoever may not.
pub(crate) fn provide(packages: &[(&str, &str)], why: &str) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter_map(|(file, package)| (!Path::new(file).exists()).then_some(*package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(
        rustix::process::geteuid().is_root() && Path::new("/usr/bin/apt-get").exists(),
        "{why} needs Debian's packages {}: as root, `apt-get install {0}`",
        missing.join(" ")
    );
    talk(&format!("installing {}", missing.join(", ")));
    let apt = || Program::new(Path::new("apt-get")).env("DEBIAN_FRONTEND", "noninteractive");
    // A stale list is better than none.
    let _ = apt().args(["update", "-qq"]).hear()?;
    apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(missing).read_quietly()?;
    Ok(())
}
