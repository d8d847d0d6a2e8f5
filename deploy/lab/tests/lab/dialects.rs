//! Each dialect does the whole job by hand, and prints what it says it prints.

use crate::call::{Ran, Scratch, cli, init, lab, wait_for};
use umsid_lab::{Lab, Options, dialects};

/// The main job as an administrator who knows the dialect does it.
fn synchronize(lab: &Lab) {
    let scratch = Scratch::new();
    let password = scratch.text("password");
    let file = scratch.text("main");
    let said = cli(lab, "ums1", &["licensing", "backup", "-o", &file, "--password:file", &password]).ok();
    // It says where the file went.
    let file =
        said.lines().find_map(|line| line.strip_prefix("The UMS ID was backed up to ")).expect("known");
    let restore =
        || -> Ran { cli(lab, "ums2", &["licensing", "restore", "-f", file, "--password:file", &password]) };
    if restore().exit == Some(1) {
        init(lab, "ums2", "stop").ok();
        restore().ok();
    }
    init(lab, "ums2", "restart").ok();
    wait_for("in sync", || lab.truth().expect("known").all_in_sync());
}

#[test]
fn every_dialect_can_be_synchronized_by_hand() {
    for dialect in dialects() {
        let options =
            Options { servers: 2, sites: 1, dialects: vec![dialect.name.to_owned()], ..Options::default() };
        let lab = Lab::up(&options).unwrap_or_else(|error| panic!("{}: {error}", dialect.name));
        lab.break_server("ums2").unwrap();
        assert_ne!(cli(&lab, "ums2", &["licensing", "list"]).ok(), "", "{}", dialect.name);
        synchronize(&lab);
    }
}

/// The list on a broken server in a dialect, with the fingerprints of Main and of the server (64 lower-case digits).
fn list(lab: &Lab, name: &str, options: &[&str]) -> String {
    let defaults = [
        ("list", "id-rows"),
        ("list_digest", "sha256"),
        ("list_colons", "false"),
        ("list_case", "upper"),
        ("list_length", "whole"),
        ("list_words", "english"),
        ("machine_readable", "honoured"),
        ("noise", "false"),
    ];
    lab.set_many(&["ums2"], &defaults).expect("known");
    lab.set_many(&["ums2"], umsid_lab::dialect(name).expect("known").settings).expect("known");
    cli(lab, "ums2", &[options, &["licensing", "list"]].concat()).ok()
}

#[test]
fn the_list_has_many_shapes() {
    let lab = lab(3, &[]);
    lab.break_server("ums2").unwrap();
    let truth = lab.truth().unwrap();
    let main = truth.main_fingerprint.to_uppercase();
    let local = truth.server("ums2").unwrap().fingerprint.to_uppercase();

    let rows = format!(
        "UMS ID;FINGERPRINT (SHA256);EXPIRATION DATE\nMain UMS ID;{main};2046-01-01\nLocal UMS ID;{local};2046-01-01\n"
    );
    assert_eq!(list(&lab, "id-rows", &["--machine-readable"]), rows);
    assert_eq!(list(&lab, "lower-case", &["--machine-readable"]), {
        rows.replace(&main, &main.to_lowercase()).replace(&local, &local.to_lowercase())
    });
    let padded = format!(
        "{:<12} {:<64} EXPIRATION DATE\nMain UMS ID  {main}      2046-01-01\nLocal UMS ID {local}      2046-01-01\n",
        "UMS ID", "FINGERPRINT (SHA256)"
    );
    assert_eq!(list(&lab, "id-rows", &[]), padded);
    assert_eq!(list(&lab, "ignores-machine-readable", &["--machine-readable"]), padded);

    let servers = list(&lab, "server-rows", &["--machine-readable", "--no-header"]);
    assert_eq!(
        servers,
        format!(
            "ums1.ums.lab.example;{main};Main UMS ID\n\
             ums2.ums.lab.example;{local};Not in sync, please restart server\n\
             ums3.ums.lab.example;{main};In sync\n"
        )
    );
    let german = list(&lab, "german", &["--machine-readable"]);
    assert_eq!(
        german,
        format!(
            "UMS-ID;FINGERABDRUCK (SHA256);GÜLTIG BIS\n\
             Haupt-UMS-ID;{main};2046-01-01\nLokale UMS-ID;{local};2046-01-01\n"
        )
    );
    assert_eq!(
        list(&lab, "unlabelled", &["--machine-readable", "--no-header"]),
        format!("1;{main};2046-01-01\n2;{local};2046-01-01\n")
    );
    assert_eq!(
        list(&lab, "truncated", &["--machine-readable", "--no-header"]),
        format!(
            "Main UMS ID;{}...{};2046-01-01\nLocal UMS ID;{}...{};2046-01-01\n",
            &main[..10],
            &main[54..],
            &local[..10],
            &local[54..]
        )
    );
    assert_eq!(
        list(&lab, "blocks", &[]),
        format!(
            "Main UMS ID\n  EXPIRATION DATE: 2046-01-01\n  FINGERPRINT (SHA256): {main}\n\n\
             Local UMS ID\n  EXPIRATION DATE: 2046-01-01\n  FINGERPRINT (SHA256): {local}\n"
        )
    );
    let colons: Vec<_> = main.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
    assert!(list(&lab, "colons", &[]).contains(&format!("Main UMS ID  {} ", colons.join(":"))));
    let noisy = list(&lab, "log-lines", &["--machine-readable"]);
    assert!(noisy.contains(&rows) && noisy.starts_with("2026-") && noisy.lines().count() == 6, "{noisy}");
    assert!(!list(&lab, "sha1", &[]).contains(&main));
}

