//! Restoring a UMS ID. The one operation that overwrites what cannot be had again, so everything that can be checked
//! is checked before it is begun: the safety net, the seal, the signature, and whose UMS ID it is.

use std::sync::Arc;

use umsid_common::digest::{Digest, Fingerprint};
use umsid_common::name::{Identity, Role, ServerName};
use umsid_common::seal::{self, Manifest, Opened, SealError, Trust};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{
    Effect, RestoreSource, SafetyBackup, Service, ServiceProcess, ServiceStatus, Success, Trouble, UmsIds,
};

use super::{Before, Job, same, untouched};
use crate::exec;
use crate::host::{Host, blocking};
use crate::spool::Origin;
use crate::ums::{Running, Started, installation};

/// What is to be restored, and under which conditions.
pub(super) struct Wanted<'a> {
    pub(super) source: RestoreSource,
    pub(super) expected: Option<Fingerprint>,
    pub(super) source_server: &'a ServerName,
    pub(super) safety_net: &'a Digest,
    /// No restart follows.
    pub(super) keeps_running: bool,
}

pub(super) async fn restore(job: &Job, wanted: &Wanted<'_>) -> Result<Success, Trouble> {
    let ums = &job.host.ums;
    job.tell("checking the safety backup", None);
    let (host, net) = (job.host.clone(), *wanted.safety_net);
    let net = blocking(move || host.vault.intact(&net)).await.map_err(untouched)?;

    job.tell("opening the backup", None);
    let opened = open(job, wanted).await.map_err(untouched)?;
    let mut remarks = check(&opened, wanted, job).map_err(untouched)?;
    if matches!(wanted.source, RestoreSource::Uploaded(_)) {
        versions_fit(&opened.manifest.ums_version, ums.version().await.as_deref()).map_err(untouched)?;
    }

    job.tell("reading the UMS IDs", None);
    let before = job.ums(ums.ids()).await;
    saved(&before, &net, wanted).map_err(untouched)?;
    let service = job.ums(ums.service()).await;
    // What an attempt before this one has stopped ran before this restore all the same.
    let earlier = job.earlier.as_ref().and_then(|earlier| earlier.started()?.service);
    let ran = service.process.or(earlier);
    job.begin(Before::Local(before.local), ran)?;

    let told = |running: Running| job.entry.running(running);
    let mark = job.id.to_string();
    let started = Started { mark: &mark, told: &told };
    let tell = |text: String, within| job.tell(text, within);
    let restored = job.ums(ums.restore(&opened.backup, &opened.password, started, &tell)).await;
    // The plaintext ends here, whatever came of it.
    drop(opened);

    job.tell("reading the UMS IDs again", None);
    let after = job.ums(ums.ids()).await;
    match restored {
        Ok(said) => remarks.extend(said),
        Err(mut failed) => {
            if let (Effect::Possible, Some(local)) = (failed.effect, after.local) {
                let now = job.ums(ums.service()).await;
                let as_before = runs_on(service.process, &now) && ran == service.process;
                if has_ended(job, &failed.failure).await && unchanged(&before, &after) && as_before {
                    failed.effect = Effect::None;
                    failed.failure.causes.push(format!("this server's UMS ID still is {local}"));
                } else {
                    failed.failure.causes.push(format!("this server's UMS ID is now {local}"));
                }
            }
            return Err(failed.into());
        }
    }
    let mut success = judge(before.local, wanted.expected, after, remarks)?;
    let ran = ran.is_some() || service.status == ServiceStatus::Running;
    if wanted.keeps_running && ran && job.ums(ums.service()).await.status != ServiceStatus::Running {
        job.ums(ums.restart(None, started, &tell)).await?;
        if let Success::Restored { remarks, .. } = &mut success {
            remarks.push("the UMS Server was started again: no restart follows".into());
        }
    }
    Ok(success)
}

/// Whether the restore's program has ended, and nothing else that was begun may still go on: a UMS Server told to stop may
/// stop later.
async fn has_ended(job: &Job, failure: &Failure) -> bool {
    let program = job.entry.started().and_then(|started| started.program);
    let Some((pid, started)) = program.filter(|_| failure.code != Code::ServiceControl) else { return false };
    !job.host.ums.is_running(Running { pid, started }).await
}

fn unchanged(before: &UmsIds, after: &UmsIds) -> bool {
    let seen: Vec<_> = before.certificates.iter().chain(&after.certificates).copied().collect();
    before.local.zip(after.local).and_then(|(before, after)| same(before, after, &seen)) == Some(true)
}

