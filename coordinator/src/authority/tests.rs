use std::time::Instant;

use proptest::prelude::*;
use umsid_common::name::Role;
use umsid_common::tls::Credentials;

use super::*;

fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

fn authority(dir: &Path) -> Authority {
    Authority::create(dir, &"lab".parse().unwrap(), None).unwrap()
}

/// What a server's agent would have after enrolment.
fn equipped(authority: &Authority, dir: &Path, uri: &str) -> (tls::Files, Issued) {
    let files = tls::Files::in_dir(dir);
    let issued = authority.equip(&files, &identity(uri)).unwrap();
    (files, issued)
}

#[test]
fn what_it_issues_is_accepted_and_names_its_holder() {
    let (ca, agent, coordinator) =
        (umsid_testkit::scratch(), umsid_testkit::scratch(), umsid_testkit::scratch());
    let authority = authority(ca.path());
    let (files, issued) = equipped(&authority, agent.path(), "spiffe://lab/agent/hamburg/ums1");
    let (ours, _) = equipped(&authority, coordinator.path(), "spiffe://lab/coordinator/anna");
    let (agent, ours) = (Credentials::load(&files).unwrap(), Credentials::load(&ours).unwrap());
    let signature = agent.sign(b"text");
    let found = ours.verify(agent.chain(), b"text", &signature).unwrap();
    assert!(matches!(found.role, Role::Agent { .. }), "{found}");
    assert_eq!(agent.crl_number(), 1);
    let (from, until) = agent.validity();
    assert!(from < Timestamp::now() - SignedDuration::from_mins(59), "not backdated: {from}");
    assert_eq!(until.as_second(), issued.not_after.as_second());
    assert_eq!(issued.serial.len(), 32);
    assert!(!agent.wants_renewal(Timestamp::now()));
}

#[test]
fn a_request_for_another_identity_is_refused_and_leaves_no_record() {
    let ca = umsid_testkit::scratch();
    let authority = authority(ca.path());
    let csr = tls::request(&tls::generate_key(), &identity("spiffe://lab/coordinator/mallory")).unwrap();
    let wanted = identity("spiffe://lab/agent/hamburg/ums1");
    assert!(matches!(authority.issue(&csr, &wanted), Err(AuthorityError::Request(_))));
    assert!(matches!(authority.issue(b"no request", &wanted), Err(AuthorityError::Request(_))));
    let mut altered = tls::request(&tls::generate_key(), &wanted).unwrap();
    *altered.last_mut().unwrap() ^= 1;
    assert!(matches!(authority.issue(&altered, &wanted), Err(AuthorityError::Request(_))));
    assert_eq!(Register::load(ca.path()).unwrap().issued, []);
}

#[test]
fn a_revoked_certificate_is_refused_by_who_has_the_list() {
    let (ca, agent, coordinator) =
        (umsid_testkit::scratch(), umsid_testkit::scratch(), umsid_testkit::scratch());
    let authority = authority(ca.path());
    let (files, first) = equipped(&authority, agent.path(), "spiffe://lab/agent/hamburg/ums1");
    let (ours, _) = equipped(&authority, coordinator.path(), "spiffe://lab/coordinator/anna");
    let agent = Credentials::load(&files).unwrap();

    let who = identity("spiffe://lab/agent/hamburg/ums1");
    assert_eq!(authority.revoke(&who, Some(&first.serial)).unwrap(), 0);
    assert_eq!(authority.crl().1, 1, "nothing was revoked, and yet there is a new list");
    assert_eq!(authority.revoke(&who, None).unwrap(), 1);
    assert_eq!(authority.revoke(&who, None).unwrap(), 0);
    assert_eq!(authority.newest(&who), None);
    assert!(authority.publish(&ours).unwrap());
    assert!(!authority.publish(&ours).unwrap());
    let ours = Credentials::load(&ours).unwrap();
    assert_eq!(ours.crl_number(), 2);
    assert!(ours.still_good(agent.chain(), Timestamp::now()).unwrap_err().to_string().contains("revoked"));
}

