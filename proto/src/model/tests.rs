use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::failure::{Code, Failure};

fn id() -> OperationId {
    OperationId { run: RunId::new(Timestamp::UNIX_EPOCH), step: 3, attempt: 1 }
}

fn print(byte: u8) -> Fingerprint {
    Fingerprint::Sha256([byte; 32])
}

fn ums_ids() -> UmsIds {
    UmsIds {
        local: Some(print(1)),
        main: Some(Fingerprint::Sha1([2; 20])),
        evidence: vec![Evidence {
            source: EvidenceSource::List,
            label: Label::Local,
            fingerprint: print(1),
            subject: String::new(),
            line: "Local UMS ID 01…".into(),
        }],
        certificates: vec![CertificateSeen { sha256: print(1), sha1: Fingerprint::Sha1([1; 20]) }],
        raw: vec![RawOutput {
            command: "umsadmin-cli licensing list".into(),
            status: Some(0),
            ..RawOutput::default()
        }],
        reason: "labelled".into(),
    }
}

fn health() -> Health {
    Health {
        status: HealthStatus::Ok,
        source: "check-status".into(),
        detail: String::new(),
        ums_host: "ums1".into(),
        ums_uuid: String::new(),
    }
}

#[test]
fn what_an_agent_can_be_told_comes_back_as_it_went() {
    let digest = Digest::of(b"sealed");
    let recipient: Recipient =
        "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().expect("a recipient");
    for action in [
        Action::SafetyBackup,
        Action::Backup(Handover { recipients: vec![recipient], expected: Some(print(1)) }),
        Action::Restore {
            source: RestoreSource::Uploaded(digest),
            expected: Some(print(1)),
            source_server: "ums1".parse().expect("a name"),
            safety_net: digest,
            keeps_running: false,
        },
        Action::Restore {
            source: RestoreSource::SafetyBackup(digest),
            expected: None,
            source_server: "ums2".parse().expect("a name"),
            safety_net: digest,
            keeps_running: true,
        },
        Action::Restart { deadline_ms: Some(5) },
        Action::Restart { deadline_ms: None },
        Action::Discard,
    ] {
        let wire = wire::start_operation_request::What::from(action.clone());
        assert_eq!(Action::try_from(wire), Ok(action));
    }
}

