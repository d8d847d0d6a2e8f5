//! Who may do what: one table, asked on every call.
//!
//! Every call passes `Door` before it reaches a service. The door knows the calls by their paths; one it does not know
//! is refused, so an RPC added to the contract is closed to everybody until it is in the table.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use umsid_common::name::{Identity, Role};
use umsid_common::tls::Tls;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::wire::agent_server::AgentServer;
use umsid_proto::wire::gateway_server::GatewayServer;
use umsid_proto::wire::journals_server::JournalsServer;
use umsid_proto::wire::operations_server::OperationsServer;
use umsid_proto::wire::transfer_server::TransferServer;

use crate::rpc::{AgentRpc, GatewayRpc, JournalsRpc, OperationsRpc, TransferRpc};

/// Every RPC of the contract but those of enrolment, which is no business of an agent that is enrolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Agent/Hello
    Hello,
    /// Agent/Inspect
    Inspect,
    /// Agent/AcquireLease
    AcquireLease,
    /// Agent/RenewLease
    RenewLease,
    /// Agent/ReleaseLease
    ReleaseLease,
    /// Agent/PushTrust
    PushTrust,
    /// Agent/BeginRenewal
    BeginRenewal,
    /// Agent/CompleteRenewal
    CompleteRenewal,
    /// Operations/StartOperation
    StartOperation,
    /// Operations/WatchOperation
    WatchOperation,
    /// Operations/ListOperations
    ListOperations,
    /// Transfer/Download
    Download,
    /// Transfer/Upload
    Upload,
    /// Journals/KeepJournal
    KeepJournal,
    /// Journals/ListJournals
    ListJournals,
    /// Journals/ReadJournal
    ReadJournal,
    /// Gateway/Forward
    Forward,
    /// Gateway/KeepTunnel
    KeepTunnel,
    /// Gateway/Answer
    Answer,
}

const VERBS: &[(&str, Verb)] = &[
    ("/umsid.v1.Agent/Hello", Verb::Hello),
    ("/umsid.v1.Agent/Inspect", Verb::Inspect),
    ("/umsid.v1.Agent/AcquireLease", Verb::AcquireLease),
    ("/umsid.v1.Agent/RenewLease", Verb::RenewLease),
    ("/umsid.v1.Agent/ReleaseLease", Verb::ReleaseLease),
    ("/umsid.v1.Agent/PushTrust", Verb::PushTrust),
    ("/umsid.v1.Agent/BeginRenewal", Verb::BeginRenewal),
    ("/umsid.v1.Agent/CompleteRenewal", Verb::CompleteRenewal),
    ("/umsid.v1.Operations/StartOperation", Verb::StartOperation),
    ("/umsid.v1.Operations/WatchOperation", Verb::WatchOperation),
    ("/umsid.v1.Operations/ListOperations", Verb::ListOperations),
    ("/umsid.v1.Transfer/Download", Verb::Download),
    ("/umsid.v1.Transfer/Upload", Verb::Upload),
    ("/umsid.v1.Journals/KeepJournal", Verb::KeepJournal),
    ("/umsid.v1.Journals/ListJournals", Verb::ListJournals),
    ("/umsid.v1.Journals/ReadJournal", Verb::ReadJournal),
    ("/umsid.v1.Gateway/Forward", Verb::Forward),
    ("/umsid.v1.Gateway/KeepTunnel", Verb::KeepTunnel),
    ("/umsid.v1.Gateway/Answer", Verb::Answer),
];

impl Verb {
    /// What a gRPC path asks for.
    pub fn of_path(path: &str) -> Option<Self> {
        VERBS.iter().find(|(known, _)| *known == path).map(|(_, verb)| *verb)
    }

    /// Whether it only looks. What is asked for through a forwarded connection, the server at its end decides by the
    /// caller's own certificate.
    fn only_looks(self) -> bool {
        match self {
            Self::Hello | Self::Inspect | Self::WatchOperation | Self::ListOperations | Self::Forward => true,
            Self::AcquireLease
            | Self::RenewLease
            | Self::ReleaseLease
            | Self::PushTrust
            | Self::BeginRenewal
            | Self::CompleteRenewal
            | Self::StartOperation
            | Self::Download
            | Self::Upload
            | Self::KeepJournal
            | Self::ListJournals
            | Self::ReadJournal
            | Self::KeepTunnel
            | Self::Answer => false,
        }
    }

    /// Whether it is for agents that keep a tunnel, and for nobody else; for which of them, the gateway's configuration says.
    fn is_of_tunnels(self) -> bool {
        matches!(self, Self::KeepTunnel | Self::Answer)
    }

    /// How long it may take until it answers. An upload has deadlines of its own; an inspection runs several programs,
    /// each with its own.
    fn deadline(self) -> Option<Duration> {
        match self {
            Self::Upload => None,
            Self::Inspect => Some(Duration::from_secs(600)),
            _ => Some(Duration::from_secs(30)),
        }
    }
}

/// The one decision.
pub fn may(role: &Role, verb: Verb) -> bool {
    match role {
        Role::Coordinator(_) => !verb.is_of_tunnels(),
        Role::Observer(_) => verb.only_looks(),
        Role::Agent { .. } => verb.is_of_tunnels(),
    }
}

/// Who calls, as its certificate says; put on every request that passed the door.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) Identity);

/// All there is to reach from outside.
#[derive(Clone)]
pub(crate) struct Door {
    tls: Arc<Tls>,
    agent: AgentServer<AgentRpc>,
    operations: OperationsServer<OperationsRpc>,
    transfer: TransferServer<TransferRpc>,
    journals: JournalsServer<JournalsRpc>,
    gateway: GatewayServer<GatewayRpc>,
}

