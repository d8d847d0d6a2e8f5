//! Log lines.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// What a filter as in `RUST_LOG` lets through, `info` where it says nothing: `warn`, or `info,umsid_agent=debug`. Parts that
/// cannot be understood are left out and given along: no one loses all log lines over a slip.
///
/// The larger filters of `tracing_subscriber` also look into spans and fields; that takes an engine for regular expressions,
/// which would be a sixth of the agent's program.
pub fn filter(text: &str) -> (Targets, Vec<String>) {
    let mut filter = Targets::new().with_default(LevelFilter::INFO);
    let mut not_understood = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<Targets>() {
            Ok(one) => {
                if let Some(level) = one.default_level() {
                    filter = filter.with_default(level);
                }
                filter = filter.with_targets(one);
            }
            Err(error) => not_understood.push(format!("{part}: {error}")),
        }
    }
    (filter, not_understood)
}

/// Sends log lines to standard error through a [`filter`]. Call once, in `main`.
pub fn to_stderr(format: LogFormat, text: &str) {
    let (filter, not_understood) = filter(text);
    let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).finish().with(filter).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).finish().with(filter).try_init(),
    };
    if let Err(error) = set {
        tracing::warn!(%error, "log lines go where they went before");
    }
    for part in not_understood {
        tracing::warn!("a part of the log filter is not understood: {part}");
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn what_is_not_understood_costs_no_other_line() {
        let (filter, wrong) = filter("warn, umsid_agent=debug,umsid=loud");
        assert!(matches!(wrong.as_slice(), [one] if one.starts_with("umsid=loud: ")), "{wrong:?}");
        for (target, level, expected) in [
            ("umsid_agent::exec", Level::DEBUG, true),
            ("umsid_agent::exec", Level::TRACE, false),
            ("h2", Level::WARN, true),
            ("h2", Level::INFO, false),
        ] {
            assert_eq!(filter.would_enable(target, &level), expected, "{target} {level}");
        }
    }

    #[test]
    fn nothing_said_is_info() {
        let (filter, wrong) = filter("");
        assert!(wrong.is_empty());
        assert!(filter.would_enable("h2", &Level::INFO) && !filter.would_enable("h2", &Level::DEBUG));
        assert!(!super::filter("off").0.would_enable("h2", &Level::ERROR));
    }
}
