//! Every operation carried out twice, as a coordinator does that does not know whether the first attempt came to its
//! end: what is there afterwards is what is there after once. And asked for twice by one id, it is carried out once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use serde_json::Value;
use umsid_common::digest::Digest;
use umsid_common::durable;
use umsid_common::seal::{self, SealKey, Trust};
use umsid_proto::model::{Action, Effect, Operation, RestoreSource, Success, Trouble};
use umsid_proto::wire;
use umsid_testkit::{Ca, scratch};

use crate::fake_ums::FakeUms;
use crate::house::{Line, Person, RUN, Running, Server, handover, restore, step};
use crate::restore::Forged;

/// Kinds of operations, and for each what leads to it and ends with it. A new kind does not compile without.
macro_rules! cases {
    ($($kind:pat => $case:ident),+ $(,)?) => {
        const CASES: &[(&str, fn(&Stage) -> Vec<Action>)] = &[$((stringify!($case), $case)),+];

        fn case_of(action: &Action) -> &'static str {
            match action {
                $($kind => stringify!($case)),+
            }
        }
    };
}

cases! {
    Action::SafetyBackup => safety_backup,
    Action::Backup(_) => backup_for_others,
    Action::Restore { source: RestoreSource::Uploaded(_), .. } => restore_of_what_was_uploaded,
    Action::Restore { source: RestoreSource::SafetyBackup(_), .. } => restore_of_its_own,
    Action::Restart { .. } => restart,
    Action::Discard => discard,
}

fn safety_backup(_: &Stage) -> Vec<Action> {
    vec![Action::SafetyBackup]
}

fn backup_for_others(stage: &Stage) -> Vec<Action> {
    vec![handover(&[stage.server.recipient()], "own-id")]
}

fn restore_of_what_was_uploaded(stage: &Stage) -> Vec<Action> {
    vec![stage.restore_main()]
}

fn restore_of_its_own(stage: &Stage) -> Vec<Action> {
    vec![stage.restore_main(), stage.restore_own()]
}

fn restart(stage: &Stage) -> Vec<Action> {
    vec![stage.restore_main(), RESTART]
}

fn discard(stage: &Stage) -> Vec<Action> {
    vec![handover(&[stage.server.recipient()], "own-id"), Action::Discard]
}

const RESTART: Action = Action::Restart { deadline_ms: None };

/// The attempt at a step.
fn attempt(step: u32, attempt: u32) -> String {
    format!("{RUN}.{step}.{attempt}")
}

/// A target with its safety backup from step 1 and Main's UMS ID uploaded.
struct Stage {
    ca: Ca,
    server: Server,
    net: Digest,
    main: Digest,
}

impl Stage {
    async fn new() -> (Self, Running, Line) {
        let ca = Ca::new("test");
        let server = Server::new(&ca, "ums2", "own-id");
        let running = server.start().await;
        let mut line = Person::coordinator(&ca).call(&server, &running).await;
        let net = line.safety_backup().await;
        let main = line.upload(RUN, &Forged::new(&ca, &server).seal()).await.unwrap();
        (Self { ca, server, net, main }, running, line)
    }

    fn restore_main(&self) -> Action {
        restore(RestoreSource::Uploaded(self.main), "main-id", "ums1", self.net)
    }

    fn restore_own(&self) -> Action {
        restore(RestoreSource::SafetyBackup(self.net), "own-id", "ums2", self.net)
    }

    /// The agent stops and starts: what it knows then is what is on disk.
    async fn again(&self, running: Running) -> (Running, Line) {
        running.stop().await;
        let running = self.server.start().await;
        let line = Person::coordinator(&self.ca).call(&self.server, &running).await;
        (running, line)
    }

    /// How often the UMS was asked to change something, or to hand its UMS ID out.
    fn deeds(&self) -> [u32; 3] {
        let counts = &self.server.ums.counts;
        [&counts.back_up, &counts.restore, &counts.restart].map(FakeUms::count)
    }

    /// What is in a sealed file: whose UMS ID, made where.
    fn sealed(&self, path: &str) -> String {
        let dir = self.server.dir.path();
        let key = SealKey::load(&dir.join("seal.key")).unwrap();
        let into = scratch();
        let file = File::open(dir.join(path)).unwrap();
        let opened = seal::open(file, &key, &Trust::OwnVault, into.path(), 1 << 20).unwrap();
        let content = std::fs::read_to_string(&opened.backup).unwrap();
        format!("{} of {}", content.lines().next().unwrap(), opened.manifest.source)
    }

