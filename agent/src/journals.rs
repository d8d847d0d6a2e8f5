//! Copies of the journals of runs on this server: with them a run outlives its coordinator.
//!
//! A copy only grows, record by record, each tied to the one before and all vouched for by a coordinator's signature.
//! What is in a record, the agent does not ask. A copy lost or damaged harms nothing that goes on: it is one of several,
//! and the truth is with the coordinator.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use umsid_common::chain;
use umsid_common::digest::Digest;
use umsid_common::durable::{self, DurableError, Outlives};
use umsid_common::name::{Role, RunId};
use umsid_common::tls::{Credentials, VerifyError};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{JournalCopy, JournalRecord, JournalSeal, LeaseRef};

use crate::lease::{self, Leases};
use crate::state::StateError;

/// Largest record, in bytes of its text.
const RECORD: usize = 512 << 10;

/// Most records of one run: a few for each step of the largest cluster, several times over.
const RECORDS: usize = 10_000;

/// Largest copy, in bytes.
const COPY: u64 = 16 << 20;

/// How many runs' copies are kept.
const RUNS: usize = 20;

/// What the names of copies end in.
const SUFFIX: &str = "jsonl";

/// A record as a line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    number: u64,
    text: String,
    link: Digest,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    seal: Option<Seal>,
}

/// Base64.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    certificates: Vec<String>,
    signature: String,
}

/// Records that are not taken in, or not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalFault {
    #[error("there is no copy of the journal of run {0} here")]
    Missing(RunId),
    #[error("the copy of the journal of run {run} here is damaged: {why}")]
    Corrupt { run: RunId, why: String },
    #[error("record {sent} cannot follow: the copy here has {kept}")]
    Hole { sent: u64, kept: usize },
    #[error("the copy here has another record {0}: there are two journals of this run")]
    Fork(u64),
    #[error(
        "record {0} does not follow the one before: it was altered, or is of another journal of this run"
    )]
    Altered(u64),
    #[error("record {0} is larger than {RECORD} bytes")]
    TooLarge(u64),
    #[error("the journal has more than {RECORDS} records or {COPY} bytes")]
    TooLong,
    #[error("nobody vouches for record {0}")]
    Unsealed(u64),
    #[error("record {number} is not vouched for by a coordinator")]
    Signature {
        number: u64,
        #[source]
        source: VerifyError,
    },
    #[error(transparent)]
    Lease(#[from] lease::Refusal),
    #[error("the copy of a journal cannot be stored or read")]
    File(#[from] DurableError),
}

impl From<JournalFault> for Failure {
    fn from(fault: JournalFault) -> Self {
        let code = match fault {
            JournalFault::Lease(refusal) => return refusal.into(),
            JournalFault::Missing(_) => Code::NotFound,
            JournalFault::File(ref error) if error.is_disk_full() => Code::DiskFull,
            JournalFault::File(_) => Code::Internal,
            _ => Code::BadJournal,
        };
        let failure = Self::of(code, &fault);
        match fault {
            _ if code == Code::DiskFull => failure.remedy("make room where the agent keeps its state"),
            JournalFault::Corrupt { run, .. } => failure.remedy(remedy(&run)),
            _ => failure,
        }
    }
}

fn remedy(run: &RunId) -> String {
    format!(
        "move journals/{run}.{SUFFIX} out of the agent's state directory and restart the agent; the other servers of the run have copies of their own"
    )
}

/// What is known of a copy: the link of each record, and the bytes of the file that are whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    links: Vec<Digest>,
    bytes: u64,
}

impl Held {
    /// Takes in the next record; `true`: it is new.
    fn admit(&mut self, record: &JournalRecord) -> Result<bool, JournalFault> {
        let (number, kept) = (record.number, self.links.len());
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        match index.and_then(|index| Some((index, self.links.get(index)?))) {
            Some((_, link)) if *link == record.link => return Ok(false),
            Some(_) => return Err(JournalFault::Fork(number)),
            None if index != Some(kept) => return Err(JournalFault::Hole { sent: number, kept }),
            None => {}
        }
        if record.text.len() > RECORD {
            return Err(JournalFault::TooLarge(number));
        }
        let previous = self.links.last().copied().unwrap_or_else(chain::genesis);
        if chain::link(&previous, number, record.text.as_bytes()) != record.link {
            return Err(JournalFault::Altered(number));
        }
        self.links.push(record.link);
        Ok(true)
    }

