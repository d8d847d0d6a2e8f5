//! The agent killed at every point of every operation, and started again on the same state directory.

use std::sync::atomic::Ordering;
use std::time::Duration;

use umsid_common::digest::Digest;
use umsid_common::durable::{self, Access};
use umsid_proto::failure::Code;
use umsid_proto::model::{Action, Effect, RestoreSource, ServiceStatus, Success, Trouble};
use umsid_proto::wire;
use umsid_testkit::{Ca, wait_for};

use crate::fake_ums::{FakeUms, Gate, print_of};
use crate::house::{
    Line, OTHER_RUN, Person, RUN, Running, SOON, Server, code_of, failure_of, lease, restore, step,
};

struct Scene {
    ca: Ca,
    server: Server,
    net: Digest,
}

impl Scene {
    /// A server with two safety backups; the newer is of `main-id`, and can be restored.
    async fn new() -> (Self, Running, Line) {
        let ca = Ca::new("test");
        let server = Server::new(&ca, "ums2", "main-id");
        let running = server.start().await;
        let mut line = Person::coordinator(&ca).call(&server, &running).await;
        let net = line.safety_backup().await;
        server.ums.set(|state| state.local = "own-id".into());
        (Self { ca, server, net }, running, line)
    }

    fn restore(&self) -> Action {
        restore(RestoreSource::SafetyBackup(self.net), "main-id", "ums2", self.net)
    }

    /// Starts an operation, kills the agent at this gate, and starts it again.
    async fn killed_at(
        &self,
        running: Running,
        mut line: Line,
        action: Action,
        gate: &Gate,
    ) -> (Running, Line) {
        gate.shut();
        line.start(&step(2), action).await.unwrap();
        gate.reached().await;
        running.kill().await;
        assert_ne!(self.server.record(&step(2)).unwrap()["started"], serde_json::Value::Null);
        gate.open();
        self.again().await
    }

    async fn again(&self) -> (Running, Line) {
        let running = self.server.start().await;
        let line = Person::coordinator(&self.ca).call(&self.server, &running).await;
        (running, line)
    }
}

#[tokio::test]
async fn a_backup_is_interrupted_without_effect() {
    let (scene, running, line) = Scene::new().await;
    let (running, mut line) =
        scene.killed_at(running, line, Action::SafetyBackup, &scene.server.ums.backing_up).await;
    assert_eq!(failure_of(line.result(&step(2)).await), (Code::Interrupted, Effect::None));
    assert_eq!(FakeUms::count(&scene.server.ums.counts.back_up), 2, "it is not begun again by itself");
    assert!(scene.server.files("work").is_empty());
    // And then work goes on.
    line.perform(&step(3), Action::SafetyBackup).await.unwrap();
    running.kill().await;
}

