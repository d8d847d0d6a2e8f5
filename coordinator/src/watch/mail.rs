//! Telling by mail. The only place that speaks SMTP.

use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use secrecy::ExposeSecret as _;

use super::config::{self, Security};
use super::notice::Notice;
use super::post::{Channel, Undelivered};
use super::{SecretError, certificates, secret};
use crate::home::Home;

/// Receivers of mail, and how it gets to them.
#[derive(Debug)]
pub struct Mail {
    name: String,
    from: Mailbox,
    to: Vec<Mailbox>,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

/// Mail of a kind that nobody's holiday answers: RFC 3834.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

impl Mail {
    /// Reads what is in files; paths that are not absolute are those of the state directory.
    ///
    /// # Errors
    /// If a file does not do.
    pub fn open(config: &config::Mail, home: &Home) -> Result<Self, SecretError> {
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&config.server)
            .timeout(Some(config.timeout));
        let (tls, port) = match config.security {
            Security::None => (Tls::None, 25),
            Security::Starttls => (Tls::Required(parameters(config, home)?), 587),
            Security::Tls => (Tls::Wrapper(parameters(config, home)?), 465),
        };
        builder = builder.tls(tls).port(config.port.unwrap_or(port));
        if let (Some(user), Some(path)) = (&config.user, &config.password_file) {
            let password = secret(&home.dir.join(path))?;
            let password = password.expose_secret().to_owned();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(Self {
            name: config.name.clone(),
            from: config.from.clone(),
            to: config.to.clone(),
            transport: builder.build(),
        })
    }

    fn letter(&self, notice: &Notice) -> Result<Message, lettre::error::Error> {
        let mut builder = Message::builder()
            .from(self.from.clone())
            .subject(notice.subject())
            // However often it is delivered, it is shown once.
            .message_id(Some(format!("<{}@{}>", notice.id, self.from.email.domain())))
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            builder = builder.to(to.clone());
        }
        builder.body(notice.letter())
    }
}

fn parameters(config: &config::Mail, home: &Home) -> Result<TlsParameters, SecretError> {
    let mut parameters = TlsParameters::builder(config.server.clone());
    if let Some(path) = &config.ca_file {
        let path = home.dir.join(path);
        for certificate in certificates(&path)? {
            let certificate = Certificate::from_der(certificate)
                .map_err(|_| SecretError::Unfit { path: path.clone(), why: "a certificate in it is none" })?;
            parameters = parameters.add_root_certificate(certificate);
        }
    }
    let unfit = |_| SecretError::Unfit {
        path: config.ca_file.clone().unwrap_or_default(),
        why: "no TLS can be made with the certificates in it and those of this host",
    };
    parameters.build_rustls().map_err(unfit)
}

#[tonic::async_trait]
impl Channel for Mail {
    fn name(&self) -> &str {
        &self.name
    }

    async fn send(&self, notice: &Notice) -> Result<(), Undelivered> {
        let letter = self.letter(notice).map_err(|error| Undelivered::for_good(error.to_string()))?;
        match self.transport.send(letter).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let what = format!("{:#}", anyhow::Error::new(error));
                // Whether a 5xx is meant for ever is not believed at once: a full mailbox, a server that is being set up.
                Err(Undelivered::perhaps_later(what))
            }
        }
    }
}
