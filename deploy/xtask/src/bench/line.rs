//! A transfer over lines of 80 ms, with what may be in flight as umsid has it, and as the HTTP/2 library has it by default.

use anyhow::Context as _;

use super::samples::{find, rounded};
use super::{Bed, Figure, Samples};
use crate::program::Program;

/// The backup, in bytes and as it is called.
const SIZES: [(usize, &str); 2] = [(8 << 20, "8 MiB"), (256 << 20, "256 MiB")];

pub(super) fn measure(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    let (bytes, size) = SIZES[usize::from(!bed.quick)];
    let mut ours = Samples::new(name(size), "umsid", "s");
    let mut default = Samples::new(name(size), "default windows", "s");
    for _ in 0..bed.runs {
        for (samples, more) in [(&mut ours, None), (&mut default, Some("--default-windows"))] {
            let program = Program::new(&bed.programs.join("umsid-fleet-line"));
            let program = program.env("TMPDIR", &bed.dir.to_string_lossy());
            let said = program.args(["--bytes", &bytes.to_string()]).args(more).read_quietly()?;
            samples.values.push(said.trim().parse().context("umsid-fleet-line told no seconds")?);
        }
    }
    Ok(vec![ours, default])
}

fn name(size: &str) -> String {
    format!("transfer of {size} over 80 ms round trips")
}

pub(super) fn figures(samples: &[Samples]) -> Vec<Figure> {
    let of = |(_, size): &(usize, &str)| {
        let (ours, default) = (
            find(samples, &name(size), "umsid")?.median(),
            find(samples, &name(size), "default windows")?.median(),
        );
        let both = format!("{} s, with the library's windows {} s", rounded(ours), rounded(default));
        Some(Figure::times(name(size), default / ours, Some(3.0), &both))
    };
    SIZES.iter().filter_map(of).collect()
}
