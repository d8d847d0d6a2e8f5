//! Room on disks.

use std::io;
use std::path::Path;
use std::ptr::null_mut;

use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;

use crate::text::wide;

/// Bytes on the disk this directory is on, as far as whoever asks may use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Free.
    pub free: u64,
    /// In all.
    pub total: u64,
}

/// The room on the disk this directory is on.
///
/// # Errors
/// If there is no such directory.
pub fn room(dir: &Path) -> io::Result<Room> {
    let dir = wide(dir)?;
    let (mut free, mut total) = (0, 0);
    // SAFETY: the path ends in a zero, and there is room for both answers.
    let done = unsafe { GetDiskFreeSpaceExW(dir.as_ptr(), &mut free, &mut total, null_mut()) };
    if done == 0 { Err(io::Error::last_os_error()) } else { Ok(Room { free, total }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_where_a_directory_is() {
        let here = room(&std::env::temp_dir()).unwrap();
        assert!(here.free > 0 && here.total >= here.free, "{here:?}");
        assert!(room(Path::new(r"C:\there is no such directory")).is_err());
    }
}
