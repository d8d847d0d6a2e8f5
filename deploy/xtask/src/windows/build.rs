//! Programs for Windows, built here: by Debian's own compiler with its standard library from source, and by Debian's linker.

use std::path::{Path, PathBuf};

use super::wine::{LIBRARY, LOADER};
use crate::dist::release;
use crate::program::{Program, root, target_dir};
use crate::system;

const TARGET: &str = "x86_64-pc-windows-gnu";

/// All that is built for Windows. Always the same, so that nothing is built twice with other features.
const PACKAGES: [&str; 5] = ["umsid-windows", "umsid-common", "umsid-agent", "umsid", "umsid-lab"];

/// Those with tests of their own that ask for nothing Unix has.
const TESTED: [&str; 4] = ["umsid-windows", "umsid-common", "umsid-agent", "umsid"];

/// A test that asks for the features all tests ask for: programs and tests are built with the same.
const ANY_TEST: &str = "ums_config";

/// The compiler; that of `rustup` has no standard library for Windows where only packages are to be had.
const RUSTC: &str = "/usr/bin/rustc";

/// Installs what is missing here.
pub(super) fn provide() -> anyhow::Result<()> {
    system::provide(
        &[
            (RUSTC, "rustc-web"),
            ("/usr/lib/rustlib/src/rust/library/std/Cargo.toml", "rust-web-src"),
            ("/usr/bin/x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64"),
            (LOADER, "wine64"),
        ],
        "building for Windows and trying it",
    )
}

/// Where programs for Windows are put.
pub(super) fn dir() -> PathBuf {
    target_dir().join("windows")
}

/// Builds all programs; gives the directory they are in.
pub(super) fn programs() -> anyhow::Result<PathBuf> {
    let code = cargo("build").args(["--bins", "--test", ANY_TEST]).show()?;
    anyhow::ensure!(code == 0, "cargo build failed");
    let binaries = dir().join(TARGET).join("windows");
    let library = binaries.join(LIBRARY);
    Program::new(Path::new("x86_64-w64-mingw32-gcc"))
        .args(["-shared", "-O2", "-s", "-o"])
        .args([&library, &root().join("deploy/xtask/wine/bcryptprimitives.c")])
        .args(["-ladvapi32"])
        .read_quietly()?;
    Ok(binaries)
}

/// Builds what is shipped; gives the directory it is in.
pub(super) fn release() -> anyhow::Result<PathBuf> {
    let built = dir().join("release");
    let code = release::cargo()?
        .args(["build", "--release", "--locked", "--bins", "-Zbuild-std=std,panic_abort", "--target", TARGET])
        .args(["--package", "umsid", "--package", "umsid-agent"])
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &built.display().to_string())
        // The linker would write the time into it.
        .env(
            "RUSTFLAGS",
            &format!("{} -Clink-arg=-Wl,--no-insert-timestamp", release::anonymous(Path::new(RUSTC))?),
        )
        .show()?;
    anyhow::ensure!(code == 0, "cargo build failed");
    Ok(built.join(TARGET).join("release"))
}

/// Runs the tests of the libraries and of the coordinator in this Windows.
pub(super) fn tests(prefix: &Path) -> anyhow::Result<()> {
    let tested = TESTED.iter().flat_map(|package| ["--package", package]);
    let code = cargo_of(tested, "test")
        .args(["--lib", "--no-fail-fast", "--"])
        // Runs against servers that are thought up, ten thousands of them: the same on every system, and tried on Linux.
        .args(["--skip", "run::tests::"])
        .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", LOADER)
        .env("WINEPREFIX", &prefix.display().to_string())
        .env("WINEDEBUG", "-all")
        .without("DISPLAY")
        .show()?;
    anyhow::ensure!(code == 0, "tests failed");
    Ok(())
}

fn cargo(verb: &str) -> Program {
    cargo_of(PACKAGES.iter().flat_map(|package| ["--package", package]), verb)
}

fn cargo_of<'a>(packages: impl Iterator<Item = &'a str>, verb: &str) -> Program {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Program::new(Path::new(&cargo))
        .in_dir(&root())
        .args([verb, "--locked", "-Zbuild-std=std,panic_abort", "--target", TARGET, "--profile", "windows"])
        .args(packages)
        .env("RUSTC", RUSTC)
        // The sources of the standard library and the compiler are of one version.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &dir().display().to_string())
        // As the lints on Linux: no warning is looked over.
        .env("RUSTFLAGS", "-D warnings")
}
