//! What Windows offers only through calls that Rust cannot check. All unsafe code of ours is in this crate, and it is empty
//! on other systems.
//!
//! - `acl`: directories that only some may open, and who may open one that is there.
//! - `code_page`: text of programs that do not print UTF-8.
//! - `disk`: how much room there is.
//! - `event_log`: warnings and errors, where administrators look for them.
//! - `folders`: where the system has what.
#![cfg(windows)]

pub mod acl;
pub mod code_page;
pub mod disk;
pub mod event_log;
pub mod folders;

mod text;
