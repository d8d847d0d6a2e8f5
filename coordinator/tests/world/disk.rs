//! A disk that is full, on a target. It is a file system of its own, mounted where an agent has its state.

use crate::place::{CLUSTER, Place};
use crate::tmpfs::Disk;
use crate::world::{Before, at_home, does, says};

crate::tests!(Disk::missing;
    a_target_without_room_is_refused_before_anything_is_done,
    a_target_whose_disk_fills_up_halts_the_run_with_nothing_restored,
    a_safety_backup_that_fills_the_disk_halts_the_run_and_leaves_nothing_behind,
);

const SYNC: [&str; 5] = ["sync", CLUSTER, "--yes", "--settle", "0"];

/// In place of an agent's state directory.
fn under_agent(place: &Place, server: &str, mebibytes: u32) -> Disk {
    place.kill_agent(server);
    let disk = Disk::over(&place.agent_dir(server).join("state"), mebibytes);
    place.start_agent(server);
    disk
}

/// Nothing was restored anywhere.
#[track_caller]
fn untouched(place: &Place, before: &Before) {
    before.nothing_changed(place);
    for server in ["ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore"), 0, "on {server}");
    }
}

fn a_target_without_room_is_refused_before_anything_is_done() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let _disk = under_agent(&place, "ums2", 20);
    let ran = place.umsid(&SYNC).exits(1);
    says(&ran, &["ums2 has only", "MiB free where its agent keeps backups", "make room: 64 MiB are needed"]);
    untouched(&place, &before);
    let runs = place.umsid(&["runs", "-o", "json"]).exits(0).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 0, "{runs:#}");
}

fn a_target_whose_disk_fills_up_halts_the_run_with_nothing_restored() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let disk = under_agent(&place, "ums2", 80);
    place.lab.set("ums1", "backup_delay_ms", "1000").unwrap();
    let mut umsid = place.watch(&SYNC);
    // After all that was looked at before, and before the backup is sent.
    umsid.until_begun("backup", "ums1");
    disk.fill();
    let report = umsid.ends(1);
    assert_eq!(report["outcome"], "halted", "{report:#}");
    assert_eq!(report["failures"][0]["code"], "disk-full", "{report:#}");
    assert_eq!(report["failures"][0]["remedy"], "make room where the agent keeps its state", "{report:#}");
    untouched(&place, &before);
    disk.make_room();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}

/// `umsadmin-cli` writes until there is no room, and fails with words nobody knows.
fn a_safety_backup_that_fills_the_disk_halts_the_run_and_leaves_nothing_behind() {
    let (place, before) = at_home(&[], &["ums2", "ums3"]);
    let disk = under_agent(&place, "ums2", 80);
    let large = [("backup_size", "12000000"), ("backup_delay_ms", "2000")];
    place.lab.set_many(&["ums2"], &large).unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until("the safety backup of ums2", |event| does(event, "ums2", "backing up the UMS ID"));
    disk.leave(8);
    let report = umsid.ends(1);
    assert_eq!(report["outcome"], "halted", "{report:#}");
    let failed = &report["failures"][0];
    assert_eq!((&failed["server"], &failed["code"]), (&"ums2".into(), &"disk-full".into()), "{report:#}");
    assert_eq!(failed["remedy"], "make room where the agent keeps its state", "{report:#}");
    // What was written of it is gone.
    assert!(disk.used() < 1 << 20, "{} bytes are left behind", disk.used());
    untouched(&place, &before);
    disk.make_room();
    place.umsid(&["resume"]).exits(0).shows("synchronized");
    before.done_once(&place);
}
