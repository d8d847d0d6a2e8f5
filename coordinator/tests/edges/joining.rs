//! Enrolling many servers by join files.

use std::path::PathBuf;

use umsid_testkit::wait_for_blocking;

use crate::house::{Host, House, SOON};

fn states(rows: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    rows.as_array().unwrap().iter().map(|row| (text(&row["server"]), text(&row["state"]))).collect()
}

// Join files are for servers named by their hosts; only Linux has more than one address on its loopback unasked.
#[cfg(target_os = "linux")]
#[test]
fn three_servers_join_one_of_them_late() {
    use std::os::unix::fs::PermissionsExt as _;
    let house = House::new();
    let names = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let hosts = [1, 2, 3].map(|last| Host::new("main").at([127, 0, 0, last]));
    let addresses = hosts.each_ref().map(Host::address);
    let dir = house.dir.path().join("join");
    let mut args =
        vec!["enroll", "--join-files", dir.to_str().unwrap(), "--cluster", "hamburg", "-o", "json"];
    args.extend(addresses.iter().map(String::as_str));
    let expected = |states: [&str; 3]| {
        names
            .iter()
            .zip(states)
            .map(|(name, state)| ((*name).to_owned(), state.to_owned()))
            .collect::<Vec<_>>()
    };

    // Nobody waits yet: the files are made, and exit code 0 would be a lie.
    let rows = house.umsid(&args).exits(5).json();
    assert_eq!(states(&rows), expected(["waiting"; 3]));
    let files = names.map(|name| dir.join(format!("{name}.join")));
    for file in &files {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let last = std::fs::read(&files[2]).unwrap();

    // Two wait: they are enrolled, the third is named. Its file is kept.
    let waiting = [0, 1].map(|at| hosts[at].waits(Some(hosts[at].copy(&files[at]))));
    let rows = house.umsid(&args).exits(5).json();
    assert_eq!(states(&rows), expected(["enrolled", "enrolled", "waiting"]));
    for waiting in waiting {
        waiting.enrolled().unwrap();
    }
    assert!(!files[0].exists() && dir.join("127.0.0.1.join.used").exists());
    assert_eq!(std::fs::read(&files[2]).unwrap(), last);

    // The late one. Agents at work are left alone.
    let _running = [hosts[0].runs(), hosts[1].runs()];
    let late = hosts[2].waits(Some(hosts[2].copy(&files[2])));
    let rows = house.umsid(&args).exits(0).json();
    assert_eq!(states(&rows), expected(["enrolled"; 3]));
    late.enrolled().unwrap();
    let _late = hosts[2].runs();
    house.umsid(&["doctor"]).exits(0);
    house.umsid(&args).exits(0);
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
