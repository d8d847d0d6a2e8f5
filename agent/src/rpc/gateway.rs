//! Connections through this agent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use umsid_common::carried;
use umsid_common::name::ServerName;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::named;
use umsid_proto::wire;
use umsid_proto::wire::{answer_message, forward_message};

use super::{caller, decoded};
use crate::gateway::Gateway;
use crate::peer::Caller;

pub(crate) struct GatewayRpc {
    pub(crate) gateway: Arc<Gateway>,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<wire::Chunk, Status>> + Send>>;

#[tonic::async_trait]
impl wire::gateway_server::Gateway for GatewayRpc {
    type ForwardStream = Chunks;
    type AnswerStream = Chunks;
    type KeepTunnelStream = Pin<Box<dyn Stream<Item = Result<wire::Knock, Status>> + Send>>;

    async fn forward(
        &self,
        request: Request<Streaming<wire::ForwardMessage>>,
    ) -> Result<Response<Chunks>, Status> {
        let caller = caller(&request);
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(self.gateway.idle(), messages.message()).await;
        let first = first.map_err(|_| Failure::new(Code::InvalidRequest, "nobody was named in time"))??;
        let Some(forward_message::Part::Header(header)) = first.and_then(|message| message.part) else {
            let why = "a forwarded connection begins with a header";
            return Err(Failure::new(Code::InvalidRequest, why).into());
        };
        let server: ServerName = decoded(named("header.server", &header.server))?;
        let forwarded = self.gateway.open(&server).await.map_err(Failure::from)?;
        let (writer, pieces) = carried::outgoing();
        let line = tokio::io::join(carried::incoming(messages.map(piece)), writer);
        tokio::spawn(forwarded.carry(caller, line));
        Ok(Response::new(Box::pin(pieces.map(|data| Ok(wire::Chunk { data })))))
    }

    async fn keep_tunnel(
        &self,
        request: Request<wire::KeepTunnelRequest>,
    ) -> Result<Response<Self::KeepTunnelStream>, Status> {
        let (tunnels, server) = self.gateway.tunnels(&who(&request)?).map_err(Failure::from)?;
        Ok(Response::new(Box::pin(tunnels.keep(&server))))
    }

    async fn answer(
        &self,
        request: Request<Streaming<wire::AnswerMessage>>,
    ) -> Result<Response<Chunks>, Status> {
        let (tunnels, server) = self.gateway.tunnels(&who(&request)?).map_err(Failure::from)?;
        let mut messages = request.into_inner();
        let first = tokio::time::timeout(self.gateway.idle(), messages.message()).await;
        let first =
            first.map_err(|_| Failure::new(Code::InvalidRequest, "no number was named in time"))??;
        let Some(answer_message::Part::Header(header)) = first.and_then(|message| message.part) else {
            return Err(Failure::new(Code::InvalidRequest, "an answer begins with a header").into());
        };
        let (writer, pieces) = carried::outgoing();
        let line = tokio::io::join(carried::incoming(messages.map(piece_of_answer)), writer);
        tunnels.answer(&server, header.number, line)?;
        Ok(Response::new(Box::pin(pieces.map(|data| Ok(wire::Chunk { data })))))
    }
}

fn piece(message: Result<wire::ForwardMessage, Status>) -> io::Result<Vec<u8>> {
    use forward_message::Part;
    match message.map_err(io::Error::other)?.part {
        Some(Part::Data(data)) => Ok(data),
        Some(Part::Header(_)) | None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn piece_of_answer(message: Result<wire::AnswerMessage, Status>) -> io::Result<Vec<u8>> {
    use answer_message::Part;
    match message.map_err(io::Error::other)?.part {
        Some(Part::Data(data)) => Ok(data),
        Some(Part::Header(_)) | None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn who<T>(request: &Request<T>) -> Result<Caller, Failure> {
    let nobody = || Failure::new(Code::NotAllowed, "nobody is known to call");
    request.extensions().get::<Caller>().cloned().ok_or_else(nobody)
}
