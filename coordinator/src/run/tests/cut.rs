//! The journal cut after each event: whoever goes on from the beginning that is left, with what the agents have on record,
//! comes to the same end, and nothing is done twice.

use std::collections::{BTreeMap, BTreeSet};

use umsid_common::name::ServerName;
use umsid_proto::failure::Code;
use umsid_proto::model::Effect;

use super::{bad, begun, good, plan, requests};
use crate::plan::{Request, What, roll_back, touched};
use crate::run::{Event, Next, Standing, State, StepResult, Yield, next};
use crate::survey::Proof;

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Story {
    /// Nothing.
    Smooth,
    /// A restart is enough for the second target.
    RestartEnough,
    /// The canary comes up with its old UMS ID after its restart.
    CanaryFails,
    /// The second restore fails once, and the run is resumed.
    FailsOnce,
    /// The second restore fails, and the run is rolled back.
    RolledBack,
}

const STORIES: [Story; 5] =
    [Story::Smooth, Story::RestartEnough, Story::CanaryFails, Story::FailsOnce, Story::RolledBack];

/// The servers, with their agents' records.
#[derive(Clone)]
struct World {
    story: Story,
    canary: Option<ServerName>,
    second: Option<ServerName>,
    /// Whether it holds the Main UMS ID, on disk and in what runs.
    synced: BTreeMap<ServerName, (bool, bool)>,
    /// By step and attempt: never a second effect.
    records: BTreeMap<(u32, u32), (What, StepResult)>,
    /// How often each step had an effect.
    deeds: BTreeMap<String, u32>,
    discarded: bool,
}

impl World {
    fn new(story: Story, state: &State) -> Self {
        let targets = &state.plan().targets;
        Self {
            story,
            canary: targets.first().cloned(),
            second: targets.get(1).cloned(),
            synced: state.plan().servers.keys().map(|server| (server.clone(), (false, false))).collect(),
            records: BTreeMap::new(),
            deeds: BTreeMap::new(),
            discarded: false,
        }
    }

    fn is_operation(what: &What) -> bool {
        matches!(
            what,
            What::Restart { .. }
                | What::SafetyBackup { .. }
                | What::Backup { .. }
                | What::Restore { .. }
                | What::RestoreOwn { .. }
                | What::Discard { .. }
        )
    }

    /// Carries out a step as agents and servers would: an operation on record is told, not done again.
    fn perform(&mut self, no: u32, attempt: u32, what: &What) -> StepResult {
        if !Self::is_operation(what) {
            return self.look(no, what);
        }
        if let Some((recorded, result)) = self.records.get(&(no, attempt)) {
            assert_eq!(recorded, what, "one id for two deeds");
            return result.clone();
        }
        let result = self.act(what, attempt);
        self.records.insert((no, attempt), (what.clone(), result.clone()));
        if matches!(result, StepResult::Done { .. }) {
            *self.deeds.entry(format!("{no} {what:?}")).or_default() += 1;
        }
        result
    }

    fn act(&mut self, what: &What, attempt: u32) -> StepResult {
        let is = |one: &Option<ServerName>, other: &ServerName| one.as_ref() == Some(other);
        match what {
            What::Restore { server } => {
                let fails = match self.story {
                    Story::FailsOnce => attempt == 1,
                    Story::RolledBack => true,
                    _ => false,
                };
                if fails && is(&self.second, server) {
                    return bad(Code::CommandFailed, Effect::None);
                }
                self.synced.entry(server.clone()).or_default().0 = true;
            }
            What::RestoreOwn { server, .. } => self.synced.entry(server.clone()).or_default().0 = false,
            What::Restart { server } => {
                let synced = self.synced.entry(server.clone()).or_default();
                synced.1 = synced.0;
            }
            What::Discard { .. } => self.discarded = true,
            _ => {}
        }
        good(what)
    }

