//! What is found of an installation by its files, short-lived files, and what is never called.
#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use umsid_agent::config::{CommandLine, Config};
use umsid_agent::ums::Started;
use umsid_agent::ums::health::Address;
use umsid_agent::ums::installation::{self, Installation};
use umsid_agent::ums::workspace::Workspace;
use umsid_common::durable::{self, Access};

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    durable::replace(path, text.as_bytes(), Access::Public).unwrap();
}

fn installed(dir: &Path) -> Installation {
    let mut config = Config::default();
    config.ums.install_dir = Some(dir.to_owned());
    Installation::find(&config)
}

#[test]
fn the_version_is_found_whatever_its_key() {
    let dir = umsid_testkit::scratch();
    let file = dir.path().join("umsversion.properties");
    assert_eq!(installed(dir.path()).version.value, None);
    for (text, version) in [
        ("version=12.09.110\n", Some("12.09.110")),
        ("# written 2026.08.12\nbuild : 4711\njava=17.0.12\nums.version = 12.13.110\n", Some("12.13.110")),
        ("a=6.10.130\n", Some("6.10.130")),
        ("a=1.2.3.4\nb=twelve\n", None),
        ("", None),
    ] {
        put(&file, text);
        let found = installed(dir.path()).version;
        assert_eq!(found.value.as_deref(), version, "{text:?}: {}", found.how);
        assert!(!found.how.is_empty());
    }
}

#[test]
fn the_distributed_flag_is_read_or_not_known() {
    let dir = umsid_testkit::scratch();
    let file = dir.path().join("rmguiserver/conf/dbsetup_options.properties");
    assert_eq!(installed(dir.path()).distributed.value, None);
    for (text, flag) in [
        ("configsettings.HA_DISTRIBUTED_MODE=true\n", Some(true)),
        ("x=y\nconfigsettings.HA_DISTRIBUTED_MODE = FALSE\n", Some(false)),
        ("#configsettings.HA_DISTRIBUTED_MODE=true\n", None),
        ("configsettings.HA_DISTRIBUTED_MODE=maybe\n", None),
    ] {
        put(&file, text);
        assert_eq!(installed(dir.path()).distributed.value, flag, "{text:?}");
    }
}

#[test]
fn umsadmin_cli_is_found_in_the_install_directory_and_as_configured() {
    let dir = umsid_testkit::scratch();
    let found = installed(dir.path()).umsadmin_cli;
    assert!(found.value.is_none() && found.how.contains("rmadmin"), "{}", found.how);
    let program = dir.path().join("rmadmin/umsadmin-cli.sh");
    put(&program, "#!/bin/sh\n");
    assert_eq!(installed(dir.path()).umsadmin_cli.value, Some(CommandLine::program(&program)));

    let mut config = Config::default();
    let with_sudo = ["sh".to_owned(), "-c".to_owned(), program.display().to_string()];
    config.ums.umsadmin_cli = CommandLine::new(with_sudo.to_vec());
    assert_eq!(Installation::find(&config).umsadmin_cli.value, config.ums.umsadmin_cli);
    config.ums.umsadmin_cli = Some(CommandLine::program(Path::new("/nonexistent/cli")));
    let found = Installation::find(&config).umsadmin_cli;
    assert!(found.value.is_none() && found.how.contains("/nonexistent/cli"), "{}", found.how);
}

#[test]
fn the_web_port_is_found_by_what_its_line_says() {
    for (text, port) in [
        (
            "NAME                       PORT\nWeb server port            8444\nJWS server port  9080\n",
            Some(8444),
        ),
        ("Web server port;9443\nDevice communication port;30001\n", Some(9443)),
        ("Web server port (non-SSL)  9080\nWeb server port (SSL)  8443\n", Some(8443)),
        ("Web port 8443\nPublic web port 443\n", None),
        ("Web server 1  8443\n", None),
        ("nothing\n", None),
    ] {
        assert_eq!(installation::web_port_in(text), port, "{text:?}");
    }
}

