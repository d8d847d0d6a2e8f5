//! What `licensing list` may say, in every layout we can think of, and what must not be read into it.
#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

use std::fmt::Write as _;

use proptest::prelude::*;
use umsid_agent::config::Config;
use umsid_agent::ums::identity::{self, Words};
use umsid_common::digest::Fingerprint;
use umsid_proto::model::{CertificateSeen, Evidence, EvidenceSource, Label};

fn words(hosts: &[&str]) -> Words {
    let ums = Config::default().ums;
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    Words::new(&ums.main_words, &ums.local_words, &ums.not_in_sync_words, &hosts)
}

fn a() -> Fingerprint {
    Fingerprint::sha256_of(b"a")
}

fn b() -> Fingerprint {
    Fingerprint::sha256_of(b"b")
}

fn colons(print: Fingerprint, separator: &str) -> String {
    let text = print.to_string();
    let pairs: Vec<_> =
        text.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned()).collect();
    pairs.join(separator)
}

/// `{A}` and `{B}` in a pattern stand for two fingerprints, `{F}`, `{L}` and `{M}` for headings of their columns.
fn text(pattern: &str) -> String {
    let heads = [("{F}", "FINGERPRINT"), ("{L}", "LOCAL UMS ID"), ("{M}", "MAIN UMS ID")];
    let with_heads = heads
        .iter()
        .fold(pattern.to_owned(), |text, (mark, head)| text.replace(mark, &format!("{head:<64}")));
    with_heads.replace("{A}", &a().to_string()).replace("{B}", &b().to_string())
}

/// Local and Main as settled by this text, seen from a server called ums2.
fn settled(pattern: &str) -> (Option<Fingerprint>, Option<Fingerprint>) {
    let words = words(&["ums2"]);
    let evidence = identity::read(&text(pattern), &words);
    let (local, main, reason) = identity::resolve(&evidence, &[], &words);
    assert!(!reason.is_empty());
    (local, main)
}

const OUT_OF_SYNC: &[(&str, &str)] = &[
    (
        "rows",
        "UMS ID        FINGERPRINT (SHA256)  EXPIRATION DATE\nMain UMS ID   {A}  2036-01-01\nLocal UMS ID  {B}  2036-01-01\n",
    ),
    (
        "rows, machine readable",
        "UMS ID;FINGERPRINT (SHA256);EXPIRATION DATE\nMain UMS ID;{A};2036-01-01\nLocal UMS ID;{B};2036-01-01\n",
    ),
    (
        "rows with status",
        "UMS ID  FINGERPRINT  STATUS\nMain    {A}\nLocal   {B}  Not in sync with the Main UMS ID, please restart server\n",
    ),
    ("label behind", "{A}  (Main)\n{B}  (Local)\n"),
    ("one line", "Main: {A}, Local: {B}\n"),
    ("one line, label behind", "{A} (main) {B} (local)\n"),
    ("keys", "mainUmsId={A}\nlocalUmsId={B}\n"),
    ("quoted keys", "\"MAIN_UMS_ID\": \"{A}\"\n\"LOCAL_UMS_ID\": \"{B}\"\n"),
    ("columns of truth", "{F}  MAIN   LOCAL\n{A}  true   false\n{B}  false  true\n"),
    ("columns of truth, machine readable", "FINGERPRINT;MAIN;LOCAL\n{A};true;false\n{B};false;true\n"),
    ("a column each", "HOST  {L}  {M}\nums2  {B}  {A}\n"),
    (
        "servers",
        "HOST  {F}  STATUS\nums1  {A}  Main UMS ID\nums2  {B}  Not in sync, please restart server\nums3  {A}  In sync\n",
    ),
    (
        "servers without header",
        "ums1  {A}  Main UMS ID\nums2:8443  {B}  Not in sync, please restart server\n",
    ),
    (
        "servers, machine readable",
        "HOST;FINGERPRINT;STATUS\nums1.example;{A};Main UMS ID\nums2.example;{B};Not in sync\n",
    ),
    (
        "servers, German",
        "RECHNER  FINGERABDRUCK  ZUSTAND\nums1  {A}  Haupt-UMS-ID\nums2  {B}  Nicht synchron mit der Haupt-UMS-ID\n",
    ),
    ("a host called main", "HOST  {F}  STATUS\nums-main-1  {A}  Main UMS ID\nums2  {B}  Not in sync\n"),
    (
        "blocks",
        "Main UMS ID\n  Valid until: 2036-01-01\n  SHA-256: {A}\n\nLocal UMS ID\n  Valid until: 2036-01-01\n  SHA-256: {B}\n",
    ),
    ("blocks without blank lines", "Main UMS ID:\n  {A}\nLocal UMS ID:\n  {B}\n"),
    ("blocks, label behind", "SHA-256: {A}\nKind: Main\n\nSHA-256: {B}\nKind: Local\n"),
    ("blocks, heading apart", "= Main UMS ID =\n\nSHA-256: {A}\n\n= Local UMS ID =\n\nSHA-256: {B}\n"),
    (
        "server blocks",
        "Server: ums1\n  SHA-256: {A}\n  Status: Main UMS ID\n\nServer: ums2\n  SHA-256: {B}\n  Status: Not in sync\n",
    ),
    ("German", "UMS-ID  FINGERABDRUCK\nHaupt-UMS-ID   {A}\nLokale UMS-ID  {B}\n"),
    ("German, in words", "Eigene UMS-ID: {B}\nHauptkennung: {A}\n"),
    (
        "with a log",
        "2026-08-12 10:15:32,481 INFO  [main] d.i.Cli - build 351b4da62d5a304c5b86401fb2c49091490ea5ae\nMain UMS ID  {A}\nLocal UMS ID  {B}\n2026-08-12 10:15:32,481 INFO  [main] d.i.Cli - closed\n",
    ),
];

