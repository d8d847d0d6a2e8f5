//! Connections that are carried inside something else: bytes in pieces, both ways, with no more of them on the way than the two
//! ends take.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::bytes::Bytes;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::fault;

/// The size of the pieces, and how much of one direction is held that nobody has taken yet: bytes.
const PIECE: usize = 64 << 10;

/// What is written to the one comes out of the other in pieces. Whoever writes waits for whoever takes the pieces; they end when
/// the writer is dropped.
pub fn outgoing() -> (impl AsyncWrite + Send + Unpin, impl Stream<Item = Vec<u8>> + Send + Unpin) {
    let (writer, reader) = tokio::io::duplex(PIECE);
    // Nothing can go wrong with reading from memory.
    let pieces = ReaderStream::with_capacity(reader, PIECE).map_while(Result::ok);
    (writer, pieces.map(Vec::from))
}

/// Pieces that come in, as something to read from.
pub fn incoming(
    pieces: impl Stream<Item = io::Result<Vec<u8>>> + Send + Unpin,
) -> impl AsyncRead + Send + Unpin {
    StreamReader::new(pieces.map(|piece| piece.map(Bytes::from)))
}

/// Carries bytes both ways until both directions have come to their end.
///
/// # Errors
/// When one of them breaks; [`io::ErrorKind::TimedOut`] when for this long, or twice as long at most, nothing went either way.
pub async fn carry(
    one: impl AsyncRead + AsyncWrite,
    other: impl AsyncRead + AsyncWrite,
    idle: Duration,
) -> io::Result<()> {
    let (from_one, to_one) = tokio::io::split(one);
    let (from_other, to_other) = tokio::io::split(other);
    let moved = AtomicBool::new(true);
    let both = async {
        tokio::try_join!(pump(from_one, to_other, &moved), pump(from_other, to_one, &moved)).map(|_| ())
    };
    tokio::select! {
        ended = both => ended,
        () = stands_still(&moved, idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &AtomicBool,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..read]).await?;
        moved.store(true, Ordering::Relaxed);
        fault::moment("piece carried");
    }
}

async fn stands_still(moved: &AtomicBool, idle: Duration) {
    while moved.swap(false, Ordering::Relaxed) {
        tokio::time::sleep(idle).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn both_directions_end_each_for_itself() {
        let ((mut left, one), (other, mut right)) = (duplex(16), duplex(16));
        let carrying = tokio::spawn(carry(one, other, Duration::from_secs(20)));
        let writing = async {
            left.write_all(&[7; 1000]).await.expect("it is carried");
            left.shutdown().await.expect("memory has no errors");
        };
        let mut there = Vec::new();
        let (read, ()) = tokio::join!(right.read_to_end(&mut there), writing);
        read.expect("memory has no errors");
        assert_eq!(there, [7; 1000]);
        // The way back is open still.
        right.write_all(b"answer").await.expect("memory has no errors");
        drop(right);
        let mut back = Vec::new();
        left.read_to_end(&mut back).await.expect("memory has no errors");
        assert_eq!(back, b"answer");
        carrying.await.expect("no panic").expect("both have ended");
    }

    #[tokio::test]
    async fn what_stands_still_ends_and_what_moves_does_not() {
        let ((mut left, one), (other, mut right)) = (duplex(16), duplex(16));
        let idle = Duration::from_millis(200);
        let carrying = tokio::spawn(carry(one, other, idle));
        let until = std::time::Instant::now() + idle * 5;
        while std::time::Instant::now() < until {
            left.write_all(b"x").await.expect("it is carried");
            right.read_u8().await.expect("it is carried");
        }
        let ended = carrying.await.expect("no panic").expect_err("nothing moves");
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_writes_waits_for_who_takes() {
        let (mut writer, mut pieces) = outgoing();
        let writing = tokio::spawn(async move { writer.write_all(&vec![1; 10 * PIECE]).await });
        let mut taken = 0;
        while let Some(piece) = pieces.next().await {
            assert!(piece.len() <= PIECE);
            taken += piece.len();
        }
        assert_eq!(taken, 10 * PIECE);
        writing.await.expect("no panic").expect("all was taken");
        let mut back = incoming(tokio_stream::iter([Ok(vec![1, 2]), Ok(Vec::new()), Ok(vec![3])]));
        let mut read = Vec::new();
        back.read_to_end(&mut read).await.expect("all pieces are good");
        assert_eq!(read, [1, 2, 3]);
    }
}
