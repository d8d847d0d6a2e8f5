//! The service under every kind of control, and restarts that go wrong.
#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use jiff::SignedDuration;
use umsid_agent::config::Config;
use umsid_agent::service::systemd::Shown;
use umsid_agent::ums::local::LocalUms;
use umsid_agent::ums::{Failed, Previous, Running, Started, Ums as _};
use umsid_common::durable::{self, Access};
use umsid_lab::{Lab, Options, Server};
use umsid_proto::failure::Code;
use umsid_proto::model::{HealthStatus, ServiceProcess, ServiceStatus};

/// What `systemctl show UNIT -p LoadState -p ActiveState -p SubState -p MainPID -p ControlGroup` printed on booted hosts
/// (Debian's systemd 247.3, 252.39 and 257.13; `{pid}` is the only thing in which they differed), so that 249 and 255, which
/// lie between, print the same. The order is that of systemd, not of the arguments.
const RECORDED: &[(&str, &str, ServiceStatus)] = &[
    (
        "a unit that was never started",
        "MainPID=0\nControlGroup=\nLoadState=loaded\nActiveState=inactive\nSubState=dead\n",
        ServiceStatus::Stopped,
    ),
    (
        "a unit that runs",
        "MainPID={pid}\nControlGroup=/system.slice/igel-ums-server.service\nLoadState=loaded\nActiveState=active\nSubState=running\n",
        ServiceStatus::Running,
    ),
    (
        "a unit that has not said yet that it is ready",
        "MainPID={pid}\nControlGroup=/system.slice/starting.service\nLoadState=loaded\nActiveState=activating\nSubState=start\n",
        ServiceStatus::Changing,
    ),
    (
        "a unit whose program ended with an error",
        "MainPID=0\nControlGroup=\nLoadState=loaded\nActiveState=failed\nSubState=failed\n",
        ServiceStatus::Stopped,
    ),
    (
        "no such unit",
        "MainPID=0\nControlGroup=\nLoadState=not-found\nActiveState=inactive\nSubState=dead\n",
        ServiceStatus::Unknown,
    ),
    (
        "a unit made from an init script, whose program runs",
        "MainPID=0\nControlGroup=/system.slice/igelRMserver.service\nLoadState=loaded\nActiveState=active\nSubState=running\n",
        ServiceStatus::Running,
    ),
    (
        "a unit made from an init script, whose program has ended",
        "MainPID=0\nControlGroup=\nLoadState=loaded\nActiveState=active\nSubState=exited\n",
        ServiceStatus::Stopped,
    ),
];

// Written by hand after the documented format, not recorded: no host with these versions was at hand.
const SYSTEMD_219: &str = "MainPID=2411\nControlGroup=/system.slice/igel-ums-server.service\nLoadState=loaded\nActiveState=active\nSubState=running\n";
const SYSTEMD_229_INIT_SCRIPT: &str = "ControlGroup=/system.slice/igelRMserver.service\nLoadState=loaded\nActiveState=active\nSubState=exited\n";

#[test]
fn what_systemctl_showed_on_booted_hosts_is_understood() {
    for (what, recorded, status) in RECORDED {
        for pid in [35, 40, 65] {
            let shown = Shown::parse(&recorded.replace("{pid}", &pid.to_string()));
            assert_eq!(shown.status(false), *status, "{what}");
            assert_eq!(shown.main_pid, if recorded.contains("{pid}") { pid } else { 0 }, "{what}");
            let group = recorded.split_once("ControlGroup=").unwrap().1.lines().next().unwrap();
            assert_eq!(shown.control_group, group, "{what}");
        }
    }
}

#[test]
fn what_other_systemctls_show_is_understood() {
    let running = Shown::parse(SYSTEMD_219);
    assert_eq!((running.main_pid, running.status(true)), (2411, ServiceStatus::Running));
    assert_eq!(running.control_group, "/system.slice/igel-ums-server.service");
    let script = Shown::parse(SYSTEMD_229_INIT_SCRIPT);
    assert_eq!(script.main_pid, 0);
    assert_eq!((script.status(true), script.status(false)), (ServiceStatus::Running, ServiceStatus::Stopped));
    assert_eq!(Shown::parse("").status(false), ServiceStatus::Unknown);
    assert_eq!(Shown::parse("Running in chroot, ignoring request.\n").status(false), ServiceStatus::Unknown);
}

