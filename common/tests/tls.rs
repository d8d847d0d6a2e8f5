//! Who is let in and who is not, over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where it fails; its files are its own"
)]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, HandshakeKind, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::transport::{Channel, Server};
use tower::{Service, ServiceExt as _};
use umsid_common::tls::{
    ConnectError, Credentials, Files, Limits, Listener, Patience, SelfSigned, Tls, VerifyError, connect,
    connect_for_enrolment, connection_fault, identity_of, unauthenticated_client, verify_own,
};
use umsid_testkit::{Ca, Issued, Wanted, scratch, wait_for};

const SOON: Duration = Duration::from_secs(10);

fn patience() -> Patience {
    Patience { connect: SOON, keep_alive: SOON, ..Patience::default() }
}

/// Files in a directory of their own, loaded.
struct Side {
    dir: TempDir,
    tls: Arc<Tls>,
}

impl Side {
    fn new(ca: &Ca, issued: &Issued) -> Self {
        let dir = scratch();
        ca.write(issued, dir.path());
        Self::load(dir)
    }

    /// Trusts both authorities, its own certificate being of the first.
    fn of_two(ca: &Ca, other: &Ca, issued: &Issued) -> Self {
        let dir = scratch();
        ca.write(issued, dir.path());
        fs::write(dir.path().join("anchors.pem"), ca.anchors_pem() + &other.anchors_pem()).unwrap();
        fs::write(dir.path().join("crls.pem"), ca.crls_pem() + &other.crls_pem()).unwrap();
        Self::load(dir)
    }

    fn load(dir: TempDir) -> Self {
        let tls = Tls::load(Files::in_dir(dir.path())).unwrap();
        Self { dir, tls }
    }
}

/// Answers every call with who called, as seen by the handshake and as judged now.
#[derive(Clone)]
struct WhoCalls(Option<Arc<Tls>>);

impl NamedService for WhoCalls {
    const NAME: &'static str = "umsid.test";
}

impl Service<Request<Body>> for WhoCalls {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request = tonic::Request::from_parts(Default::default(), request.into_parts().0.extensions, ());
        let certificates = request.peer_certs().expect("the connection shows certificates");
        let mut response =
            Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
        if let Ok(caller) = identity_of(&certificates[0]) {
            response = response.header("caller", caller.to_string());
        }
        if let Some(tls) = &self.0 {
            let verdict = tls.current().still_good(&certificates, Timestamp::now());
            response =
                response.header("verdict", verdict.map_or_else(|error| error.to_string(), |_| "good".into()));
        }
        Box::pin(async move { Ok(response.body(Body::empty()).unwrap()) })
    }
}

/// A server that ends, with all its connections, when this is dropped.
struct Serving {
    address: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn serve(tls: &Arc<Tls>, limits: Limits) -> Serving {
    serve_at("127.0.0.1:0", tls, limits).await.unwrap()
}

async fn serve_at(address: &str, tls: &Arc<Tls>, limits: Limits) -> std::io::Result<Serving> {
    let (address, tls): (SocketAddr, _) = (address.parse().unwrap(), tls.clone());
    serving(Some(tls.clone()), async move { Listener::bind(address, tls, limits).await }).await
}

async fn serving(
    tls: Option<Arc<Tls>>,
    listen: impl Future<Output = std::io::Result<Listener>> + Send + 'static,
) -> std::io::Result<Serving> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.spawn(listen).await.unwrap();
    let mut serving = Serving { address: String::new(), runtime: Some(runtime) };
    let listener = listener?;
    serving.address = listener.local_addr()?.to_string();
    serving.runtime.as_ref().unwrap().spawn(async move {
        Server::builder().add_service(WhoCalls(tls)).serve_with_incoming(listener.incoming()).await.unwrap();
    });
    Ok(serving)
}

/// One call; what the server says of us.
async fn call(channel: &Channel) -> Result<(String, String), tonic::transport::Error> {
    let request = Request::post("/umsid.test/Who").header("content-type", "application/grpc");
    let response = channel.clone().ready().await?.call(request.body(Body::empty()).unwrap()).await?;
    let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    Ok((header("caller").unwrap_or_default(), header("verdict").unwrap_or_default()))
}

fn ring() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified(issued: &Issued) -> CertifiedKey {
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    CertifiedKey::from_der(vec![CertificateDer::from(issued.certificate.clone())], key, &ring()).unwrap()
}

/// A client that presents whatever it was given and takes whatever it gets.
fn careless_client(issued: Option<&Issued>) -> ClientConfig {
    let mut config = (*unauthenticated_client()).clone();
    if let Some(issued) = issued {
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified(issued)));
    }
    config
}

