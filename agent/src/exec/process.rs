//! Processes of this host: which runs since when, and ending those we started.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};
use umsid_proto::model::ServiceProcess;

use super::boot;
use crate::ums::Running;

/// A process as the operating system shows it.
pub type Process = ServiceProcess;

/// How often a process that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The variable in a program's environment that says for which operation it was started.
pub(super) const MARK: &str = "UMSID_OPERATION";

/// Start times are made of the boot time, rounded, and a counter.
const ROUNDED: i64 = 2;

fn living(process: &sysinfo::Process) -> bool {
    !matches!(process.status(), ProcessStatus::Zombie | ProcessStatus::Dead)
}

fn shown(process: &sysinfo::Process) -> Process {
    let seconds = i64::try_from(process.start_time()).unwrap_or_default() - boot::moved();
    Process { pid: process.pid().as_u32(), started: Timestamp::from_second(seconds).unwrap_or_default() }
}

/// The living process of this id; a dead one nobody has waited for is none.
pub fn process_of(pid: u32) -> Option<Process> {
    let pid = Pid::from_u32(pid);
    let mut system = processes()?;
    let what = ProcessRefreshKind::nothing().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    system.process(pid).filter(|process| living(process)).map(shown)
}

/// Whether these are one process: an id alone proves nothing, ids are used again.
pub fn same_process(one: &Process, other: &Process) -> bool {
    one.pid == other.pid && (one.started.as_second() - other.started.as_second()).abs() <= ROUNDED
}

/// Whether a process was started at this [`moment`](super::moment) or later.
pub fn started_since(process: &Process, moment: Timestamp) -> bool {
    process.started.as_second() + ROUNDED >= moment.as_second()
}

/// Whether this very process is there.
pub fn is_running(process: &Process) -> bool {
    process_of(process.pid).is_some_and(|found| same_process(&found, process))
}

/// The oldest process, other than this one, in whose command line all of these texts are.
pub fn find_process(texts: &[&str]) -> Option<Process> {
    let own = std::process::id();
    with_command_lines()?
        .processes()
        .values()
        .filter(|process| living(process) && process.pid().as_u32() != own)
        .filter(|process| {
            let line = command_line(process);
            texts.iter().all(|text| line.contains(text))
        })
        .min_by_key(|process| (process.start_time(), process.pid()))
        .map(shown)
}

/// Whether a process has this path in its command line.
pub fn in_use(path: &Path) -> bool {
    let path = path.to_string_lossy();
    let uses = |process: &sysinfo::Process| living(process) && command_line(process).contains(&*path);
    // Where processes cannot be seen, one might.
    with_command_lines().is_none_or(|system| system.processes().values().any(uses))
}

/// The processes with this mark in their environment: a program we started, and what it started. `None` where they cannot
/// be seen.
pub fn marked(mark: &str) -> Option<Vec<Process>> {
    let mut system = processes()?;
    let what = ProcessRefreshKind::nothing().without_tasks().with_environ(UpdateKind::Always);
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    let wanted = format!("{MARK}={mark}");
    let is_marked = |process: &&sysinfo::Process| {
        living(process) && process.environ().iter().any(|variable| *variable == *wanted)
    };
    Some(system.processes().values().filter(is_marked).map(shown).collect())
}

/// Whether a process was started by us, for whatever operation.
pub fn carries_mark(process: &Process) -> bool {
    let Some(mut system) = processes() else { return false };
    let pid = Pid::from_u32(process.pid);
    let what = ProcessRefreshKind::nothing().without_tasks().with_environ(UpdateKind::Always);
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    let mark = format!("{MARK}=");
    system.process(pid).is_some_and(|found| {
        let of_ours = |variable: &std::ffi::OsString| variable.to_string_lossy().starts_with(&mark);
        same_process(&shown(found), process) && found.environ().iter().any(of_ours)
    })
}

/// `None` on a system whose processes cannot be seen.
fn processes() -> Option<System> {
    System::new().inspect_err(|error| tracing::error!(%error, "cannot see the processes of this host")).ok()
}

fn with_command_lines() -> Option<System> {
    let mut system = processes()?;
    let what = ProcessRefreshKind::nothing().without_tasks().with_cmd(UpdateKind::Always);
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, what);
    Some(system)
}

fn command_line(process: &sysinfo::Process) -> String {
    process.cmd().iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Waits until this program, started by this agent or the one before, has ended, and ends its whole process group at
/// the deadline. `false` if it is there even then: another user's, behind `sudo`.
pub async fn await_end(program: Running, deadline: Duration, grace: Duration) -> bool {
    let process = Process { pid: program.pid, started: program.started };
    if gone_within(&process, deadline).await {
        return true;
    }
    tracing::warn!(pid = program.pid, "has not ended in time and is ended with its process group");
    signal_group(program.pid, false);
    if gone_within(&process, grace).await {
        signal_group(program.pid, true);
        return true;
    }
    signal_group(program.pid, true);
    gone_within(&process, super::REAP).await
}

/// Waits until this program has ended, and ends nothing.
pub async fn await_gone(program: Running, deadline: Duration) -> bool {
    gone_within(&Process { pid: program.pid, started: program.started }, deadline).await
}

async fn gone_within(process: &Process, limit: Duration) -> bool {
    let gone = async {
        while is_running(process) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(limit, gone).await.is_ok()
}

/// Signals a group we made: its id is that of the program we started.
#[cfg(unix)]
fn signal_group(pid: u32, kill: bool) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let signal = if kill { Signal::KILL } else { Signal::TERM };
    if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // No such group any more is what was wanted; not allowed is seen by its still being there.
        let _ = kill_process_group(group, signal);
    }
}

/// Ends the program and all it started: the job an earlier agent had for them cannot be had back, who started whom can. There is
/// no way to ask.
#[cfg(not(unix))]
fn signal_group(pid: u32, kill: bool) {
    let Some(mut system) = processes().filter(|_| kill) else { return };
    system.refresh_processes_specifics(ProcessesToUpdate::All, true, ProcessRefreshKind::nothing());
    let mut group = vec![Pid::from_u32(pid)];
    let mut next = 0;
    while let Some(parent) = group.get(next).copied() {
        next += 1;
        let born = system.process(parent).map(sysinfo::Process::start_time);
        // An id is used again: what is older than its parent is another's child.
        let children = system.processes().iter().filter(|(id, process)| {
            process.parent() == Some(parent)
                && born.is_none_or(|born| process.start_time() >= born)
                && !group.contains(id)
        });
        let children: Vec<Pid> = children.map(|(id, _)| *id).collect();
        group.extend(children);
    }
    // The first one first: it can start no other then.
    for process in group.iter().filter_map(|id| system.process(*id)) {
        process.kill();
    }
}

/// Ends a program's group when whoever waited for it stops waiting.
pub(super) struct Group(Option<u32>);

impl Group {
    pub(super) fn of(pid: Option<u32>, survives: bool) -> Self {
        Self(pid.filter(|_| !survives))
    }

    /// It has ended.
    pub(super) fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            signal_group(pid, true);
        }
    }
}
