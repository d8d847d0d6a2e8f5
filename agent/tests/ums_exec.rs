//! Programs that fail, hang, flood, fork, or are not there: each ends with all it started, and says what it was.
#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]
#![cfg(target_os = "linux")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use umsid_agent::config::{CommandLine, Config};
use umsid_agent::exec::{self, ExecError, Program, Rules};
use umsid_agent::ums::{Running, Started};
use umsid_proto::failure::Code;
use umsid_testkit::{scratch, wait_for};

const SOON: Duration = Duration::from_secs(10);

fn rules() -> Rules {
    let mut config = Config::default();
    config.timeouts.grace = Duration::from_millis(100);
    config.output.keep_bytes = 1000;
    config.output.flood_bytes = 1 << 20;
    config.ums.environment.insert("EXTRA".to_owned(), "yes".to_owned());
    Rules::of(&config)
}

fn shell(script: &str) -> CommandLine {
    CommandLine::new(["sh", "-c", script].map(str::to_owned).to_vec()).unwrap()
}

/// Runs a script and waits no longer than `deadline`; every process of its group must be gone afterwards.
async fn run(script: &str, deadline: Duration) -> (Result<exec::Ran, ExecError>, Running) {
    let rules = rules();
    let running = Mutex::new(None);
    let started = |process| *running.lock().unwrap() = Some(process);
    let ran =
        Program::new(shell(script), &rules, deadline).run_telling(Started { mark: "", told: &started }).await;
    let running: Running = running.into_inner().unwrap().expect("it was told which process it is");
    wait_for("the group to be gone", SOON, || async { (!group_exists(running.pid)).then_some(()) }).await;
    (ran, running)
}

/// Whether a process of this group lives. Those that are dead but not yet waited for by whoever inherited them do not.
fn group_exists(group: u32) -> bool {
    let living = |stat: String| {
        // `pid (name) state parent group …`, and a name may contain anything.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let (state, of) = (fields.next()?, fields.nth(1)?);
        (!matches!(state, "Z" | "X") && of.parse() == Ok(group)).then_some(())
    };
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .any(|stat| living(stat).is_some())
}

#[tokio::test]
async fn output_status_and_environment_are_kept() {
    let (ran, _) = run("echo out; echo err >&2; env | sort; cat; exit 3", SOON).await;
    let ran = ran.unwrap();
    assert_eq!(ran.raw.status, Some(3));
    assert_eq!(ran.raw.stderr, "err\n");
    assert!(ran.raw.stdout.starts_with("out\n"));
    let names: Vec<_> = ran.raw.stdout.lines().skip(1).filter_map(|line| line.split('=').next()).collect();
    let allowed = ["EXTRA", "HOME", "LANG", "LC_ALL", "PATH", "PWD", "SHLVL", "OLDPWD", "_"];
    assert!(names.iter().all(|name| allowed.contains(name)), "{names:?}");
    assert!(ran.raw.stdout.contains("LC_ALL=C.UTF-8") && ran.raw.stdout.contains("EXTRA=yes"));
    assert!(ran.raw.command.starts_with("sh -c echo out"));
    let failed = ran.succeeded().unwrap_err();
    assert!(matches!(&failed, ExecError::Failed(raw) if raw.status == Some(3)));
    assert!(failed.to_string().contains("exit status 3: err"), "{failed}");
    assert_eq!(failed.into_failure().code, Code::CommandFailed);
}

#[tokio::test]
async fn a_program_killed_by_a_signal_has_no_status() {
    let (ran, _) = run("kill -9 $$", SOON).await;
    let failed = ran.unwrap().succeeded().unwrap_err();
    assert!(failed.to_string().contains("signal"), "{failed}");
}

#[tokio::test]
async fn a_hanging_program_is_ended_with_all_it_started() {
    let since = Instant::now();
    let script = "trap '' TERM; echo begun; sh -c 'trap \"\" TERM; while :; do sleep 1; done' & while :; do sleep 1; done";
    let (ran, running) = run(script, Duration::from_millis(300)).await;
    let failed = ran.unwrap_err();
    assert!(matches!(&failed, ExecError::TimedOut { raw, .. } if raw.stdout == "begun\n"), "{failed:?}");
    assert!(failed.to_string().contains("did not end within 300ms"), "{failed}");
    assert!(since.elapsed() < SOON);
    assert!(exec::process_of(running.pid).is_none());
    let failure = failed.into_failure();
    assert_eq!(failure.code, Code::CommandTimeout);
    assert_eq!(failure.raw.unwrap().stdout, "begun\n");
}

#[tokio::test]
async fn a_program_that_ends_when_asked_is_not_killed() {
    let script = "trap 'echo asked; exit 0' TERM; while :; do sleep 0.02; done";
    let (ran, _) = run(script, Duration::from_millis(200)).await;
    assert!(matches!(&ran, Err(ExecError::TimedOut { raw, .. }) if raw.stdout == "asked\n"), "{ran:?}");
}

#[tokio::test]
async fn a_flood_is_stopped_and_its_ends_are_kept() {
    let (ran, _) = run("echo first; while :; do echo 0123456789; done", SOON).await;
    let failed = ran.unwrap_err();
    let ExecError::Flooded { raw, limit } = &failed else { panic!("{failed:?}") };
    assert_eq!(*limit, 1 << 20);
    assert!(raw.stdout.starts_with("first\n") && raw.stdout.contains("bytes left out"));
    assert!(raw.stdout.len() < 1100, "{}", raw.stdout.len());
    assert_eq!(failed.into_failure().code, Code::CommandFailed);
}

