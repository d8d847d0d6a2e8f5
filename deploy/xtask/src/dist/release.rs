//! Programs as they are shipped: optimised, for every system we ship for, with the list of their dependencies in them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::program::{Program, root, target_dir};
use crate::windows;

/// The oldest glibc of the systems the UMS runs on (UMS_FACTS §4).
const TARGET: &str = "x86_64-unknown-linux-gnu.2.17";

/// What puts the list of dependencies into programs.
const AUDITABLE: &str = "cargo-auditable";

/// Builds for Linux with a linker that knows the symbols of every glibc; gives the directory of the programs.
pub(super) fn linux() -> anyhow::Result<PathBuf> {
    provide_zigbuild()?;
    let dir = target_dir().join("dist-linux");
    // One by one: of a library, programs that are built together have what any of them wants.
    for package in ["umsid-agent", "umsid"] {
        let code = cargo()?
            .args(["zigbuild", "--release", "--locked", "--bins", "--target", TARGET, "--package", package])
            .env("CARGO_TARGET_DIR", &dir.display().to_string())
            .env("RUSTFLAGS", &anonymous(Path::new("rustc"))?)
            .show()?;
        ensure!(code == 0, "cargo zigbuild failed");
    }
    Ok(dir.join("x86_64-unknown-linux-gnu").join("release"))
}

/// Builds for Windows; gives the directory of the programs.
pub(super) fn windows() -> anyhow::Result<PathBuf> {
    windows::release()
}

/// `cargo` that has programs list their dependencies, with the tools that are installed on its path.
///
/// Cargo takes the path of a compiler's wrapper into the names of all symbols of ours, and `cargo auditable` gives it where it lies
/// itself. Given by name instead, programs are the same wherever the tools are. So it is made to call `env`, which sets that.
pub(crate) fn cargo() -> anyhow::Result<Program> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    Ok(Program::new(&tool(AUDITABLE, "0.7.7")?)
        .in_dir(&root())
        .args(["auditable".to_owned(), format!("CARGO={cargo}")])
        .args([format!("RUSTC_WORKSPACE_WRAPPER={AUDITABLE}"), cargo])
        .env("CARGO", "env")
        .env("PATH", &path_with(&tools())))
}

/// Where sources were lies on no other machine: the same sources give the same program wherever they are built.
pub(crate) fn anonymous(rustc: &Path) -> anyhow::Result<String> {
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
    let home = home.context("where cargo keeps sources cannot be told: set CARGO_HOME")?;
    let version = Program::new(rustc).args(["--version", "--verbose"]).read_quietly()?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "));
    let sysroot = Program::new(rustc).args(["--print", "sysroot"]).read_quietly()?;
    let mut places = vec![
        (root().display().to_string(), "/umsid".to_owned()),
        // What build scripts generate is there. Of several that fit the last counts.
        (target_dir().display().to_string(), "/umsid/target".to_owned()),
        (home, "/cargo".to_owned()),
    ];
    if let Some(commit) = commit {
        // As the compiler itself has it where these sources are not installed.
        places.push((format!("{}/lib/rustlib/src/rust", sysroot.trim()), format!("/rustc/{commit}")));
    }
    let flags = places.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}"));
    Ok(flags.collect::<Vec<_>>().join(" "))
}

/// Where tools are installed.
fn place() -> PathBuf {
    target_dir().join("dist-tools")
}

/// Where their programs are then.
fn tools() -> PathBuf {
    place().join("bin")
}

/// A tool of cargo's, installed below the target directory.
pub(super) fn tool(name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let (place, program) = (place(), tools().join(name));
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let code = Program::new(Path::new(&cargo))
            .args(["install", name, "--version", version, "--locked", "--debug", "--root"])
            .args([&place])
            .args([Path::new("--target-dir"), &place.join("build")])
            .show()?;
        ensure!(code == 0, "{name} cannot be installed");
    }
    Ok(program)
}

/// Installs `cargo-zigbuild` with its linker.
fn provide_zigbuild() -> anyhow::Result<()> {
    let bin = tools();
    if !bin.join("cargo-zigbuild").exists() {
        let place = place();
        Program::new(Path::new("python3")).args(["-m", "venv"]).args([&place]).read_quietly()?;
        Program::new(&bin.join("pip"))
            .args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "ziglang==0.17.1",
                "cargo-zigbuild==0.24.1",
            ])
            .read_quietly()?;
    }
    Ok(())
}

fn path_with(first: &Path) -> String {
    format!("{}:{}", first.display(), std::env::var("PATH").unwrap_or_default())
}

/// Makes sure that the program says what it is made of, for whoever looks for known weaknesses in it.
///
/// # Errors
/// If it does not.
pub(super) fn lists_its_dependencies(program: &Path) -> anyhow::Result<()> {
    let sections = Program::new(Path::new("objdump")).args([Path::new("-h"), program]).read_quietly()?;
    ensure!(sections.contains(".dep-v0"), "{} does not list its dependencies", program.display());
    Ok(())
}
