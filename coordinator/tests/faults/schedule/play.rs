//! Playing a story: processes that end, stand still and go on, a UMS that does not do as it should, people who type.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use umsid_lab::Event;
use umsid_testkit::wait_for_blocking;

use super::fault::{Fault, LEASE, Peace, WELL, What, When, said};
use super::judge::Start;
use super::people::Person;
use super::story::{Shape, Story};
use crate::case::Victim;
use crate::place::{Begun, Place, Ran, SOON, Wanted};
use crate::story::{lines, servers};

/// Longer than any `umsid` of a story takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks at who has ended and what was said.
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// What the agents of a story do not wait for as long as others: what hangs or never comes up is to be seen soon.
const IMPATIENT: [(&str, &str); 7] = [
    ("deadline = \"20s\"", "deadline = \"5s\""),
    ("fallback_after = \"5s\"", "fallback_after = \"2s\""),
    ("list = \"20s\"", "list = \"1500ms\""),
    ("backup = \"20s\"", "backup = \"3s\""),
    ("restore = \"30s\"", "restore = \"4s\""),
    ("export = \"20s\"", "export = \"1500ms\""),
    ("service = \"20s\"", "service = \"6s\""),
];

/// A place for stories of this shape, all in sync.
pub(super) fn place(shape: &Shape) -> Place {
    let lab = umsid_lab::Options { servers: shape.servers, ..umsid_lab::Options::default() };
    let place = Place::with(Wanted { lab, agents: false, ..Wanted::default() });
    for server in servers(&place) {
        let path = place.agent_dir(&server).join("agent.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = IMPATIENT.iter().fold(text, |text, (long, short)| {
            assert!(text.contains(long), "{long} is not in:\n{text}");
            text.replace(long, short)
        });
        umsid_common::durable::replace(&path, text.as_bytes(), umsid_common::durable::Access::Private)
            .unwrap();
    }
    place.enrol_agents();
    place
}

/// Puts the servers out of sync.
fn prepare(place: &Place, shape: &Shape) {
    for (servers, how) in shape.broken() {
        let names: Vec<&str> = servers.iter().map(String::as_str).collect();
        place.lab.break_servers(&names, how).unwrap();
    }
}

/// Lets a run of this shape go in peace, with all its moments traced.
pub(super) fn in_peace(place: &Place, shape: &Shape) -> Peace {
    prepare(place, shape);
    let traces = place.dir.path().join("traces");
    std::fs::create_dir(&traces).unwrap();
    let trace = |name: &str| traces.join(name).display().to_string();
    for server in servers(place) {
        place.kill_agent(&server);
        place.start_agent_with(&server, &[("UMSID_FAULT_TRACE", &trace(&server))]);
    }
    let mut umsid = begin(place, &[("UMSID_FAULT_TRACE", &trace("umsid"))], &shape.typed);
    wait_for_blocking("the run in peace to end", SOON * 2, || umsid.ended());
    let ran = umsid.said().exits(0);
    let moments = |name: &str| {
        let mut moments = lines(&traces.join(name));
        // There are hundreds of them, all alike.
        moments.retain(|moment| !moment.starts_with("file "));
        moments.sort_unstable();
        moments
    };
    let mut all: BTreeMap<Victim, Vec<String>> = BTreeMap::new();
    all.insert(Victim::Coordinator, moments("umsid"));
    for server in servers(place) {
        all.insert(Victim::Agent(server.clone()), moments(&server));
    }
    Peace { moments: all, said: heard(&ran.out).into_iter().collect() }
}

/// What was said, as faults wait for it.
fn heard(out: &str) -> BTreeSet<String> {
    out.lines().filter_map(|line| said(&serde_json::from_str(line).ok()?)).collect()
}

/// As somebody types it who has not much time.
pub(super) fn begin(place: &Place, environment: &[(&str, &str)], typed: &[String]) -> Begun {
    let mut arguments: Vec<&str> = typed.iter().map(String::as_str).collect();
    arguments.extend(["-o", "json"]);
    if matches!(arguments[0], "sync" | "resume" | "rollback") {
        arguments.extend(["--contact-timeout", "5s", "--lease", LEASE]);
    }
    place.begin(environment, &arguments)
}

