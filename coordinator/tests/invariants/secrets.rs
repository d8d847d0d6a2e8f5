//! After a run that failed and was rolled back, and one that succeeded, everything that was written, printed or passed
//! on is searched for the passwords and the private keys that were in play.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::eavesdropper::{Secrets, files, overhear, searchable, shown};
use crate::place::{Place, Ran};

const SYNC: [&str; 8] = ["sync", "--yes", "--settle", "0", "--rehearse", "--log", "trace", "-o"];

#[test]
fn no_secret_is_left_anywhere_and_no_ums_id_created() {
    let elsewhere = umsid_testkit::scratch();
    let notes = elsewhere.path().join("notes");
    let place = Place::broken(&["ums2", "ums3"]);
    overhear(&place, &notes, &[]);

    // The canary comes up with its old UMS ID, and is put back.
    place.lab.set("ums3", "start", "old-id").unwrap();
    let failed = place.umsid(&[&SYNC[..], &["json"]].concat());
    assert_ne!(failed.exit, Some(0), "{}", failed.err);
    place.lab.set("ums3", "start", "normal").unwrap();
    let resumed = place.umsid(&["resume", "--log", "trace"]);
    let done = place.umsid(&[&SYNC[..], &["table"]].concat()).exits(0);
    let told: Vec<Ran> =
        ["runs", "status", "servers", "doctor"].map(|what| place.umsid(&[what, "-o", "json"])).into();
    place.is_well();

    // The rehearsal and the Main UMS ID of each sync, and the way back of the first.
    assert!(place.calls("ums3", "licensing restore") >= 5, "{}\n{}", failed.err, resumed.err);

    let secrets = Secrets::gather(&place, &notes);
    assert!(secrets.passwords.len() >= 6, "{} passwords", secrets.passwords.len());
    assert!(secrets.passwords.iter().all(|password| password.len() == 44));
    assert!(secrets.keys.len() >= 6, "{} keys", secrets.keys.len());

    // What was printed.
    for ran in told.iter().chain([&failed, &resumed, &done]) {
        assert_eq!(secrets.found_in(ran.out.as_bytes()), None, "on standard output:\n{}", ran.out);
        assert_eq!(secrets.found_in(ran.err.as_bytes()), None, "on standard error:\n{}", ran.err);
    }
    // What was passed on, to whatever was called.
    let (mut calls, mut password_files) = (0, 0);
    for server in place.lab.servers() {
        for call in place.lab.calls(&server.name).unwrap() {
            let given = format!("{:?} {:?}", call.argv, call.environment);
            assert_eq!(secrets.found_in(given.as_bytes()), None, "{given}");
            calls += 1;
            if let Some(file) = call.password_file {
                assert_eq!((file.mode & 0o777, file.directory_mode & 0o777), (0o600, 0o700), "{}", file.path);
                assert!(!Path::new(&file.path).exists(), "{} is still there", file.path);
                password_files += 1;
            }
        }
    }
    assert!(calls > 30 && password_files >= 8, "{calls} calls, {password_files} password files");
    for shown in shown(&notes) {
        assert_eq!(secrets.found_in(&shown), None, "{}", String::from_utf8_lossy(&shown));
    }
    // What is on the disks of coordinator and agents: configuration, logs, journal, records, vault, spool.
    let mut keys = BTreeSet::new();
    let written = files(place.dir.path());
    assert!(written.iter().any(|path| path.ends_with("state/state.db")));
    assert!(written.iter().filter(|path| path.ends_with("log")).count() == 3, "{written:?}");
    for path in written {
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(secrets.found_in(&bytes), None, "in {}", path.display());
        let text = searchable(&bytes);
        if text.contains("PRIVATE KEY-----") || text.contains("AGE-SECRET-KEY-1") {
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", path.display());
            keys.insert(path.strip_prefix(place.dir.path()).unwrap().to_str().unwrap().to_owned());
        }
    }
    // The keys there must be, and no other.
    let agents = ["ums1", "ums2", "ums3"]
        .into_iter()
        .flat_map(|server| ["key.pem", "seal.key"].map(|file| format!("agent-{server}/state/{file}")));
    let own = ["state/authority/key.pem", "state/coordinator/key.pem"].map(ToOwned::to_owned);
    assert_eq!(keys, agents.chain(own).collect::<BTreeSet<_>>());
    // What must not outlive its command or its run.
    for server in ["ums1", "ums2", "ums3"] {
        for directory in ["work", "ums", "spool"] {
            let left = files(&place.dir.path().join(format!("agent-{server}/state/{directory}")));
            assert!(left.is_empty(), "{left:?}");
        }
    }
}
