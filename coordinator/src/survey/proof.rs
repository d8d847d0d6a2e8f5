//! Whether a server is verified synchronized after a run touched it: a pure function of what it showed before and now.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use umsid_common::digest::Fingerprint;
use umsid_proto::model::UmsIds;

use super::Survey;
use super::assess::shown;

/// What a server showed before it was touched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Its own UMS ID, where the evidence settled it.
    pub local: Option<Fingerprint>,
    /// All fingerprints it showed of itself.
    pub shown: BTreeSet<Fingerprint>,
}

impl Baseline {
    /// What these UMS IDs amount to.
    pub fn of(survey: &Survey, ids: &UmsIds) -> Self {
        Self { local: ids.local.map(|print| survey.canonical(print)), shown: shown(survey, ids) }
    }
}

/// Yes, no and unknown are three answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer", content = "why")]
pub enum Proof {
    /// It holds the wanted UMS ID.
    Yes(String),
    /// It holds another.
    No(String),
    /// The evidence does not settle it.
    Unknown(String),
}

/// Whether a server holds `wanted` now.
///
/// Labelled evidence settles it. Without labels there is one more proof: the server shows nothing but `wanted` now, and
/// showed something else before; what changed with the restore is what the restore changes.
pub fn prove(survey: &Survey, before: &Baseline, now: &UmsIds, wanted: Option<Fingerprint>) -> Proof {
    let Some(wanted) = wanted.map(|print| survey.canonical(print)) else {
        return Proof::Unknown("the fingerprint of the Main UMS ID is not known".to_owned());
    };
    let after = Baseline::of(survey, now);
    let comparable = |print: &Fingerprint| print.as_bytes().len() == wanted.as_bytes().len();
    match after.local {
        Some(local) if local == wanted => {
            return Proof::Yes(format!("its own UMS ID is {}", wanted.short()));
        }
        Some(local) if comparable(&local) => {
            return Proof::No(format!("its own UMS ID is {}, not {}", local.short(), wanted.short()));
        }
        _ => {}
    }
    if !after.shown.is_empty()
        && after.shown.iter().all(|print| *print == wanted)
        && before.shown != after.shown
    {
        return Proof::Yes(format!("it shows only {} now, and showed something else before", wanted.short()));
    }
    if !after.shown.is_empty() && after.shown.iter().all(comparable) && !after.shown.contains(&wanted) {
        return Proof::No(format!("it does not show {} at all", wanted.short()));
    }
    Proof::Unknown(now.reason.clone())
}