#[test]
fn versions_are_compared_by_their_numbers() {
    assert_eq!(installation::at_least("12.09.110", "12.09.110"), Some(true));
    assert_eq!(installation::at_least("12.10.100", "12.09.110"), Some(true));
    assert_eq!(installation::at_least("6.10.130", "12.01.100"), Some(false));
    assert_eq!(installation::at_least("unknown", "12.01.100"), None);
}

#[test]
fn health_addresses_are_host_and_port_only() {
    let shown = |url| Address::parse(url).map(|address| address.to_string());
    assert_eq!(shown("https://127.0.0.1:9443").as_deref(), Ok("https://127.0.0.1:9443"));
    assert_eq!(shown("https://ums1.example/").as_deref(), Ok("https://ums1.example:8443"));
    assert_eq!(shown("http://[::1]:9080").as_deref(), Ok("http://[::1]:9080"));
    for bad in ["ums1:8443", "ftp://ums1", "https://ums1/ums/check-status", "https://ums1/?x=1", ""] {
        assert!(shown(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_password_file_is_private_exact_and_gone_afterwards() {
    let dir = umsid_testkit::scratch();
    let workspace = Workspace::open(&dir.path().join("work")).unwrap();
    for (newline, expected) in [(false, "sécret"), (true, "sécret\n")] {
        let file = workspace.password(&SecretString::from("sécret"), newline).unwrap();
        let path = file.path().to_owned();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
        drop(file);
        assert!(!path.exists());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn left_overs_are_swept_but_not_from_under_a_program_that_uses_them() {
    use umsid_agent::exec::{Program, Rules};
    let dir = umsid_testkit::scratch();
    let workspace = Workspace::open(&dir.path().join("work")).unwrap();
    let leave = || {
        let file = workspace.password(&SecretString::from("secret"), false).unwrap();
        let path = file.path().to_owned();
        std::mem::forget(file);
        path
    };
    let (used, unused) = (leave(), leave());
    std::mem::forget(workspace.directory().unwrap());
    let rules = Rules::of(&Config::default());
    let words = ["sh", "-c", "while :; do sleep 1; done", &used.to_string_lossy()].map(str::to_owned);
    let command = CommandLine::new(words.to_vec()).unwrap();
    let began = tokio::sync::Notify::new();
    let told = |_| began.notify_one();
    let program = Program::new(command, &rules, std::time::Duration::from_secs(60));
    let running = program.run_telling(Started { mark: "", told: &told });
    let sweeping = async {
        began.notified().await;
        // Between fork and exec the command line is still that of this test.
        umsid_testkit::wait_for("the program", std::time::Duration::from_secs(10), || async {
            umsid_agent::exec::find_process(&["while :;", &used.to_string_lossy()]).map(drop)
        })
        .await;
        workspace.sweep()
    };
    let swept = tokio::select! {
        _ = running => panic!("it does not end"),
        swept = sweeping => swept,
    };
    assert_eq!(swept, 2);
    assert!(used.exists() && !unused.exists());
    assert_eq!(workspace.left_overs(), [used]);
}

#[cfg(unix)]
#[test]
fn a_directory_open_to_others_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = umsid_testkit::scratch();
    let open = dir.path().join("work");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(Workspace::open(&open).is_err());
}

/// The one sub-command that may never be called makes a new UMS ID at once (UMS_FACTS §3).
#[test]
fn no_source_file_has_the_sub_command_that_makes_a_new_ums_id() {
    let mut sources = Vec::new();
    let mut dirs = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                sources.push(path);
            }
        }
    }
    assert!(sources.iter().any(|path| path.ends_with("ums/admin_cli.rs")));
    for path in sources {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("\"create\""), "{} has it as an argument", path.display());
        let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        assert!(!code.join("\n").contains("licensing create"), "{} has it in code", path.display());
    }
}