struct Host {
    ums: LocalUms,
    config: Config,
    _state: tempfile::TempDir,
}

impl Host {
    /// `service` is the `[service]` section, `health` adds to `[health]`.
    fn new(server: &Server, service: &str, health: &str) -> Self {
        Self::with(server, &format!("web_port = {}", server.https_port), service, health)
    }

    /// `ums` adds to `[ums]`.
    fn with(server: &Server, ums: &str, service: &str, health: &str) -> Self {
        let state = umsid_testkit::scratch();
        let config = Self::config(server, state.path(), ums, service, health);
        Self { ums: LocalUms::new(&config).unwrap(), config, _state: state }
    }

    /// Another agent on the same state directory.
    fn start_again(&mut self) {
        self.ums = LocalUms::new(&self.config).unwrap();
    }

    fn config(server: &Server, state: &Path, ums: &str, service: &str, health: &str) -> Config {
        let text = format!(
            r#"
            state_dir = "{state}"
            [ums]
            umsadmin_cli = "{cli}"
            install_dir = "{install}"
            {ums}
            [timeouts]
            service = "10s"
            grace = "100ms"
            [health]
            min_time = "20ms"
            interval = "5ms"
            {health}
            [service]
            {service}
            "#,
            state = state.join("agent").display(),
            cli = server.umsadmin_cli.display(),
            install = server.install_dir.display(),
        );
        Config::parse(&text, Path::new("test.toml")).unwrap()
    }
}

fn script(server: &Server) -> String {
    format!(
        "control = \"init-script\"\nscript = \"{}\"\npid_file = \"{}\"",
        server.init_script.display(),
        server.pid_file.display()
    )
}

fn lab() -> Lab {
    Lab::up(&Options { servers: 1, sites: 1, ..Options::default() }).unwrap()
}

fn quiet(_: String, _: Option<Duration>) {}

#[tokio::test]
async fn every_kind_of_control_restarts_and_knows_the_process() {
    let lab = lab();
    let server = lab.server("ums1").unwrap();
    let (init, pid_file) = (server.init_script.display(), server.pid_file.display());
    let kinds = [
        script(server),
        format!("control = \"umsadmin-cli\"\npid_file = \"{pid_file}\""),
        format!(
            "control = \"command\"\nstart = [\"{init}\", \"start\"]\nstop = [\"{init}\", \"stop\"]\npid_file = \"{pid_file}\""
        ),
        // By its command line, with nothing configured.
        format!("control = \"umsadmin-cli\"\nprocess = \"{}\"", server.dir.display()),
    ];
    for kind in kinds {
        let host = Host::new(server, &kind, "deadline = \"10s\"");
        let before = host.ums.service().await;
        assert_eq!(before.status, ServiceStatus::Running, "{kind}: {before:?}");
        assert_eq!(before.process.map(|process| process.pid), lab.truth().unwrap().servers[0].pid, "{kind}");
        let told = Mutex::new(Vec::new());
        let programs = Mutex::new(Vec::new());
        let started = |program: Running| programs.lock().unwrap().push(program);
        let restart = host
            .ums
            .restart(None, Started { mark: "", told: &started }, &|text, _| told.lock().unwrap().push(text))
            .await
            .unwrap();
        assert!(!programs.lock().unwrap().is_empty(), "{kind}: which program does it");
        assert_eq!(restart.before, before.process, "{kind}");
        assert_eq!(restart.after.map(|process| process.pid), lab.truth().unwrap().servers[0].pid, "{kind}");
        assert_ne!(restart.after, restart.before, "{kind}");
        assert_eq!(restart.health.status, HealthStatus::Ok);
        assert!(told.lock().unwrap().iter().any(|text| text.contains("of 3 good answers")), "{kind}");
    }
}

#[tokio::test]
async fn a_stopped_server_is_started() {
    let lab = lab();
    let server = lab.server("ums1").unwrap();
    let host = Host::new(server, &script(server), "deadline = \"10s\"");
    lab.set("ums1", "start", "refuses").unwrap();
    let failed =
        host.ums.restart(Some(Duration::from_millis(300)), Started::nobody(), &quiet).await.unwrap_err();
    assert!(
        matches!(failed.failure.code, Code::ServiceControl | Code::NotRestarted | Code::NotHealthy),
        "{failed:#?}"
    );
    let service = host.ums.service().await;
    assert_eq!((service.status, service.process), (ServiceStatus::Stopped, None));
    lab.set("ums1", "start", "normal").unwrap();
    let restart = host.ums.restart(None, Started::nobody(), &quiet).await.unwrap();
    assert!(restart.before.is_none() && restart.after.is_some());
}

