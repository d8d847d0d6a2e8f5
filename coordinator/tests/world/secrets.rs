//! A run stands still at the moments when secrets are in play, and everything there is at that moment is searched for
//! them: what the kernel shows of every process, every file whether it has a name or not, the memory of `umsid`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;
use umsid_testkit::{scratch, wait_for_blocking};

use crate::eavesdropper::{Secrets, files, overhear, searchable, shown};
use crate::place::{Begun, CLUSTER, Place, SOON};
use crate::processes::{self, Process, Watch};
use crate::world::{at_home, freeze, started, thaw, until_frozen};

crate::tests!(processes::missing;
    while_a_run_goes_on_no_process_shows_a_secret,
    what_is_in_the_clear_is_in_one_private_file_for_one_command,
    in_the_memory_of_umsid_there_is_never_a_secret,
);

/// How long `umsadmin-cli` takes for what is waited for: long enough to be stopped in the middle.
const SLOW: &str = "3000";

/// The variable that says for which operation an agent started a program.
const MARK: &str = "UMSID_OPERATION";

/// The program that the UMS Server of a lab is, and its init script.
const SERVER: &str = "umsid-lab-server";

/// When a run stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// `umsadmin-cli` backs up the target's own UMS ID, and beside it, on another server, Main's.
    SafetyBackup,
    /// `umsadmin-cli` backs up the Main UMS ID.
    Backup,
    /// That backup is there, and not sealed yet.
    Sealing,
    /// It is sealed; nothing has left the server.
    Sealed,
    /// A piece of it is at umsid.
    Passing,
    /// `umsadmin-cli` restores it on the target.
    Restore,
    /// Everything is done, and about to be called so.
    End,
}

/// A run, and what is known of it so far.
struct Scene {
    place: Place,
    elsewhere: TempDir,
    umsid: Begun,
    /// The backup of the Main UMS ID as `umsadmin-cli` made it.
    backup: Vec<u8>,
    /// The `umsadmin-cli` that stands still.
    hand: Option<u32>,
    since: SystemTime,
}

impl Scene {
    fn notes(&self) -> PathBuf {
        notes(&self.elsewhere)
    }

    /// Those in play so far.
    fn secrets(&self) -> Secrets {
        let secrets = Secrets::gather(&self.place, &self.notes());
        assert!(secrets.keys.len() >= 6, "{} keys", secrets.keys.len());
        if self.backup.is_empty() { secrets } else { secrets.with("a backup", middle(&self.backup)) }
    }

    fn state(&self, server: &str) -> PathBuf {
        self.place.agent_dir(server).join("state")
    }

    /// The `umsadmin-cli` that does this on a server, stopped in the middle.
    fn stopped(&self, server: &str, is_it: impl Fn(&Process) -> bool) -> u32 {
        let dir = &self.place.lab.server(server).unwrap().dir;
        let pid = wait_for_blocking("umsadmin-cli to be at work", SOON, || {
            let here = |process: &Process| process.has("UMSID_LAB_SERVER", dir.to_str().unwrap());
            let found =
                processes::all().into_iter().find(|it| it.program == "umsadmin-cli" && here(it) && is_it(it));
            found.map(|process| process.pid)
        });
        freeze(pid);
        pid
    }
}

fn notes(elsewhere: &TempDir) -> PathBuf {
    elsewhere.path().join("notes")
}

/// Bytes of a file that no other has.
fn middle(content: &[u8]) -> &[u8] {
    let at = content.len() / 2;
    &content[at..at + 32]
}