    fn describe(&self, run: &RunId, problem: String) -> JournalCopy {
        let link = self.links.last().copied();
        JournalCopy { run: run.clone(), records: self.links.len() as u64, link, problem }
    }
}

/// A copy, or why it cannot be used.
type Found = Result<Held, String>;

/// The copies on this server.
pub(crate) struct Journals {
    dir: PathBuf,
    copies: Mutex<BTreeMap<RunId, Found>>,
}

impl Journals {
    /// Finds what is there. A damaged copy is no reason not to start.
    pub(crate) fn load(dir: PathBuf) -> Result<Self, StateError> {
        let mut copies = BTreeMap::new();
        for (run, path) in files(&dir)? {
            let found = read(&path).map(|(held, _)| held);
            if let Err(why) = &found {
                tracing::warn!(%run, why, "the copy of a journal is damaged");
            }
            copies.insert(run, found);
        }
        Ok(Self { dir, copies: Mutex::new(copies) })
    }

    // What is under the lock is replaced as a whole: a panic elsewhere leaves it whole.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Found>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, run: &RunId) -> PathBuf {
        self.dir.join(format!("{run}.{SUFFIX}"))
    }

    /// Takes in what follows the copy of the lease's run, all of it or nothing; tells how far the copy goes then.
    pub(crate) fn keep(
        &self,
        leases: &Leases,
        lease: &LeaseRef,
        records: &[JournalRecord],
        trust: &Credentials,
    ) -> Result<JournalCopy, JournalFault> {
        let mut copies = self.lock();
        leases.check(lease)?;
        let run = &lease.run;
        let mut held = match copies.get(run) {
            Some(Ok(held)) => held.clone(),
            Some(Err(why)) => return Err(JournalFault::Corrupt { run: run.clone(), why: why.clone() }),
            None => Held::default(),
        };
        let mut lines = Vec::new();
        let mut last = None;
        for record in records {
            if held.admit(record)? {
                serde_json::to_writer(&mut lines, &Line::from(record)).expect("text and digests are JSON");
                lines.push(b'\n');
                last = Some(record);
            }
        }
        let Some(last) = last else { return Ok(held.describe(run, String::new())) };
        vouched(run, last, trust)?;
        if held.links.len() > RECORDS || held.bytes + lines.len() as u64 > COPY {
            return Err(JournalFault::TooLong);
        }
        if !copies.contains_key(run) {
            self.make_room(&mut copies)?;
        }
        durable::append(&self.path(run), held.bytes, &lines, Outlives::Machine)?;
        held.bytes += lines.len() as u64;
        let copy = held.describe(run, String::new());
        copies.insert(run.clone(), Ok(held));
        Ok(copy)
    }

    /// Forgets the oldest runs, so that there is room for one more. That of the lease is the one more.
    fn make_room(&self, copies: &mut BTreeMap<RunId, Found>) -> Result<(), DurableError> {
        while copies.len() >= RUNS {
            let Some(oldest) = copies.keys().next().cloned() else { break };
            durable::remove(&self.path(&oldest))?;
            copies.remove(&oldest);
        }
        Ok(())
    }

    /// What is here, oldest run first.
    pub(crate) fn list(&self) -> Vec<JournalCopy> {
        let copies = self.lock();
        let describe = |(run, found): (&RunId, &Found)| match found {
            Ok(held) => held.describe(run, String::new()),
            Err(why) => Held::default().describe(run, why.clone()),
        };
        copies.iter().map(describe).collect()
    }

    /// The records of a copy as they are on disk now.
    pub(crate) fn read(&self, run: &RunId) -> Result<Vec<JournalRecord>, JournalFault> {
        let copies = self.lock();
        if !copies.contains_key(run) {
            return Err(JournalFault::Missing(run.clone()));
        }
        match read(&self.path(run)) {
            Ok((_, records)) => Ok(records),
            Err(why) => Err(JournalFault::Corrupt { run: run.clone(), why }),
        }
    }
}

