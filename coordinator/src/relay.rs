//! A sealed backup on its way through the coordinator: read once from its source, written to all targets at once, in
//! bounded memory. What passes is ciphertext; the coordinator holds no key for it.

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Bytes;
use umsid_common::digest::{Digest, Digester};
use umsid_common::fault;
use umsid_common::name::ServerName;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::LeaseRef;

use crate::agents::{Agent, AgentError};

/// Pieces on their way to one target; the slowest target sets the speed.
const IN_FLIGHT: usize = 8;

/// The transfer failed at one of its ends.
#[derive(Debug)]
pub struct Fault {
    /// At which.
    pub server: ServerName,
    /// How.
    pub error: AgentError,
}

/// Streams the file with this digest and size from its source to all targets; done when every target has it whole,
/// verified and on disk.
pub async fn relay(
    source: &Agent,
    lease: &LeaseRef,
    digest: Digest,
    size: u64,
    targets: &[(ServerName, Agent)],
) -> Result<(), Fault> {
    let at_source = |error| Fault { server: source.server().clone(), error };
    let mut pieces = Box::pin(source.download(lease, &digest).await.map_err(at_source)?);
    let mut ways = Vec::new();
    let mut uploads = JoinSet::new();
    for (server, agent) in targets {
        let (way, rest) = mpsc::channel::<Bytes>(IN_FLIGHT);
        let (server, agent, lease) = (server.clone(), agent.clone(), lease.clone());
        uploads.spawn(async move {
            let answer = agent.upload(&lease, &digest, size, ReceiverStream::new(rest)).await;
            (server, answer)
        });
        ways.push(way);
    }
    let (mut digester, mut passed) = (Digester::default(), 0);
    let mut broken = None;
    while let Some(piece) = pieces.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                broken = Some(at_source(error));
                break;
            }
        };
        passed += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if passed > size {
            let what = format!("it sends more than the {size} bytes announced");
            broken = Some(at_source(altered(what).into()));
            break;
        }
        digester.update(&piece);
        fault::moment("piece relayed");
        for way in &ways {
            // A target that takes no more has said why in its answer.
            let _ = way.send(piece.clone()).await;
        }
    }
    // Ended early, every target sees fewer bytes than announced and keeps nothing.
    drop(ways);
    let mut fault = None;
    while let Some(joined) = uploads.join_next().await {
        let (server, answer) = joined.expect("an upload does not panic");
        let error = match answer {
            Ok(received) if received == (digest, size) => continue,
            Ok((other, bytes)) => {
                let what = format!("it has {bytes} bytes with SHA-256 {other}");
                altered(what).into()
            }
            Err(error) => error,
        };
        fault = Some(Fault { server, error });
    }
    if let Some(broken) = broken {
        return Err(broken);
    }
    if (digester.finish(), passed) != (digest, size) {
        return Err(at_source(altered("what it sends is not the backup it announced").into()));
    }
    fault.map_or(Ok(()), Err)
}

fn altered(what: impl Into<String>) -> Failure {
    Failure::new(Code::DigestMismatch, what)
        .remedy("find out what alters files there; a new run makes a new backup")
}
