//! The state directory: made once, never overwritten, needed by everything else.

use crate::house::House;

#[test]
fn init_says_what_it_made_and_what_comes_next() {
    let house = House::empty();
    let ran =
        house.umsid(&["init", "--name", "anna", "--trust-domain", "lab"]).exits(0).says("umsid-agent enroll");
    assert!(ran.out.contains("spiffe://lab/coordinator/anna"), "{}", ran.out);
    house.umsid(&["doctor"]).exits(0);
}

#[test]
fn init_twice_says_what_is_there_and_changes_nothing() {
    let house = House::new();
    let key = || std::fs::read(house.state().join("authority/key.pem")).unwrap();
    let (before, inventory) = (key(), house.inventory());
    house.umsid(&["init"]).exits(1).says("it holds authority, coordinator, inventory.toml");
    assert_eq!((key(), house.inventory()), (before, inventory));
}

#[test]
fn before_init_everything_says_so() {
    let house = House::empty();
    for command in ["servers", "status", "doctor"] {
        let ran = house.umsid(&[command]).exits(1);
        let said = format!("{}{}", ran.out, ran.err);
        assert!(said.contains("run `umsid init` first"), "{command}: {said}");
    }
}

#[test]
fn a_file_is_no_state_directory() {
    let house = House::empty();
    let file = house.dir.path().join("file");
    umsid_common::durable::replace(&file, b"", umsid_common::durable::Access::Private).unwrap();
    for command in ["servers", "init"] {
        let args = [command, "--state-dir", file.to_str().unwrap()];
        house.umsid(&args).exits(2).says("is no directory").says("--state-dir");
    }
}

#[cfg(unix)]
#[test]
fn a_state_directory_open_to_others_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let house = House::new();
    std::fs::set_permissions(house.state(), std::fs::Permissions::from_mode(0o755)).unwrap();
    house.umsid(&["servers"]).exits(1).says("is not private").says("chmod 0700");
}

#[test]
fn a_key_under_a_passphrase_is_used_only_with_it() {
    let house = House::empty();
    let file = |text: &str| {
        let path = house.dir.path().join(text);
        umsid_common::durable::replace(&path, text.as_bytes(), umsid_common::durable::Access::Private)
            .unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right"), file("wrong"));
    house.umsid(&["init", "--passphrase-file", &right]).exits(0);
    let out = house.dir.path().join("observer");
    let add = ["observer", "add", "nagios", "--out", out.to_str().unwrap()];
    house.umsid(&add).exits(6).says("--passphrase-file");
    house.umsid(&[&add[..], &["--passphrase-file", &wrong]].concat()).exits(6).says("does not open");
    house.umsid(&[&add[..], &["--passphrase-file", &right]].concat()).exits(0);
    assert!(out.join("certificate.pem").exists());
}

#[test]
fn a_bad_inventory_is_refused_by_name_and_key() {
    let house = House::new();
    let text = house.inventory() + "\n[clusters.hamburg]\nmian = \"x\"\n";
    let path = house.state().join("inventory.toml");
    umsid_common::durable::replace(&path, text.as_bytes(), umsid_common::durable::Access::Private).unwrap();
    house.umsid(&["status"]).exits(1).says("inventory.toml").says("clusters.hamburg.mian");
}

#[test]
fn a_damaged_journal_is_not_a_question_of_room_and_permissions() {
    let house = House::new();
    let path = house.state().join("state.db");
    let text = "to be or not to be, that is the question\n".repeat(200);
    umsid_common::durable::replace(&path, text.as_bytes(), umsid_common::durable::Access::Private).unwrap();
    let ran = house
        .umsid(&["runs"])
        .exits(8)
        .says("is damaged")
        .says("move state.db, state.db-wal and state.db-shm");
    assert!(!ran.err.contains("permissions"), "{}", ran.err);
    std::fs::remove_file(path).unwrap();
    house.umsid(&["runs"]).exits(0);
}

#[test]
fn the_exit_codes_are_documented() {
    let house = House::empty();
    let help = house.umsid(&["help", "exit-codes"]).exits(0);
    let table = house.umsid(&["exit-codes"]).exits(0);
    for code in ["  0  ", "  3  ", "130  "] {
        assert!(help.out.contains(code) && table.out.contains(code), "{code}");
    }
    let document: serde_json::Value =
        serde_json::from_str(&house.umsid(&["-o", "json", "exit-codes"]).exits(0).out).unwrap();
    let codes: Vec<_> =
        document.as_array().unwrap().iter().map(|exit| exit["code"].as_u64().unwrap()).collect();
    assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130]);
    assert!(document[4]["meaning"].as_str().unwrap().contains("another umsid"), "{document}");
    house.umsid(&["stauts"]).exits(2).says("status");
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_is_no_reason_to_panic() {
    let house = House::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    #[expect(clippy::disallowed_methods, reason = "assert_cmd always reads standard output itself")]
    let mut umsid = std::process::Command::new(env!("CARGO_BIN_EXE_umsid"));
    let umsid = umsid.env("UMSID_STATE_DIR", house.state()).arg("doctor").stdout(writer);
    let ended = umsid.stderr(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!((ended.status.code(), said.as_str()), (Some(1), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_named() {
    let house = House::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    #[expect(clippy::disallowed_methods, reason = "assert_cmd always reads standard output itself")]
    let mut umsid = std::process::Command::new(env!("CARGO_BIN_EXE_umsid"));
    let umsid = umsid.env("UMSID_STATE_DIR", house.state()).arg("exit-codes").stdout(full);
    let ended = umsid.stderr(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(said.contains("cannot write to standard output") && said.contains("No space left"), "{said}");
}

#[test]
fn shells_and_manual_pages_know_every_command() {
    let house = House::empty();
    let help = house.umsid(&["--help"]).exits(0).out;
    let (_, list) = help.split_once("Commands:").unwrap();
    let commands: Vec<&str> = list
        .lines()
        .take_while(|line| !line.starts_with("Options:"))
        .filter_map(|line| line.strip_prefix("  ")?.split_once(' '))
        .filter_map(|(command, _)| (!command.is_empty() && command != "help").then_some(command))
        .collect();
    assert!(commands.len() > 14, "{commands:?}");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = house.umsid(&["completions", shell]).exits(0).out;
        for command in &commands {
            assert!(script.contains(command), "{shell} does not know {command}");
        }
    }
    house.umsid(&["completions", "tcsh"]).exits(2).says("bash");
    let pages = house.dir.path().join("man");
    std::fs::create_dir(&pages).unwrap();
    house.umsid(&["man", pages.to_str().unwrap()]).exits(0);
    for command in &commands {
        let page = std::fs::read_to_string(pages.join(format!("umsid-{command}.1"))).unwrap();
        assert!(page.contains("SYNOPSIS"), "{page}");
    }
    // Of what is of no use to a person there is none.
    assert!(!pages.join("umsid-man.1").exists());
    house.umsid(&["man", "/nowhere"]).exits(1).says("the pages cannot be written");
}
