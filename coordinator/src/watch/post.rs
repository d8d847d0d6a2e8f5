//! Getting notices to those who are to have them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use jiff::Timestamp;

use super::SecretError;
use super::book::{Book, BookError};
use super::config::Config;
use super::mail::Mail;
use super::notice::Notice;
use super::webhook::Webhook;
use crate::home::Home;

/// The first pause between two attempts; every next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A notice that did not get there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Undelivered {
    /// Why; without the receiver's address.
    pub what: String,
    /// Whether trying again in a moment may help.
    pub perhaps_later: bool,
}

impl Undelivered {
    pub(super) fn perhaps_later(what: String) -> Self {
        Self { what, perhaps_later: true }
    }

    pub(super) fn for_good(what: String) -> Self {
        Self { what, perhaps_later: false }
    }
}

/// A way to tell somebody.
#[tonic::async_trait]
pub trait Channel: Send + Sync {
    /// What it is called in the configuration.
    fn name(&self) -> &str;

    /// Tries once.
    async fn send(&self, notice: &Notice) -> Result<(), Undelivered>;
}

struct Receiver {
    channel: Box<dyn Channel>,
    attempts: u32,
}

/// Everybody who is to be told.
#[derive(Clone, Default)]
pub struct Post {
    receivers: Arc<Vec<Receiver>>,
}

impl Post {
    /// Those of a configuration.
    ///
    /// # Errors
    /// If a file with a secret or certificates does not do.
    pub fn open(config: &Config, home: &Home) -> Result<Self, SecretError> {
        let mut receivers = Vec::new();
        for webhook in &config.webhook {
            let channel = Box::new(Webhook::open(webhook, home)?);
            receivers.push(Receiver { channel, attempts: webhook.attempts });
        }
        for mail in &config.mail {
            let channel = Box::new(Mail::open(mail, home)?);
            receivers.push(Receiver { channel, attempts: mail.attempts });
        }
        Ok(Self { receivers: Arc::new(receivers) })
    }

    /// What they are called.
    pub fn names(&self) -> BTreeSet<String> {
        self.receivers.iter().map(|receiver| receiver.channel.name().to_owned()).collect()
    }

    /// Delivers all that is due, to all at once, to each in its order; gives how many notices are left for those who could
    /// not be reached.
    ///
    /// # Errors
    /// If the book cannot be written.
    pub async fn deliver(&self, book: &Book) -> Result<usize, BookError> {
        let to_all = self.receivers.iter().map(|receiver| receiver.deliver(book));
        futures_util::future::try_join_all(to_all).await?;
        book.sweep(&self.names(), Timestamp::now())
    }

    /// Sends this to all, once and unrecorded; gives who has not got it, and why.
    pub async fn try_out(&self, notice: &Notice) -> Vec<(String, Result<(), Undelivered>)> {
        let to_all = self
            .receivers
            .iter()
            .map(async |receiver| (receiver.channel.name().to_owned(), receiver.channel.send(notice).await));
        futures_util::future::join_all(to_all).await
    }
}

impl Receiver {
    async fn deliver(&self, book: &Book) -> Result<(), BookError> {
        let name = self.channel.name();
        for notice in book.due_for(name) {
            let pace = ExponentialBuilder::default()
                .with_min_delay(FIRST_PAUSE)
                .with_max_delay(LONGEST_PAUSE)
                .with_max_times(usize::try_from(self.attempts.saturating_sub(1)).unwrap_or(usize::MAX));
            let sent = (async || self.channel.send(&notice).await)
                .retry(pace)
                .when(|error| error.perhaps_later)
                .notify(|error, pause| {
                    tracing::warn!(receiver = name, notice = notice.id, "{error}; again in {pause:?}");
                })
                .await;
            match sent {
                Ok(()) => book.done(&notice.id, name)?,
                Err(error) => {
                    tracing::error!(
                        receiver = name,
                        notice = notice.id,
                        text = notice.text,
                        "not delivered: {error}"
                    );
                    // Where nobody answers, those behind it would fare no better.
                    if error.perhaps_later {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
