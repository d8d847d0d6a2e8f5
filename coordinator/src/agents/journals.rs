//! Copies of a run's journal: given to agents, and read from them.

use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use umsid_common::chain;
use umsid_common::name::{Role, RunId};
use umsid_proto::model::{Invalid, JournalCopy, JournalRecord, JournalSeal, LeaseRef};
use umsid_proto::wire::journals_client::JournalsClient;
use umsid_proto::{LARGEST_MESSAGE, wire};

use super::{Agent, AgentError, PROMPT, late, sorted};

/// More than any honest journal has; what an agent tells beyond is not listened to.
const RECORDS: usize = 10_000;

/// The same in bytes.
const BYTES: usize = 16 << 20;

impl Agent {
    fn journals_client(&self) -> JournalsClient<Channel> {
        JournalsClient::new(self.0.channel.clone())
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE)
    }

    /// Vouches for a record, and with it for all before, by the certificate we call this agent with.
    pub fn vouch(&self, run: &RunId, record: &mut JournalRecord) {
        let us = self.0.tls.current();
        let signature = us.sign(&chain::vouched(run, record.number, &record.link));
        record.seal = Some(JournalSeal { certificates: us.chain().to_vec(), signature });
    }

    /// Gives it what follows its copy of the lease's run; how far its copy goes then. The last record must be
    /// [vouched for](Agent::vouch).
    pub async fn keep_journal(
        &self,
        lease: &LeaseRef,
        records: Vec<JournalRecord>,
    ) -> Result<JournalCopy, AgentError> {
        let request = wire::KeepJournalRequest {
            lease: Some(lease.into()),
            records: records.into_iter().map(Into::into).collect(),
        };
        let answer = self.ask(PROMPT, self.journals_client().keep_journal(request)).await?;
        let copy: JournalCopy =
            answer.copy.ok_or_else(|| Invalid::new("copy", "it is missing"))?.try_into()?;
        if copy.run != lease.run {
            return Err(Invalid::new("copy.run", format!("it speaks of {}", copy.run)).into());
        }
        Ok(copy)
    }

    /// The copies it holds, oldest run first.
    pub async fn journals(&self) -> Result<Vec<JournalCopy>, AgentError> {
        let answer =
            self.ask(PROMPT, self.journals_client().list_journals(wire::ListJournalsRequest {})).await?;
        Ok(answer.copies.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
    }

    /// The records of a copy as far as a coordinator of our authority vouches for them. Whether they are a chain is not
    /// looked at.
    ///
    /// # Errors
    /// `Code::BadJournal` from the agent if its copy is damaged; [`AgentError::Nonsense`] if nobody vouches for it.
    pub async fn read_journal(&self, run: &RunId) -> Result<Vec<JournalRecord>, AgentError> {
        let request = wire::ReadJournalRequest { run: run.to_string() };
        let stream = self.ask(PROMPT, self.journals_client().read_journal(request)).await?;
        let mut stream = std::pin::pin!(stream.timeout(PROMPT));
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(next) = stream.next().await {
            let next = next.map_err(|_| late(&self.0.address, PROMPT))?;
            let record = JournalRecord::try_from(next.map_err(|status| sorted(&self.0.address, &status))?)?;
            bytes += record.text.len();
            if records.len() == RECORDS || bytes > BYTES {
                return Err(Invalid::new("journal", "it does not end").into());
            }
            records.push(record);
        }
        // What follows the last seal was cut off in the middle of being written.
        let sealed = records.iter().rposition(|record| record.seal.is_some()).map_or(0, |last| last + 1);
        records.truncate(sealed);
        if let Some(JournalRecord { number, link, seal: Some(seal), .. }) = records.last() {
            let message = chain::vouched(run, *number, link);
            let signer = self.0.tls.current().verify(&seal.certificates, &message, &seal.signature);
            let signer = signer.map_err(|error| {
                Invalid::new("journal.seal", format!("no coordinator of ours vouches for the copy: {error}"))
            })?;
            if !matches!(signer.role, Role::Coordinator(_)) {
                let why = format!("{signer} vouches for the copy, which is no coordinator");
                return Err(Invalid::new("journal.seal", why).into());
            }
        }
        Ok(records)
    }
}
