//! What is inside the encryption: a tar of exactly three files in a fixed order, the last of them signed.
//!
//! Written so that every `tar` reads it; read by hand, because a general tar reader accepts links, long names, sparse
//! files and trailing bytes that must not be here.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use data_encoding::BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Manifest, SealError, Trust};
use crate::digest::{Digest, Digester};
use crate::name::Identity;
use crate::tls::Credentials;

pub(super) const BACKUP: &str = "ums-id.ksbak";
pub(super) const PASSWORD: &str = "password.txt";
pub(super) const MANIFEST: &str = "manifest.json";

/// Tar counts in these.
const BLOCK: usize = 512;

/// Writes the tar.
pub(super) struct Packed<W> {
    out: W,
    mtime: u64,
}

/// Which end of a copy failed.
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

impl<W: Write> Packed<W> {
    pub(super) fn new(out: W, taken: Timestamp) -> Self {
        Self { out, mtime: u64::try_from(taken.as_second()).unwrap_or_default() }
    }

    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        match self.add_file(name, content, content.len() as u64) {
            Ok(_) => Ok(()),
            Err(CopyError::Read(error) | CopyError::Write(error)) => Err(error),
        }
    }

    /// Adds exactly `size` bytes; their digest.
    pub(super) fn add_file(
        &mut self,
        name: &str,
        mut from: impl Read,
        size: u64,
    ) -> Result<Digest, CopyError> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).map_err(CopyError::Write)?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o600);
        header.set_mtime(self.mtime);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes()).map_err(CopyError::Write)?;

        let digest =
            copy(&mut from, size, |bytes| self.out.write_all(bytes), CopyError::Read, CopyError::Write)?;
        // A file that changes while it is read is no backup.
        match from.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => return Err(CopyError::Read(io::Error::other("it grew while it was being read"))),
            Err(error) => return Err(CopyError::Read(error)),
        }
        self.out.write_all(&[0; BLOCK][..padding(size)]).map_err(CopyError::Write)?;
        Ok(digest)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }
}

/// Bytes from the end of the content to the next block.
fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

/// Copies exactly `size` bytes and hashes them.
fn copy<E>(
    from: &mut impl Read,
    size: u64,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
    unreadable: impl FnOnce(io::Error) -> E,
    unwritable: impl FnOnce(io::Error) -> E,
) -> Result<Digest, E> {
    let mut digester = Digester::default();
    let mut buffer = zeroize::Zeroizing::new(vec![0; 64 * 1024]);
    let mut left = size;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..wanted];
        if let Err(error) = from.read_exact(piece) {
            return Err(unreadable(error));
        }
        digester.update(piece);
        if let Err(error) = write(piece) {
            return Err(unwritable(error));
        }
        left -= wanted as u64;
    }
    Ok(digester.finish())
}

/// Gives no more bytes than are left, until that is lifted: age reads a header of any length.
pub(super) struct Capped<R> {
    from: BufReader<R>,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Capped<R> {
    /// The reader, and what is to be set to lift the cap.
    pub(super) fn new(from: R, left: u64) -> (Self, Rc<Cell<u64>>) {
        let left = Rc::new(Cell::new(left));
        (Self { from: BufReader::new(from), left: left.clone() }, left)
    }
}

impl<R: Read> BufRead for Capped<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let left = usize::try_from(self.left.get()).unwrap_or(usize::MAX);
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its header is too long"));
        }
        let buffer = self.from.fill_buf()?;
        Ok(&buffer[..buffer.len().min(left)])
    }

    fn consume(&mut self, length: usize) {
        self.from.consume(length);
        self.left.set(self.left.get().saturating_sub(length as u64));
    }

    /// The whole header, which ends with a line that begins with `---`, where its next line is asked for: with every line age
    /// (0.12) parses anew all it has read, which for fifty recipients would be half the work of opening a file.
    fn read_until(&mut self, delimiter: u8, into: &mut Vec<u8>) -> io::Result<usize> {
        let before = into.len();
        loop {
            let line = into.len();
            self.fill_buf()?;
            let read = (&mut self.from).take(self.left.get()).read_until(delimiter, into)?;
            self.left.set(self.left.get().saturating_sub(read as u64));
            let last = into[line..].starts_with(b"---") && into.ends_with(&[delimiter]);
            if last || read == 0 {
                return Ok(into.len() - before);
            }
        }
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

/// Reads the tar.
pub(super) struct Pieces<R> {
    from: R,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from }
    }

    /// The next file, which must have this name and no more than `limit` bytes.
    pub(super) fn take(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, SealError> {
        let size = self.header(name, limit)?;
        let mut content = vec![0; usize::try_from(size).map_err(|_| SealError::TooLarge(limit))?];
        self.read(&mut content)?;
        self.padding(size)?;
        Ok(content)
    }

    /// As [`Pieces::take`], into a file; digest and size.
    pub(super) fn extract(
        &mut self,
        name: &str,
        limit: u64,
        mut to: impl Write,
        directory: &Path,
    ) -> Result<(Digest, u64), SealError> {
        let size = self.header(name, limit)?;
        let cannot_write =
            |source| SealError::Io { doing: "cannot write into", path: directory.to_owned(), source };
        let digest = copy(&mut self.from, size, |bytes| to.write_all(bytes), unreadable, cannot_write)?;
        self.padding(size)?;
        Ok((digest, size))
    }

    /// Nothing may follow but the end.
    pub(super) fn finish(mut self) -> Result<(), SealError> {
        self.zeroes(2 * BLOCK)?;
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(SealError::Content("there is something after its end".into())),
            Err(error) => Err(unreadable(error)),
        }
    }

    fn header(&mut self, name: &str, limit: u64) -> Result<u64, SealError> {
        let mut block = [0; BLOCK];
        self.read(&mut block)?;
        let header = tar::Header::from_byte_slice(&block);
        if header.entry_type() != tar::EntryType::Regular || *header.path_bytes() != *name.as_bytes() {
            return Err(SealError::Content(format!("the file `{name}` is not where it should be")));
        }
        let size = header.entry_size().map_err(|error| SealError::Content(error.to_string()))?;
        if size > limit { Err(SealError::TooLarge(limit)) } else { Ok(size) }
    }

    fn padding(&mut self, size: u64) -> Result<(), SealError> {
        self.zeroes(padding(size))
    }

    fn zeroes(&mut self, count: usize) -> Result<(), SealError> {
        let mut block = [1; 2 * BLOCK];
        self.read(&mut block[..count])?;
        if block[..count].iter().all(|byte| *byte == 0) {
            Ok(())
        } else {
            Err(SealError::Content("there is something between its files".into()))
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), SealError> {
        self.from.read_exact(buffer).map_err(unreadable)
    }
}

