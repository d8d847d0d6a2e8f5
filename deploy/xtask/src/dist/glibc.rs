//! Which glibc a program needs.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;

use crate::program::Program;

/// A version of glibc: versions compare as numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(Vec<u32>);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("."))
    }
}

/// The newest version of glibc whose symbols this program needs.
pub(super) fn needed(program: &Path) -> anyhow::Result<Version> {
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
}
