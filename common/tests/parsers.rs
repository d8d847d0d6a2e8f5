//! What comes in from outside as text or bytes: nothing breaks a parser, and nothing is taken for what it is not.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where it fails; its files are its own"
)]

use std::fmt::{Debug, Display};
use std::fs;
use std::str::FromStr;

use proptest::prelude::*;
use umsid_common::digest::{Digest, Fingerprint};
use umsid_common::pairing::{JoinFile, PairingCode};
use umsid_common::seal::{Recipient, SealKey, Trust, open};
use umsid_common::tls::{Credentials, Files, identity_of, verify_own};
use umsid_testkit::{Ca, scratch};

/// One value has one text.
fn canonical<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Result<(), TestCaseError> {
    if let Ok(value) = text.parse::<T>() {
        prop_assert_eq!(value.to_string().parse().ok(), Some(value));
    }
    Ok(())
}

/// A tar as a sealed backup has it inside, for anyone who knows the recipient.
fn tar(files: &[(String, Vec<u8>)], rest: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, content) in files {
        let mut header = [0; 512];
        header[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = b'0';
        tar.extend(header);
        tar.extend(content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.extend(rest);
    tar
}

fn content() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = prop_oneof![
        4 => prop::sample::select(&["ums-id.ksbak", "password.txt", "manifest.json"][..]).prop_map(str::to_owned),
        1 => prop::sample::select(&["../../out", "/etc/passwd", "./ums-id.ksbak", ""][..]).prop_map(str::to_owned),
    ];
    prop::collection::vec((name, prop::collection::vec(any::<u8>(), 0..700)), 0..4)
}

proptest! {
    #[test]
    fn no_text_breaks_digests_and_recipients(text in "[0-9a-fA-F:]{0,96}|age1[a-z0-9]{0,60}|\\PC{0,70}") {
        canonical::<Digest>(&text)?;
        canonical::<Fingerprint>(&text)?;
        canonical::<Recipient>(&text)?;
    }

    #[test]
    fn every_digest_is_read_as_it_is_written(bytes in any::<[u8; 32]>(), short in any::<[u8; 20]>()) {
        let digest = Digest::try_from(&bytes[..]).unwrap();
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        for print in [Fingerprint::Sha256(bytes), Fingerprint::Sha1(short)] {
            prop_assert_eq!(print.to_string().parse(), Ok(print));
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_never_another_pairing_code(
        certificate in any::<[u8; 8]>(),
        at in 0usize..48,
        typed in "[0-9A-HJKMNP-TV-Z]",
    ) {
        let code = PairingCode::generate(&Digest::of(&certificate)).to_text();
        let mut plain: Vec<String> = code.chars().filter(|c| *c != '-').map(String::from).collect();
        let right = std::mem::replace(&mut plain[at], typed.clone());
        prop_assert_eq!(plain.concat().parse::<PairingCode>().is_ok(), right == typed);
    }

    #[test]
    fn no_text_breaks_a_join_file(text in "\\PC{0,80}|(trust_domain|cluster|server|expires|secret) = \"[a-z0-9]{0,60}\"") {
        prop_assert!(toml::from_str::<JoinFile>(&text).is_err());
    }

    #[test]
    fn no_bytes_are_a_certificate(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(identity_of(&bytes).is_err());
        prop_assert!(verify_own(&[bytes], b"message", b"signature").is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Nothing gets out of the directory, nothing is left in it, and nothing without a good signature is opened.
    #[test]
    fn no_tar_gets_out_of_a_sealed_backup(
        files in content(),
        rest in prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], 0..1100),
    ) {
        use std::io::Write as _;
        let dir = scratch();
        let into = dir.path().join("into");
        fs::create_dir(&into).unwrap();
        let key = SealKey::load_or_generate(&dir.path().join("seal.key")).unwrap();
        let recipient: age::x25519::Recipient = key.recipient().as_str().parse().unwrap();
        let mut sealed = Vec::new();
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as _)).unwrap();
        let mut writer = encryptor.wrap_output(&mut sealed).unwrap();
        writer.write_all(&tar(&files, &rest)).unwrap();
        writer.finish().unwrap();
        prop_assert!(open(sealed.as_slice(), &key, &Trust::OwnVault, &into, 600).is_err());
        prop_assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
        prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    /// Trust comes over the network too: whatever is in one of the four files, it is taken as a whole or refused, and
    /// the refusal names the file.
    #[test]
    fn no_altered_file_breaks_the_credentials(
        which in 0usize..4,
        at in any::<prop::sample::Index>(),
        pieces in prop_oneof!["[A-Za-z0-9+/=\n-]{0,8}", "\\PC{0,4}"],
    ) {
        let dir = scratch();
        let ca = Ca::new("t");
        ca.write(&ca.agent("c", "ums1"), dir.path());
        let files = Files::in_dir(dir.path());
        let path = [&files.certificate, &files.key, &files.anchors, &files.crls][which];
        let text = fs::read_to_string(path).unwrap();
        let at = at.index(text.len());
        fs::write(path, format!("{}{pieces}{}", &text[..at], &text[at + 1..])).unwrap();
        match Credentials::load(&files) {
            Ok(credentials) => prop_assert_eq!(credentials.identity().to_string(), "spiffe://t/agent/c/ums1"),
            Err(error) => prop_assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}"),
        }
    }
}
