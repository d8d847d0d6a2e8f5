//! Asks the UMS Server how it is (UMS_FACTS §5): check-status, and serverstatus where that has no usable answer.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use umsid_proto::model::{Health, HealthStatus};

mod probation;

pub use probation::{Probation, Verdict, word};

/// An answer is some words; more than this of one is not read, in bytes.
const LARGEST_ANSWER: usize = 64 << 10;

/// Where the UMS Server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    tls: bool,
    host: ServerName<'static>,
    port: u16,
}

impl Address {
    /// This host's web server, on this port.
    pub fn local(port: u16) -> Self {
        Self { tls: true, host: ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()), port }
    }

    /// `https://HOST[:PORT]`, or `http` for what stands behind something else that has the TLS. Without a port it is the
    /// UMS's own (UMS_FACTS §5).
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: hyper::Uri = url.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("`{url}`: it must begin with https:// or http://")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("`{url}`: only https://HOST:PORT is wanted, the paths are known"));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            return Err(format!("`{url}`: only https://HOST:PORT is wanted, nobody signs in"));
        }
        // What the URL's own parser takes for a host may be any text, and a port it cannot read none at all.
        let host = uri.host().unwrap_or_default();
        let port = match authority.strip_prefix(host) {
            Some("") => Some(if tls { 8443 } else { 9080 }),
            _ => uri.port_u16().filter(|port| *port != 0),
        };
        let port = port.ok_or_else(|| format!("`{url}`: its port is no number from 1 to 65535"))?;
        let name = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => host.parse::<Ipv6Addr>().ok().map(|address| ServerName::IpAddress(address.into())),
            None => ServerName::try_from(host.to_owned()).ok(),
        };
        let host = name.ok_or_else(|| format!("`{url}`: `{host}` is no host name and no IP address"))?;
        Ok(Self { tls, host, port })
    }

    fn host_and_port(&self) -> String {
        let host = self.host.to_str();
        if host.contains(':') { format!("[{host}]:{}", self.port) } else { format!("{host}:{}", self.port) }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.host_and_port())
    }
}

/// What serverstatus tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStatus {
    /// `rmGuiServerVersion`.
    pub version: Option<String>,
    /// The host name in `server`, without port.
    pub host: String,
    /// `serverUUID`.
    pub uuid: String,
}

impl ServerStatus {
    /// What the body of an answer says.
    ///
    /// # Errors
    /// If it is no JSON with a version.
    pub fn read(body: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire {
            rm_gui_server_version: String,
            #[serde(default, rename = "serverUUID")]
            server_uuid: String,
            #[serde(default)]
            server: String,
        }
        let wire: Wire = serde_json::from_slice(body)?;
        let host = match wire.server.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host,
            _ => &wire.server,
        };
        Ok(Self {
            version: super::installation::version_in(&wire.rm_gui_server_version),
            host: host.to_owned(),
            uuid: wire.server_uuid,
        })
    }
}

/// What the body of a check-status answer says; `None`: nothing that is known.
pub fn checked_status(body: &[u8]) -> Option<HealthStatus> {
    #[derive(Deserialize)]
    struct CheckStatus {
        status: String,
    }
    match serde_json::from_slice::<CheckStatus>(body).ok()?.status.to_lowercase().as_str() {
        "ok" => Some(HealthStatus::Ok),
        "init" => Some(HealthStatus::Init),
        "warn" => Some(HealthStatus::Warn),
        "err" => Some(HealthStatus::Err),
        _ => None,
    }
}

/// Asks one UMS Server.
#[derive(Clone)]
pub struct Probe {
    address: Address,
    tls: Arc<ClientConfig>,
    timeout: Duration,
}

impl Probe {
    /// Asks there, and waits this long for an answer.
    pub fn new(address: Address, timeout: Duration) -> Self {
        Self { address, tls: umsid_common::tls::unauthenticated_client(), timeout }
    }