async fn handshake(
    address: &str,
    config: ClientConfig,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("umsid.invalid").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// The alert the server answers with; `None` if it speaks HTTP/2 with us.
async fn alert(address: &str, config: ClientConfig) -> Option<AlertDescription> {
    let first_word = async {
        let mut stream = handshake(address, config).await?;
        stream.read_u8().await
    };
    match tokio::time::timeout(SOON, first_word).await.expect("an answer") {
        Ok(_) => None,
        Err(error) => match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
            _ => panic!("neither alert nor welcome: {error}"),
        },
    }
}

/// A server that presents whatever it was given and lets everybody in, for one connection.
async fn careless_server(issued: &Issued, version: &'static SupportedProtocolVersion) -> String {
    let config = ServerConfig::builder_with_provider(ring()).with_protocol_versions(&[version]).unwrap();
    let mut config =
        config.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(issued))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        if let Ok(mut stream) = TlsAcceptor::from(Arc::new(config)).accept(tcp).await {
            stream.write_all(b"anything at all").await.unwrap();
            let _ = stream.read_u8().await;
        }
    });
    address
}

/// Accepts one connection and does this with it; it ends with that.
async fn plain_server<F>(act: impl FnOnce(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { act(listener.accept().await.unwrap().0).await });
    address
}

/// Ends, or falls silent, when the handshake is done.
async fn hasty_server(issued: &Issued, silent: bool) -> String {
    let config = ServerConfig::builder_with_provider(ring()).with_protocol_versions(&[&TLS13]).unwrap();
    let mut config =
        config.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(issued))));
    config.alpn_protocols = vec![b"h2".to_vec()];
    plain_server(move |tcp| async move {
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.unwrap();
        if silent {
            let _ = stream.read_u8().await;
        }
    })
    .await
}

#[tokio::test]
async fn every_role_may_finish_the_handshake_and_is_known_by_its_name() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s1"));
    let serving = serve(&server.tls, Limits::default()).await;
    for issued in [ca.coordinator("anna"), ca.observer("nagios"), ca.agent("c", "s2")] {
        let caller = Side::new(&ca, &issued);
        let channel =
            connect(&serving.address, &caller.tls, server.tls.current().identity(), &patience()).await;
        let (name, verdict) = call(&channel.unwrap()).await.unwrap();
        assert_eq!((name, verdict.as_str()), (caller.tls.current().identity().to_string(), "good"));
    }
}

#[tokio::test]
async fn callers_with_unfit_certificates_are_refused_each_by_its_alert() {
    let (ca, foreign) = (Ca::new("t"), Ca::new("t"));
    let revoked = ca.coordinator("revoked");
    ca.revoke(&revoked);
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits::default()).await;
    let anna = || Wanted::uri("spiffe://t/coordinator/anna");

    for (issued, expected) in [
        (ca.coordinator("anna"), None),
        (ca.issue(&anna().expired()), Some(AlertDescription::CertificateExpired)),
        (ca.issue(&anna().not_yet_valid()), Some(AlertDescription::CertificateExpired)),
        (revoked, Some(AlertDescription::CertificateRevoked)),
        (ca.issue(&anna().for_servers_only()), Some(AlertDescription::UnsupportedCertificate)),
        (ca.issue(&anna().and_uri("spiffe://t/observer/anna")), Some(AlertDescription::AccessDenied)),
        (ca.issue(&anna().nameless()), Some(AlertDescription::AccessDenied)),
        (ca.issue(&Wanted::uri("https://t/coordinator/anna")), Some(AlertDescription::AccessDenied)),
        (ca.issue(&Wanted::uri("spiffe://other/coordinator/anna")), Some(AlertDescription::AccessDenied)),
        (Ca::new("elsewhere").coordinator("anna"), Some(AlertDescription::UnknownCA)),
        // The same name, another key.
        (foreign.coordinator("anna"), Some(AlertDescription::UnknownCA)),
    ] {
        let answer = alert(&serving.address, careless_client(Some(&issued))).await;
        assert_eq!(answer, expected, "{}", issued.certificate_pem);
    }
    assert_eq!(
        alert(&serving.address, careless_client(None)).await,
        Some(AlertDescription::CertificateRequired)
    );
}

