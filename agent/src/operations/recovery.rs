//! Operations found without an outcome at the start: what became of them is found out, not assumed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Action, Effect, Service, ServiceStatus, Success, Trouble};

use super::record::{Before, Started};
use super::{Entry, Job, Operations, restart, restore, untouched};
use crate::ums::{Previous, Running};

/// How often a process that may be replaced is looked at.
const LOOK: Duration = Duration::from_millis(200);

impl Operations {
    /// Finds out what became of every operation without an outcome; new ones are refused until that is known.
    pub(crate) fn recover(self: &Arc<Self>) {
        let mut desk = self.lock();
        let mut unfinished: Vec<_> =
            desk.entries.values().filter(|entry| entry.operation().outcome.is_none()).cloned().collect();
        if unfinished.is_empty() {
            return;
        }
        unfinished.sort_by_key(|entry| entry.order());
        desk.current = Some(format!("finding out what became of {}", unfinished[0].operation().id));
        self.idle.send_replace(false);
        drop(desk);
        // Before anybody can ask for the lease.
        let engaged: Vec<_> = unfinished
            .iter()
            .filter_map(|entry| self.host.leases.engage_again(&entry.operation().id.run))
            .collect();
        let operations = self.clone();
        tokio::spawn(async move {
            let _turn = operations.host.turn.lock().await;
            let mut engaged = Some(engaged);
            let last = unfinished.len() - 1;
            for (number, entry) in unfinished.into_iter().enumerate() {
                let job = Job::new(operations.host.clone(), entry);
                let result = settle(&job).await;
                if number == last {
                    operations.host.state.clear_left_over();
                    engaged.take();
                    operations.end(&job, result, None);
                } else {
                    job.entry.finish(job.outcome(result));
                }
            }
        });
    }
}

async fn settle(job: &Job) -> Result<Success, Trouble> {
    let entry: &Entry = &job.entry;
    let Some(started) = entry.started() else {
        return Err(interrupted("before it did anything", Effect::None));
    };
    job.tell("the agent was stopped in the middle: finding out what is true", None);
    match entry.action() {
        Action::SafetyBackup | Action::Backup(_) | Action::Discard => {
            Err(interrupted("in the middle; nothing on the server was changed", Effect::None))
        }
        Action::Restore { expected, keeps_running, .. } => {
            let Before::Local(before) = started.before else { return Err(nonsense(&started)) };
            let program = started.program.map(|(pid, started)| Running { pid, started });
            if let Some(program) = program {
                let patience = job.host.deadlines.program;
                job.tell("waiting for the restore to end", Some(patience));
                job.ums(job.host.ums.await_end(program, patience)).await;
            }
            let ended = program.is_some() || gone(job, "waiting for the restore to end").await;
            job.tell("reading the UMS IDs", None);
            let now = job.ums(job.host.ums.ids()).await;
            // A server whose UMS Server was stopped for it is not as it was, whatever its UMS ID.
            let service = job.ums(job.host.ums.service()).await;
            let as_it_was = ended && restore::runs_on(started.service, &service);
            let found = restore::found(before, *expected, now, as_it_was)?;
            let stands = started.service.is_some() && service.status != ServiceStatus::Running;
            match *keeps_running && stands {
                true => Err(interrupted("before the UMS Server was started again", Effect::Possible)),
                false => Ok(found),
            }
        }
        Action::Restart { deadline_ms } => {
            let Before::Server(before) = started.before else { return Err(nonsense(&started)) };
            let program = started.program.map(|(pid, started)| Running { pid, started });
            if let Some(program) = program {
                let patience = job.host.deadlines.program;
                job.tell("waiting for the program that restarts the UMS Server to end", Some(patience));
                job.ums(job.host.ums.await_end(program, patience)).await;
            }
            let patience = job.host.deadlines.restart;
            let patience =
                deadline_ms.map_or(patience, |deadline| patience.min(Duration::from_millis(deadline)));
            let now = replaced(job, before, program.is_some(), patience).await;
            if is_still(before, &now) {
                // Somebody is at it, and may come to the end of it.
                let changing = now.status == ServiceStatus::Changing;
                let effect = if changing { Effect::Possible } else { Effect::None };
                return Err(interrupted("before the UMS Server was restarted", effect));
            }
            let deadline = match (now.status, deadline_ms.map(Duration::from_millis)) {
                // Perhaps who stopped it starts it again.
                (ServiceStatus::Stopped, _) => Some(patience),
                (_, deadline) => deadline,
            };
            let tell = |text: String, within: Option<Duration>| job.tell(text, within);
            let restarted = job.ums(job.host.ums.await_restarted(before, deadline, &tell)).await?;
            restart::restarted(job, restarted).await
        }
    }
}

/// Waits until no program of this operation is at work: one may be, of which the agent had no time to record which process
/// it is. Whether that is sure.
async fn gone(job: &Job, what: &str) -> bool {
    let (mark, until) = (job.id.to_string(), Instant::now() + job.host.deadlines.program);
    let mut told = false;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if !job.ums(job.host.ums.at_work(&mark)).await {
            return true;
        }
        if left.is_zero() {
            return false;
        }
        if !told {
            job.tell(what, Some(left));
            told = true;
        }
        job.ums(tokio::time::sleep(LOOK.min(left))).await;
    }
}

/// The service, once another process than `before` runs, none does, or patience is at its end. `ended`: the program that
/// could bring another one has ended; else it is looked for. A service that is changing may bring one all the same.
async fn replaced(job: &Job, before: Previous, ended: bool, patience: Duration) -> Service {
    let (mark, until) = (job.id.to_string(), Instant::now() + patience);
    let mut told = false;
    loop {
        let now = job.ums(job.host.ums.service()).await;
        let left = until.saturating_duration_since(Instant::now());
        let ended = ended || !job.ums(job.host.ums.at_work(&mark)).await;
        let settled = ended && now.status != ServiceStatus::Changing;
        if !is_still(before, &now) || settled || left.is_zero() {
            return now;
        }
        if !told {
            job.tell("waiting whether the UMS Server is restarted after all", Some(left));
            told = true;
        }
        job.ums(tokio::time::sleep(LOOK.min(left))).await;
    }
}

fn is_still(before: Previous, now: &Service) -> bool {
    now.process.is_some_and(|now| !before.is_followed_by(&now))
}

fn interrupted(when: &str, effect: Effect) -> Trouble {
    let failure = Failure::new(Code::Interrupted, format!("the agent was stopped {when}"));
    match effect {
        Effect::None => untouched(failure),
        Effect::Possible => Trouble::Failed { failure, effect },
    }
}

fn nonsense(started: &Started) -> Trouble {
    Trouble::Unknown(format!("the record of this operation says {:?} of the time before it", started.before))
}
