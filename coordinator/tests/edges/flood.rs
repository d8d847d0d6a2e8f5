//! A thousand half-open connections to every agent, renewed as they are dropped, while a sync runs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::place::Place;

/// Connections to each agent.
const WIDTH: usize = 1000;

/// What a process gets unless somebody raised it.
const DESCRIPTORS: u64 = 1024;

async fn stall(address: SocketAddr, number: usize, begun: watch::Sender<usize>) {
    // Nothing; one byte; the head of a record that never comes.
    let words: &[u8] = [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0]][number % 3];
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            let _ = stream.write_all(words).await;
            begun.send_modify(|count| *count += 1);
            // Until it is dropped at the other end.
            let _ = stream.read(&mut [0]).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[test]
fn a_thousand_half_open_connections_do_not_hinder_a_sync() {
    let usual = getrlimit(Resource::Nofile);
    // The agents get what they would get anywhere; we need more.
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: usual.maximum }).unwrap();
    let place = Place::broken(&["ums2", "ums3"]);
    setrlimit(Resource::Nofile, usual).unwrap();
    if usual.current.is_some_and(|limit| limit < 3 * WIDTH as u64 + DESCRIPTORS) {
        println!("skipped: this process may open {:?} files only", usual.current);
        return;
    }

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (begun, mut count) = watch::channel(0);
    for server in ["ums1", "ums2", "ums3"] {
        let address = place.address(server).parse().unwrap();
        for number in 0..WIDTH {
            runtime.spawn(stall(address, number, begun.clone()));
        }
    }
    runtime
        .block_on(async {
            tokio::time::timeout(Duration::from_secs(20), count.wait_for(|count| *count >= 3 * WIDTH))
                .await
                .map(drop)
        })
        .expect("the flood begins");
    let since = Instant::now();
    place.umsid(&["status"]);
    assert!(since.elapsed() < Duration::from_secs(10), "status took {:?}", since.elapsed());
    let since = Instant::now();
    place.umsid(&["sync", "--yes", "--settle", "0"]).exits(0);
    assert!(since.elapsed() < Duration::from_secs(20), "sync took {:?}", since.elapsed());
    place.is_well();
    runtime
        .block_on(async {
            let again = count.wait_for(|count| *count > 4 * WIDTH);
            tokio::time::timeout(Duration::from_secs(20), again).await.map(drop)
        })
        .expect("they are shut out, and come again");
    runtime.shutdown_background();
}
