//! A backup from one agent to another by way of a coordinator, over lines that are as long as you like.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use umsid::agents::{Agent, Agents};
use umsid::home::Home;
use umsid::inventory::Inventory;
use umsid::relay;
use umsid_common::digest::Digest;
use umsid_common::name::{OperationId, RunId};
use umsid_common::seal::Recipient;
use umsid_common::tls::{self, Flow, Patience, Tls};
use umsid_proto::model::{Action, Handover, LeaseRef, Success};

use crate::{Fleet, Wanted, place};

/// What is read from one side before it is on its way to the other, bytes.
const PIECE: usize = 64 << 10;

/// Pieces that may be on their way: more than any window of ours.
const ON_ITS_WAY: usize = 4096;

/// A lease for longer than any transfer takes.
const LEASE: Duration = Duration::from_secs(600);

/// Transfers a backup of so many bytes, sealed and verified, from one agent through a coordinator to another, each of which is so
/// long a round trip away; seconds the transfer took.
///
/// # Errors
/// If anything of it fails: nothing here is meant to.
pub fn transfer(bytes: usize, round_trip: Duration, flow: Flow) -> anyhow::Result<f64> {
    let fleet = Fleet::up(&Wanted { servers: 2, out_of_sync: 1, payload: bytes, flow, ..Wanted::default() })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let took = runtime.block_on(async {
        let home = Home { dir: fleet.state() };
        let inventory = Inventory::load(&home.inventory_path())?;
        let servers = &inventory.clusters.get(&place(1, 1).0).context("there is no cluster")?.servers;
        let patience = Patience { flow, ..Patience::default() };
        let tls = Tls::load(tls::Files::in_dir(&home.tls_dir()))?;
        let agents = Agents::new(tls, inventory.trust_domain.clone()).with_patience(patience);
        let mut far = Vec::new();
        for (cluster, server) in [place(1, 1), place(1, 2)] {
            let mut entry = servers.get(&server).context("there is no such server")?.clone();
            entry.address = line_to(entry.address.parse()?, round_trip / 2).await?.to_string();
            far.push((agents.dial(&cluster, &server, &entry).await?, entry));
        }
        let [(source, _), (target, entry)] = far.as_slice() else { bail!("two were dialled") };
        over(source, target, entry.recipient.clone()).await
    });
    runtime.shutdown_background();
    took
}

async fn over(source: &Agent, target: &Agent, recipient: Recipient) -> anyhow::Result<f64> {
    let lease = LeaseRef { run: RunId::new(Timestamp::now()), epoch: 1 };
    for agent in [source, target] {
        agent.acquire_lease(&lease.run, lease.epoch, "a long line", LEASE, &Digest::of(b"")).await?;
    }
    let id = OperationId { run: lease.run.clone(), step: 1, attempt: 1 };
    let backup = Action::Backup(Handover { recipients: vec![recipient], expected: None });
    source.start(&id, &lease, backup).await?;
    let mut events = source.watch(&id, 0).await?;
    let (digest, size) = loop {
        let event = events.next().await.context("the backup does not end")??;
        match event.what.map(|outcome| outcome.result) {
            Err(_) => {}
            Ok(Ok(Success::BackedUp { digest, size, .. })) => break (digest, size),
            Ok(other) => bail!("no backup: {other:?}"),
        }
    };
    let begun = Instant::now();
    let to = [(target.server().clone(), target.clone())];
    relay::relay(source, &lease, digest, size, &to)
        .await
        .map_err(|fault| anyhow::Error::new(fault.error).context(format!("at {}", fault.server)))?;
    Ok(begun.elapsed().as_secs_f64())
}

/// A line to this address that takes `delay` each way and carries as much as is put on it.
async fn line_to(address: SocketAddr, delay: Duration) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let here = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(address).await else { continue };
            for side in [&near, &far] {
                let _ = side.set_nodelay(true);
            }
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            tokio::spawn(carry(from_near, to_far, delay));
            tokio::spawn(carry(from_far, to_near, delay));
        }
    });
    Ok(here)
}

/// Every piece arrives so long after it was sent, whatever else is on its way.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
) {
    let (sent, mut due) = mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(ON_ITS_WAY);
    tokio::spawn(async move {
        while let Some((at, piece)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // The other side is told that nothing more comes; if it is gone, it need not be.
        let _ = to.shutdown().await;
    });
    loop {
        let mut piece = vec![0; PIECE];
        let Ok(length @ 1..) = from.read(&mut piece).await else { return };
        piece.truncate(length);
        if sent.send((tokio::time::Instant::now() + delay, piece)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_away_takes_its_time() {
        let flow = Flow::default();
        let took = transfer(1 << 20, Duration::from_millis(200), flow).unwrap();
        assert!(took >= 0.2, "a round trip at least: {took}");
        // Eight windows, each after a round trip but the first.
        let narrow = Flow { window: Some(65_535), frame: None };
        let slow = transfer(512 << 10, Duration::from_millis(200), narrow).unwrap();
        assert!(slow >= 7.0 * 0.2, "{slow}");
    }
}
