//! Starting operations, watching them, and what is on record.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use umsid_proto::LARGEST_MESSAGE;
use umsid_proto::model::{Action, named, required};
use umsid_proto::wire;

use super::{caller, decoded, lease};
use crate::host::blocking;
use crate::operations::{Entry, Operations};

/// Room left in a message for what surrounds its items.
const MARGIN: usize = 16 << 10;

/// Who takes no event for this long is told no more; whoever it is may come back.
const UNREAD: Duration = Duration::from_secs(30);

pub(crate) struct OperationsRpc {
    pub(crate) operations: Arc<Operations>,
}

#[tonic::async_trait]
impl wire::operations_server::Operations for OperationsRpc {
    async fn start_operation(
        &self,
        request: Request<wire::StartOperationRequest>,
    ) -> Result<Response<wire::Operation>, Status> {
        let caller = caller(&request);
        let wire = request.into_inner();
        let id = decoded(named("id", &wire.id))?;
        let lease = lease(wire.lease)?;
        let action: Action = decoded(required("what", wire.what).and_then(TryInto::try_into))?;
        let operations = self.operations.clone();
        let operation = blocking(move || operations.start(&id, &lease, action, caller)).await?;
        Ok(Response::new(operation.into()))
    }

    type WatchOperationStream = ReceiverStream<Result<wire::OperationEvent, Status>>;

    async fn watch_operation(
        &self,
        request: Request<wire::WatchOperationRequest>,
    ) -> Result<Response<Self::WatchOperationStream>, Status> {
        let wire::WatchOperationRequest { id, from_event } = request.into_inner();
        let entry = self.operations.entry(&decoded(named("id", &id))?)?;
        let (events, told) = mpsc::channel(16);
        tokio::spawn(tell(entry, from_event, events));
        Ok(Response::new(ReceiverStream::new(told)))
    }

    async fn list_operations(
        &self,
        request: Request<wire::ListOperationsRequest>,
    ) -> Result<Response<wire::ListOperationsResponse>, Status> {
        let run = request.into_inner().run;
        let run = if run.is_empty() { None } else { Some(decoded(named("run", &run))?) };
        let operations = self.operations.list(run.as_ref()).into_iter().map(Into::into).collect();
        Ok(Response::new(wire::ListOperationsResponse { operations: fitting(operations) }))
    }
}

/// Tells the events from this index on, up to the outcome, as long as somebody listens.
async fn tell(entry: Arc<Entry>, from: u64, events: mpsc::Sender<Result<wire::OperationEvent, Status>>) {
    let mut more = entry.watch();
    let mut next = from;
    loop {
        more.mark_unchanged();
        let (new, finished) = entry.events(next);
        for event in new {
            next = event.index + 1;
            if events.send_timeout(Ok(event.into()), UNREAD).await.is_err() {
                return;
            }
        }
        if finished {
            return;
        }
        tokio::select! {
            () = events.closed() => return,
            changed = more.changed() => if changed.is_err() { return },
        }
    }
}

/// As many as fit into a message: without what programs printed, if it must be, and then the newest.
fn fitting(mut operations: Vec<wire::Operation>) -> Vec<wire::Operation> {
    let size = |operations: &[wire::Operation]| -> usize {
        operations.iter().map(|operation| operation.encoded_len() + 8).sum()
    };
    if size(&operations) > LARGEST_MESSAGE - MARGIN {
        operations.iter_mut().for_each(without_output);
    }
    let mut room = LARGEST_MESSAGE - MARGIN;
    let fitting = operations.iter().rev().take_while(|operation| {
        let left = room.checked_sub(operation.encoded_len() + 8);
        room = left.unwrap_or_default();
        left.is_some()
    });
    let surplus = operations.len() - fitting.count();
    operations.drain(..surplus);
    operations
}

fn without_output(operation: &mut wire::Operation) {
    use wire::outcome::Result as Wire;
    match operation.outcome.as_mut().and_then(|outcome| outcome.result.as_mut()) {
        Some(Wire::Restored(wire::Restored { ums_ids: Some(ids), .. }))
        | Some(Wire::Restarted(wire::Restarted { ums_ids: Some(ids), .. })) => {
            ids.raw.clear();
            ids.evidence.clear();
        }
        Some(Wire::Failed(wire::OperationFailure { failure: Some(failure), .. })) => failure.raw = None,
        _ => {}
    }
}
