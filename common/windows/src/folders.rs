//! Directories that the system knows.

use std::io;
use std::path::PathBuf;
use std::ptr::null_mut;

use windows_sys::Win32::System::Com::CoTaskMemFree;
use windows_sys::Win32::UI::Shell::{FOLDERID_ProgramData, SHGetKnownFolderPath};

use crate::text::narrow;

/// Where services have their files: `C:\ProgramData`. Asked of the system, for in the environment there may be anything.
///
/// # Errors
/// If the system does not tell.
pub fn program_data() -> io::Result<PathBuf> {
    let mut path = null_mut();
    // SAFETY: there is room for the answer, which is freed below.
    let result = unsafe { SHGetKnownFolderPath(&FOLDERID_ProgramData, 0, null_mut(), &mut path) };
    // SAFETY: null, or a text the call has put there.
    let text = unsafe { narrow(path) };
    // SAFETY: as above, and it is used no more.
    unsafe { CoTaskMemFree(path.cast()) };
    if result != 0 || text.is_empty() {
        return Err(io::Error::other(format!(
            "the system does not know where program data is ({result:#x})"
        )));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_knows_where_program_data_is() {
        let found = program_data().unwrap();
        assert!(found.is_absolute() && found.ends_with("ProgramData"), "{}", found.display());
    }
}
