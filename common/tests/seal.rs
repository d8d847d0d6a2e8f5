//! What a sealed backup withstands.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where it fails; its files are its own"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;
use umsid_common::digest::{Digest, Fingerprint};
use umsid_common::durable::Incoming;
use umsid_common::seal::{Manifest, Opened, Provenance, Recipient, SealError, SealKey, Trust, open, seal};
use umsid_common::tls::{Credentials, Files, VerifyError};
use umsid_testkit::{Ca, Issued, scratch};

const LIMIT: u64 = 1024 * 1024;

/// A source and a target of one cluster.
struct Pair {
    dir: TempDir,
    ca: Ca,
    issued: Issued,
    source: Credentials,
    target: Credentials,
    key: SealKey,
}

fn credentials(ca: &Ca, issued: &Issued) -> Credentials {
    let dir = scratch();
    ca.write(issued, dir.path());
    Credentials::load(&Files::in_dir(dir.path())).unwrap()
}

impl Pair {
    fn new() -> Self {
        let (dir, ca) = (scratch(), Ca::new("t"));
        let issued = ca.agent("c", "main");
        fs::create_dir(dir.path().join("into")).unwrap();
        let key = SealKey::load_or_generate(&dir.path().join("seal.key")).unwrap();
        let (source, target) = (credentials(&ca, &issued), credentials(&ca, &ca.agent("c", "target")));
        Self { dir, ca, issued, source, target, key }
    }

    fn file(&self, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join("backup");
        fs::write(&path, content).unwrap();
        path
    }

    fn seal_as(
        &self,
        content: &[u8],
        signer: &Credentials,
        to: &[Recipient],
    ) -> Result<(Vec<u8>, Manifest), SealError> {
        let mut sealed = Vec::new();
        let manifest = seal(&self.file(content), &password(), provenance(), to, signer, &mut sealed)?;
        Ok((sealed, manifest))
    }

    fn seal(&self, content: &[u8]) -> Vec<u8> {
        self.seal_as(content, &self.source, &[self.key.recipient()]).unwrap().0
    }

    fn open(&self, sealed: &[u8]) -> Result<Opened, SealError> {
        self.open_limited(sealed, LIMIT)
    }

    fn open_limited(&self, sealed: &[u8], limit: u64) -> Result<Opened, SealError> {
        let opened = open(sealed, &self.key, &Trust::Anchors(&self.target), &self.place(), limit);
        if opened.is_err() {
            assert_eq!(fs::read_dir(self.place()).unwrap().count(), 0, "something was left behind");
        }
        opened
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("into")
    }

    /// What is inside the encryption.
    fn plain(&self, sealed: &[u8]) -> Vec<u8> {
        let key: age::x25519::Identity =
            fs::read_to_string(self.dir.path().join("seal.key")).unwrap().trim().parse().unwrap();
        let mut plain = Vec::new();
        let decryptor = age::Decryptor::new(sealed).unwrap();
        decryptor.decrypt(std::iter::once(&key as _)).unwrap().read_to_end(&mut plain).unwrap();
        plain
    }

    /// As somebody would who knows the recipient only.
    fn encrypt(&self, plain: &[u8]) -> Vec<u8> {
        let recipient: age::x25519::Recipient = self.key.recipient().as_str().parse().unwrap();
        let mut sealed = Vec::new();
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as _)).unwrap();
        let mut writer = encryptor.wrap_output(&mut sealed).unwrap();
        writer.write_all(plain).unwrap();
        writer.finish().unwrap();
        sealed
    }
}

fn password() -> SecretString {
    "pass word ü".to_owned().into()
}

fn provenance() -> Provenance {
    Provenance {
        cluster: "c".parse().unwrap(),
        run: "20261122t204512-7f3a9c".parse().unwrap(),
        source: "main".parse().unwrap(),
        fingerprint: Some(Fingerprint::sha256_of(b"certificate")),
        ums_version: "12.09.110".into(),
        taken: Timestamp::from_second(1_700_000_000).unwrap(),
    }
}

fn entries(plain: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(plain);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().display().to_string(), content)
    };
    archive.entries().unwrap().map(read).collect()
}

