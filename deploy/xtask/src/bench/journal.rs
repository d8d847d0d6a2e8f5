//! What it costs to have each step on record before it is begun.

use anyhow::Context as _;

use super::samples::{find, rounded};
use super::stage::Wanted;
use super::{Bed, Figure, Samples, Stage};
use crate::program::Program;

const WHAT: &str = "a step on record, on disk";

pub(super) fn measure(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    let stage = Stage::up(bed, Wanted { clusters: 1, servers: 50, out_of_sync: 49, ..Wanted::default() })?;
    let plan = bed.dir.join("plan.json");
    drop(std::fs::remove_file(&plan));
    stage.umsid(&["plan", "c001", "--out", &plan.to_string_lossy()])?;
    let mut journal = Samples::new(WHAT, "umsid", "us");
    let mut file = Samples::new(WHAT, "a file", "us");
    for _ in 0..bed.runs {
        let dir = bed.dir.join("journal");
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir_all(&dir)?;
        let program = Program::new(&bed.programs.join("umsid-fleet-journal"));
        let said = program.args([&plan, &dir]).read_quietly()?;
        let (one, other) = said.trim().split_once(' ').context("umsid-fleet-journal told no two times")?;
        journal.values.push(one.parse()?);
        file.values.push(other.parse()?);
    }
    Ok(vec![journal, file])
}

pub(super) fn figures(samples: &[Samples]) -> Vec<Figure> {
    let (Some(journal), Some(file)) = (find(samples, WHAT, "umsid"), find(samples, WHAT, "a file")) else {
        return Vec::new();
    };
    let peer = rounded(file.median() / 1000.0);
    let what = format!("{WHAT} (as many bytes appended to a file: {peer} ms)");
    vec![Figure::told(what, format!("{} ms", rounded(journal.median() / 1000.0)))]
}
