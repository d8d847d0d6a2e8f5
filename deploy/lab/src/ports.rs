//! Ports for the servers of labs, kept for as long as the lab lives: a server that is stopped gets its port back.
//!
//! They lie below the range from which operating systems choose by themselves, and each is reserved by a file that
//! names the lab, so that labs of several test processes do not take one another's.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use crate::layout::LabDir;
use crate::store;

/// First port and how many.
const FIRST: u16 = 17_000;
const COUNT: u16 = 14_000;

fn reservations() -> PathBuf {
    std::env::temp_dir().join(format!("umsid-lab-ports-{}", user()))
}

#[cfg(unix)]
fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

#[cfg(not(unix))]
fn user() -> u32 {
    0
}

/// Reserves a free port for `lab`.
pub(crate) fn reserve(lab: &LabDir) -> io::Result<u16> {
    let directory = reservations();
    fs::create_dir_all(&directory)?;
    let random = u16::from_le_bytes([crate::ums_id::random()[0], crate::ums_id::random()[1]]);
    store::locked(&directory.join("lock"), || {
        for step in 0..COUNT {
            let port = FIRST + (random % COUNT + step) % COUNT;
            let file = directory.join(port.to_string());
            if taken(&file) || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
                continue;
            }
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(file)?;
            file.write_all(lab.path().as_os_str().as_encoded_bytes())?;
            return Ok(port);
        }
        Err(io::Error::other("no free port on loopback"))
    })?
}

/// Gives ports of a lab back.
pub(crate) fn release(ports: impl IntoIterator<Item = u16>) {
    for port in ports {
        // One that was never reserved is released all the same.
        let _ = fs::remove_file(reservations().join(port.to_string()));
    }
}

/// Whether a lab that still exists holds the reservation.
fn taken(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|lab| Path::new(&lab).exists())
}
