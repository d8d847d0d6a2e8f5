//! When each step of a run went on, and which of them nothing else could have hidden: as text beside the report, and as a picture.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;
use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Style, Text, Title};

use super::critical_path;
use super::text::seconds;
use crate::printout;
use crate::run::{Event, Recorded, State};

/// Columns the bars have on a terminal.
const COLUMNS: usize = 40;

/// A step of the critical path that took less than this part of it is not listed.
const WORTH_A_LINE: f64 = 0.005;

/// One attempt at one step.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bar {
    step: u32,
    place: String,
    what: String,
    /// Milliseconds since the run began.
    from: u64,
    to: u64,
    /// On the critical path.
    critical: bool,
    /// Whether it has an end on record.
    ended: bool,
}

/// The attempts of a run, in the order in which they began.
#[derive(Clone, Debug)]
pub struct Timeline {
    bars: Vec<Bar>,
    whole: u64,
}

impl Timeline {
    /// Of these events of a run.
    pub fn of(state: &State, events: &[Recorded]) -> Self {
        let Some(begun) = events.first().map(|first| first.at) else {
            return Self { bars: Vec::new(), whole: 0 };
        };
        let since = |at: Timestamp| u64::try_from(at.duration_since(begun).as_millis()).unwrap_or_default();
        let whole = events.last().map_or(0, |last| since(last.at));
        let critical: BTreeSet<u32> =
            critical_path(state, events).into_iter().map(|link| link.step).collect();
        let mut bars: Vec<Bar> = Vec::new();
        let mut open: BTreeMap<u32, usize> = BTreeMap::new();
        for recorded in events {
            match &recorded.event {
                Event::Started { step, .. } => {
                    let Some(what) = state.step(*step).map(|step| &step.what) else { continue };
                    let place = what.server().map_or("cluster", |server| server.as_str()).to_owned();
                    open.insert(*step, bars.len());
                    bars.push(Bar {
                        step: *step,
                        place,
                        what: what.title(),
                        from: since(recorded.at),
                        to: whole,
                        critical: critical.contains(step),
                        ended: false,
                    });
                }
                Event::Finished { step, .. } => {
                    if let Some(bar) = open.remove(step).and_then(|at| bars.get_mut(at)) {
                        (bar.to, bar.ended) = (since(recorded.at), true);
                    }
                }
                _ => {}
            }
        }
        Self { bars, whole }
    }

    /// The critical path, a line for each of its steps; empty where nothing took any time.
    pub fn text(&self) -> String {
        let path: Vec<&Bar> = self.bars.iter().filter(|bar| bar.critical).collect();
        let part = |ms: u64| millis(ms) / millis(self.whole.max(1));
        let took = |bar: &Bar| bar.to.saturating_sub(bar.from);
        let (listed, short): (Vec<&Bar>, Vec<&Bar>) =
            path.into_iter().partition(|bar| part(took(bar)) >= WORTH_A_LINE);
        if listed.is_empty() {
            return String::new();
        }
        let widest =
            |of: fn(&Bar) -> &str| listed.iter().map(|bar| of(bar).chars().count()).max().unwrap_or(0);
        let (place, what) = (widest(|bar| &bar.place), widest(|bar| &bar.what));
        let mut text = format!("critical path, {} in all:\n", seconds(self.whole));
        for bar in &listed {
            let column = |ms: u64| {
                let columns = u64::try_from(COLUMNS).unwrap_or(u64::MAX);
                let at = ms.saturating_mul(columns).saturating_add(self.whole / 2) / self.whole.max(1);
                usize::try_from(at).unwrap_or(COLUMNS).min(COLUMNS)
            };
            let (from, to) = (column(bar.from).min(COLUMNS - 1), column(bar.to));
            let drawn = format!("{}{}", " ".repeat(from), "█".repeat(to.saturating_sub(from).max(1)));
            let _ = writeln!(
                text,
                "  {:place$}  {:what$}  {:>9}  {}",
                bar.place,
                bar.what,
                seconds(took(bar)),
                drawn.trim_end()
            );
        }
        if !short.is_empty() {
            let sum = short.iter().map(|bar| took(bar)).sum();
            let steps = printout::count(short.len(), "shorter step");
            let _ = writeln!(text, "  and {steps}, {} together", seconds(sum));
        }
        text
    }