    /// The sealed files in vault and spool.
    fn sealed_files(&self) -> BTreeSet<String> {
        let of = |place: &'static str| {
            let names = self.server.files(place).into_iter().filter(|name| name.ends_with(".age"));
            names.map(move |name| format!("{place}/{name}"))
        };
        of("vault").chain(of("spool")).collect()
    }

    async fn end(&self, line: &mut Line) -> End {
        let look = wire::InspectRequest { quick: true };
        let inspection = line.agent.inspect(look).await.unwrap().into_inner();
        let list = line.operations.list_operations(wire::ListOperationsRequest::default()).await;
        let mut steps = BTreeMap::new();
        // By their order: the last attempt at a step is what counts.
        for operation in list.unwrap().into_inner().operations {
            let operation = Operation::try_from(operation).unwrap();
            let outcome = operation.outcome.unwrap_or_else(|| panic!("{} has no outcome", operation.id));
            steps.insert(operation.id.step, told(&outcome.result));
        }
        let mut lease: Value =
            serde_json::from_slice(&std::fs::read(self.server.dir.path().join("lease.json")).unwrap())
                .unwrap();
        lease["held"].as_object_mut().expect("it is held").remove("since");
        let sealed = self.sealed_files().into_iter().map(|path| {
            let note = self.server.dir.path().join(&path).with_extension("json");
            let note = durable::read_optional(&note).unwrap().unwrap_or_else(|| b"null".to_vec());
            let note: Value = serde_json::from_slice(&note).unwrap();
            let place = path.split('/').next().unwrap();
            format!("{place}: {}, {} in run {}", self.sealed(&path), note["origin"], note["run"])
        });
        End {
            ums_id: self.server.ums.local(),
            restart_due: inspection.restart_due,
            problems: inspection.problems,
            sealed: sealed.collect(),
            work: self.server.files("work"),
            lease,
            steps,
        }
    }
}

/// How things stand at the end. What only tells the attempts apart is left out: digests, times, process ids.
#[derive(Debug, PartialEq)]
struct End {
    ums_id: String,
    restart_due: bool,
    problems: Vec<String>,
    sealed: BTreeSet<String>,
    work: Vec<String>,
    lease: Value,
    /// What came of each step.
    steps: BTreeMap<u32, String>,
}

fn told(result: &Result<Success, Trouble>) -> String {
    match result {
        Ok(Success::BackedUp { fingerprint, .. }) => format!("backed up {fingerprint:?}"),
        Ok(Success::Restored { ums_ids, remarks }) => format!("restored {:?}, {remarks:?}", ums_ids.local),
        Ok(Success::Restarted { health, ums_ids, .. }) => {
            format!("restarted: {:?} with {:?}", health.status, ums_ids.local)
        }
        Ok(Success::Discarded { .. }) => "discarded".to_owned(),
        Err(trouble) => format!("{trouble:?}"),
    }
}

/// Carries out what leads to the operation, and then it, so many times.
async fn carried_out(lead: fn(&Stage) -> Vec<Action>, times: u32) -> (Stage, Running, Line) {
    let (stage, running, mut line) = Stage::new().await;
    let actions = lead(&stage);
    let (action, before) = actions.split_last().unwrap();
    for (number, action) in (2..).zip(before) {
        line.perform(&step(number), action.clone()).await.unwrap();
    }
    let number = 2 + u32::try_from(before.len()).unwrap();
    for time in 1..=times {
        let (done, kept) = (stage.deeds(), stage.sealed_files());
        let success = line.perform(&attempt(number, time), action.clone()).await.unwrap();
        let deeds: u32 = stage.deeds().iter().sum::<u32>() - done.iter().sum::<u32>();
        // Discarding asks nothing of the UMS; and a server that has come up since is not restarted once more.
        let needless = *action == Action::Discard || *action == RESTART && time > 1;
        assert_eq!(deeds, u32::from(!needless), "attempt {time} at {}", case_of(action));
        let now = stage.sealed_files();
        match success {
            Success::BackedUp { digest, .. } => {
                assert!(now.iter().any(|path| path.ends_with(&format!("/{digest}.age"))), "{now:?}");
            }
            Success::Discarded { files } => assert_eq!(files, if time == 1 { 2 } else { 0 }),
            Success::Restored { .. } | Success::Restarted { .. } => {}
        }
        // What the attempt before made may be in use already.
        let lost: Vec<_> = kept.difference(&now).collect();
        assert!(*action == Action::Discard || lost.is_empty(), "lost by attempt {time}: {lost:?}");
    }
    let (running, line) = stage.again(running).await;
    (stage, running, line)
}

