//! What must be so whatever happened: not one fixed outcome, but what no outcome may break.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::Value;
use umsid_lab::{Event, Lifecycle, ServerTruth, Truth};
use umsid_testkit::wait_for_blocking;

use super::people::{End, Person, follow};
use super::play::Play;
use crate::observed::left_over;
use crate::place::{CLUSTER, Place, Ran, SOON};
use crate::story::servers;

/// How things stood when a story began.
pub(super) struct Start {
    own: BTreeMap<String, String>,
    calls: BTreeMap<String, usize>,
    history: BTreeMap<String, usize>,
    /// Stops of UMS Servers that we did not do: how long the history was when somebody restarted the server by hand.
    by_hand: RefCell<Vec<(String, usize)>>,
}

impl Start {
    pub(super) fn of(place: &Place) -> Self {
        let truth = place.lab.truth().unwrap();
        let count = |what: &dyn Fn(&str) -> usize| {
            servers(place).into_iter().map(|name| (name.clone(), what(&name))).collect()
        };
        Self {
            own: truth.servers.iter().map(|it| (it.name.clone(), it.fingerprint.clone())).collect(),
            calls: count(&|name| place.lab.calls(name).unwrap().len()),
            history: count(&|name| place.lab.lifecycle(name).unwrap().len()),
            by_hand: RefCell::default(),
        }
    }

    /// From here on to its next start it is not us who stops this UMS Server.
    pub(super) fn by_hand(&self, place: &Place, server: &str) {
        let now = place.lab.lifecycle(server).unwrap().len();
        self.by_hand.borrow_mut().push((server.to_owned(), now));
    }

    /// Exit code 0 of a run means what it says, at that moment.
    pub(super) fn exit_is_true(&self, place: &Place, ran: &Ran) -> Result<(), String> {
        if ran.exit != Some(0) {
            return Ok(());
        }
        let last: Option<Value> = ran.out.lines().last().and_then(|line| serde_json::from_str(line).ok());
        let Some(report) = last.filter(|last| last["event"] == "report") else { return Ok(()) };
        let truth = place.lab.truth().unwrap();
        let wrong = match report["outcome"].as_str().unwrap_or_default() {
            "synchronized" | "nothing-to-do" => {
                truth.servers.iter().find(|server| !is_synchronized(place, &truth, server))
            }
            // What was restored there is not there any more. What a server had before a run may be what another run, that
            // was left standing, had restored.
            "rolled-back" => {
                let shown = place.umsid(&["runs", "show", report["run"].as_str().unwrap(), "-o", "json"]);
                let shown: Option<Value> = serde_json::from_str(&shown.out).ok();
                let had = |name: &str| {
                    let servers = &shown.as_ref()?["plan"]["servers"];
                    Some(servers[name]["baseline"]["local"].as_str()?.to_lowercase())
                };
                truth.servers.iter().find(|server| {
                    let name = &server.name;
                    report["servers"][name]["put_back"] == true
                        && server.fingerprint != had(name).unwrap_or_else(|| self.own[name].clone())
                })
            }
            _ => None,
        };
        match wrong {
            None => Ok(()),
            Some(server) => Err(format!("it ended with 0, {}: {server:#?}", report["outcome"])),
        }
    }

    /// Never a third UMS ID.
    fn own_or_main(&self, truth: &Truth) -> Result<(), String> {
        let print =
            |server: &ServerTruth| [Some(server.fingerprint.clone()), server.running_fingerprint.clone()];
        let third = truth.servers.iter().find(|server| {
            let known = |print: &String| *print == truth.main_fingerprint || *print == self.own[&server.name];
            !print(server).iter().flatten().all(known)
        });
        third.map_or(Ok(()), |server| Err(format!("a third UMS ID: {server:#?}")))
    }

