//! Tunnels other agents keep to this one, because nobody can connect to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use umsid_common::name::ServerName;
use umsid_common::tls::Carrier;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::wire;

/// How long a server may take to answer a knock, and one whose tunnel has just gone to build another.
const PATIENCE: Duration = Duration::from_secs(5);

/// Knocks on their way to one server; more are refused.
const KNOCKS: usize = 64;

/// All tunnels there are.
#[derive(Default)]
pub(crate) struct Tunnels {
    open: Mutex<BTreeMap<ServerName, Tunnel>>,
    /// Tells when there is one more.
    opened: Notify,
    next: AtomicU64,
}

struct Tunnel {
    number: u64,
    knocks: mpsc::Sender<Result<wire::Knock, Status>>,
    waiting: BTreeMap<u64, oneshot::Sender<Box<dyn Carrier>>>,
}

/// Why nobody came through a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// There is none.
    NoTunnel,
    /// There is one, and no answer through it.
    NoAnswer,
}

impl Tunnels {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerName, Tunnel>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A tunnel of this server, in place of the one it may have: its knocks, for as long as they are listened to.
    pub(crate) fn keep(
        self: &Arc<Self>,
        server: &ServerName,
    ) -> impl Stream<Item = Result<wire::Knock, Status>> + Send + use<> {
        let (knocks, heard) = mpsc::channel(KNOCKS);
        let number = self.number();
        let tunnel = Tunnel { number, knocks, waiting: BTreeMap::new() };
        if let Some(older) = self.lock().insert(server.clone(), tunnel) {
            tracing::info!(%server, "a newer tunnel replaces the one before");
            let replaced = Failure::new(Code::Busy, format!("a newer tunnel of {server} replaces this one"))
                .remedy(
                    "if that is another machine, one of the two is a copy: enrol it under a name of its own",
                );
            // One that is gone does not hear it.
            let _ = older.knocks.try_send(Err(replaced.into()));
        }
        self.opened.notify_waiters();
        tracing::info!(%server, "tunnel open");
        Kept { tunnels: self.clone(), server: server.clone(), number, heard: ReceiverStream::new(heard) }
    }

    /// A connection to the agent of this server, through its tunnel.
    pub(crate) async fn knock(&self, server: &ServerName) -> Result<Box<dyn Carrier>, Silence> {
        let mut silence = Silence::NoTunnel;
        let answered = async {
            loop {
                let opened = self.opened.notified();
                if let Some(answer) = self.knocked(server) {
                    silence = Silence::NoAnswer;
                    if let Ok(line) = answer.await {
                        return line;
                    }
                    // The tunnel is gone with the knock.
                    continue;
                }
                opened.await;
            }
        };
        let answered = tokio::time::timeout(PATIENCE, answered).await;
        answered.map_err(|_| silence)
    }

    fn knocked(&self, server: &ServerName) -> Option<oneshot::Receiver<Box<dyn Carrier>>> {
        let mut open = self.lock();
        let tunnel = open.get_mut(server)?;
        tunnel.waiting.retain(|_, waiting| !waiting.is_closed());
        let (number, (answer, answered)) = (self.number(), oneshot::channel());
        tunnel.knocks.try_send(Ok(wire::Knock { number })).ok()?;
        tunnel.waiting.insert(number, answer);
        Some(answered)
    }

    /// Gives this server's answer to whoever knocked.
    pub(crate) fn answer(
        &self,
        server: &ServerName,
        knock: u64,
        line: impl Carrier + 'static,
    ) -> Result<(), Failure> {
        let waiting = self.lock().get_mut(server).and_then(|tunnel| tunnel.waiting.remove(&knock));
        let nobody = || Failure::new(Code::NotFound, "nobody waits for this answer");
        waiting.ok_or_else(nobody)?.send(Box::new(line)).map_err(|_| nobody())
    }
}

/// The knocks of a tunnel; it ends with them.
struct Kept {
    tunnels: Arc<Tunnels>,
    server: ServerName,
    number: u64,
    heard: ReceiverStream<Result<wire::Knock, Status>>,
}

impl Stream for Kept {
    type Item = Result<wire::Knock, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::pin::Pin::new(&mut self.heard).poll_next(cx)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut open = self.tunnels.lock();
        if open.get(&self.server).is_some_and(|tunnel| tunnel.number == self.number) {
            open.remove(&self.server);
            tracing::info!(server = %self.server, "tunnel gone");
        }
    }
}
