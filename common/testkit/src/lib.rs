//! For tests only: a throwaway certificate authority, a server of PostgreSQL, scratch directories, waiting for a condition.

mod authority;
mod port;
#[cfg(unix)]
mod postgres;
mod wait;

pub use authority::{Ca, Issued, Wanted};
pub use port::free_port;
#[cfg(unix)]
pub use postgres::PostgresServer;
pub use wait::{wait_for, wait_for_blocking};

/// An empty directory that nobody else may open, removed when dropped.
pub fn scratch() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("umsid-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    let made = builder.tempdir().expect("a temporary directory");
    // Below a private one it would be so by itself; Wine inherits nothing.
    #[cfg(windows)]
    std::fs::remove_dir(made.path())
        .and_then(|()| umsid_windows::acl::create_private_dir(made.path()))
        .expect("a private directory");
    made
}
