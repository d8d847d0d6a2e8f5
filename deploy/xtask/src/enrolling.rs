//! Enrolling an agent as an administrator does, with one hand at each machine.

use std::path::Path;

use anyhow::{Context as _, ensure};

use crate::program::{Program, first_line};

/// By the pairing code that `umsid-agent enroll`, which is `agent`, prints. `enroll` is what `umsid` is told, without the code.
pub(crate) fn by_code(
    umsid: impl Fn(&[&str]) -> Program,
    agent: Program,
    enroll: &[&str],
    log: &Path,
) -> anyhow::Result<()> {
    let mut waiting = agent.start(log)?;
    let told = first_line(&mut waiting)
        .with_context(|| format!("no pairing code; see {}", log.display()))
        .and_then(|code| umsid(&[enroll, &["--code", &code]].concat()).read_quietly());
    if told.is_err() {
        // Else it would wait for a quarter of an hour.
        waiting.kill()?;
        waiting.wait()?;
    }
    told.with_context(|| format!("not enrolled; see {}", log.display()))?;
    ensure!(waiting.wait()?.success(), "umsid-agent enroll failed; see {}", log.display());
    Ok(())
}

/// By a join file, made below this directory; `agent` brings it to its host and gives the program that waits there.
pub(crate) fn by_join_file(
    umsid: impl Fn(&[&str]) -> Program,
    agent: impl FnOnce(&Path) -> anyhow::Result<Program>,
    enroll: &[&str],
    dir: &Path,
    log: &Path,
) -> anyhow::Result<()> {
    let dir = dir.join("join");
    let there = dir.display().to_string();
    let make = [enroll, &["--join-files", &there]].concat();
    let (code, said) = umsid(&make).hear()?;
    let name =
        enroll.iter().skip_while(|word| **word != "--name").nth(1).context("nobody is to be enrolled")?;
    let file = dir.join(format!("{name}.join"));
    ensure!(file.exists(), "umsid made no {} and ended with {code:?}: {said}", file.display());
    let mut waiting = agent(&file)?.start(log)?;
    umsid(&[&make[..], &["--wait", "60s"]].concat()).read_quietly()?;
    ensure!(waiting.wait()?.success(), "umsid-agent enroll failed; see {}", log.display());
    Ok(())
}
