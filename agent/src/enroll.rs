//! Getting this server its certificate. The private key is made here and never leaves.
//!
//! The agent listens once, with a certificate nobody vouches for, and both sides prove that they know a secret: from
//! the pairing code a person carried over, or from a join file. Until the certificate is complete and checked nothing
//! changes: whatever breaks off, it can simply be begun again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tonic::transport::Server;
use umsid_common::durable::{self, Access, DurableError};
use umsid_common::pairing::{InvalidCode, JoinFile, PairingCode, Secret};
use umsid_common::seal::{SealError, SealKey};
use umsid_common::tls::{self, Limits, Listener, SelfSigned, TlsError};
use umsid_proto::wire::enrollment_server::EnrollmentServer;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::state::{Enrolment, StateDir, StateError};

mod candidate;

use candidate::{Candidate, Progress};

/// How often somebody may be wrong about a pairing code.
const TRIES: u32 = 5;

/// How long a call may take, and how long the last answer may take to get out.
const CALL: Duration = Duration::from_secs(30);

/// Enrolment did not come about.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The state directory cannot be used.
    #[error("cannot enrol with this state directory")]
    State(#[from] StateError),
    /// There is a certificate already.
    #[error(
        "this server is enrolled already, as {0}; to enrol it again (its safety backups stay), type `umsid-agent enroll --again`"
    )]
    AlreadyEnrolled(String),
    /// The join file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The join file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The join file is none.
    #[error(
        "{path} is no join file, or not all of one: copy it again, or have a new one made where the coordinator is"
    )]
    NoJoinFile {
        /// The file.
        path: PathBuf,
        /// Why: without the line it is about, which may be the secret.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The join file's secret is none.
    #[error(
        "{path} is no join file, or not all of one: copy it again, or have a new one made where the coordinator is"
    )]
    NoSecret {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: InvalidCode,
    },
    /// Too late for this join file.
    #[error("{path} expired at {expired}: have a new one made where the coordinator is")]
    JoinFileExpired {
        /// The join file.
        path: PathBuf,
        /// When.
        expired: Timestamp,
    },
    /// The key that opens backups cannot be had.
    #[error("cannot make the key that opens this server's backups")]
    SealKey(#[from] SealError),
    /// The private key cannot be used.
    #[error("cannot make a private key")]
    Key(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Serving ended by itself.
    #[error("cannot serve")]
    Serve(#[from] tonic::transport::Error),
    /// Nobody came in time.
    #[error("nobody enrolled this server within {} minutes: begin again", .0.as_secs() / 60)]
    TimeOut(Duration),
    /// Somebody tried codes.
    #[error("{TRIES} wrong proofs: this code is void, begin again (and find out who tried)")]
    TooManyTries,
    /// Told to stop.
    #[error("stopped before this server was enrolled")]
    Stopped,
}

impl From<DurableError> for EnrolError {
    fn from(error: DurableError) -> Self {
        Self::State(error.into())
    }
}

/// What is asked for at the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; `None`: where the agent will.
    pub listen: Option<SocketAddr>,
    /// A join file instead of a pairing code; `-`: standard input.
    pub join: Option<PathBuf>,
    /// Replace an enrolment there is.
    pub again: bool,
    /// How long a pairing code is good for.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { listen: None, join: None, again: false, patience: Duration::from_secs(15 * 60) }
    }
}

/// An agent that waits for its enrolment.
pub struct Enrolling {
    candidate: Arc<Candidate>,
    listener: Listener,
    address: SocketAddr,
    code: Option<Zeroizing<String>>,
    patience: Duration,
}

