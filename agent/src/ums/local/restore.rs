//! `licensing restore`, whose behaviour towards a running server is not documented (UMS_FACTS §2).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use secrecy::SecretString;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Effect, RawOutput, ServiceStatus};

use super::{Failed, LocalUms, Started, Tell, failed};
use crate::config::{CommandLine, StopServer};
use crate::exec::ExecError;

/// How many files of the UMS's settings are compared before and after.
const FILES_COMPARED: usize = 500;

impl LocalUms {
    /// Restores; what is worth telling.
    ///
    /// A service that had to be stopped for it stays stopped: nothing is to run with a UMS ID nobody has looked at. The
    /// restart that follows starts it, or else whoever has looked. If the restore failed, it is started again.
    pub(super) async fn restore_from(
        &self,
        file: &Path,
        password: &SecretString,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Vec<String>, Failed> {
        let program = self.program().map_err(|failure| failed(failure, Effect::None))?;
        let was_running = self.service_now().await.status == ServiceStatus::Running;
        let owners = self.owners();
        let mut stopped = false;
        if was_running && self.config.ums.stop_server == StopServer::Always {
            self.stop_server(started, tell).await.map_err(|failure| failed(failure, Effect::Possible))?;
            stopped = true;
        }

        let mut result = self.attempt(&program, file, password, started, tell).await;
        let may_stop = was_running && !stopped && self.config.ums.stop_server == StopServer::IfNeeded;
        if let Err(failure) = &result
            && may_stop
            && failure.failure.code != Code::WrongPassword
            && failure.failure.raw.as_ref().is_some_and(|raw| self.says(raw, &self.config.ums.stopped_words))
        {
            tracing::info!(%failure.failure, "the restore failed while the server ran; stopping it for another try");
            self.stop_server(started, tell).await.map_err(|failure| failed(failure, Effect::Possible))?;
            stopped = true;
            result = self.attempt(&program, file, password, started, tell).await;
        }
        match result {
            Ok(mut remarks) => {
                remarks.extend(self.compare(&owners));
                let running = self.service_now().await.status == ServiceStatus::Running;
                if was_running && !running {
                    let by =
                        if stopped { "was stopped for the restore" } else { "was stopped by the restore" };
                    remarks.push(format!("the UMS Server {by} and stays so until it is restarted"));
                }
                Ok(remarks)
            }
            Err(mut failure) => {
                if stopped && let Err(why) = self.start_server(tell).await {
                    failure.failure.causes.push(format!(
                        "the UMS Server was stopped for the restore and cannot be started: {why}"
                    ));
                }
                Err(failure)
            }
        }
    }

    async fn attempt(
        &self,
        program: &CommandLine,
        file: &Path,
        password: &SecretString,
        started: Started<'_>,
        tell: Tell<'_>,
    ) -> Result<Vec<String>, Failed> {
        let password = self.password_file(password).map_err(|failure| failed(failure, Effect::None))?;
        tell("restoring the UMS ID".to_owned(), Some(self.config.timeouts.restore));
        let ran = self.cli.restore(program, file, &password, started).await;
        drop(password);
        match ran {
            Ok(ran) => self.believed(ran.raw).await,
            Err(error) => {
                let effect = if error.ran() { Effect::Possible } else { Effect::None };
                let wrong = matches!(&error, ExecError::Failed(raw) if self.says(raw, &self.config.ums.password_words));
                let failure = error.into_failure();
                Err(failed(if wrong { wrong_password(failure) } else { failure }, effect))
            }
        }
    }

    /// Exit status 0 is "perhaps": output that speaks of an error is believed if the UMS ID is what it was.
    async fn believed(&self, raw: RawOutput) -> Result<Vec<String>, Failed> {
        if !self.says(&raw, &self.config.ums.error_words) {
            return Ok(Vec::new());
        }
        let before = self.memory().local;
        let after = self.read_ids().await.local;
        if before.is_none() || after.is_none() || before != after {
            return Ok(vec![
                "the restore ended with exit status 0, but its output speaks of an error".to_owned(),
            ]);
        }
        let wrong = self.says(&raw, &self.config.ums.password_words);
        let said = [&raw.stdout, &raw.stderr].into_iter().flat_map(|text| text.lines());
        let line = said
            .map(str::trim)
            .find(|line| has_word(line, &self.config.ums.error_words))
            .unwrap_or_default()
            .to_owned();
        let failure = Failure::new(
            Code::NoEffect,
            format!("licensing restore ended with exit status 0 and changed nothing: {line}"),
        )
        .raw(raw);
        Err(failed(if wrong { wrong_password(failure) } else { failure }, Effect::Possible))
    }

    /// What stops it is no program that could restore, but what it was told is found at work all the same.
    async fn stop_server(&self, started: Started<'_>, tell: Tell<'_>) -> Result<(), Failure> {
        tell("stopping the UMS Server for the restore".to_owned(), Some(self.config.timeouts.service));
        let until = Instant::now() + self.config.timeouts.service;
        let control = self.control().await.map_err(super::service::ServiceError::into_failure)?;
        let before = control.status().await.process;
        control
            .stop(Started { told: &|_| {}, ..started })
            .await
            .map_err(super::service::ServiceError::into_failure)?;
        while before.is_some_and(|process| crate::exec::is_running(&process)) {
            if Instant::now() >= until {
                return Err(Failure::new(
                    Code::ServiceControl,
                    format!("{} was told to stop but runs on", control.name()),
                ));
            }
            tokio::time::sleep(self.config.health.interval.min(std::time::Duration::from_millis(100))).await;
        }
        Ok(())
    }

    async fn start_server(&self, tell: Tell<'_>) -> Result<(), String> {
        tell("starting the UMS Server again".to_owned(), Some(self.config.timeouts.service));
        let control = self.control().await.map_err(|error| error.to_string())?;
        control.start(Started::nobody()).await.map_err(|error| error.into_failure().to_string())
    }

    fn says(&self, raw: &RawOutput, words: &[String]) -> bool {
        has_word(&raw.stdout, words) || has_word(&raw.stderr, words)
    }

    /// Owner and mode of the server's settings and keys: files restored as root may not be readable for the user the
    /// service runs under (UMS_FACTS §4).
    fn owners(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut dirs: Vec<PathBuf> = self.installation().settings().into_iter().collect();
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if found.len() >= FILES_COMPARED {
                    return found;
                }
                if metadata.is_dir() {
                    dirs.push(entry.path());
                } else {
                    found.insert(entry.path(), owner(&metadata));
                }
            }
        }
        found
    }

    fn compare(&self, before: &BTreeMap<PathBuf, String>) -> Vec<String> {
        let after = self.owners();
        let changed = after.iter().filter_map(|(path, now)| {
            let then = before.get(path)?;
            (then != now).then(|| {
                format!(
                    "{} was {then} and is {now} after the restore: can the UMS Server read it?",
                    path.display()
                )
            })
        });
        changed.take(20).collect()
    }
}

