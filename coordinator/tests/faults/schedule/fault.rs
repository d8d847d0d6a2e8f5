//! What may go wrong in a story, and when.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::case::Victim;

/// How long servers stay locked for an `umsid` that says nothing any more: the least an agent grants.
pub(super) const LEASE: &str = "10s";

/// More than a lease lasts.
const PAST_THE_LEASE: Duration = Duration::from_secs(11);

/// A run of the same shape left in peace.
pub(super) struct Peace {
    /// The moments of every process, sorted.
    pub(super) moments: BTreeMap<Victim, Vec<String>>,
    /// What `umsid` said, as [`said`] puts it, sorted.
    pub(super) said: Vec<String>,
}

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) what: What,
    pub(super) when: When,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// As a crash would: `abort` at a moment, SIGKILL otherwise.
    Dies(Victim),
    /// It stands still for so long.
    Freezes(Victim, Duration),
    /// Ctrl-C.
    Interrupted,
    /// The UMS on this server does not do as it should, for so long; `None`: until it is set right.
    Misbehaves { server: String, setting: (&'static str, String), lasts: Option<Duration> },
    /// Somebody else types these, one after the other: in the next room, or on another machine of the same authority.
    Typed { commands: &'static [&'static [&'static str]], elsewhere: bool },
}

#[derive(Debug, Clone)]
pub(super) enum When {
    /// Before anything is typed.
    Before,
    /// As soon as `umsid` says this.
    Said(String),
    /// When the process itself comes to this moment.
    Moment(String),
    /// As soon as `umsid` has ended, however.
    Ended,
}

/// Sub-commands of `umsadmin-cli` that may misbehave.
const SUB_COMMANDS: [&str; 4] = ["list", "backup", "restore", "export"];

/// What every setting a story may change is when all is well.
pub(super) const WELL: [(&str, &str); 13] = [
    ("fails", ""),
    ("fails_after_effect", ""),
    ("exit_zero_no_effect", ""),
    ("hang", ""),
    ("hang_forks_child", "false"),
    ("leaves_child", ""),
    ("empty_backup", "false"),
    ("restore_delay_ms", "0"),
    ("start", "normal"),
    ("restore", "plain"),
    ("exclusive", "false"),
    ("noise", "false"),
    ("stop_ms", "0"),
];

impl Fault {
    pub(super) fn draw(rng: &mut fastrand::Rng, servers: &[String], peace: &Peace) -> Self {
        match rng.u32(0..100) {
            0..22 => Self::dies(rng, servers, peace),
            22..36 => Self::freezes(rng, servers, peace),
            36..42 => Self { what: What::Interrupted, when: later(rng, peace) },
            42..86 => {
                let when = if rng.bool() { When::Before } else { later(rng, peace) };
                Self { what: misbehaves(rng, servers), when }
            }
            _ => {
                let when = if rng.bool() { When::Ended } else { later(rng, peace) };
                Self { what: typed(rng), when }
            }
        }
    }

    fn dies(rng: &mut fastrand::Rng, servers: &[String], peace: &Peace) -> Self {
        let victim = victim(rng, servers);
        let when = at(rng, &victim, peace);
        Self { what: What::Dies(victim), when }
    }

    fn freezes(rng: &mut fastrand::Rng, servers: &[String], peace: &Peace) -> Self {
        let victim = victim(rng, servers);
        let when = at(rng, &victim, peace);
        let long = if rng.u32(0..10) == 0 { PAST_THE_LEASE } else { millis(rng, 100..2500) };
        Self { what: What::Freezes(victim, long), when }
    }

    /// What it is counted under; `None`: by what is seen of it.
    pub(super) fn kind(&self) -> Option<String> {
        match &self.what {
            What::Dies(_) | What::Freezes(..) => None,
            What::Interrupted => Some("Ctrl-C".to_owned()),
            What::Misbehaves { setting: (key, _), .. } => Some(format!("the UMS: {key}")),
            What::Typed { commands, .. } => Some(format!("a second person: {}", words(commands))),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.when {
            When::Before => f.write_str("from the beginning: ")?,
            When::Said(what) => write!(f, "at {what:?}: ")?,
            When::Moment(moment) => write!(f, "at its moment {moment:?}: ")?,
            When::Ended => f.write_str("when umsid has ended: ")?,
        }
        let process = |victim: &Victim| match victim {
            Victim::Coordinator => "umsid".to_owned(),
            Victim::Agent(server) => format!("the agent of {server}"),
        };
        match &self.what {
            What::Dies(victim) => write!(f, "{} dies", process(victim)),
            What::Freezes(victim, long) => {
                write!(f, "{} stands still for {} ms", process(victim), long.as_millis())
            }
            What::Interrupted => f.write_str("Ctrl-C"),
            What::Misbehaves { server, setting: (key, value), lasts } => {
                let lasts = lasts.map_or("until it is set right".to_owned(), |long| {
                    format!("for {} ms", long.as_millis())
                });
                write!(f, "the UMS on {server} has {key}={value}, {lasts}")
            }
            What::Typed { commands, elsewhere } => {
                let place = if *elsewhere { "on another machine" } else { "in the next room" };
                write!(f, "somebody {place} types {}", words(commands))
            }
        }
    }
}

fn millis(rng: &mut fastrand::Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

fn one<'a, T>(rng: &mut fastrand::Rng, list: &'a [T]) -> &'a T {
    &list[rng.usize(0..list.len())]
}

fn victim(rng: &mut fastrand::Rng, servers: &[String]) -> Victim {
    // umsid as often as all agents together.
    if rng.bool() { Victim::Coordinator } else { Victim::Agent(one(rng, servers).clone()) }
}

/// At one of its own moments, mostly; now and then at something `umsid` says.
fn at(rng: &mut fastrand::Rng, victim: &Victim, peace: &Peace) -> When {
    let moments = peace.moments.get(victim).map_or(&[][..], Vec::as_slice);
    if moments.is_empty() || rng.u32(0..4) == 0 {
        return later(rng, peace);
    }
    When::Moment(one(rng, moments).clone())
}

fn later(rng: &mut fastrand::Rng, peace: &Peace) -> When {
    When::Said(one(rng, &peace.said).clone())
}

fn misbehaves(rng: &mut fastrand::Rng, servers: &[String]) -> What {
    let sub_command = (*one(rng, &SUB_COMMANDS)).to_owned();
    let setting = match rng.u32(0..18) {
        0..3 => ("fails", sub_command),
        3..5 => ("fails_after_effect", sub_command),
        5..8 => ("exit_zero_no_effect", sub_command),
        8..10 => ("hang", sub_command),
        10 => ("leaves_child", sub_command),
        11 => ("start", "refuses".to_owned()),
        12 => ("start", "old-id".to_owned()),
        13 => ("start", format!("dies-after:{}", rng.u32(50..1500))),
        14 => ("start", (*one(rng, &["never", "after:1500"])).to_owned()),
        15 => ("restore", "stops-server".to_owned()),
        16 => (*one(rng, &["exclusive", "noise", "empty_backup"]), "true".to_owned()),
        _ => (*one(rng, &["restore_delay_ms", "stop_ms"]), rng.u32(200..1500).to_string()),
    };
    let lasts = (rng.u32(0..3) > 0).then(|| millis(rng, 200..4000));
    What::Misbehaves { server: one(rng, servers).clone(), setting, lasts }
}

/// What a second person types.
const SYNC: &[&str] = &["sync", "--yes", "--settle", "0"];
const UNLOCK: &[&str] = &["unlock", "--yes"];
const TYPED: &[&[&[&str]]] =
    &[&[SYNC], &[&["resume"]], &[UNLOCK], &[UNLOCK, SYNC], &[UNLOCK, SYNC], &[&["status"]]];

fn typed(rng: &mut fastrand::Rng) -> What {
    let commands = *one(rng, TYPED);
    What::Typed { commands, elsewhere: rng.bool() }
}

fn words(commands: &[&[&str]]) -> String {
    commands.iter().map(|command| command[0]).collect::<Vec<_>>().join(", then ")
}

/// A line of `umsid -o json` as something a fault may wait for; `None`: it differs from run to run.
pub(super) fn said(event: &serde_json::Value) -> Option<String> {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let place = event["server"].as_str().unwrap_or("the cluster");
    match text("event") {
        "phase" => {
            let what = text("what");
            let timeless = !what.replace(place, "").contains(|c: char| c.is_ascii_digit());
            timeless.then(|| format!("{place}: {what}"))
        }
        event @ ("started" | "finished") => Some(format!("{place}: {} {event}", text("do"))),
        event @ ("begun" | "leased") => Some(event.to_owned()),
        _ => None,
    }
}
