//! `cargo xtask packages`: what `cargo xtask dist` makes, installed, upgraded and removed: `.rpm` in a tree of its own, `.msi` in
//! a Windows by Wine, the tarball by hand. `.deb` goes through more on the booted hosts of `cargo xtask hosts`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::dist::Compression;
use crate::hosts::tree;
use crate::program::{self, Program, root, talk, target_dir};
use crate::windows::wine::{self, LIBRARY, Windows};
use crate::{dist, files, windows};

mod booted;
mod powershell;

/// Make the packages of what the tests have built, and install, upgrade and remove them
#[derive(Args)]
#[command(after_help = "\
It needs root on Debian; what is missing is installed. Everything is installed below target/packages, and is gone afterwards.")]
pub(crate) struct Packages {
    /// Only this, with the packages `cargo xtask dist --debug` has made
    #[arg(long, value_name = "KIND")]
    only: Option<Only>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Only {
    Rpm,
    Tarball,
    Ansible,
    Msi,
}

/// The agent's state, by which an upgrade must leave it.
const STATE: &str = "var/lib/umsid-agent";

impl Packages {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        dist::provide()?;
        tree::provide()?;
        let begun = Instant::now();
        let done = |what: &str| talk(&format!("[{:>4} s] {what}", begun.elapsed().as_secs()));
        let linux = program::build(&["umsid", "umsid-agent", "umsid-lab"], false)?;
        let windows = windows::programs()?;
        let version = env!("CARGO_PKG_VERSION");
        let wanted = |kind| self.only.is_none_or(|only| only == kind);
        let all = if self.only.is_none() {
            let made = dist::all(&linux, &windows, version, Compression::Quick)?;
            done("the packages are made");
            same_again(&made, &linux, &windows, version)?;
            done("made again they are the same, byte for byte, but for the .msi");
            made
        } else {
            fs::read_dir(dist::dist())?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?
        };
        let made = |name, kind| pick(&all, name, kind);
        let dir = Dir::new()?;
        if wanted(Only::Rpm) {
            let newer = dist::rpms(&linux, &format!("{version}+1"))?;
            let packages = [made("umsid-agent", ".x86_64.rpm")?, made("umsid", ".x86_64.rpm")?];
            rpm(&dir.0, &packages, &newer)?;
            done("the .rpm was installed, upgraded and removed");
            booted::rpm(&dir.0, &tree::base(&target_dir().join("hosts"))?, &linux, &packages[0], &newer[0])?;
            done("on a booted host the agent went on as the newer one, and stayed off where it was off");
        }
        if wanted(Only::Tarball) {
            tarball(&dir.0, &made("umsid", ".tar.gz")?)?;
            done("the tarball was unpacked, and its programs run");
        }
        if wanted(Only::Ansible) {
            ansible(&dir.0, &linux, &made("umsid-agent", ".deb")?)?;
            done(
                "the Ansible role installed and enrolled an agent, and changed nothing when it was run again",
            );
        }
        if wanted(Only::Msi) {
            powershell::check(&dir.0)?;
            done("the script that enrols is PowerShell, as far as its grammar goes");
            // Of four numbers Windows compares three.
            let later = later(version)?;
            let newer = dist::msis(&windows, &linux, &later)?;
            let older = |file: &PathBuf| !newer.contains(file);
            let made: Vec<PathBuf> = all.iter().filter(|file| older(file)).cloned().collect();
            let packages = [pick(&made, "umsid-agent", ".msi")?, pick(&made, "umsid", ".msi")?];
            msi(&dir.0, &packages, &newer, &later, &windows.join(LIBRARY))?;
            done("the .msi was installed, upgraded and removed");
        }
        talk("every package went through it");
        Ok(())
    }
}

/// A directory that is gone when this is.
struct Dir(PathBuf);

impl Dir {
    fn new() -> anyhow::Result<Self> {
        let dir = target_dir().join("packages").join(std::process::id().to_string());
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            talk(&format!("{} could not be removed: {error}", self.0.display()));
        }
    }
}