fn tar_of<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, name, content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn what_was_sealed_comes_out_and_age_and_tar_alone_open_it() {
    let pair = Pair::new();
    // Nothing, less than a block, a block, more than one piece.
    for size in [0, 1, 511, 512, 513, 200_000] {
        let content: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
        let (sealed, manifest) = pair.seal_as(&content, &pair.source, &[pair.key.recipient()]).unwrap();
        let opened = pair.open(&sealed).unwrap();
        assert_eq!(fs::read(&opened.backup).unwrap(), content);
        assert_eq!(opened.password.expose_secret(), password().expose_secret());
        assert_eq!(opened.manifest, manifest);
        assert_eq!(opened.signer.to_string(), "spiffe://t/agent/c/main");
        assert_eq!((manifest.backup, manifest.backup_size), (Digest::of(&content), content.len() as u64));

        let entries = entries(&pair.plain(&sealed));
        let names: Vec<_> = entries.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["ums-id.ksbak", "password.txt", "manifest.json"]);
        assert_eq!(
            (entries[0].1.as_slice(), entries[1].1.as_slice()),
            (content.as_slice(), "pass word ü".as_bytes())
        );
    }
}

#[cfg(unix)]
#[test]
fn the_opened_backup_is_private_and_gone_with_its_handle() {
    use std::os::unix::fs::PermissionsExt as _;
    let pair = Pair::new();
    let opened = pair.open(&pair.seal(b"backup")).unwrap();
    assert_eq!(fs::metadata(&opened.backup).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(opened.backup.parent(), Some(pair.place().as_path()));
    drop(opened);
    assert_eq!(fs::read_dir(pair.place()).unwrap().count(), 0);
}

#[test]
fn one_flipped_bit_anywhere_is_refused() {
    let pair = Pair::new();
    let sealed = pair.seal(b"a small backup");
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 1 << (at % 8);
        assert!(pair.open(&altered).is_err(), "byte {at} of {}", sealed.len());
    }
}

#[test]
fn whatever_is_cut_off_or_put_behind_is_refused() {
    let pair = Pair::new();
    let sealed = pair.seal(b"a small backup");
    for length in 0..sealed.len() {
        assert!(matches!(pair.open(&sealed[..length]), Err(SealError::Closed(_))), "cut at {length}");
    }
    let mut longer = sealed.clone();
    longer.push(0);
    assert!(matches!(pair.open(&longer), Err(SealError::Closed(_))));

    let plain = pair.plain(&sealed);
    let mut longer = plain.clone();
    longer.push(0);
    assert!(matches!(pair.open(&pair.encrypt(&longer)), Err(SealError::Content(_))));
    assert!(matches!(pair.open(&pair.encrypt(&plain[..plain.len() - 1])), Err(SealError::Closed(_))));
}

#[test]
fn another_key_does_not_open_it() {
    let (pair, other) = (Pair::new(), Pair::new());
    let sealed = pair.seal(b"backup");
    assert!(matches!(other.open(&sealed), Err(SealError::Closed(_))));
}

#[test]
fn exactly_the_three_files_in_their_order() {
    let pair = Pair::new();
    let entries = entries(&pair.plain(&pair.seal(b"backup")));
    let of =
        |order: &[usize]| tar_of(order.iter().map(|&at| (entries[at].0.as_str(), entries[at].1.as_slice())));
    assert!(pair.open(&pair.encrypt(&of(&[0, 1, 2]))).is_ok(), "the test's own tar is a good one");
    for order in [&[1, 0, 2][..], &[0, 2, 1], &[0, 1], &[0], &[], &[0, 0, 1, 2], &[0, 1, 2, 2], &[0, 1, 2, 0]]
    {
        assert!(pair.open(&pair.encrypt(&of(order))).is_err(), "{order:?}");
    }
    let renamed = tar_of([("ksbak", &b""[..]), ("password.txt", b""), ("manifest.json", b"{}")]);
    assert!(matches!(pair.open(&pair.encrypt(&renamed)), Err(SealError::Content(_))));

    let mut link = tar::Header::new_ustar();
    link.set_path("ums-id.ksbak").unwrap();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_link_name("/etc/passwd").unwrap();
    link.set_size(0);
    link.set_cksum();
    assert!(matches!(pair.open(&pair.encrypt(link.as_bytes())), Err(SealError::Content(_))));
}

