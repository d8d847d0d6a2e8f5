//! `umsid-fleet-journal`: what it costs to have every step of a run on record before it is begun, beside a file that only grows.
#![expect(clippy::print_stdout, reason = "it is a program that prints")]

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use jiff::Timestamp;
use umsid::database::Location;
use umsid::journal::Journal;
use umsid::plan::{Plan, What};
use umsid::run::{Event, StepResult, Yield};
use umsid::survey::Proof;
use umsid_common::digest::Digest;
use umsid_common::name::RunId;

/// Puts a run of this plan on record, step by step, as a run in which nothing takes any time; prints the microseconds each step took,
/// and those of a file to which as many bytes are appended and synced as often
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A plan made by `umsid plan --out`
    plan: PathBuf,
    /// An empty directory on the disk in question
    dir: PathBuf,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let text = std::fs::read(&arguments.plan).context("cannot read the plan")?;
    let file: serde_json::Value = serde_json::from_slice(&text).context("that is no plan")?;
    let plan: Plan = serde_json::from_value(file["plan"].clone()).context("that is no plan")?;
    let steps = plan.steps.clone();
    let (run, by) = (RunId::new(Timestamp::now()), "a bench".to_owned());
    let journal = Journal::open(&Location::File(arguments.dir.join("state.db"))).await?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let mut log =
        journal.begin(&run, &Event::Begun { plan: Box::new(plan), by: by.clone(), version }).await?;
    log.append(&Event::Leased { epoch: 1, by }).await?;

    let begun = Instant::now();
    for step in &steps {
        log.prepare(&Event::Started { step: step.no, attempt: 1 })?;
        log.commit().await?;
        log.prepare(&Event::Finished { step: step.no, attempt: 1, result: done(&step.what) })?;
    }
    log.commit().await?;
    let journalled = begun.elapsed();

    let written: Vec<String> =
        log.records().iter().skip(2).map(|record| format!("{}{}", record.text, record.link)).collect();
    let mut file = File::create(arguments.dir.join("appended")).context("cannot make a file")?;
    let begun = Instant::now();
    for records in written.chunks(2) {
        file.write_all(records.concat().as_bytes())?;
        file.sync_data()?;
    }
    let appended = begun.elapsed();
    let each = |whole: std::time::Duration| {
        whole.as_secs_f64() * 1e6 / f64::from(u32::try_from(steps.len()).unwrap_or(u32::MAX))
    };
    println!("{} {}", each(journalled), each(appended));
    Ok(())
}

/// What a step comes to when all goes well.
fn done(what: &What) -> StepResult {
    let yields = match what {
        What::SafetyBackup { .. } | What::Backup { .. } => Yield::Sealed(Digest::of(b"sealed"), 1),
        What::Restore { .. } | What::RestoreOwn { .. } | What::Verify { .. } | What::VerifyOwn { .. } => {
            Yield::Proved(Proof::Yes("it is what it should be".to_owned()))
        }
        _ => Yield::Nothing,
    };
    StepResult::Done { ums_ms: 0, yields, remarks: Vec::new() }
}
