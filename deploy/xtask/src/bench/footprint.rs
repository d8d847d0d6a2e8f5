//! What an agent costs the server it stands on, beside an sshd.

use std::io::Read as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::samples::{find, rounded};
use super::stage::{Wanted, memory};
use super::{Bed, Figure, Samples, Stage};
use crate::files;
use crate::program::{Program, free_port};

/// How long a program is watched that has nothing to do.
const IDLE: Duration = Duration::from_secs(10);

const WHAT: &str = "agent";

pub(super) fn measure(bed: &Bed) -> anyhow::Result<Vec<Samples>> {
    let sized = |who: &str, path: &Path| -> anyhow::Result<Samples> {
        let bytes = std::fs::metadata(path)?.len();
        let mut samples = Samples::new(format!("{WHAT}: size of the program"), who, "MB");
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
    let [mut ready, mut idle, mut wakes] = [
        Samples::new(format!("{WHAT}: from its start until it is ready"), "umsid-agent", "ms"),
        Samples::new(format!("{WHAT}: memory, idle"), "umsid-agent", "MiB"),
        Samples::new(format!("{WHAT}: wake-ups, idle"), "umsid-agent", "/s"),
    ];
    let [mut sshd_idle, mut sshd_wakes] = [
        Samples::new(format!("{WHAT}: memory, idle"), "sshd", "MiB"),
        Samples::new(format!("{WHAT}: wake-ups, idle"), "sshd", "/s"),
    ];
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
            // What it does after its start is over when it sleeps.
            std::thread::sleep(Duration::from_secs(2));
            let watch = |pid: u32| {
                let before = switches(pid);
                std::thread::sleep(if bed.quick { Duration::from_secs(1) } else { IDLE });
                let idle = if bed.quick { 1.0 } else { IDLE.as_secs_f64() };
                (memory(pid, "VmRSS:"), (switches(pid) - before) / idle)
            };
            let (rss, woken) = watch(child.id());
            idle.values.push(rss);
            wakes.values.push(woken);
            let (rss, woken) = watch(bed.peers.sshd());
            sshd_idle.values.push(rss);
            sshd_wakes.values.push(woken);
            anyhow::Ok(())
        })();
        child.kill()?;
        child.wait()?;
        watched?;
    }
    all.extend([ready, idle, wakes, sshd_idle, sshd_wakes]);
    Ok(all)
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
        ("size of the program", 6.0, "MB"),
        ("from its start until it is ready", 30.0, "ms"),
        ("memory, idle", 10.0, "MiB"),
    ];
    let mut figures = Vec::new();
    for (what, most, unit) in limits {
        let what = format!("{WHAT}: {what}");
        let Some(agent) = find(samples, &what, "umsid-agent") else { continue };
        let peer = find(samples, &what, "sshd");
        let peer = peer.map_or_else(String::new, |sshd| format!(" (sshd {} {unit})", rounded(sshd.median())));
        figures.push(Figure::at_most(format!("{what}{peer}"), agent.median(), most, unit));
    }
    figures
}
