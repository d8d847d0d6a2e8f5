//! One backup from one agent's disk to another's, sealed and verified, through the coordinator; beside scp by the same way.

use jiff::Timestamp;
use serde_json::Value;

use super::samples::{find, rounded};
use super::stage::Wanted;
use super::{Bed, Figure, Samples, Stage};

const SIZES: [(&str, usize); 4] =
    [("8 KiB", 8 << 10), ("1 MiB", 1 << 20), ("256 MiB", 256 << 20), ("1 GiB", 1 << 30)];

/// How many targets get the largest at once.
const FANS: [usize; 3] = [1, 2, 5];

pub(super) fn measure(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    let mut all = Vec::new();
    let sizes = if bed.quick { &SIZES[..2] } else { &SIZES };
    for (size, bytes) in sizes {
        let wanted = Wanted {
            clusters: 1,
            servers: 2,
            out_of_sync: 1,
            payload: *bytes,
            called: true,
            ..Wanted::default()
        };
        let stage = Stage::up(bed, wanted)?;
        let [mut umsid, mut whole, mut scp, mut ansible] = [
            Samples::new(name(size), "umsid", "s"),
            Samples::new(name(size), "umsid, from the backup's beginning to the restore's end", "s"),
            Samples::new(name(size), "scp -3", "s"),
            Samples::new(name(size), "Ansible", "s"),
        ];
        let (from, to) = (stage.ums_dir(1).join("id"), bed.peers.dir().join("arrived"));
        let source: (String, &[&str], String) = ("source1".to_owned(), &["source"], String::new());
        let target: (String, &[&str], String) = ("target1".to_owned(), &["target"], String::new());
        let inventory = bed.peers.inventory(&[source, target])?;
        let carried = bed.peers.dir().join("file");
        let playbook = [
            "-e".to_owned(),
            format!("file={} controller={}", carried.display(), bed.peers.dir().display()),
            "transfer.yml".to_owned(),
        ];
        for _ in 0..bed.runs {
            stage.lose()?;
            let (_, events) = stage.sync(&["--restart", "restored"])?;
            umsid.values.push(between(&events, "transfer", "transfer").unwrap_or(f64::NAN));
            whole.values.push(between(&events, "backup", "restore").unwrap_or(f64::NAN));
            scp.values.push(bed.peers.scp(&from, &to)?);
            std::fs::copy(&from, &carried)?;
            ansible.values.push(bed.peers.ansible("ansible-playbook", &inventory, &playbook)?);
        }
        all.extend([umsid, whole, scp, ansible]);
    }
    Ok(all)
}

/// To several at once: the source is read once, and what passes through umsid is bounded.
pub(super) fn measure_fan(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    let mut all = Vec::new();
    let (size, bytes) = if bed.quick { SIZES[1] } else { SIZES[SIZES.len() - 1] };
    for targets in FANS {
        let wanted = Wanted {
            clusters: 1,
            servers: 1 + targets,
            out_of_sync: targets,
            payload: bytes,
            called: true,
            ..Wanted::default()
        };
        let stage = Stage::up(bed, wanted)?;
        let mut umsid = Samples::new(fan(size, targets), "umsid", "s");
        let mut memory = Samples::new(fan(size, targets), "umsid's memory", "MiB");
        for _ in 0..bed.runs {
            stage.lose()?;
            let (ran, events) = stage.sync(&["--restart", "restored"])?;
            umsid.values.push(between(&events, "transfer", "transfer").unwrap_or(f64::NAN));
            memory.values.push(ran.peak);
        }
        all.extend([umsid, memory]);
    }
    Ok(all)
}

fn name(size: &str) -> String {
    format!("transfer of {size}")
}

fn fan(size: &str, targets: usize) -> String {
    format!("transfer of {size} to {targets}")
}

/// Seconds from the beginning of the first step that does one thing to the end of the last that does the other.
fn between(events: &[Value], first: &str, last: &str) -> Option<f64> {
    let begun: Timestamp = moments(events, "started", first).next()?.parse().ok()?;
    let ended: Timestamp = moments(events, "finished", last).last()?.parse().ok()?;
    Some(ended.duration_since(begun).as_secs_f64())
}

/// When steps that do this began, or ended.
fn moments<'a>(events: &'a [Value], event: &'a str, what: &'a str) -> impl Iterator<Item = &'a str> {
    let those = events.iter().filter(move |it| it["event"] == event && it["do"] == what);
    those.filter_map(|it| it["at"].as_str())
}

pub(super) fn figures(samples: &[Samples]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for ((size, _), least) in SIZES.iter().zip([Some(100.0), None, None, Some(1.5)]) {
        let (Some(umsid), Some(scp)) =
            (find(samples, &name(size), "umsid"), find(samples, &name(size), "scp -3"))
        else {
            continue;
        };
        let both =
            format!("{} s, scp -3 with sha256sum {} s", rounded(umsid.median()), rounded(scp.median()));
        figures.push(Figure::times(name(size), scp.median() / umsid.median(), least, &both));
    }
    figures
}

pub(super) fn figures_of_fan(samples: &[Samples]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (size, targets) in SIZES.iter().flat_map(|(size, _)| FANS.map(|targets| (size, targets))) {
        if let Some(memory) = find(samples, &fan(size, targets), "umsid's memory") {
            let what = format!("umsid's memory at its largest, {size} to {targets}");
            figures.push(Figure::at_most(what, memory.median(), 40.0, "MiB"));
        }
    }
    figures
}
