//! A random schedule of faults: what nobody thought of, drawn by a seed.
//!
//! One *story* by one seed: some servers, some of them out of sync, a synchronization with some flags, and one to five
//! things that go wrong on the way, one upon the other. Then all is set right, and an administrator who only types what
//! `umsid` prints brings the run to its end. Whatever that end is, what no end may break is judged.
//!
//! What goes wrong does so at moments and at words of `umsid` as far as can be, not at times, so that a seed played again
//! is the same story, as far as processes that run at the same time ever do the same.

#![expect(clippy::print_stdout, reason = "the seeds to play it again with, and what was played")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Instant;

use crate::matrix::{all_at_once, fresh};
use crate::trials::nothing;

mod fault;
mod judge;
mod people;
mod play;
mod story;

use play::Play;
use story::{Story, name};

crate::tests!(nothing; whatever_goes_wrong_no_server_is_worse_off_and_the_next_sync_does_it);

/// How many stories are played by default, in the sample, and in the whole.
const SLICE: u64 = 4;
const SAMPLE: u64 = 20;
const WHOLE: u64 = 150;

/// The seeds to be played.
fn wanted() -> Vec<u64> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let (seed, stories) = match variable("UMSID_FAULTS").as_str() {
        "" | "slice" => (1, SLICE),
        "sample" => (fresh(), SAMPLE),
        "whole" => (fresh(), WHOLE),
        other => panic!("UMSID_FAULTS={other} is not slice, sample or whole"),
    };
    let seed = match variable("UMSID_FAULTS_SEED").as_str() {
        "" => seed,
        text => text.parse().expect("UMSID_FAULTS_SEED is a number"),
    };
    let only = variable("UMSID_FAULTS_ONLY");
    // A whole name is that story and no other, whatever the seed.
    if let Some(seed) = only.strip_prefix("schedule ").and_then(|seed| seed.parse().ok()) {
        return vec![seed];
    }
    (0..stories).map(|number| seed.wrapping_add(number)).filter(|seed| name(*seed).contains(&only)).collect()
}

#[derive(Default)]
struct Tally {
    came: BTreeMap<String, usize>,
    ended: BTreeMap<String, usize>,
    failures: Vec<String>,
}

fn whatever_goes_wrong_no_server_is_worse_off_and_the_next_sync_does_it() {
    let seeds = wanted();
    let begun = Instant::now();
    let tally = Mutex::new(Tally::default());
    // Who asks for one wants to see it.
    let is_alone = seeds.len() == 1;
    all_at_once(&seeds, |seed| play(*seed, &tally, is_alone));
    let Tally { came, ended, failures } = tally.into_inner().unwrap();
    let counted = |counts: &BTreeMap<String, usize>| {
        counts.iter().map(|(what, times)| format!("{what} {times}")).collect::<Vec<_>>().join(", ")
    };
    println!(
        "schedules: seed {}: {} stories; what went wrong: {}; what it came to: {}; {} failed; {} s",
        seeds.first().map_or("none".to_owned(), u64::to_string),
        seeds.len(),
        counted(&came),
        counted(&ended),
        failures.len(),
        begun.elapsed().as_secs()
    );
    assert!(failures.is_empty(), "{} failed\n\n{}", failures.len(), failures.join("\n\n"));
}

fn play(seed: u64, tally: &Mutex<Tally>, is_alone: bool) {
    let begun = Instant::now();
    let mut words = name(seed);
    let (mut told, mut came, mut ended) = (Vec::new(), Vec::new(), String::new());
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut place = None;
        let story = Story::draw(seed, |shape| {
            let place = place.insert(play::place(shape));
            play::in_peace(place, shape)
        });
        words = story.to_string();
        let place = place.expect("a run in peace had a place");
        let mut play = Play::new(&place, &story);
        let judged = catch_unwind(AssertUnwindSafe(|| judge::judge(&mut play)));
        let Play { told: told_in_it, came: came_in_it, ended: ended_in_it, .. } = play;
        (told, came, ended) = (told_in_it, came_in_it, ended_in_it);
        judged.unwrap_or_else(|_| Err("the test itself panicked, see above".to_owned()))
    }));
    let played = played.unwrap_or_else(|_| Err("the test itself panicked, see above".to_owned()));
    let mut tally = tally.lock().unwrap();
    for kind in came {
        *tally.came.entry(kind).or_default() += 1;
    }
    let took = begun.elapsed().as_secs();
    match played {
        Ok(()) => {
            if is_alone {
                println!("{words}\n{}", told.join("\n"));
            }
            println!("  {} in {took} s: {ended}", name(seed));
            *tally.ended.entry(ended).or_default() += 1;
        }
        Err(why) => {
            let again = format!("cargo xtask faults --seed {seed} --only '{}'", name(seed));
            let text = format!("{words}\n{}\n{why}\nto play it again: {again}", told.join("\n"));
            // At once: the whole takes long, and may be cut short.
            println!("  failed: {text}");
            tally.failures.push(text);
        }
    }
}