#[test]
fn what_came_of_it_comes_back_as_it_went() {
    let process = ServiceProcess { pid: 7, started: Timestamp::UNIX_EPOCH };
    for result in [
        Ok(Success::BackedUp { digest: Digest::of(b""), size: 5, fingerprint: Some(print(9)) }),
        Ok(Success::Restored { ums_ids: ums_ids(), remarks: vec!["owner changed".into()] }),
        Ok(Success::Restarted {
            before: None,
            after: Some(process),
            health: health(),
            ums_ids: UmsIds::default(),
        }),
        Ok(Success::Discarded { files: 2 }),
        Err(Trouble::Failed {
            failure: Failure::new(Code::NoEffect, "nothing happened"),
            effect: Effect::Possible,
        }),
        Err(Trouble::Unknown("the file is half there".into())),
    ] {
        let outcome = Outcome { ums_ms: 12, result };
        let operation = Operation {
            id: id(),
            state: OperationState::Finished,
            outcome: Some(outcome.clone()),
            last_event: 4,
            kind: "restore".into(),
            recorded: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(Operation::try_from(wire::Operation::from(operation.clone())), Ok(operation));
        let event = Progress { index: 3, at: Timestamp::UNIX_EPOCH, what: Ok(outcome) };
        assert_eq!(Progress::try_from(wire::OperationEvent::from(event.clone())), Ok(event));
    }
}

#[test]
fn an_inspection_comes_back_as_it_went() {
    let inspection = Inspection {
        server: "ums1".parse().expect("a name"),
        cluster: "prod".parse().expect("a name"),
        agent_version: "0.1.0".into(),
        ums_version: Some("12.09.110".into()),
        ums_ids: ums_ids(),
        service: Service {
            control: "systemd igel-ums-server".into(),
            status: ServiceStatus::Running,
            process: Some(ServiceProcess { pid: 7, started: Timestamp::UNIX_EPOCH }),
            detail: String::new(),
        },
        health: health(),
        update_mode: Some(false),
        distributed: None,
        license: String::new(),
        clock: Timestamp::UNIX_EPOCH,
        disk: Some(Disk { free: 1, total: 2 }),
        certificate_not_after: Timestamp::UNIX_EPOCH,
        lease: Some(LeaseState {
            run: id().run,
            epoch: 4,
            holder: "anna".into(),
            since: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH,
        }),
        safety_backups: vec![SafetyBackup {
            digest: Digest::of(b"x"),
            size: 3,
            taken: Timestamp::UNIX_EPOCH,
            fingerprint: None,
            run: id().run,
        }],
        epoch: 4,
        ums_ms: 17,
        problems: vec!["no version file".into()],
        restart_due: true,
    };
    assert_eq!(Inspection::try_from(wire::Inspection::from(inspection.clone())), Ok(inspection));
}

#[test]
fn what_means_nothing_is_refused_and_names_the_field() {
    let refused =
        |what: wire::start_operation_request::What| Action::try_from(what).expect_err("refused").to_string();
    let restore = wire::Restore {
        source: Some(wire::restore::Source::Uploaded(vec![0; 31])),
        expected: None,
        source_server: "ums1".into(),
        safety_net: vec![0; 32],
        keeps_running: false,
    };
    assert_eq!(
        refused(wire::start_operation_request::What::Restore(restore.clone())),
        "restore.uploaded: 31 bytes where 32 are needed"
    );
    let elsewhere = wire::Restore {
        source: Some(wire::restore::Source::Uploaded(vec![0; 32])),
        source_server: "../etc".into(),
        ..restore
    };
    assert!(
        refused(wire::start_operation_request::What::Restore(elsewhere))
            .starts_with("restore.source_server: ")
    );
    let nobody = wire::Backup { handover: Some(wire::Handover::default()) };
    assert_eq!(
        refused(wire::start_operation_request::What::Backup(nobody)),
        "handover.recipients: it is empty"
    );
    let contradiction = wire::Operation {
        id: id().to_string(),
        state: wire::OperationState::Finished.into(),
        ..wire::Operation::default()
    };
    assert!(Operation::try_from(contradiction).is_err(), "finished without an outcome");
}

#[test]
fn what_another_machine_says_steers_no_terminal() {
    let evil = "a\u{1b}[2J\rb\u{9b}31m\u{7}\u{0}\u{202e}c\u{200b}";
    let shown = "a\u{fffd}[2J\u{fffd}b\u{fffd}31m\u{fffd}\u{fffd}\u{fffd}c\u{fffd}";
    assert_eq!(line(evil), shown);
    assert_eq!(lines(evil), shown);
    assert_eq!(line("done\nerror: pay\there"), "done error: pay here", "one line stays one");
    assert_eq!(lines("one\r\ntwo\tx\n"), "one\ntwo\tx\n");
    assert_eq!(line("Überprüfung läuft … 検証 ✓"), "Überprüfung läuft … 検証 ✓");
    assert_eq!(line(&"x".repeat(5000)).chars().count(), LONGEST_LINE + 1);
}

/// Whatever text a message has, none of it comes in as it is.
#[test]
fn no_text_comes_in_unseen() {
    let evil = || "\u{1b}]0;owned\u{7}".to_owned();
    let raw =
        || wire::RawOutput { command: evil(), status: None, stdout: evil(), stderr: evil(), problem: evil() };
    let health = || wire::Health {
        status: wire::HealthStatus::Ok.into(),
        source: evil(),
        detail: evil(),
        ums_host: evil(),
        ums_uuid: evil(),
    };
    let ids = || wire::UmsIds {
        reason: evil(),
        raw: vec![raw()],
        evidence: vec![wire::Evidence {
            source: wire::EvidenceSource::List.into(),
            fingerprint: Some(print(1).into()),
            subject: evil(),
            line: evil(),
            ..wire::Evidence::default()
        }],
        ..wire::UmsIds::default()
    };
    let lease =
        || wire::Lease { run: "20261122t204512-7f3a9c".into(), holder: evil(), ..wire::Lease::default() };
    let failure = || wire::Failure {
        code: evil(),
        causes: vec![evil()],
        remedy: evil(),
        raw: Some(raw()),
        held: Some(lease()),
    };
    let inspection = wire::Inspection {
        server: "ums1".into(),
        cluster: "acme".into(),
        agent_version: evil(),
        ums_version: evil(),
        ums_ids: Some(ids()),
        service: Some(wire::Service { control: evil(), detail: evil(), ..wire::Service::default() }),
        health: Some(health()),
        license: evil(),
        problems: vec![evil()],
        lease: Some(lease()),
        ..wire::Inspection::default()
    };
    let mut come_in = vec![format!("{:?}", Inspection::try_from(inspection).unwrap())];
    use wire::outcome::Result as Wire;
    let results = [
        Wire::Failed(wire::OperationFailure { failure: Some(failure()), effect: 0 }),
        Wire::Unknown(wire::OperationUnknown { finding: evil() }),
        Wire::Restored(wire::Restored { ums_ids: Some(ids()), remarks: vec![evil()] }),
        Wire::Restarted(wire::Restarted {
            before: None,
            after: None,
            health: Some(health()),
            ums_ids: Some(ids()),
        }),
    ];
    for result in results {
        let operation = wire::Operation {
            id: id().to_string(),
            state: wire::OperationState::Finished.into(),
            outcome: Some(wire::Outcome { ums_ms: 0, result: Some(result) }),
            kind: evil(),
            ..wire::Operation::default()
        };
        come_in.push(format!("{:?}", Operation::try_from(operation).unwrap()));
    }
    let phase = wire::operation_event::What::Phase(wire::Phase { text: evil(), deadline_unix_ms: 0 });
    let event = wire::OperationEvent { index: 1, at_unix_ms: 0, what: Some(phase) };
    come_in.push(format!("{:?}", Progress::try_from(event).unwrap()));
    come_in.push(format!("{:?}", crate::failure::Failure::from(&tonic::Status::internal(evil()))));
    for text in come_in {
        assert!(!text.contains("\\u{1b}") && !text.contains("\\u{7}"), "{text}");
    }
}

/// Whatever can be read means nothing, or the same after one more journey and after a stay in a journal.
fn lasts<W, M>(bytes: &[u8]) -> Result<(), TestCaseError>
where
    W: Message + Default + From<M>,
    M: TryFrom<W> + Clone + PartialEq + fmt::Debug + Serialize + for<'a> Deserialize<'a>,
{
    let Some(model) = W::decode(bytes).ok().and_then(|wire| M::try_from(wire).ok()) else { return Ok(()) };
    let json = serde_json::to_string(&model).expect("plain data");
    prop_assert_eq!(&serde_json::from_str::<M>(&json).expect("it was written"), &model);
    prop_assert_eq!(M::try_from(W::from(model.clone())).ok(), Some(model));
    Ok(())
}

fn all(bytes: &[u8]) -> Result<(), TestCaseError> {
    lasts::<wire::Inspection, Inspection>(bytes)?;
    lasts::<wire::UmsIds, UmsIds>(bytes)?;
    lasts::<wire::Operation, Operation>(bytes)?;
    lasts::<wire::OperationEvent, Progress>(bytes)?;
    lasts::<wire::Outcome, Outcome>(bytes)?;
    lasts::<wire::Failure, Failure>(bytes)?;
    lasts::<wire::Lease, LeaseState>(bytes)
}

fn messages() -> Vec<Vec<u8>> {
    let outcome = |result| wire::Outcome::from(Outcome { ums_ms: 12, result });
    let restored =
        outcome(Ok(Success::Restored { ums_ids: ums_ids(), remarks: vec!["owner changed".into()] }));
    let failure = Failure::new(Code::NoEffect, "nothing happened").raw(RawOutput::default());
    let failed = outcome(Err(Trouble::Failed { failure: failure.clone(), effect: Effect::Possible }));
    let operation = wire::Operation {
        id: id().to_string(),
        state: wire::OperationState::Finished.into(),
        outcome: Some(failed.clone()),
        ..wire::Operation::default()
    };
    vec![
        wire::UmsIds::from(ums_ids()).encode_to_vec(),
        restored.encode_to_vec(),
        failed.encode_to_vec(),
        operation.encode_to_vec(),
        wire::Failure::from(failure).encode_to_vec(),
    ]
}

proptest! {
    #[test]
    fn no_bytes_break_a_message(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        all(&bytes)?;
    }

    #[test]
    fn no_altered_message_breaks_what_it_means(
        message in prop::sample::select(messages()),
        slips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = message;
        for (at, byte) in slips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        all(&bytes)?;
    }
}
