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
        },
        Action::Restore {
            source: RestoreSource::SafetyBackup(digest),
            expected: None,
            source_server: "ums2".parse().expect("a name"),
            safety_net: digest,
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
