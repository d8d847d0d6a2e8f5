//! What an ending means: the one table of exit codes, which error ends with which, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

use serde_json::{Value, json};
use umsid_common::tls::{ConnectError, TlsError};
use umsid_proto::failure::{Code, Failure};

use crate::agents::AgentError;
use crate::authority::AuthorityError;
use crate::database::{Ailment, ailment};
use crate::home::HomeError;
use crate::inventory::InventoryError;
use crate::journal::JournalError;
use crate::printout;
use crate::run::{LeaseError, RunError};
use crate::shared::SharedError;
use crate::watch::book::BookError;
use crate::watch::config::ConfigError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done, and verified where there was something to verify.
    Success = 0,
    /// It failed.
    Failed = 1,
    /// The command line does not do.
    Usage = 2,
    /// Something is not in sync, or not known to be.
    NotInSync = 3,
    /// Somebody else is at it.
    Locked = 4,
    /// A server cannot be reached.
    Unreachable = 5,
    /// A password, passphrase or pairing code is wrong.
    WrongPassword = 6,
    /// A certificate is not accepted.
    Certificate = 7,
    /// A person has to decide.
    NeedsOperator = 8,
    /// Outside of the window of a site.
    NotNow = 9,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

/// The table, as `umsid help exit-codes` shows it.
pub const TABLE: &[(Exit, &str)] = &[
    (Exit::Success, "success; for a sync: every server that was to be synchronized is verified synchronized"),
    (Exit::Failed, "it failed; the error says what, why and what to do"),
    (Exit::Usage, "the command line is wrong, or names a cluster or server that is not there"),
    (Exit::NotInSync, "a server is not in sync, or it is not known whether it is"),
    (Exit::Locked, "another run or another umsid is at work there"),
    (Exit::Unreachable, "a server that is needed cannot be reached"),
    (Exit::WrongPassword, "a password, passphrase or pairing code is wrong, used or expired"),
    (Exit::Certificate, "a certificate is expired, revoked, foreign, or another server's"),
    (
        Exit::NeedsOperator,
        "a server is in a state a person has to decide on, or a run is stuck on its way back; the command to type is printed",
    ),
    (Exit::NotNow, "the window of a site is closed, or too little of it is left; when it opens is printed"),
    (Exit::Interrupted, "interrupted; a run can be taken up again by `umsid resume`"),
];

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// The table as text.
pub fn table() -> String {
    TABLE.iter().map(|(exit, meaning)| format!("  {:>3}  {meaning}\n", exit.code())).collect()
}

/// The table for programs.
pub fn document() -> Value {
    TABLE.iter().map(|(exit, meaning)| json!({ "code": exit.code(), "meaning": meaning })).collect()
}

/// An error with what to do about it and how the program ends, for whoever knows better than the errors below it.
#[derive(Debug)]
pub struct Refusal {
    what: String,
    remedy: String,
    exit: Exit,
    source: Option<anyhow::Error>,
}

impl Refusal {
    /// What is wrong.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: String::new(), exit, source: None }
    }

    /// What to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Why.
    pub fn because(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Refusal {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as &(dyn Error + 'static))
    }
}

/// How the program ends with this error.
pub fn of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(|link| judge(link).map(|(exit, _)| exit)).unwrap_or(Exit::Failed)
}

/// What to do about it, where that is known.
pub fn remedy(error: &anyhow::Error) -> Option<String> {
    error.chain().filter_map(judge).map(|(_, remedy)| remedy).find(|remedy| !remedy.is_empty())
}

/// Whether all that went wrong is that nobody reads our output any more, and nothing was to be done but print.
pub fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.chain().all(|link| !link.is::<Refusal>()) && error.chain().any(printout::is_reader_gone)
}

/// Prints an error: what, why, what to do.
pub fn print(error: &anyhow::Error, to: &mut impl Write) -> io::Result<()> {
    let mut causes = error.chain().flat_map(causes_of);
    writeln!(to, "error: {}", causes.next().unwrap_or_default())?;
    for cause in causes {
        writeln!(to, "  because: {cause}")?;
    }
    if let Some(remedy) = remedy(error) {
        writeln!(to, "  what to do: {remedy}")?;
    }
    Ok(())
}

