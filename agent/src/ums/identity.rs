//! Which UMS IDs this server has: evidence, and how sure it makes us. Never a guess: unknown is an answer, and the raw
//! output goes along.

use umsid_common::digest::Fingerprint;
use umsid_proto::model::{CertificateSeen, Evidence, EvidenceSource, Label, UmsIds};

mod reading;
mod scan;
mod table;
mod words;

pub use reading::read;
pub use words::{Words, is_log};

/// What the evidence settles: this server's own UMS ID, the Main one, and a sentence on how they were told or why not.
pub fn resolve(
    evidence: &[Evidence],
    certificates: &[CertificateSeen],
    words: &Words,
) -> (Option<Fingerprint>, Option<Fingerprint>, String) {
    let local = settle(evidence, certificates, Label::Local);
    let main = settle(evidence, certificates, Label::Main);
    let list = evidence.iter().filter(|evidence| evidence.source == EvidenceSource::List).count();
    let reason = match (&local, &main) {
        _ if list == 0 => "licensing list showed no fingerprint".to_owned(),
        (Settled::One(local), Settled::One(main)) if local == main => {
            "licensing list shows one fingerprint for Local and Main".to_owned()
        }
        (Settled::One(_), Settled::One(_)) => {
            "licensing list shows which fingerprint is Local and which is Main".to_owned()
        }
        (local, main) => {
            format!("licensing list: {}; {}", local.say("Local"), main.say("Main"))
                + &others(evidence, local, words)
        }
    };
    (local.one(), main.one(), reason)
}

/// Why the rows do not speak of this server, if they speak of others.
fn others(evidence: &[Evidence], local: &Settled, words: &Words) -> String {
    let mut names: Vec<&str> =
        evidence.iter().map(|evidence| evidence.subject.as_str()).filter(|name| !name.is_empty()).collect();
    names.dedup();
    if names.is_empty() || !matches!(local, Settled::None) {
        return String::new();
    }
    let known = if words.hosts().is_empty() { "no name".to_owned() } else { words.hosts().join(", ") };
    format!("; the rows name {}, and this server goes by {known}: set ums.host_names", names.join(", "))
}

enum Settled {
    None,
    One(Fingerprint),
    Several(usize),
}

impl Settled {
    fn one(&self) -> Option<Fingerprint> {
        match self {
            Self::One(fingerprint) => Some(*fingerprint),
            _ => None,
        }
    }

    fn say(&self, label: &str) -> String {
        match self {
            Self::None => format!("no fingerprint is called {label}"),
            Self::One(fingerprint) => format!("{label} is {}", fingerprint.short()),
            Self::Several(number) => format!("{number} different fingerprints are called {label}"),
        }
    }
}

/// The one UMS ID of this label. SHA-1 and SHA-256 of one certificate are one; where a certificate does not tie them
/// together, the SHA-256 is taken if there is exactly one of each.
fn settle(evidence: &[Evidence], certificates: &[CertificateSeen], label: Label) -> Settled {
    let of_label = evidence.iter().filter(|evidence| evidence.label == label);
    // What another server calls its own is not ours.
    let about_us = of_label.filter(|evidence| label == Label::Main || evidence.subject.is_empty());
    let mut found: Vec<Fingerprint> =
        about_us.map(|evidence| tie(evidence.fingerprint, certificates)).collect();
    found.sort();
    found.dedup();
    let (long, short): (Vec<Fingerprint>, Vec<Fingerprint>) =
        found.into_iter().partition(|print| matches!(print, Fingerprint::Sha256(_)));
    match (long.as_slice(), short.as_slice()) {
        ([], []) => Settled::None,
        ([one], [] | [_]) | ([], [one]) => Settled::One(*one),
        _ => Settled::Several(long.len().max(short.len())),
    }
}

/// The SHA-256 of a certificate that was really read, for its SHA-1.
fn tie(fingerprint: Fingerprint, certificates: &[CertificateSeen]) -> Fingerprint {
    let known = certificates.iter().find(|seen| seen.sha1 == fingerprint);
    known.map_or(fingerprint, |seen| seen.sha256)
}

/// Whether the evidence settles both, by whatever digest.
pub fn is_labelled(evidence: &[Evidence]) -> bool {
    [Label::Local, Label::Main]
        .into_iter()
        .all(|label| matches!(settle(evidence, &[], label), Settled::One(_)))
}

/// Whether the evidence settles both, by SHA-256.
pub fn is_settled(evidence: &[Evidence], certificates: &[CertificateSeen]) -> bool {
    [Label::Local, Label::Main]
        .into_iter()
        .all(|label| matches!(settle(evidence, certificates, label), Settled::One(Fingerprint::Sha256(_))))
}

/// A certificate that was exported, and what it proves. What it is called follows only from a labelled fingerprint in
/// the list: whether `export` gives the Local or the Main one is not documented (UMS_FACTS §2).
pub fn exported(file: &[u8], list: &[Evidence]) -> Result<(CertificateSeen, Vec<Evidence>), BadCertificate> {
    let der = der_of(file)?;
    let seen = CertificateSeen { sha256: Fingerprint::sha256_of(&der), sha1: Fingerprint::sha1_of(&der) };
    let same = |evidence: &&Evidence| [seen.sha256, seen.sha1].contains(&evidence.fingerprint);
    let mut labels: Vec<Label> = list
        .iter()
        .filter(same)
        .filter(|evidence| evidence.subject.is_empty() || evidence.label == Label::Main)
        .map(|evidence| evidence.label)
        .collect();
    labels.retain(|label| *label != Label::Unlabelled);
    labels.dedup();
    if labels.is_empty() {
        labels.push(Label::Unlabelled);
    }
    let evidence = |label| Evidence {
        source: EvidenceSource::Export,
        label,
        fingerprint: seen.sha256,
        subject: String::new(),
        line: format!("the exported certificate: SHA-256 {}, SHA-1 {}", seen.sha256, seen.sha1),
    };
    Ok((seen, labels.into_iter().map(evidence).collect()))
}

/// An exported file that is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the exported file is no certificate: {0}")]
pub struct BadCertificate(String);

/// The DER of a certificate in either form, told by content.
fn der_of(file: &[u8]) -> Result<Vec<u8>, BadCertificate> {
    const MARK: &[u8] = b"-----BEGIN ";
    let bad = |why: &dyn std::fmt::Display| BadCertificate(why.to_string());
    let der = if file.windows(MARK.len()).any(|window| window == MARK) {
        let pems = x509_parser::pem::Pem::iter_from_buffer(file).flatten();
        let first = pems.into_iter().find(|pem| pem.label.ends_with("CERTIFICATE"));
        first.ok_or_else(|| bad(&"there is no certificate in its PEM text"))?.contents
    } else {
        file.to_vec()
    };
    let (rest, _) = x509_parser::parse_x509_certificate(&der).map_err(|error| bad(&error))?;
    let length = der.len() - rest.len();
    Ok(der[..length].to_vec())
}

/// Puts the pieces together.
pub fn conclude(mut ids: UmsIds, words: &Words) -> UmsIds {
    let (local, main, reason) = resolve(&ids.evidence, &ids.certificates, words);
    ids.local = local;
    ids.main = main;
    ids.reason = if ids.reason.is_empty() { reason } else { format!("{reason}; {}", ids.reason) };
    ids
}