/// The file that ends so and belongs to this package: `umsid` or `umsid-agent`.
fn pick(made: &[PathBuf], name: &str, kind: &str) -> anyhow::Result<PathBuf> {
    let is_it = |file: &&PathBuf| {
        let text = file.file_name().unwrap_or_default().to_string_lossy();
        text.strip_prefix(name).is_some_and(|rest| {
            rest.starts_with(['-', '_']) && rest[1..].starts_with(|c: char| c.is_ascii_digit())
        }) && text.ends_with(kind)
            // Of a newer version, left by an earlier call.
            && !text.contains('+')
    };
    made.iter().find(is_it).cloned().with_context(|| format!("there is no {kind} of {name}"))
}

/// The sums are those of the files, and of the same programs the same packages are made. The SBOM names what is in `Cargo.lock`.
fn same_again(made: &[PathBuf], linux: &Path, windows: &Path, version: &str) -> anyhow::Result<()> {
    let sums = |what: &str| -> anyhow::Result<BTreeMap<String, String>> {
        let check = Program::new(Path::new("sha256sum")).in_dir(&dist::dist());
        check
            .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
            .read_quietly()
            .context(what.to_owned())?;
        let text = fs::read_to_string(dist::dist().join("SHA256SUMS"))?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(sum, name)| (name.to_owned(), sum.to_owned()))
            .collect())
    };
    let before = sums("the first time")?;
    ensure!(before.len() + 1 == made.len(), "not every file has a sum: {before:?}");
    dist::all(linux, windows, version, Compression::Quick)?;
    let after = sums("the second time")?;
    for (name, sum) in &before {
        // wixl puts the time and a number of its own into each.
        ensure!(
            name.ends_with(".msi") || after.get(name) == Some(sum),
            "{name} is another one when it is made again"
        );
    }
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    let tonic = lock.split("[[package]]").find(|package| package.contains("name = \"tonic\"\n"));
    let tonic = tonic.and_then(|package| package.lines().find_map(|line| line.strip_prefix("version = ")));
    let tonic = tonic.context("Cargo.lock does not name tonic")?.trim_matches('"').to_owned();
    for (name, windows_only) in [("umsid-agent", "windows-service"), ("umsid", "windows-sys")] {
        for (system, of_windows) in [("linux", false), ("windows", true)] {
            let document: Value =
                serde_json::from_slice(&fs::read(pick(made, name, &format!("{system}.cdx.json"))?)?)?;
            ensure!(
                document["bomFormat"] == "CycloneDX" && document.get("serialNumber").is_none(),
                "{name}: no CycloneDX"
            );
            let components = document["components"].as_array().context("the SBOM names no components")?;
            let named = components.iter().any(|it| it["name"] == "tonic" && it["version"] == tonic.as_str());
            ensure!(named, "the SBOM of {name} for {system} does not name tonic {tonic}");
            let other = components.iter().any(|it| it["name"] == windows_only);
            ensure!(other == of_windows, "the SBOM of {name} for {system} is another system's");
        }
    }
    Ok(())
}

