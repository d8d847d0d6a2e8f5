//! Addresses as people write them.

/// Whether this is `host:port`; IPv6 addresses stand in brackets.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_address(address: &str) -> Result<(), String> {
    let bad = |why: &str| Err(format!("`{}` is no address: {why}", address.escape_debug()));
    let Some((host, port)) = address.rsplit_once(':') else {
        return bad("it must be HOST:PORT");
    };
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return bad("its port is not a number from 1 to 65535");
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(inside) if inside.parse::<std::net::Ipv6Addr>().is_err() => {
            bad("no IPv6 address is in the brackets")
        }
        None if host.contains(':') => bad("an IPv6 address must stand in brackets"),
        None if host.is_empty()
            || !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) =>
        {
            bad("its host is no name and no IP address")
        }
        _ => Ok(()),
    }
}

/// What people write for an address, `HOST` or `HOST:PORT`, as `host:port` in lower case. An IPv6 address may stand without
/// brackets where no port follows.
///
/// # Errors
/// Says what is wrong with it.
pub fn with_port(text: &str, default: u16) -> Result<String, String> {
    let bare_ipv6 = text.parse::<std::net::Ipv6Addr>().is_ok();
    let has_port = !bare_ipv6 && text.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let address = match (bare_ipv6, has_port) {
        (true, _) => format!("[{text}]:{default}"),
        (false, true) => text.to_owned(),
        (false, false) => format!("{text}:{default}"),
    }
    .to_lowercase();
    check_address(&address).map(|()| address)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_port_is_added_where_none_is() {
        for (text, address) in [
            ("UMS1", "ums1:8643"),
            ("ums1:1", "ums1:1"),
            ("2001:DB8::5", "[2001:db8::5]:8643"),
            ("[::1]", "[::1]:8643"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(with_port(text, 8643).as_deref(), Ok(address));
        }
        assert!(with_port("", 8643).is_err() && with_port("a b", 8643).is_err());
    }

    #[test]
    fn addresses_are_host_and_port() {
        for good in ["ums1:8643", "127.0.0.1:1", "[::1]:8643", "a.b-c_d:65535"] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "ums1",
            ":1",
            "ums1:",
            "ums1:0",
            "ums1:65536",
            "ums1:+1",
            "::1:8643",
            "[x]:1",
            "a b:1",
            "a/b:1",
            "a\n:1",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_address_that_is_taken_is_host_and_port(text in "[a-z0-9.:\\[\\]-]{0,20}|\\PC{0,20}") {
            if check_address(&text).is_ok() {
                let (host, port) = text.rsplit_once(':').expect("it is taken");
                prop_assert!(port.parse::<u16>().is_ok_and(|port| port > 0));
                prop_assert!(!host.is_empty() && !host.contains(char::is_whitespace));
            }
        }
    }
}