/// A failure an agent told is a chain in itself.
fn causes_of(link: &(dyn Error + 'static)) -> Vec<String> {
    match failure_of(link) {
        Some(failure) => failure.causes.clone(),
        None => vec![link.to_string()],
    }
}

fn failure_of<'a>(link: &'a (dyn Error + 'static)) -> Option<&'a Failure> {
    link.downcast_ref::<Failure>().or_else(|| link.downcast_ref::<Box<Failure>>().map(AsRef::as_ref))
}

/// What one error in a chain means by itself.
fn judge(link: &(dyn Error + 'static)) -> Option<(Exit, String)> {
    if let Some(refusal) = link.downcast_ref::<Refusal>() {
        return Some((refusal.exit, refusal.remedy.clone()));
    }
    if let Some(failure) = failure_of(link) {
        return Some((of_code(failure.code), failure.remedy.clone()));
    }
    if let Some(AgentError::Lost { .. }) = link.downcast_ref() {
        return Some((Exit::Unreachable, "try again; what was asked may have happened or not".into()));
    }
    if let Some(error) = link.downcast_ref::<ConnectError>() {
        return Some(of_connection(error));
    }
    if let Some(error) = link.downcast_ref::<RunError>() {
        return of_run(error);
    }
    if let Some(error) = link.downcast_ref::<JournalError>() {
        return Some((of_journal(error), error.remedy().into()));
    }
    if let Some(error) = link.downcast_ref::<SharedError>() {
        return error.judge();
    }
    let (exit, remedy) = if let Some(error) = link.downcast_ref::<AuthorityError>() {
        match error {
            AuthorityError::Locked => {
                (Exit::WrongPassword, "give it with --passphrase-file, or run this on a terminal")
            }
            AuthorityError::Shared(error) => return error.judge(),
            AuthorityError::Crowded => (Exit::Locked, "try again"),
            AuthorityError::Moved => (Exit::Locked, "type it again: it is done there then"),
            AuthorityError::Away => (Exit::Unreachable, "`umsid doctor` says why"),
            AuthorityError::WrongPassphrase => {
                (Exit::WrongPassword, "give the passphrase chosen at `umsid init`")
            }
            AuthorityError::Request(_) => {
                (Exit::Certificate, "check that agent and coordinator are of the same version")
            }
            AuthorityError::Missing { .. } | AuthorityError::Unusable { .. } => {
                (Exit::Certificate, "put the authority's directory back from a backup of the state directory")
            }
            AuthorityError::File(_) | AuthorityError::Lock { .. } | AuthorityError::Making(_) => {
                (Exit::Failed, "")
            }
        }
    } else if link.is::<TlsError>() {
        (
            Exit::Certificate,
            "`umsid doctor` shows what is wrong with the coordinator's own files; `umsid rekey` makes a new key and certificate",
        )
    } else if let Some(error) = link.downcast_ref::<HomeError>() {
        of_home(error)
    } else if let Some(error) = link.downcast_ref::<InventoryError>() {
        match error {
            InventoryError::UnknownCluster { .. } | InventoryError::UnknownServer { .. } => {
                (Exit::Usage, "`umsid servers` lists what is enrolled")
            }
            InventoryError::Malformed { .. } | InventoryError::Contradiction { .. } => {
                (Exit::Failed, "correct that line of the file; nothing was done")
            }
            InventoryError::Missing { .. } => (Exit::Failed, "run `umsid init` first"),
            InventoryError::File(_) => (Exit::Failed, ""),
        }
    } else if link.is::<ConfigError>() {
        (
            Exit::Failed,
            "correct the file; deploy/config/watch.toml, in the package /etc/umsid/watch.toml, shows all of it",
        )
    } else if let Some(BookError::Damaged { .. }) = link.downcast_ref() {
        (Exit::Failed, "remove it: what is not as it should be is told again then")
    } else {
        return None;
    };
    Some((exit, remedy.into()))
}

/// What a state directory that cannot be used means, and what to do.
pub(crate) fn of_home(error: &HomeError) -> (Exit, &'static str) {
    match error {
        HomeError::Busy { .. } => (Exit::Locked, "wait until the other umsid is done, or end it"),
        HomeError::Occupied { .. } => (
            Exit::Failed,
            "use it as it is (`umsid doctor` examines it), or choose another with --state-dir; `umsid init --move --state URL` \
                 moves state in files into a database",
        ),
        HomeError::Nowhere | HomeError::NoDirectory { .. } => {
            (Exit::Usage, "name a directory with --state-dir")
        }
        HomeError::OnlyLooks { .. } => {
            (Exit::Certificate, "type this where the coordinator is, or name its directory with --state-dir")
        }
        HomeError::Missing { .. } => {
            (Exit::Failed, "run `umsid init`, or name the right directory with --state-dir")
        }
        HomeError::NoInventory { .. } => (
            Exit::Failed,
            "put inventory.toml back from a backup; if it was `umsid init` that was broken off here, remove the directory and \
             type that again",
        ),
        HomeError::Thread(_) => (Exit::Failed, ""),
        HomeError::Directory(_) | HomeError::Lock { .. } => {
            (Exit::Failed, "it must belong to you and be closed to others: chmod 0700")
        }
    }
}

/// How the program ends when an agent's failure is why.
pub fn of_code(code: Code) -> Exit {
    match code {
        Code::LeaseHeld | Code::LeaseLost | Code::StaleEpoch | Code::Busy => Exit::Locked,
        Code::WrongPassword | Code::EnrolmentRefused => Exit::WrongPassword,
        Code::Certificate | Code::NotAllowed => Exit::Certificate,
        Code::Unreachable => Exit::Unreachable,
        Code::InvalidRequest
        | Code::Protocol
        | Code::OperationConflict
        | Code::NotFound
        | Code::NoSafetyBackup
        | Code::WrongIdentity
        | Code::WrongCluster
        | Code::BadBackup
        | Code::DigestMismatch
        | Code::DiskFull
        | Code::CommandMissing
        | Code::CommandFailed
        | Code::CommandTimeout
        | Code::NoEffect
        | Code::ServiceControl
        | Code::NotRestarted
        | Code::NotHealthy
        | Code::Interrupted
        | Code::BadJournal
        | Code::Internal => Exit::Failed,
    }
}

/// What a run that could not go on means; `None`: what is behind it says.
fn of_run(error: &RunError) -> Option<(Exit, String)> {
    let (exit, remedy) = match error {
        RunError::Journal(_) | RunError::Lease(LeaseError::Refused { .. }) | RunError::Silent { .. } => {
            return None;
        }
        RunError::Lease(LeaseError::Held { held, .. }) => {
            return Some((
                Exit::Locked,
                format!(
                    "wait until it is done, or stop it where it runs; a run whose umsid died lets go at {}, or at once by \
                     `umsid unlock`",
                    held.until.strftime("%H:%M:%S UTC")
                ),
            ));
        }
        RunError::Lease(LeaseError::Missing(_)) => {
            (Exit::Unreachable, "`umsid status` shows which servers answer")
        }
        RunError::Over(_) => {
            (Exit::Usage, "`umsid runs` lists the runs; `umsid status` shows how the servers stand")
        }
        RunError::Lease(LeaseError::Epoch { .. }) => {
            (Exit::NeedsOperator, "put that server's agent in order, then try again")
        }
        RunError::Overtaken { run, .. } => {
            return Some((
                Exit::NeedsOperator,
                format!(
                    "`umsid rollback {run} --give-up` ends it as it stands; then `umsid status` shows how the servers stand, and \
                     a new `umsid sync` starts from there"
                ),
            ));
        }
        RunError::TakenUpElsewhere { cluster, run, .. } => {
            return Some((
                Exit::NeedsOperator,
                format!(
                    "`umsid resume --from-agents {cluster} {run}` compares the two and goes on with the longer"
                ),
            ));
        }
        RunError::NothingToRollBack(_) => (Exit::Usage, "`umsid runs show RUN` shows what it did"),
    };
    Some((exit, remedy.into()))
}

fn of_journal(error: &JournalError) -> Exit {
    match error {
        JournalError::Elsewhere(_) => Exit::Locked,
        JournalError::Missing(_) => Exit::Usage,
        JournalError::Corrupt { .. } | JournalError::CorruptActs { .. } | JournalError::Damaged { .. } => {
            Exit::NeedsOperator
        }
        JournalError::Database { source, .. } if ailment(source) == Ailment::Unreachable => Exit::Unreachable,
        JournalError::Database { .. } | JournalError::Torn(_) | JournalError::Illegal(_) => Exit::Failed,
    }
}

/// What a connection that did not come about means, and what to do.
pub fn of_connection(error: &ConnectError) -> (Exit, String) {
    let (exit, remedy) = match error {
        ConnectError::Resolve { .. } => {
            (Exit::Unreachable, "correct the host name, or the name service of this machine")
        }
        ConnectError::Unreachable { .. } => (
            Exit::Unreachable,
            "check that the host is up, that umsid-agent runs on it, and that its port is open to this machine",
        ),
        ConnectError::Handshake { .. } => {
            (Exit::Certificate, "check that it is umsid-agent that listens at that port")
        }
        ConnectError::WrongServer { .. } => (
            Exit::Certificate,
            "the address leads to another server: correct `address` in inventory.toml, or the name service",
        ),
        ConnectError::Certificate { .. } => {
            (Exit::Certificate, "if the server is the right one, give it a new certificate: `umsid enroll`")
        }
        ConnectError::Rejected { .. } => (
            Exit::Certificate,
            "it was enrolled by another coordinator, or ours is revoked or expired: `umsid doctor`",
        ),
        ConnectError::Gateway { source, .. } => {
            let (exit, remedy) = of_connection(source);
            return (exit, format!("see to its gateway first: {remedy}"));
        }
        ConnectError::Refused { remedy, .. } => return (Exit::Unreachable, remedy.clone()),
    };
    (exit, remedy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    fn printed(error: &anyhow::Error) -> String {
        let mut text = Vec::new();
        print(error, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_code_is_in_the_table_once() {
        let mut codes: Vec<_> = TABLE.iter().map(|(exit, _)| exit.code()).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130]);
    }

    #[test]
    fn an_agents_no_is_printed_with_all_its_causes_and_its_remedy() {
        let mut failure = Failure::new(Code::LeaseHeld, "another run holds this server").remedy("wait");
        failure.causes.push("its lease ends at noon".into());
        let error = Err::<(), _>(AgentError::from(failure)).context("ums1 cannot be changed").unwrap_err();
        assert_eq!(of(&error), Exit::Locked);
        assert_eq!(
            printed(&error),
            "error: ums1 cannot be changed\n  because: the agent refused or failed\n  because: another run holds this server\n  \
             because: its lease ends at noon\n  what to do: wait\n"
        );
    }

    #[test]
    fn who_knows_better_wins() {
        let lost = AgentError::Lost { what: "gone".into() };
        let error =
            anyhow::Error::new(Refusal::new(Exit::NeedsOperator, "half done").remedy("look").because(lost));
        assert_eq!(of(&error), Exit::NeedsOperator);
        assert_eq!(remedy(&error).as_deref(), Some("look"));
        assert!(printed(&error).contains("because: the agent gave no answer: gone"));
    }

    #[test]
    fn what_nobody_knows_is_a_failure() {
        assert_eq!(of(&anyhow::anyhow!("odd")), Exit::Failed);
        assert_eq!(remedy(&anyhow::anyhow!("odd")), None);
    }

    #[test]
    fn a_reader_that_left_is_told_from_a_failure() {
        let unprinted = |kind: io::ErrorKind| anyhow::Error::new(printout::unprinted(kind.into()));
        assert!(is_reader_gone(&unprinted(io::ErrorKind::BrokenPipe).context("cannot print")));
        assert!(!is_reader_gone(&unprinted(io::ErrorKind::StorageFull)));
        // A pipe of somebody else.
        assert!(!is_reader_gone(&anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe))));
        // Somebody had more to say about it.
        let refusal = Refusal::new(Exit::Failed, "a run").because(unprinted(io::ErrorKind::BrokenPipe));
        assert!(!is_reader_gone(&refusal.into()));
    }

    #[test]
    fn what_could_not_be_printed_names_standard_output() {
        let error = anyhow::Error::new(printout::unprinted(io::ErrorKind::StorageFull.into()));
        assert!(printed(&error).starts_with("error: cannot write to standard output\n  because: "));
    }
}
