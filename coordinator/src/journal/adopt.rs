//! Runs that come from the copies agents keep.

use umsid_common::name::RunId;
use umsid_proto::model::JournalRecord;

use super::{Journal, JournalError, RunLog};
use crate::database::Query;

impl Journal {
    /// A run as a copy has it, every link of its chain checked and every event found legal; not written down here.
    pub fn read_copy(&self, run: &RunId, records: &[JournalRecord]) -> Result<RunLog, JournalError> {
        let mut log = RunLog::empty(self, run);
        for record in records {
            log.admit(record.number, (record.text.clone(), record.link.to_string()))?;
        }
        if log.state.is_none() { Err(JournalError::Torn(run.clone())) } else { Ok(log) }
    }

    /// Writes down what a copy has of a run and this journal has not, all of it or nothing. What is here already, from the
    /// first event on, must be the beginning of the copy.
    pub async fn adopt(&self, log: &RunLog, here: usize) -> Result<(), JournalError> {
        let failed = self.failed("write");
        let mut change = self.database.begin().await.map_err(&failed)?;
        let plan = log.state().plan();
        let begun = log.events().first().map(|first| first.at.to_string()).unwrap_or_default();
        let run = Query::new(
            "INSERT INTO runs (run, cluster, kind, begun) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
        )
        .text(log.run().as_str())
        .text(plan.cluster.as_str())
        .text(plan.request.kind.as_str())
        .text(begun);
        change.execute(run).await.map_err(&failed)?;
        for record in log.records().iter().skip(here) {
            let (at, body) = record.text.split_once('\n').unwrap_or_default();
            let event =
                Query::new("INSERT INTO events (run, number, at, body, link) VALUES ($1, $2, $3, $4, $5)")
                    .text(log.run().as_str())
                    .number(record.number)
                    .text(at)
                    .text(body)
                    .text(record.link.to_string());
            change.execute(event).await.map_err(&failed)?;
        }
        change.commit().await.map_err(&failed)
    }
}
