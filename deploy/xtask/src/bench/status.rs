//! Asking many servers how they stand.

use super::samples::{find, rounded};
use super::stage::Wanted;
use super::{Bed, Figure, Samples, Stage};

/// Servers Ansible is asked to ask.
const ANSIBLE: usize = 50;

/// The fleets are so large at most, so that one process can hold them.
const CLUSTER: usize = 100;

pub(super) fn measure(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    let mut all = Vec::new();
    let counts: &[usize] = if bed.quick { &[10] } else { &[10, 100, 1000, 2000] };
    for servers in counts {
        let (clusters, each) = (servers.div_ceil(CLUSTER), (*servers).min(CLUSTER));
        let stage = Stage::up(bed, Wanted { clusters, servers: each, ..Wanted::default() })?;
        let mut umsid = Samples::new(name(*servers), "umsid", "s");
        let mut memory = Samples::new(name(*servers), "umsid's memory", "MiB");
        stage.umsid(&["status", "--all", "-o", "json"])?;
        for _ in 0..bed.runs {
            let ran = stage.umsid(&["status", "--all", "-o", "json"])?;
            umsid.values.push(ran.took);
            memory.values.push(ran.peak);
        }
        all.extend([umsid, memory]);
    }
    let servers = if bed.quick { 3 } else { ANSIBLE };
    let stage = Stage::up(bed, Wanted { clusters: 1, servers, called: true, ..Wanted::default() })?;
    let hosts: Vec<(String, &[&str], String)> = (1..=servers)
        .map(|server| {
            (format!("s{server:04}"), &["ums"][..], format!("dir={}", stage.ums_dir(server).display()))
        })
        .collect();
    let inventory = bed.peers.inventory(&hosts)?;
    let program = bed.programs.join("umsid-fleet-ums");
    let list =
        ["ums", "-m", "ansible.builtin.command", "-a", &format!("{} list {{{{ dir }}}}", program.display())]
            .map(ToOwned::to_owned);
    let mut umsid = Samples::new(with_calls(servers), "umsid", "s");
    let mut ansible = Samples::new(with_calls(servers), "Ansible", "s");
    for _ in 0..bed.runs {
        // As in a sync, neither is measured reading its programs from disk.
        stage.umsid(&["status", "--all", "-o", "json"])?;
        umsid.values.push(stage.umsid(&["status", "--all", "-o", "json"])?.took);
        bed.peers.ansible("ansible", &inventory, &list)?;
        ansible.values.push(bed.peers.ansible("ansible", &inventory, &list)?);
    }
    all.extend([umsid, ansible]);
    Ok(all)
}

fn name(servers: usize) -> String {
    format!("status of {servers}")
}

fn with_calls(servers: usize) -> String {
    format!("status of {servers}, each by a program")
}

pub(super) fn figures(samples: &[Samples]) -> Vec<Figure> {
    let of = |servers| find(samples, &name(servers), "umsid").map(Samples::median);
    let mut figures = Vec::new();
    if let (Some(thousand), Some(two)) = (of(1000), of(2000)) {
        figures.push(Figure::at_most("status of 1,000 servers", thousand, 2.0, "s"));
        figures.push(Figure::at_most("status of 2,000, to that of 1,000", two / thousand, 2.2, "×"));
    }
    let what = with_calls(ANSIBLE);
    if let (Some(umsid), Some(ansible)) = (find(samples, &what, "umsid"), find(samples, &what, "Ansible")) {
        let both = format!("{} s, Ansible {} s", rounded(umsid.median()), rounded(ansible.median()));
        figures.push(Figure::times(&what, ansible.median() / umsid.median(), Some(100.0), &both));
        if let Some(thousand) = of(1000) {
            let each = ansible.median() / f64::from(u32::try_from(ANSIBLE).unwrap_or(u32::MAX));
            let both = format!("{} ms, Ansible {} ms", rounded(thousand), rounded(each * 1000.0));
            figures.push(Figure::times(
                "status of 1,000, per server",
                each / (thousand / 1000.0),
                Some(100.0),
                &both,
            ));
        }
    }
    figures
}
