//! The event log of this system.

use std::io;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::EventLog::{
    DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE,
    RegisterEventSourceW, ReportEventW,
};

use crate::text::wide;

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    /// Something to know.
    Information,
    /// Something to look at.
    Warning,
    /// Something went wrong.
    Error,
}

/// More than this of a text is cut off, in UTF-16 units: the log takes no more of one string.
const LONGEST: usize = 31_000;

/// From whom events come.
#[derive(Debug)]
pub struct Source(HANDLE);

// SAFETY: the handle is one of the system's, not of a thread.
unsafe impl Send for Source {}
// SAFETY: the one call with it may be made by several threads at once.
unsafe impl Sync for Source {}

impl Source {
    /// A source of this name. How its events are shown is what the registry says of the name.
    ///
    /// # Errors
    /// If there is no event log.
    pub fn open(name: &str) -> io::Result<Self> {
        let name = wide(name)?;
        // SAFETY: the name ends in a zero; the handle is given back when this is dropped.
        let handle = unsafe { RegisterEventSourceW(null(), name.as_ptr()) };
        if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Self(handle)) }
    }

    /// Adds an event with this number and text.
    ///
    /// # Errors
    /// If the log does not take it, as when it is full.
    pub fn report(&self, gravity: Gravity, id: u32, text: &str) -> io::Result<()> {
        let kind = match gravity {
            Gravity::Information => EVENTLOG_INFORMATION_TYPE,
            Gravity::Warning => EVENTLOG_WARNING_TYPE,
            Gravity::Error => EVENTLOG_ERROR_TYPE,
        };
        let mut text = wide(text.replace('\0', " "))?;
        if text.len() > LONGEST {
            text.truncate(LONGEST);
            text.push(0);
        }
        let texts = [text.as_ptr()];
        // SAFETY: there is one text, it ends in a zero, and there is no other data.
        let done = unsafe { ReportEventW(self.0, kind, 0, id, null_mut(), 1, 0, texts.as_ptr(), null()) };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        // SAFETY: a handle of ours that is used no more.
        unsafe { DeregisterEventSource(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_takes_what_is_too_long_and_what_has_zeros() {
        let source = Source::open("umsid-windows test").unwrap();
        source.report(Gravity::Warning, 1, "a warning\0with a zero").unwrap();
        source.report(Gravity::Error, 2, &"x".repeat(100_000)).unwrap();
    }
}
