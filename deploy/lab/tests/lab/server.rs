//! The UMS Server process: started, stopped, healthy or not.

use std::fs;
use std::time::{Duration, Instant};

use crate::call::{Scratch, backup, cli, health, init, lab, page, restore, run, status, wait_for};

#[test]
fn the_init_script_speaks_as_the_linux_standard_base_says() {
    let lab = lab(1, &[]);
    let server = &lab.servers()[0];
    let pid = || fs::read_to_string(&server.pid_file).unwrap().trim().to_owned();
    let first = pid();
    assert!(init(&lab, "ums1", "status").ok().contains(&format!("pid {first}")));
    init(&lab, "ums1", "start").ok();
    assert_eq!(pid(), first, "a start of what runs does nothing");

    init(&lab, "ums1", "stop").ok();
    assert!(!server.pid_file.exists() && lab.processes().is_empty());
    assert_eq!(init(&lab, "ums1", "status").exit, Some(3));
    assert_eq!(health(&lab, "ums1"), None);
    init(&lab, "ums1", "stop").ok();

    init(&lab, "ums1", "start").ok();
    let second = pid();
    init(&lab, "ums1", "restart").ok();
    assert!(second != first && pid() != second);
    wait_for("health is ok again", || health(&lab, "ums1") == status("ok"));

    fs::File::create(&server.pid_file)
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"1\n"))
        .unwrap();
    assert_eq!(init(&lab, "ums1", "status").exit, Some(1), "process 1 is not a UMS Server");
    assert_eq!(init(&lab, "ums1", "reload").exit, Some(2));
    assert_eq!(run::<&str>(&server.init_script, &[]).exit, Some(2));
}

#[test]
fn umsadmin_cli_starts_and_stops_too() {
    let lab = lab(1, &[]);
    let pid = || lab.truth().unwrap().servers[0].pid;
    let first = pid().unwrap();
    cli(&lab, "ums1", &["server", "restart"]).ok();
    assert!(pid().is_some_and(|pid| pid != first));
    cli(&lab, "ums1", &["server", "stop"]).ok();
    assert_eq!(pid(), None);
    cli(&lab, "ums1", &["server", "start"]).ok();
    assert!(pid().is_some());
    assert_eq!(lab.truth().unwrap().servers[0].starts, 3);
}

#[test]
fn the_server_is_a_daemon() {
    let lab = lab(1, &[]);
    // Had the server kept the pipes, this call would not come back.
    init(&lab, "ums1", "restart").ok();
    let pid = lab.truth().unwrap().servers[0].pid.unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let (group, session, terminal) = (fields[2], fields[3], fields[4]);
    assert_eq!((group, session, terminal), (&*pid.to_string(), &*pid.to_string(), "0"));
    for stream in 0..3 {
        let target = fs::read_link(format!("/proc/{pid}/fd/{stream}")).unwrap();
        assert!(target.starts_with(&lab.servers()[0].dir) || target.starts_with("/dev/null"), "{target:?}");
    }
}

#[test]
fn health_is_init_first_and_stale_between_computations() {
    let lab = lab(1, &[]);
    lab.set("ums1", "init_ms", "300000").unwrap();
    init(&lab, "ums1", "restart").ok();
    wait_for("init", || health(&lab, "ums1") == status("init"));
    lab.set("ums1", "init_ms", "0").unwrap();
    wait_for("ok", || health(&lab, "ums1") == status("ok"));
    lab.set("ums1", "period_ms", "3600000").unwrap();
    // The period counts from the next computation: a value only that one can give shows that it has been made.
    lab.set("ums1", "health", "warn").unwrap();
    wait_for("warn", || health(&lab, "ums1") == status("warn"));
    lab.set("ums1", "health", "err").unwrap();
    let looked = Instant::now();
    while looked.elapsed() < Duration::from_millis(100) {
        assert_eq!(health(&lab, "ums1"), status("warn"), "an hour has not passed");
    }
}

#[test]
fn health_can_be_anything() {
    let lab = lab(1, &[]);
    for value in ["warn", "err", "init", "ok"] {
        lab.set("ums1", "health", value).unwrap();
        wait_for(value, || health(&lab, "ums1") == status(value));
    }
    lab.set("ums1", "health", "404").unwrap();
    wait_for("404", || health(&lab, "ums1").is_some_and(|(status, _)| status == 404));
}

