//! For tests only: a throwaway certificate authority, scratch directories, waiting for a condition.

mod authority;
mod wait;

pub use authority::{Ca, Issued, Wanted};
pub use wait::{wait_for, wait_for_blocking};

/// An empty directory of mode 0700, removed when dropped.
pub fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("umsid-").tempdir().expect("a temporary directory")
}
