//! A tarball for Linux and a zip for Windows: what the packages hold, to be put there by hand.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Package, lay_out, source_date};
use crate::program::Program;

/// Makes `NAME.tar.gz` in this directory of all these files, below one directory of that name.
pub(super) fn tarball(package: &Package, name: &str, dist: &Path) -> anyhow::Result<PathBuf> {
    let dir = laid_out(package, name, dist)?;
    let (tar, made) = (dist.join(format!("{name}.tar")), dist.join(format!("{name}.tar.gz")));
    Program::new(Path::new("tar"))
        .args(["--create", "--format=ustar", "--sort=name", "--owner=root:0", "--group=root:0"])
        .args([format!("--mtime=@{}", source_date()?), format!("--file={}", tar.display())])
        .args([Path::new("--directory"), &dir, Path::new(name)])
        .read_quietly()?;
    let level = format!("-{}nf", package.compression.level(9));
    Program::new(Path::new("gzip")).args([Path::new(&level), &tar]).read_quietly()?;
    fs::remove_dir_all(&dir)?;
    Ok(made)
}

/// Makes `NAME.zip`.
pub(super) fn zip(package: &Package, name: &str, dist: &Path) -> anyhow::Result<PathBuf> {
    let dir = laid_out(package, name, dist)?;
    let made = dist.join(format!("{name}.zip"));
    if made.exists() {
        fs::remove_file(&made)?;
    }
    let mut files: Vec<String> = package.files.iter().map(|file| format!("{name}/{}", file.path)).collect();
    files.sort();
    let date = format!("--date=@{}", source_date()?);
    Program::new(Path::new("touch"))
        .args([date])
        .args(files.iter().map(|file| dir.join(file)))
        .read_quietly()?;
    Program::new(Path::new("zip"))
        .in_dir(&dir)
        // No times of access, no owners: the same files give the same archive.
        .args(["-X", "-q", &format!("-{}", package.compression.level(9))])
        .args([&made])
        .args(&files)
        .env("TZ", "UTC")
        .read_quietly()?;
    fs::remove_dir_all(&dir)?;
    Ok(made)
}

fn laid_out(package: &Package, name: &str, dist: &Path) -> anyhow::Result<PathBuf> {
    let dir = dist.join("archive").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).context("cannot remove what an earlier packaging left")?;
    }
    lay_out(package, &dir.join(name))?;
    Ok(dir)
}
