//! Links, pipes and devices planted in the agent's directories: refused or harmless, at the start and while it runs.

#![expect(clippy::disallowed_methods, reason = "what somebody plants is neither durable nor private")]

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use umsid_agent::server::StartError;
use umsid_agent::state::StateDir;
use umsid_agent::ums::workspace::Workspace;
use umsid_common::digest::Digest;
use umsid_proto::failure::Code;
use umsid_proto::model::{Action, Effect, RestoreSource};
use umsid_testkit::{Ca, scratch};

use crate::fake_ums::FakeUms;
use crate::house::{Person, RUN, Server, code_of, digest_of, failure_of, handover, lease, restore, step};

/// A file of somebody else that must stay as it is.
struct Victim {
    dir: tempfile::TempDir,
}

impl Victim {
    fn new() -> Self {
        let victim = Self { dir: scratch() };
        std::fs::write(victim.file(), "somebody's").unwrap();
        victim
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("precious")
    }

    #[track_caller]
    fn is_untouched(&self) {
        assert_eq!(std::fs::read_to_string(self.file()).unwrap(), "somebody's");
        let names: Vec<_> =
            std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["precious"]);
    }
}

fn pipe(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
}

/// Starts, which must not hang whatever lies in wait.
async fn try_start(server: &Server) -> Result<crate::house::Running, StartError> {
    let server = (server.config.clone(), server.ums.clone(), server.deadlines.clone());
    let starting = tokio::task::spawn_blocking(move || {
        let (config, ums, deadlines) = server;
        crate::house::Server::start_with(&config, ums, deadlines)
    });
    tokio::time::timeout(Duration::from_secs(10), starting).await.expect("it hangs at the start").unwrap()
}

#[tokio::test]
async fn a_directory_replaced_by_a_link_is_refused() {
    let ca = Ca::new("test");
    for name in ["operations", "spool", "vault", "work"] {
        let server = Server::new(&ca, "ums1", "own-id");
        server.start().await.kill().await;
        let victim = Victim::new();
        let path = server.dir.path().join(name);
        std::fs::remove_dir(&path).unwrap();
        symlink(victim.dir.path(), &path).unwrap();
        let Err(StartError::State(error)) = try_start(&server).await else { panic!("{name} was accepted") };
        let text = format!("{error:?}");
        assert!(text.contains("it is a symbolic link"), "{name}: {text}");
        victim.is_untouched();
    }
    // The state directory itself.
    let mut server = Server::new(&ca, "ums1", "own-id");
    let link = scratch();
    symlink(server.dir.path(), link.path().join("state")).unwrap();
    server.config.state_dir = link.path().join("state");
    assert!(matches!(try_start(&server).await, Err(StartError::State(_))));
}

#[tokio::test]
async fn what_is_no_file_holds_up_nobody_at_the_start() {
    let ca = Ca::new("test");
    let files = [
        "lock",
        "enrolment.json",
        "change.json",
        "lease.json",
        "seal.key",
        "key.pem",
        "certificate.pem",
        "anchors.pem",
        "crls.pem",
        "vault/good-sync.json",
        "operations/20261122t204512-00000a.1.1.json",
    ];
    for name in files {
        for device in [false, true] {
            let server = Server::new(&ca, "ums1", "own-id");
            server.start().await.kill().await;
            let path = server.dir.path().join(name);
            let _ = std::fs::remove_file(&path);
            if device {
                // It gives zeros for ever.
                symlink("/dev/zero", &path).unwrap();
            } else {
                pipe(&path);
            }
            assert!(try_start(&server).await.is_err(), "{name}");
        }
    }
    // What a crash might have left is swept unread.
    let server = Server::new(&ca, "ums1", "own-id");
    server.start().await.kill().await;
    let digest = Digest::of(b"x");
    let left = ["work/password".to_owned(), "spool/x.incoming".into(), format!("spool/{digest}.age")];
    left.iter().for_each(|name| pipe(&server.dir.path().join(name)));
    let victim = Victim::new();
    symlink(victim.dir.path(), server.dir.path().join("work/stage-1")).unwrap();
    symlink(victim.file(), server.dir.path().join("work/password-1")).unwrap();
    symlink(victim.file(), server.dir.path().join("vault/y.incoming")).unwrap();
    std::fs::hard_link(victim.file(), server.dir.path().join("work/password-2")).unwrap();
    let running = try_start(&server).await.unwrap();
    for dir in ["work", "spool", "vault"] {
        assert!(server.files(dir).is_empty(), "{dir}: {:?}", server.files(dir));
    }
    victim.is_untouched();
    running.kill().await;
}