    /// Where it asks.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Both questions: how it is, by check-status where that says anything, and what it calls itself.
    pub async fn look(&self) -> (Health, Option<ServerStatus>) {
        let mut health = self.check_status().await;
        let known =
            if health.unreached { Err(health.health.detail.clone()) } else { self.server_status().await };
        match known {
            Ok(status) => {
                if health.health.status == HealthStatus::Unreachable {
                    health.health = fallback(health.health);
                }
                health.health.ums_host.clone_from(&status.host);
                health.health.ums_uuid.clone_from(&status.uuid);
                (health.health, Some(status))
            }
            Err(_) => (health.health, None),
        }
    }

    /// As [`Probe::look`], but asks serverstatus only where check-status says nothing and `may_fall_back`.
    pub async fn health(&self, may_fall_back: bool) -> Health {
        let answer = self.check_status().await;
        if answer.health.status == HealthStatus::Unreachable
            && !answer.unreached
            && may_fall_back
            && let Ok(status) = self.server_status().await
        {
            let known = fallback(answer.health);
            return Health { ums_host: status.host, ums_uuid: status.uuid, ..known };
        }
        answer.health
    }

    async fn check_status(&self) -> Answer {
        let health = |status, detail| Health {
            status,
            source: "check-status".to_owned(),
            detail,
            ums_host: String::new(),
            ums_uuid: String::new(),
        };
        let (code, body) = match self.get("/ums/check-status").await {
            Ok(answer) => answer,
            Err(why) => return Answer { health: health(HealthStatus::Unreachable, why), unreached: true },
        };
        let health = match checked_status(&body).filter(|_| code == 200) {
            Some(status) => health(status, String::new()),
            None => health(
                HealthStatus::Unreachable,
                format!("{} answers {code}: {}", self.address, shortened(&body)),
            ),
        };
        Answer { health, unreached: false }
    }

    async fn server_status(&self) -> Result<ServerStatus, String> {
        let (code, body) = self.get("/umsapi/v3/serverstatus").await?;
        if code != 200 {
            return Err(format!("{} answers {code}: {}", self.address, shortened(&body)));
        }
        ServerStatus::read(&body).map_err(|error| format!("{}: {error}: {}", self.address, shortened(&body)))
    }

    async fn get(&self, path: &str) -> Result<(u16, Bytes), String> {
        let asking = self.ask(path);
        match tokio::time::timeout(self.timeout, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{} gives no answer within {:?}", self.address, self.timeout)),
        }
    }

    async fn ask(&self, path: &str) -> Result<(u16, Bytes), String> {
        let no_connection = |error: std::io::Error| format!("{}: no connection: {error}", self.address);
        let host = self.address.host.to_str();
        let tcp = TcpStream::connect((host.as_ref(), self.address.port)).await.map_err(no_connection)?;
        if !self.address.tls {
            return self.converse(TokioIo::new(tcp), path).await;
        }
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let tls = connector.connect(self.address.host.clone(), tcp).await.map_err(no_connection)?;
        self.converse(TokioIo::new(tls), path).await
    }

    async fn converse<I>(&self, io: I, path: &str) -> Result<(u16, Bytes), String>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let failed = |error: hyper::Error| format!("{}: {error}", self.address);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
        let request = hyper::Request::get(path)
            .header(hyper::header::HOST, self.address.host_and_port())
            .header(hyper::header::ACCEPT, "application/json")
            .header(hyper::header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| format!("{}: {error}", self.address))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LARGEST_ANSWER).collect().await;
            let body = body.map_err(|error| format!("{}: {error}", self.address))?.to_bytes();
            Ok((status, body))
        };
        // The connection moves only while it is polled; it ends with the answer.
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            end = connection => {
                end.map_err(failed)?;
                answer.await
            }
        }
    }
}

struct Answer {
    health: Health,
    /// Not even an HTTP answer, so that another question is of no use.
    unreached: bool,
}

/// serverstatus answered where check-status did not.
fn fallback(health: Health) -> Health {
    Health { status: HealthStatus::Ok, source: "serverstatus".to_owned(), ..health }
}

fn shortened(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned()
}
