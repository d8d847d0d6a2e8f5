use std::time::Duration;

use umsid_proto::failure::{Code, Failure};
use umsid_proto::model::Action;
use umsid_proto::wire;
use umsid_testkit::Ca;

use crate::house::{OTHER_RUN, Person, RUN, Server, code_of, lease, step};

#[tokio::test]
async fn a_second_run_is_told_who_is_there() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    let refusal = line.acquire(OTHER_RUN, 2).await.unwrap_err();
    let failure = Failure::from(&refusal);
    assert_eq!(failure.code, Code::LeaseHeld);
    let held = failure.held.expect("the lease in the way");
    assert_eq!((held.run.as_str(), held.epoch), (RUN, 1));
    assert_eq!(held.holder, "coordinator anna (anna@admin1)");

    let inspection = line.agent.inspect(wire::InspectRequest { quick: true }).await.unwrap().into_inner();
    assert_eq!(inspection.lease.unwrap().run, RUN);
    assert_eq!(inspection.epoch, 1);

    let release = wire::ReleaseLeaseRequest { run: RUN.into(), epoch: 1 };
    line.agent.release_lease(release).await.unwrap();
    line.acquire(OTHER_RUN, 2).await.unwrap();
    running.kill().await;
}

#[tokio::test]
async fn of_two_runs_at_once_one_gets_the_lease() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let line = Person::coordinator(&ca).call(&server, &running).await;
    let (mut one, mut two) = (line.clone(), line);
    let (one, two) = tokio::join!(one.acquire(RUN, 1), two.acquire(OTHER_RUN, 1));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    running.kill().await;
}

#[tokio::test]
async fn a_server_of_another_cluster_grants_nothing() {
    let ca = Ca::new("test");
    let server = Server::in_cluster(&ca, "umbrella", "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    assert_eq!(code_of(line.acquire(RUN, 1).await), Code::WrongCluster);
    running.kill().await;
}

#[tokio::test]
async fn whoever_does_not_hold_the_lease_changes_nothing() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    assert_eq!(code_of(line.start(&step(1), Action::SafetyBackup).await), Code::LeaseLost);
    assert_eq!(code_of(line.upload(RUN, b"x").await), Code::LeaseLost);
    let nothing = umsid_common::digest::Digest::of(b"");
    assert_eq!(code_of(line.download(lease(RUN, 1), nothing).await), Code::LeaseLost);
    let renew = wire::RenewLeaseRequest { run: RUN.into(), epoch: 1 };
    assert_eq!(code_of(line.agent.renew_lease(renew).await), Code::LeaseLost);

    line.acquire(RUN, 5).await.unwrap();
    assert_eq!(code_of(line.start(&step(1), Action::SafetyBackup).await), Code::StaleEpoch);
    assert_eq!(code_of(line.upload(RUN, b"x").await), Code::StaleEpoch);
    assert_eq!(code_of(line.download(lease(RUN, 4), nothing).await), Code::StaleEpoch);
    let release = wire::ReleaseLeaseRequest { run: RUN.into(), epoch: 4 };
    assert_eq!(code_of(line.agent.release_lease(release).await), Code::StaleEpoch);
    assert_eq!(code_of(line.acquire(RUN, 4).await), Code::StaleEpoch);
    let foreign = line.start_under(&step(1), lease(OTHER_RUN, 5), Action::SafetyBackup).await;
    assert_eq!(code_of(foreign), Code::InvalidRequest);
    assert!(server.files("operations").is_empty());
    running.kill().await;
}

#[tokio::test]
async fn a_lease_runs_out_unless_an_operation_is_going_on() {
    let ca = Ca::new("test");
    let mut server = Server::new(&ca, "ums1", "own-id");
    server.deadlines.longest_lease = Duration::from_millis(150);
    server.deadlines.shortest_lease = Duration::from_millis(150);
    let running = server.start().await;
    let mut line = Person::coordinator(&ca).call(&server, &running).await;
    line.acquire(RUN, 1).await.unwrap();
    server.ums.backing_up.shut();
    line.start(&step(1), Action::SafetyBackup).await.unwrap();
    server.ums.backing_up.reached().await;
    // Far beyond its time: the clock is the agent's own, there is nothing else to wait for.
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(code_of(line.acquire(OTHER_RUN, 2).await), Code::LeaseHeld);
    let release = wire::ReleaseLeaseRequest { run: RUN.into(), epoch: 1 };
    assert_eq!(code_of(line.agent.release_lease(release).await), Code::Busy);
    server.ums.backing_up.open();
    line.result(&step(1)).await.unwrap();
    assert_eq!(code_of(line.start(&step(2), Action::SafetyBackup).await), Code::LeaseLost);
    line.acquire(OTHER_RUN, 2).await.unwrap();
    assert_eq!(code_of(line.start(&step(2), Action::SafetyBackup).await), Code::StaleEpoch);
    running.kill().await;
}

#[tokio::test]
async fn a_restarted_agent_keeps_the_lease_and_the_epoch() {
    let ca = Ca::new("test");
    let server = Server::new(&ca, "ums1", "own-id");
    let anna = Person::coordinator(&ca);
    let running = server.start().await;
    anna.call(&server, &running).await.acquire(RUN, 3).await.unwrap();
    running.kill().await;
    let running = server.start().await;
    let mut line = anna.call(&server, &running).await;
    assert_eq!(code_of(line.acquire(OTHER_RUN, 4).await), Code::LeaseHeld);
    assert_eq!(code_of(line.acquire(RUN, 2).await), Code::StaleEpoch);
    line.acquire(RUN, 3).await.unwrap();
    line.acquire(RUN, 4).await.unwrap();
    running.kill().await;
}
