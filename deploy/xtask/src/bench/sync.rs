//! A whole sync, beside an Ansible playbook that does the same job on the same stand-ins.

use anyhow::Context as _;
use serde_json::Value;

use super::samples::{find, rounded};
use super::stage::Wanted;
use super::{Bed, Figure, Samples, Stage};

/// How long a JVM takes: for a call, and for a UMS Server to start.
const JVM: (u64, u64) = (1500, 20_000);

pub(super) fn measure(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    all(bed, if bed.quick { &[3] } else { &[3, 6, 20, 50] }, (0, 0))
}

pub(super) fn measure_slow(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    all(bed, if bed.quick { &[] } else { &[3, 6] }, JVM)
}

fn all(bed: &Bed, counts: &[usize], delays: (u64, u64)) -> anyhow::Result<Vec<Samples>> {
    let mut all = Vec::new();
    for servers in counts {
        all.extend(one(bed, *servers, delays, bed.runs)?);
    }
    Ok(all)
}

fn name(servers: usize, (call, _): (u64, u64)) -> String {
    format!("sync of {servers}{}", if call > 0 { " with a JVM's delays" } else { "" })
}

fn one(bed: &Bed, servers: usize, delays: (u64, u64), runs: usize) -> anyhow::Result<Vec<Samples>> {
    let (call_ms, restart_ms) = delays;
    let out_of_sync = servers - 1;
    let wanted =
        Wanted { clusters: 1, servers, out_of_sync, call_ms, restart_ms, called: true, ..Wanted::default() };
    let stage = Stage::up(bed, wanted)?;
    // Where both do little but wait, they wait at the same time, each for servers of its own.
    let second = if call_ms > 0 { Some(Stage::up(bed, wanted)?) } else { None };
    let ground = second.as_ref().unwrap_or(&stage);
    let what = name(servers, delays);
    let [mut umsid, mut share, mut ansible] = [
        Samples::new(&what, "umsid", "s"),
        Samples::new(&what, "umsid without the UMS", "s"),
        Samples::new(&what, "Ansible", "s"),
    ];
    let program = bed.programs.join("umsid-fleet-ums");
    let hosts: Vec<(String, &[&str], String)> = (1..=servers)
        .map(|server| {
            let groups: &[&str] = if server == 1 { &["ums", "main"] } else { &["ums"] };
            let work = bed.peers.dir().join(format!("work-{server}"));
            let (dir, program) = (ground.ums_dir(server), program.display());
            (
                format!("s{server:04}"),
                groups,
                format!("dir={} program={program} work={}", dir.display(), work.display()),
            )
        })
        .collect();
    let inventory = bed.peers.inventory(&hosts)?;
    let playbook = [
        "-e".to_owned(),
        format!("password=geheim controller={}", bed.peers.dir().display()),
        "sync.yml".to_owned(),
    ];
    let warm_up = ["ums", "-m", "ansible.builtin.command", "-a", "true"].map(ToOwned::to_owned);
    // Neither is measured reading its programs from disk: these machines take idle ones' memory away within seconds.
    let ours = || -> anyhow::Result<(f64, f64)> {
        stage.lose()?;
        stage.umsid(&["plan", "c001"])?;
        let (ran, events) = stage.sync(&[])?;
        Ok((ran.took, ran.took - ums_seconds(&events)))
    };
    let theirs = || -> anyhow::Result<f64> {
        bed.peers.ansible("ansible", &inventory, &warm_up)?;
        ground.lose()?;
        let took = bed.peers.ansible("ansible-playbook", &inventory, &playbook)?;
        // It has done the job: there is nothing left to do.
        ground.umsid(&["status", "c001"])?;
        Ok(took)
    };
    for _ in 0..runs {
        let ((whole, own), took) = match &second {
            None => (ours()?, theirs()?),
            Some(_) => std::thread::scope(|scope| {
                let theirs = scope.spawn(theirs);
                let ours = ours()?;
                anyhow::Ok((ours, theirs.join().ok().context("Ansible's part panicked")??))
            })?,
        };
        umsid.values.push(whole);
        share.values.push(own);
        ansible.values.push(took);
    }
    Ok(vec![umsid, share, ansible])
}

/// How long a run waited for the UMS.
fn ums_seconds(events: &[Value]) -> f64 {
    events.last().and_then(|report| report["ums_ms"].as_f64()).unwrap_or_default() / 1000.0
}

pub(super) fn figures(samples: &[Samples]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (servers, least) in [(3, Some(100.0)), (6, None), (20, Some(150.0)), (50, Some(150.0))] {
        let what = name(servers, (0, 0));
        let [Some(umsid), Some(share), Some(ansible)] =
            ["umsid", "umsid without the UMS", "Ansible"].map(|who| find(samples, &what, who))
        else {
            continue;
        };
        let both = format!("{} s, Ansible {} s", rounded(umsid.median()), rounded(ansible.median()));
        figures.push(Figure::times(&what, ansible.median() / umsid.median(), least, &both));
        let most = 10.0_f64.mul_add(f64::from(u32::try_from(servers).unwrap_or(u32::MAX)), 50.0);
        figures.push(Figure::at_most(
            format!("umsid's own share of a {what}"),
            share.median() * 1000.0,
            most,
            "ms",
        ));
    }
    for servers in [3, 6] {
        let what = name(servers, JVM);
        let (Some(umsid), Some(share)) =
            (find(samples, &what, "umsid"), find(samples, &what, "umsid without the UMS"))
        else {
            continue;
        };
        let percent = share.median() / umsid.median() * 100.0;
        let own = format!("umsid's own share of a {what}");
        figures.push(match servers {
            6 => Figure::at_most(own, percent, 2.0, "%"),
            _ => Figure::told(own, format!("{} %", rounded(percent))),
        });
        if let Some(ansible) = find(samples, &what, "Ansible") {
            let both = format!("{} s, Ansible {} s", rounded(umsid.median()), rounded(ansible.median()));
            figures.push(Figure::times(&what, ansible.median() / umsid.median(), None, &both));
        }
    }
    figures
}
