//! Programs that hang, flood, lie and leave children behind.

use std::fs;
use std::io::Read as _;
use std::time::{Duration, Instant};

use crate::call::{Scratch, backup, cli, health, init, lab, restore, run, start, wait_for};

/// Whether a process is there and not merely waiting to be reaped.
fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether a process catches SIGTERM.
fn catches_term(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(caught.trim(), 16).unwrap_or(0) & (1 << 14) != 0
}

fn kill(signal: &str, pid: u32) {
    let script = format!("kill -{signal} {pid}");
    run(std::path::Path::new("/bin/sh"), &["-c", &script]).ok();
}

#[test]
fn a_hanging_call_ignores_sigterm() {
    let lab = lab(1, &[("hang", "restore")]);
    cli(&lab, "ums1", &["licensing", "list"]).ok();
    let cli = &lab.servers()[0].umsadmin_cli;
    let mut child = start(cli, &["licensing", "restore", "-f", "/nowhere", "--password:file", "/nowhere"]);
    wait_for("it is deaf", || catches_term(child.id()));
    kill("TERM", child.id());
    let deadline = Instant::now() + Duration::from_millis(100);
    while Instant::now() < deadline {
        assert!(child.try_wait().unwrap().is_none(), "SIGTERM ended it");
        std::thread::yield_now();
    }
    assert_eq!(lab.calls("ums1").unwrap().last().unwrap().exit, None);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_call_may_hang_after_its_effect() {
    let lab = lab(2, &[]);
    let scratch = Scratch::new();
    lab.break_server("ums2").unwrap();
    backup(&lab, "ums1", &scratch, "main").ok();
    lab.set("ums2", "hangs_after_effect", "restore,init stop").unwrap();
    let server = lab.server("ums2").unwrap();
    let (file, password) = (scratch.text("main"), scratch.text("password"));
    let arguments = ["licensing", "restore", "-f", &file, "--password:file", &password];
    let mut child = start(&server.umsadmin_cli, &arguments);
    wait_for("its effect", || lab.truth().unwrap().server("ums2").unwrap().in_sync);
    wait_for("it is deaf", || catches_term(child.id()));
    let mut stop = start(&server.init_script, &["stop"]);
    wait_for("its effect", || lab.truth().unwrap().server("ums2").unwrap().pid.is_none());
    for child in [&mut child, &mut stop] {
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_hanging_call_may_have_a_child_that_holds_the_output() {
    let lab = lab(1, &[("hang", "list"), ("hang_forks_child", "true")]);
    let mut child = start(&lab.servers()[0].umsadmin_cli, &["licensing", "list"]);
    // The server, the call and its child.
    wait_for("the child is there", || lab.processes().len() == 3 && catches_term(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the child is left", || lab.processes().len() == 2);
    let server = lab.truth().unwrap().servers[0].pid.unwrap();
    let left = lab.processes().into_iter().find(|&pid| pid != server).unwrap();
    assert!(fs::read_link(format!("/proc/{left}/fd/1")).unwrap().to_string_lossy().starts_with("pipe:"));
    assert_ne!(group(left), left, "it belongs to its caller's group");
    kill("KILL", left);
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
}

/// The process group of a process that is there.
fn group(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let group = stat.rsplit(") ").next().and_then(|fields| fields.split(' ').nth(2)?.parse().ok());
    group.unwrap_or_else(|| panic!("no process {pid}: {stat:?}"))
}

#[test]
fn a_call_may_leave_a_child_in_a_group_of_its_own() {
    let lab = lab(1, &[("leaves_child", "list")]);
    let mut child = start(&lab.servers()[0].umsadmin_cli, &["licensing", "list"]);
    assert!(child.wait().unwrap().success());
    let server = lab.truth().unwrap().servers[0].pid.unwrap();
    let left: Vec<u32> = lab.processes().into_iter().filter(|&pid| pid != server).collect();
    assert_eq!(left.len(), 1);
    // From its first moment on: whoever ends the caller's group as soon as the caller is gone ends no child.
    assert_eq!(group(left[0]), left[0]);
    lab.down().unwrap();
    assert!(!lives(left[0]), "down ends what was left behind");
}

#[test]
fn a_flood_does_not_end_by_itself() {
    let lab = lab(1, &[("flood", "list")]);
    let mut child = start(&lab.servers()[0].umsadmin_cli, &["licensing", "list"]);
    let mut taken = Vec::new();
    child.stdout.take().unwrap().take(4 << 20).read_to_end(&mut taken).unwrap();
    assert_eq!(taken.len(), 4 << 20);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn exit_0_without_effect() {
    let lab = lab(2, &[]);
    let scratch = Scratch::new();
    lab.break_server("ums2").unwrap();
    backup(&lab, "ums1", &scratch, "main").ok();
    let before = lab.truth().unwrap();
    let all = "backup,restore,export,server restart,init restart";
    lab.set("ums2", "exit_zero_no_effect", all).unwrap();
    restore(&lab, "ums2", &scratch, "main").ok();
    backup(&lab, "ums2", &scratch, "own").ok();
    cli(&lab, "ums2", &["licensing", "export", "-o", &scratch.text("crt")]).ok();
    cli(&lab, "ums2", &["server", "restart"]).ok();
    init(&lab, "ums2", "restart").ok();
    assert_eq!(lab.truth().unwrap(), before);
    assert!(!scratch.path("own").exists() && !scratch.path("crt").exists());
}

#[test]
fn failures_with_and_without_effect() {
    let lab = lab(2, &[]);
    let scratch = Scratch::new();
    lab.break_server("ums2").unwrap();
    backup(&lab, "ums1", &scratch, "main").ok();
    lab.set("ums2", "fails", "restore,init stop").unwrap();
    restore(&lab, "ums2", &scratch, "main").refused("Internal error");
    assert!(!lab.truth().unwrap().server("ums2").unwrap().in_sync);
    assert_eq!(init(&lab, "ums2", "stop").exit, Some(1));
    assert!(health(&lab, "ums2").is_some());
    lab.set_many(&["ums2"], &[("fails", ""), ("fails_after_effect", "restore,init stop")]).unwrap();
    restore(&lab, "ums2", &scratch, "main").refused("Internal error");
    assert!(lab.truth().unwrap().server("ums2").unwrap().in_sync);
    assert_eq!(init(&lab, "ums2", "stop").exit, Some(1));
    assert_eq!(health(&lab, "ums2"), None);
}

#[test]
fn backups_of_odd_sizes() {
    let lab = lab(1, &[("empty_backup", "true")]);
    let scratch = Scratch::new();
    backup(&lab, "ums1", &scratch, "empty").ok();
    assert_eq!(fs::metadata(scratch.path("empty")).unwrap().len(), 0);
    lab.set_many(&["ums1"], &[("empty_backup", "false"), ("backup_size", "3000000")]).unwrap();
    backup(&lab, "ums1", &scratch, "large").ok();
    assert!(fs::metadata(scratch.path("large")).unwrap().len() > 3_000_000);
    restore(&lab, "ums1", &scratch, "large").ok();
}

#[test]
fn two_calls_at_once_may_lock_each_other_out() {
    let lab = lab(1, &[("exclusive", "true"), ("hang", "db list")]);
    let mut child = start(&lab.servers()[0].umsadmin_cli, &["db", "list"]);
    wait_for("the first call runs", || catches_term(child.id()));
    cli(&lab, "ums1", &["licensing", "list"]).refused("Another instance");
    child.kill().unwrap();
    child.wait().unwrap();
    cli(&lab, "ums1", &["licensing", "list"]).ok();
}

#[test]
fn calls_take_as_long_as_they_are_told() {
    let lab = lab(1, &[("delay_ms", "60")]);
    let began = Instant::now();
    cli(&lab, "ums1", &["licensing", "list"]).ok();
    assert!(began.elapsed() >= Duration::from_millis(60));
}