#[test]
fn every_layout_of_an_unsynchronized_server_is_understood() {
    for (name, pattern) in OUT_OF_SYNC {
        assert_eq!(settled(pattern), (Some(b()), Some(a())), "{name}");
    }
}

#[test]
fn a_synchronized_server_has_one_for_both() {
    for (name, pattern) in OUT_OF_SYNC {
        let pattern = pattern.replace("{B}", "{A}");
        assert_eq!(settled(&pattern), (Some(a()), Some(a())), "{name}");
    }
}

#[test]
fn the_main_server_knows_itself_in_a_table_of_servers() {
    let words = words(&["ums1.example"]);
    let evidence = identity::read(&text("ums1  {A}  Main UMS ID\nums2  {B}  Not in sync\n"), &words);
    let (local, main, _) = identity::resolve(&evidence, &[], &words);
    assert_eq!((local, main), (Some(a()), Some(a())));
    assert!(evidence.iter().any(|evidence| evidence.fingerprint == b() && evidence.subject == "ums2"));
}

const UNKNOWN: &[(&str, &str)] = &[
    ("no words", "#  FINGERPRINT\n1  {A}\n2  {B}\n"),
    ("a heading over a whole table", "MAIN UMS ID\n{A}\n{B}\n"),
    ("both words on a line", "Local and Main UMS ID {A}\n"),
    ("a thread's name", "2026-08-12 10:15:32,481 INFO [main] d.i.Cli - ready\n{A}\n"),
    ("a log line", "2026-08-12 10:15:32,481 INFO [main] d.i.Cli - local key {A}\n"),
    ("a denial", "{A} is main: false\n"),
    ("not", "not main {A}\n"),
    ("other servers only", "HOST  {F}  STATUS\nums7  {A}  In sync\nums8  {B}  Not in sync\n"),
    ("words inside words", "localhost maintenance domain {A}\n"),
    ("a path", "Main UMS ID /var/cache/{A}/file\n"),
    ("something longer", "Main UMS ID {A}{B}\n"),
    ("something longer, in pairs", "Main UMS ID AB:CD:{A}\n"),
    ("nothing", ""),
];

#[test]
fn what_leaves_doubt_stays_unknown() {
    for (name, pattern) in UNKNOWN {
        assert_eq!(settled(pattern), (None, None), "{name}");
    }
}

#[test]
fn a_heading_over_several_rows_tells_none_from_the_others() {
    let evidence = identity::read(&text("MAIN UMS ID\n{A}\n{B}\n"), &words(&["ums2"]));
    assert_eq!(evidence.len(), 2);
    assert!(evidence.iter().all(|evidence| evidence.label == Label::Unlabelled), "{evidence:?}");
}

#[test]
fn two_of_one_name_are_none() {
    assert_eq!(settled("Local {A}\nLocal {B}\n"), (None, None));
    assert_eq!(settled("Main {A}\nMain {B}\nLocal {B}\n"), (Some(b()), None));
}

#[test]
fn only_main_says_nothing_of_this_server() {
    let words = words(&["ums2"]);
    let evidence = identity::read(&text("Main UMS ID {A}\n"), &words);
    let (local, main, reason) = identity::resolve(&evidence, &[], &words);
    assert_eq!((local, main), (None, Some(a())));
    assert!(reason.contains("no fingerprint is called Local"), "{reason}");
}

#[test]
fn rows_of_strangers_ask_for_this_servers_name() {
    let words = words(&["ums2"]);
    let evidence =
        identity::read(&text("HOST  {F}  STATUS\nalpha  {A}  Main UMS ID\nbeta  {B}  Not in sync\n"), &words);
    let (local, main, reason) = identity::resolve(&evidence, &[], &words);
    assert_eq!((local, main), (None, Some(a())));
    assert!(reason.contains("alpha") && reason.contains("ums.host_names"), "{reason}");
}