/// Whether the service is as it was: the same process, or stopped as before.
pub(super) fn runs_on(before: Option<ServiceProcess>, now: &Service) -> bool {
    match (before, now.process) {
        (Some(before), Some(process)) => {
            now.status == ServiceStatus::Running && exec::same_process(&before, &process)
        }
        (None, None) => now.status == ServiceStatus::Stopped,
        _ => false,
    }
}

/// Whether what is about to be overwritten is what the safety backup holds. A UMS ID that came since would be lost; only
/// the wanted one needs no saving, and the way back is open from wherever a restore has led.
fn saved(now: &UmsIds, net: &SafetyBackup, wanted: &Wanted<'_>) -> Result<(), Failure> {
    let (Some(local), Some(held)) = (now.local, net.fingerprint) else { return Ok(()) };
    let is = |other| same(local, other, &now.certificates);
    let goes_back =
        matches!(wanted.source, RestoreSource::SafetyBackup(digest) if digest == *wanted.safety_net);
    if goes_back || is(held) != Some(false) || wanted.expected.and_then(is) == Some(true) {
        return Ok(());
    }
    let what = format!("this server's UMS ID is {local} now, but its safety backup holds {held}");
    Err(Failure::new(Code::NoSafetyBackup, what)
        .remedy("put it back with `umsid rollback`, or begin a new run, which saves what is there now"))
}

async fn open(job: &Job, wanted: &Wanted<'_>) -> Result<Opened, Failure> {
    let (host, run, source) = (job.host.clone(), job.id.run.clone(), wanted.source);
    blocking(move || match source {
        RestoreSource::SafetyBackup(digest) => Ok(host.vault.open(&digest)?),
        RestoreSource::Uploaded(digest) => {
            let (sealed, _) = host.spool.open(&digest, &run, Origin::Uploaded)?;
            let trust = host.tls.current();
            let (work, limit) = (host.state.work(), host.max_backup);
            seal::open(sealed, &host.key, &Trust::Anchors(&trust), &work, limit)
                .map_err(|error| not_opened(&error))
        }
    })
    .await
}