#[test]
fn servers_may_disagree_on_who_is_main() {
    let lab = lab(3, &[]);
    lab.break_server("ums2").unwrap();
    let truth = lab.truth().unwrap();
    let local = truth.server("ums2").unwrap().fingerprint.to_uppercase();
    let main = || {
        let list = cli(&lab, "ums2", &["--machine-readable", "licensing", "list"]).ok();
        list.lines().find_map(|line| line.strip_prefix("Main UMS ID;")).unwrap()[..64].to_owned()
    };
    assert_eq!(main(), truth.main_fingerprint.to_uppercase());
    lab.set("ums2", "main_seen", "itself").unwrap();
    assert_eq!(main(), local);
    lab.set("ums2", "main_seen", "stranger").unwrap();
    assert!(main() != local && main() != truth.main_fingerprint.to_uppercase());
    lab.set("ums2", "list", "server-rows").unwrap();
    assert!(!cli(&lab, "ums2", &["licensing", "list"]).ok().contains("Main UMS ID"));
}

#[test]
fn the_list_may_show_what_runs_instead_of_what_is_on_disk() {
    let lab = lab(2, &[("list_from", "running")]);
    let scratch = Scratch::new();
    lab.break_server("ums2").unwrap();
    let own = lab.truth().unwrap().server("ums2").unwrap().fingerprint.to_uppercase();
    crate::call::backup(&lab, "ums1", &scratch, "main").ok();
    crate::call::restore(&lab, "ums2", &scratch, "main").ok();
    assert!(cli(&lab, "ums2", &["licensing", "list"]).ok().contains(&own));
    init(&lab, "ums2", "restart").ok();
    wait_for("it listens", || crate::call::health(&lab, "ums2").is_some());
    assert!(!cli(&lab, "ums2", &["licensing", "list"]).ok().contains(&own));
}

#[test]
fn a_failure_may_exit_0_with_a_text() {
    let lab = lab(1, &[("errors", "exit-0-with-text")]);
    let scratch = Scratch::new();
    let ran = crate::call::restore(&lab, "ums1", &scratch, "missing");
    assert_eq!(ran.exit, Some(0));
    assert!(ran.stdout.starts_with("Error: ") && ran.stderr.is_empty(), "{ran:?}");
    lab.set("ums1", "errors", "exit-0-on-stderr").unwrap();
    let ran = crate::call::restore(&lab, "ums1", &scratch, "missing");
    assert_eq!(ran.exit, Some(0));
    assert!(ran.stderr.starts_with("Error: ") && ran.stdout.is_empty(), "{ran:?}");
}