#[tokio::test]
async fn a_restore_that_went_on_without_the_agent_is_found_done() {
    let (scene, running, line) = Scene::new().await;
    *scene.server.ums.finishes_later.lock().unwrap() = Some("main-id".into());
    let (running, mut line) =
        scene.killed_at(running, line, scene.restore(), &scene.server.ums.restoring).await;
    match line.result(&step(2)).await {
        Ok(Success::Restored { ums_ids, remarks }) => {
            assert_eq!(ums_ids.local, Some(print_of("main-id")));
            assert!(remarks[0].contains("the agent was stopped"), "{remarks:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(FakeUms::count(&scene.server.ums.counts.await_end), 1);
    // The id is used up.
    let again = line.start(&step(2), scene.restore()).await.unwrap();
    assert_eq!(again.state(), wire::OperationState::Finished);
    assert_eq!(FakeUms::count(&scene.server.ums.counts.restore), 1);
    running.kill().await;
}

#[tokio::test]
async fn a_restore_that_did_nothing_is_found_undone() {
    let (scene, running, line) = Scene::new().await;
    let (running, mut line) =
        scene.killed_at(running, line, scene.restore(), &scene.server.ums.restoring).await;
    assert_eq!(failure_of(line.result(&step(2)).await), (Code::Interrupted, Effect::None));
    assert_eq!(FakeUms::count(&scene.server.ums.counts.restore), 1);
    line.perform(&step(3), scene.restore()).await.unwrap();
    running.kill().await;
}

/// Stopped for a restore that then did nothing, the UMS Server is not as it was; where no restart follows, the next attempt
/// starts it, which finds it stopped.
#[tokio::test]
async fn a_ums_server_that_an_interrupted_restore_has_stopped_is_not_forgotten() {
    for keeps_running in [true, false] {
        let (scene, running, line) = Scene::new().await;
        let ums = &scene.server.ums;
        let Action::Restore { source, expected, source_server, safety_net, .. } = scene.restore() else {
            unreachable!()
        };
        let action = Action::Restore { source, expected, source_server, safety_net, keeps_running };
        ums.restoring.shut();
        let mut line = line;
        line.start(&step(2), action.clone()).await.unwrap();
        ums.restoring.reached().await;
        running.kill().await;
        ums.set(|state| state.status = ServiceStatus::Stopped);
        ums.restoring.open();
        let (running, mut line) = scene.again().await;
        assert_eq!(failure_of(line.result(&step(2)).await), (Code::Interrupted, Effect::Possible));

        line.perform(&format!("{RUN}.2.2"), action).await.unwrap();
        assert_eq!(FakeUms::count(&ums.counts.restart), u32::from(keeps_running));
        running.kill().await;
    }
}

#[tokio::test]
async fn a_restore_whose_program_never_began_had_no_effect() {
    let (scene, running, line) = Scene::new().await;
    let (running, mut line) =
        scene.killed_at(running, line, scene.restore(), &scene.server.ums.before_restoring).await;
    assert_eq!(failure_of(line.result(&step(2)).await), (Code::Interrupted, Effect::None));
    assert_eq!(FakeUms::count(&scene.server.ums.counts.await_end), 0);
    running.kill().await;
}

#[tokio::test]
async fn a_restore_of_which_nothing_can_be_said_is_unknown() {
    for (id, tells) in [("third-id", true), ("main-id", false)] {
        let (scene, running, line) = Scene::new().await;
        *scene.server.ums.finishes_later.lock().unwrap() = Some(id.into());
        let gate = &scene.server.ums.restoring;
        gate.shut();
        let mut line = line;
        line.start(&step(2), scene.restore()).await.unwrap();
        gate.reached().await;
        running.kill().await;
        scene.server.ums.set(|state| state.tells = tells);
        let (running, mut line) = scene.again().await;
        match line.result(&step(2)).await {
            Err(Trouble::Unknown(finding)) => assert!(finding.contains("the agent was stopped"), "{finding}"),
            other => panic!("{id} {other:?}"),
        }
        running.kill().await;
    }
}

#[tokio::test]
async fn a_restart_that_happened_is_found_done_and_not_repeated() {
    let (scene, running, line) = Scene::new().await;
    let ums = &scene.server.ums;
    ums.restarting.shut();
    let mut line = line;
    line.start(&step(2), Action::Restart { deadline_ms: None }).await.unwrap();
    ums.restarting.reached().await;
    running.kill().await;
    ums.replace_process();
    let (running, mut line) = scene.again().await;
    match line.result(&step(2)).await {
        Ok(Success::Restarted { before, after, .. }) => {
            assert_eq!((before.unwrap().pid, after.unwrap().pid), (1000, 1001));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(FakeUms::count(&ums.counts.restart), 1);
    running.kill().await;
}

#[tokio::test]
async fn a_restart_that_did_not_happen_is_found_undone() {
    let (scene, running, line) = Scene::new().await;
    let restart = Action::Restart { deadline_ms: None };
    let (running, mut line) = scene.killed_at(running, line, restart, &scene.server.ums.restarting).await;
    assert_eq!(failure_of(line.result(&step(2)).await), (Code::Interrupted, Effect::None));
    assert_eq!(FakeUms::count(&scene.server.ums.counts.restart), 1);
    assert_eq!(FakeUms::count(&scene.server.ums.counts.await_restarted), 0);
    running.kill().await;
}

#[tokio::test]
async fn a_restart_that_goes_on_without_the_agent_is_waited_for() {
    let (mut scene, running, line) = Scene::new().await;
    scene.server.deadlines.program = Duration::from_secs(77);
    let ums = &scene.server.ums;
    ums.restarts_later.store(true, Ordering::SeqCst);
    let restart = Action::Restart { deadline_ms: None };
    let (running, mut line) = scene.killed_at(running, line, restart, &ums.restarting).await;
    match line.result(&step(2)).await {
        Ok(Success::Restarted { before, after, .. }) => {
            assert_eq!((before.unwrap().pid, after.unwrap().pid), (1000, 1001));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(FakeUms::count(&ums.counts.await_end), 1);
    assert_eq!(*ums.patience.lock().unwrap(), Some(Duration::from_secs(77)));
    assert_eq!(FakeUms::count(&ums.counts.restart), 1);
    running.kill().await;
}

/// No process was found before the restart: that one is there afterwards does not make it a new one.
#[tokio::test]
async fn a_process_that_was_there_and_not_seen_is_not_taken_for_a_new_one() {
    let (scene, running, mut line) = Scene::new().await;
    let ums = &scene.server.ums;
    ums.set(|state| state.status = ServiceStatus::Stopped);
    ums.before_restarting.shut();
    line.start(&step(2), Action::Restart { deadline_ms: None }).await.unwrap();
    ums.before_restarting.reached().await;
    running.kill().await;
    ums.before_restarting.open();
    ums.set(|state| state.status = ServiceStatus::Running);
    let (running, mut line) = scene.again().await;
    assert_eq!(failure_of(line.result(&step(2)).await), (Code::Interrupted, Effect::None));
    // Nor when another attempt looks whether it has come up since.
    let again = format!("{RUN}.2.2");
    line.perform(&again, Action::Restart { deadline_ms: None }).await.unwrap();
    assert_eq!(FakeUms::count(&ums.counts.restart), 2);
    assert_eq!(FakeUms::count(&ums.counts.await_restarted), 0);
    running.kill().await;
}

/// Kills the agent in a restart whose program is not on record, and looks what comes of it in a server of this status.
async fn without_program(
    status: ServiceStatus,
    replaced: bool,
    patience: Duration,
) -> Result<Success, Trouble> {
    let (mut scene, running, mut line) = Scene::new().await;
    scene.server.deadlines.restart = patience;
    let ums = scene.server.ums.clone();
    ums.before_restarting.shut();
    line.start(&step(2), Action::Restart { deadline_ms: None }).await.unwrap();
    ums.before_restarting.reached().await;
    running.kill().await;
    ums.set(|state| state.status = status);
    ums.at_work.store(true, Ordering::SeqCst);
    let (running, mut line) = scene.again().await;
    if replaced {
        line.told(&step(2), "restarted after all").await;
        ums.set(|state| state.status = ServiceStatus::Running);
        ums.replace_process();
    }
    let result = line.result(&step(2)).await;
    assert_eq!(FakeUms::count(&ums.counts.await_end), 0);
    assert_eq!(FakeUms::count(&ums.counts.restart), 1);
    running.kill().await;
    result
}

#[tokio::test]
async fn a_restart_whose_program_is_not_on_record_is_waited_for() {
    for status in [ServiceStatus::Running, ServiceStatus::Changing] {
        let result = without_program(status, true, SOON).await;
        assert!(matches!(result, Ok(Success::Restarted { .. })), "{status:?} {result:?}");
    }
    let short = Duration::from_millis(300);
    let running = without_program(ServiceStatus::Running, false, short).await;
    assert_eq!(failure_of(running), (Code::Interrupted, Effect::None));
    let changing = without_program(ServiceStatus::Changing, false, short).await;
    assert_eq!(failure_of(changing), (Code::Interrupted, Effect::Possible));
}

#[tokio::test]
async fn where_no_program_is_at_work_nothing_is_waited_for() {
    let (scene, running, mut line) = Scene::new().await;
    let ums = &scene.server.ums;
    ums.before_restarting.shut();
    line.start(&step(2), Action::Restart { deadline_ms: None }).await.unwrap();
    ums.before_restarting.reached().await;
    running.kill().await;
    let (running, mut line) = scene.again().await;
    assert_eq!(failure_of(line.result(&step(2)).await), (Code::Interrupted, Effect::None));
    let record = scene.server.record(&step(2)).unwrap()["events"].to_string();
    assert!(!record.contains("restarted after all"), "{record}");
    running.kill().await;
}

/// The agent died between the start of the program and the record of which process it is.
#[tokio::test]
async fn a_restore_whose_program_is_not_on_record_is_waited_for() {
    let (scene, running, mut line) = Scene::new().await;
    let ums = &scene.server.ums;
    ums.before_restoring.shut();
    line.start(&step(2), scene.restore()).await.unwrap();
    ums.before_restoring.reached().await;
    running.kill().await;
    ums.at_work.store(true, Ordering::SeqCst);
    let (running, mut line) = scene.again().await;
    line.told(&step(2), "waiting for the restore to end").await;
    ums.at_work.store(false, Ordering::SeqCst);
    assert_eq!(failure_of(line.result(&step(2)).await), (Code::Interrupted, Effect::None));
    assert_eq!(FakeUms::count(&ums.counts.restore), 1);
    running.kill().await;
}

#[tokio::test]
async fn a_server_found_stopped_is_waited_for() {
    let (scene, running, line) = Scene::new().await;
    let ums = &scene.server.ums;
    ums.restarting.shut();
    let mut line = line;
    line.start(&step(2), Action::Restart { deadline_ms: None }).await.unwrap();
    ums.restarting.reached().await;
    running.kill().await;
    ums.set(|state| state.status = ServiceStatus::Stopped);
    let (running, mut line) = scene.again().await;
    line.result(&step(2)).await.unwrap();
    assert_eq!(FakeUms::count(&ums.counts.await_restarted), 1);
    assert_eq!(FakeUms::count(&ums.counts.restart), 1);
    running.kill().await;
}

#[tokio::test]
async fn an_operation_accepted_but_never_begun_is_told_so() {
    let (scene, running, line) = Scene::new().await;
    // It waits for its turn, which an inspection has.
    let ums = &scene.server.ums;
    ums.recovering.shut();
    let mut looking = line.clone();
    let look =
        tokio::spawn(async move { looking.agent.inspect(wire::InspectRequest { quick: false }).await });
    ums.recovering.reached().await;
    let mut line = line;
    line.start(&step(2), scene.restore()).await.unwrap();
    running.kill().await;
    drop(look);
    assert_eq!(scene.server.record(&step(2)).unwrap()["started"], serde_json::Value::Null);
    ums.recovering.open();
    let (running, mut line) = scene.again().await;
    assert_eq!(failure_of(line.result(&step(2)).await), (Code::Interrupted, Effect::None));
    assert_eq!(FakeUms::count(&ums.counts.restore), 0);
    running.kill().await;
}

#[tokio::test]
async fn while_the_truth_is_sought_the_agent_answers_and_begins_nothing() {
    let (scene, running, mut line) = Scene::new().await;
    let ums = &scene.server.ums;
    ums.restoring.shut();
    line.start(&step(2), scene.restore()).await.unwrap();
    ums.restoring.reached().await;
    running.kill().await;
    ums.recovering.shut();
    let (running, mut line) = scene.again().await;
    assert_eq!(code_of(line.start(&step(3), Action::Discard).await), Code::Busy);
    assert_eq!(code_of(line.acquire(OTHER_RUN, 2).await), Code::LeaseHeld);
    let release = wire::ReleaseLeaseRequest { run: RUN.into(), epoch: 1 };
    assert_eq!(code_of(line.agent.release_lease(release).await), Code::Busy);
    line.agent.inspect(wire::InspectRequest { quick: true }).await.unwrap();
    let started = line.start(&step(2), scene.restore()).await.unwrap();
    assert_eq!(started.state(), wire::OperationState::Started);
    ums.recovering.open();
    assert!(line.result(&step(2)).await.is_err());
    line.perform(&step(3), Action::Discard).await.unwrap();
    running.kill().await;
}

/// Whether it was the outcome or what came before that was torn, it says what it said last.
#[tokio::test]
async fn a_record_torn_at_its_end_says_what_it_said_before() {
    let (scene, running, mut line) = Scene::new().await;
    line.perform(&step(2), scene.restore()).await.unwrap();
    running.kill().await;
    let path = scene.server.dir.path().join(format!("operations/{}.json", step(2)));
    let whole = std::fs::read_to_string(&path).unwrap();
    durable::replace(&path, &whole.as_bytes()[..whole.len() - 20], Access::Private).unwrap();
    let (running, mut line) = scene.again().await;
    let found = line.result(&step(2)).await;
    assert!(matches!(found, Ok(Success::Restored { .. })), "found out anew: {found:?}");
    assert_eq!(FakeUms::count(&scene.server.ums.counts.restore), 1);
    let outcome = line.outcome(&step(2)).await;
    running.kill().await;
    // As agents wrote it that are older: one line, without an end.
    let last = std::fs::read_to_string(&path).unwrap().lines().last().unwrap().to_owned();
    durable::replace(&path, last.as_bytes(), Access::Private).unwrap();
    let (running, mut line) = scene.again().await;
    assert_eq!(line.outcome(&step(2)).await, outcome);
    running.kill().await;
    // A whole line that means nothing is no torn one.
    durable::replace(&path, format!("{last}\n{{\n").as_bytes(), Access::Private).unwrap();
    assert!(scene.server.try_start().is_err());
    // Of one that was just being accepted nothing was begun, however far its first line came: whoever asks for it again begins it.
    let accepted = whole.lines().next().unwrap();
    assert!(accepted.contains("\"started\":null"), "{accepted}");
    let (short, long) = (&accepted.as_bytes()[..30], &accepted.as_bytes()[..accepted.len() - 1]);
    let nothing = vec![0; 200];
    let filled = [short, &nothing].concat();
    for torn in [short, long, b"", &nothing, &filled] {
        durable::replace(&path, torn, Access::Private).unwrap();
        let (running, mut line) = scene.again().await;
        let known = line.operations.list_operations(wire::ListOperationsRequest::default()).await.unwrap();
        assert!(known.into_inner().operations.iter().all(|operation| operation.id != step(2)));
        running.kill().await;
    }
    // One that says it was begun is damaged, if it is not whole.
    durable::replace(&path, &last.as_bytes()[..last.len() - 1], Access::Private).unwrap();
    assert!(scene.server.try_start().is_err());
}

#[tokio::test]
async fn no_event_index_is_told_twice() {
    let (scene, running, mut line) = Scene::new().await;
    let ums = &scene.server.ums;
    // What is told of a backup, once it has begun, is nowhere but in memory.
    ums.backing_up.shut();
    line.start(&step(2), Action::SafetyBackup).await.unwrap();
    ums.backing_up.reached().await;
    let told = line.operations.list_operations(wire::ListOperationsRequest::default()).await.unwrap();
    let last = told.into_inner().operations.pop().unwrap().last_event;
    running.kill().await;
    ums.backing_up.open();
    let (running, mut line) = scene.again().await;
    let events = line.events(&step(2), 0).await;
    let told_since = events.iter().filter(|event| event.index > last);
    assert!(told_since.count() >= 2, "what was found out, and the outcome: {events:?}");
    assert!(events.is_sorted_by(|one, next| one.index < next.index), "{events:?}");
    assert!(line.events(&step(2), last + 1).await.len() >= 2, "whoever watched on misses nothing");
    assert!(events.last().unwrap().what.is_ok());
    running.kill().await;
}

#[tokio::test]
async fn an_agent_told_to_stop_lets_the_operation_end() {
    let (scene, mut running, mut line) = Scene::new().await;
    let ums = &scene.server.ums;
    ums.restoring.shut();
    line.start(&step(2), scene.restore()).await.unwrap();
    ums.restoring.reached().await;
    let watching = tokio::spawn(async move { line.result(&step(2)).await });
    running.tell_to_stop();
    wait_for("the agent to accept no more", SOON, || async {
        let anna = Person::coordinator(&scene.ca);
        anna.try_call(&scene.server, &running).await.is_err().then_some(())
    })
    .await;
    assert!(!running.has_stopped());
    ums.restoring.open();
    assert!(watching.await.unwrap().is_ok());
    wait_for("the agent to stop", SOON, || async { running.has_stopped().then_some(()) }).await;
    running.kill().await;
    let (running, mut line) = scene.again().await;
    assert!(line.result(&step(2)).await.is_ok());
    line.start_under(&step(3), lease(RUN, 1), Action::Discard).await.unwrap();
    running.stop().await;
}
