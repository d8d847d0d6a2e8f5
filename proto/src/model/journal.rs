//! Copies of a run's journal, as agents keep them.

use super::{Digest, Invalid, RunId, digest, named, wire};

/// A record of a run's journal as it travels: what is in it, the coordinator knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// From 1, without gaps.
    pub number: u64,
    /// Its time, a line break, its event as JSON.
    pub text: String,
    /// Its link ([`umsid_common::chain`]).
    pub link: Digest,
    /// Who vouches for it and all before; on the last of what was sent at once.
    pub seal: Option<JournalSeal>,
}

/// A coordinator's word for a record and all before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSeal {
    /// DER, leaf first.
    pub certificates: Vec<Vec<u8>>,
    /// Over [`umsid_common::chain::vouched`].
    pub signature: Vec<u8>,
}

/// How far an agent's copy of a run's journal goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalCopy {
    /// The run.
    pub run: RunId,
    /// How many records; 0: there is no copy.
    pub records: u64,
    /// Of the last record.
    pub link: Option<Digest>,
    /// Why it cannot be used; empty if it can.
    pub problem: String,
}

impl TryFrom<wire::JournalRecord> for JournalRecord {
    type Error = Invalid;

    fn try_from(wire: wire::JournalRecord) -> Result<Self, Invalid> {
        let wire::JournalRecord { number, text, link, seal } = wire;
        let seal =
            seal.map(|wire::JournalSeal { certificates, signature }| JournalSeal { certificates, signature });
        Ok(Self { number, text, link: digest("record.link", &link)?, seal })
    }
}

impl From<JournalRecord> for wire::JournalRecord {
    fn from(record: JournalRecord) -> Self {
        let JournalRecord { number, text, link, seal } = record;
        let seal =
            seal.map(|JournalSeal { certificates, signature }| wire::JournalSeal { certificates, signature });
        Self { number, text, link: link.as_bytes().to_vec(), seal }
    }
}

impl TryFrom<wire::JournalCopy> for JournalCopy {
    type Error = Invalid;

    fn try_from(wire: wire::JournalCopy) -> Result<Self, Invalid> {
        let wire::JournalCopy { run, records, link, problem } = wire;
        let link = Some(link).filter(|link| !link.is_empty());
        let link = link.map(|link| digest("copy.link", &link)).transpose()?;
        if link.is_some() != (records > 0) {
            return Err(Invalid::new("copy.link", "it is there exactly if there are records"));
        }
        Ok(Self { run: named("copy.run", &run)?, records, link, problem })
    }
}

impl From<JournalCopy> for wire::JournalCopy {
    fn from(copy: JournalCopy) -> Self {
        let JournalCopy { run, records, link, problem } = copy;
        let link = link.map_or_else(Vec::new, |link| link.as_bytes().to_vec());
        Self { run: run.to_string(), records, link, problem }
    }
}
