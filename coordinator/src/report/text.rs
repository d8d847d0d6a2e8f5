//! The report as text.

use std::fmt::Write as _;
use std::time::Duration;

use umsid_common::digest::Fingerprint;
use umsid_proto::model::RawOutput;

use super::{FailedStep, Outcome, Report};
use crate::printout::{Cell, Tone};
use crate::run::Stuck;
use crate::survey::SyncState;

/// Lines of a program's output that are shown; the end of it says what went wrong.
const LINES_SHOWN: usize = 20;

impl Report {
    /// The header and rows of the closing table.
    pub fn table(&self) -> (Vec<&'static str>, Vec<Vec<Cell>>) {
        let header = vec!["SERVER", "SITE", "BEFORE", "AFTER", "RESTORED", "RESTARTED", "TIME", "PROOF"];
        let yes = |what: bool| Cell::plain(if what { "yes" } else { "-" });
        let rows = self.servers.iter().map(|(server, report)| {
            let restored = match (report.restored, report.put_back) {
                (_, true) => Cell::new("put back", Tone::Doubtful),
                (restored, false) => yes(restored),
            };
            let name = if report.canary { format!("{server} (canary)") } else { server.to_string() };
            let mut proof = report.proof.clone();
            for remark in &report.remarks {
                let _ = write!(proof, "{}{remark}", if proof.is_empty() { "" } else { "; " });
            }
            vec![
                Cell::plain(name),
                Cell::plain(report.site.as_ref().map_or("-", |site| site.as_str())),
                Cell::plain(report.before),
                Cell::new(report.after, tone(report.after)),
                restored,
                yes(report.restarted),
                Cell::plain(seconds(report.ms)),
                Cell::plain(if proof.is_empty() { "-" } else { &proof }),
            ]
        });
        (header, rows.collect())
    }

    /// One line: outcome and times.
    pub fn summary(&self) -> String {
        let times = format!(
            "{} (waiting for the UMS {}, umsid {})",
            seconds(self.elapsed_ms),
            seconds(self.ums_ms),
            seconds(self.overhead_ms)
        );
        match &self.run {
            Some(run) => format!("run {run}: {} after {times}", self.outcome.as_str()),
            None => format!("{}: {}, seen in {times}", self.cluster, self.outcome.as_str()),
        }
    }

    /// What was left over, what went wrong, why, and what to do; empty if nothing.
    pub fn aftermath(&self) -> String {
        let mut text = String::new();
        for failed in &self.failures {
            failed.write(&mut text);
        }
        if let Some(halt) = &self.halt {
            let word = if halt.stuck.is_some() { "stuck" } else { "halted" };
            let _ = writeln!(text, "{word}: {}", halt.why);
            if let Some(Stuck { server, had, shows }) = &halt.stuck {
                let print = |print: &Option<Fingerprint>| {
                    print.map_or_else(|| "one that is not known".to_owned(), |print| print.short())
                };
                let (had, shows) = (print(had), print(shows));
                let _ =
                    writeln!(text, "  {server}: its UMS ID before the run was {had}, now it shows {shows}");
            }
            // What a failed step says of it was said above.
            if !halt.remedy.is_empty() && self.failures.is_empty() {
                let _ = writeln!(text, "  what to do: {}", halt.remedy);
            }
        }
        if let (Some(why), false) = (&self.turned_back, self.outcome == Outcome::Synchronized) {
            let _ = writeln!(text, "went back: {why}");
        }
        for left in &self.left_over {
            let _ = writeln!(text, "left over: {left}");
        }
        let widest = self.next.iter().map(|advice| advice.command.len()).max().unwrap_or_default();
        for advice in &self.next {
            let _ = writeln!(text, "  {:widest$}  {}", advice.command, advice.does);
        }
        text
    }
}

impl FailedStep {
    fn write(&self, text: &mut String) {
        let place = self.server.as_ref().map_or(String::new(), |server| format!("{server}: "));
        let what = if self.code.is_some() { "failed" } else { "ended, and what it did is not known" };
        let _ = writeln!(text, "{place}step {} ({}) {what}", self.step, self.what);
        for cause in &self.causes {
            let _ = writeln!(text, "  because: {cause}");
        }
        if let Some(raw) = &self.raw {
            text.push_str(&raw_output(raw, "  "));
        }
        if !self.remedy.is_empty() {
            let _ = writeln!(text, "  what to do: {}", self.remedy);
        }
    }
}

/// A command and the end of what it printed, without control characters.
pub fn raw_output(raw: &RawOutput, indent: &str) -> String {
    let status = match (raw.status, raw.problem.as_str()) {
        (Some(status), "") => format!("ended with status {status}"),
        (Some(status), problem) => format!("ended with status {status}: {problem}"),
        (None, "") => "did not end by itself".to_owned(),
        (None, problem) => problem.to_owned(),
    };
    let mut text = format!("{indent}`{}` {}\n", clean(&raw.command), clean(&status));
    for (name, stream) in [("stdout", &raw.stdout), ("stderr", &raw.stderr)] {
        let lines: Vec<&str> = stream.lines().collect();
        let shown = lines.len().saturating_sub(LINES_SHOWN);
        if shown > 0 {
            let _ = writeln!(text, "{indent}  {name}: … {shown} lines before");
        }
        for line in &lines[shown..] {
            let _ = writeln!(text, "{indent}  {name}: {}", clean(line));
        }
    }
    text
}

/// What servers say goes onto a terminal: no control characters, and no line without end.
fn clean(line: &str) -> String {
    line.chars().take(400).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn tone(state: SyncState) -> Tone {
    match state {
        SyncState::Main | SyncState::InSync => Tone::Good,
        SyncState::NotInSync => Tone::Bad,
        SyncState::Unknown => Tone::Doubtful,
    }
}

/// Milliseconds as people read them.
pub(crate) fn seconds(ms: u64) -> String {
    let duration = Duration::from_millis(ms);
    match duration.as_secs() {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{} s", duration.as_secs()),
        secs => format!("{} min {} s", secs / 60, secs % 60),
    }
}