/// In a tree with a shell, `useradd` and `systemctl`, but no systemd that runs: as in the making of an image.
fn rpm(dir: &Path, packages: &[PathBuf; 2], newer: &[PathBuf; 2]) -> anyhow::Result<()> {
    let hosts = target_dir().join("hosts");
    fs::create_dir_all(&hosts).with_context(|| format!("cannot create {}", hosts.display()))?;
    let base = tree::base(&hosts)?;
    let tree = dir.join("tree");
    Program::new(Path::new("cp")).args([Path::new("-a"), &base, &tree]).read_quietly()?;
    // What is asked for is there, but no package of this kind brought it.
    let rpm = |args: &[&str], files: &[&PathBuf]| {
        let root = format!("--root={}", tree.display());
        Program::new(Path::new("rpm")).args([root]).args(args).args(files)
    };
    let asks =
        Program::new(Path::new("rpm")).args(["-qp", "--requires"]).args([&packages[0]]).read_quietly()?;
    ensure!(
        asks.contains("libc.so.6(GLIBC_") && asks.contains("systemd"),
        "what it needs is not said: {asks}"
    );
    let said = rpm(&["--install", "--nodeps"], &[&packages[0], &packages[1]]).read_quietly()?;
    ensure!(said.contains("umsid-agent enroll"), "what comes next is not said: {said}");
    let verify = || rpm(&["--verify", "--nodeps", "umsid-agent", "umsid"], &[]).read(&[0, 1]);
    ensure!(verify()?.is_empty(), "files differ from the package's: {}", verify()?);
    let inside =
        |line: &str| Program::new(Path::new("chroot")).args([&tree]).args(["sh", "-ec", line]).read_quietly();
    let found = inside(
        "stat -c '%U %a' /var/lib/umsid-agent /usr/bin/umsid-agent /etc/umsid/agent.toml; systemctl is-enabled umsid-agent umsid-helper.socket",
    )?;
    ensure!(found == "umsid-agent 700\nroot 755\nroot 644\nenabled\nenabled\n", "installed: {found}");
    let found = inside(
        "stat -c '%U %a' /var/lib/umsid-watch /etc/umsid/watch.toml; systemctl is-enabled umsid-watch || true",
    )?;
    ensure!(found == "umsid-watch 700\nroot 644\ndisabled\n", "installed to watch: {found}");
    inside("umsid --version && umsid-agent --version && test -s /usr/share/man/man1/umsid-sync.1.gz")?;
    for document in ["LICENSE", "README.md", "umsid-agent.cdx.json"] {
        let dir = if document == "LICENSE" { "licenses" } else { "doc" };
        ensure!(
            tree.join("usr/share").join(dir).join("umsid-agent").join(document).is_file(),
            "no {document}"
        );
    }
    ensure!(
        !tree.join("usr/lib/.build-id").exists() && !tree.join("etc/init.d/umsid-agent").exists(),
        "too much is installed"
    );

    files::write(&tree.join(STATE).join("enrolment.json"), 0o600, b"{}")?;
    files::write(&tree.join(STATE).join("operations/1.json"), 0o600, b"record")?;
    files::write(&tree.join("etc/umsid/agent.toml"), 0o644, b"listen = \"0.0.0.0:8700\"\n")?;
    inside("chown -R umsid-agent: /var/lib/umsid-agent; systemctl disable umsid-agent 2>/dev/null")?;
    let state = || {
        inside(
            "cd /var/lib/umsid-agent && find . -type f | sort | xargs sha256sum; stat -c '%U %a' . enrolment.json",
        )
    };
    let before = state()?;
    rpm(&["--upgrade", "--nodeps"], &[&newer[0], &newer[1]]).read_quietly()?;
    ensure!(state()? == before, "the upgrade changed the state: {before}{}", state()?);
    let version = rpm(&["-q", "umsid-agent", "umsid"], &[]).read_quietly()?;
    ensure!(version.matches("+1-1").count() == 2, "installed is {version}");
    let kept = inside("cat /etc/umsid/agent.toml; systemctl is-enabled umsid-agent || true")?;
    ensure!(
        kept == "listen = \"0.0.0.0:8700\"\ndisabled\n",
        "the upgrade changed what an administrator did: {kept}"
    );

    let said = rpm(&["--erase", "umsid-agent", "umsid"], &[]).read_quietly()?;
    ensure!(said.contains("stay in /var/lib/umsid-agent"), "what stays is not said: {said}");
    ensure!(state()? == before, "the removal changed the state");
    let left = inside(
        "find / -xdev -name '*umsid*' ! -path '/proc/*' ! -path '/var/lib/umsid-agent*' ! -path '/var/lib/rpm*' ! -path '/root/*' | sort",
    )?;
    ensure!(left == "/etc/umsid\n", "after the removal there still is: {left}");
    ensure!(tree.join("etc/umsid/agent.toml.rpmsave").exists(), "the edited configuration is gone");
    Ok(())
}

