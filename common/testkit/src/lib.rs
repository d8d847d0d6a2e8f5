//! For tests only: a throwaway certificate authority, scratch directories, waiting for a condition.

mod authority;
mod wait;

pub use authority::{Ca, Issued, Wanted};
pub use wait::{wait_for, wait_for_blocking};

/// An empty directory of mode 0700, removed when dropped.
pub fn scratch() -> tempfile::TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("umsid-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    builder.tempdir().expect("a temporary directory")
}