#[cfg(unix)]
fn owner(metadata: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt as _;
    format!("{}:{} {:04o}", metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
}

#[cfg(not(unix))]
fn owner(metadata: &std::fs::Metadata) -> String {
    if metadata.permissions().readonly() { "read-only".to_owned() } else { "writable".to_owned() }
}

fn wrong_password(mut failure: Failure) -> Failure {
    failure.code = Code::WrongPassword;
    failure.causes.insert(0, "the password of the backup is wrong, by what umsadmin-cli says".to_owned());
    failure.remedy("do not try again with the same password; begin a new run, which makes a new backup")
}

/// Whether a text, log lines and JVM warnings aside, has one of these words; `*` at the end stands for any ending.
fn has_word(text: &str, words: &[String]) -> bool {
    text.lines().filter(|line| !super::super::identity::is_log(line)).any(|line| {
        let line = line.to_lowercase();
        line.split(|c: char| !c.is_alphanumeric()).any(|found| {
            words.iter().any(|word| match word.strip_suffix('*') {
                Some(beginning) => found.starts_with(beginning),
                None => found == word,
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::has_word;

    #[test]
    fn words_are_whole_words_outside_of_log_lines() {
        let words = ["fail*".to_owned(), "must".to_owned()];
        assert!(has_word("Restore FAILED.", &words));
        assert!(has_word("the server must be stopped", &words));
        assert!(!has_word("mustard", &words));
        assert!(!has_word("2026-08-12 10:15:32,481 INFO  [main] d.i.u.a.Cli - 0 must fail", &words));
        assert!(!has_word("WARNING: All illegal access operations must be denied", &words));
    }
}
