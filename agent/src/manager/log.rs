//! Where a Windows service says what it does, having no standard error: everything in a file of each day, warnings and errors
//! in the event log too.

use std::fmt::{self, Write as _};
use std::io;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use umsid_common::{durable, telemetry};
use umsid_windows::event_log::{Gravity, Source};
use winreg::RegKey;
use winreg::enums::HKEY_LOCAL_MACHINE;

use crate::config::Config;

/// So many days are kept.
const DAYS: usize = 14;

/// Where the event log looks for what it knows of a source.
const SOURCES: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application";

/// Numbers of events, as `deploy/README.md` tells them.
mod id {
    pub(super) const WARNING: u32 = 200;
    pub(super) const ERROR: u32 = 300;
    pub(super) const CANNOT_GO_ON: u32 = 301;
}

/// Makes the source known, so that the event log shows our texts as they are.
///
/// # Errors
/// If whoever asks is no administrator.
pub(super) fn register(name: &str) -> io::Result<()> {
    let (key, _) = RegKey::predef(HKEY_LOCAL_MACHINE).create_subkey(format!(r"{SOURCES}\{name}"))?;
    // A program of every Windows, whose messages 1 to 1000 are nothing but the text.
    key.set_raw_value("EventMessageFile", &expandable(r"%SystemRoot%\System32\EventCreate.exe"))?;
    // Errors, warnings, information.
    key.set_value("TypesSupported", &7_u32)
}

fn expandable(text: &str) -> winreg::RegValue<'static> {
    let bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    winreg::RegValue { bytes: bytes.into(), vtype: winreg::enums::REG_EXPAND_SZ }
}

/// Undoes [`register`].
///
/// # Errors
/// If whoever asks is no administrator.
pub(super) fn forget(name: &str) -> io::Result<()> {
    match RegKey::predef(HKEY_LOCAL_MACHINE).delete_subkey(format!(r"{SOURCES}\{name}")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Sends log lines to `log` in the state directory, and warnings and errors to the event log. Call once.
pub(super) fn to_file_and_event_log(name: &str, config: &Config) {
    let (filter, not_understood) = telemetry::filter(&config.log.filter);
    let events = Source::open(name).ok().map(|source| Events { source }.with_filter(LevelFilter::WARN));
    let dir = config.state_dir.join("log");
    let file = durable::private_dir(&config.state_dir)
        .and_then(|()| durable::private_dir(&dir))
        .map_err(|error| error.to_string())
        .and_then(|()| {
            let builder = RollingFileAppender::builder().rotation(Rotation::DAILY).max_log_files(DAYS);
            let builder = builder.filename_prefix("agent").filename_suffix("log");
            builder.build(&dir).map_err(|error| error.to_string())
        });
    let (file, trouble) = match file {
        Ok(file) => (Some(file), None),
        Err(why) => (None, Some(why)),
    };
    let lines = file.map(|file| {
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file);
        if config.log.json { lines.json().flatten_event(true).boxed() } else { lines.boxed() }
    });
    // Whoever has set up a log before keeps it.
    let _ = tracing_subscriber::registry().with(lines).with(filter).with(events).try_init();
    if let Some(why) = trouble {
        tracing::warn!(why, dir = %dir.display(), "there is no log file");
    }
    for part in not_understood {
        tracing::warn!("a part of the log filter is not understood: {part}");
    }
}

/// Says why the agent cannot even begin.
pub(super) fn fatal(name: &str, error: &anyhow::Error) {
    if let Ok(source) = Source::open(name) {
        // Nobody is left to be told.
        let _ =
            source.report(Gravity::Error, id::CANNOT_GO_ON, &format!("The agent cannot start. {error:#}"));
    }
}

/// Says why the agent ends.
pub(super) fn cannot_go_on(error: &anyhow::Error) {
    tracing::error!(error = format!("{error:#}"), "the agent cannot go on");
}

/// Events as the event log wants them.
struct Events {
    source: Source,
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text::default();
        event.record(&mut text);
        let (gravity, id) = match *event.metadata().level() {
            Level::ERROR => (Gravity::Error, id::ERROR),
            _ => (Gravity::Warning, id::WARNING),
        };
        // It is in the file as well; a full event log is no reason to stop.
        let _ = self.source.report(gravity, id, &text.finish());
    }
}

/// A message with its fields, a line each.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn finish(self) -> String {
        if self.fields.is_empty() { self.message } else { format!("{}\r\n{}", self.message, self.fields) }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A string takes all of it.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, "\r\n{name}: {value:?}"),
        };
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let _ = write!(self.fields, "\r\n{}: {value}", field.name());
        let mut cause = value.source();
        while let Some(error) = cause {
            let _ = write!(self.fields, ": {error}");
            cause = error.source();
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.fields, "\r\n{name}: {value}"),
        };
    }
}
