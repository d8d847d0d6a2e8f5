//! `umsid check`
//!
//! Whoever calls this knows four exit codes, and shows the first line it prints. Whatever goes wrong, those are what it gets:
//! <https://nagios-plugins.org/doc/guidelines.html>.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use umsid_common::durable::{self, Access};
use umsid_common::name::ClusterName;

use super::look::Eyes;
use super::past::Past;
use super::prepare::wanted;
use super::{Context, drive};
use crate::cli;
use crate::condition::{Bounds, Condition, Level, Limits};
use crate::exit;
use crate::metrics;

mod checkmk;
mod nagios;

/// Say how clusters are, for a monitoring system: one line, and exit code 0, 1, 2 or 3
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  umsid check hamburg
  umsid check --all --timeout 30 --certificate 60,14
  umsid check --all --format checkmk
  umsid check --all --format openmetrics --write /var/lib/node_exporter/umsid.prom

Exit codes, those of the plugin interface of Nagios, Icinga and others, and no others:
    0  OK: all servers answered and are in sync, and nothing else is found
    1  WARNING: in sync, but something will be bad or may be
    2  CRITICAL: a server is not in sync, does not answer, or its UMS Server is not well
    3  UNKNOWN: it cannot be told; also after a wrong command line, and for --help

With --format checkmk or openmetrics the states are in the text: 0 if it could be made, else 3.")]
pub(super) struct Check {
    /// Which clusters [default: the only one there is]
    #[arg(value_name = "CLUSTER", conflicts_with = "all")]
    clusters: Vec<ClusterName>,
    /// All clusters
    #[arg(long)]
    all: bool,
    /// In what form
    #[arg(long, value_enum, default_value_t = Form::Nagios, value_name = "FORM")]
    format: Form,
    /// How long it may take in all, in seconds or as `30s`: a server that has not answered by then has not answered
    #[arg(short, long, value_name = "SECONDS", value_parser = timeout, default_value = "50")]
    timeout: Duration,
    /// With fewer days than this left, a certificate is a warning, and critical
    #[arg(long, value_name = "WARNING,CRITICAL", value_parser = days, default_value = "30,7")]
    certificate: Bounds,
    /// More seconds than this apart, clocks are a warning, and critical
    #[arg(long, value_name = "WARNING,CRITICAL", value_parser = skew, default_value = "30,60")]
    skew: Bounds,
    /// Write it into this file, which is whole at every moment, instead of printing it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

/// Who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Nagios, Icinga, Naemon, and Checkmk's MRPE: a line with performance data, and more lines with the details
    Nagios,
    /// Checkmk's local checks: a line for each cluster, a service of its own
    Checkmk,
    /// Prometheus and others; also what the node exporter takes from text files
    Openmetrics,
}

/// How many clusters are asked at once, so that no socket is missing for the next one: that would look like a server which is down.
const AT_ONCE: usize = 64;

/// Less than this is left for printing when the time is up.
const MARGIN: Duration = Duration::from_millis(500);

fn timeout(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs);
    let timeout = seconds.or_else(|_| drive::duration(text))?;
    if timeout < Duration::from_secs(1) {
        return Err("in less than a second nobody answers".to_owned());
    }
    Ok(timeout.min(drive::A_YEAR))
}

fn days(text: &str) -> Result<Bounds, String> {
    let bounds = bounds(text, 24 * 3600)?;
    if bounds.critical > bounds.warning {
        return Err("it warns before it is critical: the first number is the larger one".to_owned());
    }
    Ok(bounds)
}

fn skew(text: &str) -> Result<Bounds, String> {
    let bounds = bounds(text, 1)?;
    if bounds.critical < bounds.warning {
        return Err("it warns before it is critical: the first number is the smaller one".to_owned());
    }
    Ok(bounds)
}

fn bounds(text: &str, unit: u64) -> Result<Bounds, String> {
    let number =
        |text: &str| text.parse::<u32>().ok().map(|number| Duration::from_secs(u64::from(number) * unit));
    let read = || {
        let (warning, critical) = text.split_once(',')?;
        Some(Bounds { warning: number(warning)?, critical: number(critical)? })
    };
    read().ok_or_else(|| "these are two numbers, as 30,7".to_owned())
}

/// What is said, and how it ends.
struct Answer {
    level: Level,
    text: String,
}

/// Everything that was found out.
struct Found {
    conditions: Vec<Condition>,
    own_not_after: Timestamp,
}

impl Check {
    /// Looks and says what it saw; gives the exit code.
    pub(super) async fn run(self, context: &Context) -> u8 {
        let spoken = Arc::new(AtomicBool::new(false));
        self.leave_in_time(&spoken, context.out.format());
        let answer = match self.look(context).await {
            Ok(found) => self.answer(context, &found),
            Err(error) => self.nothing(&error, context.out.format()),
        };
        if spoken.swap(true, Ordering::SeqCst) {
            // The clock was faster, and is about to end this.
            return Level::Unknown.code();
        }
        self.give(&answer)
    }