fn tarball(dir: &Path, archive: &Path) -> anyhow::Result<()> {
    Program::new(Path::new("tar"))
        .args(["--extract", "--file"])
        .args([archive])
        .args([Path::new("--directory"), dir])
        .read_quietly()?;
    let name = archive.file_name().unwrap_or_default().to_string_lossy().replace(".tar.gz", "");
    let dir = dir.join(name);
    for program in ["usr/bin/umsid", "usr/bin/umsid-agent", "usr/libexec/umsid-helper"] {
        let said = Program::new(&dir.join(program)).args(["--version"]).read_quietly()?;
        ensure!(said.contains(env!("CARGO_PKG_VERSION")), "{program} is {said}");
    }
    for file in [
        "LICENSE",
        "README.md",
        "SECURITY.md",
        "etc/umsid/agent.toml",
        "etc/umsid/watch.toml",
        "usr/lib/systemd/system/umsid-agent.service",
        "usr/lib/systemd/system/umsid-watch.service",
    ] {
        ensure!(dir.join(file).is_file(), "there is no {file} in the tarball");
    }
    Ok(())
}

/// In a tree with Ansible in it, which is the host as well; the coordinator is outside, on the same loopback.
fn ansible(dir: &Path, linux: &Path, package: &Path) -> anyhow::Result<()> {
    let tree = dir.join("ansible");
    Program::new(Path::new("cp"))
        .args(["-a"])
        .args([target_dir().join("hosts/base"), tree.clone()])
        .read_quietly()?;
    // With a /proc, as a host has one; it goes with the program.
    let inside = |line: &str| {
        let enter = "mount --rbind /proc \"$0/proc\" && exec chroot \"$0\" sh -ec \"$1\"";
        Program::new(Path::new("unshare")).args(["--mount", "sh", "-ec", enter]).args([&tree]).args([line])
    };
    inside("export DEBIAN_FRONTEND=noninteractive; apt-get update -qq && apt-get install -y -qq --no-install-recommends ansible-core python3-apt").read_quietly()?;
    let play = tree.join("root/play");
    Program::new(Path::new("cp"))
        .args(["-a"])
        .args([root().join("deploy/ansible"), play.clone()])
        .read_quietly()?;
    fs::copy(package, tree.join("root/agent.deb"))?;

    let home = dir.join("umsid");
    let umsid =
        |args: &[&str]| Program::new(&linux.join("umsid")).args([Path::new("--state-dir"), &home]).args(args);
    umsid(&["init", "--name", "ansible"]).read_quietly()?;
    let port = program::free_port()?;
    let (address, join) = (format!("127.0.0.1:{port}"), play.join("join").display().to_string());
    let enroll =
        ["enroll", &address, "--name", "ums1", "--cluster", "c", "--site", "s", "--join-files", &join];
    // It says which servers it has not reached.
    umsid(&enroll).hear()?;
    ensure!(play.join("join/ums1.join").is_file(), "umsid made no join file");

    let variables = format!(
        r#"{{"umsid_agent_package": "/root/agent.deb", "umsid_agent_config": "listen = \"{address}\"\n", "umsid_agent_coordinators": ["127.0.0.1"]}}"#
    );
    files::write(&play.join("variables.json"), 0o600, variables.as_bytes())?;
    files::write(
        &play.join("hosts.ini"),
        0o644,
        b"[ums_servers]\nums1 ansible_connection=local ansible_python_interpreter=/usr/bin/python3\n",
    )?;
    let playing = "cd /root/play && ansible-playbook -i hosts.ini -e @variables.json site.yml";
    inside(&format!("{playing} --syntax-check")).read_quietly()?;
    let log = dir.join("ansible.log");
    let mut first = inside(playing).start_detached(&log)?;
    let enrolled = umsid(&[&enroll[..], &["--wait", "120s"]].concat()).read_quietly();
    let played = first.wait()?.success();
    let said = fs::read_to_string(&log)?;
    enrolled.with_context(|| said.clone())?;
    ensure!(played, "{said}");
    let state = inside(
        "stat -c '%U %a' /var/lib/umsid-agent/enrolment.json; ls /root/play/join; systemctl is-enabled umsid-agent; ls -d /tmp/umsid-* 2>/dev/null || true",
    );
    let state = state.read_quietly()?;
    ensure!(state == "umsid-agent 600\nums1.join.used\nenabled\n", "played: {state}{said}");
    let again = inside(playing).read_quietly()?;
    ensure!(again.contains("changed=0") && again.contains("failed=0"), "played again: {again}");
    Ok(())
}