#[tokio::test]
async fn names_that_nearly_are_somebodys_are_nobodys() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits::default()).await;
    for uri in [
        "spiffe://t/coordinator/..",
        "spiffe://t/agent/../coordinator/anna",
        "spiffe://t/coordinator/anna/",
        "spiffe://t/coordinator//anna",
        "spiffe://t//coordinator/anna",
        "spiffe://t/coordinator/anna\0",
        "spiffe://t\0/coordinator/anna",
        "spiffe://t/coordinator/an/na",
        "spiffe://t/coordinator/anna?role=agent",
        "spiffe://t/coordinator/anna#",
        "spiffe://t/coordinator/%61nna",
        "spiffe://t/coordinator/%D0%B0nna",
        "spiffe://t/coordinator/xn--nna-7cd",
        "spiffe://t/coordinator/Anna",
        "spiffe://T/coordinator/anna",
        "SPIFFE://t/coordinator/anna",
        "spiffe://t:443/coordinator/anna",
        "spiffe://x@t/coordinator/anna",
        "spiffe://t/root/anna",
        "spiffe://t/coordinator",
        "spiffe://t/agent/c",
        "spiffe://t/agent/c/s/x",
        "spiffe:///coordinator/anna",
        " spiffe://t/coordinator/anna",
        "",
    ] {
        let answer = alert(&serving.address, careless_client(Some(&ca.issue(&Wanted::uri(uri))))).await;
        if uri.contains("xn--") {
            // A name like any other of ASCII letters: nobody turns it into what it may look like elsewhere.
            assert_eq!(answer, None);
            continue;
        }
        assert_eq!(answer, Some(AlertDescription::AccessDenied), "{uri:?}");
    }
    // Nobody's word but one's own.
    let own = SelfSigned::generate();
    let key = secrecy::ExposeSecret::expose_secret(&own.key_pem).to_owned();
    let mut issued = ca.coordinator("anna");
    (issued.certificate, issued.key_pem) = (own.certificate.clone(), key);
    let answer = alert(&serving.address, careless_client(Some(&issued))).await;
    assert_eq!(answer, Some(AlertDescription::UnknownCA));
}

#[tokio::test]
async fn nothing_less_than_tls_13_is_spoken_on_either_side() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits::default()).await;
    let old = ClientConfig::builder_with_provider(ring())
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    assert_eq!(alert(&serving.address, old).await, Some(AlertDescription::ProtocolVersion));

    let issued = ca.agent("c", "s");
    let old = careless_server(&issued, &TLS12).await;
    let refusal = connect(&old, &server.tls, &identity_of(&issued.certificate).unwrap(), &patience()).await;
    assert!(matches!(refusal, Err(ConnectError::Handshake { .. })), "{refusal:?}");
}