    /// Even where a disk or a name server holds this up for ever there is an answer in time.
    fn leave_in_time(&self, spoken: &Arc<AtomicBool>, format: cli::Format) {
        let (spoken, timeout, form) = (Arc::clone(spoken), self.timeout, self.format);
        std::thread::spawn(move || {
            std::thread::sleep(timeout);
            if !spoken.swap(true, Ordering::SeqCst) {
                let what = format!("nothing was found out within {} s", timeout.as_secs_f32());
                print(&nothing_known(&what, form, format));
            }
            std::process::exit(Level::Unknown.code().into());
        });
    }

    async fn look(&self, context: &Context) -> anyhow::Result<Found> {
        let eyes = Eyes::that_change_nothing(context)?;
        let limits = Limits { certificate: self.certificate, skew: self.skew };
        let within = self.timeout.saturating_sub(MARGIN.min(self.timeout / 10));
        let names = wanted(&eyes.inventory, self.all, &self.clusters, "nothing is known to be in sync")?;
        let until = Instant::now() + within;
        let past = Past::read(context, &names).map(|past| past.map(Arc::new).map_err(Arc::new)).shared();
        let looks = names.iter().map(async |name| {
            let cluster = eyes.inventory.cluster(name)?;
            let past = past.clone().map_ok(|past| past.of(name));
            let left = until.saturating_duration_since(Instant::now());
            anyhow::Ok(eyes.see(name, cluster, &limits, left, past).await.condition)
        });
        let conditions = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
        Ok(Found { conditions, own_not_after: eyes.own_not_after() })
    }

    fn answer(&self, context: &Context, found: &Found) -> Answer {
        let conditions = &found.conditions;
        let level = conditions.iter().map(Condition::level).max().unwrap_or(Level::Unknown);
        if context.out.format() == cli::Format::Json {
            return Answer { level, text: format!("{:#}\n", document(level, conditions)) };
        }
        let done = |text| Answer { level: Level::Ok, text };
        match self.format {
            Form::Nagios => {
                Answer { level, text: nagios::text(level, conditions, self.certificate, self.skew) }
            }
            Form::Checkmk => done(checkmk::text(conditions, self.skew)),
            Form::Openmetrics => match metrics::openmetrics(conditions, Some(found.own_not_after)) {
                Ok(text) => done(text),
                Err(error) => self.nothing(&error.into(), context.out.format()),
            },
        }
    }

    /// Says why nothing can be said; gives the exit code.
    pub(super) fn came_to_nothing(&self, error: &anyhow::Error) -> u8 {
        self.give(&self.nothing(error, cli::Format::Table))
    }

    fn nothing(&self, error: &anyhow::Error, format: cli::Format) -> Answer {
        let mut what = format!("{error:#}");
        if let Some(remedy) = exit::remedy(error) {
            what = format!("{what} (what to do: {remedy})");
        }
        Answer { level: Level::Unknown, text: nothing_known(&what, self.format, format) }
    }

    fn give(&self, answer: &Answer) -> u8 {
        let Some(path) = &self.write else {
            return if print(&answer.text) { answer.level.code() } else { Level::Unknown.code() };
        };
        match durable::replace(path, answer.text.as_bytes(), Access::Public) {
            Ok(()) => answer.level.code(),
            Err(error) => {
                print(&nagios::unknown(&format!("{:#}", anyhow::Error::new(error))));
                Level::Unknown.code()
            }
        }
    }
}

/// Answers a command line that is wrong, or asks for help, as the plugin interface has it; gives the exit code.
pub(super) fn misread(error: &clap::Error) -> u8 {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // With standard output gone there is nobody left to tell.
            let _ = error.print();
        }
        _ => {
            let text = error.to_string();
            let why: Vec<&str> = text.lines().take_while(|line| !line.starts_with("Usage:")).collect();
            let why = why.join(" ");
            let why = why.trim().trim_start_matches("error: ");
            print(&nagios::unknown(&format!("the command line is wrong: {why}; see `umsid check --help`")));
        }
    }
    Level::Unknown.code()
}

fn nothing_known(what: &str, form: Form, format: cli::Format) -> String {
    if format == cli::Format::Json {
        let level = Level::Unknown;
        return format!(
            "{:#}\n",
            json!({ "state": level, "code": level.code(), "problem": what, "clusters": [] })
        );
    }
    match form {
        Form::Nagios => nagios::unknown(what),
        Form::Checkmk => checkmk::unknown(what),
        Form::Openmetrics => {
            tracing::error!("{what}");
            metrics::nothing().unwrap_or_default()
        }
    }
}

fn document(level: Level, conditions: &[Condition]) -> Value {
    let cluster = |condition: &Condition| {
        json!({
            "cluster": condition.cluster,
            "state": condition.level(),
            "code": condition.level().code(),
            "summary": condition.summary(),
            "taken": condition.taken,
            "took_s": condition.took.as_secs_f64(),
            "findings": condition.findings,
            "servers": condition.servers,
        })
    };
    let clusters: Vec<Value> = conditions.iter().map(cluster).collect();
    json!({ "state": level, "code": level.code(), "clusters": clusters })
}

/// Whether it could be written.
fn print(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

#[cfg(test)]
mod tests;
