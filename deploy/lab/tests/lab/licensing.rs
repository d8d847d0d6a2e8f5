//! Backup, restore, export and creation of UMS IDs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::call::{Scratch, backup, cli, init, lab, restore, wait_for};

#[test]
fn a_restored_backup_of_main_puts_a_server_in_sync() {
    let lab = lab(3, &[]);
    let scratch = Scratch::new();
    lab.break_server("ums2").unwrap();
    let before = lab.truth().unwrap();
    let broken = before.server("ums2").unwrap();
    assert!(!broken.in_sync && !broken.needs_restart && !before.all_in_sync());
    assert!(before.server("ums3").unwrap().in_sync);

    backup(&lab, "ums1", &scratch, "main.ksbak").ok();
    restore(&lab, "ums2", &scratch, "main.ksbak").ok();
    let restored = lab.truth().unwrap();
    let server = restored.server("ums2").unwrap();
    assert!(server.in_sync && server.needs_restart && !restored.all_in_sync());
    assert_eq!(server.running_fingerprint.as_ref(), Some(&broken.fingerprint));

    init(&lab, "ums2", "restart").ok();
    wait_for("the restored UMS ID is read", || lab.truth().unwrap().all_in_sync());
}

#[test]
fn a_restart_alone_does_not_help_unless_so_broken() {
    let lab = lab(3, &[]);
    lab.break_server("ums2").unwrap();
    lab.break_servers(&["ums3"], umsid_lab::Break::FixableByRestart).unwrap();
    for server in ["ums2", "ums3"] {
        assert!(!lab.truth().unwrap().server(server).unwrap().in_sync);
        init(&lab, server, "restart").ok();
    }
    wait_for("ums3 synchronizes itself", || lab.truth().unwrap().server("ums3").unwrap().in_sync);
    wait_for("ums2 listens", || crate::call::health(&lab, "ums2").is_some());
    assert!(!lab.truth().unwrap().server("ums2").unwrap().in_sync);
}

#[test]
fn the_backup_is_encrypted_under_the_password() {
    let lab = lab(1, &[]);
    let scratch = Scratch::new();
    backup(&lab, "ums1", &scratch, "a.ksbak").ok();
    let file = fs::read(scratch.path("a.ksbak")).unwrap();
    assert!(!file.windows(11).any(|bytes| bytes == b"CERTIFICATE" || bytes == b"PRIVATE KEY"));
    let before = lab.truth().unwrap();

    scratch.write("password", "battery staple");
    restore(&lab, "ums1", &scratch, "a.ksbak").refused("wrong password");
    scratch.write("password", "");
    restore(&lab, "ums1", &scratch, "a.ksbak").refused("must not be empty");
    fs::remove_file(scratch.path("password")).unwrap();
    restore(&lab, "ums1", &scratch, "a.ksbak").refused("cannot be read");
    assert_eq!(lab.truth().unwrap(), before);
}

#[test]
fn a_damaged_backup_is_refused() {
    let lab = lab(1, &[]);
    let scratch = Scratch::new();
    backup(&lab, "ums1", &scratch, "a.ksbak").ok();
    let whole = fs::read(scratch.path("a.ksbak")).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (name, content) in
        [("flipped", flipped.as_slice()), ("cut", &whole[..whole.len() - 1]), ("empty", &[])]
    {
        fs::File::create(scratch.path(name))
            .and_then(|mut file| std::io::Write::write_all(&mut file, content))
            .unwrap();
        restore(&lab, "ums1", &scratch, name).refused("cannot be decrypted");
    }
    restore(&lab, "ums1", &scratch, "missing").refused("does not exist");
}

#[test]
fn without_a_terminal_there_is_no_console_to_read_from() {
    let lab = lab(1, &[]);
    let scratch = Scratch::new();
    let file = scratch.text("a.ksbak");
    cli(&lab, "ums1", &["licensing", "backup", "-o", &file, "--password:in"]).refused("No console");
}

#[test]
fn the_outfile_is_treated_as_the_settings_say() {
    let lab = lab(1, &[]);
    let scratch = Scratch::new();
    backup(&lab, "ums1", &scratch, "deep/down/a.ksbak").refused("does not exist");
    let (file, password) = (scratch.text("deep/down/a.ksbak"), scratch.text("password"));
    cli(&lab, "ums1", &["licensing", "backup", "-p", "--outfile", &file, "--password:file", &password]).ok();
    assert!(scratch.path("deep/down/a.ksbak").exists());

    for (how, given, written) in [
        ("as-given", "one", "one"),
        ("append-ksbak", "two.ksbak", "two.ksbak.ksbak"),
        ("forced-if-missing", "three", "three.ksbak"),
        ("forced-if-missing", "four.ksbak", "four.ksbak"),
    ] {
        lab.set("ums1", "outfile", how).unwrap();
        lab.set("ums1", "outfile_exists", "overwrite").unwrap();
        assert!(backup(&lab, "ums1", &scratch, given).ok().contains(written));
        assert!(
            scratch.path(written).exists() && (given == written || !scratch.path(given).exists()),
            "{how}"
        );
        backup(&lab, "ums1", &scratch, given).ok();
        lab.set("ums1", "outfile_exists", "refuse").unwrap();
        backup(&lab, "ums1", &scratch, given).refused("already exists");
    }
}

