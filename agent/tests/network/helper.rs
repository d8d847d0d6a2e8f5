//! A divided agent's two halves, over a real socket.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use umsid_agent::config::Config;
use umsid_agent::exec;
use umsid_agent::helper::{Helper, RemoteUms};
use umsid_agent::ums::{Running, Started, Ums as _};
use umsid_common::durable::{self, Access};
use umsid_proto::failure::Code;
use umsid_proto::model::Effect;
use umsid_testkit::scratch;

use crate::fake_ums::FakeUms;
use crate::house::RUN;

struct Halves {
    dir: TempDir,
    fake: Arc<FakeUms>,
    remote: RemoteUms,
    helper: JoinHandle<std::io::Result<()>>,
}

impl Halves {
    async fn new(largest_backup: u64) -> Self {
        let (dir, fake) = (scratch(), FakeUms::new("own-id", "main-id"));
        let (socket, work) = (dir.path().join("socket"), dir.path().join("work"));
        std::fs::create_dir(&work).unwrap();
        let caller = rustix::process::geteuid().as_raw();
        let helper = Helper { ums: fake.clone(), caller, work, largest_backup };
        let listener = UnixListener::bind(&socket).unwrap();
        let helper = tokio::spawn(Arc::new(helper).serve(listener, None, std::future::pending()));
        let config = Config { max_backup_bytes: largest_backup, ..Config::default() };
        let remote = RemoteUms::connect(&socket, &config).await.unwrap();
        Self { dir, fake, remote, helper }
    }
}

#[tokio::test]
async fn everything_is_done_through_a_helper_as_without_one() {
    let halves = Halves::new(1 << 20).await;
    let (remote, fake) = (&halves.remote, &halves.fake);
    assert_eq!(remote.ids().await, fake.ids().await);
    assert_eq!(remote.service().await, fake.service().await);
    assert_eq!(remote.version().await.as_deref(), Some("12.09.110"));

    let (into, password) = (halves.dir.path().join("into"), SecretString::from("pass\nword é"));
    std::fs::create_dir(&into).unwrap();
    let file = remote.back_up(&into, &password).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "own-id\npass\nword é");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let (told, mark) = (Mutex::new(Vec::new()), format!("{RUN}.2.1"));
    fake.set(|state| state.local = "other-id".into());
    let note = |running: Running| told.lock().unwrap().push(running.pid);
    let started = Started { mark: &mark, told: &note };
    assert_eq!(remote.restore(&file, &password, started, &|_, _| {}).await.unwrap(), ["a remark"]);
    assert_eq!((fake.local(), told.lock().unwrap().clone()), ("own-id".to_owned(), vec![4242]));
    let restart = remote.restart(None, started, &|_, _| {}).await.unwrap();
    assert_eq!((restart.before.unwrap().pid, restart.after.unwrap().pid), (1000, 1001));

    // A failure comes over with all it says.
    fake.set(|state| state.fail_restore = Some(Effect::Possible));
    let failed = remote.restore(&file, &password, started, &|_, _| {}).await.unwrap_err();
    assert_eq!((failed.failure.code, failed.effect), (Code::CommandFailed, Effect::Possible));
    assert_eq!(std::fs::read_dir(halves.dir.path().join("work")).unwrap().count(), 0, "nothing stays there");
    halves.helper.abort();
}

/// Whoever has taken over the agent asks for the end of somebody else's program.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a program that is none of ours")]
async fn no_program_of_anybody_else_is_ended() {
    let halves = Halves::new(1 << 20).await;
    let mut other = tokio::process::Command::new("sleep").arg("600").kill_on_drop(true).spawn().unwrap();
    let process = exec::process_of(other.id().unwrap()).unwrap();
    let program = Running { pid: process.pid, started: process.started };
    halves.remote.await_end(program, Duration::ZERO).await;
    assert_eq!(FakeUms::count(&halves.fake.counts.await_end), 0);
    assert!(other.try_wait().unwrap().is_none(), "it lives");
    halves.helper.abort();
}

#[tokio::test]
async fn what_is_asked_of_a_helper_that_is_gone_had_no_effect() {
    let halves = Halves::new(1 << 20).await;
    let (file, password) = (halves.dir.path().join("file"), SecretString::from("x"));
    durable::replace(&file, b"own-id\nx", Access::Private).unwrap();
    let mark = format!("{RUN}.2.1");
    let started = Started { mark: &mark, told: &|_| {} };
    halves.helper.abort();
    let _ = halves.helper.await;
    let failed = halves.remote.restore(&file, &password, started, &|_, _| {}).await.unwrap_err();
    assert_eq!((failed.failure.code, failed.effect), (Code::CommandMissing, Effect::None));
    let why = failed.failure.to_string();
    assert!(why.contains("the agent's helper does not answer"), "{why}");
}
