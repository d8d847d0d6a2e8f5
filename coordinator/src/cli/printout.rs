//! Tables, JSON and talk: who reads what, and in colours or not.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Color, ContentArrangement, Table, presets};
use serde::Serialize;

/// What is printed on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Where data and talk go.
#[derive(Clone, Copy, Debug)]
pub struct Printout {
    format: Format,
    terminal: bool,
    colours: bool,
}

/// Standard output is gone or full; an [`io::Error`] is made of it, of the same kind as its source.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct Unprinted(#[source] io::Error);

/// Says of an error that it is standard output that failed.
pub(crate) fn unprinted(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Unprinted(error))
}

/// Whether this is the error of a standard output that nobody reads any more, as `head` leaves it.
pub(crate) fn is_reader_gone(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| {
        error.kind() == io::ErrorKind::BrokenPipe
            && error.get_ref().is_some_and(|inner| inner.is::<Unprinted>())
    })
}

/// How a cell is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    Plain,
    /// As it should be.
    Good,
    /// To be looked at.
    Doubtful,
    /// Not as it should be.
    Bad,
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a tone.
    pub fn new(text: impl fmt::Display, tone: Tone) -> Self {
        // What servers say goes onto the terminal here: no control characters.
        let text = text
            .to_string()
            .chars()
            .map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c })
            .collect();
        Self { text, tone }
    }

    /// A cell without.
    pub fn plain(text: impl fmt::Display) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl Printout {
    /// Colours only on a terminal, and not with `NO_COLOR` set to anything (<https://no-color.org>).
    pub fn new(format: Format) -> Self {
        let terminal = io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { format, terminal, colours: terminal && !set("NO_COLOR") && !dumb }
    }

    /// Which format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether standard output is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether standard output may have colours.
    pub fn colours(&self) -> bool {
        self.colours
    }

    /// A table on standard output; fitted to a terminal, and one line for each row elsewhere.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<Cell>>) -> io::Result<()> {
        self.text(self.rendered(header, rows))
    }

    /// The same as text.
    pub fn rendered(&self, header: &[&str], rows: Vec<Vec<Cell>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header.to_vec());
        if self.colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let arrangement =
            if self.terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        for row in rows {
            table.add_row(row.into_iter().map(|cell| {
                let shown = comfy_table::Cell::new(cell.text);
                match cell.tone {
                    Tone::Plain => shown,
                    Tone::Good => shown.fg(Color::Green),
                    Tone::Doubtful => shown.fg(Color::Yellow),
                    Tone::Bad => shown.fg(Color::Red),
                }
            }));
        }
        table.trim_fmt()
    }

    /// One JSON document on standard output.
    pub fn json(&self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).map_err(io::Error::other)?;
        self.text(text)
    }

    /// One line of JSON on standard output.
    pub fn json_line(&self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value).map_err(io::Error::other)?;
        self.text(text)
    }

    /// Text on standard output.
    pub fn text(&self, text: impl fmt::Display) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(unprinted)
    }

    /// Talk, on standard error.
    pub fn say(&self, text: impl fmt::Display) {
        // With standard error gone there is nobody to talk to.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}
