//! The main job from end to end: real `umsid`, real agents, a lab for the UMS.

#[path = "../support/place.rs"]
#[allow(dead_code, reason = "each test program uses its part")]
mod place;

mod back;
mod crash;
mod happy;
mod refusals;
