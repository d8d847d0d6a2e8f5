//! What an agent costs the server it stands on, beside an sshd and a minion of Salt.

use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::salt::Salt;
use super::samples::{find, rounded};
use super::stage::{Wanted, memory, memory_in};
use super::{Bed, Figure, Samples, Stage};
use crate::files;
use crate::program::{Program, free_port, talk};

/// How long a program is watched that has nothing to do.
const IDLE: Duration = Duration::from_secs(10);

/// What a program does after its start is over after so long.
const SETTLED: Duration = Duration::from_secs(2);

const WHAT: &str = "agent";
const SIZE: &str = "size of the program";
const READY: &str = "from its start until it is ready";
const MEMORY: &str = "memory, idle";
const WAKES: &str = "wake-ups, idle";

fn samples(what: &str, who: &str, unit: &str) -> Samples {
    Samples::new(format!("{WHAT}: {what}"), who, unit)
}

pub(super) fn measure(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    let sized = |who: &str, path: &Path| -> anyhow::Result<Samples> {
        let bytes = std::fs::metadata(path)?.len();
        let mut samples = samples(SIZE, who, "MB");
        samples.values.push(f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / 1e6);
        Ok(samples)
    };
    let agent = bed.programs.join("umsid-agent");
    let mut all = vec![sized("umsid-agent", &agent)?, sized("sshd", Path::new("/usr/sbin/sshd"))?];
    // An enrolled agent's state, taken from one of a fleet.
    let dir = bed.dir.join("footprint");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    {
        let stage = Stage::up(bed, Wanted { clusters: 1, servers: 1, ..Wanted::default() })?;
        Program::new(Path::new("cp")).args([Path::new("-a"), &stage.agent_dir(1), &dir]).read_quietly()?;
    }
    let config = dir.join("agent.toml");
    let text = format!("listen = \"127.0.0.1:{}\"\nstate_dir = \"{}\"\n", free_port()?, dir.display());
    files::write(&config, 0o600, text.as_bytes())?;
    let [mut ready, mut idle, mut wakes] = [(READY, "ms"), (MEMORY, "MiB"), (WAKES, "/s")]
        .map(|(what, unit)| samples(what, "umsid-agent", unit));
    let [mut sshd_idle, mut sshd_wakes] =
        [(MEMORY, "MiB"), (WAKES, "/s")].map(|(what, unit)| samples(what, "sshd", unit));
    for _ in 0..bed.runs {
        // What is told is the agent's start, not the disk's: these machines take idle programs' memory away within seconds.
        Program::new(&agent).args(["--version"]).read_quietly()?;
        let socket = dir.join("notify");
        drop(std::fs::remove_file(&socket));
        let notified = UnixDatagram::bind(&socket)?;
        notified.set_read_timeout(Some(Duration::from_secs(20)))?;
        let begun = Instant::now();
        let program = Program::new(&agent).env("NOTIFY_SOCKET", &socket.to_string_lossy());
        let mut child =
            program.args([Path::new("--config"), &config]).args(["run"]).start(&dir.join("log"))?;
        let watched = (|| {
            let mut said = [0; 4096];
            loop {
                let length = notified.recv(&mut said).context("the agent does not become ready")?;
                if String::from_utf8_lossy(said.get(..length).unwrap_or_default()).contains("READY=1") {
                    break;
                }
            }
            ready.values.push(begun.elapsed().as_secs_f64() * 1000.0);
            std::thread::sleep(SETTLED);
            wakes.values.push(woken(bed, &[child.id()]));
            idle.values.push(memory(child.id(), "VmRSS:"));
            sshd_wakes.values.push(woken(bed, &[bed.peers.sshd()]));
            sshd_idle.values.push(memory(bed.peers.sshd(), "VmRSS:"));
            anyhow::Ok(())
        })();
        child.kill()?;
        child.wait()?;
        watched?;
    }
    all.extend([ready, idle, wakes, sshd_idle, sshd_wakes]);
    match minion(bed) {
        Ok(minion) => all.extend(minion),
        Err(error) => talk(&format!("no minion of Salt to measure beside: {error:#}")),
    }
    Ok(all)
}

/// The same of a minion of Salt, for whom a part of what its processes share counts with each.
fn minion(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    let salt = Salt::up(bed)?;
    let [mut size, mut ready, mut idle, mut wakes] =
        [(SIZE, "MB"), (READY, "ms"), (MEMORY, "MiB"), (WAKES, "/s")]
            .map(|(what, unit)| samples(what, "salt-minion", unit));
    size.values.push(salt.size()? / 1e6);
    for number in 0..bed.runs {
        let minion = salt.minion(number)?;
        ready.values.push(minion.ready.as_secs_f64() * 1000.0);
        std::thread::sleep(SETTLED);
        let processes = minion.processes();
        wakes.values.push(woken(bed, &processes));
        idle.values.push(processes.iter().map(|pid| memory_in(*pid, "smaps_rollup", "Pss:")).sum());
    }
    Ok(vec![size, ready, idle, wakes])
}

/// How often these processes wake up in a second while nobody wants anything of them.
fn woken(bed: &Bed, processes: &[u32]) -> f64 {
    let all = || processes.iter().map(|pid| switches(*pid)).sum::<f64>();
    let (before, watched) = (all(), if bed.quick { Duration::from_secs(1) } else { IDLE });
    std::thread::sleep(watched);
    (all() - before) / watched.as_secs_f64()
}

/// How often the threads of a process have given way by themselves so far.
fn switches(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |task: std::fs::DirEntry| {
        let mut text = String::new();
        std::fs::File::open(task.path().join("status"))
            .and_then(|mut file| file.read_to_string(&mut text))
            .ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?
            .trim()
            .parse::<f64>()
            .ok()
    };
    tasks.filter_map(of).sum()
}

pub(super) fn figures(samples: &[Samples]) -> Vec<Figure> {
    let limits = [
        (SIZE, Some(6.0), "MB"),
        (READY, Some(30.0), "ms"),
        (MEMORY, Some(10.0), "MiB"),
        (WAKES, None, "/s"),
    ];
    let mut figures = Vec::new();
    for (what, most, unit) in limits {
        let what = format!("{WHAT}: {what}");
        let Some(agent) = find(samples, &what, "umsid-agent") else { continue };
        let peers = ["sshd", "salt-minion"].into_iter().filter_map(|who| {
            find(samples, &what, who).map(|peer| format!("{who} {}", rounded(peer.median())))
        });
        let peers = peers.collect::<Vec<_>>().join(", ");
        let what = if peers.is_empty() { what } else { format!("{what} ({peers} {unit})") };
        figures.push(match most {
            Some(most) => Figure::at_most(what, agent.median(), most, unit),
            None => Figure::told(what, format!("{} {unit}", rounded(agent.median()))),
        });
    }
    figures
}
