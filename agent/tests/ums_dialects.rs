//! The UMS-facing half against every dialect of the lab: what is understood, and what is left unknown.
#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use umsid_agent::config::Config;
use umsid_agent::exec;
use umsid_agent::ums::local::LocalUms;
use umsid_agent::ums::{Started, Ums as _};
use umsid_common::digest::Fingerprint;
use umsid_lab::{Lab, Options, Server};
use umsid_proto::failure::Code;
use umsid_proto::model::{Effect, HealthStatus, ServiceStatus};

fn config(server: &Server, state: &Path) -> Config {
    let text = format!(
        r#"
        state_dir = "{state}"
        [ums]
        umsadmin_cli = "{cli}"
        install_dir = "{install}"
        health_url = "https://127.0.0.1:{port}"
        [service]
        control = "init-script"
        script = "{script}"
        pid_file = "{pid_file}"
        [timeouts]
        list = "10s"
        backup = "10s"
        restore = "10s"
        service = "10s"
        grace = "100ms"
        [health]
        min_time = "20ms"
        interval = "5ms"
        deadline = "10s"
        fallback_after = "100ms"
        "#,
        state = state.join("agent").display(),
        cli = server.umsadmin_cli.display(),
        install = server.install_dir.display(),
        port = server.https_port,
        script = server.init_script.display(),
        pid_file = server.pid_file.display(),
    );
    Config::parse(&text, Path::new("test.toml")).unwrap()
}

struct Host {
    ums: LocalUms,
    state: tempfile::TempDir,
}

impl Host {
    fn of(lab: &Lab, name: &str) -> Self {
        let state = umsid_testkit::scratch();
        let ums = LocalUms::new(&config(lab.server(name).unwrap(), state.path())).unwrap();
        Self { ums, state }
    }

    async fn back_up(&self, name: &str) -> std::path::PathBuf {
        let dir = self.state.path().join(name);
        umsid_common::durable::private_dir(&dir).unwrap();
        self.ums.back_up(&dir, &password()).await.unwrap()
    }

    fn assert_nothing_left(&self) {
        let left: Vec<_> =
            std::fs::read_dir(self.state.path().join("agent/ums")).unwrap().flatten().collect();
        assert!(left.is_empty(), "left over: {left:?}");
    }
}

fn password() -> SecretString {
    SecretString::from("a password of 32 characters, ok!")
}

fn quiet(_: String, _: Option<Duration>) {}

fn lab(dialect: &str) -> Lab {
    let dialects = vec![dialect.to_owned()];
    let lab = Lab::up(&Options { servers: 2, dialects, ..Options::default() }).unwrap();
    lab.break_server("ums2").unwrap();
    lab
}

fn truth(lab: &Lab, name: &str) -> (Fingerprint, Fingerprint) {
    let truth = lab.truth().unwrap();
    (truth.server(name).unwrap().fingerprint.parse().unwrap(), truth.main_fingerprint.parse().unwrap())
}

fn is(
    found: Option<Fingerprint>,
    sha256: Fingerprint,
    certificates: &[umsid_proto::model::CertificateSeen],
) -> bool {
    let tied =
        |found: Fingerprint| certificates.iter().any(|seen| seen.sha1 == found && seen.sha256 == sha256);
    found.is_some_and(|found| found == sha256 || tied(found))
}

