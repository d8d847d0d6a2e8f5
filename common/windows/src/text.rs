//! Texts as Windows wants and gives them: UTF-16 with a zero at the end.

use std::ffi::OsStr;
use std::io;
use std::os::windows::ffi::OsStrExt as _;

/// For a call that takes one.
///
/// # Errors
/// If there is a zero in the middle, where Windows would see the end.
pub(crate) fn wide(text: impl AsRef<OsStr>) -> io::Result<Vec<u16>> {
    let mut wide: Vec<u16> = text.as_ref().encode_wide().collect();
    if wide.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is a zero in the text"));
    }
    wide.push(0);
    Ok(wide)
}

/// Of a call that gave one.
///
/// # Safety
/// `text` is null, or points to UTF-16 with a zero at its end.
pub(crate) unsafe fn narrow(text: *const u16) -> String {
    if text.is_null() {
        return String::new();
    }
    let mut length = 0;
    // SAFETY: the zero has not been passed yet.
    while unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: so many are there, as was just seen.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, length) })
}
