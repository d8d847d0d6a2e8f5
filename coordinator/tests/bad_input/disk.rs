//! A disk that is full, on a target. It is a file system of its own: where none can be mounted, there is nothing to try.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::place::Place;
use crate::{SYNC, agent_dir, refused_before_a_run, says};

/// A small file system, there until it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// In place of an agent's state directory, with what was in it.
    fn under_agent(place: &Place, server: &str, mebibytes: u32) -> Option<Self> {
        place.kill_agent(server);
        let state = agent_dir(place, server).join("state");
        let aside = agent_dir(place, server).join("aside");
        copy(&state, &aside);
        let options = format!("size={mebibytes}m,mode=0700");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", state.to_str().unwrap()]);
        let disk = mounted.then_some(Self(state.clone()));
        if disk.is_some() {
            copy(&aside, &state);
        } else {
            // Who runs the tests shall know what they did not try.
            std::io::stderr()
                .write_all(b"no file system can be mounted here: a full disk is not tried\n")
                .unwrap();
        }
        place.start_agent(server);
        disk
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        let error = std::iter::repeat_with(|| file.write_all(&[0; 4096])).find_map(Result::err).unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the agent is still at work there.
        run("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    assert_cmd::Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_target_without_room_is_refused_before_anything_is_done() {
    let place = Place::broken(&["ums2", "ums3"]);
    let Some(_disk) = Disk::under_agent(&place, "ums2", 20) else { return };
    let ran = refused_before_a_run(&place, &[], 1);
    says(&ran, &["ums2 has only", "MiB free where its agent keeps backups", "make room: 64 MiB are needed"]);
}

#[test]
fn a_target_whose_disk_fills_up_halts_the_run_with_nothing_restored() {
    let place = Place::broken(&["ums2", "ums3"]);
    let Some(disk) = Disk::under_agent(&place, "ums2", 80) else { return };
    let before = place.lab.truth().unwrap();
    place.lab.set("ums1", "backup_delay_ms", "1000").unwrap();
    let mut umsid = place.watch(&SYNC);
    // After all that was looked at before, and before the backup is sent.
    umsid.until_begun("backup", "ums1");
    disk.fill();
    let report = umsid.ends(1);
    assert_eq!(report["outcome"], "halted", "{report:#}");
    assert_eq!(report["failures"][0]["code"], "disk-full", "{report:#}");
    assert_eq!(report["failures"][0]["remedy"], "make room where the agent keeps its state", "{report:#}");
    assert_eq!(place.lab.truth().unwrap(), before);
    for server in ["ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore"), 0, "on {server}");
    }
    disk.make_room();
    place.lab.set("ums1", "backup_delay_ms", "0").unwrap();
    place.umsid(&["resume"]).exits(0);
    place.is_well();
}
