//! The matrix: every moment of every process of every kind of run.

#![expect(clippy::print_stdout, reason = "the seed to play it again with, and how large the matrix is")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::case::{Case, Fault, Held, Reference, reference};
use crate::ground::Ground;
use crate::kind::{KINDS, Kind};
use crate::tmpfs::Disk;
use crate::trials::nothing;

/// At how many places cases are played at the same time: they wait more than they work.
const PLACES: usize = 6;

/// How many cases a place sees; the lab's books and the journal grow.
const CASES: usize = 40;

crate::tests! { DEATHS: nothing; whoever_dies_the_run_comes_to_the_end_it_comes_to_in_peace }
crate::tests! { DISKS: Disk::missing; whose_disk_is_full_the_run_comes_to_the_same_end_once_there_is_room }

/// How many cases of each kind are played by default, and in the sample.
const SLICE: usize = 2;
const SAMPLE: usize = 16;

struct Wanted {
    seed: u64,
    /// Of each kind; none: all.
    cases: Option<usize>,
    only: String,
}

impl Wanted {
    fn read() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let (seed, cases) = match variable("UMSID_FAULTS").as_str() {
            "" | "slice" => (1, Some(SLICE)),
            "sample" => (fresh(), Some(SAMPLE)),
            "whole" => (fresh(), None),
            other => panic!("UMSID_FAULTS={other} is not slice, sample or whole"),
        };
        let seed = match variable("UMSID_FAULTS_SEED").as_str() {
            "" => seed,
            text => text.parse().expect("UMSID_FAULTS_SEED is a number"),
        };
        Self { seed, cases, only: variable("UMSID_FAULTS_ONLY") }
    }
}

pub(crate) fn fresh() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_secs())
}

/// The cases of one kind, and what they are compared with.
struct Block {
    kind: usize,
    reference: Reference,
    /// In the order in which they are played.
    cases: Vec<Case>,
    /// How many there are in all.
    size: usize,
}

/// What may befall a process at this moment.
///
/// Before a step is recorded as started or skipped nothing has happened since the record before it, which is a moment of its
/// own. `file write` and `file sync` make no difference to who dies: there are hundreds, all alike.
fn befalls(moment: &str) -> &'static [Fault] {
    let nothing_new = ["journal started", "journal skipped"].iter().any(|what| moment.starts_with(what))
        && moment.contains(" before");
    match moment {
        _ if moment.starts_with("file write") || nothing_new => &[Fault::FullDisk],
        _ if moment.starts_with("file sync") => &[],
        _ if moment.starts_with("journal") && moment.contains(" before") => &[Fault::Death, Fault::FullDisk],
        _ => &[Fault::Death],
    }
}

fn block(kind: usize, fault: Fault, wanted: &Wanted) -> Block {
    let place = KINDS[kind].place();
    let reference = reference(&place, &KINDS[kind]);
    let mut cases = Vec::new();
    for (victim, moments) in &reference.moments {
        for moment in moments.iter().filter(|moment| befalls(moment).contains(&fault)) {
            let case = Case { kind, victim: victim.clone(), moment: moment.clone(), fault };
            if case.name().contains(&wanted.only) {
                cases.push(case);
            }
        }
    }
    let size = cases.len();
    fastrand::Rng::with_seed(wanted.seed.wrapping_add(kind as u64)).shuffle(&mut cases);
    cases.truncate(wanted.cases.unwrap_or(size));
    Block { kind, reference, cases, size }
}

