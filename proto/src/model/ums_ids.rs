//! What is known of the UMS IDs on one server, and how.

use super::{Deserialize, Fingerprint, Invalid, RawOutput, Serialize, fingerprint, line, required, wire};

/// What is known of the UMS IDs on one server. Unknown is an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UmsIds {
    /// This server's own, if the evidence settles it.
    pub local: Option<Fingerprint>,
    /// The one it takes for Main, if the evidence settles it.
    pub main: Option<Fingerprint>,
    /// Every fingerprint some output showed.
    pub evidence: Vec<Evidence>,
    /// Certificates that were really read.
    pub certificates: Vec<CertificateSeen>,
    /// The commands that were run and all they printed.
    pub raw: Vec<RawOutput>,
    /// One sentence: how local and main were told, or why they could not be.
    pub reason: String,
}

/// One fingerprint that some output showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Which output.
    pub source: EvidenceSource,
    /// What words near it call it.
    pub label: Label,
    /// The fingerprint.
    pub fingerprint: Fingerprint,
    /// The host the line names; empty: it speaks of this server.
    pub subject: String,
    /// The line, for a person.
    pub line: String,
}

/// Which output showed a fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvidenceSource {
    /// `licensing list`.
    List,
    /// `licensing export`.
    Export,
}

/// What words near a fingerprint call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Label {
    /// Nothing.
    Unlabelled,
    /// Main.
    Main,
    /// Local.
    Local,
}

/// A certificate that was really read: ties the SHA-1 some outputs show to the SHA-256 others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateSeen {
    /// SHA-256 of its DER.
    pub sha256: Fingerprint,
    /// SHA-1 of its DER.
    pub sha1: Fingerprint,
}

impl From<UmsIds> for wire::UmsIds {
    fn from(model: UmsIds) -> Self {
        let evidence = |evidence: Evidence| wire::Evidence {
            source: match evidence.source {
                EvidenceSource::List => wire::EvidenceSource::List,
                EvidenceSource::Export => wire::EvidenceSource::Export,
            }
            .into(),
            label: match evidence.label {
                Label::Unlabelled => wire::UmsIdLabel::Unlabelled,
                Label::Main => wire::UmsIdLabel::Main,
                Label::Local => wire::UmsIdLabel::Local,
            }
            .into(),
            fingerprint: Some(evidence.fingerprint.into()),
            subject: evidence.subject,
            line: evidence.line,
        };
        let certificate = |seen: CertificateSeen| wire::CertificateSeen {
            sha256: Some(seen.sha256.into()),
            sha1: Some(seen.sha1.into()),
        };
        Self {
            local: model.local.map(Into::into),
            main: model.main.map(Into::into),
            evidence: model.evidence.into_iter().map(evidence).collect(),
            certificates: model.certificates.into_iter().map(certificate).collect(),
            raw: model.raw.into_iter().map(Into::into).collect(),
            reason: model.reason,
        }
    }
}

impl TryFrom<wire::UmsIds> for UmsIds {
    type Error = Invalid;

    fn try_from(wire: wire::UmsIds) -> Result<Self, Invalid> {
        let print = |field, wire: Option<wire::Fingerprint>| {
            wire.as_ref().map(|wire| fingerprint(field, wire)).transpose()
        };
        let evidence = |wire: wire::Evidence| {
            Ok(Evidence {
                source: match wire.source() {
                    wire::EvidenceSource::List => EvidenceSource::List,
                    wire::EvidenceSource::Export => EvidenceSource::Export,
                    wire::EvidenceSource::Unspecified => {
                        return Err(Invalid::new("evidence.source", "it is missing"));
                    }
                },
                label: match wire.label() {
                    wire::UmsIdLabel::Main => Label::Main,
                    wire::UmsIdLabel::Local => Label::Local,
                    wire::UmsIdLabel::Unlabelled | wire::UmsIdLabel::Unspecified => Label::Unlabelled,
                },
                fingerprint: required(
                    "evidence.fingerprint",
                    print("evidence.fingerprint", wire.fingerprint)?,
                )?,
                subject: line(&wire.subject),
                line: line(&wire.line),
            })
        };
        let certificate = |wire: wire::CertificateSeen| {
            Ok(CertificateSeen {
                sha256: required("certificate.sha256", print("certificate.sha256", wire.sha256)?)?,
                sha1: required("certificate.sha1", print("certificate.sha1", wire.sha1)?)?,
            })
        };
        Ok(Self {
            local: print("ums_ids.local", wire.local)?,
            main: print("ums_ids.main", wire.main)?,
            evidence: wire.evidence.into_iter().map(evidence).collect::<Result<_, Invalid>>()?,
            certificates: wire.certificates.into_iter().map(certificate).collect::<Result<_, Invalid>>()?,
            raw: wire.raw.into_iter().map(Into::into).collect(),
            reason: line(&wire.reason),
        })
    }
}
