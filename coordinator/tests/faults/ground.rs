//! Where cases are played: an installation, and disks of their own for those that are to be filled.

use std::collections::BTreeMap;

use crate::case::{Fault, Victim};
use crate::kind::Kind;
use crate::place::Place;
use crate::story::servers;
use crate::tmpfs::Disk;

/// More than an agent wants to be free before a run, and little enough to be filled in a moment.
const MEBIBYTES: u32 = 72;

/// A place, and the disks of its processes.
pub(crate) struct Ground {
    // Unmounted before the directory they are in is removed.
    disks: BTreeMap<Victim, Disk>,
    pub(crate) place: Place,
}

impl Ground {
    pub(crate) fn new(kind: &Kind, fault: Fault) -> Self {
        let place = kind.place();
        let mut disks = BTreeMap::new();
        if fault == Fault::FullDisk {
            disks.insert(Victim::Coordinator, Disk::over(&place.state(), MEBIBYTES));
            for server in servers(&place) {
                place.kill_agent(&server);
                disks.insert(
                    Victim::Agent(server.clone()),
                    Disk::over(&place.agent_dir(&server).join("state"), MEBIBYTES),
                );
                place.start_agent(&server);
            }
        }
        Self { disks, place }
    }

    pub(crate) fn disk(&self, of: &Victim) -> &Disk {
        &self.disks[of]
    }
}
