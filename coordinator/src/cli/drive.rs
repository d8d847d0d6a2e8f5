//! Carrying out a run for somebody who watches: display, Ctrl-C, report.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;
use umsid_common::name::ServerName;

use super::prepare::Situation;
use super::resume::situation_of;
use super::wait_for::window;
use super::{Context, Format};
use crate::exit::{self, Exit};
use crate::journal::{Journal, JournalError, RunLog};
use crate::plan::Plan;
use crate::progress::{Display, report_document};
use crate::report::{Report, Stopwatch};
use crate::run::{self, Crew, Pace, RunError, needed};

/// How patient a run is.
#[derive(Debug, Args)]
pub(super) struct Patience {
    /// How long a server may be out of reach before the run halts, as `30s` or `10min`
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5min")]
    contact_timeout: Duration,
    /// How long a backup, restore or restart may take on its server, whatever its agent says, before the run halts
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "6h")]
    operation_timeout: Duration,
    /// How long servers stay locked for a run whose umsid says nothing any more; agents grant no less than 10s
    #[arg(long, hide = true, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    lease: Duration,
}

/// The longest duration that is taken: a longer one would reach past the end of the clock that measures it.
pub(super) const A_YEAR: Duration = Duration::from_secs(366 * 24 * 3600);

/// A duration as it is typed.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration =
        text.parse().map_err(|_| "a duration looks like 30s, 10min or 1h30min".to_owned())?;
    match Duration::try_from(duration) {
        Err(_) => Err("a duration cannot be negative".to_owned()),
        Ok(duration) if duration > A_YEAR => Err("more than a year is no limit".to_owned()),
        Ok(duration) => Ok(duration),
    }
}

/// What is to be carried out.
pub(super) enum Work {
    /// A new run.
    Begin(Plan),
    /// A run that stands still; whether windows are ignored from here on.
    Resume(RunLog, bool),
    /// A run to be undone, on these servers or all it touched.
    TurnBack(RunLog, Vec<ServerName>),
}

impl Work {
    fn plan(&self) -> &Plan {
        match self {
            Self::Begin(plan) => plan,
            Self::Resume(log, _) | Self::TurnBack(log, _) => log.state().plan(),
        }
    }
}

/// Carries it out as far as it goes; `thinking` is the time a person took to say yes. Where it stands still because a site is
/// closed, it is taken up when that opens, if that is wanted: `through` all windows.
pub(super) async fn drive(
    context: &Context,
    situation: Situation,
    work: Work,
    patience: &Patience,
    thinking: Duration,
    through: bool,
) -> anyhow::Result<Exit> {
    let mut report = one_session(context, situation, work, patience, thinking).await?;
    while let Some(run) = report.run.clone().filter(|_| through && report.exit() == Exit::NotNow) {
        let log = Journal::open(&context.journal()).await?.load(&run).await?;
        let mut signals = Signals::new()?;
        let opened = async {
            window(context, log.state(), true).await?;
            situation_of(context, &log, &needed(log.state())).await
        };
        let opened = tokio::select! {
            opened = opened => opened,
            // What was going on is over: to be interrupted here is to leave.
            () = signals.next() => break,
        };
        let situation = match opened {
            Ok(situation) => situation,
            Err(error) => {
                // How it stands is told all the same.
                let _ = show(context, &report);
                return Err(error);
            }
        };
        report = one_session(context, situation, Work::Resume(log, false), patience, Duration::ZERO).await?;
    }
    match show(context, &report) {
        Ok(()) => Ok(report.exit()),
        Err(error) => Err(unreported(&report, error)),
    }
}

/// From where it stands until it stands again, or is over.
async fn one_session(
    context: &Context,
    situation: Situation,
    work: Work,
    patience: &Patience,
    thinking: Duration,
) -> anyhow::Result<Report> {
    let plan = work.plan().clone();
    let more: Vec<_> = match &work {
        Work::Begin(_) => Vec::new(),
        Work::Resume(log, _) | Work::TurnBack(log, _) => log.state().steps().cloned().collect(),
    };
    let display = Arc::new(Display::new(context.out, &plan, &more));
    let stop = context.stop.clone();
    let asked_to_leave = asked_to_leave(vec![Arc::clone(&display)], stop.clone())?;
    let ended = tokio::select! {
        ended = carry_out(situation, work, patience, &display, stop, thinking) => Some(ended),
        () = asked_to_leave => None,
    };
    display.close();
    let Some(ended) = ended else {
        let error =
            exit::Refusal::new(Exit::Interrupted, "left at once; what was going on on servers goes on there");
        return Err(error.remedy(resume(&display)).into());
    };
    let report = ended?;
    match display.unprinted() {
        None => Ok(report),
        Some(error) => {
            // What came of it is told to whoever still listens.
            let _ = show(context, &report);
            Err(unreported(&report, error))
        }
    }
}

