//! Which glibc a program needs.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::Package;
use crate::program::Program;

/// A version of glibc: versions compare as numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(Vec<u32>);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
    }
}

/// What RHEL 7 and Amazon Linux 2 have (UMS_FACTS §5), and programs that are shipped may need at most.
const OLDEST: [u32; 2] = [2, 17];

/// What programs begin with.
const ELF: &[u8] = b"\x7fELF";

/// The newest version any program of a package needs, which is laid out there.
pub(super) fn newest_of(package: &Package, tree: &Path) -> anyhow::Result<Version> {
    let programs = package.files.iter().filter(|file| file.content.starts_with(ELF));
    let needed: Vec<Version> =
        programs.map(|file| needed(&tree.join(&file.path))).collect::<anyhow::Result<_>>()?;
    needed.into_iter().max().context("there is no program in the package")
}

/// Makes sure that the oldest systems we ship for run this program.
///
/// # Errors
/// If it needs a newer glibc.
pub(super) fn runs_everywhere(program: &Path) -> anyhow::Result<()> {
    let found = needed(program)?;
    let oldest = Version(OLDEST.to_vec());
    ensure!(
        found <= oldest,
        "{} needs glibc {found}: RHEL 7 and Amazon Linux 2, on which the UMS runs, have {oldest}",
        program.display()
    );
    Ok(())
}

/// Whether any program of a package, which is laid out there, loads this library at its start.
pub(super) fn any_loads(package: &Package, tree: &Path, library: &str) -> anyhow::Result<bool> {
    for file in package.files.iter().filter(|file| file.content.starts_with(ELF)) {
        let headers = Program::new(Path::new("objdump"))
            .args([Path::new("-p"), &tree.join(&file.path)])
            .env("LC_ALL", "C")
            .read_quietly()?;
        let mut needed = headers.lines().filter_map(|line| line.trim().strip_prefix("NEEDED"));
        if needed.any(|name| name.trim() == library) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The newest version of glibc whose symbols this program needs.
fn needed(program: &Path) -> anyhow::Result<Version> {
    let symbols = Program::new(Path::new("objdump"))
        .args([Path::new("-T"), program])
        .env("LC_ALL", "C")
        .read_quietly()?;
    newest(&symbols).with_context(|| format!("{} names no version of glibc", program.display()))
}

/// The newest `GLIBC_x.y` in what `objdump -T` prints.
fn newest(symbols: &str) -> Option<Version> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let text = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>().map(Version)
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_counts_by_numbers() {
        let symbols = "\
0000000000000000      DF *UND*\t0000000000000000 (GLIBC_2.2.5) free
0000000000000000      DF *UND*\t0000000000000000 (GLIBC_2.34)  pthread_create
0000000000000000      DF *UND*\t0000000000000000 (GLIBC_2.4)   __stack_chk_fail
0000000000000000      DF *UND*\t0000000000000000 (GCC_3.0)     _Unwind_Backtrace
0000000000000000      DF *UND*\t0000000000000000 (GLIBC_PRIVATE) __libc_x
";
        assert_eq!(newest(symbols).unwrap().to_string(), "2.34");
        assert_eq!(newest("no dynamic symbols"), None);
    }

    #[test]
    fn a_program_of_this_machines_own_linker_is_not_shipped() {
        // Debian 12 links against glibc 2.36, and this very test uses what came with 2.34.
        let error = runs_everywhere(&std::env::current_exe().unwrap()).unwrap_err().to_string();
        assert!(error.contains("have 2.17"), "{error}");
    }
}
