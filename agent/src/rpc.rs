//! The contract's services: decode, call, encode; nothing else. Who may call what, [`crate::peer`] has decided before.

use tonic::{Request, Status};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Invalid, LeaseRef, required};
use umsid_proto::wire;

use crate::peer::Caller;

mod agent;
mod gateway;
mod journals;
mod operations;
mod transfer;

pub(crate) use agent::AgentRpc;
pub(crate) use gateway::GatewayRpc;
pub(crate) use journals::JournalsRpc;
pub(crate) use operations::OperationsRpc;
pub(crate) use transfer::TransferRpc;

fn invalid(error: &Invalid) -> Failure {
    Failure::of(Code::InvalidRequest, error)
}

/// A field as what it means.
fn decoded<T>(field: Result<T, Invalid>) -> Result<T, Status> {
    field.map_err(|error| invalid(&error).into())
}

fn lease(wire: Option<wire::LeaseRef>) -> Result<LeaseRef, Status> {
    decoded(required("lease", wire).and_then(TryInto::try_into))
}

fn caller<T>(request: &Request<T>) -> String {
    request.extensions().get::<Caller>().map_or_else(String::new, |caller| caller.0.to_string())
}
