//! What systemd is told of an agent it has started, by its documented protocol: datagrams to a socket.

use std::os::unix::net::UnixDatagram;

use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Place, SOON};

#[test]
fn a_service_manager_is_told_that_the_agent_is_ready_lives_and_stops() {
    let place = Place::new();
    place.kill_agent("ums1");
    let path = place.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let told = || {
        let mut datagram = [0; 256];
        let length = socket.recv(&mut datagram).expect("the agent tells something");
        String::from_utf8_lossy(&datagram[..length]).trim().to_owned()
    };
    place.start_agent_with("ums1", &[("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")]);
    assert_eq!(told(), "READY=1");
    place.umsid(&["status"]).exits(0);
    assert_eq!([told(), told()], ["WATCHDOG=1", "WATCHDOG=1"]);
    let pid = Pid::from_raw(i32::try_from(place.agent_pid("ums1")).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let last = std::iter::repeat_with(told).find(|told| told != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
}

#[test]
fn who_is_asked_to_tell_nothing_tells_nothing() {
    let place = Place::new();
    place.kill_agent("ums1");
    let path = place.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    // The watchdog is somebody else's.
    let environment =
        [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    place.start_agent_with("ums1", &environment);
    place.umsid(&["status"]).exits(0);
    let pid = Pid::from_raw(i32::try_from(place.agent_pid("ums1")).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let mut datagram = [0; 256];
    for expected in ["READY=1", "STOPPING=1"] {
        let length = socket.recv(&mut datagram).unwrap();
        assert_eq!(String::from_utf8_lossy(&datagram[..length]).trim(), expected);
    }
}
