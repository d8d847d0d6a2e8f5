//! Log lines.

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object a line.
    Json,
}

/// Sends log lines to standard error; `filter` as in `RUST_LOG`, `info` where it is empty. Call once, in `main`.
pub fn to_stderr(_format: LogFormat, _filter: &str) {
    todo!()
}