/// What becomes due at some time.
enum Due {
    GoesOn(u32),
    SetRight { server: String, key: &'static str },
}

/// Somebody else who types.
struct Other {
    begun: Begun,
    person: Person,
    typed: &'static [&'static str],
    /// What is typed next.
    next: &'static [&'static [&'static str]],
}

/// A story being played.
pub(super) struct Play<'a> {
    pub(super) place: &'a Place,
    pub(super) story: &'a Story,
    pub(super) start: Start,
    /// What everybody said and what was done to them, for whoever looks at a failure.
    pub(super) told: Vec<String>,
    /// The kinds of faults that came.
    pub(super) came: Vec<String>,
    /// How its run ended before one more synchronization.
    pub(super) ended: String,
    begun: Instant,
    pending: Vec<Fault>,
    due: Vec<(Instant, Due)>,
    dead: BTreeMap<String, Instant>,
    /// Who stands still: what goes on again is on `due`.
    frozen: BTreeSet<u32>,
    others: Vec<Other>,
    /// Whether there is another machine of the same authority.
    pub(super) elsewhere: bool,
}

impl<'a> Play<'a> {
    pub(super) fn new(place: &'a Place, story: &'a Story) -> Self {
        prepare(place, &story.shape);
        Self {
            place,
            story,
            start: Start::of(place),
            told: Vec::new(),
            came: Vec::new(),
            ended: String::new(),
            begun: Instant::now(),
            pending: story.faults.clone(),
            due: Vec::new(),
            dead: BTreeMap::new(),
            frozen: BTreeSet::new(),
            others: Vec::new(),
            elsewhere: false,
        }
    }

    pub(super) fn tell(&mut self, what: impl std::fmt::Display) {
        self.told.push(format!("{:7.2} s  {what}", self.begun.elapsed().as_secs_f64()));
    }

    /// Everything up to where nothing goes wrong any more and nobody types.
    pub(super) fn trouble(&mut self) -> Result<(), String> {
        self.arm_agents();
        let fault = self.armed(&Victim::Coordinator);
        let mut typed = self.story.shape.typed.clone();
        for time in 0..self.story.in_trouble {
            let armed = [("UMSID_FAULT", fault.as_str())];
            let environment = if time == 0 && !fault.is_empty() { &armed[..] } else { &[] };
            let ran = self.type_and_wait(environment, &typed)?;
            if ran.exit == Some(0) {
                break;
            }
            if let Some(run) = self.unfinished() {
                typed = vec!["resume".to_owned(), run];
            }
        }
        self.set_right();
        if self.story.journal_lost {
            self.tell("the journal is lost");
            self.came.push("the journal was lost".to_owned());
            for file in ["state.db", "state.db-wal", "state.db-shm"] {
                // After a clean end the database is one file.
                let _ = std::fs::remove_file(self.place.state().join(file));
            }
        }
        Ok(())
    }

    fn arm_agents(&mut self) {
        for server in servers(self.place) {
            let fault = self.armed(&Victim::Agent(server.clone()));
            self.place.kill_agent(&server);
            let armed = [("UMSID_FAULT", fault.as_str())];
            self.place.start_agent_with(&server, if fault.is_empty() { &[] } else { &armed[..] });
        }
    }

    /// What is to happen to this process at its own moments.
    fn armed(&self, who: &Victim) -> String {
        let armed = self.story.faults.iter().filter_map(|fault| match (&fault.what, &fault.when) {
            (What::Dies(victim), When::Moment(moment)) if victim == who => Some(format!("abort@{moment}")),
            (What::Freezes(victim, _), When::Moment(moment)) if victim == who => {
                Some(format!("stop@{moment}"))
            }
            _ => None,
        });
        armed.collect::<Vec<_>>().join(",")
    }

    /// The newest run, if it was begun and is not over.
    fn unfinished(&self) -> Option<String> {
        let runs = self.place.umsid(&["runs", "-o", "json"]).exits(0).json();
        let newest = &runs["runs"][0];
        let run = newest["run"].as_str()?.to_owned();
        let begun = !self.place.umsid(&["runs", "show", &run]).err.contains("was never begun");
        (newest["standing"] != "ended" && begun).then_some(run)
    }

