//! Telling by HTTP. The only place that calls one.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::config;
use super::notice::Notice;
use super::post::{Channel, Undelivered};
use super::{SecretError, certificates, secret};
use crate::home::Home;

/// When the request was made, in seconds of Unix time.
pub const TIMESTAMP: &str = "X-Umsid-Timestamp";
/// By whom: see [`signature`].
pub const SIGNATURE: &str = "X-Umsid-Signature";
/// The notice's id, the same for every attempt.
pub const DELIVERY: &str = "X-Umsid-Delivery";

/// A receiver, ready to be called.
#[derive(Clone)]
pub struct Webhook {
    name: String,
    url: SecretString,
    secret: Option<SecretString>,
    agent: ureq::Agent,
}

/// `sha256=` and the HMAC-SHA256, in hexadecimal, of the timestamp, a full stop, and the body.
pub fn signature(secret: &SecretString, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
        .expect("a key of HMAC may have any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("sha256={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
}

impl Webhook {
    /// Reads what is in files; paths that are not absolute are those of the state directory.
    ///
    /// # Errors
    /// If a file does not do.
    pub fn open(config: &config::Webhook, home: &Home) -> Result<Self, SecretError> {
        let url = match (&config.url, &config.url_file) {
            (Some(url), _) => SecretString::from(url.clone()),
            (None, Some(path)) => {
                let path = home.dir.join(path);
                let url = secret(&path)?;
                if let Some(why) = config::unfit_address(url.expose_secret()) {
                    return Err(SecretError::Unfit { path, why });
                }
                url
            }
            (None, None) => SecretString::default(),
        };
        let key = config.secret_file.as_ref().map(|path| secret(&home.dir.join(path))).transpose()?;
        let secure = url.expose_secret().starts_with("https:");
        let mut builder = ureq::Agent::config_builder()
            .timeout_global(Some(config.timeout))
            // What comes from elsewhere is not followed to somewhere else.
            .max_redirects(0)
            .http_status_as_error(false)
            .https_only(secure)
            .user_agent(concat!("umsid/", env!("CARGO_PKG_VERSION")));
        if secure {
            let mut roots: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
                .certs
                .iter()
                .map(|certificate| Certificate::from_der(certificate).to_owned())
                .collect();
            if let Some(path) = &config.ca_file {
                let more = certificates(&home.dir.join(path))?;
                roots.extend(more.iter().map(|certificate| Certificate::from_der(certificate).to_owned()));
            }
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::Specific(Arc::new(roots)))
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
            builder = builder.tls_config(tls.build());
        } else {
            // It is on this host.
            builder = builder.proxy(None);
        }
        Ok(Self { name: config.name.clone(), url, secret: key, agent: builder.build().new_agent() })
    }

    fn call(&self, notice: &Notice) -> Result<(), Undelivered> {
        let body = serde_json::to_vec(notice).map_err(|error| Undelivered::for_good(error.to_string()))?;
        let timestamp = Timestamp::now().as_second().to_string();
        let mut request = self
            .agent
            .post(self.url.expose_secret())
            .header("Content-Type", "application/json")
            .header(DELIVERY, &notice.id)
            .header(TIMESTAMP, &timestamp);
        if let Some(secret) = &self.secret {
            request = request.header(SIGNATURE, signature(secret, &timestamp, &body));
        }
        match request.send(&body) {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let what = format!("it answered {status}");
                // 408, 425, 429: later, please.
                let later = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
                Err(if later { Undelivered::perhaps_later(what) } else { Undelivered::for_good(what) })
            }
            Err(error) => Err(of_error(&error)),
        }
    }
}

/// What is said must not have the address in it, which may be a secret.
fn of_error(error: &ureq::Error) -> Undelivered {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => {
            Undelivered::for_good("its address does not do".to_owned())
        }
        ureq::Error::Rustls(error) => Undelivered::for_good(format!("no TLS with it: {error}")),
        // TLS fails inside a read or a write.
        ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            Undelivered::for_good(format!("no TLS with it: {error}"))
        }
        other => Undelivered::perhaps_later(other.to_string()),
    }
}

#[tonic::async_trait]
impl Channel for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    async fn send(&self, notice: &Notice) -> Result<(), Undelivered> {
        let (webhook, notice) = (self.clone(), notice.clone());
        let sent = tokio::task::spawn_blocking(move || webhook.call(&notice)).await;
        sent.unwrap_or_else(|error| Err(Undelivered::perhaps_later(error.to_string())))
    }
}

/// Nothing of the address and the key.
impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_others_compute() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key
        let signature = signature(&SecretString::from("key"), "1700000000", b"{\"a\":1}");
        assert_eq!(signature, EXPECTED);
    }

    const EXPECTED: &str = "sha256=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03";
}