    fn look(&self, no: u32, what: &What) -> StepResult {
        match what {
            What::Transfer { .. } if self.discarded => bad(Code::NotFound, Effect::None),
            What::Verify { server } => {
                let fails = self.story == Story::CanaryFails && self.canary.as_ref() == Some(server);
                if fails { bad(Code::WrongIdentity, Effect::Possible) } else { good(what) }
            }
            // As `step::check` does it: what the run itself has done later is not the restart's doing.
            What::Recheck { server } => {
                let later = |((step, _), (what, _)): (&(u32, u32), &(What, StepResult))| {
                    *step > no
                        && what.server() == Some(server)
                        && matches!(
                            what,
                            What::SafetyBackup { .. } | What::Restore { .. } | What::RestoreOwn { .. }
                        )
                };
                let on_disk = self.synced.get(server).is_some_and(|synced| synced.0);
                let by_restart = self.story == Story::RestartEnough && self.second.as_ref() == Some(server);
                let yields = match (by_restart || on_disk) && !self.records.iter().any(later) {
                    true => Yield::InSyncAlready,
                    false => Yield::Nothing,
                };
                StepResult::Done { ums_ms: 0, yields, remarks: Vec::new() }
            }
            What::VerifyOwn { server } => {
                let own = self.synced.get(server).is_some_and(|synced| *synced == (false, false));
                let proof = if own { Proof::Yes("own".into()) } else { Proof::No("not its own".into()) };
                StepResult::Done { ums_ms: 0, yields: Yield::Proved(proof), remarks: Vec::new() }
            }
            _ => good(what),
        }
    }

    /// Who holds what.
    fn end(&self, state: &State) -> (Standing, BTreeMap<ServerName, (bool, bool)>, Vec<ServerName>) {
        (state.standing().clone(), self.synced.clone(), touched(state))
    }
}

/// A run, its servers as they were after each event, and its end.
struct Told {
    events: Vec<Event>,
    worlds: Vec<World>,
    world: World,
    state: State,
}

impl Told {
    fn record(&mut self, event: Event) {
        match self.events.is_empty() {
            true => self.state = State::begin(&event).expect("it begins"),
            false => self.state.apply(&event).expect("the loop writes only what is legal"),
        }
        self.events.push(event);
        self.worlds.push(self.world.clone());
    }

    /// Goes on until the story's end, with an operator who does what the story says.
    fn go_on(mut self, mut epoch: u64) -> Self {
        for _ in 0..6 {
            epoch += 1;
            self.record(Event::Leased { epoch, by: "anna".into() });
            self.session();
            match self.state.standing() {
                Standing::Ended(_) => return self,
                Standing::Halted(_)
                    if self.world.story == Story::RolledBack && self.state.turned_back().is_none() =>
                {
                    epoch += 1;
                    self.record(Event::Leased { epoch, by: "anna".into() });
                    let steps = roll_back(&touched(&self.state), &[], self.state.next_number());
                    self.record(Event::TurnedBack { why: "asked for".into(), steps });
                    self.session();
                }
                _ => {}
            }
            if matches!(self.state.standing(), Standing::Ended(_)) {
                return self;
            }
        }
        panic!("{:?}: no end: {:?}", self.world.story, self.state.standing());
    }

    fn session(&mut self) {
        let mut running: BTreeMap<u32, (u32, StepResult)> = BTreeMap::new();
        for _ in 0..1000 {
            let busy: BTreeSet<u32> = running.keys().copied().collect();
            match next(&self.state, &busy) {
                Next::Start(list) => {
                    for (step, attempt) in list {
                        self.record(Event::Started { step, attempt });
                        let result = self.perform(step, attempt);
                        running.insert(step, (attempt, result));
                    }
                }
                Next::TakeUp(list) => {
                    for (step, attempt) in list {
                        let result = self.perform(step, attempt);
                        running.insert(step, (attempt, result));
                    }
                }
                Next::Skip(list) => {
                    list.into_iter().for_each(|(step, why)| self.record(Event::Skipped { step, why }));
                }
                Next::TurnBack { why, steps } => self.record(Event::TurnedBack { why, steps }),
                Next::Wait => {
                    let (step, (attempt, result)) = running.pop_first().expect("something to wait for");
                    self.record(Event::Finished { step, attempt, result });
                }
                Next::Halt(halt) => return self.record(Event::Halted(halt)),
                Next::End(outcome) => return self.record(Event::Ended { outcome }),
                Next::Over => return,
            }
        }
        panic!("no end");
    }

