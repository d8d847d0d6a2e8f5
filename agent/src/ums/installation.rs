//! What is installed on this host, and how that was found out (UMS_FACTS §3, §4). Reads files, runs nothing.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::config::{CommandLine, Config};
use crate::exec;

/// Something found on this host, or not, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// What, if anything.
    pub value: Option<T>,
    /// Where it was found, or where it was looked for in vain.
    pub how: String,
}

impl<T> Found<T> {
    fn at(value: T, how: impl Into<String>) -> Self {
        Self { value: Some(value), how: how.into() }
    }

    fn not(how: impl Into<String>) -> Self {
        Self { value: None, how: how.into() }
    }
}

impl<T: fmt::Display> fmt::Display for Found<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{value} ({})", self.how),
            None => write!(f, "not found ({})", self.how),
        }
    }
}

/// The UMS as its files show it.
#[derive(Clone, Debug)]
pub struct Installation {
    /// How `umsadmin-cli` is run.
    pub umsadmin_cli: Found<CommandLine>,
    /// Where the UMS is installed.
    pub install_dir: Found<PathBuf>,
    /// As `12.09.110`.
    pub version: Found<String>,
    /// Whether it is a Distributed UMS.
    pub distributed: Found<bool>,
}

const INSTALL_DIRS: &[&str] = if cfg!(windows) {
    &[r"C:\Program Files\IGEL\RemoteManager", r"C:\Program Files (x86)\IGEL\RemoteManager"]
} else {
    &["/opt/IGEL/RemoteManager"]
};

const PROGRAM_NAMES: &[&str] = if cfg!(windows) {
    &["umsadmin-cli.exe", "umsadmin-cli.bat", "umsadmin-cli.cmd"]
} else {
    &["umsadmin-cli", "umsadmin-cli.sh", "umsadmin-cli.bin"]
};

/// The port of the web server unless changed (UMS_FACTS §4).
pub const WEB_PORT: u16 = 8443;

/// A file with settings is small; more than this of one is not read, in bytes.
const LARGEST_SETTINGS: u64 = 256 << 10;

impl Installation {
    /// Looks now: an update of the UMS changes what is found.
    pub fn find(config: &Config) -> Self {
        let install_dir = install_dir(config);
        let dir = install_dir.value.as_deref();
        Self {
            umsadmin_cli: umsadmin_cli(config, dir),
            version: version(config, dir),
            distributed: distributed(config, dir),
            install_dir,
        }
    }

    /// Directory of the UMS Server's logs.
    pub fn logs(&self) -> Option<PathBuf> {
        self.install_dir.value.as_ref().map(|dir| dir.join("rmguiserver").join("logs"))
    }

    /// Directory of the UMS Server's settings and keys.
    pub fn settings(&self) -> Option<PathBuf> {
        self.install_dir.value.as_ref().map(|dir| dir.join("rmguiserver").join("conf"))
    }
}

fn install_dir(config: &Config) -> Found<PathBuf> {
    if let Some(dir) = &config.ums.install_dir {
        return match dir.is_dir() {
            true => Found::at(dir.clone(), "configured"),
            false => Found::not(format!("configured as {}, which is no directory", dir.display())),
        };
    }
    for dir in INSTALL_DIRS.iter().map(Path::new) {
        if dir.is_dir() {
            return Found::at(dir.to_owned(), "the usual place");
        }
    }
    // The program on the PATH is a link into the installation, or lies in its rmadmin.
    let program =
        PROGRAM_NAMES.iter().find_map(|name| exec::locate(name)).and_then(|path| fs::canonicalize(path).ok());
    let beside = program
        .as_deref()
        .and_then(Path::parent)
        .filter(|dir| dir.ends_with("rmadmin"))
        .and_then(Path::parent);
    match beside {
        Some(dir) => Found::at(dir.to_owned(), "from where umsadmin-cli is"),
        None => Found::not(format!("looked in {}", INSTALL_DIRS.join(", "))),
    }
}

fn umsadmin_cli(config: &Config, install_dir: Option<&Path>) -> Found<CommandLine> {
    if let Some(command) = &config.ums.umsadmin_cli {
        let (program, _) = command.parts();
        return match exec::locate(program) {
            Some(_) => Found::at(command.clone(), "configured"),
            None => Found::not(format!("configured as {command}, but there is no {program}")),
        };
    }
    if let Some(path) = PROGRAM_NAMES.iter().find_map(|name| exec::locate(name)) {
        return Found::at(CommandLine::program(&path), "on the PATH");
    }
    let beside = install_dir.map(|dir| dir.join("rmadmin"));
    let inside = beside
        .as_ref()
        .and_then(|dir| PROGRAM_NAMES.iter().map(|name| dir.join(name)).find(|path| path.is_file()));
    match (inside, beside) {
        (Some(path), _) => Found::at(CommandLine::program(&path), "in the install directory"),
        (None, Some(dir)) => Found::not(format!("looked on the PATH and in {}", dir.display())),
        (None, None) => Found::not("looked on the PATH"),
    }
}

