//! The side that has the rights.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::bytes::BytesMut;
use tokio_util::task::TaskTracker;
use umsid_common::durable::{self, Access, DurableError};
use umsid_common::name::OperationId;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::Effect;
use zeroize::Zeroize as _;

use super::{Answer, Ask, Line, Say};
use crate::exec;
use crate::ums::{Failed, Running, Started, Ums};

/// How long whoever has connected may take to say what he wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Calls at once; the agent makes two or three.
const CALLS: usize = 16;

/// What serves an agent that has no rights.
pub struct Helper {
    /// The UMS of this host.
    pub ums: Arc<dyn Ums>,
    /// The one user, besides root, who may call.
    pub caller: u32,
    /// A private directory for backups on their way.
    pub work: PathBuf,
    /// A larger backup is refused, in bytes.
    pub largest_backup: u64,
}

/// A call, with what came along.
struct Asked {
    ask: Ask,
    password: Option<SecretString>,
    backup: Option<BytesMut>,
}

impl Helper {
    /// Answers until told to stop, or until nothing was asked for as long as `idle`. Calls that were begun come to their end.
    ///
    /// # Errors
    /// If nobody can be accepted any more.
    pub async fn serve(
        self: Arc<Self>,
        listener: UnixListener,
        idle: Option<Duration>,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let calls = TaskTracker::new();
        tokio::pin!(stop);
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => accepted?,
                () = &mut stop => break,
                () = quiet(&calls, idle) => break,
            };
            if let Err(why) = self.may_call(&stream) {
                tracing::warn!(why, "a call is refused");
            } else if calls.len() >= CALLS {
                tracing::warn!("a call is refused: there are too many");
            } else {
                calls.spawn(self.clone().answer(stream, calls.clone()));
            }
        }
        drop(listener);
        calls.close();
        calls.wait().await;
        Ok(())
    }

    fn may_call(&self, stream: &UnixStream) -> Result<(), String> {
        let peer = stream.peer_cred().map_err(|error| format!("who calls cannot be told: {error}"))?;
        match peer.uid() {
            0 => Ok(()),
            uid if uid == self.caller => Ok(()),
            uid => Err(format!("user {uid} is not the agent's")),
        }
    }

    async fn answer(self: Arc<Self>, stream: UnixStream, calls: TaskTracker) {
        let mut line = Line::new(stream, self.largest_backup);
        let asked = match tokio::time::timeout(PATIENCE, Asked::receive(&mut line)).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(error)) => return tracing::warn!(%error, "what is asked is not understood"),
            Err(_) => return tracing::warn!("nothing was asked in time"),
        };
        let (says, mut said) = mpsc::unbounded_channel();
        // On its own: it goes on when whoever asked is gone.
        let call = calls.spawn(self.clone().carry_out(asked, says));
        while let Some(say) = said.recv().await {
            if line.send(&say).await.is_err() {
                return;
            }
        }
        let Ok((answer, backup)) = call.await else { return tracing::error!("a call broke off") };
        // Nobody may be left to be answered; what is true is found out by whoever asks next.
        let mut sent = line.send(&Say::Done(Box::new(answer))).await;
        if let (Ok(()), Some(backup)) = (&sent, backup) {
            sent = line.send_bytes(backup.into()).await;
        }
        if let Err(error) = sent {
            tracing::warn!(%error, "an answer did not arrive");
        }
    }

    async fn carry_out(
        self: Arc<Self>,
        asked: Asked,
        says: mpsc::UnboundedSender<Say>,
    ) -> (Answer, Option<Vec<u8>>) {
        let ums = &*self.ums;
        // Whoever does not listen any more need not be told.
        let tell = |text: String, within: Option<Duration>| drop(says.send(Say::Doing { text, within }));
        let told = |running: Running| drop(says.send(Say::Started(running)));
        let mark = |mark: Option<OperationId>| mark.map(|mark| mark.to_string()).unwrap_or_default();
        let answer = match asked.ask {
            Ask::BootMoment => Answer::BootMoment(exec::boot_moment()),
            Ask::Look { quick } => Answer::Findings(ums.look(quick).await),
            Ask::Version => Answer::Version(ums.version().await),
            Ask::Ids => Answer::Ids(ums.ids().await),
            Ask::Service => Answer::Service(ums.service().await),
            Ask::AtWork { mark } => Answer::AtWork(ums.at_work(&mark.to_string()).await),
            Ask::IsRunning { program } => Answer::IsRunning(ums.is_running(program).await),
            Ask::BackUp => {
                let made = self.back_up(&asked.password.unwrap_or_else(none)).await;
                let (answer, backup) = match made {
                    Ok(backup) => (Ok(()), Some(backup)),
                    Err(failed) => (Err(failed), None),
                };
                return (Answer::BackedUp(answer), backup);
            }
            Ask::Restore { mark: id } => {
                let (password, backup) =
                    (asked.password.unwrap_or_else(none), asked.backup.unwrap_or_default());
                let mark = mark(id);
                let restored = async {
                    let dir = self.directory().map_err(untouched)?;
                    let file = dir.path().join("ums-id.ksbak");
                    durable::replace(&file, &backup, Access::Private).map_err(|error| not_stored(&error))?;
                    ums.restore(&file, &password, Started { mark: &mark, told: &told }, &tell).await
                };
                Answer::Restored(restored.await)
            }
            Ask::Restart { deadline, mark: id } => {
                let mark = mark(id);
                Answer::Restarted(ums.restart(deadline, Started { mark: &mark, told: &told }, &tell).await)
            }
            Ask::AwaitRestarted { before, deadline } => {
                Answer::Restarted(ums.await_restarted(before, deadline, &tell).await)
            }
            Ask::AwaitEnd { program, deadline } => {
                let process = exec::Process { pid: program.pid, started: program.started };
                if exec::is_running(&process) && !exec::carries_mark(&process) {
                    // Whoever asks ends nobody's programs but ours.
                    exec::await_gone(program, deadline).await;
                } else {
                    ums.await_end(program, deadline).await;
                }
                Answer::Ended
            }
        };
        (answer, None)
    }

    async fn back_up(&self, password: &SecretString) -> Result<Vec<u8>, Failed> {
        let dir = self.directory().map_err(untouched)?;
        let path = self.ums.back_up(dir.path(), password).await?;
        // Its size was looked at by whoever made it.
        tokio::fs::read(&path).await.map_err(|error| untouched(&error))
    }

    fn directory(&self) -> Result<tempfile::TempDir, io::Error> {
        private_directory_in(&self.work)
    }
}

