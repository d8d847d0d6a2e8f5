//! Enrolling many servers by join files.

use std::path::PathBuf;

use umsid_testkit::wait_for_blocking;

use crate::house::{Host, House, SOON};

fn states(rows: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    rows.as_array().unwrap().iter().map(|row| (text(&row["server"]), text(&row["state"]))).collect()
}

/// Three hosts under three names for the loopback, because a join file's server is named by its host.
fn three() -> (Vec<Host>, Vec<String>) {
    let hosts: Vec<_> = (0..3).map(|_| Host::new("main")).collect();
    let names = ["localhost", "127.0.0.1", "127.0.0.2"];
    let addresses = hosts.iter().zip(names).map(|(host, name)| host.address().replace("127.0.0.1", name));
    // 127.0.0.2 leads to another socket than 127.0.0.1: that host is not there.
    let addresses = addresses.collect();
    (hosts, addresses)
}

#[test]
fn three_servers_join_one_of_them_late() {
    let house = House::new();
    let (hosts, addresses) = three();
    let dir = house.dir.path().join("join");
    let mut args =
        vec!["enroll", "--join-files", dir.to_str().unwrap(), "--cluster", "hamburg", "-o", "json"];
    args.extend(addresses.iter().map(String::as_str));

    // Nobody waits yet: the files are made, and exit code 0 would be a lie.
    let rows = house.umsid(&args).exits(5).json();
    assert!(states(&rows).iter().all(|(_, state)| state == "waiting"), "{rows}");
    let file = |name: &str| dir.join(format!("{name}.join"));
    let first = std::fs::read(file("localhost")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(file("localhost")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    // Two wait: they are enrolled, the third is named. A file that was made is kept.
    let waiting: Vec<_> = [(0, "localhost"), (1, "127.0.0.1")]
        .map(|(host, name): (usize, &str)| hosts[host].waits(Some(hosts[host].copy(&file(name)))))
        .into();
    assert_eq!(std::fs::read(file("localhost")).unwrap(), first);
    let rows = house.umsid(&args).exits(5).json();
    let wanted = [("127.0.0.1", "enrolled"), ("127.0.0.2", "waiting"), ("localhost", "enrolled")];
    assert_eq!(states(&rows), wanted.map(|(name, state)| (name.to_owned(), state.to_owned())));
    for waiting in waiting {
        waiting.enrolled().unwrap();
    }
    assert!(!file("localhost").exists() && dir.join("localhost.join.used").exists());
    assert!(file("127.0.0.2").exists());

    // Agents at work are left alone; the late one is still waited for.
    let _running = [hosts[0].runs(), hosts[1].runs()];
    let rows = house.umsid(&args).exits(5).json();
    assert_eq!(states(&rows)[1].1, "waiting");
    assert_eq!(house.umsid(&["servers", "-o", "json"]).exits(0).json().as_array().unwrap().len(), 2);
}

#[test]
fn it_waits_for_a_late_agent_as_long_as_it_is_told() {
    let (house, host) = (House::new(), Host::new("main"));
    let dir = house.dir.path().join("join");
    let (dir, address) = (dir.to_str().unwrap().to_owned(), host.address());
    std::thread::scope(|scope| {
        let command = scope.spawn(|| {
            house.umsid(&["enroll", "--join-files", &dir, "--cluster", "hamburg", &address, "--wait", "60s"])
        });
        let file = PathBuf::from(&dir).join("127.0.0.1.join");
        wait_for_blocking("the join file", SOON, || file.exists().then_some(()));
        let waiting = host.waits(Some(host.copy(&file)));
        waiting.enrolled().unwrap();
        let ran = command.join().unwrap().exits(0);
        assert!(ran.out.contains("enrolled"), "{}", ran.out);
    });
    // Again: nothing to do.
    house.umsid(&["enroll", "--join-files", &dir, "--cluster", "hamburg", &address]).exits(0);
}

#[test]
fn another_servers_join_file_does_not_do() {
    let (house, host) = (House::new(), Host::new("main"));
    let dir = house.dir.path().join("join");
    let address = host.address();
    let args =
        ["enroll", "--join-files", dir.to_str().unwrap(), "--cluster", "hamburg", &address, "localhost:1"];
    house.umsid(&args).exits(5);
    // The file of localhost on the host of 127.0.0.1.
    let _waiting = host.waits(Some(host.copy(&dir.join("localhost.join"))));
    let before = house.inventory();
    house.umsid(&args).exits(6).says("the proof is wrong");
    assert_eq!(house.inventory(), before);
    assert!(dir.join("127.0.0.1.join").exists(), "a join file was used up for nothing");
}

#[test]
fn a_directory_of_join_files_is_nobody_elses_to_read() {
    let house = House::new();
    let dir = house.dir.path().join("join");
    std::fs::create_dir(&dir).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        house
            .umsid(&["enroll", "--join-files", dir.to_str().unwrap(), "--cluster", "hamburg", "localhost:1"])
            .exits(1)
            .says("is not private");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
}
