//! Sealed backups on their way.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use umsid_common::fault;
use umsid_proto::CHUNK;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{digest, required};
use umsid_proto::wire;
use umsid_proto::wire::upload_message::Part;

use super::{caller, decoded, lease};
use crate::host::{Host, blocking};
use crate::spool::{Origin, SpoolError};

pub(crate) struct TransferRpc {
    pub(crate) host: Arc<Host>,
}

#[tonic::async_trait]
impl wire::transfer_server::Transfer for TransferRpc {
    type DownloadStream = ReceiverStream<Result<wire::Chunk, Status>>;

    async fn download(
        &self,
        request: Request<wire::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let caller = caller(&request);
        let wire = request.into_inner();
        let (lease, digest) = (lease(wire.lease)?, decoded(digest("digest", &wire.digest))?);
        self.host.leases.check(&lease).map_err(Failure::from)?;
        let (file, size) = self.host.spool.open(&digest, &lease.run, Origin::Made).map_err(Failure::from)?;
        tracing::info!(caller, %digest, size, "download");
        let (chunks, sent) = mpsc::channel(4);
        tokio::spawn(send(file, chunks, self.host.deadlines.idle));
        Ok(Response::new(ReceiverStream::new(sent)))
    }

    async fn upload(
        &self,
        request: Request<Streaming<wire::UploadMessage>>,
    ) -> Result<Response<wire::UploadResponse>, Status> {
        let caller = caller(&request);
        let host = &self.host;
        let mut messages = request.into_inner();
        let idle = host.deadlines.idle;
        let first = tokio::time::timeout(idle, messages.message()).await;
        let first = first.map_err(|_| Failure::from(SpoolError::TooSlow { arrived: 0, size: 0 }))??;
        let Some(Part::Header(header)) = first.and_then(|message| message.part) else {
            return Err(Failure::new(Code::InvalidRequest, "an upload begins with a header").into());
        };
        let (lease, digest) = (lease(header.lease)?, decoded(digest("header.digest", &header.digest))?);
        host.leases.check(&lease).map_err(Failure::from)?;
        let announced = (digest, header.size);
        let file = host.spool.receive(announced, messages.map(piece), idle).await.map_err(Failure::from)?;
        // It may have taken long.
        host.leases.check(&lease).map_err(Failure::from)?;
        let kept = host.clone();
        blocking(move || kept.spool.keep_upload(file, announced, &lease.run)).await.map_err(Failure::from)?;
        tracing::info!(caller, %digest, size = header.size, "upload");
        Ok(Response::new(wire::UploadResponse { digest: digest.as_bytes().to_vec(), size: header.size }))
    }
}

fn piece(message: Result<wire::UploadMessage, Status>) -> Result<Vec<u8>, SpoolError> {
    let part = message.map_err(SpoolError::Broken)?.part;
    match decoded(required("part", part)).map_err(SpoolError::Broken)? {
        Part::Data(data) => Ok(data),
        Part::Header(_) => Err(SpoolError::Broken(Status::invalid_argument("a second header"))),
    }
}

/// Sends a file in pieces; gives up when nobody takes them.
async fn send(mut file: std::fs::File, chunks: mpsc::Sender<Result<wire::Chunk, Status>>, idle: Duration) {
    loop {
        let (back, read) = blocking(move || {
            let mut data = Vec::with_capacity(CHUNK);
            let read = (&mut file).take(CHUNK as u64).read_to_end(&mut data).map(|_| data);
            (file, read)
        })
        .await;
        file = back;
        let chunk = match read {
            Ok(data) if data.is_empty() => return,
            Ok(data) => Ok(wire::Chunk { data }),
            Err(error) => Err(Failure::of(Code::Internal, &error).into()),
        };
        let failed = chunk.is_err();
        fault::moment("piece sent");
        if chunks.send_timeout(chunk, idle).await.is_err() || failed {
            return;
        }
    }
}
