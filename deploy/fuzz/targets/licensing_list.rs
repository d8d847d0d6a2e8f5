//! What `umsadmin-cli licensing list` may print: no sample of it is public, so anything.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use umsid_agent::Config;
use umsid_agent::ums::identity::{self, Words};
use umsid_common::digest::Fingerprint;
use umsid_proto::model::{Evidence, Label};

static WORDS: LazyLock<Words> = LazyLock::new(|| {
    let ums = Config::default().ums;
    let hosts = ["ums2".to_owned(), "ums-main-1.example.com".to_owned()];
    Words::new(&ums.main_words, &ums.local_words, &ums.not_in_sync_words, &hosts)
});

/// Letters and digits alone, in one case.
fn bare(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_uppercase()).collect()
}

/// A UMS ID is settled only if it was called so, and nothing else of its kind was.
fn settled(found: Option<Fingerprint>, evidence: &[Evidence], label: Label) {
    let Some(settled) = found else { return };
    let called: Vec<&Evidence> = evidence
        .iter()
        .filter(|it| it.label == label && (label == Label::Main || it.subject.is_empty()))
        .collect();
    assert!(called.iter().any(|it| it.fingerprint == settled), "{settled} is called nothing");
    let rival = called
        .iter()
        .find(|it| it.fingerprint != settled && it.fingerprint.as_bytes().len() == settled.as_bytes().len());
    assert!(rival.is_none(), "{settled} was taken although {rival:?} is called {label:?} too");
}

fuzz_target!(|text: &str| {
    let evidence = identity::read(text, &WORDS);
    let all = bare(text);
    for found in &evidence {
        assert!(all.contains(&bare(&found.fingerprint.to_string())), "{found:?} is not in the text");
    }
    let (local, main, reason) = identity::resolve(&evidence, &[], &WORDS);
    assert!(!reason.is_empty());
    settled(local, &evidence, Label::Local);
    settled(main, &evidence, Label::Main);

    // Neither the ends of lines nor log lines between them change what is said.
    let dos: String = text.lines().flat_map(|line| [line, " \r\n"]).collect();
    assert_eq!(identity::read(&dos, &WORDS), evidence);
    if !evidence.is_empty() {
        let log = "2026-11-22 20:45:12.123 INFO [main] de.igel.Cli - Local 00\n";
        let noisy: String = text.lines().flat_map(|line| [log, line, "\n"]).collect();
        assert_eq!(identity::read(&noisy, &WORDS), evidence);
    }
});