    /// Never two servers of a site down together because of us.
    ///
    /// Down because of us is a UMS Server from when it was stopped until it listens again, whatever keeps it from that: one
    /// that was stopped and then refuses to start is a reason to leave its neighbours alone. Nothing in a story stops one
    /// but a restart or a restore of ours, except for what is set right by hand in the end. One that dies of itself after
    /// it had listened is not our doing, and may do so while a neighbour is being restarted.
    fn down_together(&self, place: &Place) -> Result<(), String> {
        let mut down: Vec<(String, String, Lifecycle, Option<Lifecycle>)> = Vec::new();
        for server in place.lab.servers() {
            let history = place.lab.lifecycle(&server.name).unwrap();
            let begun = self.history[&server.name];
            let by_hand = self.by_hand.borrow();
            let mut numbered = history.iter().enumerate().skip(begun);
            while let Some((number, gone)) = numbered.by_ref().find(|(_, line)| line.event == Event::Stopped)
            {
                let back = history[number..].iter().find(|line| line.event == Event::Listening).cloned();
                if !by_hand.contains(&(server.name.clone(), number)) {
                    down.push((server.site.clone(), server.name.clone(), gone.clone(), back));
                }
            }
        }
        for (site, name, gone, _) in &down {
            let meanwhile = down.iter().find(|(other_site, other, since, until)| {
                site == other_site
                    && name != other
                    && since.time <= gone.time
                    && until.as_ref().is_none_or(|until| until.time > gone.time)
            });
            if let Some((_, other, ..)) = meanwhile {
                return Err(format!("{name} and {other} of {site} were down together at {}", gone.time));
            }
        }
        Ok(())
    }

    /// Licences are never made, and nothing is restored where no safety backup was taken before.
    fn calls_are_safe(&self, place: &Place) -> Result<(), String> {
        for server in servers(place) {
            let calls = place.lab.calls(&server).unwrap();
            let since = &calls[self.calls[&server]..];
            if since.iter().any(|call| call.is("licensing create")) {
                return Err(format!("licensing create was called on {server}"));
            }
            let Some(first) = since.iter().position(|call| call.is("licensing restore")) else { continue };
            let saved = since[..first].iter().any(|call| call.is("licensing backup") && call.exit == Some(0));
            if !saved {
                return Err(format!("{server} was restored without a safety backup"));
            }
        }
        Ok(())
    }
}

/// In sync, and in use: the UMS Server may have died of itself since.
fn is_synchronized(place: &Place, truth: &Truth, server: &ServerTruth) -> bool {
    let died = || {
        let last = place.lab.lifecycle(&server.name).unwrap().pop();
        server.pid.is_none() && last.is_some_and(|line| line.event == Event::Died)
    };
    server.in_sync && (server.running_fingerprint.as_ref() == Some(&truth.main_fingerprint) || died())
}

/// Plays a story to its end; an error is what is wrong.
pub(super) fn judge(play: &mut Play<'_>) -> Result<(), String> {
    play.trouble()?;
    let place = play.place;
    let check = |play: &Play<'_>| {
        let truth = place.lab.truth().unwrap();
        play.start.own_or_main(&truth)?;
        play.start.calls_are_safe(place)?;
        play.start.down_together(place)
    };
    check(play)?;
    if play.elsewhere {
        follow(play, Person::Elsewhere, false, false)?;
    }
    let end = follow(play, Person::Here, play.story.back, play.story.journal_lost)?;
    check(play)?;
    let over = match end {
        End::Over(how) => {
            play.ended = how;
            true
        }
        End::Stands(ran) if !says_what_to_type(&ran) => {
            return Err("a run stands still, and nothing is printed to type".to_owned());
        }
        End::Stands(_) => {
            play.ended = "overtaken".to_owned();
            false
        }
    };
    let over = over && all_ended(play);
    status_is_true(play, over)?;
    one_more_sync(play)?;
    check(play)?;
    status_is_true(play, true)?;
    let runs = play.types(Person::Here, &["runs", "-o", "json"]).exits(0).json();
    let runs = runs["runs"].as_array().unwrap();
    nothing_is_left(play, runs)?;
    for run in runs.iter().filter_map(|run| run["run"].as_str()) {
        let shown = Person::Here.types(place, &["runs", "show", run]);
        if shown.exit != Some(0) && !shown.err.contains("was never begun") {
            return Err(format!("the record of {run} cannot be read: {}", shown.err));
        }
    }
    Ok(())
}

