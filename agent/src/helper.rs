//! The privileged half of an agent that comes in two: what needs the rights of the UMS Server's owner is done by a small
//! process that nobody reaches from outside, for the one beside it that is reached and has no rights.
//!
//! Between them is a Unix socket, private to these two, and a closed set of verbs: those of [`Ums`](crate::ums::Ums). Neither a
//! path nor a command goes over it; backups go as bytes. One connection is one call: what is asked, what goes along, then what
//! is told meanwhile, and the answer. A call that was begun comes to its end, whoever hangs up.

use std::io;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_util::bytes::{Bytes, BytesMut};
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use umsid_common::name::OperationId;
use umsid_proto::model::{Service, UmsIds};

use crate::ums::{Failed, Findings, Previous, Restart, Running};

mod remote;
mod serve;

pub use remote::RemoteUms;
pub use serve::Helper;

/// Where the agent calls its helper, as the package has it.
pub const SOCKET: &str = "/run/umsid-helper.sock";

/// Where a helper keeps what it needs for itself.
pub const STATE_DIR: &str = "/var/lib/umsid-helper";

/// What a message takes besides a backup, bytes: output of programs, bounded where it is captured.
const LARGEST_TEXT: usize = 16 << 20;

/// What is asked. [`Ask::BackUp`] is followed by the password, [`Ask::Restore`] by the password and the backup.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ask {
    /// Since when processes are counted, see [`crate::exec::boot_moment`].
    BootMoment,
    Look {
        quick: bool,
    },
    Version,
    Ids,
    BackUp,
    Restore {
        mark: Option<OperationId>,
    },
    Restart {
        deadline: Option<Duration>,
        mark: Option<OperationId>,
    },
    AwaitRestarted {
        before: Previous,
        deadline: Option<Duration>,
    },
    Service,
    AtWork {
        mark: OperationId,
    },
    IsRunning {
        program: Running,
    },
    AwaitEnd {
        program: Running,
        deadline: Duration,
    },
}

/// What is told meanwhile, and at last.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Say {
    Doing { text: String, within: Option<Duration> },
    Started(Running),
    Done(Box<Answer>),
}

/// How a call ended. A backup that was made follows.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer {
    BootMoment(Option<i64>),
    Findings(Findings),
    Version(Option<String>),
    Ids(UmsIds),
    BackedUp(Result<(), Failed>),
    Restored(Result<Vec<String>, Failed>),
    Restarted(Result<Restart, Failed>),
    Service(Service),
    AtWork(bool),
    IsRunning(bool),
    Ended,
}

/// One end of a connection.
struct Line(Framed<UnixStream, LengthDelimitedCodec>);

impl Line {
    fn new(stream: UnixStream, largest_backup: u64) -> Self {
        let largest = usize::try_from(largest_backup).unwrap_or(usize::MAX).saturating_add(LARGEST_TEXT);
        Self(LengthDelimitedCodec::builder().max_frame_length(largest).new_framed(stream))
    }

    async fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        self.send_bytes(serde_json::to_vec(message)?.into()).await
    }

    async fn send_bytes(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.send(bytes).await
    }

    async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        Ok(serde_json::from_slice(&self.receive_bytes().await?)?)
    }

    async fn receive_bytes(&mut self) -> io::Result<BytesMut> {
        self.0.next().await.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
    }
}