/// Does this with all of them, at as many places at the same time as there are; the results in their order.
pub(crate) fn all_at_once<T: Sync, R: Send>(list: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PLACES {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = list.get(number) else { break };
                    let result = work(one);
                    done.lock().unwrap().push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[derive(Default)]
struct Tally {
    played: usize,
    not_reached: Vec<String>,
    restarts: usize,
    resumed: usize,
    failures: Vec<String>,
}

fn whoever_dies_the_run_comes_to_the_end_it_comes_to_in_peace() {
    matrix("crash matrix", Fault::Death);
}

fn whose_disk_is_full_the_run_comes_to_the_same_end_once_there_is_room() {
    matrix("matrix of full disks", Fault::FullDisk);
}

fn matrix(what: &str, fault: Fault) {
    let wanted = Wanted::read();
    let begun = Instant::now();
    println!("{what}: seed {}", wanted.seed);
    // A whole name begins with the kind's.
    let asked = wanted.only.split_once(" / ").map(|(kind, _)| kind);
    let is_asked = |kind: &Kind| asked.is_none_or(|asked| kind.name == asked);
    let plays = |kind: &Kind| is_asked(kind) && (fault == Fault::Death || kind.fills_disks);
    let kinds: Vec<usize> = (0..KINDS.len()).filter(|kind| plays(&KINDS[*kind])).collect();
    let blocks = all_at_once(&kinds, |kind| block(*kind, fault, &wanted));
    for block in &blocks {
        println!(
            "  {:26} {:4} cases ({} processes), {:4} of them played",
            KINDS[block.kind].name,
            block.size,
            block.reference.moments.len(),
            block.cases.len()
        );
    }
    let portions: Vec<(&Block, &[Case])> =
        blocks.iter().flat_map(|block| block.cases.chunks(CASES).map(move |cases| (block, cases))).collect();
    let tally = Mutex::new(Tally::default());
    all_at_once(&portions, |(block, cases)| play(block, fault, cases, &tally));
    let tally = tally.into_inner().unwrap();
    let size: usize = blocks.iter().map(|block| block.size).sum();
    println!(
        "{what}: seed {}: {size} cases = moments x processes x {} kinds of runs; {} played, {} failed; {} never came to their \
         moment; {} restarts more than in peace; a run was taken up by hand {} times; {} s",
        wanted.seed,
        kinds.len(),
        tally.played,
        tally.failures.len(),
        tally.not_reached.len(),
        tally.restarts,
        tally.resumed,
        begun.elapsed().as_secs()
    );
    for name in &tally.not_reached {
        println!("  never came: {name}");
    }
    assert!(
        tally.failures.is_empty(),
        "{} failed; play one again with UMSID_FAULTS=whole UMSID_FAULTS_SEED={} UMSID_FAULTS_ONLY='NAME'\n\n{}",
        tally.failures.len(),
        wanted.seed,
        tally.failures.join("\n\n")
    );
    // A moment may come once less when something else is quicker; where many never come, nothing is tested.
    assert!(tally.not_reached.len() * 20 <= tally.played.max(20), "too many moments never came");
    assert!(tally.played > 0 || !wanted.only.is_empty(), "no case was played");
}

fn play(block: &Block, fault: Fault, cases: &[Case], tally: &Mutex<Tally>) {
    let mut ground = Ground::new(&KINDS[block.kind], fault);
    for case in cases {
        let begun = Instant::now();
        let played =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.play(&ground, &block.reference)));
        let played =
            played.unwrap_or_else(|_| Err(format!("{}: the test itself panicked, see above", case.name())));
        let slow = begun.elapsed();
        let mut tally = tally.lock().unwrap();
        tally.played += 1;
        match played {
            Ok(Held { came, restarts, resumed }) => {
                tally.restarts += restarts;
                tally.resumed += resumed;
                if !came {
                    tally.not_reached.push(case.name());
                }
                if slow > Duration::from_secs(15) {
                    println!("  slow: {} took {} s", case.name(), slow.as_secs());
                }
                continue;
            }
            Err(why) => {
                println!("  failed: {}", case.name());
                tally.failures.push(why);
            }
        }
        drop(tally);
        // What a failed case leaves is no ground for the next.
        ground = Ground::new(&KINDS[block.kind], fault);
    }
}