#[test]
fn serverstatus_is_as_documented() {
    let lab = lab(1, &[]);
    let (status, body) = page(&lab, "ums1", "/umsapi/v3/serverstatus").unwrap();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert_eq!(body["rmGuiServerVersion"], "12.09.110");
    assert_eq!(body["server"], format!("ums1.ums.lab.example:{}", lab.servers()[0].https_port));
    assert!(body["buildNumber"].is_string() && body["serverUUID"].is_string());
    assert_eq!(body["links"], serde_json::json!([]));
    lab.set("ums1", "serverstatus", "404").unwrap();
    assert_eq!(page(&lab, "ums1", "/umsapi/v3/serverstatus").unwrap().0, 404);
}

#[test]
fn nobody_outside_gets_the_ums_id() {
    let lab = lab(1, &[]);
    assert_eq!(page(&lab, "ums1", "/ums/internal/ums-id").unwrap().0, 404);
    let header = Some(("x-ums-cluster-secret", "guess"));
    let port = lab.servers()[0].https_port;
    assert_eq!(umsid_lab::https_get(port, "/ums/internal/ums-id", header, None).unwrap().0, 404);
}

#[test]
fn a_foreign_id_is_a_refusal_to_start_and_the_former_one_is_not() {
    let lab = lab(2, &[]);
    let scratch = Scratch::new();
    lab.break_server("ums2").unwrap();
    backup(&lab, "ums2", &scratch, "own").ok();
    backup(&lab, "ums1", &scratch, "main").ok();
    lab.set("ums2", "restore_gives", "other").unwrap();
    restore(&lab, "ums2", &scratch, "main").ok();
    assert!(!lab.truth().unwrap().server("ums2").unwrap().in_sync);
    assert_eq!(health(&lab, "ums2"), status("ok"), "what runs goes on");
    init(&lab, "ums2", "restart").ok();
    wait_for("the server refuses", || init(&lab, "ums2", "status").exit == Some(1));
    let events = lab.lifecycle("ums2").unwrap();
    assert_eq!(events.last().unwrap().event, umsid_lab::Event::Refused);

    lab.set("ums2", "restore_gives", "file").unwrap();
    restore(&lab, "ums2", &scratch, "own").ok();
    init(&lab, "ums2", "start").ok();
    wait_for("it starts with its own", || health(&lab, "ums2") == status("ok"));
}

#[test]
fn starts_can_go_wrong() {
    let lab = lab(1, &[]);
    let starts = |how: &str| {
        init(&lab, "ums1", "stop").ok();
        lab.set("ums1", "start", how).unwrap();
        init(&lab, "ums1", "start").ok();
    };
    starts("refuses");
    wait_for("it ends", || init(&lab, "ums1", "status").exit == Some(1));
    starts("never");
    assert_eq!(init(&lab, "ums1", "status").exit, Some(0));
    assert_eq!(health(&lab, "ums1"), None);
    starts("after:150");
    assert_eq!(health(&lab, "ums1"), None);
    wait_for("it comes late", || health(&lab, "ums1") == status("ok"));
    starts("dies-after:150");
    wait_for("it comes", || health(&lab, "ums1") == status("ok"));
    wait_for("it dies", || init(&lab, "ums1", "status").exit == Some(1));
    assert_eq!(lab.lifecycle("ums1").unwrap().last().unwrap().event, umsid_lab::Event::Died);
}

#[test]
fn a_server_may_come_back_with_its_old_id() {
    let lab = lab(2, &[]);
    let scratch = Scratch::new();
    lab.break_server("ums2").unwrap();
    let own = lab.truth().unwrap().server("ums2").unwrap().fingerprint.clone();
    backup(&lab, "ums1", &scratch, "main").ok();
    restore(&lab, "ums2", &scratch, "main").ok();
    lab.set("ums2", "start", "old-id").unwrap();
    init(&lab, "ums2", "restart").ok();
    wait_for("it comes", || health(&lab, "ums2") == status("ok"));
    let truth = lab.truth().unwrap();
    let server = truth.server("ums2").unwrap();
    assert_eq!((&server.fingerprint, server.running_fingerprint.as_ref()), (&own, Some(&own)));
}

#[test]
fn synchronization_at_start_needs_main_to_run() {
    let lab = lab(2, &[]);
    lab.break_servers(&["ums2"], umsid_lab::Break::FixableByRestart).unwrap();
    init(&lab, "ums1", "stop").ok();
    init(&lab, "ums2", "restart").ok();
    wait_for("it comes", || health(&lab, "ums2") == status("ok"));
    assert!(!lab.truth().unwrap().server("ums2").unwrap().in_sync);
    init(&lab, "ums1", "start").ok();
    wait_for("main is back", || health(&lab, "ums1") == status("ok"));
    init(&lab, "ums2", "restart").ok();
    wait_for("in sync", || lab.truth().unwrap().all_in_sync());
}
