//! Text in the code pages of this system: console programs print in the OEM one, others, as Java's, in the ANSI one.

use std::io;
use std::ptr::null_mut;

use windows_sys::Win32::Globalization::{CP_ACP, CP_OEMCP, MultiByteToWideChar};

/// As if it were of the console: 850 in much of Europe, 437 in America.
///
/// # Errors
/// If the code page knows no such text.
pub fn oem(bytes: &[u8]) -> io::Result<String> {
    decode(CP_OEMCP, bytes)
}

/// As if it were of a window: 1252 in the west.
///
/// # Errors
/// If the code page knows no such text.
pub fn ansi(bytes: &[u8]) -> io::Result<String> {
    decode(CP_ACP, bytes)
}

/// As if it were of this code page.
///
/// # Errors
/// If the code page is not there, or knows no such text.
pub fn decode(page: u32, bytes: &[u8]) -> io::Result<String> {
    if bytes.is_empty() {
        return Ok(String::new());
    }
    let too_long = |_| io::Error::new(io::ErrorKind::InvalidInput, "the text is too long");
    let length = i32::try_from(bytes.len()).map_err(too_long)?;
    // SAFETY: as many bytes as said are there; nothing is written.
    let needed = unsafe { MultiByteToWideChar(page, 0, bytes.as_ptr(), length, null_mut(), 0) };
    let mut text = vec![0; usize::try_from(needed).unwrap_or_default()];
    // SAFETY: as many bytes as said are there, and as much room.
    let got = unsafe { MultiByteToWideChar(page, 0, bytes.as_ptr(), length, text.as_mut_ptr(), needed) };
    if got <= 0 {
        return Err(io::Error::last_os_error());
    }
    text.truncate(usize::try_from(got).unwrap_or_default());
    Ok(String::from_utf16_lossy(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_where_their_code_page_has_them() {
        assert_eq!(decode(850, b"ung\x81ltig").unwrap(), "ungültig");
        assert_eq!(decode(1252, b"ung\xfcltig").unwrap(), "ungültig");
        assert_eq!(decode(1252, b"").unwrap(), "");
        assert!(decode(4242, b"x").is_err());
        assert_eq!(
            (oem(b"plain").unwrap(), ansi(b"plain").unwrap()),
            ("plain".to_owned(), "plain".to_owned())
        );
    }
}
