//! After a run that failed and was rolled back, and one that succeeded, everything that was written, printed or passed
//! on is searched for the passwords and the private keys that were in play.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use umsid_common::durable::{self, Access};

use crate::place::{Place, Ran};

const SYNC: [&str; 8] = ["sync", "--yes", "--settle", "0", "--rehearse", "--log", "trace", "-o"];

/// Stands before `umsadmin-cli` and notes what is in the password files it is given.
const EAVESDROPPER: &str = r#"notes=$1; shift
before=
for argument; do
  # In one write: several are at it at once.
  case $before in --password:file) printf '%s\n' "$(cat "$argument")" >> "$notes";; esac
  before=$argument
done
exec "$@"
"#;

struct Secrets {
    passwords: BTreeSet<String>,
    /// The middle of every private key of a UMS ID: as in PEM, and as in DER.
    keys: Vec<String>,
}

impl Secrets {
    fn gather(place: &Place, notes: &Path) -> Self {
        let text = std::fs::read_to_string(notes).unwrap();
        let mut keys = Vec::new();
        let homes = place.lab.servers().iter().filter_map(|server| server.install_dir.ancestors().nth(3));
        for file in homes.flat_map(files) {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default()).into_owned();
            for block in text.split("PRIVATE KEY-----\n").skip(1).step_by(2) {
                let body: String = block.lines().take_while(|line| !line.starts_with("-----")).collect();
                let der = BASE64.decode(body.as_bytes()).unwrap();
                // Both begin with 36 bytes that every such key has.
                keys.push(body[48..64].to_owned());
                keys.push(searchable(&der[36..60]));
            }
        }
        Self { passwords: text.lines().map(ToOwned::to_owned).collect(), keys }
    }

    /// Which of them is in these bytes.
    fn found_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let text = searchable(bytes);
        if self.passwords.iter().any(|password| text.contains(password)) {
            return Some("a password");
        }
        self.keys.iter().any(|key| text.contains(key)).then_some("a private key of a UMS ID")
    }
}

/// A character for every byte: text is searched much faster than bytes.
fn searchable(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// With the eavesdropper before every `umsadmin-cli`, and agents that log everything.
fn overheard(notes: &Path) -> Place {
    let place = Place::broken(&["ums2", "ums3"]);
    let script = notes.with_extension("sh");
    durable::replace(&script, EAVESDROPPER.as_bytes(), Access::Private).unwrap();
    for server in place.lab.servers() {
        let path = place.dir.path().join(format!("agent-{}", server.name)).join("agent.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let cli = format!("umsadmin_cli = {:?}", server.umsadmin_cli);
        assert!(text.contains(&cli), "{text}");
        let wrapped =
            format!("umsadmin_cli = [\"/bin/sh\", {script:?}, {notes:?}, {:?}]", server.umsadmin_cli);
        let text = text.replace(&cli, &wrapped) + "[log]\nfilter = \"trace\"\n";
        durable::replace(&path, text.as_bytes(), Access::Private).unwrap();
        place.kill_agent(&server.name);
        place.start_agent(&server.name);
    }
    place
}

#[cfg(unix)]
#[test]
fn no_secret_is_left_anywhere_and_no_ums_id_created() {
    use std::os::unix::fs::PermissionsExt as _;
    let elsewhere = umsid_testkit::scratch();
    let notes = elsewhere.path().join("notes");
    let place = overheard(&notes);

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
