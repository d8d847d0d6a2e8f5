//! What the kernel shows of processes to who may trace them: how they were called, their environment, what they have
//! open, what is in their memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Between two looks of a [`Watch`].
const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Why other processes cannot be looked into here.
pub(crate) fn missing() -> Option<String> {
    /// `CAP_SYS_PTRACE`.
    const TRACE: u64 = 1 << 19;
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return Some("needs /proc as Linux has it".to_owned());
    };
    let may = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let may = may.and_then(|may| u64::from_str_radix(may.trim(), 16).ok()).unwrap_or_default();
    if may & TRACE == 0 {
        return Some("needs root: the memory and the environment of the agents are nobody else's".to_owned());
    }
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    (scope.trim() == "3").then(|| "needs kernel.yama.ptrace_scope below 3".to_owned())
}

/// A process as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// The file name of its program.
    pub(crate) program: String,
    /// Its arguments and its environment, as `/proc` has them.
    pub(crate) arguments: Vec<u8>,
    pub(crate) environment: Vec<u8>,
}

impl Process {
    fn of(pid: u32) -> Option<Self> {
        let read = |what: &str| std::fs::read(format!("/proc/{pid}/{what}")).ok();
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let program = program.file_name()?.to_string_lossy().into_owned();
        Some(Self { pid, program, arguments: read("cmdline")?, environment: read("environ")? })
    }

    /// Its words, a space between them.
    pub(crate) fn line(&self) -> String {
        String::from_utf8_lossy(&self.arguments).replace('\0', " ")
    }

    /// Whether a variable of its environment has this value.
    pub(crate) fn has(&self, variable: &str, value: &str) -> bool {
        let wanted = format!("{variable}={value}");
        self.environment.split(|byte| *byte == 0).any(|found| found == wanted.as_bytes())
    }

    /// Whether there is such a variable in its environment.
    pub(crate) fn knows(&self, variable: &str) -> bool {
        let wanted = format!("{variable}=");
        self.environment.split(|byte| *byte == 0).any(|found| found.starts_with(wanted.as_bytes()))
    }
}

/// All processes of this machine, but what ends while one looks.
pub(crate) fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Process::of).collect()
}

/// Looks at all processes over and over again.
pub(crate) struct Watch {
    over: Arc<AtomicBool>,
    watcher: JoinHandle<BTreeSet<Process>>,
}

impl Watch {
    pub(crate) fn begin() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = over.clone();
        let watcher = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !told.load(Ordering::Relaxed) {
                seen.extend(all());
                std::thread::sleep(PAUSE);
            }
            seen
        });
        Self { over, watcher }
    }

    /// What was seen, in whatever state.
    pub(crate) fn seen(self) -> BTreeSet<Process> {
        self.over.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap()
    }
}

/// The content of every file a process has open, named or not, with what it is called.
pub(crate) fn open_files(pid: u32) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open = entries.filter_map(|entry| {
        let path = entry.path();
        // Opening a pipe or a terminal would not be looking only.
        let is_file = std::fs::metadata(&path).ok()?.is_file();
        let content = is_file.then(|| std::fs::read(&path).ok()).flatten()?;
        Some((std::fs::read_link(&path).ok()?, content))
    });
    open.collect()
}

/// What is in the memory of a process that stands still: everything it may write to or keep to itself. Read-only pages of
/// its program are what the program's file is.
pub(crate) fn memory(pid: u32) -> Vec<Vec<u8>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, may) = (fields.next().unwrap(), fields.next().unwrap());
        let name = fields.nth(3).unwrap_or_default();
        let of_the_kernel = ["[vvar", "[vdso", "[vsyscall"].iter().any(|it| name.starts_with(it));
        if !may.starts_with('r') || of_the_kernel || (!may.contains('w') && name.starts_with('/')) {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        memory.read_exact_at(&mut bytes, from).unwrap_or_else(|error| panic!("{error}: {line}"));
        found.extend(used(&bytes));
    }
    found
}

/// The parts that are not pages of zeros, which is most of a stack.
fn used(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const PAGE: usize = 4096;
    let pages = bytes.chunks(PAGE);
    let pages: Vec<(bool, &[u8])> = pages.map(|page| (*page != [0; PAGE][..page.len()], page)).collect();
    let parts = pages.chunk_by(|a, b| a.0 == b.0).filter(|part| part[0].0);
    parts
        .map(|part| part.iter().map(|page| page.1).collect::<Vec<_>>().concat())
        .collect::<Vec<_>>()
        .into_iter()
}
