//! A small disk of its own, in place of a directory: it can be filled, and room can be made on it again.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A small file system, there until it is dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Why none can be had here.
    pub(crate) fn missing() -> Option<String> {
        static MISSING: OnceLock<Option<String>> = OnceLock::new();
        let try_one = || {
            let scratch = umsid_testkit::scratch();
            let said = mount(scratch.path(), 1).err();
            drop(Self(scratch.path().to_owned()));
            said.map(|why| format!("needs root and file systems of its own: {why}"))
        };
        MISSING.get_or_init(try_one).clone()
    }

    /// In place of a directory nobody works in, with what was in it.
    pub(crate) fn over(directory: &Path, mebibytes: u32) -> Self {
        let aside = directory.with_extension("aside");
        copy(directory, &aside);
        mount(directory, mebibytes).unwrap();
        copy(&aside, directory);
        fs::remove_dir_all(aside).unwrap();
        Self(directory.to_owned())
    }

    /// Until there is no room for a byte more.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        for block in [1 << 20, 4096, 1] {
            let block = vec![0; block];
            let error = std::iter::repeat_with(|| file.write_all(&block)).find_map(Result::err).unwrap();
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        }
    }

    /// Until so much is left.
    pub(crate) fn leave(&self, mebibytes: u64) {
        self.fill();
        let file = fs::OpenOptions::new().write(true).open(self.filler()).unwrap();
        file.set_len(file.metadata().unwrap().len() - (mebibytes << 20)).unwrap();
    }

    pub(crate) fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// The bytes in its files, the filler's aside.
    pub(crate) fn used(&self) -> u64 {
        fn of(dir: &Path, filler: &Path) -> u64 {
            let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
            let sizes = entries.filter(|entry| entry.path() != filler).map(|entry| {
                let found = entry.metadata().unwrap();
                if found.is_dir() { of(&entry.path(), filler) } else { found.len() }
            });
            sizes.sum()
        }
        of(&self.0, &self.filler())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: somebody may still be at work there.
        run("umount", &["--lazy", self.0.to_str().unwrap()]).ok();
    }
}

fn mount(directory: &Path, mebibytes: u32) -> Result<(), String> {
    let options = format!("size={mebibytes}m,mode=0700");
    run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", directory.to_str().unwrap()])
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output =
        assert_cmd::Command::new(program).args(arguments).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