#[test]
fn sizes_are_bounded() {
    let pair = Pair::new();
    let sealed = pair.seal(&[7; 1000]);
    assert!(pair.open_limited(&sealed, 1000).is_ok());
    assert!(matches!(pair.open_limited(&sealed, 999), Err(SealError::TooLarge(999))));

    let entries = entries(&pair.plain(&sealed));
    let with = |password: &[u8], manifest: &[u8]| {
        let files =
            [("ums-id.ksbak", &entries[0].1[..]), ("password.txt", password), ("manifest.json", manifest)];
        pair.open(&pair.encrypt(&tar_of(files)))
    };
    assert!(matches!(with(&[b'x'; 1025], &entries[2].1), Err(SealError::TooLarge(1024))));
    assert!(matches!(with(b"x", &[b' '; 64 * 1024 + 1]), Err(SealError::TooLarge(_))));
    let long = "x".repeat(1025).into();
    let refused =
        seal(&pair.file(b""), &long, provenance(), &[pair.key.recipient()], &pair.source, Vec::new());
    assert!(matches!(refused, Err(SealError::Content(_))));
}

#[test]
fn a_header_without_end_is_not_read_to_its_end() {
    let pair = Pair::new();
    let stanza = "-> X25519 x\nAAAA\n".repeat(1_000_000);
    let endless = format!("age-encryption.org/v1\n{stanza}");
    let refusal = pair.open(endless.as_bytes()).err().unwrap().to_string();
    assert!(refusal.contains("header is too long"), "{refusal}");
    let line = format!("age-encryption.org/v1\n-> {}", "x".repeat(1_000_000));
    assert!(matches!(pair.open(line.as_bytes()), Err(SealError::Closed(_))));
    // Many recipients are no attack.
    let mut all =
        vec![SealKey::load_or_generate(&pair.dir.path().join("other.key")).unwrap().recipient(); 63];
    all.push(pair.key.recipient());
    assert!(pair.open(&pair.seal_as(&[1; 300_000], &pair.source, &all).unwrap().0).is_ok());
    all.push(pair.key.recipient());
    assert!(matches!(pair.seal_as(b"backup", &pair.source, &all), Err(SealError::Content(_))));
}

#[test]
fn only_the_agent_of_the_source_may_sign() {
    let pair = Pair::new();
    let to = [pair.key.recipient()];
    let refusal =
        |signer: &Credentials| pair.open(&pair.seal_as(b"backup", signer, &to).unwrap().0).err().unwrap();
    for issued in [pair.ca.agent("c", "other"), pair.ca.agent("c2", "main"), pair.ca.coordinator("main")] {
        let refusal = refusal(&credentials(&pair.ca, &issued));
        assert!(matches!(refusal, SealError::Signature(VerifyError::Identity(_))), "{refusal:?}");
    }
    let foreign = Ca::new("t");
    let refusal = refusal(&credentials(&foreign, &foreign.agent("c", "main")));
    assert!(matches!(refusal, SealError::Signature(VerifyError::Certificate(_))), "{refusal:?}");
}

#[test]
fn a_revoked_signature_is_refused_but_in_the_own_vault() {
    let pair = Pair::new();
    let sealed = pair.seal(b"backup");
    pair.ca.revoke(&pair.issued);
    let target = credentials(&pair.ca, &pair.ca.agent("c", "target"));
    let refused = open(&sealed[..], &pair.key, &Trust::Anchors(&target), &pair.place(), LIMIT);
    assert!(matches!(refused, Err(SealError::Signature(VerifyError::Certificate(why))) if why == "revoked"));
    assert!(open(&sealed[..], &pair.key, &Trust::OwnVault, &pair.place(), LIMIT).is_ok());
}

#[test]
fn what_is_signed_cannot_be_changed_nor_put_to_another_backup() {
    let pair = Pair::new();
    let entries = entries(&pair.plain(&pair.seal(b"backup")));
    let json = std::str::from_utf8(&entries[2].1).unwrap();
    let with = |backup: &[u8], json: &str| {
        let files = [("ums-id.ksbak", backup), ("password.txt", b"x"), ("manifest.json", json.as_bytes())];
        pair.open(&pair.encrypt(&tar_of(files)))
    };
    assert!(with(b"backup", json).is_ok());
    assert!(matches!(with(b"backuq", json), Err(SealError::Content(_))));
    let fingerprint = Fingerprint::sha256_of(b"certificate").to_string();
    for (from, to) in [
        ("\"cluster\":\"c\"", "\"cluster\":\"d\""),
        ("7f3a9c", "7f3a9d"),
        ("\"source\":\"main\"", "\"source\":\"other\""),
        (fingerprint.as_str(), Fingerprint::sha256_of(b"another").to_string().as_str()),
        ("\"backup_size\":6", "\"backup_size\":7"),
        ("12.09.110", "12.10.100"),
        ("\"version\":1", "\"version\": 1"),
    ] {
        assert!(json.contains(from), "{from} in {json}");
        let refused = with(b"backup", &json.replace(from, to));
        assert!(
            matches!(refused, Err(SealError::Signature(VerifyError::Signature))),
            "{to}: {:?}",
            refused.err()
        );
    }
    for bad in ["", "{}", "null", &json.replace("\"signature\"", "\"more\":1,\"signature\"")] {
        assert!(matches!(with(b"backup", bad), Err(SealError::Content(_))), "{bad}");
    }
}