fn not_opened(error: &SealError) -> Failure {
    let full = |kind| matches!(kind, std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
    let code = match error {
        SealError::Closed(_) | SealError::Content(_) | SealError::TooLarge(_) => Code::BadBackup,
        SealError::Signature(_) => Code::WrongIdentity,
        SealError::Io { source, .. } if full(source.kind()) => Code::DiskFull,
        SealError::Io { .. } | SealError::Key { .. } => Code::Internal,
    };
    let remedy = match code {
        Code::DiskFull => "make room where the agent keeps its state",
        Code::Internal => "see `umsid-agent doctor` on that server",
        _ => "do not use this backup: begin a new run, which makes a new one",
    };
    Failure::of(code, error).remedy(remedy)
}

/// Whether this backup may be restored here, now; what is worth a remark.
fn check(opened: &Opened, wanted: &Wanted<'_>, job: &Job) -> Result<Vec<String>, Failure> {
    let host: &Arc<Host> = &job.host;
    let Opened { manifest, signer, .. } = opened;
    let refuse =
        |code, what: String| Err(Failure::new(code, what).remedy("do not use this backup: begin a new run"));
    if manifest.cluster != host.me.cluster {
        let what =
            format!("the backup is of cluster {}, this server is of {}", manifest.cluster, host.me.cluster);
        return refuse(Code::WrongCluster, what);
    }
    let source = Identity {
        trust_domain: host.me.trust_domain.clone(),
        role: Role::Agent { cluster: host.me.cluster.clone(), server: wanted.source_server.clone() },
    };
    if *signer != source || manifest.source != *wanted.source_server {
        let what =
            format!("the backup is {}'s, signed by {signer}; wanted was one of {source}", manifest.source);
        return refuse(Code::WrongIdentity, what);
    }
    let uploaded = matches!(wanted.source, RestoreSource::Uploaded(_));
    if uploaded && manifest.run != job.id.run {
        let what = format!("the backup was made in run {}, not in run {}", manifest.run, job.id.run);
        return refuse(Code::WrongIdentity, what);
    }
    if !manifest.recipients.contains(&host.key.recipient()) {
        return refuse(
            Code::BadBackup,
            "the backup's manifest does not name this server as a recipient".into(),
        );
    }
    fingerprint_fits(manifest, wanted.expected)
}

/// Whether the backup is of the version of UMS that is here now. They were equal when the run was planned (UMS_FACTS §6);
/// whether a backup can be taken to another version is not documented (UMS_FACTS §3). The way back is not asked: what it
/// takes was made here.
fn versions_fit(made_by: &str, here: Option<&str>) -> Result<(), Failure> {
    let Some(here) = here.filter(|here| !made_by.is_empty() && !is_same_version(made_by, here)) else {
        return Ok(());
    };
    let what = format!("the backup is of UMS {made_by}, and UMS {here} is installed here now");
    Err(Failure::new(Code::BadBackup, what).remedy(
        "all servers of an installation must run the same version: see to that, then begin a new run",
    ))
}

/// Zero-padded or not.
fn is_same_version(one: &str, other: &str) -> bool {
    let at_least = |version: &str, since: &str| installation::at_least(version, since) == Some(true);
    one == other || at_least(one, other) && at_least(other, one)
}

fn fingerprint_fits(manifest: &Manifest, expected: Option<Fingerprint>) -> Result<Vec<String>, Failure> {
    match (manifest.fingerprint, expected) {
        (Some(found), Some(expected)) => match same(found, expected, &[]) {
            Some(true) => Ok(Vec::new()),
            Some(false) => {
                let what = format!("the backup is of the UMS ID {found}, the plan says {expected}");
                Err(Failure::new(Code::WrongIdentity, what).remedy("do not use this backup: begin a new run"))
            }
            None => Ok(vec![format!(
                "whether {found}, the UMS ID in the backup, is {expected}, could not be said: one is SHA-1"
            )]),
        },
        (None, _) => Ok(vec!["the backup does not say which UMS ID is in it".into()]),
        (Some(_), None) => Ok(Vec::new()),
    }
}

/// What the evidence says after a restore that reported success. Exit code 0 is "perhaps".
fn judge(
    before: Option<Fingerprint>,
    expected: Option<Fingerprint>,
    after: UmsIds,
    mut remarks: Vec<String>,
) -> Result<Success, Trouble> {
    let (Some(local), Some(expected)) = (after.local, expected) else {
        remarks.push("the evidence does not say which UMS ID this server has now".into());
        return Ok(Success::Restored { ums_ids: after, remarks });
    };
    match same(local, expected, &after.certificates) {
        Some(true) => Ok(Success::Restored { ums_ids: after, remarks }),
        None => {
            remarks
                .push(format!("whether {local}, this server's UMS ID now, is {expected}, could not be said"));
            Ok(Success::Restored { ums_ids: after, remarks })
        }
        Some(false) => {
            let unchanged =
                before.is_some_and(|before| same(before, local, &after.certificates) == Some(true));
            let failure = if unchanged {
                Failure::new(
                    Code::NoEffect,
                    format!("the restore reported success, but this server's UMS ID still is {local}"),
                )
            } else {
                Failure::new(
                    Code::WrongIdentity,
                    format!("after the restore this server's UMS ID is {local}, expected was {expected}"),
                )
            };
            let failure = failure.remedy("roll this server back: `umsid rollback`");
            Err(Trouble::Failed { failure, effect: Effect::Possible })
        }
    }
}

/// What became of a restore in the middle of which the agent was stopped. `as_it_was`: the UMS Server is, and no program
/// that could do the restore is at work, so that nothing can change any more.
pub(super) fn found(
    before: Option<Fingerprint>,
    expected: Option<Fingerprint>,
    now: UmsIds,
    as_it_was: bool,
) -> Result<Success, Trouble> {
    let Some(local) = now.local else {
        return Err(Trouble::Unknown(format!(
            "the agent was stopped during the restore, and the evidence does not say which UMS ID this server has now: {}",
            now.reason
        )));
    };
    let is = |other: Option<Fingerprint>| other.and_then(|other| same(local, other, &now.certificates));
    // Also where just that was to be restored, as in a rehearsal: then nothing shows that it was. Once more does no harm.
    if is(before) == Some(true) {
        let failure = Failure::new(
            Code::Interrupted,
            format!("the agent was stopped during the restore, and this server's UMS ID still is {local}"),
        );
        let effect = if as_it_was { Effect::None } else { Effect::Possible };
        return Err(Trouble::Failed { failure, effect });
    }
    if is(expected) == Some(true) {
        let remarks =
            vec!["the agent was stopped during the restore; this is what it found afterwards".into()];
        return Ok(Success::Restored { ums_ids: now, remarks });
    }
    let known = |print: Option<Fingerprint>| print.map_or("not known".to_owned(), |print| print.to_string());
    Err(Trouble::Unknown(format!(
        "the agent was stopped during the restore; this server's UMS ID is now {local}, before it was {}, expected was {}",
        known(before),
        known(expected)
    )))
}

#[cfg(test)]
#[path = "restore/tests.rs"]
mod tests;