/// A whole run, with ums3 out of sync; it stands still at every moment while that is looked at.
fn stands_still(mut look: impl FnMut(Moment, &Scene)) {
    let (place, _) = at_home(&[], &["ums3"]);
    let elsewhere = scratch();
    let temporary = elsewhere.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let environment = [("TMPDIR", temporary.to_str().unwrap())];
    overhear(&place, &notes(&elsewhere), &environment);
    let slow = [("backup_delay_ms", SLOW), ("restore_delay_ms", SLOW), ("stop_ms", "500")];
    place.lab.set_many(&["ums1", "ums2", "ums3"], &slow).unwrap();
    let backup = started(&place, "backup", "ums1").replace("started", "finished");
    let faults = format!("stop@journal {backup} after,stop@piece relayed,stop@journal ended before");
    let since = SystemTime::now();
    let sync = ["sync", CLUSTER, "--yes", "--settle", "0", "--log", "trace"];
    let umsid = place.begin(&[("UMSID_FAULT", &faults), environment[0]], &sync);
    let mut scene = Scene { place, elsewhere, umsid, backup: Vec::new(), hand: None, since };

    let backs_up = |process: &Process| process.line().contains(" licensing backup ");
    let saving = scene.stopped("ums3", backs_up);
    let hand = scene.stopped("ums1", backs_up);
    scene.hand = Some(saving);
    look(Moment::SafetyBackup, &scene);
    thaw(saving);

    let (ums, work) = (scene.state("ums3").join("ums"), scene.state("ums3").join("work"));
    wait_for_blocking("the safety backup's end", SOON, || {
        let left = [&ums, &work].into_iter().map(|dir| files(dir).len()).sum::<usize>();
        (left == 0 && !files(&scene.state("ums3").join("vault")).is_empty()).then_some(())
    });
    scene.hand = Some(hand);
    freeze(scene.umsid.pid());
    look(Moment::Backup, &scene);
    thaw(scene.umsid.pid());

    // It is followed by another look at the UMS IDs, which takes its time.
    scene.place.lab.set("ums1", "delay_ms", SLOW).unwrap();
    thaw(hand);
    let work = scene.state("ums1").join("work");
    let hand = scene.stopped("ums1", |process| !backs_up(process) && !files(&work).is_empty());
    scene.hand = Some(hand);
    let plain = files(&work);
    assert_eq!(plain.len(), 1, "{plain:?}");
    scene.backup = std::fs::read(&plain[0]).unwrap();
    look(Moment::Sealing, &scene);
    scene.place.lab.set("ums1", "delay_ms", "0").unwrap();
    thaw(hand);
    scene.hand = None;

    for moment in [Moment::Sealed, Moment::Passing] {
        until_frozen(scene.umsid.pid());
        look(moment, &scene);
        thaw(scene.umsid.pid());
    }

    let hand = scene.stopped("ums3", |process| process.line().contains(" licensing restore "));
    scene.hand = Some(hand);
    freeze(scene.umsid.pid());
    look(Moment::Restore, &scene);
    thaw(scene.umsid.pid());
    thaw(hand);
    scene.hand = None;

    until_frozen(scene.umsid.pid());
    look(Moment::End, &scene);
    thaw(scene.umsid.pid());
    wait_for_blocking("umsid to end", SOON, || scene.umsid.ended());
    scene.umsid.said().exits(0).shows("synchronized");
    scene.place.is_well();
    let passwords = scene.secrets().passwords;
    assert_eq!(passwords.len(), 2, "of the safety backup and of the backup");
    assert!(passwords.iter().all(|password| password.len() == 44));
}