async fn fails(lab: &Lab, key: &str, value: &str, health: &str) -> Failed {
    let server = lab.server("ums1").unwrap();
    let host = Host::new(server, &script(server), health);
    lab.set("ums1", key, value).unwrap();
    host.ums.restart(None, Started::nobody(), &quiet).await.unwrap_err()
}

#[tokio::test]
async fn a_server_that_never_answers_is_not_healthy() {
    let lab = lab();
    let failed = fails(&lab, "start", "never", "deadline = \"300ms\"").await;
    assert_eq!(failed.failure.code, Code::NotHealthy, "{failed:#?}");
    assert!(failed.failure.to_string().contains("no answer"));
    assert!(failed.failure.raw.is_some_and(|raw| raw.command.contains("the end of")));
}

#[tokio::test]
async fn a_server_that_dies_fails_at_once_with_its_log() {
    let lab = lab();
    let since = std::time::Instant::now();
    let failed = fails(&lab, "start", "dies-after:100", "successes = 1000000\ndeadline = \"60s\"").await;
    assert_eq!(failed.failure.code, Code::NotHealthy, "{failed:#?}");
    assert!(failed.failure.to_string().contains("has ended"), "{failed:#?}");
    assert!(since.elapsed() < Duration::from_secs(20));
    assert!(failed.failure.raw.is_some_and(|raw| !raw.stdout.is_empty()));
}

#[tokio::test]
async fn a_restart_without_effect_is_none() {
    let lab = lab();
    let server = lab.server("ums1").unwrap();
    let kind = format!("control = \"umsadmin-cli\"\npid_file = \"{}\"", server.pid_file.display());
    lab.set("ums1", "exit_zero_no_effect", "server restart").unwrap();
    let host = Host::new(server, &kind, "deadline = \"300ms\"");
    let failed = host.ums.restart(None, Started::nobody(), &quiet).await.unwrap_err();
    assert_eq!(failed.failure.code, Code::NotRestarted, "{failed:#?}");
    assert!(failed.failure.to_string().contains("is still there"));
}

#[tokio::test]
async fn a_restart_that_fails_or_hangs_says_so() {
    let lab = lab();
    let failed = fails(&lab, "fails", "init restart", "").await;
    assert_eq!(failed.failure.code, Code::ServiceControl, "{failed:#?}");
    assert!(failed.failure.raw.is_some());
}

#[tokio::test]
async fn warn_is_good_only_where_configured() {
    let lab = lab();
    let failed = fails(&lab, "health", "warn", "deadline = \"400ms\"").await;
    assert_eq!(failed.failure.code, Code::NotHealthy);
    assert!(failed.failure.to_string().contains("warn"));
    let server = lab.server("ums1").unwrap();
    let host = Host::new(server, &script(server), "deadline = \"10s\"\nwarn_is_good = true");
    let restart = host.ums.restart(None, Started::nobody(), &quiet).await.unwrap();
    assert_eq!(restart.health.status, HealthStatus::Warn);
}

#[tokio::test]
async fn serverstatus_counts_only_after_check_status_has_been_silent_for_long() {
    let lab = lab();
    let failed = fails(&lab, "health", "404", "deadline = \"400ms\"").await;
    assert_eq!(failed.failure.code, Code::NotHealthy, "{failed:#?}");
    let server = lab.server("ums1").unwrap();
    let host = Host::new(server, &script(server), "deadline = \"10s\"\nfallback_after = \"100ms\"");
    let restart = host.ums.restart(None, Started::nobody(), &quiet).await.unwrap();
    assert_eq!((restart.health.status, restart.health.source.as_str()), (HealthStatus::Ok, "serverstatus"));
    let findings = host.ums.look(true).await;
    assert_eq!(findings.health.source, "serverstatus");
    assert_eq!(findings.health.ums_host, server.host);
}