impl Enrolling {
    /// Makes the keys and listens.
    ///
    /// # Errors
    /// [`EnrolError`] says what is in the way.
    pub async fn begin(config: &Config, options: &Options) -> Result<Self, EnrolError> {
        let state = StateDir::open(&config.state_dir)?;
        match state.enrolment() {
            Ok(me) if !options.again => return Err(EnrolError::AlreadyEnrolled(me.identity().to_string())),
            Ok(_) | Err(StateError::NotEnrolled { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let join = options.join.as_deref().map(read_join_file).transpose()?;
        let own = SelfSigned::generate();
        let certificate = own.digest();
        let (secret, code, key, patience) = match &join {
            Some((join, secret)) => {
                let left = Timestamp::now().duration_until(join.expires).unsigned_abs();
                (secret.clone(), None, pending_key(&state)?, left)
            }
            None => {
                let code = PairingCode::generate(&certificate);
                let text = code.to_text();
                (code.secret, Some(text), tls::generate_key(), options.patience)
            }
        };
        let recipient = SealKey::load_or_generate(&state.seal_key())?.recipient();
        let address = options.listen.unwrap_or(config.listen);
        let listen = |source| EnrolError::Listen { address, source };
        let listener = Listener::bind_enrolment(address, &own, Limits::default()).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let tries = if join.is_some() { u32::MAX } else { TRIES };
        let candidate = Arc::new(Candidate {
            state,
            certificate,
            secret,
            key,
            recipient,
            bound_to: join.map(|(join, _)| Enrolment {
                trust_domain: join.trust_domain,
                cluster: join.cluster,
                server: join.server,
            }),
            begun: Mutex::default(),
            progress: watch::Sender::new(Progress::Waiting { tries }),
        });
        Ok(Self { candidate, listener, address, code, patience })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The pairing code, unless there is a join file.
    pub fn code(&self) -> Option<&str> {
        self.code.as_ref().map(|code| code.as_str())
    }

    /// How long it waits.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Waits until the enrolment is complete: who this server is from now on.
    ///
    /// # Errors
    /// [`EnrolError`], and then nothing has changed.
    pub async fn complete(self, stop: impl Future<Output = ()>) -> Result<Enrolment, EnrolError> {
        let Self { candidate, listener, patience, .. } = self;
        let progress = candidate.progress.subscribe();
        let largest = umsid_proto::LARGEST_MESSAGE;
        let service = EnrollmentServer::from_arc(candidate)
            .max_decoding_message_size(largest)
            .max_encoding_message_size(largest);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let server = Server::builder()
            .timeout(CALL)
            .concurrency_limit_per_connection(4)
            .max_concurrent_streams(4)
            .http2_keepalive_interval(Some(CALL))
            .serve_with_incoming_shutdown(service, listener.incoming(), async { drop(ended.await) });
        let mut server = std::pin::pin!(server);
        let outcome = tokio::select! {
            served = &mut server => return served.map_err(Into::into).and(Err(EnrolError::Stopped)),
            outcome = decided(progress) => outcome,
            () = tokio::time::sleep(patience) => Err(EnrolError::TimeOut(patience)),
            () = stop => Err(EnrolError::Stopped),
        };
        // The last answer still has to get out. Nobody hears that it is over if the server has ended.
        let _ = end.send(());
        let _ = tokio::time::timeout(CALL, server).await;
        outcome
    }
}

async fn decided(mut progress: watch::Receiver<Progress>) -> Result<Enrolment, EnrolError> {
    loop {
        match &*progress.borrow_and_update() {
            Progress::Enrolled(me) => return Ok(me.clone()),
            Progress::Waiting { tries: 0 } => return Err(EnrolError::TooManyTries),
            Progress::Waiting { .. } => {}
        }
        if progress.changed().await.is_err() {
            return Err(EnrolError::Stopped);
        }
    }
}

fn read_join_file(path: &Path) -> Result<(JoinFile, Secret), EnrolError> {
    let (path, text) = if path == Path::new("-") {
        (PathBuf::from("standard input"), std::io::read_to_string(std::io::stdin()))
    } else {
        (path.to_owned(), std::fs::read_to_string(path))
    };
    let text = text.map(Zeroizing::new);
    let text = text.map_err(|source| EnrolError::Read { path: path.clone(), source })?;
    let join: JoinFile = toml::from_str(&text)
        .map_err(|error| EnrolError::NoJoinFile { path: path.clone(), source: error.message().into() })?;
    if join.expires <= Timestamp::now() {
        return Err(EnrolError::JoinFileExpired { path, expired: join.expires });
    }
    let secret = join.secret().map_err(|source| EnrolError::NoSecret { path, source })?;
    Ok((join, secret))
}

/// The same key at every try: the coordinator issues as many certificates as it is asked for with one key.
fn pending_key(state: &StateDir) -> Result<SecretString, EnrolError> {
    let path = state.pending_key();
    if let Some(bytes) = durable::read_optional(&path)?.map(Zeroizing::new)
        && let Ok(text) = std::str::from_utf8(&bytes)
    {
        return Ok(text.into());
    }
    let key = tls::generate_key();
    durable::replace(&path, key.expose_secret().as_bytes(), Access::Private)?;
    Ok(key)
}
