//! Where things are: the lab's directory, and within it one directory per server that looks like the root of its disk.

use std::path::{Path, PathBuf};

/// The environment variable by which a server's programs know whose they are.
pub const SERVER_VARIABLE: &str = "UMSID_LAB_SERVER";

/// The programs linked into a lab's `bin` directory, without the extension Windows wants.
pub(crate) const PROGRAMS: [&str; 2] = ["umsadmin-cli", "umsid-lab-server"];

/// The directory of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LabDir(PathBuf);

impl LabDir {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What `up` was asked for and what it made: written once.
    pub(crate) fn description(&self) -> PathBuf {
        self.0.join("lab.json")
    }

    /// The programs of this lab, linked here: a rebuild elsewhere does not change a lab that runs, and a process is
    /// known to be ours by where its program is.
    pub(crate) fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.0.join("database").join("ums.json")
    }

    pub(crate) fn database_lock(&self) -> PathBuf {
        self.0.join("database").join("lock")
    }

    pub(crate) fn server(&self, name: &str) -> ServerDir {
        ServerDir(self.0.join("servers").join(name))
    }
}

/// The directory of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerDir(PathBuf);

impl ServerDir {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The server's name: that of its directory.
    pub(crate) fn name(&self) -> String {
        self.0.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(crate) fn lab(&self) -> LabDir {
        LabDir(self.0.parent().and_then(Path::parent).unwrap_or(Path::new("/")).to_owned())
    }

    pub(crate) fn install(&self) -> PathBuf {
        self.0.join("opt/IGEL/RemoteManager")
    }

    pub(crate) fn version_file(&self) -> PathBuf {
        self.install().join("umsversion.properties")
    }

    pub(crate) fn umsadmin_cli(&self) -> PathBuf {
        self.0.join("bin/umsadmin-cli")
    }

    /// The same for Windows.
    #[cfg(windows)]
    pub(crate) fn umsadmin_cli_batch(&self) -> PathBuf {
        self.0.join("bin").join("umsadmin-cli.bat")
    }

    /// The name of the Windows service that its UMS Server is.
    #[cfg(windows)]
    pub(crate) fn service_name(&self) -> PathBuf {
        self.books().join("service")
    }

    /// When a service that needs its UMS Server started and stopped.
    #[cfg(windows)]
    pub(crate) fn bystander(&self) -> PathBuf {
        self.books().join("bystander.log")
    }

    pub(crate) fn init_script(&self) -> PathBuf {
        self.0.join("etc/init.d/igelRMserver")
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.0.join("var/run/igelRMserver.pid")
    }

    /// Certificate and key of the server's own UMS ID, in one file so that they change together.
    pub(crate) fn ums_id(&self) -> PathBuf {
        self.install().join("rmguiserver/conf/ums-id.pem")
    }

    pub(crate) fn web_certificate(&self) -> PathBuf {
        self.install().join("rmguiserver/conf/web-certificate.pem")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.install().join("rmguiserver/logs")
    }

    /// What no real server has: the lab's own books on this server.
    fn books(&self) -> PathBuf {
        self.0.join("lab")
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.books().join("settings.toml")
    }

    pub(crate) fn settings_lock(&self) -> PathBuf {
        self.books().join("settings.lock")
    }

    pub(crate) fn calls(&self) -> PathBuf {
        self.books().join("calls.log")
    }

    pub(crate) fn lifecycle(&self) -> PathBuf {
        self.books().join("lifecycle.log")
    }

    /// The UMS ID the running process read at its start.
    pub(crate) fn running_id(&self) -> PathBuf {
        self.books().join("running-id.pem")
    }

    /// The UMS ID which the last restore or creation replaced.
    pub(crate) fn former_id(&self) -> PathBuf {
        self.books().join("former-id.pem")
    }

    pub(crate) fn service_lock(&self) -> PathBuf {
        self.books().join("service.lock")
    }

    pub(crate) fn cli_lock(&self) -> PathBuf {
        self.books().join("cli.lock")
    }
}
