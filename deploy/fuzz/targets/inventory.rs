//! `inventory.toml` as people edit it, and what an edit of ours leaves of it.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use umsid::inventory::{Inventory, Server};
use umsid_common::name::{ClusterName, ServerName};

struct Place {
    file: PathBuf,
    _dir: tempfile::TempDir,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a directory");
    Place { file: dir.path().join("inventory.toml"), _dir: dir }
});

fn newcomer() -> Server {
    Server {
        address: "newcomer.example.com:8643".into(),
        site: None,
        via: None,
        recipient: "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj".parse().expect("one"),
        serial: "7".into(),
        enrolled: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn read() -> Vec<u8> {
    std::fs::read(&PLACE.file).expect("it is there")
}

/// Lines that are a comment in every reading of the file: none of them may be lost.
fn comments(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    // In a text of several lines, what looks like a comment is none.
    if text.contains("\"\"\"") || text.contains("'''") {
        return Vec::new();
    }
    let mut found: Vec<String> =
        text.lines().map(str::trim).filter(|line| line.starts_with('#')).map(str::to_owned).collect();
    found.sort();
    found
}

fn put_and_take_out(before: &Inventory, cluster: &ClusterName, name: &ServerName) {
    let text = read();
    let put = match Inventory::put(&PLACE.file, cluster, name, &newcomer()) {
        Ok(put) => put,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(read(), text, "a refused edit leaves the file as it was");
            return;
        }
    };
    assert_eq!(Inventory::load(&PLACE.file).expect("it was checked before it was written"), put);
    let mut wanted = before.clone();
    wanted.clusters.entry(cluster.clone()).or_default().servers.insert(name.clone(), newcomer());
    assert_eq!(put, wanted, "nothing but this server has changed");
    let (was, is) = (comments(&text), comments(&read()));
    assert!(was.iter().all(|comment| is.contains(comment)), "comments were lost: {was:?}, {is:?}");

    let text = read();
    match Inventory::take_out(&PLACE.file, cluster, name) {
        Ok(left) => {
            assert_eq!(Inventory::load(&PLACE.file).expect("it was checked"), left);
            for (cluster, name, server) in
                before.servers().filter(|(of, at, _)| (*of, *at) != (cluster, name))
            {
                assert_eq!(left.server(cluster, name).expect("it stays"), server);
            }
            assert!(left.server(cluster, name).is_err());
        }
        Err(_) => assert_eq!(read(), text, "a refused edit leaves the file as it was"),
    }
}

fuzz_target!(|data: &[u8]| {
    std::fs::write(&PLACE.file, data).expect("it can be written");
    let before = match Inventory::load(&PLACE.file) {
        Ok(before) => before,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    // A server of its own, then one in the place of one that is there.
    let cluster = before.clusters.keys().next().cloned();
    let cluster = cluster.unwrap_or_else(|| "new".parse().expect("a name"));
    put_and_take_out(&before, &cluster, &"new".parse().expect("a name"));
    std::fs::write(&PLACE.file, data).expect("it can be written");
    if let Some((cluster, server, _)) = before.servers().next() {
        put_and_take_out(&before, cluster, server);
    }
});
