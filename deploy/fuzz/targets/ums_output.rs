//! The other texts the UMS and the operating system give: versions, ports, states of a unit, settings, the address.
#![no_main]

use libfuzzer_sys::fuzz_target;
use umsid_agent::service::systemd::Shown;
use umsid_agent::ums::health::{Address, ServerStatus, checked_status};
use umsid_agent::ums::identity::is_log;
use umsid_agent::ums::installation::{at_least, version_in, web_port_in};
use umsid_proto::model::ServiceStatus;

fuzz_target!(|text: &str| {
    if let Some(version) = version_in(text) {
        assert!(text.contains(&version));
        assert_eq!(version_in(&version).as_ref(), Some(&version));
        assert_eq!(at_least(&version, &version), Some(true));
        assert_eq!(at_least(&version, "0.0.00"), Some(true));
    }
    if let Some(port) = web_port_in(text) {
        assert!(port > 0 && text.contains(&port.to_string()));
    }
    let shown = Shown::parse(text);
    let (without, with) = (shown.status(false), shown.status(true));
    assert!(without == with || (without, with) == (ServiceStatus::Stopped, ServiceStatus::Running));
    for line in text.lines() {
        let _ = is_log(line);
    }
    let _ = checked_status(text.as_bytes());
    if let Ok(status) = ServerStatus::read(text.as_bytes()) {
        assert!(status.version.is_none_or(|version| version_in(&version) == Some(version.clone())));
    }
    if let Ok(address) = Address::parse(text) {
        assert_eq!(Address::parse(&address.to_string()), Ok(address), "it is written as it is read");
    }
});