#[tokio::test]
async fn a_restart_found_without_outcome_is_waited_for() {
    let lab = lab();
    let server = lab.server("ums1").unwrap();
    let host = Host::new(server, &script(server), "deadline = \"300ms\"");
    let now = host.ums.service().await.process;
    let after_its_start = |seconds| now.unwrap().started + SignedDuration::from_secs(seconds);
    let older = now.map(|process| ServiceProcess { pid: process.pid + 1, ..process });
    // The process of before is not a new one, known or not.
    for before in [
        Previous { process: now, asked: after_its_start(0) },
        Previous { process: None, asked: after_its_start(10) },
    ] {
        let failed = host.ums.await_restarted(before, None, &quiet).await.unwrap_err();
        assert_eq!(failed.failure.code, Code::NotRestarted, "{before:?}");
    }
    for before in [
        Previous { process: older, asked: after_its_start(10) },
        Previous { process: None, asked: after_its_start(0) },
    ] {
        let restart = host.ums.await_restarted(before, Some(Duration::from_secs(10)), &quiet).await.unwrap();
        assert_eq!(restart.after, now, "{before:?}");
    }
}

#[tokio::test]
async fn a_port_that_nobody_configured_is_found_out_and_kept() {
    let lab = lab();
    let server = lab.server("ums1").unwrap();
    let mut host = Host::with(server, "", &script(server), "deadline = \"10s\"\nfallback_after = \"100ms\"");
    // A restart finds it out, too: the agent may have died in the middle of the first one there ever was.
    assert_eq!(host.ums.look(true).await.health.status, HealthStatus::Unreachable);
    let restart = host.ums.restart(None, Started::nobody(), &quiet).await.unwrap();
    assert_eq!(restart.health.status, HealthStatus::Ok);
    host.start_again();
    assert_eq!(host.ums.look(true).await.health.status, HealthStatus::Ok);

    // Found out once is not found out for good.
    let kept = host.config.state_dir.join("web-port.json");
    for stale in ["1", "no port"] {
        durable::replace(&kept, stale.as_bytes(), Access::Private).unwrap();
        host.start_again();
        assert_eq!(host.ums.look(true).await.health.status, HealthStatus::Unreachable, "{stale}");
        assert_eq!(host.ums.look(false).await.health.status, HealthStatus::Ok, "{stale}");
        host.start_again();
        assert_eq!(host.ums.look(true).await.health.status, HealthStatus::Ok, "{stale}");
    }
    let calls = lab.calls("ums1").unwrap().iter().filter(|call| call.is("ports list")).count();
    assert_eq!(calls, 3, "nobody asks for what is known");
}

#[tokio::test]
async fn the_doctor_shows_what_there_is_and_what_is_missing() {
    let lab = lab();
    let server = lab.server("ums1").unwrap();
    let state = umsid_testkit::scratch();
    let mut config = Config { state_dir: state.path().join("agent"), ..Config::default() };
    config.ums.umsadmin_cli = Some(umsid_agent::config::CommandLine::program(&server.umsadmin_cli));
    config.ums.install_dir = Some(server.install_dir.clone());
    config.ums.web_port = Some(server.https_port);
    config.service.control = Some(umsid_agent::config::ServiceKind::InitScript);
    config.service.script = Some(server.init_script.clone());
    config.service.pid_file = Some(server.pid_file.clone());
    let mut out = Vec::new();
    let well = umsid_agent::doctor::show(&config, "/no/helper".as_ref(), &mut out).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(well, "{text}");
    for part in [
        "12.09.110",
        "init script",
        "check-status",
        "Main: ",
        "exit status 0",
        "umsLicenseLevel",
        &server.host,
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }

    let lease = config.state_dir.join("lease.json");
    durable::replace(&lease, b"{", Access::Private).unwrap();
    let mut out = Vec::new();
    assert!(
        !umsid_agent::doctor::show(&config, "/no/helper".as_ref(), &mut out).await.unwrap(),
        "the agent would not start"
    );
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("lease.json is damaged") && text.contains("what to do"), "{text}");
    std::fs::remove_file(&lease).unwrap();

    config.ums.umsadmin_cli =
        Some(umsid_agent::config::CommandLine::program(Path::new("/nonexistent/umsadmin-cli")));
    let mut out = Vec::new();
    assert!(!umsid_agent::doctor::show(&config, "/no/helper".as_ref(), &mut out).await.unwrap());
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("no /nonexistent/umsadmin-cli") && text.contains("set ums.umsadmin_cli"), "{text}");
}
