//! The domain types both programs work with, and the door wire messages come in by.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use umsid_common::digest::{Digest, Fingerprint};
use umsid_common::name::{ClusterName, OperationId, RunId, ServerName};
use umsid_common::seal::Recipient;

use crate::wire;

mod inspection;
mod journal;
mod operation;
mod ums_ids;

pub use inspection::{
    Disk, Health, HealthStatus, Inspection, LeaseState, RawOutput, SafetyBackup, Service, ServiceProcess,
    ServiceStatus,
};
pub use journal::{JournalCopy, JournalRecord, JournalSeal};
pub use operation::{
    Action, Effect, Handover, LeaseRef, Operation, OperationState, Outcome, Phase, Progress, RestoreSource,
    Success, Trouble,
};
pub use ums_ids::{CertificateSeen, Evidence, EvidenceSource, Label, UmsIds};

/// A wire message that means nothing: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Invalid {
    field: &'static str,
    why: String,
}

impl Invalid {
    /// A field that does not do.
    pub fn new(field: &'static str, why: impl fmt::Display) -> Self {
        Self { field, why: why.to_string() }
    }
}

/// Milliseconds since the Unix epoch as a moment.
pub fn moment(field: &'static str, unix_ms: i64) -> Result<Timestamp, Invalid> {
    Timestamp::from_millisecond(unix_ms).map_err(|error| Invalid::new(field, error))
}

/// A value that must be there.
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "it is missing"))
}

/// Text as one of our names or ids.
pub fn named<T>(field: &'static str, text: &str) -> Result<T, Invalid>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    text.parse().map_err(|error| Invalid::new(field, error))
}

/// Bytes as a SHA-256 digest.
pub fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, Invalid> {
    Digest::try_from(bytes).map_err(|error| Invalid::new(field, error))
}

/// Longest line anybody wants to read, characters.
const LONGEST_LINE: usize = 4096;

/// What another machine says in one line, without what would steer a terminal or feign further lines.
pub fn line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(LONGEST_LINE)
        .map(|c| if matches!(c, '\n' | '\t') { ' ' } else { visible(c) })
        .collect();
    if text.chars().nth(LONGEST_LINE).is_some() {
        line.push('…');
    }
    line
}

/// The same of many lines, as a program prints them.
pub(crate) fn lines(text: &str) -> String {
    let visible = |c| if matches!(c, '\n' | '\t') { c } else { visible(c) };
    text.replace("\r\n", "\n").chars().map(visible).collect()
}

/// Control characters steer a terminal; what turns the direction of writing makes a line read as another one
/// (CVE-2021-42574); what is invisible hides in it.
fn visible(c: char) -> char {
    let hidden = matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
    if c.is_control() || hidden { char::REPLACEMENT_CHARACTER } else { c }
}

fn fingerprint(field: &'static str, wire: &wire::Fingerprint) -> Result<Fingerprint, Invalid> {
    Fingerprint::try_from(wire.digest.as_slice()).map_err(|error| Invalid::new(field, error))
}

impl From<Fingerprint> for wire::Fingerprint {
    fn from(fingerprint: Fingerprint) -> Self {
        Self { digest: fingerprint.as_bytes().to_vec() }
    }
}

#[cfg(test)]
mod tests;
