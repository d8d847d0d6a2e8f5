//! A sealed backup: what is around the encryption (first byte `S`), and what is inside it (`T`): whoever knows the
//! recipient can put any tar there.
#![no_main]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use umsid_common::digest::Digest;
use umsid_common::seal::{SealKey, Trust, open};

/// Of this target only: the corpus holds a backup signed for its recipient.
const KEY: &str = include_str!("sealed_backup.key");

/// No more than this comes out.
const LIMIT: u64 = 4096;

struct Place {
    key: SealKey,
    recipient: age::x25519::Recipient,
    /// Between two others that must not be touched.
    into: PathBuf,
    dir: tempfile::TempDir,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a directory");
    let (file, into) = (dir.path().join("seal.key"), dir.path().join("into"));
    std::fs::write(&file, KEY).expect("a file");
    std::fs::create_dir(&into).expect("a directory");
    let key = SealKey::load(&file).expect("a key");
    std::fs::remove_file(&file).expect("it is there");
    let recipient = key.recipient().as_str().parse().expect("a recipient");
    Place { key, recipient, into, dir }
});

fn sealed(tar: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::new();
    let to = std::iter::once(&PLACE.recipient as &dyn age::Recipient);
    let mut writer = age::Encryptor::with_recipients(to)
        .expect("one recipient")
        .wrap_output(&mut sealed)
        .expect("it goes to memory");
    writer.write_all(tar).expect("it goes to memory");
    writer.finish().expect("it goes to memory");
    sealed
}

fn count(dir: &std::path::Path) -> usize {
    std::fs::read_dir(dir).expect("it is there").count()
}

fuzz_target!(|data: &[u8]| {
    let bytes = match data.split_first() {
        Some((b'S', bytes)) => bytes.to_vec(),
        Some((b'T', bytes)) => sealed(bytes),
        _ => return,
    };
    match open(bytes.as_slice(), &PLACE.key, &Trust::OwnVault, &PLACE.into, LIMIT) {
        Ok(opened) => {
            let backup = std::fs::read(&opened.backup).expect("it was opened");
            assert_eq!(backup.len() as u64, opened.manifest.backup_size);
            assert!(backup.len() as u64 <= LIMIT);
            assert_eq!(Digest::of(&backup), opened.manifest.backup);
            assert!(opened.manifest.recipients.contains(&PLACE.key.recipient()));
            assert_eq!(opened.backup.parent(), Some(PLACE.into.as_path()));
            assert_eq!(count(&PLACE.into), 1);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert_eq!(count(&PLACE.into), 0, "something was left behind");
    assert_eq!(count(PLACE.dir.path()), 1, "something got out");
});
