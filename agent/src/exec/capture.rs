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

/// UTF-8, with replacement characters for what is not: on Windows a console program may use another code page, and then
/// words with umlauts are lost, digits and fingerprints are not.
fn decode(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
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
