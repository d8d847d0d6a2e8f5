//! Messages of the contract, and what the receiving side makes of them. The first byte says which message.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use umsid_proto::failure::Failure;
use umsid_proto::{model, wire};

/// A message that can be read can be written and read again.
fn message<W: Message + Default + PartialEq + Clone + Debug>(bytes: &[u8]) -> Option<W> {
    let read = W::decode(bytes).ok()?;
    assert_eq!(W::decode(read.encode_to_vec().as_slice()).as_ref(), Ok(&read));
    Some(read)
}

/// What a message means is what it meant after one more journey, and after a stay in a journal.
fn meaning<W, M>(bytes: &[u8])
where
    W: Message + Default + PartialEq + Clone + Debug + From<M>,
    M: TryFrom<W> + Clone + PartialEq + Debug + Serialize + DeserializeOwned,
{
    if let Some(model) = message::<W>(bytes).and_then(|wire| M::try_from(wire).ok()) {
        lasting(&model);
        assert_eq!(M::try_from(W::from(model.clone())).ok(), Some(model));
    }
}

fn lasting<M: PartialEq + Debug + Serialize + DeserializeOwned>(model: &M) {
    let text = serde_json::to_string(model).expect("plain data");
    assert_eq!(&serde_json::from_str::<M>(&text).expect("what was written can be read"), model);
}

fn start(bytes: &[u8]) {
    let Some(request) = message::<wire::StartOperationRequest>(bytes) else { return };
    let Some(what) = request.what else { return };
    if let Ok(action) = model::Action::try_from(what) {
        lasting(&action);
        let back = wire::start_operation_request::What::from(action.clone());
        assert_eq!(model::Action::try_from(back), Ok(action));
    }
}

fn record(bytes: &[u8]) {
    let Some(wire) = message::<wire::JournalRecord>(bytes) else { return };
    if let Ok(record) = model::JournalRecord::try_from(wire) {
        let back = wire::JournalRecord::from(record.clone());
        assert_eq!(model::JournalRecord::try_from(back), Ok(record));
    }
}

/// Whatever stands in a status, some failure comes out that says something.
fn status(bytes: &[u8]) {
    let code = tonic::Code::from_i32(i32::from(bytes.first().copied().unwrap_or_default() % 17));
    let details = bytes.get(1..).unwrap_or_default().to_vec();
    let failure = Failure::from(&tonic::Status::with_details(code, "said", details.into()));
    assert!(!failure.causes.is_empty());
    lasting(&failure);
    let status = tonic::Status::from(failure.clone());
    assert!(status.details().len() < 16 << 10 || failure.remedy.len() + failure.causes.len() > 1);
    assert_eq!(Failure::from(&status).code, failure.code);
}

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 30 {
        0 => meaning::<wire::Inspection, model::Inspection>(bytes),
        1 => meaning::<wire::UmsIds, model::UmsIds>(bytes),
        2 => meaning::<wire::Operation, model::Operation>(bytes),
        3 => meaning::<wire::OperationEvent, model::Progress>(bytes),
        4 => meaning::<wire::Outcome, model::Outcome>(bytes),
        5 => meaning::<wire::Failure, Failure>(bytes),
        6 => meaning::<wire::Lease, model::LeaseState>(bytes),
        7 => start(bytes),
        8 => status(bytes),
        9 => drop(message::<wire::HelloRequest>(bytes)),
        10 => drop(message::<wire::HelloResponse>(bytes)),
        11 => drop(message::<wire::AcquireLeaseRequest>(bytes)),
        12 => drop(message::<wire::RenewLeaseRequest>(bytes)),
        13 => drop(message::<wire::ReleaseLeaseRequest>(bytes)),
        14 => drop(message::<wire::PushTrustRequest>(bytes)),
        15 => drop(message::<wire::BeginRenewalResponse>(bytes)),
        16 => drop(message::<wire::CompleteRenewalRequest>(bytes)),
        17 => drop(message::<wire::BeginEnrollmentRequest>(bytes)),
        18 => drop(message::<wire::BeginEnrollmentResponse>(bytes)),
        19 => drop(message::<wire::CompleteEnrollmentRequest>(bytes)),
        20 => drop(message::<wire::WatchOperationRequest>(bytes)),
        21 => drop(message::<wire::ListOperationsResponse>(bytes)),
        22 => drop(message::<wire::DownloadRequest>(bytes)),
        23 => drop(message::<wire::Chunk>(bytes)),
        24 => drop(message::<wire::UploadMessage>(bytes)),
        25 => drop(message::<wire::UploadResponse>(bytes)),
        26 => drop(message::<wire::KeepJournalRequest>(bytes)),
        27 => drop(message::<wire::KeepJournalResponse>(bytes)),
        28 => drop(message::<wire::ListJournalsResponse>(bytes)),
        _ => record(bytes),
    }
});
