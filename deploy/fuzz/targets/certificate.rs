//! Certificates a peer presents, one that `licensing export` wrote, and requests for one. The first byte says which.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use umsid::authority::Authority;
use umsid_agent::ums::identity;
use umsid_common::digest::Fingerprint;
use umsid_common::name::Identity;
use umsid_common::tls::{identity_of, verify_own};

/// An authority that may lose its disk.
struct Office {
    authority: Authority,
    identity: Identity,
    _dir: tempfile::TempDir,
}

static OFFICE: LazyLock<Office> = LazyLock::new(|| {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a directory");
    let authority = Authority::create(dir.path(), &"t".parse().expect("a name"), None).expect("an authority");
    Office { authority, identity: "spiffe://t/agent/c/ums1".parse().expect("an identity"), _dir: dir }
});

fn exported(file: &[u8]) {
    if let Ok((seen, evidence)) = identity::exported(file, &[]) {
        assert!(matches!((seen.sha256, seen.sha1), (Fingerprint::Sha256(_), Fingerprint::Sha1(_))));
        assert_eq!(evidence.len(), 1);
        assert_eq!(evidence[0].fingerprint, seen.sha256);
    }
}

fn presented(der: &[u8]) {
    if let Ok(identity) = identity_of(der) {
        assert_eq!(identity_of(der).ok(), Some(identity));
    }
    assert!(verify_own(&[der.to_vec()], b"message", b"no signature").is_err());
}

fn requested(der: &[u8]) {
    let Ok(issued) = OFFICE.authority.issue(der, &OFFICE.identity) else { return };
    let (seen, _) = identity::exported(issued.certificate_pem.as_bytes(), &[]).expect("a certificate");
    assert!(matches!(seen.sha256, Fingerprint::Sha256(_)));
}

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((b'E', bytes)) => exported(bytes),
        Some((b'P', bytes)) => presented(bytes),
        Some((b'R', bytes)) => requested(bytes),
        _ => {}
    }
});
