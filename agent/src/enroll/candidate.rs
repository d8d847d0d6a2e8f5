//! The two calls of an enrolment, and what may come of them.

use std::sync::{Mutex, PoisonError};

use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use umsid_common::digest::Digest;
use umsid_common::durable::{self, DurableError};
use umsid_common::pairing::{Secret, Terms};
use umsid_common::seal::Recipient;
use umsid_common::tls::{self, Credentials, Files};
use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::{Invalid, named};
use umsid_proto::wire;
use umsid_proto::wire::enrollment_server::Enrollment;

use crate::certificates::Stage;
use crate::state::{Change, Enrolment, StateDir};

pub(super) enum Progress {
    Waiting { tries: u32 },
    Enrolled(Enrolment),
}

/// A server that is not enrolled yet.
pub(super) struct Candidate {
    pub(super) state: StateDir,
    /// Of the certificate it presents meanwhile.
    pub(super) certificate: Digest,
    pub(super) secret: Secret,
    pub(super) key: SecretString,
    pub(super) recipient: Recipient,
    /// By a join file.
    pub(super) bound_to: Option<Enrolment>,
    pub(super) begun: Mutex<Option<Begun>>,
    pub(super) progress: watch::Sender<Progress>,
}

/// What the coordinator proved to mean.
#[derive(Clone)]
pub(super) struct Begun {
    me: Enrolment,
    anchors: String,
}

fn refused(what: impl Into<String>) -> Failure {
    Failure::new(Code::EnrolmentRefused, what)
}

impl Candidate {
    fn begin(&self, wire: &wire::BeginEnrollmentRequest) -> Result<wire::BeginEnrollmentResponse, Failure> {
        self.still_waiting()?;
        let invalid = |error: Invalid| Failure::of(Code::InvalidRequest, &error);
        let me = Enrolment {
            trust_domain: named("trust_domain", &wire.trust_domain).map_err(invalid)?,
            cluster: named("cluster", &wire.cluster).map_err(invalid)?,
            server: named("server", &wire.server).map_err(invalid)?,
        };
        let terms = Terms {
            certificate: self.certificate,
            anchors_pem: &wire.anchors_pem,
            trust_domain: &me.trust_domain,
            cluster: &me.cluster,
            server: &me.server,
        };
        if !self.secret.check_terms(&terms, &wire.proof) {
            return Err(self.wrong());
        }
        if let Some(bound_to) = &self.bound_to
            && *bound_to != me
        {
            let what =
                format!("the join file here is for {}, not for {}", bound_to.identity(), me.identity());
            return Err(refused(what).remedy("use the join file that was made for this server"));
        }
        let csr =
            tls::request(&self.key, &me.identity()).map_err(|error| Failure::of(Code::Internal, &error))?;
        let recipient = self.recipient.to_string();
        let proof = self.secret.prove_request(&self.certificate, &csr, &recipient).to_vec();
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Begun { me, anchors: wire.anchors_pem.clone() });
        let agent_version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(wire::BeginEnrollmentResponse { csr, recipient, agent_version, proof })
    }

    fn complete(&self, wire: wire::CompleteEnrollmentRequest) -> Result<(), Failure> {
        self.still_waiting()?;
        let wire::CompleteEnrollmentRequest { certificate_pem, crls_pem, crl_number, proof } = wire;
        if !self.secret.check_issued(&certificate_pem, &crls_pem, &proof) {
            return Err(self.wrong());
        }
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Begun { me, anchors }) = begun else {
            return Err(refused("the enrolment was not begun").remedy("begin again"));
        };
        self.check(&me, &certificate_pem, &anchors, &crls_pem, crl_number)?;
        let change = Change {
            certificate: Some(certificate_pem),
            key: Some(self.key.expose_secret().to_owned()),
            anchors: Some(anchors),
            crls: Some(crls_pem),
            enrolment: Some(me.clone()),
        };
        let stored = self.state.change(&change);
        stored.map_err(|error| Failure::of(Code::Internal, &error))?;
        if let Err(error) = durable::remove(&self.state.pending_key()) {
            tracing::warn!(%error, "cannot remove the pending key");
        }
        tracing::info!(identity = %me.identity(), "enrolled");
        self.progress.send_replace(Progress::Enrolled(me));
        Ok(())
    }

    /// As a peer will.
    fn check(
        &self,
        me: &Enrolment,
        certificate: &str,
        anchors: &str,
        crls: &str,
        number: u64,
    ) -> Result<(), Failure> {
        let internal = |error: DurableError| Failure::of(Code::Internal, &error);
        let stage = Stage::new(&self.state).map_err(internal)?;
        let files = Files {
            certificate: stage.put("certificate.pem", certificate).map_err(internal)?,
            key: stage.put("key.pem", self.key.expose_secret()).map_err(internal)?,
            anchors: stage.put("anchors.pem", anchors).map_err(internal)?,
            crls: stage.put("crls.pem", crls).map_err(internal)?,
        };
        let new = Credentials::load(&files).map_err(|error| Failure::of(Code::Certificate, &error))?;
        if *new.identity() != me.identity() {
            let what = format!("the certificate is {}'s, not {}'s", new.identity(), me.identity());
            return Err(Failure::new(Code::Certificate, what));
        }
        if new.crl_number() != number {
            let what = format!("revocation list {} was sent as number {number}", new.crl_number());
            return Err(Failure::new(Code::Certificate, what));
        }
        Ok(())
    }

    fn still_waiting(&self) -> Result<(), Failure> {
        match &*self.progress.borrow() {
            Progress::Waiting { tries: 0 } => Err(refused("this code is void after too many wrong proofs")),
            Progress::Waiting { .. } => Ok(()),
            Progress::Enrolled(me) => {
                Err(refused(format!("this code is used up: this server is {}", me.identity())))
            }
        }
    }

    fn wrong(&self) -> Failure {
        self.progress.send_modify(|progress| {
            if let Progress::Waiting { tries } = progress {
                *tries = tries.saturating_sub(1);
                tracing::warn!(tries_left = *tries, "wrong proof");
            }
        });
        refused("the proof is wrong")
            .remedy("compare the code, character by character, with what the agent printed")
    }
}

#[tonic::async_trait]
impl Enrollment for Candidate {
    async fn begin(
        &self,
        request: Request<wire::BeginEnrollmentRequest>,
    ) -> Result<Response<wire::BeginEnrollmentResponse>, Status> {
        Ok(Response::new(Self::begin(self, request.get_ref())?))
    }

    async fn complete(
        &self,
        request: Request<wire::CompleteEnrollmentRequest>,
    ) -> Result<Response<wire::CompleteEnrollmentResponse>, Status> {
        Self::complete(self, request.into_inner())?;
        Ok(Response::new(wire::CompleteEnrollmentResponse {}))
    }
}