fn while_a_run_goes_on_no_process_shows_a_secret() {
    let watch = Watch::begin();
    let mut still = Vec::new();
    let mut known = None;
    stands_still(|moment, scene| {
        still.push((moment, processes::all()));
        let agents = ["ums1", "ums2", "ums3"].map(|server| scene.place.agent_pid(server));
        let lab = scene.place.lab.description().dir.display().to_string();
        known = Some((scene.umsid.pid(), agents, lab, scene.secrets(), shown(&scene.notes())));
    });
    let (umsid, agents, lab, secrets, shown) = known.unwrap();
    let mut seen = watch.seen();
    seen.extend(still.iter().flat_map(|(_, processes)| processes.iter().cloned()));
    for process in &seen {
        for (what, bytes) in [("argument", &process.arguments), ("environment", &process.environment)] {
            let found = secrets.found_in(bytes);
            assert_eq!(found, None, "{what} of {} ({}): {}", process.program, process.pid, process.line());
        }
    }
    for shown in &shown {
        assert_eq!(secrets.found_in(shown), None, "{}", String::from_utf8_lossy(shown));
    }

    // All that could have shown one was seen, with its environment.
    assert!(seen.iter().any(|it| it.pid == umsid && it.knows("UMSID_STATE_DIR")));
    for agent in agents {
        assert!(seen.iter().any(|it| it.pid == agent && it.program == "umsid-agent" && it.knows("TMPDIR")));
    }
    for word in [" licensing backup ", " licensing list", " licensing restore "] {
        assert!(seen.iter().any(|it| it.program == "umsadmin-cli" && it.line().contains(word)), "{word}");
    }
    let of_lab = |it: &&Process| it.program == SERVER && it.line().contains(&lab);
    let scripts =
        seen.iter().filter(of_lab).filter(|it| it.line().contains(" init restart") && it.knows(MARK));
    let scripts: BTreeSet<u32> = scripts.map(|it| it.pid).collect();
    assert!(scripts.len() >= 3, "what restarts the UMS Servers: {scripts:?}");
    let servers = |processes: &[Process]| -> BTreeSet<u32> {
        processes.iter().filter(of_lab).filter(|it| it.line().contains(" run ")).map(|it| it.pid).collect()
    };
    let [before, after] = [still.first(), still.last()].map(|moment| servers(&moment.unwrap().1));
    assert_eq!((before.len(), after.len()), (3, 3), "{before:?} {after:?}");
    assert!(before.is_disjoint(&after), "the agents started none: {before:?} {after:?}");
    assert!(shown.len() > 10, "{} calls", shown.len());
    for shown in shown.iter().map(|shown| searchable(shown)) {
        for what in ["umsid-agent", "/umsadmin-cli", "TMPDIR="] {
            assert!(shown.contains(what), "{what} is not in {shown}");
        }
    }
    for (moment, processes) in still {
        let there = [umsid].iter().chain(&agents).all(|pid| processes.iter().any(|it| it.pid == *pid));
        assert!(there, "at {moment:?}");
    }
    // And what is looked for would be found.
    let password = secrets.passwords.first().unwrap();
    let mut careless = crate::network::command("sleep").arg("60").env("PASSWORD", password).spawn().unwrap();
    let found = processes::all()
        .into_iter()
        .find(|it| it.pid == careless.id())
        .map(|it| secrets.found_in(&it.environment));
    careless.kill().unwrap();
    careless.wait().unwrap();
    assert_eq!(found, Some(Some("a password")));
}

