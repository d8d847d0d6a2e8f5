//! Log lines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends log lines to standard error; `filter` as in `RUST_LOG`, `info` where it is empty. Call once, in `main`.
///
/// Directives that cannot be understood are left out, with a word about it: no one loses all log lines over a slip.
pub fn to_stderr(format: LogFormat, filter: &str) {
    let level = tracing_subscriber::filter::LevelFilter::INFO.into();
    let filter = EnvFilter::builder().with_default_directive(level).parse_lossy(filter);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let Err(error) = set {
        tracing::warn!(%error, "log lines go where they went before");
    }
}
