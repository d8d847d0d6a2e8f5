//! `cargo xtask dist`: packages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;

use crate::files;
use crate::program::{self, Program, root, talk, target_dir};
use crate::{system, windows};

mod archive;
mod deb;
mod glibc;
mod msi;
pub(crate) mod release;
mod rpm;
mod sbom;

/// Make packages of what cargo builds, into target/dist
#[derive(Args)]
#[command(after_help = "\
Examples:
  cargo xtask dist             packages of optimised programs: an hour on two cores
  cargo xtask dist --debug     the same of what the tests have built anyway, for this machine's own glibc")]
pub(crate) struct Dist {
    /// Quickly built programs instead of optimised ones
    #[arg(long)]
    debug: bool,
}

/// Who answers for the packages.
const MAINTAINER: &str = "umsid developers <umsid@invalid>";

/// What is missing here of the programs that make packages.
const TOOLS: [(&str, &str); 4] = [
    ("/usr/bin/rpmbuild", "rpm"),
    ("/usr/bin/wixl", "wixl"),
    ("/usr/bin/msibuild", "msitools"),
    ("/usr/bin/zip", "zip"),
];

impl Dist {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        provide()?;
        let (linux, windows) = if self.debug {
            (program::build(&["umsid", "umsid-agent", "umsid-lab"], false)?, windows::programs()?)
        } else {
            (release::linux()?, release::windows()?)
        };
        if !self.debug {
            for program in ["umsid", "umsid-agent", "umsid-helper"] {
                glibc::runs_everywhere(&linux.join(program))?;
                release::lists_its_dependencies(&linux.join(program))?;
            }
            for program in ["umsid.exe", "umsid-agent.exe"] {
                release::lists_its_dependencies(&windows.join(program))?;
            }
        }
        let compression = if self.debug { Compression::Quick } else { Compression::Small };
        for made in all(&linux, &windows, env!("CARGO_PKG_VERSION"), compression)? {
            talk(&format!("{}", made.display()));
        }
        Ok(())
    }
}

/// Installs what is missing here.
pub(crate) fn provide() -> anyhow::Result<()> {
    system::provide(&TOOLS, "making packages")
}

/// Where packages are made.
pub(crate) fn dist() -> PathBuf {
    target_dir().join("dist")
}

/// The `.deb` packages of the programs in this directory: first that of the agent, then that of the coordinator.
pub(crate) fn packages(binaries: &Path, version: &str) -> anyhow::Result<[PathBuf; 2]> {
    debs(&Built::linux(binaries, Compression::Quick)?, version)
}

fn debs(linux: &Built, version: &str) -> anyhow::Result<[PathBuf; 2]> {
    let agent = deb::make(&agent(linux, Form::Deb)?, version, &dist())?;
    let coordinator = deb::make(&coordinator(linux, Form::Deb)?, version, &dist())?;
    Ok([agent, coordinator])
}

/// The same as `.rpm`.
pub(crate) fn rpms(binaries: &Path, version: &str) -> anyhow::Result<[PathBuf; 2]> {
    rpms_of(&Built::linux(binaries, Compression::Quick)?, version)
}

fn rpms_of(linux: &Built, version: &str) -> anyhow::Result<[PathBuf; 2]> {
    let agent = rpm::make(&agent(linux, Form::Rpm)?, version, &dist())?;
    let coordinator = rpm::make(&coordinator(linux, Form::Rpm)?, version, &dist())?;
    Ok([agent, coordinator])
}

/// The `.msi` packages of the programs for Windows in this directory, of which those for Linux tell what they are.
pub(crate) fn msis(windows: &Path, linux: &Path, version: &str) -> anyhow::Result<[PathBuf; 2]> {
    msis_of(&Built::windows(windows, Compression::Quick)?, linux, version)
}

fn msis_of(windows: &Built, linux: &Path, version: &str) -> anyhow::Result<[PathBuf; 2]> {
    let [agent, coordinator] = for_windows(windows, linux)?;
    Ok([msi::make(&agent, version, &dist())?, msi::make(&coordinator, version, &dist())?])
}