/// age reports what was altered or cut short as invalid data or an early end; anything else is the medium's.
pub(super) fn unreadable(error: io::Error) -> SealError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            SealError::Closed(format!("it was altered or cut short: {error}"))
        }
        _ => SealError::Io { doing: "cannot read", path: PathBuf::from(super::SEALED), source: error },
    }
}

/// `manifest.json`: signed are the exact bytes of the manifest as they stand there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignedManifest {
    manifest: Box<RawValue>,
    /// Base64 of DER, leaf first.
    certificates: Vec<String>,
    /// Base64.
    signature: String,
}

impl SignedManifest {
    pub(super) fn sign(manifest: &Manifest, signer: &Credentials) -> Result<Self, SealError> {
        let manifest = serde_json::value::to_raw_value(manifest).map_err(malformed)?;
        let signature = BASE64.encode(&signer.sign(manifest.get().as_bytes()));
        let certificates = signer.chain().iter().map(|certificate| BASE64.encode(certificate)).collect();
        Ok(Self { manifest, certificates, signature })
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, SealError> {
        serde_json::to_vec(self).map_err(malformed)
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        serde_json::from_slice(bytes).map_err(malformed)
    }

    /// What was signed and by whom; nothing in it is looked at before the signature is found good.
    pub(super) fn verify(&self, trust: &Trust<'_>) -> Result<(Manifest, Identity), SealError> {
        let decode = |text: &String| BASE64.decode(text.as_bytes()).map_err(malformed);
        let chain = self.certificates.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        let signer = trust
            .verify(&chain, self.manifest.get().as_bytes(), &decode(&self.signature)?)
            .map_err(SealError::Signature)?;
        let manifest: Manifest = serde_json::from_str(self.manifest.get()).map_err(malformed)?;
        match manifest.version {
            1 => Ok((manifest, signer)),
            other => Err(SealError::Content(format!("its manifest has version {other}, known is 1"))),
        }
    }
}

fn malformed(error: impl std::fmt::Display) -> SealError {
    SealError::Content(format!("malformed {MANIFEST}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_in_one_piece_and_no_longer_than_there_is_room_for() {
        let file = b"age-encryption.org/v1\n-> X25519 a\nb\n--- c\nthe rest\n--- of it";
        let (header, rest) = file.split_at(file.len() - b"the rest\n--- of it".len());
        let (mut capped, left) = Capped::new(&file[..], 64);
        let mut read = Vec::new();
        assert_eq!(capped.read_until(b'\n', &mut read).unwrap(), header.len());
        assert_eq!((read.as_slice(), left.get()), (header, 64 - header.len() as u64));
        left.set(u64::MAX);
        let mut behind = Vec::new();
        capped.read_to_end(&mut behind).unwrap();
        assert_eq!(behind, rest);

        for room in [0, 1, 30, header.len() as u64 - 1] {
            let (mut capped, _) = Capped::new(&file[..], room);
            let refused = capped.read_until(b'\n', &mut Vec::new()).unwrap_err();
            assert!(refused.to_string().contains("too long"), "{room}: {refused}");
        }
        // One that is cut short is all there is.
        let (mut capped, _) = Capped::new(&file[..30], 64);
        assert_eq!(capped.read_until(b'\n', &mut Vec::new()).unwrap(), 30);
    }
}
