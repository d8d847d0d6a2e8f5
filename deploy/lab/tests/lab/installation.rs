//! The installation as a whole: up, broken, down.

use std::fs;

use crate::call::{Scratch, cli, lab, umsid_lab, wait_for};
use umsid_lab::{Description, Lab, LabError, Options, Truth};

#[test]
fn up_break_status_set_main_down_by_hand() {
    let scratch = Scratch::new();
    let dir = scratch.text("lab");
    let up = umsid_lab(&["up", "--servers", "3", "--sites", "2", "--dir", &dir, "-o", "json"]).ok();
    let made: Description = serde_json::from_str(&up).unwrap();
    let sites: Vec<_> = made.servers.iter().map(|server| (&*server.name, &*server.site)).collect();
    assert_eq!(sites, [("ums1", "site1"), ("ums2", "site2"), ("ums3", "site1")]);
    for server in &made.servers {
        let properties = server.install_dir.join("rmguiserver/conf/dbsetup_options.properties");
        assert!(fs::read_to_string(properties).unwrap().contains("configsettings.HA_DISTRIBUTED_MODE=true"));
        let version = fs::read_to_string(server.install_dir.join("umsversion.properties")).unwrap();
        assert!(version.contains("12.09.110"));
        assert!(server.install_dir.join("rmadmin/umsadmin-cli").exists());
        assert_eq!(crate::call::run(&server.init_script, &["status"]).exit, Some(0));
    }
    let status = || -> Truth {
        serde_json::from_str(&umsid_lab(&["status", "--dir", &dir, "-o", "json"]).ok()).unwrap()
    };
    assert!(status().all_in_sync());

    umsid_lab(&["break", "ums2", "ums3", "--dir", &dir]).ok();
    let truth = status();
    assert_eq!(truth.servers.iter().map(|server| server.in_sync).collect::<Vec<_>>(), [true, false, false]);
    assert_ne!(truth.servers[1].fingerprint, truth.servers[2].fingerprint);
    let table = umsid_lab(&["status", "--dir", &dir]).ok();
    assert!(table.lines().nth(2).unwrap().contains("not in sync"), "{table}");

    umsid_lab(&["set", "all", "version=12.08.100", "list=blocks", "--dir", &dir]).ok();
    let version = fs::read_to_string(made.servers[2].install_dir.join("umsversion.properties")).unwrap();
    assert!(version.contains("12.08.100"), "{version}");
    umsid_lab(&["set", "ums1", "list=bloks", "--dir", &dir])
        .refused("`bloks` is no value for the setting `list`");
    umsid_lab(&["set", "ums9", "list=blocks", "--dir", &dir]).refused("there are: ums1, ums2, ums3");
    umsid_lab(&["break", "ums1", "--dir", &dir]).refused("is the Main server");
    assert!(umsid_lab(&["set", "--help"]).ok().contains("`list_colons` ="));

    umsid_lab(&["main", "ums2", "--dir", &dir]).ok();
    let moved = status();
    assert_eq!((moved.main.as_str(), &moved.main_fingerprint), ("ums2", &truth.servers[1].fingerprint));

    umsid_lab(&["up", "--dir", &dir]).refused("is not empty");
    let lab = Lab::at(scratch.path("lab").as_path()).unwrap();
    assert_eq!(lab.processes().len(), 3);
    umsid_lab(&["down", "--dir", &dir]).ok();
    assert!(lab.processes().is_empty() && !scratch.path("lab").exists());
    umsid_lab(&["down", "--dir", &dir]).refused("there is no lab");
}

#[test]
fn impossible_labs_are_refused_and_leave_nothing() {
    let scratch = Scratch::new();
    let dir = scratch.text("lab");
    for (arguments, why) in [
        (["--servers", "0"], "at least one server per site"),
        (["--sites", "4"], "at least one server per site"),
        (["--dialect", "klingon"], "there is no dialect `klingon`"),
        (["--set", "lisst=x"], "there is no setting `lisst`"),
    ] {
        umsid_lab(&[&["up", "--dir", &dir], &arguments[..]].concat()).refused(why);
        assert!(!scratch.path("lab").exists());
    }
}

#[test]
fn dropping_a_lab_ends_everything() {
    let lab = lab(2, &[]);
    let dir = lab.description().dir.clone();
    let handle = Lab::at(&dir).unwrap();
    assert_eq!(handle.processes().len(), 2);
    drop(lab);
    assert!(handle.processes().is_empty() && !dir.exists());
}

#[test]
fn a_lab_ends_with_the_process_it_was_made_for() {
    let scratch = Scratch::new();
    let dir = scratch.text("lab");
    let mut owner = crate::call::start(std::path::Path::new("/bin/sh"), &["-c", "read x"]);
    let pid = owner.id().to_string();
    umsid_lab(&["up", "--dir", &dir, "--servers", "1", "--sites", "1", "--owner", &pid]).ok();
    let lab = Lab::at(scratch.path("lab").as_path()).unwrap();
    assert_eq!(lab.processes().len(), 1);
    owner.kill().unwrap();
    owner.wait().unwrap();
    wait_for("the server ends", || lab.processes().is_empty());
    lab.down().unwrap();
}

#[test]
fn a_lab_ends_when_its_directory_is_removed() {
    let scratch = Scratch::new();
    let dir = scratch.text("lab");
    umsid_lab(&["up", "--dir", &dir, "--servers", "1", "--sites", "1"]).ok();
    let lab = Lab::at(scratch.path("lab").as_path()).unwrap();
    let pid = lab.processes()[0];
    fs::remove_dir_all(&dir).unwrap();
    wait_for("the server ends", || fs::read_link(format!("/proc/{pid}/exe")).is_err());
}

#[test]
fn a_kept_lab_stays() {
    let lab = lab(1, &[]);
    let dir = lab.keep().unwrap();
    let lab = Lab::at(&dir).unwrap();
    assert_eq!(lab.processes().len(), 1);
    assert_eq!(lab.description().owner, None);
    lab.down_keeping_files();
    assert!(dir.join("lab.json").exists());
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn odd_directories_do_not_matter() {
    let scratch = Scratch::new();
    let dir = scratch.path("it's a \"lab\" $HOME");
    let lab = Lab::up(&Options { servers: 1, sites: 1, dir: Some(dir), ..Options::default() }).unwrap();
    assert!(cli(&lab, "ums1", &["licensing", "list"]).ok().contains("Main UMS ID"));
    assert!(matches!(lab.calls("ums2"), Err(LabError::NoServer { .. })));
}
