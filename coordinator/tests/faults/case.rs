//! One case: what befalls whom at which moment of which kind of run, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::ground::Ground;
use crate::kind::Kind;
use crate::observed::{Cost, Outcome, Start};
use crate::place::{Begun, CLUSTER, Place};
use crate::story::{PATIENCE, Story, begin, lines, newest_run, run_of, servers, standing};

/// How often a run is taken up that stands still.
const RESUMED: usize = 4;

/// How long an agent may be away before a run halts. Where a run is to go on, that is longer than a start on a busy machine.
const PATIENT: &str = "20s";
const IMPATIENT: &str = "1s";

/// Whom it befalls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Coordinator,
    Agent(String),
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("umsid"),
            Self::Agent(server) => f.write_str(server),
        }
    }
}

/// What befalls a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// It dies.
    Death,
    /// Its disk is full from then on, until its run has come to a standstill.
    FullDisk,
}

/// One point of the matrix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub(crate) kind: usize,
    pub(crate) victim: Victim,
    /// As `journal started 7.1 after#1`.
    pub(crate) moment: String,
    pub(crate) fault: Fault,
}

/// A run left in peace.
pub(crate) struct Reference {
    pub(crate) outcome: Outcome,
    pub(crate) cost: Cost,
    /// The moments of every process, as they came.
    pub(crate) moments: BTreeMap<Victim, Vec<String>>,
}

/// What came of a case that did what it must.
pub(crate) struct Held {
    /// Whether the moment came at all.
    pub(crate) came: bool,
    /// Starts of UMS Servers more than in peace.
    pub(crate) restarts: usize,
    /// How often the run had to be taken up by hand.
    pub(crate) resumed: usize,
}

/// Lets a run of this kind go in peace.
pub(crate) fn reference(place: &Place, kind: &Kind) -> Reference {
    let typed = kind.prepare(place);
    let start = Start::of(place);
    let traces = place.dir.path().join("traces");
    std::fs::create_dir(&traces).unwrap();
    let trace = |name: &str| traces.join(name).display().to_string();
    for server in servers(place) {
        place.kill_agent(&server);
        place.start_agent_with(&server, &[("UMSID_FAULT_TRACE", &trace(&server))]);
    }
    let mut umsid = begin(place, &[("UMSID_FAULT_TRACE", &trace("umsid"))], &typed, PATIENT);
    let mut story = Story::default();
    let ran = story.await_end(place, &mut umsid, None).unwrap().exits(kind.exit);
    story.run = run_of(&ran).expect("a run in peace names itself");
    let standing = standing(place, &story.run).expect("it is on record");
    let mut moments = BTreeMap::new();
    moments.insert(Victim::Coordinator, lines(&traces.join("umsid")));
    for server in servers(place) {
        moments.insert(Victim::Agent(server.clone()), lines(&traces.join(&server)));
    }
    assert_eq!(start.down_together(place), None, "{}: in peace", kind.name);
    Reference { outcome: start.outcome(place, standing), cost: start.cost(place), moments }
}

impl Victim {
    fn agent(&self) -> Option<&str> {
        match self {
            Self::Agent(server) => Some(server),
            Self::Coordinator => None,
        }
    }
}

impl Case {
    /// By which it can be asked for again.
    pub(crate) fn name(&self) -> String {
        let what = match self.fault {
            Fault::Death => "",
            Fault::FullDisk => "full disk at ",
        };
        format!("{} / {} / {what}{}", crate::kind::KINDS[self.kind].name, self.victim, self.moment)
    }

    /// Lets it befall the victim at the moment, and everything be brought to its end as an administrator would.
    pub(crate) fn play(&self, ground: &Ground, reference: &Reference) -> Result<Held, String> {
        let (kind, place) = (&crate::kind::KINDS[self.kind], &ground.place);
        // Whoever died after the run's last event has not given the leases back: they would run out in a minute.
        place.umsid(&["unlock", CLUSTER, "--yes"]).exits(0);
        let typed = kind.prepare(place);
        let start = Start::of(place);
        let mut story = Story::default();
        let held = self
            .bring_to_end(ground, kind, &typed, &mut story)
            .and_then(|()| self.judge(place, &start, &story, reference))
            .map_err(|why| format!("{}: {why}\n{}", self.name(), story.told.join("\n")));
        // One whose moment never came is still armed.
        if let (Some(server), false) = (self.victim.agent(), story.came) {
            place.kill_agent(server);
            place.start_agent(server);
        }
        held
    }