#[test]
fn fingerprints_are_found_by_content_in_any_form() {
    let words = words(&[]);
    let sha1 = Fingerprint::sha1_of(b"a");
    let forms = [
        a().to_string(),
        a().to_string().to_lowercase(),
        colons(a(), ":"),
        colons(a(), " ").to_lowercase(),
        format!("SHA256:{}", a()),
        format!("(sha-256={}).", colons(a(), ":")),
        sha1.to_string(),
        colons(sha1, ":").to_lowercase(),
        format!("\"{sha1}\","),
    ];
    for form in forms {
        let found = identity::read(&format!("Main UMS ID {form}\n"), &words);
        assert_eq!(found.len(), 1, "{form}");
        assert!([a(), sha1].contains(&found[0].fingerprint), "{form}");
        assert_eq!(found[0].label, Label::Main, "{form}");
    }
}

#[test]
fn hex_that_is_no_fingerprint_is_none() {
    let words = words(&[]);
    let long = a().to_string();
    for noise in [
        format!("{long}0"),
        long[..63].to_owned(),
        format!("{long}{long}"),
        format!("x{long}"),
        format!("{long}g"),
        format!("{}:00", colons(a(), ":")),
        format!("00:{}", colons(a(), ":")),
        format!("00:{long}"),
        format!("{long}.jar"),
        "13078f0d-2161-49da-a09a-2ff074439bfe".to_owned(),
        format!("{}...{}", &long[..10], &long[54..]),
    ] {
        assert_eq!(identity::read(&format!("Main {noise}\n"), &words), [], "{noise}");
    }
}

#[test]
fn sha1_and_sha256_of_one_certificate_are_one() {
    let seen = CertificateSeen { sha256: a(), sha1: Fingerprint::sha1_of(b"a") };
    let words = words(&[]);
    let list = identity::read(&format!("Local {}\nMain {}\n", seen.sha1, Fingerprint::sha1_of(b"b")), &words);
    let (local, main, _) = identity::resolve(&list, &[seen], &words);
    assert_eq!((local, main), (Some(a()), Some(Fingerprint::sha1_of(b"b"))));

    let both = identity::read(&format!("Local {} {}\nMain  SHA-1 {}\n", seen.sha1, a(), seen.sha1), &words);
    let (local, main, _) = identity::resolve(&both, &[seen], &words);
    assert_eq!((local, main), (Some(a()), Some(a())));
}

fn certificate() -> (Vec<u8>, String) {
    let issued = umsid_testkit::Ca::new("ums.example").agent("c", "ums1");
    (issued.certificate, issued.certificate_pem)
}

#[test]
fn an_exported_certificate_proves_what_the_list_calls_it_and_no_more() {
    let (der, pem) = certificate();
    let words = words(&[]);
    let sha1 = Fingerprint::sha1_of(&der);
    let list = identity::read(&format!("Local {sha1}\n"), &words);
    for file in [der.clone(), pem.into_bytes()] {
        let (seen, evidence) = identity::exported(&file, &list).unwrap();
        assert_eq!(seen, CertificateSeen { sha256: Fingerprint::sha256_of(&der), sha1 });
        assert_eq!(evidence.len(), 1);
        assert_eq!((evidence[0].source, evidence[0].label), (EvidenceSource::Export, Label::Local));
        let (_, unlabelled) = identity::exported(&file, &[]).unwrap();
        assert_eq!(unlabelled[0].label, Label::Unlabelled);
    }
    assert!(identity::exported(b"", &list).is_err());
    assert!(identity::exported(b"Error: no", &list).is_err());
    assert!(identity::exported(b"-----BEGIN CERTIFICATE-----\nno\n", &list).is_err());
}

fn agrees(evidence: &[Evidence]) -> bool {
    let words = words(&["ums2"]);
    let (local, main, _) = identity::resolve(evidence, &[], &words);
    let called = |label| {
        move |print: Fingerprint| {
            evidence.iter().any(|found| found.label == label && found.fingerprint == print)
        }
    };
    local.is_none_or(called(Label::Local)) && main.is_none_or(called(Label::Main))
}

fn piece() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "Main",
        "Local",
        "UMS ID",
        "ums1",
        "ums2",
        "true",
        "false",
        ";",
        "|",
        ":",
        "\n",
        "\n\n",
        "  ",
        "not",
        "HOST",
        "Not in sync",
        "--",
        "ü",
    ];
    prop_oneof![
        proptest::sample::select(KNOWN).prop_map(str::to_owned),
        Just(a().to_string()),
        Just(b().to_string().to_lowercase()),
        Just(colons(b(), ":")),
        Just(Fingerprint::sha1_of(b"a").to_string()),
        "[0-9a-fA-F: ]{0,70}",
        ".{0,8}",
    ]
}

proptest! {
    #[test]
    fn no_text_breaks_the_reading(text in any::<String>()) {
        prop_assert!(agrees(&identity::read(&text, &words(&["ums2"]))));
    }

    #[test]
    fn no_arrangement_of_known_pieces_breaks_it(pieces in proptest::collection::vec(piece(), 0..40)) {
        let text = pieces.iter().fold(String::new(), |mut text, piece| {
            let _ = write!(text, "{piece} ");
            text
        });
        prop_assert!(agrees(&identity::read(&text, &words(&["ums2"]))));
    }

    #[test]
    fn no_file_breaks_the_reading_of_certificates(file in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(identity::exported(&file, &[]).is_err());
    }
}
