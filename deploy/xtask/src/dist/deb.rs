//! `.deb`, by `dpkg-deb`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{MAINTAINER, Package, glibc, lay_out, sortable, source_date};
use crate::files::write;
use crate::program::{Program, root};

/// The scripts `dpkg` may run.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// Makes the package in this directory.
pub(super) fn make(package: &Package, version: &str, dist: &Path) -> anyhow::Result<PathBuf> {
    let version = &sortable(version);
    let architecture =
        Program::new(Path::new("dpkg")).args(["--print-architecture"]).read_quietly()?.trim().to_owned();
    let tree = dist.join("tree").join(package.name);
    if tree.exists() {
        fs::remove_dir_all(&tree).context("cannot remove what an earlier packaging left")?;
    }
    lay_out(package, &tree)?;
    let control = control(package, version, &architecture, &tree)?;
    write(&tree.join("DEBIAN/control"), 0o644, control.as_bytes())?;
    let configuration: String = package
        .files
        .iter()
        .filter(|file| file.configuration)
        .map(|file| format!("/{}\n", file.path))
        .collect();
    if !configuration.is_empty() {
        write(&tree.join("DEBIAN/conffiles"), 0o644, configuration.as_bytes())?;
    }
    for script in SCRIPTS {
        let from = root().join("deploy/deb").join(package.scripts).join(script);
        if !package.scripts.is_empty() && from.exists() {
            write(&tree.join("DEBIAN").join(script), 0o755, &fs::read(from)?)?;
        }
    }
    let deb = dist.join(format!("{}_{version}_{architecture}.deb", package.name));
    Program::new(Path::new("dpkg-deb"))
        .args(["--root-owner-group", "-Zxz", &format!("-z{}", package.compression.level(6)), "--build"])
        .args([&tree, &deb])
        .env("SOURCE_DATE_EPOCH", &source_date()?)
        .read_quietly()?;
    fs::remove_dir_all(&tree)?;
    Ok(deb)
}

fn control(package: &Package, version: &str, architecture: &str, tree: &Path) -> anyhow::Result<String> {
    let newest = glibc::newest_of(package, tree)?;
    let mut depends = vec![format!("libc6 (>= {newest})")];
    if glibc::any_loads(package, tree, "libgcc_s.so.1")? {
        depends.push("libgcc-s1".to_owned());
    }
    depends.extend(package.needs.iter().map(ToString::to_string));
    let size: usize = package.files.iter().map(|file| file.content.len().div_ceil(1024)).sum();
    let mut control = String::new();
    for (field, value) in [
        ("Package", package.name),
        ("Version", version),
        ("Architecture", architecture),
        ("Maintainer", MAINTAINER),
        ("Installed-Size", &size.to_string()),
        ("Depends", &depends.join(", ")),
        ("Section", "admin"),
        ("Priority", "optional"),
        ("Description", package.summary),
    ] {
        writeln!(control, "{field}: {value}")?;
    }
    for line in package.description.lines() {
        writeln!(control, " {line}")?;
    }
    Ok(control)
}
