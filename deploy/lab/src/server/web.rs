//! The web port: the documented pages without login (UMS_FACTS §5), and the one by which servers synchronize.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::health::Health;
use super::start_up::{SECRET_HEADER, UMS_ID_PATH};
use crate::database::Database;
use crate::layout::ServerDir;
use crate::settings::{BUILD_NUMBER, ServerStatus, Settings};
use crate::ums_id::UmsId;

/// How long a client may take for its handshake, and for the head of its request.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Web {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    pages: Arc<Pages>,
}

struct Pages {
    server: ServerDir,
    health: Arc<Health>,
}

impl Web {
    pub(super) async fn bind(server: &ServerDir, health: Arc<Health>) -> io::Result<Self> {
        let database = Database::read(&server.lab())?;
        let member =
            database.servers.get(&server.name()).ok_or_else(|| io::Error::other("not in the database"))?;
        let identity = UmsId::read(&server.web_certificate()).map_err(io::Error::other)?;
        let key = identity.key().map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate().der().clone()], key)
            .map_err(io::Error::other)?;
        Ok(Self {
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, member.port)).await?,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            pages: Arc::new(Pages { server: server.clone(), health }),
        })
    }

    pub(super) async fn serve(self) -> Infallible {
        loop {
            let Ok((socket, _)) = self.listener.accept().await else {
                // Out of file handles, most likely: it passes.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let _ = socket.set_nodelay(true);
            let acceptor = self.acceptor.clone();
            let pages = Arc::clone(&self.pages);
            tokio::spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(socket)).await else {
                    return;
                };
                let service = service_fn(move |request| {
                    let answer = pages.answer(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                // A client that goes away in the middle is its own affair.
                let _ = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let page = match (request.method(), request.uri().path()) {
            (&Method::GET, "/ums/check-status") => self.check_status(),
            (&Method::GET, "/umsapi/v3/serverstatus") => self.serverstatus(),
            (&Method::GET, UMS_ID_PATH) => self.ums_id(request),
            _ => None,
        };
        let (status, kind, body) = match page {
            Some((kind, body)) => (StatusCode::OK, kind, body),
            None => {
                (StatusCode::NOT_FOUND, "text/html", "<html><body>HTTP Status 404</body></html>".to_owned())
            }
        };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        let kind = hyper::header::HeaderValue::from_static(kind);
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
        response
    }

    fn check_status(&self) -> Option<(&'static str, String)> {
        let value = self.health.stored()?;
        Some(("application/json", serde_json::json!({ "status": value }).to_string()))
    }

    fn serverstatus(&self) -> Option<(&'static str, String)> {
        let settings = Settings::read(&self.server).ok()?;
        let database = Database::read(&self.server.lab()).ok()?;
        let member = database.servers.get(&self.server.name())?;
        if settings.serverstatus == ServerStatus::NotFound {
            return None;
        }
        let body = serde_json::json!({
            "rmGuiServerVersion": settings.version,
            "buildNumber": BUILD_NUMBER,
            "serverUUID": member.process_id,
            "server": format!("{}:{}", member.host, member.port),
            "links": [],
        });
        Some(("application/json", body.to_string()))
    }

    /// The UMS ID of this server, if it is Main and the caller belongs to the installation.
    fn ums_id(&self, request: &Request<Incoming>) -> Option<(&'static str, String)> {
        let database = Database::read(&self.server.lab()).ok()?;
        let secret = request.headers().get(SECRET_HEADER)?;
        if database.main != self.server.name() || secret.as_bytes() != database.secret.as_bytes() {
            return None;
        }
        let ums_id = UmsId::read(&self.server.running_id()).ok()?;
        Some(("application/x-pem-file", ums_id.pem().to_owned()))
    }
}