#[test]
fn two_processes_do_not_lose_each_others_records() {
    let ca = umsid_testkit::scratch();
    authority(ca.path());
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let dir = ca.path();
            scope.spawn(move || {
                let authority = Authority::open(dir).unwrap();
                for server in 0..5 {
                    let who = identity(&format!("spiffe://lab/agent/c{writer}/s{server}"));
                    let csr = tls::request(&tls::generate_key(), &who).unwrap();
                    authority.issue(&csr, &who).unwrap();
                }
            });
        }
    });
    assert_eq!(Register::load(ca.path()).unwrap().issued.len(), 20);
}

#[test]
fn a_key_under_a_passphrase_needs_it() {
    let ca = umsid_testkit::scratch();
    let passphrase = SecretString::from("correct horse");
    let begun = Instant::now();
    Authority::create(ca.path(), &"lab".parse().unwrap(), Some(&passphrase)).unwrap();
    assert!(!ca.path().join("key.pem").exists());
    let sealed = std::fs::read(ca.path().join("key.age")).unwrap();
    assert!(sealed.starts_with(b"age-encryption.org/v1\n-> scrypt"));

    let authority = Authority::open(ca.path()).unwrap();
    assert!(authority.needs_passphrase() && !authority.can_sign());
    let who = identity("spiffe://lab/agent/hamburg/ums1");
    let csr = tls::request(&tls::generate_key(), &who).unwrap();
    assert!(matches!(authority.issue(&csr, &who), Err(AuthorityError::Locked)));
    assert!(matches!(authority.unlock(&SecretString::from("wrong")), Err(AuthorityError::WrongPassphrase)));
    assert!(matches!(authority.issue(&csr, &who), Err(AuthorityError::Locked)));
    authority.unlock(&passphrase).unwrap();
    authority.issue(&csr, &who).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[cfg(unix)]
#[test]
fn its_key_is_nobody_elses_to_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let ca = umsid_testkit::scratch();
    authority(ca.path());
    let mode = std::fs::metadata(ca.path().join("key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_missing_and_a_broken_file_are_named() {
    let ca = umsid_testkit::scratch();
    authority(ca.path());
    std::fs::remove_file(ca.path().join("key.pem")).unwrap();
    assert!(
        matches!(Authority::open(ca.path()), Err(AuthorityError::Missing { path }) if path.ends_with("key.pem"))
    );
    durable::replace(&ca.path().join("register.json"), b"{", Access::Private).unwrap();
    let Err(error) = Authority::open(ca.path()) else { panic!("a broken register was taken") };
    assert!(error.to_string().contains("register.json"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What asks for a certificate comes from a server that is not trusted yet.
    #[test]
    fn no_altered_request_gets_a_certificate(
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        rubbish in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let dir = umsid_testkit::scratch();
        let authority = authority(dir.path());
        let identity = identity("spiffe://lab/agent/hamburg/ums1");
        let mut request = tls::request(&tls::generate_key(), &identity).unwrap();
        prop_assert!(authority.issue(&rubbish, &identity).is_err());
        prop_assert!(authority.issue(&request, &identity).is_ok());
        // What is signed: of the signature itself, a bit may mean nothing (the count of unused bits).
        let header = |at: usize| match request[at + 1] {
            0x81 => (3, usize::from(request[at + 2])),
            0x82 => (4, usize::from(request[at + 2]) << 8 | usize::from(request[at + 3])),
            length => (2, usize::from(length)),
        };
        // Nor is the header around both.
        let outer = header(0).0;
        let at = outer + at.index(header(outer).0 + header(outer).1);
        request[at] ^= 1 << bit;
        prop_assert!(authority.issue(&request, &identity).is_err(), "byte {}", at);
    }
}

#[test]
fn what_was_moved_elsewhere_is_not_changed_here() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("authority");
    std::fs::create_dir(&dir).unwrap();
    let authority = authority(&dir);
    let who = "spiffe://lab/observer/nagios".parse().unwrap();
    let csr = tls::request(&tls::generate_key(), &who).unwrap();
    authority.issue(&csr, &who).unwrap();
    durable::replace(&home.path().join("state-url"), b"postgres://db/umsid\n", Access::Private).unwrap();
    let before = std::fs::read(dir.join("register.json")).unwrap();
    assert!(matches!(authority.revoke(&who, None), Err(AuthorityError::Moved)));
    assert!(matches!(authority.issue(&csr, &who), Err(AuthorityError::Moved)));
    assert_eq!(std::fs::read(dir.join("register.json")).unwrap(), before);
}