/// The same without anything around it: told to this display, until `stop`.
pub(super) async fn carry_out(
    situation: Situation,
    work: Work,
    patience: &Patience,
    display: &Arc<Display>,
    stop: CancellationToken,
    thinking: Duration,
) -> anyhow::Result<Report> {
    let (events_before, by_request) = match &work {
        Work::Begin(_) => (0, false),
        Work::Resume(log, _) => (log.events().len(), false),
        Work::TurnBack(log, _) => (log.events().len(), true),
    };
    let survey_ums_ms = situation.survey.ums_ms();
    let begun = situation.begun;
    let crew = Crew {
        agents: situation.connections,
        survey: situation.survey,
        by: situation.by,
        pace: Pace {
            contact: patience.contact_timeout,
            operation: patience.operation_timeout,
            lease: patience.lease,
        },
        tell: {
            let display = Arc::clone(display);
            Arc::new(move |notice| display.tell(&notice))
        },
        stop,
    };
    let log = match work {
        Work::Begin(plan) => run::begin(&situation.journal, plan, &crew).await,
        Work::Resume(log, ignore_windows) => run::resume(log, ignore_windows, &crew).await,
        Work::TurnBack(log, servers) => run::turn_back(log, &servers, &crew).await,
    };
    let log = log.map_err(|error| with_run(error, display))?;
    let elapsed = begun.elapsed().saturating_sub(thinking);
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    Ok(Report::of(&log, Stopwatch { events_before, elapsed_ms, survey_ums_ms }, by_request))
}

/// The run went to its end; that its reader does not know must not look like success.
fn unreported(report: &Report, error: io::Error) -> anyhow::Error {
    let exit = match report.exit() {
        Exit::Success => Exit::Failed,
        exit => exit,
    };
    let run = report.run.as_ref().map_or_else(String::new, |run| format!(" {run}"));
    let what = format!("run{run}: {}; but what it did could not be printed", report.outcome.as_str());
    exit::Refusal::new(exit, what).remedy(format!("`umsid runs show{run}` shows it")).because(error).into()
}

/// A run that ended without a word in its journal is named, so that it can be taken up.
fn with_run(error: RunError, display: &Display) -> anyhow::Error {
    match (&error, display.run()) {
        // A record that is damaged is not taken up again; the journal says what to do.
        (RunError::Journal(JournalError::Damaged { .. }), _) => error.into(),
        (RunError::Journal(_), Some(run)) => {
            let what = format!("run {run} was stopped");
            exit::Refusal::new(Exit::Failed, what).remedy(resume(display)).because(error).into()
        }
        _ => error.into(),
    }
}

fn resume(display: &Display) -> String {
    display.run().map_or_else(
        || "begin again: no run was begun".to_owned(),
        |run| format!("`umsid resume {run}` goes on where it stands"),
    )
}

/// Prints what came of a run: the data on standard output, what to do about it on standard error.
pub(super) fn show(context: &Context, report: &Report) -> io::Result<()> {
    if context.out.format() == Format::Json {
        return context.out.json_line(&report_document(report));
    }
    let table = match report.run {
        Some(_) => {
            let (header, rows) = report.table();
            context.out.table(&header, rows)
        }
        None => Ok(()),
    };
    let timeline = table.and_then(|()| match report.timeline.as_str() {
        "" => Ok(()),
        timeline => context.out.text(format_args!("\n{timeline}")),
    });
    let printed = timeline.and_then(|()| context.out.text(report.summary()));
    // What to do is said all the more when nobody could be told how it stands.
    let aftermath = report.aftermath();
    if !aftermath.is_empty() {
        // With standard error gone there is nobody to talk to.
        let _ = io::stderr().lock().write_all(aftermath.as_bytes());
    }
    printed
}

/// The first Ctrl-C or SIGTERM stops the runs after what is going on; this ends at the second.
pub(super) fn asked_to_leave(
    displays: Vec<Arc<Display>>,
    stop: CancellationToken,
) -> io::Result<impl Future<Output = ()> + use<>> {
    let mut signals = Signals::new()?;
    Ok(async move {
        signals.next().await;
        stop.cancel();
        let going_on: Vec<String> = displays.iter().flat_map(|display| display.going_on()).collect();
        let wait = if going_on.is_empty() {
            "stopping".to_owned()
        } else {
            format!("stopping after what is going on: {}", going_on.join("; "))
        };
        if let Some(display) = displays.first() {
            display.say(&format!("{wait}. Ctrl-C again leaves at once"));
        }
        signals.next().await;
    })
}

#[cfg(unix)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
pub(super) struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    quit: tokio::signal::windows::CtrlBreak,
}

#[cfg(not(unix))]
impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c};
        Ok(Self { interrupt: ctrl_c()?, quit: ctrl_break()? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_write_them() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("10min"), Ok(Duration::from_secs(600)));
        assert!(duration("-1s").unwrap_err().contains("negative"));
        assert!(duration("9000h").unwrap_err().contains("a year"));
        assert!(duration("9223372036854775807s").unwrap_err().contains("a year"));
        assert!(duration("soon").unwrap_err().contains("looks like"));
    }
}
