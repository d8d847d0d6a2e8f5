use umsid_proto::failure::Code;
use umsid_proto::model::{Action, HealthStatus, OperationState, Success};
use umsid_proto::wire;
use umsid_testkit::Ca;

use crate::fake_ums::{FakeUms, print_of};
use crate::house::{
    OTHER_RUN, Person, RUN, SOON, Server, code_of, digest_of, failure_of, handover, lease, step,
};

#[tokio::test]
async fn the_same_id_never_has_a_second_effect() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    server.ums.restarting.shut();
    let restart = Action::Restart { deadline_ms: None };
    line.start(&step(1), restart.clone()).await.unwrap();
    server.ums.restarting.reached().await;
    // While it is going on, and after it is done, under a higher epoch too.
    let again = line.start(&step(1), restart.clone()).await.unwrap();
    assert_eq!(again.state(), wire::OperationState::Started);
    server.ums.restarting.open();
    line.result(&step(1)).await.unwrap();
    line.acquire(RUN, 2).await.unwrap();
    let again = line.start_under(&step(1), lease(RUN, 2), restart.clone()).await.unwrap();
    assert_eq!(again.state(), wire::OperationState::Finished);
    running.kill().await;

    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    let again = line.start_under(&step(1), lease(RUN, 2), restart).await.unwrap();
    assert_eq!(again.state(), wire::OperationState::Finished);
    assert_eq!(FakeUms::count(&server.ums.counts.restart), 1);
    let other = line.start_under(&step(1), lease(RUN, 2), Action::Discard).await;
    assert_eq!(code_of(other), Code::OperationConflict);
    running.kill().await;
}

#[tokio::test]
async fn a_server_that_has_come_up_since_is_not_restarted_again() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let attempt = |number: u32| format!("{RUN}.7.{number}");
    let restart = || Action::Restart { deadline_ms: None };
    let counts = || {
        let counts = &server.ums.counts;
        (FakeUms::count(&counts.restart), FakeUms::count(&counts.await_restarted))
    };
    server.ums.set(|state| state.fail_restart = true);
    let (code, _) = failure_of(line.perform(&attempt(1), restart()).await);
    assert_eq!(code, Code::NotHealthy);
    // It is the process of before: there is nothing to wait for.
    failure_of(line.perform(&attempt(2), restart()).await);
    assert_eq!(counts(), (2, 0));
    server.ums.replace_process();
    let before = server.ums.state.lock().unwrap().process;
    // Another, and not well: waiting did not help, a restart may.
    server.ums.set(|state| state.health = HealthStatus::Err);
    failure_of(line.perform(&attempt(3), restart()).await);
    assert_eq!(counts(), (3, 0));
    server.ums.replace_process();
    server.ums.set(|state| state.health = HealthStatus::Ok);
    match line.perform(&attempt(4), restart()).await {
        Ok(Success::Restarted { before: told, .. }) => assert_eq!(told, Some(before)),
        other => panic!("{other:?}"),
    }
    assert_eq!(counts(), (3, 1));
    // Another step wants a restart of its own.
    server.ums.set(|state| state.fail_restart = false);
    line.perform(&step(8), restart()).await.unwrap();
    assert_eq!(counts(), (4, 1));
    running.kill().await;
}

#[tokio::test]
async fn there_is_one_operation_at_a_time() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    server.ums.backing_up.shut();
    line.start(&step(1), Action::SafetyBackup).await.unwrap();
    server.ums.backing_up.reached().await;
    assert_eq!(code_of(line.start(&step(2), Action::Discard).await), Code::Busy);
    assert!(server.record(&step(2)).is_none());

    // Whoever looks meanwhile is not made to wait, and runs no program beside it.
    let inspect = line.agent.inspect(wire::InspectRequest { quick: false });
    let inspection = tokio::time::timeout(SOON, inspect).await.unwrap().unwrap().into_inner();
    assert!(inspection.ums_ids.unwrap().local.is_none());
    assert!(inspection.problems.iter().any(|problem| problem.contains("an operation is going on")));

    server.ums.backing_up.open();
    line.result(&step(1)).await.unwrap();
    line.start(&step(2), Action::Discard).await.unwrap();
    running.kill().await;
}

#[tokio::test]
async fn events_are_told_from_any_index_and_to_whoever_comes_back() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let anna = Person::coordinator(&ca);
    let mut line = anna.call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    server.ums.backing_up.shut();
    line.start(&step(1), Action::SafetyBackup).await.unwrap();
    server.ums.backing_up.reached().await;
    // The connection is lost; the operation is not.
    drop(line);
    let mut line = anna.call(&server, &running).await;
    let watch = wire::WatchOperationRequest { id: step(1), from_event: 2 };
    let mut stream = line.operations.watch_operation(watch).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().index, 2);
    server.ums.backing_up.open();
    let all = line.events(&step(1), 0).await;
    assert_eq!(
        all.iter().map(|event| event.index).collect::<Vec<_>>(),
        (1..=all.len() as u64).collect::<Vec<_>>()
    );
    let last = all.last().unwrap();
    assert!(last.what.is_ok() && all.iter().filter(|event| event.what.is_ok()).count() == 1);
    assert_eq!(line.events(&step(1), last.index).await, std::slice::from_ref(last));
    assert_eq!(
        line.events(&step(1), last.index + 5).await,
        std::slice::from_ref(last),
        "nobody waits for what never comes"
    );
    running.kill().await;

    let running = server.start().await;
    assert_eq!(anna.call(&server, &running).await.events(&step(1), 0).await, all);
    running.kill().await;
}

