//! Tables and usage, in the style of the public samples (UMS_FACTS §3).

use crate::call::{cli, lab};

#[test]
fn the_database_table_has_the_documented_columns() {
    let lab = lab(1, &[]);
    assert_eq!(
        cli(&lab, "ums1", &["db", "list"]).ok(),
        "ACTIVE DATABASE HOST           USER    DB-TYPE    ID\n\
         true   rmdb     db.ums.example igelums PostgreSQL  1\n"
    );
    lab.set("ums1", "update_mode", "true").unwrap();
    assert_eq!(
        cli(&lab, "ums1", &["db", "list"]).ok(),
        "ACTIVE DATABASE HOST           USER    DB-TYPE     ID\n\
         false  rmdb     db.ums.example igelums PostgreSQL   1\n\
         true   rmdb     localhost      igelums Embedded DB  2\n"
    );
    cli(&lab, "ums1", &["server", "end-update-mode"]).ok();
    assert!(!cli(&lab, "ums1", &["db", "list"]).ok().contains("Embedded"));
}

#[test]
fn web_certificates_and_the_servers_they_are_assigned_to() {
    let lab = lab(2, &[]);
    let table = cli(&lab, "ums2", &["web-certs", "list"]).ok();
    let mut lines = table.lines();
    assert_eq!(
        lines.next().unwrap(),
        "NAME     FINGERPRINT (SHA1)                       EXPIRATION DATE USED"
    );
    let row = lines.next().unwrap();
    let sha1 = row.split(' ').nth(1).unwrap();
    assert_eq!(row, format!("ums1-web {sha1}      2046-01-01 true"));
    assert!(sha1.len() == 40 && sha1.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)));

    let table = cli(&lab, "ums2", &["web-certs", "list-assigned-server", "-f", sha1]).ok();
    let mut lines = table.lines();
    let heading = lines.next().unwrap();
    let row = lines.next().unwrap();
    assert_eq!(lines.next(), None);
    assert!(heading.starts_with("HOST                 LAST KNOWN IP PROCECSS ID  "), "{heading}");
    assert!(row.starts_with("ums1.ums.lab.example 127.0.0.1     "), "{row}");
    assert!(row.ends_with(" 12.09.110"), "{row}");
}

#[test]
fn the_licence_is_no_table() {
    let lab = lab(1, &[]);
    assert_eq!(
        cli(&lab, "ums1", &["--machine-readable", "ums-license", "state"]).ok(),
        "\"umsLicenseLevel\": \"SUB_SERVICE_SET_UMS_ENTERPRISE\"\n\
         \"expirationDateUTC\": \"2046-01-01T00:00:00\"\n\
         \"unlimited\": \"false\"\n"
    );
}

#[test]
fn global_options_change_how_tables_are_printed() {
    let lab = lab(1, &[]);
    let port = lab.servers()[0].https_port;
    let ports = |options: &[&str]| cli(&lab, "ums1", &[options, &["ports", "list"]].concat()).ok();
    let rows = format!(
        "Web server port;{port}\nJWS server port;9080\nDevice communication port;30001\nSSL only;true\n"
    );
    assert_eq!(ports(&["--machine-readable"]), format!("NAME;PORT\n{rows}"));
    assert_eq!(ports(&["--machine-readable", "--no-header"]), rows);
    assert_eq!(ports(&["--separator=|", "--no-header"]), rows.replace(';', "|"));
    assert_eq!(ports(&["--quiet"]), "");
    assert_eq!(cli(&lab, "ums1", &["ums-cluster", "list"]).ok(), "CLUSTER FQDN\nums.lab.example\n");
    for option in ["-V", "--version"] {
        assert_eq!(cli(&lab, "ums1", &[option]).ok(), "umsadmin-cli 12.09.110\n");
    }
    assert!(cli(&lab, "ums1", &["--help"]).ok().contains("--machine-readable"));
}

#[test]
fn wrong_usage_exits_2() {
    let lab = lab(1, &[]);
    for arguments in [
        &[] as &[&str],
        &["licensing"],
        &["licensing", "lst"],
        &["licensing", "list", "--machine-readable"],
        &["--nonsense", "licensing", "list"],
        &["licensing", "backup"],
        &["licensing", "backup", "-o", "/nowhere/x"],
        &["licensing", "restore", "-f", "/nowhere/x", "--password:in", "--password:file", "/nowhere/y"],
        &["licensing", "restore", "--password:in"],
        &["licensing", "export"],
        &["web-certs", "list-assigned-server"],
        &["server"],
    ] {
        let ran = cli(&lab, "ums1", arguments);
        assert_eq!((ran.exit, ran.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert_ne!(ran.stderr, "", "{arguments:?}");
    }
}

#[test]
fn sub_commands_younger_than_the_version_do_not_exist() {
    let lab = lab(1, &[("version", "12.03.100")]);
    for arguments in [
        &["licensing", "export", "-o", "/nowhere/x"] as &[&str],
        &["ums-license", "state"],
        &["web-certs", "list"],
    ] {
        let ran = cli(&lab, "ums1", arguments);
        assert_eq!(ran.exit, Some(2), "{ran:?}");
        assert!(ran.stderr.contains("Unmatched argument"), "{ran:?}");
    }
    cli(&lab, "ums1", &["ums-cluster", "list"]).ok();
    assert_eq!(cli(&lab, "ums1", &["--version"]).ok(), "umsadmin-cli 12.03.100\n");
}

#[test]
fn every_call_is_in_the_books() {
    let lab = lab(1, &[]);
    cli(&lab, "ums1", &["licensing", "list"]).ok();
    cli(&lab, "ums1", &["licensing", "lst"]);
    let password = ["licensing", "restore", "-f", "/nowhere/x", "--password:file", "/nowhere/y"];
    cli(&lab, "ums1", &password);
    crate::call::init(&lab, "ums1", "status").ok();
    let calls = lab.calls("ums1").unwrap();
    let told: Vec<_> = calls.iter().map(|call| (call.argv.join(" "), call.exit)).collect();
    assert_eq!(
        told,
        [
            ("umsadmin-cli licensing list".to_owned(), Some(0)),
            ("umsadmin-cli licensing lst".to_owned(), Some(2)),
            (format!("umsadmin-cli {}", password.join(" ")), Some(1)),
            ("igelRMserver status".to_owned(), Some(0)),
        ]
    );
    assert!(calls[0].is("licensing list") && !calls[0].is("licensing create"));
    assert_eq!(calls[2].password_file.as_ref().unwrap().path, "/nowhere/y");
    assert_eq!(calls[0].environment.keys().filter(|name| *name != "PWD" && *name != "OLDPWD").count(), 1);
}
