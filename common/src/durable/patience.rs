//! Files that another program holds for a moment.

use std::io;

/// Does it again for a while where another program, as a virus scanner, has the file open for a moment.
#[cfg(windows)]
pub(super) fn patiently<T>(what: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    use backon::{BlockingRetryable as _, ExponentialBuilder};
    use std::time::Duration;
    // ERROR_ACCESS_DENIED, also what a file has that is about to go; ERROR_SHARING_VIOLATION; ERROR_LOCK_VIOLATION;
    // ERROR_USER_MAPPED_FILE.
    const HELD: [i32; 4] = [5, 32, 33, 1224];
    // About three seconds in all: what is denied for good is told after that time too.
    let waits = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(5))
        .with_max_delay(Duration::from_millis(250))
        .with_max_times(18);
    let is_held = |error: &io::Error| error.raw_os_error().is_some_and(|code| HELD.contains(&code));
    what.retry(waits).when(is_held).call()
}

/// Nobody holds a file.
#[cfg(not(windows))]
pub(super) fn patiently<T>(mut what: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    what()
}
