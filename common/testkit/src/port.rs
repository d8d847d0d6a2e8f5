//! Ports for servers that are told theirs before they listen.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port of loopback that nobody has, of those the system gives to nobody by itself: no connection of another program takes it
/// between now and when somebody listens there. No other call in this process gives the same one for a long time, and none in
/// another process is likely to.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let own = u16::try_from(std::process::id() % 600).unwrap_or_default() * 10;
    loop {
        let port = 10_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed) % 6_900) % 6_900;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
