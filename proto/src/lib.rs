//! The contract between `umsid` and `umsid-agent`.
//!
//! [`wire`] is what goes over the network, generated from `umsid/v1/*.proto`. [`model`] is what both programs work with:
//! the receiving side turns wire messages into it at the door (`TryFrom`), the sending side turns it into wire
//! messages (`From`). [`failure`] is what did not work, as a message and as a `tonic::Status`.

/// Messages and services as generated from the contract.
pub mod wire {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("umsid.v1");
}

pub mod failure;
pub mod model;

/// The version of the protocol this build speaks, and the oldest it still understands.
pub const PROTOCOL: (u32, u32) = (1, 1);

/// Largest message either side sends or accepts, in bytes.
pub const LARGEST_MESSAGE: usize = 1 << 20;

/// Size of the pieces in which files are streamed, in bytes.
pub const CHUNK: usize = 256 << 10;

/// The port agents listen on unless configured otherwise.
pub const DEFAULT_PORT: u16 = 8643;
