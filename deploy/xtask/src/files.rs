//! Files the repository's own tasks make.
#![expect(
    clippy::disallowed_methods,
    reason = "what is made here is made anew by the next call; durable files are for what cannot be had back"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;

/// A file with this mode; directories above it that are missing are everybody's to read.
pub(crate) fn write(path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    make_room(path).with_context(failed)?;
    fs::write(path, content).with_context(failed)?;
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(failed)
}

/// Gives a file or directory this mode.
pub(crate) fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot change {}", path.display()))
}

/// The directories above a path.
pub(crate) fn make_room(path: &Path) -> std::io::Result<()> {
    let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| !dir.exists()).collect();
    while let Some(dir) = missing.pop() {
        fs::create_dir(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Another name, when what is there is whole.
pub(crate) fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::rename(from, to).with_context(|| format!("cannot rename {}", from.display()))
}
