//! The way to a server behind a gateway: another server's agent makes the connection, and TLS with the server itself is spoken
//! through it. Every connection through a gateway has a connection to the gateway to itself, so that one that is not read from
//! holds up no other.

use std::io;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic::transport::Channel;
use umsid_common::carried;
use umsid_common::name::{ClusterName, Identity, ServerName};
use umsid_common::tls::{self, Carrier, ConnectError, Opening, Patience, Tls, Way};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::wire::forward_message::Part;
use umsid_proto::wire::gateway_client::GatewayClient;
use umsid_proto::{LARGEST_MESSAGE, model, wire};

use super::Agents;
use crate::inventory::Inventory;

/// To one server, through another.
struct Through {
    name: String,
    server: ServerName,
    /// host:port of the gateway.
    gateway: String,
    expected: Identity,
    tls: Arc<Tls>,
    patience: Patience,
}

impl Agents {
    /// The same with what this inventory says of gateways.
    pub fn with_gateways(mut self, inventory: &Inventory) -> Self {
        let straight = inventory.servers().filter_map(|(cluster, name, server)| {
            Some(((cluster.clone(), name.clone()), server.straight()?.to_owned()))
        });
        self.gateways = Arc::new(straight.collect());
        self
    }

    /// The way to a server behind this gateway.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] if the inventory has no such gateway.
    pub fn through(
        &self,
        cluster: &ClusterName,
        server: &ServerName,
        gateway: &ServerName,
    ) -> Result<Arc<dyn Way>, ConnectError> {
        let Some(address) = self.gateways.get(&(cluster.clone(), gateway.clone())) else {
            return Err(ConnectError::Refused {
                address: server.to_string(),
                why: format!("the inventory has no {cluster}/{gateway} that is reached straight"),
                remedy: format!("correct `via` of {cluster}/{server} in inventory.toml"),
            });
        };
        Ok(Arc::new(Through {
            name: format!("{server} through {gateway} ({address})"),
            server: server.clone(),
            gateway: address.clone(),
            expected: self.identity_of(cluster, gateway),
            tls: self.tls.clone(),
            patience: self.patience.clone(),
        }))
    }
}

impl Way for Through {
    fn name(&self) -> &str {
        &self.name
    }

    fn legs(&self) -> u32 {
        2
    }

    fn open(&self, until: Instant) -> Opening<'_> {
        Box::pin(self.forwarded(until))
    }
}

impl Through {
    async fn forwarded(&self, until: Instant) -> Result<Box<dyn Carrier>, ConnectError> {
        let first = tls::connect(&self.gateway, &self.tls, &self.expected, &self.patience).await;
        let channel = first.map_err(|error| self.of_gateway(error))?;
        let (writer, pieces) = carried::outgoing();
        let message = |part| wire::ForwardMessage { part: Some(part) };
        let header = wire::ForwardHeader { server: self.server.to_string() };
        let messages = tokio_stream::once(message(Part::Header(header)))
            .chain(pieces.map(move |data| message(Part::Data(data))));
        let mut client = client(&channel);
        let chunks = match timeout_at(until, client.forward(messages)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(self.sorted(&status)),
            Err(_) => return Err(self.unreachable("its gateway gave no answer in time".into())),
        };
        let pieces = chunks.map(move |chunk| {
            // The connection to the gateway lasts as long as what goes through it.
            let _open = &channel;
            chunk.map(|chunk| chunk.data).map_err(|status| broken(&status))
        });
        Ok(Box::new(tokio::io::join(carried::incoming(pieces), writer)))
    }

    /// What the gateway says instead of making a connection: its no, the server's silence, or that it is gone itself.
    fn sorted(&self, status: &Status) -> ConnectError {
        if status.details().is_empty() {
            let gone = || ConnectError::Unreachable {
                address: self.gateway.clone(),
                why: model::line(status.message()),
            };
            return self.of_gateway(tls::connection_fault(&self.gateway, status).unwrap_or_else(gone));
        }
        let failure = Failure::from(status);
        match failure.code {
            Code::Unreachable | Code::Busy => self.unreachable(failure.to_string()),
            _ => ConnectError::Refused {
                address: self.name.clone(),
                why: failure.to_string(),
                remedy: failure.remedy,
            },
        }
    }

    fn of_gateway(&self, error: ConnectError) -> ConnectError {
        ConnectError::Gateway { address: self.name.clone(), source: Box::new(error) }
    }

    fn unreachable(&self, why: String) -> ConnectError {
        ConnectError::Unreachable { address: self.name.clone(), why }
    }
}

fn client(channel: &Channel) -> GatewayClient<Channel> {
    GatewayClient::new(channel.clone())
        .max_decoding_message_size(LARGEST_MESSAGE)
        .max_encoding_message_size(LARGEST_MESSAGE)
}

fn broken(status: &Status) -> io::Error {
    let why = format!("the gateway broke off: {}", model::line(status.message()));
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}
