//! Backing up this server's UMS ID: for others, sealed to them; or for itself, into its vault.

use std::io::{self, Write};

use jiff::Timestamp;
use secrecy::SecretString;
use umsid_common::digest::Fingerprint;
use umsid_common::durable::{DurableError, Incoming};
use umsid_common::name::random_bytes;
use umsid_common::seal::{self, Provenance, Recipient, SealError};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Handover, Success, Trouble, UmsIds};
use zeroize::Zeroizing;

use super::{Before, Job, not_stored, same, untouched};
use crate::host::blocking;
use crate::spool::SpoolError;
use crate::vault::VaultError;

/// What a sealed file may have over the backup in it, in bytes.
const OVERHEAD: u64 = 1 << 20;

/// Into the vault.
pub(super) async fn safety(job: &Job) -> Result<Success, Trouble> {
    let host = job.host.clone();
    let file = blocking(move || host.vault.begin(host.max_backup + OVERHEAD)).await.map_err(untouched)?;
    let own = vec![job.host.key.recipient()];
    let (file, fingerprint) = sealed(job, file, own, None).await?;
    job.tell("opening the safety backup again", None);
    let host = job.host.clone();
    let backup =
        blocking(move || host.vault.add(file)).await.map_err(|error: VaultError| untouched(error))?;
    Ok(Success::BackedUp { digest: backup.digest, size: backup.size, fingerprint })
}

/// Into the spool, for download.
pub(super) async fn hand_over(job: &Job, handover: &Handover) -> Result<Success, Trouble> {
    let host = job.host.clone();
    let file = blocking(move || host.spool.begin(host.spool.limit())).await.map_err(untouched)?;
    let (file, fingerprint) = sealed(job, file, handover.recipients.clone(), Some(handover.expected)).await?;
    let (host, run) = (job.host.clone(), job.id.run.clone());
    let (digest, size) = blocking(move || host.spool.keep_made(file, &run))
        .await
        .map_err(|error: SpoolError| untouched(error))?;
    Ok(Success::BackedUp { digest, size, fingerprint })
}

/// Backs up and seals. `handed_over`: it leaves this server, so the UMS ID must be the expected one before and after.
async fn sealed(
    job: &Job,
    mut file: Incoming,
    recipients: Vec<Recipient>,
    handed_over: Option<Option<Fingerprint>>,
) -> Result<(Incoming, Option<Fingerprint>), Trouble> {
    let host = &job.host;
    let into = host.state.work_dir("backup-").map_err(|error| untouched(not_stored(&error)))?;
    job.begin(Before::Nothing, None)?;

    job.tell("reading the UMS IDs", None);
    let ids = job.ums(host.ums.ids()).await;
    check(&ids, handed_over)?;
    job.tell("backing up the UMS ID", None);
    let password = password();
    let backup = job.ums(host.ums.back_up(into.path(), &password)).await?;
    let fingerprint = match handed_over {
        None => ids.local,
        Some(_) => {
            job.tell("reading the UMS IDs again", None);
            let after = job.ums(host.ums.ids()).await;
            check(&after, handed_over)?;
            unchanged(&ids, &after)?;
            ids.local.or(after.local)
        }
    };

    job.tell("sealing the backup", None);
    let seen = host.ums_version.lock().map(|version| version.clone()).unwrap_or_default();
    let ums_version = host.ums.version().await.unwrap_or(seen);
    let provenance = Provenance {
        cluster: host.me.cluster.clone(),
        run: job.id.run.clone(),
        source: host.me.server.clone(),
        fingerprint,
        ums_version,
        taken: Timestamp::now(),
    };
    let signer = host.tls.current();
    let file = blocking(move || {
        seal::seal(&backup, &password, provenance, &recipients, &signer, Into(&mut file))?;
        // Its end is the end of the plaintext.
        drop(into);
        Ok(file)
    })
    .await
    .map_err(|error: SealError| untouched(seal_failure(&error)))?;
    Ok((file, fingerprint))
}

/// A definite contradiction is a refusal; where the evidence says nothing, the coordinator has decided already.
fn check(ids: &UmsIds, handed_over: Option<Option<Fingerprint>>) -> Result<(), Trouble> {
    if let (Some(local), Some(Some(expected))) = (ids.local, handed_over)
        && same(local, expected, &ids.certificates) == Some(false)
    {
        let what = format!("this server's UMS ID is {local}, the plan says {expected}");
        return Err(untouched(
            Failure::new(Code::WrongIdentity, what)
                .remedy("look again with `umsid status` and make a new plan"),
        ));
    }
    Ok(())
}

/// The UMS ID in the backup must be the one on both sides of it.
fn unchanged(before: &UmsIds, after: &UmsIds) -> Result<(), Trouble> {
    if let (Some(first), Some(second)) = (before.local, after.local)
        && same(first, second, &[&before.certificates[..], &after.certificates[..]].concat()) == Some(false)
    {
        let what = format!("this server's UMS ID changed during the backup, from {first} to {second}");
        return Err(untouched(
            Failure::new(Code::WrongIdentity, what).remedy("find out who changes it, then begin again"),
        ));
    }
    Ok(())
}

fn seal_failure(error: &SealError) -> Failure {
    let full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let code = match error {
        SealError::Io { source, .. } if full(source.kind()) => Code::DiskFull,
        SealError::TooLarge(_) | SealError::Content(_) => Code::BadBackup,
        SealError::Io { .. } | SealError::Key { .. } | SealError::Closed(_) | SealError::Signature(_) => {
            Code::Internal
        }
    };
    let failure = Failure::of(code, error);
    if code == Code::DiskFull { failure.remedy("make room where the agent keeps its state") } else { failure }
}

/// A file that is being taken in, for what only knows how to write.
struct Into<'a>(&'a mut Incoming);

impl Write for Into<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(DurableError::Io { source, .. }) => Err(source),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A password of 44 characters out of 64, with one of each kind, as password rules are not documented (UMS_FACTS §3);
/// about 260 bits. It begins with a letter or digit.
fn password() -> SecretString {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    loop {
        let random = Zeroizing::new(random_bytes::<44>());
        let text: Zeroizing<String> =
            Zeroizing::new(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])).collect());
        let has = |kind: fn(&u8) -> bool| text.as_bytes().iter().any(kind);
        if text.as_bytes()[0].is_ascii_alphanumeric()
            && has(u8::is_ascii_uppercase)
            && has(u8::is_ascii_lowercase)
            && has(u8::is_ascii_digit)
            && has(|byte| matches!(byte, b'-' | b'_'))
        {
            return SecretString::from(text.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    #[test]
    fn passwords_are_long_and_have_every_kind_of_character() {
        let passwords: std::collections::BTreeSet<_> =
            (0..200).map(|_| password().expose_secret().to_owned()).collect();
        assert_eq!(passwords.len(), 200);
        for password in passwords {
            assert_eq!(password.len(), 44);
            for kind in ["ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "0123456789", "-_"] {
                assert!(password.chars().any(|c| kind.contains(c)), "{password}");
            }
            assert!(password.starts_with(|c: char| c.is_ascii_alphanumeric()));
        }
    }
}
