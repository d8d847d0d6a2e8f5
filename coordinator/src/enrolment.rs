//! Giving a server its certificate: both sides prove that they know a secret, and nothing is written here before the
//! agent has taken the certificate.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;
use umsid_common::digest::Digest;
use umsid_common::name::{ClusterName, Identity, Role, ServerName, SiteName};
use umsid_common::pairing::{Secret, Terms};
use umsid_common::seal::Recipient;
use umsid_common::tls::{self, ConnectError, Patience};
use umsid_proto::failure::Failure;
use umsid_proto::model::{Invalid, named};
use umsid_proto::wire::enrollment_client::EnrollmentClient;
use umsid_proto::{LARGEST_MESSAGE, wire};

use crate::agents::Agents;
use crate::authority::{Authority, AuthorityError};
use crate::home::Home;
use crate::inventory::{Inventory, InventoryError, Server};
use crate::shared::{Change, SharedError};

/// How long an agent may take for an answer: it computes a proof and writes a few small files.
const ANSWER: Duration = Duration::from_secs(30);

mod join;

pub use join::{JoinFiles, JoinFilesError};

/// A server to be enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub name: ServerName,
    /// Where it stands.
    pub site: Option<SiteName>,
    /// Where its agent listens, `host:port`; empty with `via`.
    pub address: String,
    /// The server whose agent leads to it.
    pub via: Option<ServerName>,
}

impl Candidate {
    /// Where it is, in words, as [`Server::place`].
    pub fn place(&self) -> String {
        match &self.via {
            None => self.address.clone(),
            Some(gateway) => format!("{} through {gateway}", self.name),
        }
    }
}

/// A server enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// As it is in the inventory now.
    pub server: Server,
    /// End of its certificate's life.
    pub certificate_until: Timestamp,
    /// Version of its agent.
    pub agent_version: String,
    /// Older certificates of this server that were revoked.
    pub revoked: usize,
}