/// Looks, backs up on Main, restores on the other, restarts it, and looks again.
async fn whole_job(dialect: &str) {
    let lab = lab(dialect);
    let (main, other) = (Host::of(&lab, "ums1"), Host::of(&lab, "ums2"));
    let (own, main_id) = truth(&lab, "ums2");
    assert_ne!(own, main_id);

    let findings = other.ums.look(false).await;
    let sha1 = dialect.starts_with("sha1");
    match dialect {
        "unlabelled" | "truncated" => {
            assert_eq!((findings.ums_ids.local, findings.ums_ids.main), (None, None), "{findings:#?}");
            assert!(
                !findings.ums_ids.raw.is_empty()
                    && findings.ums_ids.raw.iter().any(|raw| !raw.stdout.is_empty())
            );
        }
        _ if sha1 => {
            assert!(is(findings.ums_ids.local, own, &findings.ums_ids.certificates), "{findings:#?}");
            assert!(
                findings.ums_ids.main.is_some_and(|main| findings.ums_ids.local != Some(main)),
                "{findings:#?}"
            );
        }
        _ => assert_eq!(
            (findings.ums_ids.local, findings.ums_ids.main),
            (Some(own), Some(main_id)),
            "{findings:#?}"
        ),
    }
    assert_eq!(findings.service.status, ServiceStatus::Running);
    assert_eq!(findings.health.status, HealthStatus::Ok);
    assert_eq!(findings.distributed, Some(true));
    assert_eq!(findings.update_mode, Some(false));
    let version = if dialect == "no-export" { "12.08.120" } else { "12.09.110" };
    assert_eq!(findings.ums_version.as_deref(), Some(version));
    assert_eq!(findings.license.is_empty(), dialect == "no-export");

    let backup = main.back_up("backup").await;
    let started = std::sync::Mutex::new(Vec::new());
    let told = |running| started.lock().unwrap().push(running);
    let remarks =
        other.ums.restore(&backup, &password(), Started { mark: "", told: &told }, &quiet).await.unwrap();
    let attempts = if dialect == "restore-needs-stopped" { 2 } else { 1 };
    assert_eq!(started.lock().unwrap().len(), attempts);
    let stopped = matches!(dialect, "restore-stops-server" | "restore-needs-stopped");
    assert_eq!(remarks.iter().any(|remark| remark.contains("stays so until")), stopped, "{remarks:?}");
    assert_eq!(truth(&lab, "ums2").0, main_id);

    let before = other.ums.service().await.process;
    assert_eq!(before.is_none(), stopped);
    let restart = other.ums.restart(None, Started::nobody(), &quiet).await.unwrap();
    assert_eq!(restart.before, before);
    assert!(restart.after.is_some() && restart.after != before);
    assert_eq!(restart.health.status, HealthStatus::Ok);

    let ids = other.ums.ids().await;
    if !matches!(dialect, "unlabelled" | "truncated") {
        assert!(is(ids.local, main_id, &ids.certificates) || sha1, "{ids:#?}");
        assert_eq!(ids.local, ids.main, "{ids:#?}");
    }
    main.assert_nothing_left();
    other.assert_nothing_left();
    let calls: Vec<_> = lab.calls("ums1").unwrap().into_iter().chain(lab.calls("ums2").unwrap()).collect();
    assert!(calls.iter().all(|call| !call.arguments().iter().any(|word| word == "create")));
    for call in &calls {
        let given = format!("{:?} {:?}", call.argv, call.environment);
        assert!(!given.contains("a password of"), "{given}");
        if let Some(file) = &call.password_file {
            assert_eq!((file.mode & 0o777, file.directory_mode & 0o777), (0o600, 0o700));
        }
    }
    assert!(calls.iter().filter(|call| call.password_file.is_some()).count() >= 2);
}

#[test]
fn every_dialect_is_in_a_test() {
    let known: Vec<&str> = umsid_lab::dialects().iter().map(|dialect| dialect.name).collect();
    assert_eq!(known, DIALECTS);
}

macro_rules! dialects {
    ($($test:ident $name:literal)*) => {
        const DIALECTS: &[&str] = &[$($name),*];
        $(#[tokio::test]
        async fn $test() {
            whole_job($name).await;
        })*
    };
}