#[tokio::test]
async fn what_is_on_record_can_be_listed() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.safety_backup().await;
    line.perform(&step(2), Action::Restart { deadline_ms: Some(9) }).await.unwrap();
    let list = async |run: &str| {
        let mut line = line.clone();
        let request = wire::ListOperationsRequest { run: run.into() };
        line.operations.list_operations(request).await.unwrap().into_inner().operations
    };
    let operations = list("").await;
    assert_eq!(
        operations.iter().map(|operation| operation.id.clone()).collect::<Vec<_>>(),
        [step(1), step(2)]
    );
    assert_eq!(operations[1].kind, "restart");
    let operation: umsid_proto::model::Operation = operations[1].clone().try_into().unwrap();
    assert_eq!(operation.state, OperationState::Finished);
    assert_eq!(list(RUN).await.len(), 2);
    assert!(list(OTHER_RUN).await.is_empty());
    let unknown = wire::WatchOperationRequest { id: step(9), from_event: 0 };
    assert_eq!(code_of(line.operations.watch_operation(unknown).await), Code::NotFound);
    running.kill().await;
}

#[tokio::test]
async fn whatever_programs_print_the_outcome_and_the_list_get_through() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    server.ums.set(|state| state.output = "ä".repeat(2 << 20));
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    for number in 1..=40 {
        line.perform(&step(number), Action::Restart { deadline_ms: None }).await.unwrap();
    }
    let list = line.operations.list_operations(wire::ListOperationsRequest::default()).await;
    assert_eq!(list.unwrap().into_inner().operations.len(), 40);
    let inspection = line.agent.inspect(wire::InspectRequest { quick: false }).await.unwrap().into_inner();
    assert!(inspection.ums_ids.unwrap().raw[0].stdout.len() > 1000);
    running.kill().await;
}

#[tokio::test]
async fn a_handover_needs_the_ums_id_of_the_plan() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "main-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let to = [server.recipient()];
    let wrong = line.perform(&step(1), handover(&to, "another-id")).await;
    assert_eq!(failure_of(wrong), (Code::WrongIdentity, umsid_proto::model::Effect::None));
    assert_eq!(FakeUms::count(&server.ums.counts.back_up), 0);

    // It changes under our hands.
    server.ums.backing_up.shut();
    line.start(&step(2), handover(&to, "main-id")).await.unwrap();
    server.ums.backing_up.reached().await;
    server.ums.set(|state| state.local = "another-id".into());
    server.ums.backing_up.open();
    assert_eq!(failure_of(line.result(&step(2)).await).0, Code::WrongIdentity);
    assert!(server.files("spool").is_empty(), "{:?}", server.files("spool"));

    // Where the evidence settles nothing, the coordinator has decided.
    server.ums.set(|state| state.tells = false);
    match line.perform(&step(3), handover(&to, "main-id")).await {
        Ok(Success::BackedUp { fingerprint, .. }) => assert_eq!(fingerprint, None),
        other => panic!("{other:?}"),
    }
    server.ums.set(|state| {
        state.tells = true;
        state.local = "main-id".into();
    });
    match line.perform(&step(4), handover(&to, "main-id")).await {
        Ok(Success::BackedUp { fingerprint, .. }) => assert_eq!(fingerprint, Some(print_of("main-id"))),
        other => panic!("{other:?}"),
    }
    running.kill().await;
}

#[tokio::test]
async fn nothing_of_a_backup_is_left_in_the_open() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    let net = line.safety_backup().await;
    let handed_over = digest_of(line.perform(&step(2), handover(&[server.recipient()], "own-id")).await);
    assert!(server.files("work").is_empty(), "{:?}", server.files("work"));
    assert_eq!(server.files("vault"), [format!("{net}.age")]);
    assert_eq!(server.files("spool"), [format!("{handed_over}.age"), format!("{handed_over}.json")]);
    let passwords = server.ums.passwords.lock().unwrap().clone();
    assert_eq!(passwords.len(), 2);
    assert_ne!(passwords[0], passwords[1]);
    for password in passwords {
        let found = find(server.dir.path(), password.as_bytes());
        assert!(found.is_empty(), "{found:?}");
    }

    let inspection = line.agent.inspect(wire::InspectRequest { quick: true }).await.unwrap().into_inner();
    assert_eq!(inspection.safety_backups.len(), 1);
    assert_eq!(inspection.safety_backups[0].digest, net.as_bytes());

    match line.perform(&step(3), Action::Discard).await {
        Ok(Success::Discarded { files }) => assert_eq!(files, 1),
        other => panic!("{other:?}"),
    }
    assert!(server.files("spool").is_empty());
    assert_eq!(server.files("vault"), [format!("{net}.age")]);
    running.kill().await;
}

/// The files below this directory that hold these bytes.
fn find(dir: &std::path::Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(find(&path, needle));
        } else if std::fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle) {
            found.push(path);
        }
    }
    found
}