/// Tarball and zip, of everything.
fn archives(linux: &Built, windows: &Built, version: &str) -> anyhow::Result<[PathBuf; 2]> {
    let everything = |name, packages: [Package; 2]| {
        let mut files: Vec<Entry> = Vec::new();
        for file in packages.into_iter().flat_map(|package| package.files) {
            if !files.iter().any(|other| other.path == file.path) {
                files.push(file);
            }
        }
        let compression = linux.compression;
        Package { name, summary: "", description: "", needs: &[], scripts: "", compression, files }
    };
    let tarball = everything("umsid", [agent(linux, Form::Tarball)?, coordinator(linux, Form::Tarball)?]);
    let zip = everything("umsid", for_windows(windows, linux.programs)?);
    Ok([
        archive::tarball(&tarball, &format!("umsid-{version}-x86_64-linux"), &dist())?,
        archive::zip(&zip, &format!("umsid-{version}-x86_64-windows"), &dist())?,
    ])
}

/// Everything that is shipped, and last the digests of all that.
pub(crate) fn all(
    linux: &Path,
    windows: &Path,
    version: &str,
    compression: Compression,
) -> anyhow::Result<Vec<PathBuf>> {
    let (linux, windows) = (Built::linux(linux, compression)?, Built::windows(windows, compression)?);
    let mut made = Vec::new();
    made.extend(debs(&linux, version)?);
    made.extend(rpms_of(&linux, version)?);
    made.extend(msis_of(&windows, linux.programs, version)?);
    made.extend(archives(&linux, &windows, version)?);
    for (built, system) in [(&linux, "linux"), (&windows, "windows")] {
        made.extend(built.sbom.write(&dist(), version, system)?);
    }
    made.push(sums(&made)?);
    Ok(made)
}

/// What `sha256sum --check` reads, beside the files.
fn sums(made: &[PathBuf]) -> anyhow::Result<PathBuf> {
    let names = made.iter().filter_map(|file| file.file_name());
    let text = Program::new(Path::new("sha256sum")).in_dir(&dist()).args(names).read_quietly()?;
    let sums = dist().join("SHA256SUMS");
    files::write(&sums, 0o644, text.as_bytes())?;
    Ok(sums)
}

/// What is aimed at when files are compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// What is shipped.
    Small,
    /// What is made to be tried: an eighth larger, in a fifth of the time.
    Quick,
}

impl Compression {
    /// For programs that take digits; `small` is theirs for what is shipped.
    fn level(self, small: u8) -> u8 {
        match self {
            Self::Small => small,
            Self::Quick => 1,
        }
    }
}

/// The programs for one system, in this directory, and what they are made of.
struct Built<'a> {
    programs: &'a Path,
    sbom: sbom::Documents,
    compression: Compression,
}

impl<'a> Built<'a> {
    fn linux(programs: &'a Path, compression: Compression) -> anyhow::Result<Self> {
        Ok(Self { programs, sbom: sbom::Documents::new("x86_64-unknown-linux-gnu")?, compression })
    }

    fn windows(programs: &'a Path, compression: Compression) -> anyhow::Result<Self> {
        Ok(Self { programs, sbom: sbom::Documents::new("x86_64-pc-windows-gnu")?, compression })
    }
}

/// For whom a package is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Deb,
    Rpm,
    Tarball,
}