#[test]
fn a_line_end_in_the_password_file() {
    let lab = lab(1, &[]);
    let scratch = Scratch::new();
    backup(&lab, "ums1", &scratch, "a.ksbak").ok();
    scratch.write("password", "correct horse\n");
    restore(&lab, "ums1", &scratch, "a.ksbak").refused("wrong password");
    lab.set("ums1", "password_newline", "rejected").unwrap();
    restore(&lab, "ums1", &scratch, "a.ksbak").refused("not allowed");
    lab.set("ums1", "password_newline", "stripped").unwrap();
    restore(&lab, "ums1", &scratch, "a.ksbak").ok();
}

#[test]
fn export_writes_the_certificate_and_aborts_on_an_existing_file() {
    let lab = lab(2, &[]);
    let scratch = Scratch::new();
    lab.break_server("ums2").unwrap();
    let file = scratch.text("a.crt");
    let export = |more: &[&str]| cli(&lab, "ums2", &[&["licensing", "export", "-o", &file], more].concat());
    export(&[]).ok();
    let pem = fs::read_to_string(&file).unwrap();
    export(&[]).refused("--force");
    lab.set("ums2", "export", "der").unwrap();
    export(&["-f"]).ok();
    let der = fs::read(&file).unwrap();
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(data_encoding::BASE64.decode(base64.as_bytes()).unwrap(), der);
    let fingerprint =
        |der: &[u8]| data_encoding::HEXLOWER.encode(&<sha2::Sha256 as sha2::Digest>::digest(der));
    let truth = lab.truth().unwrap();
    assert_eq!(fingerprint(&der), truth.server("ums2").unwrap().fingerprint);
    lab.set("ums2", "export_gives", "main").unwrap();
    export(&["--force"]).ok();
    assert_eq!(fingerprint(&fs::read(&file).unwrap()), truth.main_fingerprint);
    lab.set("ums2", "export", "missing").unwrap();
    assert_eq!(export(&[]).exit, Some(2));
}

#[test]
fn what_a_backup_of_a_server_that_is_not_main_holds() {
    let lab = lab(2, &[]);
    let scratch = Scratch::new();
    lab.break_server("ums2").unwrap();
    let own = lab.truth().unwrap().server("ums2").unwrap().fingerprint.clone();
    backup(&lab, "ums2", &scratch, "own").ok();
    lab.set("ums2", "backup_gives", "main").unwrap();
    backup(&lab, "ums2", &scratch, "main").ok();
    restore(&lab, "ums2", &scratch, "main").ok();
    assert!(lab.truth().unwrap().server("ums2").unwrap().in_sync);
    restore(&lab, "ums2", &scratch, "own").ok();
    assert_eq!(lab.truth().unwrap().server("ums2").unwrap().fingerprint, own);
}

#[test]
fn restore_may_stop_the_server_or_need_it_stopped() {
    let lab = lab(1, &[("restore", "stops-server")]);
    let scratch = Scratch::new();
    backup(&lab, "ums1", &scratch, "a").ok();
    restore(&lab, "ums1", &scratch, "a").ok();
    assert_eq!(init(&lab, "ums1", "status").exit, Some(3));
    lab.set("ums1", "restore", "needs-stopped").unwrap();
    restore(&lab, "ums1", &scratch, "a").ok();
    init(&lab, "ums1", "start").ok();
    restore(&lab, "ums1", &scratch, "a").refused("Stop it before");
}

#[test]
fn create_makes_a_new_id_at_once_and_the_licence_does_not_know_it() {
    let lab = lab(2, &[]);
    let before = lab.truth().unwrap();
    for server in ["ums1", "ums2"] {
        cli(&lab, server, &["licensing", "create"]).ok();
        assert_ne!(lab.truth().unwrap().server(server).unwrap().fingerprint, before.main_fingerprint);
        init(&lab, server, "restart").ok();
        wait_for("the server refuses", || init(&lab, server, "status").exit == Some(1));
        let log = lab.server(server).unwrap().install_dir.join("rmguiserver/logs/rmguiserver.log");
        let log = fs::read_to_string(log).unwrap();
        assert!(log.contains("no valid license for the external database"), "{log}");
        assert!(lab.calls(server).unwrap().iter().any(|call| call.is("licensing create")));
    }
    lab.set("ums2", "licence_check", "false").unwrap();
    lab.set("ums2", "auto_sync_fails", "true").unwrap();
    init(&lab, "ums2", "start").ok();
    wait_for("it starts unlicensed", || crate::call::health(&lab, "ums2").is_some());
}

#[test]
fn the_books_know_how_well_a_password_file_was_kept() {
    let lab = lab(1, &[]);
    let scratch = Scratch::new();
    for (path, mode) in [("password", 0o600), ("", 0o700)] {
        fs::set_permissions(scratch.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    backup(&lab, "ums1", &scratch, "a").ok();
    let calls = lab.calls("ums1").unwrap();
    let file = calls[0].password_file.as_ref().unwrap();
    assert_eq!((file.mode, file.directory_mode), (0o600, 0o700));
}
