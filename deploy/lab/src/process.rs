//! Processes of the lab: starting them, knowing them, ending them. The one file that spawns and signals.
//!
//! A process is the lab's own when the program it runs is one of those linked into the lab's `bin` directory; a process
//! id alone proves nothing, ids are used again.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::layout::LabDir;

/// How often a condition in another process is looked at.
const LOOK: Duration = Duration::from_millis(2);

#[expect(clippy::disallowed_methods, reason = "this is the lab's one file that spawns")]
fn command(program: &Path, arguments: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs a program to its end and keeps its output.
pub(crate) fn run(program: &Path, arguments: &[impl AsRef<OsStr>]) -> io::Result<Output> {
    command(program, arguments).stdin(Stdio::null()).output()
}

/// Starts a program that lives on, with its output in files.
pub(crate) fn start(
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    stdout: File,
    stderr: File,
) -> io::Result<Child> {
    command(program, arguments)
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
}

/// Starts a program that holds this process's stdout and stderr.
pub(crate) fn start_holding_output(program: &Path, arguments: &[impl AsRef<OsStr>]) -> io::Result<Child> {
    command(program, arguments).stdin(Stdio::null()).spawn()
}

/// The same, for a program that whoever ends this process's group does not end.
pub(crate) fn start_holding_output_apart(
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
) -> io::Result<Child> {
    let mut command = command(program, arguments);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.stdin(Stdio::null()).spawn()
}

/// Waits until `condition` holds. `false` when it did not within `limit`.
pub(crate) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Leaves the session and process group of whoever started this process.
#[cfg(unix)]
pub(crate) fn leave_session() {
    // The one failure is that this process leads a group already, which is as good.
    let _ = rustix::process::setsid();
}

#[cfg(not(unix))]
pub(crate) fn leave_session() {}

/// Whether a process of this id exists, whoever's it is.
#[cfg(unix)]
pub(crate) fn exists(pid: u32) -> bool {
    id(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[cfg(not(unix))]
pub(crate) fn exists(_: u32) -> bool {
    true
}

/// Whether the process of this id runs a program of this lab. A dead one nobody has waited for does not.
///
/// Signals are sent on this answer alone, so it knows no near misses.
#[cfg(unix)]
pub(crate) fn is_ours(lab: &LabDir, pid: u32) -> bool {
    let Ok(program) = std::fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let bin = lab.bin();
    is_program_in(&bin.canonicalize().unwrap_or(bin), &program)
}

/// Whether `program`, as the kernel names it, is one of a lab's programs in the directory `bin`.
#[cfg(unix)]
fn is_program_in(bin: &Path, program: &Path) -> bool {
    let name = program.to_string_lossy();
    // So the kernel marks a program whose file is gone.
    let program = Path::new(name.strip_suffix(" (deleted)").unwrap_or(&name));
    crate::layout::PROGRAMS.iter().any(|name| program == bin.join(name))
}

#[cfg(not(unix))]
pub(crate) fn is_ours(_: &LabDir, _: u32) -> bool {
    false
}

/// Every process that runs a program of this lab, except this one.
#[cfg(unix)]
pub(crate) fn all_ours(lab: &LabDir) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != std::process::id() && is_ours(lab, pid))
        .collect()
}

#[cfg(not(unix))]
pub(crate) fn all_ours(_: &LabDir) -> Vec<u32> {
    Vec::new()
}

/// How to end a process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    /// Ask (SIGTERM).
    Ask,
    /// Force (SIGKILL).
    Force,
}

/// Ends a process of this lab; one that is not ours is left alone.
#[cfg(unix)]
pub(crate) fn end(lab: &LabDir, pid: u32, ending: Ending) {
    use rustix::process::Signal;
    if is_ours(lab, pid)
        && let Some(pid) = id(pid)
    {
        let signal = match ending {
            Ending::Ask => Signal::TERM,
            Ending::Force => Signal::KILL,
        };
        // Gone in the meantime is what was wanted.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

#[cfg(not(unix))]
pub(crate) fn end(_: &LabDir, _: u32, _: Ending) {}

#[cfg(unix)]
fn id(pid: u32) -> Option<rustix::process::Pid> {
    i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_in_the_labs_own_directory_are_ours() {
        let bin = Path::new("/tmp/lab/bin");
        let ours = |program: &str| is_program_in(bin, Path::new(program));
        assert!(ours("/tmp/lab/bin/umsadmin-cli") && ours("/tmp/lab/bin/umsid-lab-server"));
        assert!(ours("/tmp/lab/bin/umsid-lab-server (deleted)"));
        for foreign in [
            "/usr/bin/bash",
            "/tmp/lab/bin/bash",
            "/tmp/lab2/bin/umsid-lab-server",
            "/tmp/lab/bin/umsid-lab-server/x",
            "/tmp/lab/target/debug/umsid-lab-server",
            "/umsid-lab-server",
            "",
        ] {
            assert!(!ours(foreign), "{foreign}");
        }
        let lab = LabDir::new("/tmp/lab");
        assert!(!is_ours(&lab, 1) && !is_ours(&lab, std::process::id()));
    }
}