/// Our verifier forgives rustls' complaint that the name does not match; this holds that nothing else hides behind it.
#[tokio::test]
async fn nothing_but_the_name_is_forgiven() {
    let (ca, foreign) = (Ca::new("t"), Ca::new("t"));
    let revoked = ca.agent("c", "s");
    ca.revoke(&revoked);
    let caller = Side::new(&ca, &ca.coordinator("anna"));
    let wanted = || Wanted::uri("spiffe://t/agent/c/s");
    let expected = "spiffe://t/agent/c/s".parse().unwrap();

    for (issued, why) in [
        (ca.issue(&wanted().expired()), "expired"),
        (ca.issue(&wanted().not_yet_valid()), "not valid yet"),
        (revoked, "revoked"),
        (ca.issue(&wanted().for_clients_only()), "not made for this purpose"),
        (ca.issue(&wanted().and_uri("spiffe://t/agent/c/s2")), "more than one URI"),
        (ca.issue(&wanted().nameless()), "no URI"),
        (Ca::new("elsewhere").agent("c", "s"), "issued by somebody else"),
        (foreign.agent("c", "s"), "issued by somebody else"),
    ] {
        let address = careless_server(&issued, &TLS13).await;
        match connect(&address, &caller.tls, &expected, &patience()).await {
            Err(ConnectError::Certificate { why: found, .. }) => {
                assert!(found.contains(why), "{why}: {found}");
            }
            other => panic!("{why}: {other:?}"),
        }
    }

    for (issued, found) in [
        (ca.agent("c", "s2"), "spiffe://t/agent/c/s2"),
        (ca.agent("c2", "s"), "spiffe://t/agent/c2/s"),
        (ca.coordinator("s"), "spiffe://t/coordinator/s"),
        (ca.issue(&Wanted::uri("spiffe://u/agent/c/s")), "spiffe://u/agent/c/s"),
    ] {
        let address = careless_server(&issued, &TLS13).await;
        match connect(&address, &caller.tls, &expected, &patience()).await {
            Err(ConnectError::WrongServer { found: who, .. }) => assert_eq!(who, found),
            other => panic!("{found}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_refusal_of_our_certificate_is_told_when_connecting() {
    let (ca, foreign) = (Ca::new("t"), Ca::new("f"));
    let issued = ca.coordinator("anna");
    // Loaded before it was revoked: it does not know yet.
    let caller = Side::new(&ca, &issued);
    ca.revoke(&issued);
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits::default()).await;
    let expected = server.tls.current().identity().clone();
    match connect(&serving.address, &caller.tls, &expected, &patience()).await {
        Err(ConnectError::Rejected { why, .. }) => assert_eq!(why, "revoked"),
        other => panic!("{other:?}"),
    }
    let stranger = Side::of_two(&foreign, &ca, &foreign.coordinator("anna"));
    match connect(&serving.address, &stranger.tls, &expected, &patience()).await {
        Err(ConnectError::Rejected { why, .. }) => assert_eq!(why, "issued by somebody else"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn where_nobody_answers_the_error_says_so() {
    let ca = Ca::new("t");
    let caller = Side::new(&ca, &ca.coordinator("anna"));
    let expected = "spiffe://t/agent/c/s".parse().unwrap();

    let refusal = connect("no port", &caller.tls, &expected, &patience()).await;
    assert!(matches!(refusal, Err(ConnectError::Resolve { .. })), "{refusal:?}");

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let refusal = connect(&closed, &caller.tls, &expected, &patience()).await;
    assert!(matches!(refusal, Err(ConnectError::Unreachable { .. })), "{refusal:?}");

    // Accepts (the kernel does) and never says a word, as an agent that is stopped.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let short = Patience { connect: Duration::from_millis(100), ..patience() };
    let refusal = connect(&address, &caller.tls, &expected, &short).await;
    assert!(matches!(refusal, Err(ConnectError::Unreachable { .. })), "{refusal:?}");
}

/// How an agent that is being restarted looks, at every moment of the handshake: not like somebody else's port.
#[tokio::test]
async fn a_connection_that_breaks_off_is_not_a_wrong_peer() {
    let ca = Ca::new("t");
    let caller = Side::new(&ca, &ca.coordinator("anna"));
    let expected = "spiffe://t/agent/c/s".parse().unwrap();

    // With what was sent unread, closing resets.
    for (reads, linger) in [(true, false), (false, false), (true, true)] {
        let address = plain_server(move |mut stream| async move {
            if reads {
                let _ = stream.read(&mut [0; 4096]).await;
            } else {
                stream.readable().await.unwrap();
            }
            if linger {
                // A record of TLS begins, and no more comes.
                stream.write_all(&[22, 3, 3]).await.unwrap();
            }
        })
        .await;
        let refusal = connect(&address, &caller.tls, &expected, &patience()).await;
        assert!(matches!(refusal, Err(ConnectError::Unreachable { .. })), "{refusal:?}");
    }

    // The handshake is done, then it ends, or is silent, before HTTP/2 begins.
    for silent in [false, true] {
        let address = hasty_server(&ca.agent("c", "s"), silent).await;
        let connect_in = if silent { Duration::from_secs(1) } else { SOON };
        let patience = Patience { connect: connect_in, ..patience() };
        let refusal = connect(&address, &caller.tls, &expected, &patience).await;
        let Err(ConnectError::Unreachable { why, .. }) = refusal else { panic!("{refusal:?}") };
        assert!(why.contains("after the handshake"), "{why}");
    }
}

#[tokio::test]
async fn who_speaks_something_else_is_a_wrong_peer() {
    let ca = Ca::new("t");
    let caller = Side::new(&ca, &ca.coordinator("anna"));
    let expected = "spiffe://t/agent/c/s".parse().unwrap();
    for words in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.6\r\n"] {
        let address = plain_server(move |mut stream| async move {
            stream.write_all(words.as_bytes()).await.unwrap();
            // Until the other side has read it and goes.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        })
        .await;
        let refusal = connect(&address, &caller.tls, &expected, &patience()).await;
        assert!(matches!(refusal, Err(ConnectError::Handshake { .. })), "{words}: {refusal:?}");
    }
}

#[tokio::test]
async fn silent_and_slow_clients_are_dropped_while_others_are_served() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let limits = Limits { handshake: Duration::from_millis(500), handshakes: 1, connections: 64 };
    let serving = serve(&server.tls, limits).await;
    let mut idlers = Vec::new();
    for number in 0..20 {
        let mut idler = TcpStream::connect(&serving.address).await.unwrap();
        if number == 0 {
            // Holds the only place for a handshake; the others, silent, hold none.
            idler.write_all(&[22]).await.unwrap();
        }
        idlers.push(idler);
    }
    let since = Instant::now();
    let caller = Side::new(&ca, &ca.coordinator("anna"));
    let channel =
        connect(&serving.address, &caller.tls, server.tls.current().identity(), &patience()).await.unwrap();
    assert!(call(&channel).await.is_ok());
    assert!(since.elapsed() < Duration::from_secs(5), "served after {:?}", since.elapsed());
    for mut idler in idlers {
        let end = tokio::time::timeout(SOON, idler.read_u8()).await.expect("dropped by the server");
        assert!(end.is_err(), "a silent client was answered");
    }
}

/// Half-open connections of every kind, anew when they are dropped, until this is.
struct Flood(Vec<tokio::task::JoinHandle<()>>);

impl Flood {
    fn from(local: &'static str, server: &str, width: usize) -> Self {
        let server: SocketAddr = server.parse().unwrap();
        let stalls = (0..width).map(move |number| async move {
            loop {
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.bind(SocketAddr::new(local.parse().unwrap(), 0)).unwrap();
                let Ok(mut stream) = socket.connect(server).await else { continue };
                // Nothing; one byte; the head of a record that never comes; a reset.
                let words: &[u8] = [&b""[..], &[22], &[22, 3, 1, 2, 0, 1, 0], b""][number % 4];
                let _ = stream.write_all(words).await;
                if number % 4 == 3 {
                    let _ = stream.set_zero_linger();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
                // Until it is dropped at the other end. One byte after the other, now and then.
                while tokio::time::timeout(Duration::from_millis(400), stream.read_u8()).await.is_err() {
                    let _ = stream.write_all(&[0]).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self(stalls.map(tokio::spawn).collect())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn half_open_connections_keep_nobody_out() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits::default()).await;
    let _flood = Flood::from("127.0.0.1", &serving.address, 400);
    let caller = Side::new(&ca, &ca.coordinator("anna"));
    let expected = server.tls.current().identity().clone();
    for _ in 0..10 {
        // From the same address as the flood: one that meets it at its worst may have to try again.
        let (since, caller, expected, patience) = (Instant::now(), &caller, &expected, &patience());
        let channel = wait_for("a connection", SOON, || async {
            connect(&serving.address, &caller.tls, expected, patience).await.ok()
        });
        assert_eq!(call(&channel.await).await.unwrap().1, "good");
        assert!(since.elapsed() < Duration::from_secs(3), "served after {:?}", since.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All of 127/8 is there only with Linux.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_that_floods_takes_no_place_from_another() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let limits = Limits { handshakes: 8, ..Limits::default() };
    let serving = serve(&server.tls, limits).await;
    let _flood = Flood::from("127.0.0.2", &serving.address, 100);
    // Slow, and so for long among those who are not done, while hundreds come and go.
    let tcp = TcpStream::connect(&serving.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let config = careless_client(Some(&ca.coordinator("anna")));
    let name = ServerName::try_from("umsid.invalid").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    tokio::time::timeout(SOON, stream.read_u8()).await.unwrap().expect("a welcome");
}

#[tokio::test]
async fn who_holds_the_most_connections_is_refused_before_others_are() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits { connections: 3, ..Limits::default() }).await;
    let expected = server.tls.current().identity().clone();
    let greedy = Side::new(&ca, &ca.observer("greedy"));
    let mut held = Vec::new();
    for _ in 0..3 {
        let channel = connect(&serving.address, &greedy.tls, &expected, &patience()).await.unwrap();
        call(&channel).await.unwrap();
        held.push(channel);
    }
    assert!(connect(&serving.address, &greedy.tls, &expected, &patience()).await.is_err());
    let anna = Side::new(&ca, &ca.coordinator("anna"));
    let channel = connect(&serving.address, &anna.tls, &expected, &patience()).await.unwrap();
    call(&channel).await.unwrap();
    // What was there first goes on.
    call(&held[0]).await.unwrap();
    call(&channel).await.unwrap();
}

#[tokio::test]
async fn there_are_no_more_connections_than_allowed_and_closed_ones_do_not_count() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits { connections: 1, ..Limits::default() }).await;
    let expected = server.tls.current().identity().clone();
    let caller = Side::new(&ca, &ca.coordinator("anna"));
    let first = connect(&serving.address, &caller.tls, &expected, &patience()).await.unwrap();
    call(&first).await.unwrap();
    assert!(connect(&serving.address, &caller.tls, &expected, &patience()).await.is_err());
    call(&first).await.unwrap();
    drop(first);
    let (expected, patience) = (&expected, &patience());
    wait_for("the place to be free again", SOON, || async {
        connect(&serving.address, &caller.tls, expected, patience).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_new_revocation_list_cuts_off_new_connections_and_old_ones() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits::default()).await;
    let expected = server.tls.current().identity().clone();
    let issued = ca.coordinator("anna");
    let caller = Side::new(&ca, &issued);
    let old = connect(&serving.address, &caller.tls, &expected, &patience()).await.unwrap();
    assert_eq!(call(&old).await.unwrap().1, "good");

    ca.revoke(&issued);
    ca.write_trust(server.dir.path());
    assert!(server.tls.reload().unwrap());
    assert_eq!(server.tls.current().crl_number(), 2);
    // Its connection is ended; what slips through before is judged by itself, and no other connection comes about.
    wait_for("the old connection to end", SOON, || async {
        match call(&old).await {
            Ok((_, verdict)) => {
                assert_eq!(verdict, "the certificate is not trusted: revoked");
                None
            }
            Err(error) => Some(error),
        }
    })
    .await;
    let new = connect(&serving.address, &caller.tls, &expected, &patience()).await;
    assert!(matches!(new, Err(ConnectError::Rejected { .. })), "{new:?}");
}

#[tokio::test]
async fn a_reload_is_all_or_nothing() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits::default()).await;
    let old = server.tls.current().chain()[0].clone();
    let presented = || async {
        let stream =
            handshake(&serving.address, careless_client(Some(&ca.coordinator("anna")))).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    assert!(!server.tls.reload().unwrap(), "nothing has changed yet");
    assert_eq!(presented().await, old);

    let renewed = ca.agent("c", "s");
    fs::write(server.dir.path().join("certificate.pem"), &renewed.certificate_pem).unwrap();
    let error = server.tls.reload().unwrap_err().to_string();
    assert!(error.contains("key.pem: it is not the key of the certificate in"), "{error}");
    assert_eq!(presented().await, old);

    fs::write(server.dir.path().join("key.pem"), &renewed.key_pem).unwrap();
    assert!(server.tls.reload().unwrap());
    assert_eq!(presented().await, renewed.certificate);
}

#[tokio::test]
async fn no_session_is_resumed() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let serving = serve(&server.tls, Limits::default()).await;
    let willing = careless_client(Some(&ca.coordinator("anna")));
    for _ in 0..2 {
        let mut stream = handshake(&serving.address, willing.clone()).await.unwrap();
        // The settings of HTTP/2 come after whatever tickets there are.
        stream.read_u8().await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_lost_connection_is_made_anew_but_only_to_the_same_server() {
    let ca = Ca::new("t");
    let server = Side::new(&ca, &ca.agent("c", "s"));
    let caller = Side::new(&ca, &ca.coordinator("anna"));
    let serving = serve(&server.tls, Limits::default()).await;
    let address = serving.address.clone();
    let channel = connect(&address, &caller.tls, server.tls.current().identity(), &patience()).await.unwrap();
    call(&channel).await.unwrap();

    drop(serving);
    let fault = wait_for("a call to fail", SOON, || async { call(&channel).await.err() }).await;
    let fault = connection_fault(&address, &fault);
    assert!(matches!(fault, Some(ConnectError::Unreachable { .. })), "{fault:?}");

    let serving = wait_for("the port to be free", SOON, || async {
        serve_at(&address, &server.tls, Limits::default()).await.ok()
    })
    .await;
    wait_for("the channel to be back", SOON, || async { call(&channel).await.ok() }).await;
    drop(serving);

    let other = Side::new(&ca, &ca.agent("c", "other"));
    let _serving = wait_for("the port to be free", SOON, || async {
        serve_at(&address, &other.tls, Limits::default()).await.ok()
    })
    .await;
    let fault = wait_for("the other server to be noticed", SOON, || async {
        match connection_fault(&address, &call(&channel).await.err()?) {
            Some(ConnectError::Unreachable { .. }) => None,
            fault => fault,
        }
    });
    assert!(matches!(fault.await, ConnectError::WrongServer { .. }));
}

#[tokio::test]
async fn an_enrolment_is_open_to_all_who_have_a_key_and_only_at_the_announced_certificate() {
    let ca = Ca::new("t");
    let caller = Side::new(&ca, &ca.coordinator("anna"));
    let own = SelfSigned::generate();
    let (digest, pin) = (own.digest(), *own.digest().as_bytes().first_chunk::<16>().unwrap());
    let serving = serving(None, async move {
        Listener::bind_enrolment("127.0.0.1:0".parse().unwrap(), &own, Limits::default()).await
    })
    .await
    .unwrap();

    for pin in [Some(pin), None] {
        let (channel, presented) =
            connect_for_enrolment(&serving.address, &caller.tls, pin, &patience()).await.unwrap();
        assert_eq!(presented, digest);
        assert_eq!(call(&channel).await.unwrap().0, "spiffe://t/coordinator/anna");
    }
    let other = SelfSigned::generate().digest();
    let other = other.as_bytes().first_chunk::<16>().copied();
    let refusal = connect_for_enrolment(&serving.address, &caller.tls, other, &patience()).await;
    assert!(matches!(refusal, Err(ConnectError::Certificate { .. })));
    assert_eq!(
        alert(&serving.address, careless_client(None)).await,
        Some(AlertDescription::CertificateRequired)
    );
    assert_eq!(alert(&serving.address, careless_client(Some(&Ca::new("x").observer("x")))).await, None);
}

#[test]
fn files_that_do_not_do_are_refused_by_name() {
    type Spoil = fn(&Ca, &Path);
    let cases: &[(&str, &str, Spoil)] = &[
        ("certificate.pem", "cannot read", |_, dir| fs::remove_file(dir.join("certificate.pem")).unwrap()),
        ("key.pem", "cannot read", |_, dir| fs::remove_file(dir.join("key.pem")).unwrap()),
        ("anchors.pem", "cannot read", |_, dir| fs::remove_file(dir.join("anchors.pem")).unwrap()),
        ("crls.pem", "cannot read", |_, dir| fs::remove_file(dir.join("crls.pem")).unwrap()),
        ("certificate.pem", "no certificate in it", |_, dir| {
            fs::write(dir.join("certificate.pem"), "").unwrap();
        }),
        ("key.pem", "no PKCS#8 key", |_, dir| fs::write(dir.join("key.pem"), "").unwrap()),
        ("anchors.pem", "no certificate in it", |_, dir| fs::write(dir.join("anchors.pem"), "").unwrap()),
        ("crls.pem", "no revocation list in it", |_, dir| fs::write(dir.join("crls.pem"), "").unwrap()),
        ("key.pem", "not the key of the certificate", |ca, dir| {
            fs::write(dir.join("key.pem"), ca.observer("x").key_pem).unwrap();
        }),
        ("crls.pem", "one revocation list of the anchor", |_, dir| {
            fs::write(dir.join("crls.pem"), Ca::new("other").crls_pem()).unwrap();
        }),
        ("crls.pem", "is not signed by it", |_, dir| {
            fs::write(dir.join("crls.pem"), Ca::new("t").crls_pem()).unwrap();
        }),
        ("crls.pem", "one revocation list of the anchor", |ca, dir| {
            fs::write(dir.join("crls.pem"), ca.crls_pem() + &ca.crls_pem()).unwrap();
        }),
        ("crls.pem", "", |_, dir| {
            fs::write(dir.join("crls.pem"), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
                .unwrap();
        }),
        ("certificate.pem", "issued by somebody else", |_, dir| Ca::new("other").write_trust(dir)),
        ("certificate.pem", "expired: it was good until", |ca, dir| {
            ca.write(&ca.issue(&Wanted::uri("spiffe://t/agent/c/s").expired()), dir);
        }),
        ("certificate.pem", "not valid yet", |ca, dir| {
            ca.write(&ca.issue(&Wanted::uri("spiffe://t/agent/c/s").not_yet_valid()), dir);
        }),
        ("certificate.pem", "more than one URI", |ca, dir| {
            ca.write(&ca.issue(&Wanted::uri("spiffe://t/agent/c/s").and_uri("spiffe://t/agent/c/x")), dir);
        }),
        ("certificate.pem", "not made for this purpose", |ca, dir| {
            ca.write(&ca.issue(&Wanted::uri("spiffe://t/agent/c/s").for_clients_only()), dir);
        }),
        ("certificate.pem", "revoked", |ca, dir| {
            let issued = ca.agent("c", "s");
            ca.revoke(&issued);
            ca.write(&issued, dir);
        }),
    ];
    for (file, why, spoil) in cases {
        let (ca, dir) = (Ca::new("t"), scratch());
        ca.write(&ca.agent("c", "s"), dir.path());
        Credentials::load(&Files::in_dir(dir.path())).unwrap();
        spoil(&ca, dir.path());
        let error =
            Credentials::load(&Files::in_dir(dir.path())).err().unwrap_or_else(|| panic!("{file}: {why}"));
        let error = error.to_string();
        assert!(error.contains(file) && error.contains(why), "{file}, {why}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let (ca, dir) = (Ca::new("t"), scratch());
    ca.write(&ca.agent("c", "s"), dir.path());
    fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o640)).unwrap();
    let error = Credentials::load(&Files::in_dir(dir.path())).err().unwrap().to_string();
    assert!(error.contains("key.pem: its mode is 0640"), "{error}");
}

#[test]
fn a_signature_is_good_only_for_its_message_and_while_its_certificate_is() {
    let (ca, foreign) = (Ca::new("t"), Ca::new("t"));
    let issued = ca.agent("c", "s");
    let signer = Side::new(&ca, &issued).tls.current();
    let judge = Side::new(&ca, &ca.agent("c", "judge"));
    let verify = |chain: &[Vec<u8>], message: &[u8], signature: &[u8]| {
        judge.tls.current().verify(chain, message, signature)
    };
    let (chain, signature) = (signer.chain(), signer.sign(b"message"));
    assert_eq!(verify(chain, b"message", &signature), Ok(signer.identity().clone()));
    assert_eq!(verify(chain, b"massage", &signature), Err(VerifyError::Signature));
    assert_eq!(verify(chain, b"message", b""), Err(VerifyError::Signature));
    assert!(matches!(verify(&[], b"message", &signature), Err(VerifyError::Certificate(_))));

    let stranger = Side::new(&foreign, &foreign.agent("c", "s")).tls.current();
    let strange = stranger.sign(b"message");
    assert!(matches!(verify(stranger.chain(), b"message", &strange), Err(VerifyError::Certificate(_))));
    assert_eq!(verify(chain, b"message", &strange), Err(VerifyError::Signature));
    // Taken at its own word, and still not for another's message.
    assert_eq!(verify_own(stranger.chain(), b"message", &strange), Ok(signer.identity().clone()));
    assert_eq!(verify_own(stranger.chain(), b"message", &signature), Err(VerifyError::Signature));

    ca.revoke(&issued);
    ca.write_trust(judge.dir.path());
    judge.tls.reload().unwrap();
    assert_eq!(verify(chain, b"message", &signature), Err(VerifyError::Certificate("revoked".into())));
}

#[test]
fn time_decides_who_is_still_good_and_when_to_renew() {
    let ca = Ca::new("t");
    let judge = Side::new(&ca, &ca.agent("c", "judge")).tls.current();
    let (from, until) = judge.validity();
    let third = from.duration_until(until) / 3;
    assert!(!judge.wants_renewal(from));
    assert!(!judge.wants_renewal(until - third - Duration::from_secs(1)));
    assert!(judge.wants_renewal(until - third));
    assert!(judge.wants_renewal(until + third));

    let chain = [ca.observer("x").certificate];
    assert!(judge.still_good(&chain, Timestamp::now()).is_ok());
    let later = Timestamp::now() + Duration::from_secs(25 * 3600);
    assert!(
        matches!(judge.still_good(&chain, later), Err(VerifyError::Certificate(why)) if why.starts_with("expired"))
    );
    let earlier = Timestamp::now() - Duration::from_secs(2 * 3600);
    assert!(
        matches!(judge.still_good(&chain, earlier), Err(VerifyError::Certificate(why)) if why.starts_with("not valid"))
    );
    // Of the many that are asked for within a second, each is who it is.
    let now = Timestamp::now();
    for name in ["x", "y", "x", "y"] {
        let found = judge.still_good(&[ca.observer(name).certificate], now).unwrap();
        assert_eq!(found.to_string(), format!("spiffe://t/observer/{name}"));
    }
    assert!(judge.still_good(&chain, later).is_err());
    let mut altered = chain[0].to_vec();
    *altered.last_mut().unwrap() ^= 1;
    assert!(judge.still_good(&chain, now).is_ok() && judge.still_good(&[altered], now).is_err());
    let elsewhere = [ca.issue(&Wanted::uri("spiffe://u/observer/x")).certificate];
    assert!(matches!(judge.still_good(&elsewhere, Timestamp::now()), Err(VerifyError::Identity(_))));
}

#[test]
fn during_a_change_of_authority_both_are_trusted() {
    let (old, new) = (Ca::new("t"), Ca::new("t-new"));
    let judge = Side::of_two(&old, &new, &old.agent("c", "judge")).tls.current();
    for ca in [&old, &new] {
        let issued = ca.issue(&Wanted::uri("spiffe://t/agent/c/s"));
        assert!(judge.still_good(&[issued.certificate], Timestamp::now()).is_ok());
    }
}

#[test]
fn a_request_asks_for_one_identity_with_a_key_of_ones_own() {
    let key = umsid_common::tls::generate_key();
    let identity = "spiffe://t/agent/c/s".parse().unwrap();
    assert!(!umsid_common::tls::request(&key, &identity).unwrap().is_empty());
    assert!(umsid_common::tls::request(&"no key".to_owned().into(), &identity).is_err());
}