    fn bring_to_end(
        &self,
        ground: &Ground,
        kind: &Kind,
        typed: &[String],
        story: &mut Story,
    ) -> Result<(), String> {
        let place = &ground.place;
        let action = match self.fault {
            Fault::Death => "abort",
            Fault::FullDisk => "stop",
        };
        let fault = format!("{action}@{}", self.moment);
        let armed = [("UMSID_FAULT", fault.as_str())];
        // A run that stands still is taken up by its name; a new one names itself first of all.
        let named = matches!(typed[0].as_str(), "resume" | "rollback").then(|| typed[1].clone());
        let before = if named.is_some() { None } else { newest_run(place) };
        let victim = self.victim.agent();
        // A run that is to be rolled back must first stand still: the agent is away for longer than the run waits.
        let away = self.fault == Fault::Death && kind.rolls_back;
        let patience = if away { IMPATIENT } else { PATIENT };
        let mut umsid = match victim {
            None => begin(place, &armed, typed, patience),
            Some(server) => {
                place.kill_agent(server);
                place.start_agent_with(server, &armed);
                begin(place, &[], typed, patience)
            }
        };
        if self.fault == Fault::FullDisk {
            self.fill_disk(ground, &mut umsid, story)?;
        }
        let mut ran = story.await_end(place, &mut umsid, victim.filter(|_| !away))?;
        if let Some(victim) = victim {
            story.revive(place, victim);
        }
        if self.fault == Fault::FullDisk && story.came {
            ground.disk(&self.victim).make_room();
        }
        for _ in 0..=RESUMED {
            story.came |= ran.exit.is_none();
            let run = named.clone().or_else(|| run_of(&ran));
            let run = run.or_else(|| newest_run(place).filter(|run| before.as_ref() != Some(run)));
            let next = match &run {
                Some(run) => {
                    story.run.clone_from(run);
                    match standing(place, run) {
                        Some(standing) if standing.starts_with("ended") => {
                            story.standing = standing;
                            return Ok(());
                        }
                        Some(standing) if standing != "never begun" => kind.again(typed, run),
                        _ => typed.to_vec(),
                    }
                }
                // It died before its first event: nothing was done, and nothing is on record.
                None => typed.to_vec(),
            };
            story.resumed += 1;
            ran = story.await_end(place, &mut begin(place, &[], &next, PATIENT), victim)?;
            if ran.err.contains("is locked by run") {
                // Whoever holds the lease is dead: that is what unlocking is for.
                let unlock = ["unlock", CLUSTER, "--yes"].map(str::to_owned);
                story.await_end(place, &mut begin(place, &[], &unlock, PATIENT), victim)?;
            }
        }
        Err(format!("after {RESUMED} times it still is not over"))
    }

    /// Fills the victim's disk while it is frozen at the moment, and lets it go on.
    fn fill_disk(&self, ground: &Ground, umsid: &mut Begun, story: &mut Story) -> Result<(), String> {
        let pid = self.victim.agent().map_or(umsid.pid(), |server| ground.place.agent_pid(server));
        let until = Instant::now() + PATIENCE;
        while !is_frozen(pid) {
            if umsid.ended().is_some() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err("neither did the moment come nor an end".to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        ground.disk(&self.victim).fill();
        story.came = true;
        story.told.push(format!("-- the disk of {} is full", self.victim));
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::CONT).map_err(|error| error.to_string())
    }

    fn judge(
        &self,
        place: &Place,
        start: &Start,
        story: &Story,
        reference: &Reference,
    ) -> Result<Held, String> {
        let kind = &crate::kind::KINDS[self.kind];
        let rolled_back = kind.rolls_back && story.standing == "ended: rolled-back";
        let outcome = start.outcome(place, story.standing.clone());
        let expected = if rolled_back { start.as_it_was() } else { reference.outcome.clone() };
        if outcome != expected {
            return Err(format!("came to\n{outcome:#?}\nit should come to\n{expected:#?}"));
        }
        if let Some(down) = start.down_together(place) {
            return Err(down);
        }
        if place.lab.servers().iter().any(|server| place.calls(&server.name, "licensing create") > 0) {
            return Err("licensing create was called".to_owned());
        }
        let cost = start.cost(place);
        let mut restarts = 0;
        for (server, in_peace) in &reference.cost.starts {
            let (starts, restores) = (cost.starts[server], cost.restores[server]);
            // In the middle of a restart or a restore, doing it once more is need; elsewhere it is not. And the way back
            // is a restore and a restart of its own, of what was touched.
            let spare = usize::from(self.victim.agent() == Some(server)) + usize::from(rolled_back);
            let least = if rolled_back { 0 } else { *in_peace };
            if starts < least || starts > in_peace + spare {
                return Err(format!("{server} was started {starts} times, in peace {in_peace} times"));
            }
            let needed = reference.cost.restores[server];
            let least = if rolled_back { 0 } else { needed };
            if restores < least || restores > needed + spare {
                return Err(format!("on {server} were {restores} restores, in peace {needed}"));
            }
            restarts += starts.saturating_sub(*in_peace);
        }
        let checked = place.umsid(&["runs", "show", &story.run]);
        if checked.exit != Some(0) {
            return Err(format!("its record cannot be read: {}", checked.err));
        }
        Ok(Held { came: story.came, restarts, resumed: story.resumed })
    }
}

/// Whether a process is stopped by a signal (proc(5), the state `T`).
fn is_frozen(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}
