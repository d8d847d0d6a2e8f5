//! Somebody who is told: an HTTP receiver and a mail server, on the loopback, that say what reached them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use sha2::Sha256;
use umsid_common::durable::{self, Access};
use umsid_testkit::wait_for_blocking;

use crate::house::SOON;

/// A certificate for the loopback that nobody has heard of yet.
pub(crate) struct Certificate {
    pem: String,
    config: Arc<ServerConfig>,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Self { pem: made.cert.pem(), config: Arc::new(config) }
    }

    /// For whoever is to trust it.
    pub(crate) fn file(&self, dir: &Path) -> PathBuf {
        let path = dir.join("ca.pem");
        durable::replace(&path, self.pem.as_bytes(), Access::Private).unwrap();
        path
    }

    fn secure(&self, stream: TcpStream) -> StreamOwned<ServerConnection, TcpStream> {
        StreamOwned::new(ServerConnection::new(Arc::clone(&self.config)).unwrap(), stream)
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A request that reached it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// What was answered.
    pub(crate) status: u16,
}

impl Request {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether it is signed with this key, and fresh.
    pub(crate) fn is_signed(&self, key: &str) -> bool {
        let (Some(timestamp), Some(signature)) =
            (self.headers.get("x-umsid-timestamp"), self.headers.get("x-umsid-signature"))
        else {
            return false;
        };
        let age = jiff::Timestamp::now().as_second() - timestamp.parse::<i64>().unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update([timestamp.as_bytes(), b".", &self.body].concat().as_slice());
        let signature = data_encoding::HEXLOWER.decode(signature.strip_prefix("sha256=").unwrap().as_bytes());
        (0..300).contains(&age) && mac.verify_slice(&signature.unwrap()).is_ok()
    }
}

/// Takes requests, and answers as it is told: with these first, and with 204 then.
pub(crate) struct Hook {
    port: u16,
    secure: bool,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Hook {
    pub(crate) fn new(answers: &[u16]) -> Self {
        Self::start(TcpListener::bind("127.0.0.1:0").unwrap(), answers, None)
    }

    /// At a port where nothing was before.
    pub(crate) fn at(port: u16) -> Self {
        Self::start(TcpListener::bind(("127.0.0.1", port)).unwrap(), &[], None)
    }

    pub(crate) fn secure(certificate: Certificate) -> Self {
        Self::start(TcpListener::bind("127.0.0.1:0").unwrap(), &[], Some(certificate))
    }

    fn start(listener: TcpListener, answers: &[u16], certificate: Option<Certificate>) -> Self {
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (taken, answers, secure) = (Arc::clone(&requests), answers.to_vec(), certificate.is_some());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let status = answers.get(taken.lock().unwrap().len()).copied().unwrap_or(204);
                let read = match &certificate {
                    None => answer(stream, status),
                    Some(certificate) => answer(certificate.secure(stream), status),
                };
                // A handshake that is broken off brings no request.
                if let Ok(request) = read {
                    taken.lock().unwrap().push(request);
                }
            }
        });
        Self { port, secure, requests }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}/hook/T0PS3CR3T", if self.secure { "https" } else { "http" }, self.port)
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// What it has accepted so far.
    pub(crate) fn notices(&self) -> Vec<Value> {
        let good = |request: &Request| request.status < 300;
        self.requests().iter().filter(|request| good(request)).map(Request::json).collect()
    }

    /// Waits for the first notice it accepts for which this holds.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        wait_for_blocking(what, SOON, || self.notices().into_iter().find(|notice| is_it(notice)))
    }
}

fn answer(mut stream: impl Stream, status: u16) -> std::io::Result<Request> {
    let mut reader = BufReader::new(&mut stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).ok_or(std::io::ErrorKind::InvalidData)?.to_owned();
    assert!(line.starts_with("POST "), "{line}");
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body)?;
    write!(stream, "HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    stream.flush()?;
    Ok(Request { path, headers, body, status })
}

/// How a mail server is to be spoken to.
pub(crate) enum Speech {
    Plain,
    Starttls(Certificate),
    Tls(Certificate),
}

/// A mail server that keeps what it is given, and everything that was said to it.
pub(crate) struct MailServer {
    pub(crate) port: u16,
    said: Arc<Mutex<Vec<String>>>,
    mails: Arc<Mutex<Vec<String>>>,
}

impl MailServer {
    pub(crate) fn new(speech: Speech) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { port, said: Arc::default(), mails: Arc::default() };
        let (said, mails) = (Arc::clone(&server.said), Arc::clone(&server.mails));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                // Whoever hangs up in the middle has said what he wanted.
                let _ = match &speech {
                    Speech::Plain => serve(stream, "AUTH PLAIN", true, &said, &mails),
                    Speech::Tls(own) => serve(own.secure(stream), "AUTH PLAIN", true, &said, &mails),
                    Speech::Starttls(own) => {
                        let first = serve(&stream, "STARTTLS", true, &said, &mails);
                        match first {
                            Ok(true) => serve(own.secure(stream), "AUTH PLAIN", false, &said, &mails),
                            other => other,
                        }
                    }
                };
            }
        });
        server
    }

    /// Everything that was said to it.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    /// All mails it has taken.
    pub(crate) fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap().clone()
    }
}

/// Whether TLS is to be begun now.
fn serve(
    stream: impl Stream,
    offers: &str,
    greets: bool,
    said: &Mutex<Vec<String>>,
    mails: &Mutex<Vec<String>>,
) -> std::io::Result<bool> {
    let mut stream = BufReader::new(stream);
    if greets {
        stream.get_mut().write_all(b"220 sink\r\n")?;
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        said.lock().unwrap().push(line.trim_end().to_owned());
        let verb = line.split([' ', '\r']).next().unwrap_or_default().to_uppercase();
        let reply = match verb.as_str() {
            "EHLO" => format!("250-sink\r\n250 {offers}\r\n"),
            "STARTTLS" => "220 go\r\n".to_owned(),
            "AUTH" => "235 welcome\r\n".to_owned(),
            "DATA" => "354 speak\r\n".to_owned(),
            "QUIT" => "221 bye\r\n".to_owned(),
            _ => "250 yes\r\n".to_owned(),
        };
        stream.get_mut().write_all(reply.as_bytes())?;
        stream.get_mut().flush()?;
        match verb.as_str() {
            "STARTTLS" => return Ok(true),
            "QUIT" => return Ok(false),
            "DATA" => {
                let mut mail = String::new();
                while !mail.ends_with("\r\n.\r\n") && stream.read_line(&mut mail)? > 0 {}
                mails.lock().unwrap().push(mail);
                stream.get_mut().write_all(b"250 taken\r\n")?;
                stream.get_mut().flush()?;
            }
            _ => {}
        }
    }
}