fn private_directory_in(dir: &Path) -> io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700)).tempdir_in(dir)
}

fn untouched(error: impl std::borrow::Borrow<io::Error>) -> Failed {
    Failed { failure: Failure::of(Code::Internal, error.borrow()), effect: Effect::None }
}

fn not_stored(error: &DurableError) -> Failed {
    let code = if error.is_disk_full() { Code::DiskFull } else { Code::Internal };
    Failed { failure: Failure::of(code, error), effect: Effect::None }
}

/// Returns when nothing was asked for this long.
async fn quiet(calls: &TaskTracker, idle: Option<Duration>) {
    let Some(idle) = idle else { return std::future::pending().await };
    loop {
        tokio::time::sleep(idle).await;
        if calls.is_empty() {
            return;
        }
    }
}

impl Asked {
    async fn receive(line: &mut Line) -> io::Result<Self> {
        let ask: Ask = line.receive().await?;
        let password = match ask {
            Ask::BackUp | Ask::Restore { .. } => Some(password(line.receive_bytes().await?)?),
            _ => None,
        };
        let backup = match ask {
            Ask::Restore { .. } => Some(line.receive_bytes().await?),
            _ => None,
        };
        Ok(Self { ask, password, backup })
    }
}

fn none() -> SecretString {
    SecretString::from("")
}

fn password(mut bytes: BytesMut) -> io::Result<SecretString> {
    let password = std::str::from_utf8(&bytes).map(SecretString::from);
    let password =
        password.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the password is no text"));
    bytes.as_mut().zeroize();
    password
}