#[tokio::test]
async fn links_planted_while_it_runs_are_neither_followed_nor_written_through() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "main-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    let victim = Victim::new();
    let net = line.safety_backup().await;
    let made = digest_of(line.perform(&step(2), handover(&[server.recipient()], "main-id")).await);
    let at = |name: String| server.dir.path().join(name);

    // In place of what is sent: not followed, whatever it leads to.
    let spooled = at(format!("spool/{made}.age"));
    let aside = server.dir.path().join("aside");
    std::fs::rename(&spooled, &aside).unwrap();
    for target in [victim.file(), aside.clone()] {
        symlink(target, &spooled).unwrap();
        code_of(line.download(lease(RUN, 1), made).await);
        std::fs::remove_file(&spooled).unwrap();
    }
    pipe(&spooled);
    code_of(line.download(lease(RUN, 1), made).await);
    std::fs::remove_file(&spooled).unwrap();
    std::fs::rename(&aside, &spooled).unwrap();
    line.download(lease(RUN, 1), made).await.unwrap();

    // In place of a safety backup: none, and so nothing is restored.
    let kept = at(format!("vault/{net}.age"));
    std::fs::rename(&kept, &aside).unwrap();
    let back = || restore(RestoreSource::SafetyBackup(net), "main-id", "ums1", net);
    let links: [&dyn Fn(); 3] =
        [&|| symlink(victim.file(), &kept).unwrap(), &|| symlink(&aside, &kept).unwrap(), &|| pipe(&kept)];
    for (number, plant) in links.into_iter().enumerate() {
        plant();
        let result = line.perform(&step(10 + number as u32), back()).await;
        assert_eq!(failure_of(result), (Code::NoSafetyBackup, Effect::None));
        std::fs::remove_file(&kept).unwrap();
    }
    // Under another name too, and altered there: it is not what its name says.
    std::fs::copy(&aside, &kept).unwrap();
    std::fs::hard_link(&kept, victim.dir.path().join("elsewhere")).unwrap();
    std::fs::write(victim.dir.path().join("elsewhere"), "altered").unwrap();
    assert_eq!(failure_of(line.perform(&step(20), back()).await), (Code::NoSafetyBackup, Effect::None));
    std::fs::remove_file(victim.dir.path().join("elsewhere")).unwrap();
    assert_eq!(FakeUms::count(&server.ums.counts.restore), 0);
    std::fs::rename(&aside, &kept).unwrap();

    // Where files will be written: they are put into the link's place, not through it.
    let uploaded = b"sealed".repeat(10);
    let digest = Digest::of(&uploaded);
    let record = at(format!("operations/{}.json", step(30)));
    for path in [at(format!("spool/{digest}.age")), at(format!("spool/{digest}.json")), record.clone()] {
        symlink(victim.file(), path).unwrap();
    }
    let _ = std::fs::remove_file(at("lease.json".into()));
    symlink(victim.file(), at("lease.json".into())).unwrap();
    line.upload(RUN, &uploaded).await.unwrap();
    line.perform(&step(30), Action::Restart { deadline_ms: None }).await.unwrap();
    line.acquire(RUN, 5).await.unwrap();
    for path in [at(format!("spool/{digest}.age")), record, at("lease.json".into())] {
        assert!(path.symlink_metadata().unwrap().is_file(), "{}", path.display());
    }
    victim.is_untouched();
    // What is removed is the link.
    let _ = std::fs::remove_file(at(format!("spool/{digest}.age")));
    symlink(victim.file(), at(format!("spool/{digest}.age"))).unwrap();
    line.start_under(&step(31), lease(RUN, 5), Action::Discard).await.unwrap();
    line.result(&step(31)).await.unwrap();
    assert!(server.files("spool").is_empty());
    victim.is_untouched();
    running.kill().await;
}

/// What is written there then is in a directory of its own, closed to others, and gone in the end.
#[tokio::test]
async fn a_directory_replaced_while_it_runs_keeps_nothing() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "secret-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let open = scratch();
    std::fs::remove_dir(server.dir.path().join("work")).unwrap();
    symlink(open.path(), server.dir.path().join("work")).unwrap();
    let _ = line.perform(&step(1), Action::SafetyBackup).await;
    let left: Vec<_> = std::fs::read_dir(open.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    running.kill().await;
}

#[test]
fn a_password_file_is_new_private_and_overwrites_nobody() {
    let dir = scratch();
    let work = Workspace::open(dir.path()).unwrap();
    let file = work.password(&"secret".into(), false).unwrap();
    let found = std::fs::symlink_metadata(file.path()).unwrap();
    assert!(found.is_file() && found.mode() & 0o077 == 0 && found.nlink() == 1);
    // Another name for it, or another file under its name: only the name is removed.
    let victim = Victim::new();
    std::fs::remove_file(file.path()).unwrap();
    std::fs::hard_link(victim.file(), file.path()).unwrap();
    drop(file);
    assert!(work.left_overs().is_empty());
    victim.is_untouched();
    let file = work.password(&"secret".into(), false).unwrap();
    std::fs::remove_file(file.path()).unwrap();
    symlink(victim.file(), file.path()).unwrap();
    drop(file);
    assert!(work.left_overs().is_empty());
    victim.is_untouched();
    // The workspace is no link itself.
    let link = scratch();
    symlink(victim.dir.path(), link.path().join("work")).unwrap();
    assert!(Workspace::open(&link.path().join("work")).is_err());
}

/// `umsid-agent doctor` and a second start look, too.
#[test]
fn a_state_directory_open_to_others_or_linked_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = scratch();
    let root = dir.path().join("state");
    drop(StateDir::open(&root).unwrap());
    std::fs::set_permissions(root.join("vault"), std::fs::Permissions::from_mode(0o770)).unwrap();
    let error = StateDir::open(&root).expect_err("refused");
    assert!(format!("{error:?}").contains("needed is 0700"), "{error:?}");
}
