//! Finding the lab's programs from a test, and building them where they are missing or older than their source.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use super::{Doing as _, LabError, run};

const PROGRAMS: [&str; 3] = ["umsadmin-cli", "umsid-lab-server", "umsid-lab"];

/// The directory with the lab's programs: that of the running program or test, where cargo puts them.
///
/// # Errors
///
/// When they are not there and cannot be built.
pub fn binaries() -> Result<PathBuf, LabError> {
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(directory) = &*found {
        return Ok(directory.clone());
    }
    let program = std::env::current_exe().doing("find the running program")?;
    let directory = program
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps") && !directory.ends_with("examples"))
        .unwrap_or(Path::new("/"))
        .to_owned();
    if !is_current(&directory) {
        build(&directory)?;
    }
    *found = Some(directory.clone());
    Ok(directory)
}

fn is_current(directory: &Path) -> bool {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let changed = newest(&source.join("src")).ok();
    PROGRAMS.iter().all(|program| {
        let file = directory.join(format!("{program}{}", std::env::consts::EXE_SUFFIX));
        let built = fs::metadata(file).and_then(|found| found.modified()).ok();
        built.is_some_and(|built| changed.is_none_or(|changed| changed <= built))
    })
}

/// When the youngest file below a directory was changed.
fn newest(directory: &Path) -> io::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let time = if entry.file_type()?.is_dir() {
            newest_or_epoch(&entry.path())
        } else {
            entry.metadata()?.modified()?
        };
        newest = newest.max(time);
    }
    Ok(newest)
}

fn newest_or_epoch(directory: &Path) -> SystemTime {
    newest(directory).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn build(directory: &Path) -> Result<(), LabError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    };
    let mut arguments: Vec<OsString> =
        ["build", "--quiet", "--package", "umsid-lab", "--bins"].map(Into::into).into();
    arguments.extend(["--profile".into(), profile.into()]);
    arguments.extend([
        "--manifest-path".into(),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").into_os_string(),
    ]);
    if let Some(target) = directory.parent() {
        arguments.extend(["--target-dir".into(), target.as_os_str().to_owned()]);
    }
    run(Path::new(&cargo), &arguments).map(drop)
}