    /// A picture: a row for every server, a bar for every attempt, those of the critical path in another colour.
    pub fn svg(&self, title: &str) -> String {
        let mut places: Vec<&str> = Vec::new();
        for bar in &self.bars {
            if !places.contains(&bar.place.as_str()) {
                places.push(&bar.place);
            }
        }
        let bottom = ROW.mul_add(count(places.len()), TOP);
        let x = |ms: u64| LABELS + millis(ms) / millis(self.whole.max(1)) * (WIDTH - LABELS - MARGIN);
        let mut picture = Document::new()
            .set("viewBox", (0.0, 0.0, WIDTH, bottom + 40.0))
            .set("width", WIDTH)
            .set("role", "img")
            .add(Style::new(STYLE))
            .add(Title::new(title))
            .add(Text::new(title).set("x", MARGIN).set("y", 24.0).set("class", "title"));
        for part in 0..=4 {
            let ms = self.whole * part / 4;
            let line = Line::new().set("x1", x(ms)).set("x2", x(ms)).set("y1", TOP).set("y2", bottom);
            let label = Text::new(seconds(ms)).set("x", x(ms)).set("y", bottom + 18.0);
            picture = picture.add(line.set("class", "axis")).add(label.set("text-anchor", "middle"));
        }
        for (row, place) in places.iter().enumerate() {
            let y = ROW.mul_add(count(row), TOP);
            let mut group = Group::new()
                .add(Text::new(*place).set("x", LABELS - 8.0).set("y", y + 15.0).set("text-anchor", "end"));
            for bar in self.bars.iter().filter(|bar| bar.place == *place) {
                let class = match (bar.ended, bar.critical) {
                    (false, _) => "open",
                    (true, true) => "critical",
                    (true, false) => "hidden",
                };
                let took = seconds(bar.to.saturating_sub(bar.from));
                let drawn = Rectangle::new()
                    .set("x", x(bar.from))
                    .set("y", y + 3.0)
                    .set("width", (x(bar.to) - x(bar.from)).max(1.0))
                    .set("height", ROW - 6.0)
                    .set("class", class)
                    .add(Title::new(format!("step {}: {}: {took}", bar.step, bar.what)));
                group = group.add(drawn);
            }
            picture = picture.add(group);
        }
        let legend = "dark: the critical path; light: hidden behind it; outlined: without an end on record";
        picture
            .add(Text::new(legend).set("x", MARGIN).set("y", bottom + 35.0).set("class", "legend"))
            .to_string()
    }
}

/// Of the picture, in its units.
const WIDTH: f64 = 900.0;
/// Where the bars begin.
const LABELS: f64 = 150.0;
/// Where the rows begin.
const TOP: f64 = 40.0;
const ROW: f64 = 22.0;
const MARGIN: f64 = 16.0;

const STYLE: &str = "text { font: 12px sans-serif; fill: #333 } .title { font-size: 15px } .legend { fill: #777; font-size: 11px } \
     .axis { stroke: #ddd } .critical { fill: #1c639c } .hidden { fill: #a9c8e0 } .open { fill: none; stroke: #c44e2c }";

#[expect(clippy::cast_precision_loss, reason = "it is drawn")]
fn millis(ms: u64) -> f64 {
    ms as f64
}

#[expect(clippy::cast_precision_loss, reason = "rows of a picture")]
fn count(rows: usize) -> f64 {
    rows as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(step: u32, place: &str, from: u64, to: u64, critical: bool) -> Bar {
        Bar { step, place: place.to_owned(), what: format!("do {step}"), from, to, critical, ended: true }
    }

    fn timeline() -> Timeline {
        let bars = vec![
            bar(1, "ums2", 0, 1000, false),
            bar(2, "ums1", 0, 3000, true),
            bar(3, "cluster", 3000, 3001, true),
            bar(4, "ums3 & <co>", 3001, 4000, true),
        ];
        Timeline { bars, whole: 4000 }
    }

    #[test]
    fn the_critical_path_is_drawn_where_it_went_on() {
        let text = timeline().text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "critical path, 4.0 s in all:");
        assert!(lines[1].contains("ums1") && lines[1].ends_with(&"█".repeat(30)), "{text}");
        assert!(lines[2].ends_with(&format!("{}{}", " ".repeat(30), "█".repeat(10))), "{text}");
        assert!(!text.contains("ums2"), "it was hidden: {text}");
        assert_eq!(lines[3], "  and 1 shorter step, 0.0 s together");
        assert_eq!(Timeline { bars: Vec::new(), whole: 0 }.text(), "");
    }

    #[test]
    fn the_picture_has_a_bar_for_every_attempt_and_names_are_only_text() {
        let mut timeline = timeline();
        timeline.bars[0].ended = false;
        let svg = timeline.svg("run 1 & 2");
        let classes = |class: &str| svg.matches(&format!("class=\"{class}\"")).count();
        assert_eq!((classes("critical"), classes("hidden"), classes("open")), (3, 0, 1), "{svg}");
        assert!(svg.contains("ums3 &amp; &lt;co&gt;") && !svg.contains("<co>"), "{svg}");
    }
}