dialects! {
    id_rows "id-rows"
    server_rows "server-rows"
    blocks "blocks"
    unlabelled "unlabelled"
    truncated "truncated"
    sha1 "sha1"
    colons "colons"
    lower_case "lower-case"
    sha1_colons_lower_case "sha1-colons-lower-case"
    ignores_machine_readable "ignores-machine-readable"
    german "german"
    german_blocks "german-blocks"
    german_server_rows "german-server-rows"
    other_header "other-header"
    log_lines "log-lines"
    running_id "running-id"
    append_ksbak "append-ksbak"
    forced_ksbak "forced-ksbak"
    backup_gives_main "backup-gives-main"
    export_gives_main "export-gives-main"
    restore_stops_server "restore-stops-server"
    restore_needs_stopped "restore-needs-stopped"
    exit_0_with_text "exit-0-with-text"
    der "der"
    no_export "no-export"
    password_newline "password-newline"
    exclusive "exclusive"
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_tried_again() {
    for errors in ["exit-1", "exit-0-with-text", "exit-0-on-stderr"] {
        let lab = lab("id-rows");
        lab.set("ums2", "errors", errors).unwrap();
        let host = Host::of(&lab, "ums2");
        let main = Host::of(&lab, "ums1");
        host.ums.ids().await;
        let backup = main.back_up("backup").await;
        let wrong = SecretString::from("another password");
        let failed = host.ums.restore(&backup, &wrong, Started::nobody(), &quiet).await.unwrap_err();
        assert_eq!(failed.failure.code, Code::WrongPassword, "{errors}: {failed:#?}");
        assert_eq!(failed.effect, Effect::Possible);
        let calls = lab.calls("ums2").unwrap();
        assert_eq!(
            calls.iter().filter(|call| call.arguments().iter().any(|word| word == "restore")).count(),
            1
        );
        host.assert_nothing_left();
    }
}

#[tokio::test]
async fn a_restore_that_hangs_is_ended_with_its_children() {
    let lab = lab("id-rows");
    lab.set_many(&["ums2"], &[("hang", "restore"), ("hang_forks_child", "true")]).unwrap();
    let state = umsid_testkit::scratch();
    let mut config = config(lab.server("ums2").unwrap(), state.path());
    config.timeouts.restore = Duration::from_millis(300);
    let host = Host { ums: LocalUms::new(&config).unwrap(), state };
    let servers = lab.processes().len();
    let failed = host
        .ums
        .restore(Path::new("/nonexistent"), &password(), Started::nobody(), &quiet)
        .await
        .unwrap_err();
    assert_eq!((failed.failure.code, failed.effect), (Code::CommandTimeout, Effect::Possible), "{failed:#?}");
    umsid_testkit::wait_for("every process to be gone", Duration::from_secs(10), || async {
        (lab.processes().len() == servers).then_some(())
    })
    .await;
    host.assert_nothing_left();
    assert!(exec::find_process(&[&state_of(&host)]).is_none());
}

fn state_of(host: &Host) -> String {
    host.state.path().display().to_string()
}

#[tokio::test]
async fn a_restore_that_failed_while_stopped_leaves_the_server_running() {
    let lab = lab("restore-needs-stopped");
    let host = Host::of(&lab, "ums2");
    let file = host.state.path().join("no-backup");
    umsid_common::durable::replace(&file, b"no backup", umsid_common::durable::Access::Private).unwrap();
    let failed = host.ums.restore(&file, &password(), Started::nobody(), &quiet).await.unwrap_err();
    assert_eq!(failed.effect, Effect::Possible);
    assert_eq!(host.ums.service().await.status, ServiceStatus::Running, "{failed:#?}");
    assert!(lab.truth().unwrap().server("ums2").unwrap().starts > 2, "it was stopped for the second try");
}

#[tokio::test]
async fn what_is_missing_is_told_and_nothing_has_happened() {
    let lab = lab("id-rows");
    let state = umsid_testkit::scratch();
    let mut config = config(lab.server("ums2").unwrap(), state.path());
    config.ums.umsadmin_cli = Some(umsid_agent::config::CommandLine::program(Path::new("/nonexistent/cli")));
    let ums = LocalUms::new(&config).unwrap();
    let failed =
        ums.restore(Path::new("/nonexistent"), &password(), Started::nobody(), &quiet).await.unwrap_err();
    assert_eq!((failed.failure.code, failed.effect), (Code::CommandMissing, Effect::None));
    let findings = ums.look(false).await;
    assert!(findings.ums_ids.local.is_none() && findings.ums_ids.reason.contains("/nonexistent/cli"));
    assert_eq!(findings.health.status, HealthStatus::Ok);
    assert_eq!(
        lab.calls("ums2").unwrap().iter().filter(|call| call.argv[0].contains("umsadmin-cli")).count(),
        0
    );
}

#[tokio::test]
async fn a_list_that_fails_floods_or_hangs_is_unknown_with_its_output() {
    let lab = lab("id-rows");
    let state = umsid_testkit::scratch();
    let mut config = config(lab.server("ums2").unwrap(), state.path());
    config.timeouts.list = Duration::from_millis(500);
    config.ums.export = umsid_agent::config::UseExport::Never;
    let ums = LocalUms::new(&config).unwrap();
    for (key, reason) in
        [("fails", "exit status 1"), ("flood", "printed more than"), ("hang", "did not end within")]
    {
        lab.set("ums2", key, "list").unwrap();
        let ids = ums.ids().await;
        assert_eq!((ids.local, ids.main), (None, None), "{key}");
        assert!(ids.reason.contains(reason), "{key}: {}", ids.reason);
        assert!(!ids.raw.is_empty() && ids.raw.iter().all(|raw| !raw.command.is_empty()));
        lab.set("ums2", key, "").unwrap();
    }
    lab.set_many(&["ums2"], &[("errors", "exit-0-with-text"), ("fails", "list")]).unwrap();
    let ids = ums.ids().await;
    assert_eq!((ids.local, ids.main), (None, None));
    assert!(ids.raw[0].stdout.contains("Error"), "{ids:#?}");
}

#[tokio::test]
async fn a_backup_that_is_none_is_refused_and_removed() {
    let lab = lab("id-rows");
    let host = Host::of(&lab, "ums1");
    let dir = host.state.path().join("into");
    umsid_common::durable::private_dir(&dir).unwrap();
    let cases = [
        ("empty_backup", "true", "false", Code::BadBackup),
        ("backup_size", "80000000", "0", Code::BadBackup),
        ("exit_zero_no_effect", "backup", "", Code::NoEffect),
        ("fails", "backup", "", Code::CommandFailed),
        ("fails_after_effect", "backup", "", Code::CommandFailed),
        ("flood", "backup", "", Code::CommandFailed),
    ];
    for (key, value, normal, code) in cases {
        lab.set("ums1", key, value).unwrap();
        let failed = host.ums.back_up(&dir, &password()).await.unwrap_err();
        assert_eq!((failed.failure.code, failed.effect), (code, Effect::None), "{key}: {failed:#?}");
        assert!(failed.failure.raw.is_some());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "{key}");
        host.assert_nothing_left();
        lab.set("ums1", key, normal).unwrap();
    }
    lab.set_many(&["ums1"], &[("errors", "exit-0-with-text"), ("fails", "backup")]).unwrap();
    let failed = host.ums.back_up(&dir, &password()).await.unwrap_err();
    assert_eq!(failed.failure.code, Code::NoEffect);
}