#[tokio::test]
async fn carried_out_twice_every_operation_leaves_what_it_leaves_carried_out_once() {
    for (name, lead) in CASES {
        let mut ends = Vec::new();
        for times in [1, 2] {
            let (stage, running, mut line) = carried_out(*lead, times).await;
            assert_eq!(case_of(lead(&stage).last().unwrap()), *name);
            let end = stage.end(&mut line).await;
            assert!(end.problems.is_empty(), "{name}: {:?}", end.problems);
            assert!(end.work.is_empty(), "{name}: {:?}", end.work);

            // And from there the way back is open, and everything can be cleared away.
            line.perform(&step(50), stage.restore_own()).await.unwrap();
            line.perform(&step(51), RESTART).await.unwrap();
            line.perform(&step(52), Action::Discard).await.unwrap();
            assert_eq!(stage.server.ums.local(), "own-id");
            assert!(stage.server.files("spool").is_empty(), "{name}: {:?}", stage.server.files("spool"));
            ends.push((end, stage.end(&mut line).await));
            running.kill().await;
        }
        assert_eq!(ends[1], ends[0], "{name}, twice");
    }
}

/// Everything in the state directory, and what was done to the UMS.
fn effects(stage: &Stage) -> (BTreeMap<String, Vec<u8>>, [u32; 3]) {
    let mut files = BTreeMap::new();
    for place in ["operations", "vault", "spool", "work"] {
        for name in stage.server.files(place) {
            let content = std::fs::read(stage.server.dir.path().join(place).join(&name)).unwrap();
            files.insert(format!("{place}/{name}"), content);
        }
    }
    (files, stage.deeds())
}

#[tokio::test]
async fn asked_for_twice_by_one_id_every_operation_is_carried_out_once() {
    for (name, lead) in CASES {
        let (stage, running, mut line) = carried_out(*lead, 1).await;
        let actions = lead(&stage);
        let (id, action) = (step(1 + u32::try_from(actions.len()).unwrap()), actions.last().unwrap());
        // The effect of a second time would be another one now.
        line.upload(RUN, &Forged::new(&stage.ca, &stage.server).seal()).await.unwrap();
        stage.server.ums.set(|state| state.local = "third-id".into());
        let (before, outcome) = (effects(&stage), line.outcome(&id).await);
        let asked = |operation: wire::Operation| {
            assert_eq!(operation.state(), wire::OperationState::Finished, "{name}");
        };
        asked(line.start(&id, action.clone()).await.unwrap());
        assert_eq!(line.outcome(&id).await, outcome, "{name}");
        let (running, mut line) = stage.again(running).await;
        asked(line.start(&id, action.clone()).await.unwrap());
        assert_eq!(line.outcome(&id).await, outcome, "{name}");
        let (running, _) = stage.again(running).await;
        assert_eq!(effects(&stage), before, "{name}");
        assert_eq!(stage.server.ums.local(), "third-id", "{name}");
        running.kill().await;
    }
}

/// What there is to be undone.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Nothing was done.
    Nothing,
    /// A restore.
    Restored,
    /// A restore, and a restart.
    Restarted,
    /// A restore that failed and left a UMS ID nobody knows.
    Failed,
}

async fn undone(deed: Deed, times: u32) -> End {
    let (stage, running, mut line) = Stage::new().await;
    let ums = &stage.server.ums;
    match deed {
        Deed::Nothing => {}
        Deed::Restored => drop(line.perform(&step(2), stage.restore_main()).await.unwrap()),
        Deed::Restarted => {
            line.perform(&step(2), stage.restore_main()).await.unwrap();
            line.perform(&step(3), RESTART).await.unwrap();
        }
        Deed::Failed => {
            ums.set(|state| state.restore_mixes_up = Some("third-id".into()));
            let failed = line.perform(&step(2), stage.restore_main()).await;
            assert!(matches!(failed, Err(Trouble::Failed { effect: Effect::Possible, .. })), "{failed:?}");
            assert_eq!(ums.local(), "third-id");
            ums.set(|state| state.restore_mixes_up = None);
        }
    }
    for time in 1..=times {
        let done = stage.deeds();
        line.perform(&attempt(4, time), stage.restore_own()).await.unwrap();
        assert_eq!(ums.local(), "own-id");
        line.perform(&attempt(5, time), RESTART).await.unwrap();
        assert_eq!(stage.deeds(), [done[0], done[1] + 1, done[2] + 1], "{deed:?}, {time}");
    }
    let (running, mut line) = stage.again(running).await;
    let end = stage.end(&mut line).await;
    // What was undone can be done after all.
    line.perform(&step(6), stage.restore_main()).await.unwrap();
    assert_eq!(ums.local(), "main-id");
    running.kill().await;
    end
}

#[tokio::test]
async fn undone_twice_a_server_is_as_it_is_undone_once() {
    for deed in [Deed::Nothing, Deed::Restored, Deed::Restarted, Deed::Failed] {
        let once = undone(deed, 1).await;
        assert_eq!((once.ums_id.as_str(), once.restart_due), ("own-id", false), "{deed:?}");
        assert_eq!(undone(deed, 2).await, once, "{deed:?}, twice");
    }
}
