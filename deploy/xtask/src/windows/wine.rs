//! A Windows of its own, by Wine: its registry, its service manager, its disk.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::files;
use crate::program::{Program, wait_for};

/// What runs programs for Windows.
pub(crate) const LOADER: &str = "/usr/lib/wine/wine64";

/// Ends a Windows.
const SERVER: &str = "/usr/lib/wine/wineserver64";

/// A library of Windows that Wine before 9.0 lacks.
pub(crate) const LIBRARY: &str = "bcryptprimitives.dll";

/// Longer than anything takes on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// One of them.
pub(crate) struct Windows {
    pub(crate) name: String,
    prefix: PathBuf,
    log: PathBuf,
    /// A program that keeps it on: without any, it is shut down.
    keeper: Option<Child>,
}

impl Windows {
    /// A new one in this directory, on, with the library that Wine lacks.
    pub(crate) fn new(dir: &Path, name: &str, library: &Path) -> anyhow::Result<Self> {
        let (prefix, log) = (dir.join(name), dir.join(format!("{name}.windows.log")));
        let mut windows = Self { name: name.to_owned(), prefix, log, keeper: None };
        fs::create_dir_all(&windows.prefix)
            .with_context(|| format!("cannot make {}", windows.prefix.display()))?;
        windows.boot()?;
        windows.put(&[library.to_owned()], "windows/system32")?;
        Ok(windows)
    }

    /// What went to the event log since it was turned on.
    pub(crate) fn events(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))
    }

    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Turns it on: its services start.
    pub(crate) fn boot(&mut self) -> anyhow::Result<()> {
        ensure!(self.keeper.is_none(), "{} is on already", self.name);
        // What Windows starts for itself has what the first program has for its output: a file and no pipe, or whoever reads that
        // waits for Windows.
        self.keeper = Some(self.program("cmd.exe").start_held(&self.log)?);
        // Of two programs that begin at once one may find half of it.
        wait_for(&format!("{} to be on; see {}", self.name, self.log.display()), SOON, || Ok(self.is_on()))?;
        self.program("cmd.exe").args(["/c", "exit"]).start_detached(&self.log)?.wait()?;
        Ok(())
    }

    /// Where what keeps all its programs together has its files. Debian's Wine writes that into the prefix.
    fn meeting_place(&self) -> Option<PathBuf> {
        let name = fs::read_to_string(self.prefix.join("wineserver")).ok()?;
        Some(std::env::temp_dir().join(name.trim()))
    }

    fn is_on(&self) -> Option<()> {
        let found = fs::metadata(&self.prefix).ok()?;
        let server = self.meeting_place()?.join(format!("server-{:x}-{:x}", found.dev(), found.ino()));
        server.join("socket").exists().then_some(())
    }

    /// Takes the power away: nothing on it gets to do anything more.
    pub(crate) fn cut_power(&mut self) -> anyhow::Result<()> {
        let Some(mut keeper) = self.keeper.take() else { return Ok(()) };
        self.wine(SERVER).args(["-k", "-w"]).hear()?;
        // It has been ended with the rest.
        let _ = keeper.kill();
        keeper.wait().context("cannot wait for what kept Windows on")?;
        if let Some(place) = self.meeting_place().filter(|place| place.exists()) {
            fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
        }
        Ok(())
    }

    /// A program of it, by a path of its own or a name in its directories.
    pub(crate) fn program(&self, program: &str) -> Program {
        self.wine(LOADER).args([program])
    }

    fn wine(&self, program: &str) -> Program {
        Program::new(Path::new(program))
            .env("WINEPREFIX", &self.prefix.display().to_string())
            .env("WINEARCH", "win64")
            // Of what Wine says of itself only what goes to the event log, which has no other place with it.
            .env("WINEDEBUG", "-all,err+eventlog,warn+eventlog")
            // What asks for other packages in a window of its own.
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
            .env("LANG", "C.UTF-8")
            .env("LC_ALL", "C.UTF-8")
            .without("DISPLAY")
    }

    /// Where something on its disk C is for us.
    pub(crate) fn disk(&self, path: &str) -> PathBuf {
        self.prefix.join("drive_c").join(path)
    }

    /// Copies files to a directory on its disk C.
    pub(crate) fn put(&self, files: &[PathBuf], dir: &str) -> anyhow::Result<()> {
        let dir = self.disk(dir);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        for file in files {
            let to = dir.join(file.file_name().unwrap_or_default());
            // Whoever runs the old one keeps it.
            if to.exists() {
                fs::remove_file(&to)?;
            }
            fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
        }
        Ok(())
    }

    /// A directory of ours at this place on its disk C.
    pub(crate) fn link(&self, place: &str, to: &Path) -> anyhow::Result<()> {
        let place = self.disk(place);
        files::make_room(&place)
            .and_then(|()| symlink(to, &place))
            .with_context(|| format!("cannot link {}", place.display()))
    }

    /// Its service's state, as `sc query` has it.
    pub(crate) fn service(&self, name: &str) -> anyhow::Result<String> {
        let said = self.program("sc").args(["query", name]).read_quietly()?;
        let state =
            said.lines().find_map(|line| line.trim().strip_prefix("STATE")?.split_whitespace().nth(2));
        Ok(state.unwrap_or_default().to_owned())
    }

    /// Waits until its service is so.
    pub(crate) fn until_service(&self, name: &str, state: &str) -> anyhow::Result<()> {
        wait_for(&format!("{name} on {} to be {state}", self.name), SOON, || {
            Ok((self.service(name)? == state).then_some(()))
        })
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        let _ = self.cut_power();
    }
}

/// How Windows calls a file of ours.
pub(crate) fn path(path: &Path) -> String {
    format!("Z:{}", path.display().to_string().replace('/', "\\"))
}