    /// Types this, and lets happen what happens until everybody who typed has been told how it ended.
    pub(super) fn type_and_wait(
        &mut self,
        environment: &[(&str, &str)],
        typed: &[String],
    ) -> Result<Ran, String> {
        self.tell(format_args!("umsid {}", typed.join(" ")));
        let mut umsid = begin(self.place, environment, typed);
        let until = Instant::now() + PATIENCE;
        let (mut heard_before, mut ended) = (BTreeSet::new(), None);
        loop {
            let out = umsid.said().out;
            let heard = heard(&out);
            self.faults_of(&umsid, |when| match when {
                When::Before => true,
                When::Said(what) => heard.contains(what) && !heard_before.contains(what),
                // The process does it by itself.
                When::Moment(_) | When::Ended => false,
            });
            heard_before = heard;
            self.what_is_due();
            self.agents_that_died();
            self.who_stands_still(&umsid);
            if ended.is_none() && umsid.ended().is_some() {
                let ran = umsid.said();
                self.tell(format_args!("umsid ended with {:?}:\n{}\n{}", ran.exit, ran.out, ran.err));
                if ran.exit.is_none() {
                    self.came.push("umsid died".to_owned());
                }
                self.start.exit_is_true(self.place, &ran)?;
                ended = Some(ran);
                self.faults_of(&umsid, |when| matches!(when, When::Ended));
            }
            self.others_that_ended()?;
            match ended {
                Some(ran) if self.others.is_empty() => return Ok(ran),
                _ if Instant::now() < until => std::thread::sleep(BETWEEN_LOOKS),
                _ => return Err(format!("`umsid {}` never ended: {:?}", typed.join(" "), umsid.said())),
            }
        }
    }

    /// What goes wrong now.
    fn faults_of(&mut self, umsid: &Begun, is_now: impl Fn(&When) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        let (now, later): (Vec<Fault>, Vec<Fault>) =
            pending.into_iter().partition(|fault| is_now(&fault.when));
        self.pending = later;
        for fault in now {
            self.tell(&fault);
            self.came.extend(fault.kind());
            self.happen(fault.what, umsid);
        }
    }

    fn happen(&mut self, what: What, umsid: &Begun) {
        let pid = |victim: &Victim| match victim {
            Victim::Coordinator => umsid.pid(),
            Victim::Agent(server) => self.place.agent_pid(server),
        };
        match what {
            What::Dies(victim) => signal(pid(&victim), Signal::KILL),
            What::Freezes(victim, long) => {
                let pid = pid(&victim);
                signal(pid, Signal::STOP);
                self.froze(&victim, pid, long);
            }
            What::Interrupted => signal(umsid.pid(), Signal::INT),
            What::Misbehaves { server, setting: (key, value), lasts } => {
                self.place.lab.set(&server, key, &value).unwrap();
                if let Some(long) = lasts {
                    self.due.push((Instant::now() + long, Due::SetRight { server, key }));
                }
            }
            What::Typed { commands, elsewhere } => {
                let person = if elsewhere { Person::Elsewhere } else { Person::Here };
                self.elsewhere |= elsewhere;
                self.somebody_types(person, commands);
            }
        }
    }