#[tokio::test]
async fn long_output_keeps_its_beginning_and_end() {
    let (ran, _) = run("echo first; seq 1 20000; echo last", SOON).await;
    let raw = ran.unwrap().raw;
    assert!(raw.stdout.starts_with("first\n1\n2\n") && raw.stdout.ends_with("20000\nlast\n"));
}

#[tokio::test]
async fn a_child_that_holds_the_output_keeps_nobody_waiting_and_is_ended() {
    let since = Instant::now();
    let (ran, _) = run("sleep 600 & echo done", SOON).await;
    assert_eq!(ran.unwrap().raw.stdout, "done\n");
    assert!(since.elapsed() < SOON);
}

#[tokio::test]
async fn a_child_in_a_session_of_its_own_keeps_nobody_waiting() {
    let since = Instant::now();
    let dir = scratch();
    let file = dir.path().join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ > {0}; exec sleep 600' & while [ ! -s {0} ]; do sleep 0.01; done; echo done",
        file.display()
    );
    let (ran, _) = run(&script, SOON).await;
    assert_eq!(ran.unwrap().raw.stdout, "done\n");
    assert!(since.elapsed() < SOON);
    let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn what_a_service_command_started_stays_and_cannot_fill_memory() {
    let rules = rules();
    let dir = scratch();
    let (wrote, go) = (dir.path().join("status"), dir.path().join("go"));
    // Writes on when told to, and says how that went.
    let script = format!(
        "sh -c 'while [ ! -e {1} ]; do sleep 0.02; done; echo more && echo wrote > {0} || echo refused > {0}; exec sleep 600' & echo $!",
        wrote.display(),
        go.display()
    );
    let ran = Program::new(shell(&script), &rules, SOON).leaves_children().run().await.unwrap();
    umsid_common::durable::replace(&go, b"", umsid_common::durable::Access::Private).unwrap();
    let pid: u32 = ran.raw.stdout.trim().parse().unwrap();
    assert!(exec::process_of(pid).is_some(), "what was started must stay");
    let said = wait_for("the child's second line", SOON, || async {
        std::fs::read_to_string(&wrote).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    assert_eq!(said, "refused\n");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_program_nobody_waits_for_any_more_is_ended_unless_it_survives() {
    let rules = rules();
    for survives in [false, true] {
        let running = Mutex::new(None);
        let started = |process| *running.lock().unwrap() = Some(process);
        let program = Program::new(shell("sleep 600 & wait"), &rules, SOON);
        let program = if survives { program.survives() } else { program };
        tokio::select! {
            _ = program.run_telling(Started { mark: "", told: &started }) => panic!("it cannot end"),
            () = wait_for("its start", SOON, || async { running.lock().unwrap().is_some().then_some(()) }) => {}
        }
        let running: Running = running.into_inner().unwrap().unwrap();
        if survives {
            assert!(group_exists(running.pid));
            assert!(exec::await_end(running, Duration::from_millis(50), Duration::from_millis(50)).await);
        }
        wait_for("the group to be gone", SOON, || async { (!group_exists(running.pid)).then_some(()) }).await;
    }
}

#[tokio::test]
async fn what_is_not_there_or_no_program_is_told_apart() {
    let rules = rules();
    let run =
        async |path: &Path| Program::new(CommandLine::program(path), &rules, SOON).run().await.unwrap_err();
    let dir = scratch();
    let missing = run(&dir.path().join("nothing")).await;
    assert!(matches!(missing, ExecError::Missing { .. }), "{missing:?}");
    assert!(!missing.ran());

    let text = dir.path().join("text");
    umsid_common::durable::replace(&text, b"no program", umsid_common::durable::Access::Private).unwrap();
    let not_executable = run(&text).await;
    assert!(matches!(not_executable, ExecError::NotExecutable { .. }), "{not_executable:?}");
    std::fs::set_permissions(&text, std::fs::Permissions::from_mode(0o700)).unwrap();
    let no_program = run(&text).await;
    assert!(matches!(no_program, ExecError::NotExecutable { .. }), "{no_program:?}");
    assert_eq!(no_program.into_failure().code, Code::CommandMissing);

    let relative = run(Path::new("./sh")).await;
    assert!(matches!(relative, ExecError::Missing { .. }), "{relative:?}");
}

#[tokio::test]
async fn another_process_with_the_same_id_is_not_waited_for() {
    let own = exec::process_of(std::process::id()).unwrap();
    let before = own.started.checked_sub(Duration::from_secs(3600)).unwrap();
    let gone = Running { pid: own.pid, started: before };
    assert!(exec::await_end(gone, Duration::ZERO, Duration::ZERO).await);
    assert!(exec::is_running(&own));
}

#[tokio::test]
async fn what_works_for_an_operation_is_found_by_its_mark() {
    let rules = rules();
    let mark = format!("20261122t204512-{:06x}.1.1", std::process::id());
    let told = |_| {};
    // A child that the program leaves behind has the mark too.
    let program = Program::new(shell("sleep 600 & exec sleep 600"), &rules, SOON);
    let found = || exec::marked(&mark).expect("processes are seen here").len();
    assert_eq!(found(), 0);
    tokio::select! {
        _ = program.run_telling(Started { mark: &mark, told: &told }) => panic!("it cannot end"),
        () = wait_for("both to be there", SOON, || async { (found() == 2).then_some(()) }) => {}
    }
    wait_for("both to be gone", SOON, || async { (found() == 0).then_some(()) }).await;
}
