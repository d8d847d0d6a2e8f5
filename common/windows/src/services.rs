//! What the service manager tells of services.

use std::io;
use std::ptr::null_mut;

use windows_service::service::Service;
use windows_sys::Win32::Foundation::ERROR_MORE_DATA;
use windows_sys::Win32::System::Services::{ENUM_SERVICE_STATUSW, EnumDependentServicesW, SERVICE_STATE_ALL};

use crate::text::narrow;

/// More than this is no list of services, in bytes: what the call gives at most.
const LARGEST: u32 = 256 << 10;

/// The services that need this one, running or not, in the order in which they can be stopped: none before one that needs it.
///
/// # Errors
/// If the service was not opened for asking that.
pub fn dependents(service: &Service) -> io::Result<Vec<String>> {
    let service = service.raw_handle();
    let mut room: Vec<u64> = Vec::new();
    loop {
        let bytes = u32::try_from(room.len() * size_of::<u64>()).unwrap_or(LARGEST);
        let (mut needed, mut count) = (0, 0);
        // SAFETY: the handle is one, and the room as large as said and aligned for what comes there.
        let done = unsafe {
            EnumDependentServicesW(
                service,
                SERVICE_STATE_ALL,
                if bytes == 0 { null_mut() } else { room.as_mut_ptr().cast::<ENUM_SERVICE_STATUSW>() },
                bytes,
                &mut needed,
                &mut count,
            )
        };
        if done != 0 {
            let first = room.as_ptr().cast::<ENUM_SERVICE_STATUSW>();
            let count = if bytes == 0 { 0 } else { count };
            return Ok((0..count as usize)
                .map(|index| {
                    // SAFETY: so many are there.
                    let entry = unsafe { first.add(index) };
                    // SAFETY: as above.
                    let name = unsafe { (*entry).lpServiceName };
                    // SAFETY: a text in the same room.
                    unsafe { narrow(name) }
                })
                .collect());
        }
        let error = io::Error::last_os_error();
        let more = error.raw_os_error() == i32::try_from(ERROR_MORE_DATA).ok();
        if !more || needed <= bytes || needed > LARGEST {
            return Err(error);
        }
        room.resize((needed as usize).div_ceil(size_of::<u64>()), 0);
    }
}