    fn what_is_due(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.due).into_iter().partition(|(when, _)| *when <= now);
        self.due = later;
        let due: Vec<(Instant, Due)> = due;
        for (_, due) in due {
            self.set(due);
        }
    }

    fn set(&mut self, due: Due) {
        match due {
            Due::GoesOn(pid) => {
                self.tell(format_args!("process {pid} goes on"));
                self.frozen.remove(&pid);
                signal(pid, Signal::CONT);
            }
            Due::SetRight { server, key } => {
                let (_, well) = WELL.iter().find(|(other, _)| *other == key).expect("a setting of ours");
                self.tell(format_args!("the UMS on {server} has {key}={well} again"));
                self.place.lab.set(&server, key, well).unwrap();
            }
        }
    }

    fn agents_that_died(&mut self) {
        for server in servers(self.place) {
            if !self.place.agent_died(&server) {
                continue;
            }
            let takes = self.story.manager_takes;
            if let Some(since) = self.dead.get(&server) {
                if since.elapsed() >= takes {
                    self.dead.remove(&server);
                    self.place.start_agent(&server);
                    self.tell(format_args!("the agent of {server} is started"));
                }
            } else {
                self.dead.insert(server.clone(), Instant::now());
                self.came.push("an agent died".to_owned());
                self.tell(format_args!("the agent of {server} died"));
            }
        }
    }

    /// Whoever came to a moment at which it was to stand still.
    fn who_stands_still(&mut self, umsid: &Begun) {
        let faults: Vec<(Victim, Duration)> = self
            .story
            .faults
            .iter()
            .filter_map(|fault| match (&fault.what, &fault.when) {
                (What::Freezes(victim, long), When::Moment(_)) => Some((victim.clone(), *long)),
                _ => None,
            })
            .collect();
        for (victim, long) in faults {
            let pid = match &victim {
                Victim::Coordinator => umsid.pid(),
                Victim::Agent(server) => self.place.agent_pid(server),
            };
            if !self.frozen.contains(&pid) && is_frozen(pid) {
                self.froze(&victim, pid, long);
            }
        }
    }

    fn froze(&mut self, victim: &Victim, pid: u32, long: Duration) {
        self.tell(format_args!("{victim} stands still for {} ms", long.as_millis()));
        self.came
            .push(if *victim == Victim::Coordinator { "umsid froze" } else { "an agent froze" }.to_owned());
        self.frozen.insert(pid);
        self.due.push((Instant::now() + long, Due::GoesOn(pid)));
    }

    fn somebody_types(&mut self, person: Person, commands: &'static [&'static [&'static str]]) {
        if let Some((typed, next)) = commands.split_first() {
            let begun = person.begins(self.place, typed);
            self.others.push(Other { begun, person, typed, next });
        }
    }

    fn others_that_ended(&mut self) -> Result<(), String> {
        for mut other in std::mem::take(&mut self.others) {
            if other.begun.ended().is_none() {
                self.others.push(other);
                continue;
            }
            let ran = other.begun.said();
            self.tell_of(other.person, other.typed, &ran);
            self.start.exit_is_true(self.place, &ran)?;
            self.somebody_types(other.person, other.next);
        }
        Ok(())
    }

    /// Everything is as it should be again, by whoever looks after such machines: settings, processes that stand still or
    /// died, UMS Servers that are down.
    fn set_right(&mut self) {
        self.pending.clear();
        for (_, due) in std::mem::take(&mut self.due) {
            self.set(due);
        }
        let names = servers(self.place);
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        self.place.lab.set_many(&all, &WELL).unwrap();
        // Without what they were armed with.
        for server in &names {
            self.place.kill_agent(server);
        }
        for server in &names {
            self.place.start_agent(server);
        }
        self.dead.clear();
        for server in &names {
            self.ums_server_runs(server);
        }
        self.tell("all is set right");
    }

    /// It listens, and goes on to.
    fn ums_server_runs(&mut self, server: &str) {
        let listens = |place: &Place| {
            let last = place.lab.lifecycle(server).unwrap().pop();
            let runs = place.lab.truth().unwrap().server(server).is_some_and(|server| server.pid.is_some());
            (runs && last.is_some_and(|line| line.event == Event::Listening)).then_some(())
        };
        // A process that was started to die after a while still does.
        let is_doomed = self.story.faults.iter().any(|fault| {
            matches!(&fault.what, What::Misbehaves { server: other, setting: ("start", how), .. }
                if other == server && how.starts_with("dies-after"))
        });
        if !is_doomed && listens(self.place).is_some() {
            return;
        }
        self.tell(format_args!("the UMS Server on {server} is started by hand"));
        self.start.by_hand(self.place, server);
        let script = &self.place.lab.server(server).unwrap().init_script;
        let started = assert_cmd::Command::new(script).arg("restart").timeout(SOON).output().unwrap();
        assert!(started.status.success(), "{started:?}");
        wait_for_blocking("the UMS Server to listen", SOON, || listens(self.place));
    }

    /// Types this on a machine where nothing goes wrong.
    pub(super) fn types(&mut self, person: Person, typed: &[&str]) -> Ran {
        let ran = person.types(self.place, typed);
        self.tell_of(person, typed, &ran);
        ran
    }

    fn tell_of(&mut self, person: Person, typed: &[&str], ran: &Ran) {
        let typed = typed.join(" ");
        let Ran { exit, out, err } = ran;
        // What they print of every server is pages.
        let out = if matches!(typed.split(' ').next(), Some("status" | "runs")) { "" } else { out };
        self.tell(format_args!("`umsid {typed}` of somebody {person} ended with {exit:?}:\n{out}\n{err}"));
    }
}

/// Whoever ended meanwhile needs no signal.
fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    let _ = kill_process(pid, signal);
}

fn is_frozen(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