/// The next version of this one.
fn later(version: &str) -> anyhow::Result<String> {
    let (line, patch) = version.rsplit_once('.').context("a version has three numbers")?;
    Ok(format!("{line}.{}", patch.parse::<u32>()? + 1))
}

/// In a Windows of its own.
fn msi(
    dir: &Path,
    packages: &[PathBuf; 2],
    newer: &[PathBuf; 2],
    later: &str,
    library: &Path,
) -> anyhow::Result<()> {
    let host = Windows::new(dir, "windows", library)?;
    let msiexec = |args: &[&str], package: &Path| {
        let done =
            host.program("msiexec.exe").args(args).args([wine::path(package)]).args(["/qn"]).read_quietly();
        done.with_context(|| format!("msiexec {args:?} {}", package.display()))
    };
    let program = r"C:\Program Files\umsid\umsid-agent.exe";
    for package in packages {
        msiexec(&["/i"], package)?;
    }
    for name in ["umsid-agent.exe", "umsid.exe", "agent.toml", "enrol.ps1", "LICENSE.txt", "_umsid.ps1"] {
        ensure!(host.disk("Program Files/umsid").join(name).is_file(), "{name} is not installed");
    }
    let path = host.program("reg").args([
        "query",
        r"HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment",
        "/v",
        "PATH",
    ]);
    ensure!(path.read_quietly()?.contains(r"C:\Program Files\umsid"), "it is not on the PATH");
    ensure!(host.service("umsid-agent")? == "STOPPED", "an agent that is not enrolled runs");
    let state = host.disk("ProgramData/umsid-agent");
    ensure!(state.join("agent.toml").is_file(), "there is no configuration to edit");
    let version = host.program(program).args(["--version"]).read_quietly()?;
    ensure!(version.contains(env!("CARGO_PKG_VERSION")), "installed is {version}");

    files::write(&state.join("record"), 0o600, b"record")?;
    files::write(&state.join("agent.toml"), 0o600, b"listen = \"127.0.0.1:8700\"\n")?;
    for package in newer {
        msiexec(&["/i"], package)?;
    }
    ensure!(fs::read(state.join("record"))? == b"record", "the upgrade changed the state");
    ensure!(
        fs::read(state.join("agent.toml"))?.starts_with(b"listen"),
        "the upgrade changed the configuration"
    );
    ensure!(host.service("umsid-agent")? == "STOPPED", "the upgrade removed the service");
    let products = host
        .program("reg")
        .args([
            "query",
            r"HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall",
            "/s",
            "/v",
            "DisplayVersion",
        ])
        .read_quietly()?;
    ensure!(
        products.contains(later) && !products.contains(env!("CARGO_PKG_VERSION")),
        "installed are {products}"
    );

    for package in newer {
        msiexec(&["/x"], package)?;
    }
    ensure!(
        host.program("sc").args(["query", "umsid-agent"]).read_quietly().is_err(),
        "the service is still there"
    );
    ensure!(!host.disk("Program Files/umsid/umsid-agent.exe").exists(), "the program is still there");
    ensure!(state.join("record").is_file(), "the state is gone");
    Ok(())
}