/// A server that was not enrolled. The inventory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// No connection.
    #[error("no connection to the agent")]
    Connect(#[from] ConnectError),
    /// Another certificate than the pairing code says.
    #[error("{address}: what answers there is not the agent that printed this code: {why}")]
    WrongPin {
        /// host:port
        address: String,
        /// What was seen.
        why: String,
    },
    /// Something answers, but waits for no enrolment.
    #[error("{address}: the agent there is not waiting to be enrolled")]
    NotWaiting {
        /// host:port
        address: String,
    },
    /// The agent said no.
    #[error("the agent refused")]
    Refused(#[source] Box<Failure>),
    /// No answer.
    #[error("{address}: no answer from the agent: {why}")]
    Lost {
        /// host:port
        address: String,
        /// What happened.
        why: String,
    },
    /// An answer that means nothing.
    #[error("the agent's answer makes no sense")]
    Nonsense(#[from] Invalid),
    /// The agent could not prove that it knows the secret.
    #[error("{address}: what answers there does not know the code or join file: somebody may be in between")]
    NotProven {
        /// host:port
        address: String,
    },
    /// The address belongs to another name.
    #[error("{address} is enrolled as {known} already")]
    AddressTaken {
        /// host:port
        address: String,
        /// CLUSTER/SERVER
        known: String,
    },
    /// The same key under another name.
    #[error("this server is enrolled as {known} already: it would have two names")]
    SecondName {
        /// CLUSTER/SERVER
        known: String,
    },
    /// The same name with another key.
    #[error("{known} is enrolled with another key")]
    OtherKey {
        /// CLUSTER/SERVER
        known: String,
    },
    /// The certificate authority.
    #[error("no certificate was issued")]
    Authority(#[from] AuthorityError),
    /// The inventory.
    #[error("the inventory does not take it")]
    Inventory(#[from] InventoryError),
    /// The state directory.
    #[error("the state directory cannot be changed")]
    Shared(#[from] SharedError),
}

impl EnrolmentError {
    /// Whether nothing more is wrong than that the agent does not wait there yet.
    pub fn is_not_yet(&self) -> bool {
        matches!(self, Self::NotWaiting { .. } | Self::Lost { .. })
            || matches!(self, Self::Connect(error) if error.is_transient())
    }

    /// What to do about it; empty where an error below says it.
    pub fn remedy(&self) -> String {
        match self {
            Self::WrongPin { .. } => {
                "check host and port; a code is good for one start of `umsid-agent enroll`: take the one it prints now".into()
            }
            Self::NotWaiting { .. } => "run `umsid-agent enroll` on that server, and then this again".into(),
            Self::Lost { .. } => "run `umsid-agent enroll` on that server again, and then this again".into(),
            Self::NotProven { .. } => "check host and port, and what is between here and there; then start afresh".into(),
            Self::AddressTaken { known, .. } | Self::SecondName { known } => format!(
                "enrol it as {known} again, or take that name out first: umsid servers remove {known}"
            ),
            Self::OtherKey { known } => format!(
                "choose another --name; or, if the server was set up anew, take the old entry out first: umsid servers remove \
                 {known}"
            ),
            _ => String::new(),
        }
    }
}

/// What makes enrolments.
pub struct Registrar<'a> {
    /// The state directory.
    pub home: &'a Home,
    /// Must be able to sign.
    pub authority: &'a Authority,
    /// Whose credentials are shown to the agent.
    pub agents: &'a Agents,
    /// How long to try to connect.
    pub patience: Patience,
}

impl Registrar<'_> {
    /// Enrols one server. `pin` is the beginning of its certificate's hash, where a pairing code told it.
    ///
    /// # Errors
    /// [`EnrolmentError`]; the inventory is then as it was, and a certificate that was issued already is revoked.
    pub async fn enrol(
        &self,
        candidate: &Candidate,
        secret: &Secret,
        pin: Option<[u8; 16]>,
    ) -> Result<Enrolled, EnrolmentError> {
        let inventory = Inventory::load(&self.home.inventory_path())?;
        address_is_free(&inventory, candidate)?;
        let address = &candidate.place();
        let connected = self.connect(candidate, pin).await;
        let (channel, certificate) = connected.map_err(|error| match (error, pin) {
            (ConnectError::Certificate { address, why }, Some(_)) => {
                EnrolmentError::WrongPin { address, why }
            }
            (error, _) => error.into(),
        })?;
        let mut client = EnrollmentClient::new(channel)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);

        let trust_domain = &inventory.trust_domain;
        let anchors_pem = self.authority.anchors_pem();
        let terms = Terms {
            certificate,
            anchors_pem,
            trust_domain,
            cluster: &candidate.cluster,
            server: &candidate.name,
        };
        let request = wire::BeginEnrollmentRequest {
            trust_domain: trust_domain.to_string(),
            cluster: candidate.cluster.to_string(),
            server: candidate.name.to_string(),
            anchors_pem: anchors_pem.to_owned(),
            proof: secret.prove_terms(&terms).to_vec(),
        };
        let begun = answer(address, client.begin(request)).await?;
        let recipient = proven(address, &begun, secret, &certificate)?;

        // From here on nobody else changes inventory or enrolments.
        let mut lock = Change::begin(self.home).await?;
        let inventory = Inventory::load(&self.home.inventory_path())?;
        address_is_free(&inventory, candidate)?;
        key_is_this_servers(&inventory, candidate, &recipient)?;
        let role = Role::Agent { cluster: candidate.cluster.clone(), server: candidate.name.clone() };
        let identity = Identity { trust_domain: trust_domain.clone(), role };
        let issued = self.authority.issue(&begun.csr, &identity)?;
        let server = Server {
            address: candidate.address.clone(),
            via: candidate.via.clone(),
            site: candidate.site.clone().or_else(|| known_site(&inventory, candidate)),
            recipient,
            serial: issued.serial.clone(),
            enrolled: Timestamp::now(),
        };
        match self.complete(&mut client, secret, &issued.certificate_pem, candidate, &server).await {
            Ok(()) => {}
            Err(error) => {
                self.withdraw(&inventory, candidate, &identity);
                return Err(error);
            }
        }
        Inventory::put(&self.home.inventory_path(), &candidate.cluster, &candidate.name, &server)?;
        lock.publish_inventory().await?;
        let revoked = self.authority.revoke(&identity, Some(&issued.serial))?;
        self.authority.publish(&self.home.tls_files())?;
        Ok(Enrolled {
            server,
            certificate_until: issued.not_after,
            agent_version: umsid_proto::model::line(&begun.agent_version),
            revoked,
        })
    }

    async fn connect(
        &self,
        candidate: &Candidate,
        pin: Option<[u8; 16]>,
    ) -> Result<(Channel, Digest), ConnectError> {
        let (tls, patience) = (self.agents.tls(), &self.patience);
        match &candidate.via {
            None => tls::connect_for_enrolment(&candidate.address, tls, pin, patience).await,
            Some(gateway) => {
                let way = self.agents.through(&candidate.cluster, &candidate.name, gateway)?;
                tls::connect_for_enrolment_by(way, tls, pin, patience).await
            }
        }
    }

    /// Gives the agent its certificate. If its answer is lost, the agent itself is asked, in its new name.
    async fn complete(
        &self,
        client: &mut EnrollmentClient<Channel>,
        secret: &Secret,
        certificate_pem: &str,
        candidate: &Candidate,
        server: &Server,
    ) -> Result<(), EnrolmentError> {
        let (crls_pem, crl_number) = self.authority.crl();
        let request = wire::CompleteEnrollmentRequest {
            certificate_pem: certificate_pem.to_owned(),
            proof: secret.prove_issued(certificate_pem, &crls_pem).to_vec(),
            crls_pem,
            crl_number,
        };
        match answer(&candidate.place(), client.complete(request)).await {
            Ok(wire::CompleteEnrollmentResponse {}) => Ok(()),
            Err(lost @ EnrolmentError::Lost { .. }) => {
                match self.agents.dial(&candidate.cluster, &candidate.name, server).await {
                    Ok(_) => Ok(()),
                    Err(_) => Err(lost),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Takes back a certificate that was issued for nothing, unless the server is enrolled already: then its
    /// certificate in use must stay good, and the new one is as good as that.
    fn withdraw(&self, inventory: &Inventory, candidate: &Candidate, identity: &Identity) {
        if inventory.server(&candidate.cluster, &candidate.name).is_ok() {
            return;
        }
        let withdrawn = self
            .authority
            .revoke(identity, None)
            .and_then(|_| self.authority.publish(&self.home.tls_files()));
        if let Err(error) = withdrawn {
            tracing::error!(%identity, "a certificate that was issued for nothing could not be revoked: {error}");
        }
    }
}

async fn answer<T>(
    address: &str,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, EnrolmentError> {
    let lost = |why: String| EnrolmentError::Lost { address: address.to_owned(), why };
    let status = match timeout(ANSWER, call).await {
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => return Err(lost(format!("nothing within {} s", ANSWER.as_secs()))),
    };
    if !status.details().is_empty() {
        return Err(EnrolmentError::Refused(Box::new(Failure::from(&status))));
    }
    match tls::connection_fault(address, &status) {
        Some(ConnectError::Unreachable { why, .. }) => return Err(lost(why)),
        Some(fault) => return Err(fault.into()),
        None => {}
    }
    Err(match status.code() {
        tonic::Code::Unimplemented => EnrolmentError::NotWaiting { address: address.to_owned() },
        tonic::Code::Unavailable
        | tonic::Code::Cancelled
        | tonic::Code::DeadlineExceeded
        | tonic::Code::Unknown => lost(umsid_proto::model::line(status.message())),
        _ => EnrolmentError::Refused(Box::new(Failure::from(&status))),
    })
}

fn proven(
    address: &str,
    begun: &wire::BeginEnrollmentResponse,
    secret: &Secret,
    certificate: &Digest,
) -> Result<Recipient, EnrolmentError> {
    if !secret.check_request(certificate, &begun.csr, &begun.recipient, &begun.proof) {
        return Err(EnrolmentError::NotProven { address: address.to_owned() });
    }
    Ok(named("enrolment.recipient", &begun.recipient)?)
}

fn known_as(cluster: &ClusterName, name: &ServerName) -> String {
    format!("{cluster}/{name}")
}

fn is_other(candidate: &Candidate, cluster: &ClusterName, name: &ServerName) -> bool {
    (cluster, name) != (&candidate.cluster, &candidate.name)
}

/// Makes sure that no other server is enrolled with a candidate's address.
///
/// # Errors
/// [`EnrolmentError::AddressTaken`].
pub fn address_is_free(inventory: &Inventory, candidate: &Candidate) -> Result<(), EnrolmentError> {
    let taken = inventory.servers().find(|(cluster, name, server)| {
        server.straight().is_some_and(|address| address.eq_ignore_ascii_case(&candidate.address))
            && is_other(candidate, cluster, name)
    });
    match taken {
        None => Ok(()),
        Some((cluster, name, server)) => Err(EnrolmentError::AddressTaken {
            address: server.address.clone(),
            known: known_as(cluster, name),
        }),
    }
}

fn key_is_this_servers(
    inventory: &Inventory,
    candidate: &Candidate,
    recipient: &Recipient,
) -> Result<(), EnrolmentError> {
    for (cluster, name, server) in inventory.servers() {
        let known = || known_as(cluster, name);
        match (server.recipient == *recipient, is_other(candidate, cluster, name)) {
            (true, true) => return Err(EnrolmentError::SecondName { known: known() }),
            (false, false) => return Err(EnrolmentError::OtherKey { known: known() }),
            (true, false) | (false, true) => {}
        }
    }
    Ok(())
}

fn known_site(inventory: &Inventory, candidate: &Candidate) -> Option<SiteName> {
    inventory.server(&candidate.cluster, &candidate.name).ok()?.site.clone()
}
