//! What may call or lie in wait: peers that stall, flood and lie, names that lead elsewhere, files planted in the
//! agent's directories. Real sockets; the frames of HTTP/2 are made by hand where no client of ours would send them.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be had is a failure")]

mod calls;
#[path = "../network/fake_ums.rs"]
#[allow(dead_code, reason = "shared with the tests of a friendly network")]
mod fake_ums;
mod frames;
#[path = "../network/house.rs"]
#[allow(dead_code, reason = "shared with the tests of a friendly network")]
mod house;
#[cfg(unix)]
mod planted;
mod streams;
