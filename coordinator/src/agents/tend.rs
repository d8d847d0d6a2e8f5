//! What an agent is given in passing: a newer revocation list, a new certificate.

use jiff::Timestamp;

use super::{Agent, AgentError, Agents};
use crate::authority::{Authority, AuthorityError};

/// What an agent was given in passing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// It had an older revocation list than we.
    pub trust_pushed: bool,
    /// It has a new certificate, good until then.
    pub renewed: Option<Timestamp>,
}

/// An agent could not be given what it needs. No reason to leave it alone: what it has is still good.
#[derive(Debug, thiserror::Error)]
pub enum TendError {
    /// By the agent or the connection.
    #[error("the agent did not take its new revocation list or certificate")]
    Agent(#[from] AgentError),
    /// By the certificate authority.
    #[error("the agent's certificate cannot be renewed")]
    Authority(#[from] AuthorityError),
}

impl Agents {
    /// Gives an agent what it lacks: a newer revocation list, and a new certificate where a third of its life or less is
    /// left and the authority can sign without asking for a passphrase.
    ///
    /// # Errors
    /// If the agent does not take it; it goes on with what it has.
    pub async fn tend(&self, agent: &Agent, authority: &Authority) -> Result<Tended, TendError> {
        let mut tended = Tended::default();
        let (crl_pem, crl_number) = authority.crl();
        if agent.hello().crl_number < crl_number {
            agent.push_trust(authority.anchors_pem(), &crl_pem, crl_number).await?;
            tended.trust_pushed = true;
        }
        if agent.hello().wants_renewal(Timestamp::now()) && authority.can_sign() {
            let csr = agent.begin_renewal().await?;
            let issued = authority.issue(&csr, &self.identity_of(agent.cluster(), agent.server()))?;
            tended.renewed = Some(agent.complete_renewal(&issued.certificate_pem).await?);
        }
        Ok(tended)
    }
}