/// Whether a coordinator vouches for this record, and with it for all before.
fn vouched(run: &RunId, record: &JournalRecord, trust: &Credentials) -> Result<(), JournalFault> {
    let number = record.number;
    let Some(JournalSeal { certificates, signature }) = &record.seal else {
        return Err(JournalFault::Unsealed(number));
    };
    let refused = |source| JournalFault::Signature { number, source };
    let message = chain::vouched(run, number, &record.link);
    let signer = trust.verify(certificates, &message, signature).map_err(refused)?;
    match signer.role {
        Role::Coordinator(_) => Ok(()),
        _ => Err(refused(VerifyError::Identity(format!("it was signed by {signer}")))),
    }
}

/// The copies in this directory.
fn files(dir: &Path) -> Result<BTreeMap<RunId, PathBuf>, StateError> {
    let failed = |source| StateError::Directory { doing: "list", path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if path.extension().is_some_and(|suffix| suffix == SUFFIX)
            && let Ok(run) = name.parse()
        {
            files.insert(run, path);
        }
    }
    Ok(files)
}

/// A copy with its records. A last line without an end, and records at the end that nobody vouches for, were left by a crash:
/// they were never told to be kept, and are not counted. Anything else that does not fit is damage.
fn read(path: &Path) -> Result<(Held, Vec<JournalRecord>), String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(COPY + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > COPY {
        return Err(format!("it has more than {COPY} bytes"));
    }
    let (mut held, mut records) = (Held::default(), Vec::new());
    let mut vouched = (0, 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let at = held.links.len() + 1;
        let record: Line = serde_json::from_slice(line).map_err(|error| format!("record {at}: {error}"))?;
        let record = JournalRecord::try_from(record).map_err(|why| format!("record {at}: {why}"))?;
        match held.admit(&record) {
            Ok(true) => {}
            Ok(false) => return Err(format!("record {at} is there twice")),
            Err(fault) => return Err(fault.to_string()),
        }
        held.bytes += line.len() as u64;
        let sealed = record.seal.is_some();
        records.push(record);
        if sealed {
            vouched = (records.len(), held.bytes);
        }
    }
    records.truncate(vouched.0);
    held.links.truncate(vouched.0);
    held.bytes = vouched.1;
    Ok((held, records))
}

/// What is wrong with the copies in this directory, for a person. Changes nothing.
pub(crate) fn damage(dir: &Path) -> Vec<(String, String)> {
    let files = match files(dir) {
        Ok(files) => files,
        Err(error) => return vec![(error.to_string(), String::new())],
    };
    let damaged = files.into_iter().filter_map(|(run, path)| Some((read(&path).err()?, run, path)));
    damaged.map(|(why, run, path)| (format!("{} is damaged: {why}", path.display()), remedy(&run))).collect()
}

impl From<&JournalRecord> for Line {
    fn from(record: &JournalRecord) -> Self {
        let seal = record.seal.as_ref().map(|seal| Seal {
            certificates: seal.certificates.iter().map(|der| BASE64.encode(der)).collect(),
            signature: BASE64.encode(&seal.signature),
        });
        Self { number: record.number, text: record.text.clone(), link: record.link, seal }
    }
}

impl TryFrom<Line> for JournalRecord {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let decode = |text: &String| BASE64.decode(text.as_bytes()).map_err(|error| error.to_string());
        let seal = line.seal.map(|Seal { certificates, signature }| {
            let certificates = certificates.iter().map(decode).collect::<Result<_, _>>()?;
            Ok::<_, String>(JournalSeal { certificates, signature: decode(&signature)? })
        });
        Ok(Self { number: line.number, text: line.text, link: line.link, seal: seal.transpose()? })
    }
}
