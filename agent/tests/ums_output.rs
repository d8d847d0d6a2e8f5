//! What the UMS and the operating system print, whatever it is: nothing breaks the reading, and nothing is made up.
#![allow(clippy::unwrap_used, reason = "a test that finds something else than expected fails by panicking")]

use proptest::prelude::*;
use umsid_agent::service::systemd::Shown;
use umsid_agent::ums::health::{Address, ServerStatus, checked_status};
use umsid_agent::ums::identity::is_log;
use umsid_agent::ums::installation::{at_least, version_in, web_port_in};
use umsid_proto::model::ServiceStatus;

/// Pieces such texts are made of, in any order.
fn text() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "12.09.110",
        "6.10.130",
        "Web server port",
        "8443",
        "non-SSL",
        "=",
        ":",
        "\n",
        "LoadState",
        "ActiveState",
        "active",
        "exited",
        "MainPID",
        "https://",
        "[::1]",
        "localhost",
        "2026-11-22 20:45:12",
        "INFO",
    ];
    let piece = prop_oneof![
        proptest::sample::select(KNOWN).prop_map(str::to_owned),
        "[0-9.]{0,8}",
        "[ \\n=:;]{0,2}",
        "\\PC{0,4}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn what_is_no_host_or_no_port_is_no_address() {
    let hosts = [
        "[]",
        "[]:8443",
        ":8443",
        ")[1:83",
        "[::g]",
        "[127.0.0.1]",
        "::1",
        "-ums",
        "ums..example",
        "1.2.3.999",
    ];
    let ports = ["ums:", "ums:0", "ums:x", "ums:65536", "[::1]:99999", "root:secret@ums", "@ums"];
    for rest in hosts.iter().chain(&ports) {
        for url in [format!("https://{rest}"), format!("http://{rest}/")] {
            assert!(Address::parse(&url).is_err(), "{url}");
        }
    }
}

#[test]
fn a_host_by_name_and_by_address_is_taken_with_the_port_that_is_usual() {
    let shown = |url: &str| Address::parse(url).map(|address| address.to_string());
    assert_eq!(shown("https://ums_1.example.org"), Ok("https://ums_1.example.org:8443".to_owned()));
    assert_eq!(shown("http://10.0.0.7/"), Ok("http://10.0.0.7:9080".to_owned()));
    assert_eq!(shown("https://[0:0::1]:443"), Ok("https://[::1]:443".to_owned()));
}

proptest! {
    #[test]
    fn a_version_is_in_the_text_it_was_found_in(text in text()) {
        if let Some(version) = version_in(&text) {
            prop_assert!(text.contains(&version));
            prop_assert_eq!(version_in(&version), Some(version.clone()));
            prop_assert_eq!(at_least(&version, &version), Some(true));
        }
    }

    #[test]
    fn a_port_is_in_the_text_it_was_found_in(text in text()) {
        if let Some(port) = web_port_in(&text) {
            prop_assert!(port > 0 && text.contains(&port.to_string()));
        }
    }

    /// Only a unit whose program has ended depends on whether a process of it is there.
    #[test]
    fn no_text_breaks_the_reading_of_a_unit(text in text()) {
        let shown = Shown::parse(&text);
        let (without, with) = (shown.status(false), shown.status(true));
        let exited = (ServiceStatus::Stopped, ServiceStatus::Running);
        prop_assert!(without == with || (without, with) == exited);
        for line in text.lines() {
            let _ = is_log(line);
        }
    }

    #[test]
    fn an_address_is_written_as_it_is_read(text in text()) {
        if let Ok(address) = Address::parse(&text) {
            prop_assert_eq!(Address::parse(&address.to_string()), Ok(address));
        }
    }

    #[test]
    fn no_body_breaks_the_reading_of_health(
        body in prop_oneof![text(), Just("{\"status\":\"ok\"}".to_owned()), "\\{\"status\":\"[a-z]{0,4}\"\\}"],
    ) {
        if checked_status(body.as_bytes()).is_some() {
            prop_assert!(body.contains("status"));
        }
        prop_assert!(ServerStatus::read(body.as_bytes()).is_err());
    }
}