#[test]
fn one_who_may_open_it_cannot_pass_it_on_to_one_who_may_not() {
    let (pair, other) = (Pair::new(), Pair::new());
    let both = pair.seal_as(b"backup", &pair.source, &[other.key.recipient()]).unwrap().0;
    let passed_on = pair.encrypt(&other.plain(&both));
    let refusal = pair.open(&passed_on).err().unwrap();
    assert!(matches!(&refusal, SealError::Content(why) if why.contains("recipients")), "{refusal:?}");
    let both =
        pair.seal_as(b"backup", &pair.source, &[other.key.recipient(), pair.key.recipient()]).unwrap().0;
    assert!(pair.open(&both).is_ok());
}

#[test]
fn nothing_is_sealed_to_nobody_and_only_recipients_are_recipients() {
    let pair = Pair::new();
    assert!(matches!(pair.seal_as(b"backup", &pair.source, &[]), Err(SealError::Content(_))));
    let text = pair.key.recipient().to_string();
    assert_eq!((text.len(), text.parse()), (62, Ok(pair.key.recipient())));
    for bad in
        ["", "age1", &text[1..], &format!("{text}x"), &text.replace("age1", "age2"), "AGE-SECRET-KEY-1"]
    {
        assert!(bad.parse::<Recipient>().is_err(), "{bad}");
    }
    assert!(serde_json::from_str::<Recipient>(&serde_json::to_string(&text).unwrap()).is_ok());
    assert!(serde_json::from_str::<Recipient>("\"age1x\"").is_err());
}

#[test]
fn a_key_is_made_once_and_a_spoilt_one_is_never_replaced() {
    let dir = scratch();
    let path = dir.path().join("seal.key");
    assert!(matches!(SealKey::load(&path), Err(SealError::Io { .. })));
    let made = SealKey::load_or_generate(&path).unwrap().recipient();
    assert_eq!(SealKey::load_or_generate(&path).unwrap().recipient(), made);
    assert_eq!(SealKey::load(&path).unwrap().recipient(), made);

    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("# public key: {made}\n{text}")).unwrap();
    assert_eq!(SealKey::load(&path).unwrap().recipient(), made, "as age-keygen writes it");
    for spoilt in [String::new(), text[1..].to_owned(), format!("{text}{text}"), "\u{fffd}".into()] {
        fs::write(&path, &spoilt).unwrap();
        assert!(matches!(SealKey::load_or_generate(&path), Err(SealError::Key { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), spoilt);
    }
}

#[test]
fn sealing_stops_at_the_limit_of_the_file_it_goes_into() {
    let pair = Pair::new();
    let mut out = Incoming::create(&pair.place(), 100).unwrap();
    let full =
        seal(&pair.file(b"x"), &password(), provenance(), &[pair.key.recipient()], &pair.source, &mut out);
    assert!(
        matches!(full, Err(SealError::Io { source, .. }) if source.kind() == std::io::ErrorKind::FileTooLarge)
    );
    let missing = Path::new("/nowhere/at/all");
    let missing = seal(missing, &password(), provenance(), &[pair.key.recipient()], &pair.source, Vec::new());
    assert!(matches!(missing, Err(SealError::Io { doing: "cannot read", .. })));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_apart() {
    let pair = Pair::new();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let result =
        seal(&pair.file(b"x"), &password(), provenance(), &[pair.key.recipient()], &pair.source, full);
    assert!(
        matches!(result, Err(SealError::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull)
    );
}

#[test]
fn certificates_in_the_manifest_are_plain_base64() {
    let pair = Pair::new();
    let entries = entries(&pair.plain(&pair.seal(b"backup")));
    let json: serde_json::Value = serde_json::from_slice(&entries[2].1).unwrap();
    let certificate = BASE64.decode(json["certificates"][0].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(certificate, pair.issued.certificate);
}