/// A file with a secret in it: which, its mode, and those of its directory and the one above.
type Holder = (&'static str, [u32; 3]);

/// Where a file is, without what is made up anew every time.
fn place_of(path: &Path, scene: &Scene) -> String {
    let path = path.strip_prefix(scene.place.dir.path()).unwrap_or(path).to_string_lossy();
    let parts = path.split('/').map(|part| match part.split_once(['-', '.']) {
        Some((kind @ ("password" | "backup"), _)) => format!("{kind}-*"),
        Some((random, "ksbak")) if random.len() == 16 => "*.ksbak".to_owned(),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}

/// All files that hold a secret now.
fn holders(scene: &Scene) -> BTreeMap<String, Holder> {
    let secrets = scene.secrets();
    let mut found = BTreeMap::new();
    let mut look = |path: &Path, content: &[u8]| {
        if let Some(what) = secrets.found_in(content) {
            let mode =
                |path: &Path| std::fs::metadata(path).map_or(0, |found| found.permissions().mode() & 0o7777);
            let mut above = path.ancestors().skip(1);
            let directories = [above.next().unwrap(), above.next().unwrap()];
            found.insert(
                place_of(path, scene),
                (what, [mode(path), mode(directories[0]), mode(directories[1])]),
            );
        }
    };
    // The place: configuration, state and logs of coordinator and agents; and what they were told to use for temporary files.
    let own = [scene.place.dir.path().to_owned(), scene.elsewhere.path().join("tmp")];
    for path in own.iter().flat_map(|directory| files(directory)) {
        // What is gone meanwhile is not there.
        look(&path, &std::fs::read(&path).unwrap_or_default());
    }
    // What is there for everybody, as far as it is of now.
    for directory in ["/tmp", "/var/tmp", "/dev/shm"] {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(known) = entry.metadata() else { continue };
            if known.is_file() && known.modified().is_ok_and(|modified| modified >= scene.since) {
                look(&entry.path(), &std::fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    // What has no name.
    let agents = ["ums1", "ums2", "ums3"].map(|server| scene.place.agent_pid(server));
    for pid in agents.into_iter().chain([scene.umsid.pid()]).chain(scene.hand) {
        let open = processes::open_files(pid);
        assert!(!open.is_empty(), "{pid} has its log open");
        for (path, content) in open {
            look(&path, &content);
        }
    }
    found
}

fn what_is_in_the_clear_is_in_one_private_file_for_one_command() {
    let mut moments = 0;
    stands_still(|moment, scene| {
        let password = |server: &str| {
            (format!("agent-{server}/state/ums/password-*"), ("a password", [0o600, 0o700, 0o700]))
        };
        let expected = match moment {
            Moment::SafetyBackup => vec![password("ums3"), password("ums1")],
            Moment::Backup => vec![password("ums1")],
            // The file is umsadmin-cli's, its directory ours.
            Moment::Sealing => {
                let path = "agent-ums1/state/work/backup-*/ums-id.ksbak".to_owned();
                vec![(path, ("a backup", [0o644, 0o700, 0o700]))]
            }
            Moment::Restore => {
                let path = "agent-ums3/state/work/*.ksbak".to_owned();
                vec![password("ums3"), (path, ("a backup", [0o600, 0o700, 0o700]))]
            }
            Moment::Sealed | Moment::Passing | Moment::End => Vec::new(),
        };
        assert_eq!(holders(scene), expected.into_iter().collect(), "at {moment:?}");
        // Nor is there anything else where such things are.
        let short_lived = ["ums1", "ums2", "ums3"].into_iter().flat_map(|server| {
            ["ums", "work"].into_iter().flat_map(move |part| files(&scene.state(server).join(part)))
        });
        let short_lived: Vec<_> = short_lived.map(|path| place_of(&path, scene)).collect();
        let known = holders(scene);
        assert!(short_lived.iter().all(|path| known.contains_key(path)), "at {moment:?}: {short_lived:?}");
        moments += 1;
    });
    assert_eq!(moments, 7);
}

/// Whether this is in the memory of a process.
fn remembers(memory: &[Vec<u8>], bytes: &[u8]) -> bool {
    let text = searchable(bytes);
    memory.iter().any(|part| searchable(part).contains(&text))
}

fn in_the_memory_of_umsid_there_is_never_a_secret() {
    let mut moments = Vec::new();
    stands_still(|moment, scene| {
        if matches!(moment, Moment::SafetyBackup | Moment::Sealing) {
            // Here umsid is waiting for what is looked at a moment later.
            return;
        }
        let (secrets, memory) = (scene.secrets(), processes::memory(scene.umsid.pid()));
        for part in &memory {
            assert_eq!(secrets.found_in(part), None, "in the memory of umsid at {moment:?}");
        }
        // What is there is found.
        let runs = scene.place.umsid(&["runs", "-o", "json"]).exits(0).json();
        let run = runs["runs"][0]["run"].as_str().unwrap().to_owned();
        assert!(remembers(&memory, run.as_bytes()), "{run} is not found at {moment:?}");
        match moment {
            // What passes is what is in the spool, and is found as it is there.
            Moment::Passing => {
                let spool = files(&scene.state("ums1").join("spool"));
                let sealed = spool.iter().find(|path| path.extension().is_some_and(|it| it == "age"));
                let sealed = std::fs::read(sealed.unwrap()).unwrap();
                assert!(sealed.starts_with(b"age-encryption.org/v1"));
                assert!(remembers(&memory, middle(&sealed)), "the sealed backup is not found");
            }
            // A password is found where it must be.
            Moment::Backup => {
                let agent = processes::memory(scene.place.agent_pid("ums1"));
                let found = agent.iter().find_map(|part| secrets.found_in(part));
                assert_eq!(found, Some("a password"), "in the memory of Main's agent");
            }
            _ => {}
        }
        moments.push(moment);
    });
    let wanted = [Moment::Backup, Moment::Sealed, Moment::Passing, Moment::Restore, Moment::End];
    assert_eq!(moments, wanted);
}
