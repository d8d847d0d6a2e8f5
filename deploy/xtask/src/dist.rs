//! `cargo xtask dist`: packages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::files;
use crate::program::{self, Program, root, talk, target_dir};

mod deb;
mod glibc;

/// Make packages of what cargo builds, into target/dist
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask dist             packages of optimised programs
  cargo xtask dist --debug     the same of what the tests have built anyway")]
pub(crate) struct Dist {
    /// Quickly built programs instead of optimised ones
    #[arg(long)]
    debug: bool,
}

impl Dist {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let binaries = program::build(&["umsid", "umsid-agent"], !self.debug)?;
        let made = packages(&binaries, env!("CARGO_PKG_VERSION"))?;
        for deb in made {
            talk(&format!("{}", deb.display()));
        }
        Ok(())
    }
}

/// The `.deb` packages of the programs in this directory: first that of the agent, then that of the coordinator.
pub(crate) fn packages(binaries: &Path, version: &str) -> anyhow::Result<[PathBuf; 2]> {
    let dist = target_dir().join("dist");
    let agent = deb::make(&agent(binaries)?, version, &dist)?;
    let coordinator = deb::make(&coordinator(binaries)?, version, &dist)?;
    Ok([agent, coordinator])
}

/// What a package is made of.
struct Package {
    name: &'static str,
    summary: &'static str,
    description: &'static str,
    /// Other packages its scripts need.
    needs: &'static [&'static str],
    files: Vec<Entry>,
}

/// A file of a package.
struct Entry {
    /// Where it goes, without the slash at the beginning.
    path: String,
    mode: u32,
    content: Vec<u8>,
    /// Whether administrators edit it.
    configuration: bool,
}

impl Package {
    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.files.push(Entry { path: path.to_owned(), mode, content, configuration: false });
    }

    fn add_file(&mut self, path: &str, mode: u32, from: &str) -> anyhow::Result<()> {
        let from = root().join(from);
        let content = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        self.add(path, mode, content);
        Ok(())
    }

    fn add_configuration(&mut self, path: &str, mode: u32, from: &str) -> anyhow::Result<()> {
        self.add_file(path, mode, from)?;
        self.files.last_mut().into_iter().for_each(|file| file.configuration = true);
        Ok(())
    }

    /// A program without what only debuggers read.
    fn add_program(&mut self, path: &str, built: &Path) -> anyhow::Result<()> {
        let stripped = target_dir().join("dist").join("stripped");
        fs::create_dir_all(stripped.parent().unwrap_or(&stripped))?;
        Program::new(Path::new("strip")).args([Path::new("-o"), &stripped, built]).read_quietly()?;
        let content = fs::read(&stripped).context("cannot read the stripped program")?;
        fs::remove_file(&stripped)?;
        self.add(path, 0o755, content);
        Ok(())
    }

    fn add_documents(&mut self) -> anyhow::Result<()> {
        let dir = format!("usr/share/doc/{}", self.name);
        self.add_file(&format!("{dir}/copyright"), 0o644, "LICENSE")?;
        self.add_file(&format!("{dir}/README.md"), 0o644, "deploy/README.md")?;
        self.add_file(&format!("{dir}/SECURITY.md"), 0o644, "deploy/SECURITY.md")
    }

    /// What the program says of itself: manual pages and completions for shells.
    fn add_manual(&mut self, program: &Path, man: &[&str], shells: bool) -> anyhow::Result<()> {
        let pages = target_dir().join("dist").join(format!("man.{}", self.name));
        fs::create_dir_all(&pages).context("cannot make a directory for manual pages")?;
        Program::new(program).args(man).args([&pages]).read_quietly()?;
        let mut names: Vec<_> = fs::read_dir(&pages)?.collect::<Result<_, _>>()?;
        names.sort_by_key(fs::DirEntry::file_name);
        for page in names {
            Program::new(Path::new("gzip")).args([Path::new("-9nf"), &page.path()]).read_quietly()?;
            let name = format!("{}.gz", page.file_name().to_string_lossy());
            self.add(&format!("usr/share/man/man1/{name}"), 0o644, fs::read(pages.join(&name))?);
        }
        fs::remove_dir_all(&pages)?;
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let places = [
            ("bash", format!("usr/share/bash-completion/completions/{name}")),
            ("zsh", format!("usr/share/zsh/vendor-completions/_{name}")),
            ("fish", format!("usr/share/fish/vendor_completions.d/{name}.fish")),
        ];
        for (shell, path) in places.into_iter().filter(|_| shells) {
            let script = Program::new(program).args(["completions", shell]).read_quietly()?;
            self.add(&path, 0o644, script.into_bytes());
        }
        Ok(())
    }
}

fn agent(binaries: &Path) -> anyhow::Result<Package> {
    let mut package = Package {
        name: "umsid-agent",
        summary: "keeps the Main UMS ID of an IGEL UMS Server in sync: the agent",
        description: "Runs beside one UMS Server and does, told by umsid over mutual TLS, what an administrator would do \
                      there by hand: back up and restore the UMS ID, restart the UMS Server. It knows no other verbs.",
        needs: &["passwd", "init-system-helpers"],
        files: Vec::new(),
    };
    let (agent, helper) = (binaries.join("umsid-agent"), binaries.join("umsid-helper"));
    package.add_program("usr/bin/umsid-agent", &agent)?;
    package.add_program("usr/libexec/umsid-helper", &helper)?;
    package.add_configuration("etc/umsid/agent.toml", 0o644, "deploy/config/agent.toml")?;
    package.add_configuration("etc/init.d/umsid-agent", 0o755, "deploy/init.d/umsid-agent")?;
    for unit in ["umsid-agent.service", "umsid-helper.socket", "umsid-helper.service"] {
        let from = format!("deploy/systemd/{unit}");
        package.add_file(&format!("usr/lib/systemd/system/{unit}"), 0o644, &from)?;
    }
    package.add_manual(&agent, &["man"], true)?;
    package.add_manual(&helper, &["--man"], false)?;
    package.add_documents()?;
    Ok(package)
}

fn coordinator(binaries: &Path) -> anyhow::Result<Package> {
    let mut package = Package {
        name: "umsid",
        summary: "keeps the Main UMS ID of IGEL UMS Servers in sync: the coordinator",
        description: "Brings all servers of an UMS installation to the Main UMS ID by one command: it asks the agents on \
                      the servers (package umsid-agent), plans, and carries the plan out step by step, resumable.",
        needs: &[],
        files: Vec::new(),
    };
    let umsid = binaries.join("umsid");
    package.add_program("usr/bin/umsid", &umsid)?;
    package.add_manual(&umsid, &["man"], true)?;
    package.add_documents()?;
    Ok(package)
}

/// Lays a package's files out under this directory, which must not be there yet.
fn lay_out(package: &Package, dir: &Path) -> anyhow::Result<()> {
    for file in &package.files {
        let path = dir.join(&file.path);
        ensure!(!path.exists(), "{} is in the package twice", file.path);
        files::write(&path, file.mode, &file.content)?;
    }
    Ok(())
}

/// When the sources were last changed: no file of a package is younger, so that the same sources give the same package.
fn source_date() -> anyhow::Result<String> {
    if let Ok(date) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(date);
    }
    let root = root();
    let git = Program::new(Path::new("git")).args([Path::new("-C"), &root]);
    let date = git.args(["log", "-1", "--format=%ct"]).read_quietly().context(
        "when the sources were changed cannot be told: this is no git checkout, and SOURCE_DATE_EPOCH is not set",
    )?;
    Ok(date.trim().to_owned())
}
