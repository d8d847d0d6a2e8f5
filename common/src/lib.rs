//! What both binaries need and what knows nothing of the UMS.
//!
//! - [`name`]: the words for clusters, servers, runs and roles, checked where they come in;
//! - [`digest`]: SHA-256 of files, fingerprints of certificates;
//! - [`durable`]: files that are visible only when whole, verified and on disk;
//! - [`address`]: `host:port`, checked where it is written;
//! - [`carried`]: connections carried inside something else;
//! - [`chain`]: records each of which carries the hash of the one before;
//! - [`fault`]: moments at which a test may end or freeze the process;
//! - [`manager`]: what whoever manages a process as a service is told;
//! - [`memory`]: of a process that holds keys, closed to others;
//! - [`tls`]: the only place where TLS is built;
//! - [`pairing`]: how two sides that know a secret prove it during enrolment;
//! - [`seal`]: a backup with its password, encrypted to the servers that may open it and signed by its source;
//! - [`telemetry`]: log lines.

pub mod address;
pub mod carried;
pub mod chain;
pub mod digest;
pub mod durable;
pub mod fault;
pub mod manager;
pub mod memory;
pub mod name;
pub mod pairing;
pub mod seal;
pub mod telemetry;
pub mod tls;
