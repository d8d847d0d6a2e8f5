//! A story: an installation, what is typed there, what goes wrong, and how it is brought to its end.

use std::fmt;
use std::time::Duration;

use umsid_lab::Break;

use super::fault::{Fault, LEASE, Peace};
use crate::place::CLUSTER;

/// What is typed, and where: stories of one shape come to the same moments if left in peace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) servers: usize,
    /// Out of sync for good.
    pub(super) lasting: Vec<String>,
    /// Out of sync until they are restarted.
    pub(super) restart_helps: Vec<String>,
    pub(super) typed: Vec<String>,
}

/// What is drawn by one seed.
pub(super) struct Story {
    pub(super) seed: u64,
    pub(super) shape: Shape,
    pub(super) faults: Vec<Fault>,
    /// How often `umsid` is typed while things still go wrong.
    pub(super) in_trouble: usize,
    /// How long the service manager takes to start an agent that died.
    pub(super) manager_takes: Duration,
    /// Then the journal is lost.
    pub(super) journal_lost: bool,
    /// In the end the run is rolled back, not resumed.
    pub(super) back: bool,
}

impl Shape {
    pub(super) fn draw(rng: &mut fastrand::Rng) -> Self {
        let servers = *choose(rng, &[3, 3, 3, 3, 4, 4, 4, 5]);
        let (mut lasting, mut restart_helps) = (Vec::new(), Vec::new());
        for number in 2..=servers {
            let name = format!("ums{number}");
            match rng.u32(0..8) {
                0..5 => lasting.push(name),
                5..7 => restart_helps.push(name),
                _ => {}
            }
        }
        if lasting.is_empty() && restart_helps.is_empty() {
            lasting.push("ums2".to_owned());
        }
        let mut typed = vec!["sync".to_owned(), CLUSTER.to_owned()];
        let mut add = |parts: &[&str]| typed.extend(parts.iter().map(|part| (*part).to_owned()));
        add(&["--yes", "--settle", "0"]);
        if rng.u32(0..3) == 0 {
            add(&["--restart-first"]);
        }
        if rng.u32(0..4) == 0 {
            add(&["--rehearse"]);
        }
        if servers > 3 && rng.bool() {
            add(&["--batch", if rng.bool() { "2" } else { "3" }]);
        }
        if rng.u32(0..3) == 0 {
            add(&["--restart", "restored"]);
        }
        Self { servers, lasting, restart_helps, typed }
    }

    pub(super) fn names(&self) -> Vec<String> {
        (1..=self.servers).map(|number| format!("ums{number}")).collect()
    }

    pub(super) fn broken(&self) -> [(&[String], Break); 2] {
        [(&self.lasting, Break::Lasting), (&self.restart_helps, Break::FixableByRestart)]
    }
}

impl Story {
    /// `in_peace` tells what a run of this shape comes to.
    pub(super) fn draw(seed: u64, in_peace: impl FnOnce(&Shape) -> Peace) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let shape = Shape::draw(&mut rng);
        let peace = in_peace(&shape);
        let names = shape.names();
        // Rather more than less: one alone is what the matrix is for.
        let how_many = rng.usize(1..=5).max(rng.usize(1..=5));
        let faults = (0..how_many).map(|_| Fault::draw(&mut rng, &names, &peace)).collect();
        Self {
            seed,
            faults,
            in_trouble: 1 + usize::from(rng.u32(0..3) == 0),
            manager_takes: Duration::from_millis(rng.u64(0..1500)),
            journal_lost: rng.u32(0..6) == 0,
            back: rng.u32(0..3) == 0,
            shape,
        }
    }

    pub(super) fn name(&self) -> String {
        name(self.seed)
    }
}

/// By which a story can be asked for again.
pub(super) fn name(seed: u64) -> String {
    format!("schedule {seed}")
}

fn choose<'a, T>(rng: &mut fastrand::Rng, list: &'a [T]) -> &'a T {
    &list[rng.usize(0..list.len())]
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { servers, lasting, restart_helps, typed } = &self.shape;
        writeln!(f, "{}: {servers} servers", self.name())?;
        for (list, how) in [(lasting, "for good"), (restart_helps, "until they are restarted")] {
            if !list.is_empty() {
                writeln!(f, "  out of sync {how}: {}", list.join(", "))?;
            }
        }
        writeln!(
            f,
            "  `umsid {} --lease {LEASE}`, typed or resumed {} times while",
            typed.join(" "),
            self.in_trouble
        )?;
        for fault in &self.faults {
            writeln!(f, "  - {fault}")?;
        }
        writeln!(f, "  an agent that died is started after {} ms", self.manager_takes.as_millis())?;
        if self.journal_lost {
            writeln!(f, "  then the journal is lost")?;
        }
        let end = if self.back { "rolled back" } else { "resumed" };
        write!(f, "  then all is set right, and what is not over is {end}")
    }
}