/// What a package is made of.
struct Package {
    name: &'static str,
    summary: &'static str,
    /// In lines short enough for those who show it.
    description: &'static str,
    /// Other packages its scripts need.
    needs: &'static [&'static str],
    /// The directory of the scripts that are run when it comes and goes; empty where nothing is to be done.
    scripts: &'static str,
    compression: Compression,
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

    /// A program without what only debuggers read. One for Windows is built without.
    fn add_program(&mut self, path: &str, built: &Path) -> anyhow::Result<()> {
        if path.ends_with(".exe") {
            let content = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
            self.add(path, 0o755, content);
            return Ok(());
        }
        let stripped = dist().join("stripped");
        fs::create_dir_all(dist())?;
        Program::new(Path::new("strip")).args([Path::new("-o"), &stripped, built]).read_quietly()?;
        let content = fs::read(&stripped).context("cannot read the stripped program")?;
        fs::remove_file(&stripped)?;
        self.add(path, 0o755, content);
        Ok(())
    }

    fn add_documents(&mut self, form: Form, sbom: &sbom::Documents) -> anyhow::Result<()> {
        let dir = format!("usr/share/doc/{}", self.name);
        self.add(&format!("{dir}/{}.cdx.json", self.name), 0o644, sbom.of(self.name)?.to_vec());
        match form {
            Form::Deb => self.add_file(&format!("{dir}/copyright"), 0o644, "LICENSE")?,
            Form::Rpm => {
                self.add_file(&format!("usr/share/licenses/{}/LICENSE", self.name), 0o644, "LICENSE")?;
            }
            Form::Tarball => {
                self.add_file("LICENSE", 0o644, "LICENSE")?;
                self.add_file("README.md", 0o644, "deploy/README.md")?;
                return self.add_file("SECURITY.md", 0o644, "deploy/SECURITY.md");
            }
        }
        self.add_file(&format!("{dir}/README.md"), 0o644, "deploy/README.md")?;
        self.add_file(&format!("{dir}/SECURITY.md"), 0o644, "deploy/SECURITY.md")
    }

    /// What the program says of itself: manual pages and completions for shells.
    fn add_manual(&mut self, program: &Path, man: &[&str], shells: bool, form: Form) -> anyhow::Result<()> {
        for (name, page) in pages(program, man, true)? {
            self.add(&format!("usr/share/man/man1/{name}"), 0o644, page);
        }
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let zsh = if form == Form::Deb { "vendor-completions" } else { "site-functions" };
        let places = [
            ("bash", format!("usr/share/bash-completion/completions/{name}")),
            ("zsh", format!("usr/share/zsh/{zsh}/_{name}")),
            ("fish", format!("usr/share/fish/vendor_completions.d/{name}.fish")),
        ];
        for (shell, path) in places.into_iter().filter(|_| shells) {
            let script = Program::new(program).args(["completions", shell]).read_quietly()?;
            self.add(&path, 0o644, script.into_bytes());
        }
        Ok(())
    }
}

/// What the program says of itself when it is told so: the names of pages and their text.
fn pages(program: &Path, man: &[&str], compressed: bool) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let dir = dist().join(format!("man.{}", program.file_name().unwrap_or_default().to_string_lossy()));
    fs::create_dir_all(&dir).context("cannot make a directory for manual pages")?;
    Program::new(program).args(man).args([&dir]).read_quietly()?;
    let list = || -> anyhow::Result<Vec<PathBuf>> {
        let mut files: Vec<PathBuf> =
            fs::read_dir(&dir)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
        files.sort();
        Ok(files)
    };
    if compressed {
        Program::new(Path::new("gzip")).args(["-9nf"]).args(list()?).read_quietly()?;
    }
    let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let read = list()?.iter().map(|file| Ok((name(file), fs::read(file)?))).collect();
    fs::remove_dir_all(&dir)?;
    read
}

fn agent(linux: &Built, form: Form) -> anyhow::Result<Package> {
    let mut package = Package {
        name: "umsid-agent",
        summary: "keeps the Main UMS ID of an IGEL UMS Server in sync: the agent",
        description: "Runs beside one UMS Server and does, told by umsid over mutual TLS, what\n\
                      an administrator would do there by hand: back up and restore the UMS\n\
                      ID, restart the UMS Server. It knows no other verbs.",
        needs: &["passwd", "init-system-helpers"],
        scripts: "umsid-agent",
        compression: linux.compression,
        files: Vec::new(),
    };
    let (agent, helper) = (linux.programs.join("umsid-agent"), linux.programs.join("umsid-helper"));
    package.add_program("usr/bin/umsid-agent", &agent)?;
    package.add_program("usr/libexec/umsid-helper", &helper)?;
    package.add_configuration("etc/umsid/agent.toml", 0o644, "deploy/config/agent.toml")?;
    if form != Form::Rpm {
        // Wherever those packages are systemd is.
        package.add_configuration("etc/init.d/umsid-agent", 0o755, "deploy/init.d/umsid-agent")?;
    }
    for unit in ["umsid-agent.service", "umsid-helper.socket", "umsid-helper.service"] {
        let from = format!("deploy/systemd/{unit}");
        package.add_file(&format!("usr/lib/systemd/system/{unit}"), 0o644, &from)?;
    }
    package.add_manual(&agent, &["man"], true, form)?;
    package.add_manual(&helper, &["--man"], false, form)?;
    package.add_documents(form, &linux.sbom)?;
    Ok(package)
}