fn says_what_to_type(ran: &Ran) -> bool {
    let last: Option<Value> = ran.out.lines().last().and_then(|line| serde_json::from_str(line).ok());
    let advised = last.is_some_and(|report| report["next"].as_array().is_some_and(|next| !next.is_empty()));
    advised || ran.err.contains("what to do: ")
}

/// Whether every run has come to its own end: none stands still that another came after, none was given up.
fn all_ended(play: &mut Play<'_>) -> bool {
    let runs = play.types(Person::Here, &["runs", "-o", "json"]).exits(0).json();
    runs["runs"].as_array().unwrap().iter().all(|run| !is_left(run))
}

fn is_left(run: &Value) -> bool {
    run["standing"] != "ended" || run["detail"] == "given-up"
}

/// What `umsid status` says of every server is so. `over`: no run stands still, so that what is held is what is in use.
fn status_is_true(play: &mut Play<'_>, over: bool) -> Result<(), String> {
    // What was begun by an umsid that died comes to its end by itself, and until then nobody can say.
    let told = wait_for_blocking("every agent to be done with what was begun", SOON, || {
        let told = play.types(Person::Here, &["status", "-o", "json"]).json();
        let servers = told["clusters"][0]["servers"].as_array()?;
        servers.iter().all(|server| server["state"] != "unknown").then_some(told.clone())
    });
    let truth = play.place.lab.truth().unwrap();
    for server in &truth.servers {
        let entries = told["clusters"][0]["servers"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["server"] == server.name.as_str()).unwrap();
        let state = entry["state"].as_str().unwrap_or_default();
        let in_use = server.running_fingerprint.as_ref() == Some(&server.fingerprint);
        let true_state = match (server.is_main, server.in_sync) {
            (true, _) => "main",
            (false, true) if in_use => "in-sync",
            (false, _) => "not-in-sync",
        };
        if state != true_state || (over && !in_use) {
            return Err(format!("`umsid status` calls it {state}: {server:#?}"));
        }
    }
    Ok(())
}

/// Of a run that nobody took to its end, what it left is removed as soon as another does something there; of all others by
/// themselves.
fn nothing_is_left(play: &mut Play<'_>, runs: &[Value]) -> Result<(), String> {
    let may_leave = play.elsewhere || play.story.journal_lost || runs.iter().any(is_left);
    if may_leave && !left_over(play.place).is_empty() {
        // One that was given up may hold servers until its leases run out.
        play.types(Person::Here, &["unlock", CLUSTER, "--yes"]);
        let restarted = play.types(Person::Here, &["restart", CLUSTER, "--yes", "-o", "json"]);
        if restarted.exit != Some(0) {
            return Err(format!("one more restart ended with {:?}", restarted.exit));
        }
    }
    let left = left_over(play.place);
    if left.is_empty() { Ok(()) } else { Err(format!("left over: {left:#?}")) }
}

/// On what was set right, a new synchronization does what it is for.
fn one_more_sync(play: &mut Play<'_>) -> Result<(), String> {
    let sync = ["sync", CLUSTER, "--yes", "--settle", "0", "-o", "json"];
    let mut ran = play.types(Person::Here, &sync);
    if ran.err.contains("is locked by run") {
        play.types(Person::Here, &["unlock", CLUSTER, "--yes"]);
        ran = play.types(Person::Here, &sync);
    }
    play.start.exit_is_true(play.place, &ran)?;
    let well = play.place.lab.truth().unwrap().all_in_sync();
    match (ran.exit, well) {
        (Some(0), true) => Ok(()),
        (exit, _) => Err(format!("one more sync ended with {exit:?}, all in sync: {well}")),
    }
}