fn version(config: &Config, install_dir: Option<&Path>) -> Found<String> {
    if let Some(version) = &config.ums.version {
        return Found::at(version.clone(), "configured");
    }
    let Some(dir) = install_dir else { return Found::not("no install directory") };
    let file = dir.join("umsversion.properties");
    let properties = match properties(&file) {
        Ok(properties) => properties,
        Err(error) => return Found::not(format!("{}: {error}", file.display())),
    };
    // Its keys are not documented: any value that looks like a version does, one whose key says so first.
    let mut versions: Vec<_> =
        properties.iter().filter_map(|(key, value)| Some((key, version_in(value)?))).collect();
    versions.sort_by_key(|(key, _)| !key.to_lowercase().contains("version"));
    match versions.into_iter().next() {
        Some((key, version)) => Found::at(version, format!("`{key}` in {}", file.display())),
        None => Found::not(format!("nothing in {} looks like 12.09.110", file.display())),
    }
}

fn distributed(config: &Config, install_dir: Option<&Path>) -> Found<bool> {
    const KEY: &str = "configsettings.HA_DISTRIBUTED_MODE";
    if let Some(distributed) = config.ums.distributed {
        return Found::at(distributed, "configured");
    }
    let Some(dir) = install_dir else { return Found::not("no install directory") };
    let file = dir.join("rmguiserver").join("conf").join("dbsetup_options.properties");
    let properties = match properties(&file) {
        Ok(properties) => properties,
        Err(error) => return Found::not(format!("{}: {error}", file.display())),
    };
    let value = properties.iter().find(|(key, _)| key == KEY).map(|(_, value)| value.to_lowercase());
    match value.as_deref() {
        Some("true") => Found::at(true, format!("`{KEY}` in {}", file.display())),
        Some("false") => Found::at(false, format!("`{KEY}` in {}", file.display())),
        Some(other) => Found::not(format!("`{KEY}` in {} is `{other}`", file.display())),
        None => Found::not(format!("{} has no `{KEY}`", file.display())),
    }
}

/// Keys and values of a Java properties file.
fn properties(file: &Path) -> std::io::Result<Vec<(String, String)>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(LARGEST_SETTINGS).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let pair = |line: &str| {
        let line = line.trim();
        let (key, value) = line.split_once(['=', ':'])?;
        (!line.starts_with(['#', '!'])).then(|| (key.trim().to_owned(), value.trim().to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// The first UMS version in a text: three groups of digits, as `12.09.110` or `6.10.130`, and no fourth.
pub fn version_in(text: &str) -> Option<String> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.')).map(|word| word.trim_matches('.')).find_map(
        |word| {
            let groups: Vec<&str> = word.split('.').collect();
            let digits = |group: &&str, most| (1..=most).contains(&group.len());
            let [major, minor, patch] = groups.as_slice() else { return None };
            (digits(major, 2) && digits(minor, 2) && digits(patch, 3) && patch.len() >= 2)
                .then(|| word.to_owned())
        },
    )
}

/// The web server's port in what `ports list` says: the only port in a line that speaks of the web server and not of
/// one without SSL. No sample of it is public.
pub fn web_port_in(text: &str) -> Option<u16> {
    let is_web = |line: &&str| {
        let line = line.to_lowercase();
        line.contains("web")
            && !["non-ssl", "non ssl", "without ssl", "http "].iter().any(|other| line.contains(other))
    };
    let port_of = |line: &str| {
        let mut numbers = line
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|word| word.parse::<u16>().ok())
            .filter(|&port| port > 0);
        numbers.next().filter(|_| numbers.next().is_none())
    };
    let mut ports = text.lines().filter(is_web).filter_map(port_of);
    ports.next().filter(|first| ports.all(|other| other == *first))
}

/// Whether a version is `since` or later; `None` where it is not understood.
pub fn at_least(version: &str, since: &str) -> Option<bool> {
    let numbers =
        |text: &str| -> Option<Vec<u32>> { text.split('.').map(|group| group.parse().ok()).collect() };
    Some(numbers(version)? >= numbers(since)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        /// Files the UMS wrote, or somebody in its name: not of a known encoding, and of any size.
        #[test]
        fn no_bytes_break_a_properties_file(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = umsid_testkit::scratch();
            let file = dir.path().join("x.properties");
            umsid_common::durable::replace(&file, &bytes, umsid_common::durable::Access::Private).unwrap();
            for (key, _) in properties(&file).unwrap() {
                prop_assert!(!key.contains(['=', ':', '\n']), "{}", key);
            }
        }
    }
}