fn coordinator(linux: &Built, form: Form) -> anyhow::Result<Package> {
    let mut package = Package {
        name: "umsid",
        summary: "keeps the Main UMS ID of IGEL UMS Servers in sync: the coordinator",
        description: "Brings all servers of an UMS installation to the Main UMS ID by one\n\
                      command: it asks the agents on the servers (package umsid-agent),\n\
                      plans, and carries the plan out step by step, resumable. It looks\n\
                      after them for monitoring systems as well: check and watch.",
        needs: &["passwd", "init-system-helpers"],
        scripts: "umsid",
        compression: linux.compression,
        files: Vec::new(),
    };
    let umsid = linux.programs.join("umsid");
    package.add_program("usr/bin/umsid", &umsid)?;
    package.add_configuration("etc/umsid/watch.toml", 0o644, "deploy/config/watch.toml")?;
    let unit = "umsid-watch.service";
    package.add_file(&format!("usr/lib/systemd/system/{unit}"), 0o644, &format!("deploy/systemd/{unit}"))?;
    package.add_manual(&umsid, &["man"], true, form)?;
    package.add_documents(form, &linux.sbom)?;
    Ok(package)
}

/// Agent and coordinator for Windows, in one directory each; manual and completions are what the programs for Linux say.
fn for_windows(windows: &Built, linux: &Path) -> anyhow::Result<[Package; 2]> {
    let base = |name, summary| Package {
        name,
        summary,
        description: "",
        needs: &[],
        scripts: "",
        compression: windows.compression,
        files: Vec::new(),
    };
    let mut agent = base("umsid-agent", "umsid agent: keeps the Main UMS ID of an IGEL UMS Server in sync");
    agent.add_program("umsid-agent.exe", &windows.programs.join("umsid-agent.exe"))?;
    agent.add_file("agent.toml", 0o644, "deploy/config/agent.toml")?;
    agent.add_file("enrol.ps1", 0o644, "deploy/windows/enrol.ps1")?;
    let mut coordinator = base("umsid", "umsid: keeps the Main UMS ID of IGEL UMS Servers in sync");
    coordinator.add_program("umsid.exe", &windows.programs.join("umsid.exe"))?;
    coordinator.add_file("watch.toml", 0o644, "deploy/config/watch.toml")?;
    for package in [&mut agent, &mut coordinator] {
        let program = linux.join(package.name);
        let script = Program::new(&program).args(["completions", "powershell"]).read_quietly()?;
        package.add(&format!("_{}.ps1", package.name), 0o644, script.into_bytes());
        package.add_file("LICENSE.txt", 0o644, "LICENSE")?;
        package.add_file("README.md", 0o644, "deploy/README.md")?;
        package.add_file("SECURITY.md", 0o644, "deploy/SECURITY.md")?;
        let sbom = windows.sbom.of(package.name)?.to_vec();
        package.add(&format!("{}.cdx.json", package.name), 0o644, sbom);
        for (name, page) in pages(&program, &["man"], false)? {
            package.add(&format!("man/{name}"), 0o644, page);
        }
    }
    Ok([agent, coordinator])
}

/// The version as packages have it: `0.2.0~rc.1` comes before `0.2.0`, which cargo writes as `0.2.0-rc.1`.
fn sortable(version: &str) -> String {
    version.replace('-', "~")
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