impl Door {
    pub(crate) fn new(
        tls: Arc<Tls>,
        agent: AgentRpc,
        operations: OperationsRpc,
        transfer: TransferRpc,
        journals: JournalsRpc,
        gateway: GatewayRpc,
    ) -> Self {
        // Messages larger than this are neither taken nor sent.
        let largest = umsid_proto::LARGEST_MESSAGE;
        Self {
            tls,
            agent: AgentServer::new(agent)
                .max_decoding_message_size(largest)
                .max_encoding_message_size(largest),
            operations: OperationsServer::new(operations)
                .max_decoding_message_size(largest)
                .max_encoding_message_size(largest),
            transfer: TransferServer::new(transfer)
                .max_decoding_message_size(largest)
                .max_encoding_message_size(largest),
            journals: JournalsServer::new(journals)
                .max_decoding_message_size(largest)
                .max_encoding_message_size(largest),
            gateway: GatewayServer::new(gateway)
                .max_decoding_message_size(largest)
                .max_encoding_message_size(largest),
        }
    }

    /// Who calls, and that this call is allowed to them now: the certificate may have been revoked or have expired since
    /// the connection was made.
    fn admit(&self, request: &http::Request<Body>) -> Result<(Verb, Identity), Failure> {
        let refuse = |what: String| Failure::new(Code::NotAllowed, what);
        let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
        let chain = connection.and_then(TlsConnectInfo::peer_certs).unwrap_or_default();
        let identity = self.tls.current().still_good(&chain, Timestamp::now()).map_err(|error| {
            let address = connection.and_then(|connection| connection.get_ref().remote_addr());
            tracing::warn!(%error, ?address, "call refused");
            Failure::of(Code::NotAllowed, &error)
        })?;
        let path = request.uri().path();
        let Some(verb) = Verb::of_path(path) else {
            return Err(refuse("this agent knows no such call".into()));
        };
        if !may(&identity.role, verb) {
            tracing::warn!(caller = %identity, ?verb, "call refused");
            return Err(refuse(format!("{identity} may not call {verb:?}"))
                .remedy("use the certificate of a coordinator"));
        }
        Ok((verb, identity))
    }
}

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let (verb, caller) = match self.admit(&request) {
            Ok(admitted) => admitted,
            Err(failure) => {
                let refusal = Status::from(failure).into_http();
                return Box::pin(std::future::ready(Ok(refusal)));
            }
        };
        tracing::debug!(%caller, ?verb, "call");
        request.extensions_mut().insert(Caller(caller));
        let answer = match verb {
            Verb::Hello
            | Verb::Inspect
            | Verb::AcquireLease
            | Verb::RenewLease
            | Verb::ReleaseLease
            | Verb::PushTrust
            | Verb::BeginRenewal
            | Verb::CompleteRenewal => self.agent.call(request),
            Verb::StartOperation | Verb::WatchOperation | Verb::ListOperations => {
                self.operations.call(request)
            }
            Verb::Download | Verb::Upload => self.transfer.call(request),
            Verb::KeepJournal | Verb::ListJournals | Verb::ReadJournal => self.journals.call(request),
            Verb::Forward | Verb::KeepTunnel | Verb::Answer => self.gateway.call(request),
        };
        let Some(deadline) = verb.deadline() else { return answer };
        Box::pin(async move {
            tokio::time::timeout(deadline, answer).await.unwrap_or_else(|_| {
                let what = format!("{verb:?} took longer than {} s", deadline.as_secs());
                Ok(Status::from(Failure::new(Code::Internal, what)).into_http())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observers_only_look_and_agents_keep_tunnels_at_most() {
        let role = |text: &str| format!("spiffe://t/{text}").parse::<Identity>().unwrap().role;
        for (path, verb) in VERBS {
            assert_eq!(Verb::of_path(path), Some(*verb));
            let tunnels = [Verb::KeepTunnel, Verb::Answer].contains(verb);
            assert_eq!(may(&role("coordinator/anna"), *verb), !tunnels, "{verb:?}");
            assert_eq!(may(&role("agent/c/s"), *verb), tunnels, "{verb:?}");
            let looks =
                [Verb::Hello, Verb::Inspect, Verb::WatchOperation, Verb::ListOperations, Verb::Forward];
            assert_eq!(may(&role("observer/nagios"), *verb), looks.contains(verb), "{verb:?}");
        }
        assert_eq!(Verb::of_path("/umsid.v1.Agent/Shell"), None);
        assert_eq!(Verb::of_path("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"), None);
    }

    /// The table against the contract itself.
    #[test]
    fn every_call_of_the_contract_is_in_the_table() {
        let contract = concat!(
            include_str!("../../proto/umsid/v1/agent.proto"),
            include_str!("../../proto/umsid/v1/operations.proto"),
            include_str!("../../proto/umsid/v1/transfer.proto"),
            include_str!("../../proto/umsid/v1/journal.proto"),
            include_str!("../../proto/umsid/v1/gateway.proto")
        );
        let mut service = "";
        let mut calls = 0;
        for line in contract.lines() {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.split(' ').next().unwrap();
            }
            if let Some(rest) = line.trim().strip_prefix("rpc ") {
                let call = rest.split('(').next().unwrap();
                let path = format!("/umsid.v1.{service}/{call}");
                assert!(Verb::of_path(&path).is_some(), "{path}");
                calls += 1;
            }
        }
        assert_eq!(calls, VERBS.len());
    }
}
