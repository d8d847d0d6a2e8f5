//! Who is there, what it sees, and who may change it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tonic::{Request, Response, Status};
use umsid_common::fault;
use umsid_proto::PROTOCOL;
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Invalid, LeaseRef, digest, named};
use umsid_proto::wire;
use umsid_proto::wire::agent_server::Agent;

use super::{caller, decoded};
use crate::host::{Host, blocking};
use crate::lease::Wish;
use crate::operations::{Operations, bound_ids};

/// Longest name of a holder, in characters.
const HOLDER: usize = 200;

pub(crate) struct AgentRpc {
    pub(crate) host: Arc<Host>,
    pub(crate) operations: Arc<Operations>,
}

#[tonic::async_trait]
impl Agent for AgentRpc {
    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let wire::HelloRequest { protocol_min, protocol_max } = request.into_inner();
        let (oldest, newest) = PROTOCOL;
        if protocol_max < oldest || protocol_min > newest || protocol_min > protocol_max {
            let what = format!(
                "the coordinator speaks versions {protocol_min} to {protocol_max} of the protocol, this agent {oldest} to {newest}"
            );
            let older = if protocol_max < oldest { "coordinator" } else { "agent" };
            return Err(Failure::new(Code::Protocol, what).remedy(format!("update the {older}")).into());
        }
        let host = &self.host;
        let credentials = host.tls.current();
        let (not_before, not_after) = credentials.validity();
        Ok(Response::new(wire::HelloResponse {
            protocol_min: oldest,
            protocol_max: newest,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: host.me.cluster.to_string(),
            server: host.me.server.to_string(),
            recipient: host.key.recipient().to_string(),
            crl_number: credentials.crl_number(),
            certificate_not_after_unix_ms: not_after.as_millisecond(),
            certificate_not_before_unix_ms: not_before.as_millisecond(),
            clock_unix_ms: Timestamp::now().as_millisecond(),
        }))
    }

    async fn inspect(
        &self,
        request: Request<wire::InspectRequest>,
    ) -> Result<Response<wire::Inspection>, Status> {
        let mut inspection = self
            .host
            .inspect(request.into_inner().quick, |service| self.operations.restart_due(service))
            .await;
        bound_ids(&mut inspection.ums_ids);
        fault::moment("inspected");
        Ok(Response::new(inspection.into()))
    }

    async fn acquire_lease(
        &self,
        request: Request<wire::AcquireLeaseRequest>,
    ) -> Result<Response<wire::Lease>, Status> {
        let caller = caller(&request);
        let wire = request.into_inner();
        if wire.cluster != self.host.me.cluster.as_str() {
            let what =
                format!("this server is of cluster {}, not {:.120}", self.host.me.cluster, wire.cluster);
            return Err(Failure::new(Code::WrongCluster, what).remedy("correct the inventory").into());
        }
        let wish = decoded(self.wish(&wire))?;
        let host = self.host.clone();
        let broken = wish.breaks.clone();
        let lease = blocking(move || host.leases.acquire(&wish)).await.map_err(Failure::from)?;
        if let Some(broken) = broken {
            tracing::warn!(caller, by = lease.holder, run = %broken.run, epoch = broken.epoch, "lease broken");
        }
        tracing::info!(caller, run = %lease.run, epoch = lease.epoch, until = %lease.until, "lease granted");
        Ok(Response::new(lease.into()))
    }

    async fn renew_lease(
        &self,
        request: Request<wire::RenewLeaseRequest>,
    ) -> Result<Response<wire::Lease>, Status> {
        let wire::RenewLeaseRequest { run, epoch } = request.into_inner();
        let lease = LeaseRef { run: decoded(named("run", &run))?, epoch };
        let host = self.host.clone();
        let lease = blocking(move || host.leases.renew(&lease)).await.map_err(Failure::from)?;
        Ok(Response::new(lease.into()))
    }

    async fn release_lease(
        &self,
        request: Request<wire::ReleaseLeaseRequest>,
    ) -> Result<Response<wire::ReleaseLeaseResponse>, Status> {
        let caller = caller(&request);
        let wire::ReleaseLeaseRequest { run, epoch } = request.into_inner();
        let lease = LeaseRef { run: decoded(named("run", &run))?, epoch };
        let host = self.host.clone();
        blocking(move || host.leases.release(&lease)).await.map_err(Failure::from)?;
        tracing::info!(caller, run, epoch, "lease released");
        Ok(Response::new(wire::ReleaseLeaseResponse {}))
    }

    async fn push_trust(
        &self,
        request: Request<wire::PushTrustRequest>,
    ) -> Result<Response<wire::PushTrustResponse>, Status> {
        let wire::PushTrustRequest { anchors_pem, crls_pem, crl_number } = request.into_inner();
        let host = self.host.clone();
        let pushed = blocking(move || host.push_trust(anchors_pem, crls_pem, crl_number)).await;
        Ok(Response::new(wire::PushTrustResponse { crl_number: pushed.map_err(Failure::from)? }))
    }

    async fn begin_renewal(
        &self,
        _request: Request<wire::BeginRenewalRequest>,
    ) -> Result<Response<wire::BeginRenewalResponse>, Status> {
        let host = self.host.clone();
        let csr = blocking(move || host.begin_renewal()).await.map_err(Failure::from)?;
        Ok(Response::new(wire::BeginRenewalResponse { csr }))
    }

    async fn complete_renewal(
        &self,
        request: Request<wire::CompleteRenewalRequest>,
    ) -> Result<Response<wire::CompleteRenewalResponse>, Status> {
        let host = self.host.clone();
        let certificate = request.into_inner().certificate_pem;
        let not_after = blocking(move || host.complete_renewal(certificate)).await.map_err(Failure::from)?;
        Ok(Response::new(wire::CompleteRenewalResponse {
            certificate_not_after_unix_ms: not_after.as_millisecond(),
        }))
    }
}

impl AgentRpc {
    fn wish(&self, wire: &wire::AcquireLeaseRequest) -> Result<Wish, Invalid> {
        if wire.epoch > i64::MAX.unsigned_abs() {
            return Err(Invalid::new("epoch", "it is too large: nobody could ever go above it"));
        }
        let plan = Some(&wire.plan_digest).filter(|bytes| !bytes.is_empty());
        let (shortest, longest) = (self.host.deadlines.shortest_lease, self.host.deadlines.longest_lease);
        Ok(Wish {
            run: named("run", &wire.run)?,
            epoch: wire.epoch,
            holder: wire.holder.chars().filter(|c| !c.is_control()).take(HOLDER).collect(),
            ttl: Duration::from_secs(wire.ttl_seconds.into()).clamp(shortest, longest),
            plan: plan.map(|bytes| digest("plan_digest", bytes)).transpose()?,
            breaks: wire.breaks.as_ref().map(broken).transpose()?,
        })
    }
}

fn broken(wire: &wire::BrokenLease) -> Result<LeaseRef, Invalid> {
    Ok(LeaseRef { run: named("breaks.run", &wire.run)?, epoch: wire.epoch })
}
