//! The main job from end to end: real `umsid`, real agents, a lab for the UMS.

#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

#[path = "../support/place.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod place;

mod back;
mod crash;
mod happy;
mod locks;
mod lost;
mod refusals;
mod shared;
mod standstill;
mod stuck;
mod unread;
mod windows;
