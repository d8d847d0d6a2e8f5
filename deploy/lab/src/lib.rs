//! A UMS installation to try things on.
//!
//! The real UMS is not available to us, so everything is tried on this: a stand-in for `umsadmin-cli`, a stand-in for
//! the UMS Server, and an installation of several servers that share a database, in a directory of its own and on
//! loopback. It is built from `UMS_FACTS.md` and depends on nothing else of ours: what our agent would find convenient
//! is no argument here. What nobody knows about the real UMS is a setting, and every plausible way has a name
//! ([`dialects`]).
//!
//! # The model
//!
//! - A **UMS ID** is a real X.509 certificate with its private key. Each server has one on its disk; its process reads
//!   it when it starts and keeps to it until it ends. A server is in sync when its certificate is Main's.
//! - The **database** says which server is Main, what the Main UMS ID's certificate is, and from which UMS IDs the
//!   licence was generated. A server whose UMS ID is neither licensed nor one it was known by refuses to start: the
//!   hazard of UMS_FACTS §2. A server with a UMS ID of its own starts, and is out of sync.
//! - At its start a server that is out of sync fetches the Main UMS ID from the Main server's web port. A server put
//!   out of sync by [`Lab::break_server`] has been told to fail at that, so that only a restored backup helps.
//! - A **backup** is an age file under the password; `restore` replaces certificate and key on disk and tells the
//!   running process nothing.
//!
//! # The directory
//!
//! ```text
//! LAB/lab.json                          what the lab is made of
//! LAB/bin/                              the programs of this lab
//! LAB/database/ums.json                 what the servers share
//! LAB/servers/ums1/                     what would be the root of the server's disk
//!     bin/umsadmin-cli                  works from any directory, with an empty environment
//!     etc/init.d/igelRMserver           start | stop | restart | status
//!     var/run/igelRMserver.pid
//!     opt/IGEL/RemoteManager/           the install directory: rmadmin, rmguiserver/{conf,logs}, umsversion.properties
//!     lab/settings.toml                 dialect and misbehaviour, read anew at every call
//!     lab/calls.log, lab/lifecycle.log  every call with its arguments and environment; starts and stops
//! ```
//!
//! On Windows a server has no init script: `umsid-lab-server install` makes its UMS Server a service, and puts
//! `rmadmin/umsadmin-cli.exe` and `bin/umsadmin-cli.bat` there.
//!
//! # In a test
//!
//! ```no_run
//! use umsid_lab::{Lab, Options};
//!
//! let lab = Lab::up(&Options { servers: 3, ..Options::default() })?;
//! lab.break_server("ums3")?;
//! lab.set("ums2", "hang", "restore")?;
//! assert!(!lab.truth()?.all_in_sync());
//! # Ok::<(), umsid_lab::LabError>(())
//! ```
//!
//! Dropping the value ends every process of the lab and removes its directory; when the test is killed instead, the
//! servers end by themselves within a second or so.
//!
//! # Settings
//!
#![doc = include_str!("keys.md")]

mod books;
mod cli;
mod database;
mod description;
mod dialects;
mod lab;
mod layout;
mod ports;
mod process;
pub mod programs;
mod server;
mod service;
mod settings;
mod store;
mod ums_id;
mod web;
#[cfg(windows)]
pub mod windows;

pub use books::{Call, Event, Lifecycle, PasswordFile};
pub use description::{Description, Server};
pub use dialects::{Dialect, dialect, dialects};
pub use lab::{Break, Lab, LabError, Options, ServerTruth, Truth, binaries};
pub use layout::SERVER_VARIABLE;
pub use settings::{KEYS, SettingError};
pub use web::get as https_get;
