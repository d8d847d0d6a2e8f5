//! Where a program's output goes: an anonymous file, not a pipe. A grandchild that holds it keeps nobody waiting, and a
//! program that outlives the agent is not killed by a broken pipe.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::process::Stdio;

pub(super) struct Capture(File);

impl Capture {
    pub(super) fn new() -> io::Result<Self> {
        anonymous().map(Self)
    }

    /// For the child.
    pub(super) fn handle(&self) -> io::Result<Stdio> {
        self.0.try_clone().map(Stdio::from)
    }

    /// In bytes, so far.
    pub(super) fn length(&self) -> u64 {
        self.0.metadata().map_or(0, |found| found.len())
    }

    /// What is in it, at most `keep` bytes: the beginning and the end. Nobody can write to it any more.
    pub(super) fn close(mut self, keep: usize) -> String {
        let text = self.read(keep).unwrap_or_else(|error| format!("[the output could not be read: {error}]"));
        seal(&self.0);
        text
    }

    fn read(&mut self, keep: usize) -> io::Result<String> {
        let length = self.length();
        self.0.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        if length <= keep as u64 {
            Read::by_ref(&mut self.0).take(keep as u64).read_to_end(&mut bytes)?;
            return Ok(decode(&bytes));
        }
        let half = keep as u64 / 2;
        Read::by_ref(&mut self.0).take(half).read_to_end(&mut bytes)?;
        let mut text = decode(&bytes);
        text.push_str(&format!("\n[… {} bytes left out …]\n", length - 2 * half));
        bytes.clear();
        self.0.seek(SeekFrom::Start(length - half))?;
        Read::by_ref(&mut self.0).take(half).read_to_end(&mut bytes)?;
        text.push_str(&decode(&bytes));
        Ok(text)
    }
}

/// UTF-8; what is none, on Windows, as it reads best in the system's code pages, else with replacement characters. Digits and
/// fingerprints are the same in all of them.
fn decode(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        // The end may be in the middle of a character: what is before it is UTF-8 all the same.
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        Err(_) => other(bytes),
    }
}

#[cfg(not(windows))]
fn other(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(windows)]
fn other(bytes: &[u8]) -> String {
    use umsid_windows::code_page;
    let ways = [code_page::ansi(bytes), code_page::oem(bytes)];
    let read = ways.into_iter().filter_map(Result::ok);
    best(read).unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned())
}

/// Of the ways to read a text the one that makes words of it: fewest characters that stand in none. The first of equals.
#[cfg(any(windows, test))]
fn best(ways: impl Iterator<Item = String>) -> Option<String> {
    let odd = |text: &String| {
        text.chars().filter(|c| !c.is_ascii() && !c.is_alphabetic() && !"€§°«»©®".contains(*c)).count()
    };
    ways.min_by_key(odd)
}

/// In memory where the kernel can (Linux 3.17), so that a full disk takes no output away; else a file without a name.
#[cfg(target_os = "linux")]
fn anonymous() -> io::Result<File> {
    use rustix::fs::MemfdFlags;
    match rustix::fs::memfd_create("output", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING) {
        Ok(descriptor) => Ok(File::from(descriptor)),
        Err(_) => tempfile::tempfile(),
    }
}

#[cfg(not(target_os = "linux"))]
fn anonymous() -> io::Result<File> {
    tempfile::tempfile()
}

/// Gives the room back, and keeps a process that lives on, as a service that was started, from filling it again.
fn seal(file: &File) {
    // Either may fail, on a file that cannot be sealed or while it is mapped: then the room is free when that process ends.
    let _ = file.set_len(0);
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::SealFlags;
        let _ = rustix::fs::fcntl_add_seals(file, SealFlags::GROW | SealFlags::WRITE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_ways_to_read_a_text_the_one_with_words_is_taken() {
        // "ungültig" in code page 850, read as 1252 and as 850; and the other way round.
        let of = |ways: [&str; 2]| best(ways.into_iter().map(str::to_owned)).unwrap();
        assert_eq!(of(["ung\u{81}ltig", "ungültig"]), "ungültig");
        assert_eq!(of(["ungültig", "ung³ltig"]), "ungültig");
        assert_eq!(of(["Größe", "Gr÷ße"]), "Größe");
        assert_eq!(of(["Gr”áe", "Größe"]), "Größe");
        assert_eq!(of(["same", "same"]), "same");
    }

    #[test]
    fn utf8_that_was_cut_off_stays_utf8() {
        assert_eq!(decode("größe".as_bytes()), "größe");
        assert_eq!(decode(&"größ".as_bytes()[..5]), "grö\u{fffd}");
        assert_eq!(decode(b""), "");
    }
}
