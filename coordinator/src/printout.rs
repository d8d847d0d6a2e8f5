//! Tables, JSON and talk: who reads what, and in colours or not.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{Color, ColumnConstraint, ContentArrangement, Table, Width, presets};
use dialoguer::console::{Term, measure_text_width};
use serde::Serialize;

/// The columns of all tables that may be wrapped on a terminal; no word of any other is ever broken.
const WRAPPED: &[&str] = &["DETAIL", "EVIDENCE", "FOUND", "PROOF", "REMARKS", "WHAT", "WHY"];

/// A wrapped column is not made narrower than this, its padding included.
const NARROWEST: usize = 24;

/// Blanks on both sides of what is in a cell.
const PADDING: usize = 2;

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
    /// Of the terminal, in columns; elsewhere a row is a line.
    width: Option<u16>,
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
        let size = if terminal { Term::stdout().size_checked() } else { None };
        let width = size.map(|(_, columns)| columns).filter(|columns| *columns > 0);
        Self { format, terminal, colours: terminal && !set("NO_COLOR") && !dumb, width }
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

    /// The same, but a terminal that is too narrow for it gets fewer columns: without those named, the first first.
    pub fn table_without(
        &self,
        header: &[&str],
        rows: Vec<Vec<Cell>>,
        dispensable: &[&str],
    ) -> io::Result<()> {
        let (text, left_out) = self.fitted(header, rows, dispensable);
        self.text(text)?;
        if !left_out.is_empty() {
            self.say(format_args!("columns left out to fit: {}; -o json has all", left_out.join(", ")));
        }
        Ok(())
    }

    fn fitted<'a>(
        &self,
        header: &[&str],
        mut rows: Vec<Vec<Cell>>,
        dispensable: &[&'a str],
    ) -> (String, Vec<&'a str>) {
        let (mut header, mut left_out) = (header.to_vec(), Vec::new());
        for title in dispensable {
            if self.width.is_none_or(|width| narrowest(&header, &rows) <= usize::from(width)) {
                break;
            }
            let Some(at) = header.iter().position(|other| other == title) else { continue };
            header.remove(at);
            for row in &mut rows {
                row.remove(at);
            }
            left_out.push(*title);
        }
        (self.rendered(&header, rows), left_out)
    }

    /// A table as text.
    pub fn rendered(&self, header: &[&str], rows: Vec<Vec<Cell>>) -> String {
        let widest: Vec<usize> = (0..header.len()).map(|at| content_width(header, &rows, at)).collect();
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header.to_vec());
        table.force_no_tty();
        if self.colours {
            table.enforce_styling();
        }
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
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
        for ((column, title), widest) in table.column_iter_mut().zip(header).zip(widest) {
            let narrowest = u16::try_from(NARROWEST).unwrap_or(u16::MAX);
            column.set_constraint(if WRAPPED.contains(title) && widest + PADDING > NARROWEST {
                ColumnConstraint::LowerBoundary(Width::Fixed(narrowest))
            } else {
                ColumnConstraint::ContentWidth
            });
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

/// How wide the longest line of a column is.
fn content_width(header: &[&str], rows: &[Vec<Cell>], at: usize) -> usize {
    let cells = rows.iter().filter_map(|row| row.get(at)).flat_map(|cell| cell.text.lines());
    cells.chain(header.get(at).copied()).map(measure_text_width).max().unwrap_or_default()
}

/// How wide a terminal must be that no word has to be broken.
fn narrowest(header: &[&str], rows: &[Vec<Cell>]) -> usize {
    let column = |(at, title): (usize, &&str)| {
        let width = content_width(header, rows, at) + PADDING;
        if WRAPPED.contains(title) { width.min(NARROWEST) } else { width }
    };
    header.iter().enumerate().map(column).sum()
}

/// As `1 server`, `2 servers`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[&str] = &["SERVER", "STATE", "EVIDENCE", "CLOCK", "UNTIL"];

    fn rows() -> Vec<Vec<Cell>> {
        let evidence = "the file is the one of the Main server, byte for byte, by its digest";
        [
            ["ums1", "main", evidence, "0.0 s", "2027-01-01"],
            ["ums2", "not-in-sync", "-", "+0.3 s", "2027-01-01"],
        ]
        .map(|row| row.map(Cell::plain).to_vec())
        .to_vec()
    }

    fn out(width: Option<u16>, colours: bool) -> Printout {
        Printout { format: Format::Table, terminal: width.is_some(), colours, width }
    }

    #[test]
    fn only_free_text_is_wrapped_whatever_the_width() {
        for width in [20, 60, 80] {
            let text = out(Some(width), false).rendered(HEADER, rows());
            for whole in ["SERVER", "not-in-sync", "2027-01-01", "+0.3 s", "the file is"] {
                assert!(text.contains(whole), "{width}: {text}");
            }
            assert!(!text.contains("by its digest  "), "it is wrapped at {width}: {text}");
        }
        let text = out(None, false).rendered(HEADER, rows());
        assert_eq!(text.lines().count(), 3, "a row is a line where there is no terminal: {text}");
    }

    #[test]
    fn a_terminal_without_colours_is_fitted_all_the_same() {
        let text = out(Some(70), false).rendered(HEADER, rows());
        assert!(text.lines().all(|line| line.len() <= 70), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(text.lines().count() > 3, "{text}");
    }

    #[test]
    fn columns_are_left_out_only_as_far_as_needed() {
        let left_out = |width| out(width, false).fitted(HEADER, rows(), &["UNTIL", "CLOCK"]).1;
        assert!(left_out(None).is_empty());
        assert!(left_out(Some(80)).is_empty());
        assert_eq!(left_out(Some(60)), ["UNTIL"]);
        assert_eq!(left_out(Some(30)), ["UNTIL", "CLOCK"]);
        let (text, _) = out(Some(60), false).fitted(HEADER, rows(), &["UNTIL", "CLOCK"]);
        assert!(!text.contains("2027") && text.contains("+0.3 s"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 60), "{text}");
    }
}
