//! Copies of journals: keeping, listing, reading.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use umsid_common::name::RunId;
use umsid_proto::failure::Failure;
use umsid_proto::model::{Invalid, JournalRecord, named};
use umsid_proto::wire;

use super::{decoded, lease};
use crate::host::{Host, blocking};

pub(crate) struct JournalsRpc {
    pub(crate) host: Arc<Host>,
}

#[tonic::async_trait]
impl wire::journals_server::Journals for JournalsRpc {
    async fn keep_journal(
        &self,
        request: Request<wire::KeepJournalRequest>,
    ) -> Result<Response<wire::KeepJournalResponse>, Status> {
        let wire::KeepJournalRequest { lease: held, records } = request.into_inner();
        let lease = lease(held)?;
        let records: Result<Vec<JournalRecord>, Invalid> =
            records.into_iter().map(TryInto::try_into).collect();
        let (records, host) = (decoded(records)?, self.host.clone());
        let copy = blocking(move || {
            let trust = host.tls.current();
            host.journals.keep(&host.leases, &lease, &records, &trust)
        });
        let copy = copy.await.map_err(Failure::from)?;
        Ok(Response::new(wire::KeepJournalResponse { copy: Some(copy.into()) }))
    }

    async fn list_journals(
        &self,
        _request: Request<wire::ListJournalsRequest>,
    ) -> Result<Response<wire::ListJournalsResponse>, Status> {
        let copies = self.host.journals.list().into_iter().map(Into::into).collect();
        Ok(Response::new(wire::ListJournalsResponse { copies }))
    }

    type ReadJournalStream = tokio_stream::Iter<std::vec::IntoIter<Result<wire::JournalRecord, Status>>>;

    async fn read_journal(
        &self,
        request: Request<wire::ReadJournalRequest>,
    ) -> Result<Response<Self::ReadJournalStream>, Status> {
        let run: RunId = decoded(named("run", &request.into_inner().run))?;
        let host = self.host.clone();
        let records = blocking(move || host.journals.read(&run)).await.map_err(Failure::from)?;
        let records: Vec<_> = records.into_iter().map(|record| Ok(record.into())).collect();
        Ok(Response::new(tokio_stream::iter(records)))
    }
}