    fn perform(&mut self, step: u32, attempt: u32) -> StepResult {
        let what = self.state.step(step).expect("it is there").what.clone();
        self.world.perform(step, attempt, &what)
    }

    /// The events that every agent knows before anything after them is done: that of the newest way, and what comes before
    /// a file is removed.
    fn known(&self, until: usize) -> usize {
        let discard = |event: &Event| match event {
            Event::Started { step, .. } => {
                self.state.step(*step).is_some_and(|step| matches!(step.what, What::Discard { .. }))
            }
            _ => false,
        };
        let known = |(at, event): (usize, &Event)| match event {
            Event::TurnedBack { .. } | Event::Leased { .. } => Some(at + 1),
            event if discard(event) => Some(at),
            _ => None,
        };
        self.events[..until].iter().enumerate().filter_map(known).max().unwrap_or(1)
    }
}

fn tell(request: &Request, story: Story) -> Told {
    let first = begun(plan(request));
    let state = State::begin(&first).expect("it begins");
    let world = World::new(story, &state);
    let mut told = Told { events: Vec::new(), worlds: Vec::new(), world, state };
    told.record(first);
    told.go_on(0)
}

fn stories(request: &Request) -> Vec<Story> {
    match request.kind {
        crate::plan::Kind::Sync => STORIES
            .into_iter()
            .filter(|story| *story != Story::RestartEnough || request.restart_first)
            .collect(),
        _ => vec![Story::Smooth],
    }
}

/// Goes on from the first `cut` events, in the world as it was after `death`.
fn gone_on_from(whole: &Told, cut: usize, death: usize) -> Told {
    let events = whole.events[..cut].to_vec();
    let state = State::replay(events.iter()).expect("every beginning is legal");
    let world = whole.worlds[death - 1].clone();
    let epoch = whole.events[..death].iter().filter_map(|event| match event {
        Event::Leased { epoch, .. } => Some(*epoch),
        _ => None,
    });
    let epoch = epoch.max().unwrap_or(0);
    let worlds = whole.worlds[..cut].to_vec();
    Told { events, worlds, world, state }.go_on(epoch)
}

#[test]
fn a_journal_cut_after_any_event_leads_to_the_same_end_and_nothing_is_done_twice() {
    let mut cuts = 0;
    for request in requests() {
        for story in stories(&request) {
            let whole = tell(&request, story);
            let end = whole.world.end(&whole.state);
            assert!(matches!(end.0, Standing::Ended(_)));
            for death in 1..whole.events.len() {
                // As far behind as it may be, and a little.
                let known = whole.known(death);
                for cut in [known].into_iter().chain((known + 1).max(death.saturating_sub(2))..=death) {
                    let again = gone_on_from(&whole, cut, death);
                    let place = format!("{story:?} {request:?}: cut after {cut}, died after {death}");
                    assert_eq!(again.world.end(&again.state), end, "{place}");
                    // Before it is rolled back, a run that is resumed may come further than one that was not.
                    if story != Story::RolledBack {
                        assert_eq!(again.world.deeds, whole.world.deeds, "{place}");
                    }
                    assert!(again.world.deeds.values().all(|times| *times == 1), "{place}");
                    cuts += 1;
                }
            }
        }
    }
    assert!(cuts > 1000, "only {cuts} cuts");
}
