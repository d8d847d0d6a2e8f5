//! Backups that are none: empty, too large, altered by one bit on the way.

use std::path::{Path, PathBuf};

use umsid_testkit::wait_for_blocking;

use crate::place::{Place, Ran, SOON};
use crate::{SYNC, agent_dir, says};

/// A run that halts with nothing changed on any server.
#[track_caller]
fn halts(place: &Place) -> Ran {
    let before = place.lab.truth().unwrap();
    let ran = place.umsid(&SYNC).exits(1);
    assert_eq!(place.lab.truth().unwrap(), before, "{}", ran.err);
    for server in place.lab.servers() {
        assert_eq!(place.calls(&server.name, "licensing restore"), 0, "on {}", server.name);
    }
    ran
}

#[test]
fn a_backup_that_is_empty_or_too_large_is_not_used() {
    let place = Place::broken(&["ums2", "ums3"]);
    for (key, value, normal, why) in [
        ("empty_backup", "true", "false", "a file of 0 bytes"),
        ("backup_size", "80000000", "0", "allowed are 67108864"),
    ] {
        place.lab.set("ums1", key, value).unwrap();
        let ran = halts(&place);
        says(&ran, &["ums1: step", "back up the Main UMS ID", why, "umsid resume"]);
        place.lab.set("ums1", key, normal).unwrap();
    }
    // The same for safety backups: without a good one nothing is restored.
    place.lab.set("ums3", "empty_backup", "true").unwrap();
    says(&halts(&place), &["ums3: step", "safety backup of its own UMS ID", "a file of 0 bytes"]);
}

/// The only sealed backup in an agent's spool.
fn sealed(place: &Place, server: &str) -> PathBuf {
    let spool = agent_dir(place, server).join("state/spool");
    wait_for_blocking("the sealed backup", SOON, || {
        let files = std::fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().path());
        files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "age"))
    })
}

fn flip_one_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0b1000;
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, &bytes))
        .unwrap();
}

#[cfg(unix)]
#[test]
fn a_backup_altered_before_the_transfer_reaches_nobody() {
    let place = Place::broken(&["ums2", "ums3"]);
    place.lab.set("ums1", "backup_delay_ms", "1000").unwrap();
    let mut umsid = place.watch(&SYNC);
    umsid.until_begun("backup", "ums1");
    // It stops when the backup is made.
    umsid.interrupt();
    umsid.ends(130);
    flip_one_bit(&sealed(&place, "ums1"));
    let before = place.lab.truth().unwrap();
    let ran = place.umsid(&["resume"]).exits(1);
    says(&ran, &["transfer the sealed backup", "not the backup", "what to do: ", "umsid resume"]);
    assert_eq!(place.lab.truth().unwrap(), before);
    for server in ["ums2", "ums3"] {
        assert_eq!(place.calls(server, "licensing restore"), 0);
    }
    // A new run makes a new backup.
    place.lab.set("ums1", "backup_delay_ms", "0").unwrap();
    place.umsid(&SYNC).exits(0);
    place.is_well();
}

#[test]
fn a_backup_altered_before_its_restore_is_not_restored() {
    let place = Place::broken(&["ums2", "ums3"]);
    let before = place.lab.truth().unwrap();
    place.lab.set("ums3", "restore_delay_ms", "1500").unwrap();
    let mut umsid = place.watch(&SYNC);
    // While the canary is at work, the file waits on the other target.
    umsid.until_begun("restore", "ums3");
    flip_one_bit(&sealed(&place, "ums2"));
    let report = umsid.ends(1);
    assert_eq!(report["outcome"], "halted", "{report:#}");
    let failed = &report["failures"][0];
    assert_eq!(
        (&failed["server"], &failed["what"]),
        (&"ums2".into(), &"restore the Main UMS ID".into()),
        "{report:#}"
    );
    assert!(matches!(failed["code"].as_str(), Some("bad-backup" | "digest-mismatch")), "{report:#}");
    assert_ne!(failed["remedy"], "", "{report:#}");
    assert_eq!(place.calls("ums2", "licensing restore"), 0);
    let after = place.lab.truth().unwrap();
    assert_eq!(after.server("ums2"), before.server("ums2"));
    assert!(after.server("ums3").unwrap().in_sync);
}
