//! `.rpm`, by `rpmbuild`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{MAINTAINER, Package, lay_out, sortable, source_date};
use crate::files;
use crate::program::{Program, root};

/// The scripts `rpm` may run.
const SCRIPTS: [&str; 4] = ["pre", "post", "preun", "postun"];

/// Makes the package in this directory.
pub(super) fn make(package: &Package, version: &str, dist: &Path) -> anyhow::Result<PathBuf> {
    let version = &sortable(version);
    let top = dist.join("rpm").join(package.name);
    if top.exists() {
        fs::remove_dir_all(&top).context("cannot remove what an earlier packaging left")?;
    }
    let tree = top.join("tree");
    lay_out(package, &tree)?;
    let spec = top.join(format!("{}.spec", package.name));
    files::write(&spec, 0o644, self::spec(package, version, &tree)?.as_bytes())?;
    let define = |name: &str, value: &str| ["--define".to_owned(), format!("{name} {value}")];
    Program::new(Path::new("rpmbuild"))
        .args(["-bb", "--target", "x86_64-linux"])
        .args(define("_topdir", &top.display().to_string()))
        .args(define("_rpmdir", &top.join("made").display().to_string()))
        .args(define("_rpmfilename", "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm"))
        // The same sources give the same package, whenever and wherever it is made.
        .args(define("_buildhost", "umsid.invalid"))
        .args(define("use_source_date_epoch_as_buildtime", "1"))
        .args(define("clamp_mtime_to_source_date_epoch", "1"))
        // What rpm 4.11 of RHEL 7 reads.
        .args(define("_binary_payload", &format!("w{}.xzdio", package.compression.level(6))))
        .args([&spec])
        .env("SOURCE_DATE_EPOCH", &source_date()?)
        .read_quietly()?;
    let name = format!("{}-{version}-1.x86_64.rpm", package.name);
    let made = dist.join(&name);
    files::rename(&top.join("made").join(&name), &made)?;
    fs::remove_dir_all(&top)?;
    Ok(made)
}

fn spec(package: &Package, version: &str, tree: &Path) -> anyhow::Result<String> {
    let mut spec = String::new();
    for (field, value) in [
        ("Name", package.name),
        ("Version", version),
        ("Release", "1"),
        ("Summary", package.summary),
        ("License", "MIT"),
        ("Packager", MAINTAINER),
    ] {
        writeln!(spec, "{field}: {value}")?;
    }
    // Which glibc the programs need is found out by rpmbuild.
    if !package.scripts.is_empty() {
        writeln!(spec, "Requires: systemd\nRequires(pre): shadow-utils")?;
    }
    // The programs are taken as they are: stripped, and with their list of dependencies in them.
    writeln!(spec, "%global debug_package %{{nil}}\n%global __os_install_post %{{nil}}")?;
    writeln!(spec, "%global _build_id_links none")?;
    writeln!(spec, "\n%description\n{}\n\n%install", package.description)?;
    writeln!(spec, "cp -a '{}/.' %{{buildroot}}/", tree.display())?;
    for name in SCRIPTS.iter().filter(|_| !package.scripts.is_empty()) {
        let from = root().join("deploy/rpm").join(package.scripts).join(name);
        let script = fs::read_to_string(&from).with_context(|| format!("cannot read {}", from.display()))?;
        writeln!(spec, "\n%{name}\n{}", script.replace('%', "%%"))?;
    }
    writeln!(spec, "\n%files\n%defattr(-,root,root,-)")?;
    // Those that are the package's own go with it.
    for dir in [
        "etc/umsid".to_owned(),
        format!("usr/share/doc/{}", package.name),
        format!("usr/share/licenses/{}", package.name),
    ] {
        if package.files.iter().any(|file| file.path.starts_with(&format!("{dir}/"))) {
            writeln!(spec, "%dir %attr(755,root,root) /{dir}")?;
        }
    }
    for file in &package.files {
        let kind = match () {
            () if file.configuration => "%config(noreplace) ",
            () if file.path.starts_with("usr/share/doc/") => "%doc ",
            () if file.path.starts_with("usr/share/licenses/") => "%license ",
            () => "",
        };
        writeln!(spec, "%attr({:o},root,root) {kind}/{}", file.mode, file.path)?;
    }
    Ok(spec)
}
