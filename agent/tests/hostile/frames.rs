//! A caller that speaks HTTP/2 frame by frame, and so can say what no client of ours would.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use umsid_testkit::Issued;

use crate::house::{Running, SOON};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// REFUSED_STREAM and ENHANCE_YOUR_CALM of RFC 9113, section 7.
pub(crate) const REFUSED: u32 = 7;
pub(crate) const CALM: u32 = 11;

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The error code of a reset, or of a farewell.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

pub(crate) struct Raw(TlsStream<TcpStream>);

impl Raw {
    /// The handshake, and nothing after it.
    pub(crate) async fn silent(issued: &Issued, running: &Running) -> Self {
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let chain = vec![CertificateDer::from(issued.certificate.clone())];
        let certified = CertifiedKey::from_der(chain, key, &default_provider()).unwrap();
        let mut config = (*umsid_common::tls::unauthenticated_client()).clone();
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(running.address).await.unwrap();
        let name = ServerName::try_from("umsid.invalid").unwrap();
        Self(TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap())
    }

    /// Ready to call; of each answer so many bytes are taken.
    pub(crate) async fn greet(issued: &Issued, running: &Running, window: u32) -> Self {
        let mut raw = Self::silent(issued, running).await;
        raw.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        // SETTINGS_INITIAL_WINDOW_SIZE
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        raw.send(SETTINGS, 0, 0, &settings).await.unwrap();
        raw
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&frame(kind, flags, stream, payload)).await?;
        self.0.flush().await
    }

    pub(crate) async fn send_all(&mut self, frames: &[u8]) -> io::Result<()> {
        self.0.write_all(frames).await?;
        self.0.flush().await
    }

    /// Begins a call of this path on this stream, the message to come.
    pub(crate) async fn call(&mut self, stream: u32, path: &str) -> io::Result<()> {
        self.send(HEADERS, END_HEADERS, stream, &headers(path)).await
    }

    /// The only message of a call.
    pub(crate) async fn say(&mut self, stream: u32, message: &impl prost::Message) -> io::Result<()> {
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        self.send(DATA, END_STREAM, stream, &[&[0][..], &length, &bytes].concat()).await
    }

    /// The next frame; an error when the connection is no more.
    pub(crate) async fn next(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await?;
        let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        let mut payload = vec![0; number(&head[..3]) as usize];
        self.0.read_exact(&mut payload).await?;
        Ok(Frame { kind: head[3], flags: head[4], stream: number(&head[5..]) & (u32::MAX >> 1), payload })
    }

    /// Reads on until this is seen; answers pings on the way. `None`: the connection ended before.
    pub(crate) async fn until(&mut self, seen: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let reading = async {
            loop {
                let frame = self.next().await.ok()?;
                if seen(&frame) {
                    return Some(frame);
                }
                if frame.kind == PING && frame.flags & ACK == 0 {
                    self.send(PING, ACK, 0, &frame.payload).await.ok()?;
                }
            }
        };
        tokio::time::timeout(SOON, reading).await.expect("a frame, or the end")
    }

    /// Reads until the connection ends; answers pings if it is to, and never anything else.
    pub(crate) async fn ends(&mut self, within: Duration, answers: bool) {
        let reading = async {
            while let Ok(frame) = self.next().await {
                if answers && frame.kind == PING && frame.flags & ACK == 0 {
                    let _ = self.send(PING, ACK, 0, &frame.payload).await;
                }
            }
        };
        tokio::time::timeout(within, reading).await.expect("the connection ends");
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The header block of a call: every field literal and not indexed (RFC 7541, section 6.2.2).
pub(crate) fn headers(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "a"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.iter().flat_map(|(name, value)| field(name, value)).collect()
}

pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let short = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).unwrap();
    [&[0, short(name)], name.as_bytes(), &[short(value)], value.as_bytes()].concat()
}
