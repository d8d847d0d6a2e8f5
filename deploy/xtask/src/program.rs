//! Running programs from the repository's own tasks.
#![expect(
    clippy::disallowed_methods,
    reason = "the repository's own tasks run cargo and what it built; the agent's spawner is for agents"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// Says something to the person at the terminal: on standard error, because standard output is for data.
#[expect(clippy::print_stderr, reason = "this is where talk goes")]
pub(crate) fn talk(text: &str) {
    eprintln!("{text}");
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Does the work while Ctrl-C ends only what was started here, so that there is time to clean up after it.
pub(crate) fn surviving_ctrl_c(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.spawn(async {
        while tokio::signal::ctrl_c().await.is_ok() {
            talk("interrupted: cleaning up");
        }
    });
    let outcome = work();
    runtime.shutdown_background();
    outcome
}

/// Builds packages' binaries; gives the directory they are in.
pub(crate) fn build(packages: &[&str], release: bool) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .args(["build", "--bins"])
        .args(packages.iter().flat_map(|name| ["--package", name]));
    if release {
        command.arg("--release");
    }
    // Cargo's own talk goes to standard error; nothing is to be on standard output but data.
    let status = command.stdout(Stdio::null()).status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo build failed");
    Ok(target_dir().join(if release { "release" } else { "debug" }))
}

/// A program with its arguments.
pub(crate) struct Program {
    command: Command,
    line: String,
}

impl Program {
    /// This program.
    pub(crate) fn new(path: &Path) -> Self {
        let name = path.file_name().unwrap_or(path.as_os_str());
        let mut command = Command::new(path);
        command.stdin(Stdio::null());
        Self { command, line: name.to_string_lossy().into_owned() }
    }

    /// With these arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        for arg in args {
            self.line.push(' ');
            self.line.push_str(&arg.as_ref().to_string_lossy());
            self.command.arg(arg);
        }
        self
    }

    /// With this in its environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Without this in its environment.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// In this directory.
    pub(crate) fn in_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// With a pipe to read from: one that reads to its end ends when that is closed.
    pub(crate) fn held(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Starts it with a pipe to read from: one that reads to its end ends when the value is dropped. What it says, and whatever
    /// it starts, goes to this file.
    pub(crate) fn start_held(mut self, log: &Path) -> anyhow::Result<Child> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("cannot write {}", log.display()))?;
        let errors = out.try_clone().context("cannot share a log file")?;
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        self.command
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {}", self.line))
    }

    /// Runs it and keeps what it says on standard error, with its exit code; `None`: a signal ended it.
    pub(crate) fn hear(mut self) -> anyhow::Result<(Option<i32>, String)> {
        let output = self.command.output().with_context(|| format!("cannot run {}", self.line))?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Runs it on our terminal; gives its exit code.
    pub(crate) fn show(mut self) -> anyhow::Result<i32> {
        let status = self.command.status().with_context(|| format!("cannot run {}", self.line))?;
        status.code().with_context(|| format!("{} was ended by a signal", self.line))
    }

    /// Runs it and keeps what it prints on standard output; its talk goes to our terminal. Its exit code must be one of
    /// these.
    pub(crate) fn read(mut self, allowed: &[i32]) -> anyhow::Result<String> {
        let output: Output = self
            .command
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot run {}", self.line))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.code() {
            Some(code) if allowed.contains(&code) => Ok(text),
            Some(code) => bail!("{} exited with {code}: {}", self.line, text.trim()),
            None => bail!("{} was ended by a signal", self.line),
        }
    }

    /// Runs it and shows what it says only if it fails.
    pub(crate) fn read_quietly(mut self) -> anyhow::Result<String> {
        let output = self.command.output().with_context(|| format!("cannot run {}", self.line))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} failed: {}", self.line, said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts it in a process group of its own, so that Ctrl-C at our terminal does not reach it; what it says goes to
    /// this file.
    pub(crate) fn start(mut self, log: &Path) -> anyhow::Result<Child> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        self.command
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", self.line))
    }

    /// The same for a program that goes on after us.
    pub(crate) fn start_detached(mut self, log: &Path) -> anyhow::Result<Child> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut self.command, 0);
        let out = file.try_clone().context("cannot share a log file")?;
        self.command.stdout(out).stderr(file).spawn().with_context(|| format!("cannot start {}", self.line))
    }
}

/// The first line a program prints on standard output.
pub(crate) fn first_line(child: &mut Child) -> anyhow::Result<String> {
    let out = child.stdout.take().context("the program has no standard output of its own")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    ensure!(!line.trim().is_empty(), "it printed nothing");
    Ok(line.trim().to_owned())
}

/// A port of loopback that nobody has just now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until there is an answer; asks again meanwhile.
pub(crate) fn wait_for<T>(
    what: &str,
    within: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(begun.elapsed() < within, "waited {} s in vain for {what}", within.as_secs());
        std::thread::sleep(Duration::from_millis(50));
    }
}
