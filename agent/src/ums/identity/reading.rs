//! What `licensing list` may say, whatever its layout: no sample of it is public (UMS_FACTS §3).
//!
//! A fingerprint is told by content. What it is called is told, in this order, by words on its line, by the columns of a
//! table it is in, by the lines around it. A line that names this server speaks of its own UMS ID.

use std::ops::Range;

use umsid_common::digest::Fingerprint;
use umsid_proto::model::{Evidence, EvidenceSource, Label};

use super::words::{Words, heads_hosts, is_log, without_port};
use super::{scan, table};

/// How far above a fingerprint its heading may be, in lines.
const HEADING: usize = 8;

/// A line of output is shown to people up to this many characters.
const SHOWN: usize = 300;

struct Line<'a> {
    text: &'a str,
    prints: Vec<(Fingerprint, Range<usize>)>,
    labels: Vec<(Label, Range<usize>)>,
}

impl<'a> Line<'a> {
    fn new(text: &'a str, words: &Words) -> Self {
        let prints = scan::fingerprints(text);
        let us = words.names_us(text).map(|(_, range)| range);
        let mut labels = words.labels(text);
        labels.retain(|(_, at)| {
            !us.iter().chain(prints.iter().map(|(_, range)| range)).any(|range| range.contains(&at.start))
        });
        Self { text, prints, labels }
    }

    fn is_blank(&self) -> bool {
        !self.text.contains(|c: char| c.is_alphanumeric())
    }

    /// The one thing its words call something; `None` if nothing or both.
    fn label(&self) -> Option<Label> {
        let (first, _) = self.labels.first()?;
        self.labels.iter().all(|(label, _)| label == first).then_some(*first)
    }
}

/// Every fingerprint in a text and what it is called there.
pub fn read(text: &str, words: &Words) -> Vec<Evidence> {
    let (log, plain): (Vec<&str>, Vec<&str>) =
        text.lines().map(|line| line.trim_end()).partition(|line| is_log(line));
    let lines: Vec<Line<'_>> = plain.iter().map(|line| Line::new(line, words)).collect();
    let mut found = Reading { lines: &lines, words }.evidence();
    // What a log line shows is evidence of something only where there is nothing else, and then of nothing by name.
    if found.is_empty() {
        let prints = log
            .iter()
            .flat_map(|line| scan::fingerprints(line).into_iter().map(move |print| (print.0, *line)));
        found.extend(prints.map(|(print, line)| evidence(print, Label::Unlabelled, "", line)));
    }
    found
}

fn evidence(fingerprint: Fingerprint, label: Label, subject: &str, line: &str) -> Evidence {
    let line = line.trim().chars().take(SHOWN).collect();
    Evidence { source: EvidenceSource::List, label, fingerprint, subject: subject.to_owned(), line }
}

struct Reading<'a> {
    lines: &'a [Line<'a>],
    words: &'a Words,
}

/// Of one fingerprint.
#[derive(Clone, Default)]
struct Verdict {
    labels: Vec<Label>,
    /// The host it is about.
    subject: Option<String>,
    /// How well this server is named.
    us: u8,
}

impl Reading<'_> {
    fn evidence(&self) -> Vec<Evidence> {
        let mut all: Vec<(usize, usize, Verdict)> = Vec::new();
        for group in self.groups() {
            all.extend(self.judge(group));
        }
        let best = all.iter().map(|(.., verdict)| verdict.us).max().unwrap_or(0);
        let mut found: Vec<Evidence> = Vec::new();
        for (line, print, verdict) in all {
            let (fingerprint, text) = (self.lines[line].prints[print].0, self.lines[line].text);
            let ours = best > 0 && verdict.us == best;
            let told_apart = self.lines[line].prints.iter().any(|(other, _)| {
                *other != fingerprint && other.as_bytes().len() == fingerprint.as_bytes().len()
            });
            let subject = if ours { "" } else { verdict.subject.as_deref().unwrap_or("") };
            let mut labels = verdict.labels;
            // The row of this server shows its own UMS ID, whatever else that is; of two in it, words must tell.
            if ours && !told_apart && !labels.contains(&Label::Local) {
                labels.push(Label::Local);
            }
            if labels.is_empty() {
                labels.push(Label::Unlabelled);
            }
            found.extend(labels.into_iter().map(|label| evidence(fingerprint, label, subject, text)));
        }
        found
    }

    /// Lines with fingerprints that follow each other directly and show the same kind: the rows of one table.
    fn groups(&self) -> Vec<Range<usize>> {
        let mut groups: Vec<Range<usize>> = Vec::new();
        for at in (0..self.lines.len()).filter(|&at| !self.lines[at].prints.is_empty()) {
            let same_kind = |before: usize| {
                let kinds = |line: &Line<'_>| {
                    line.prints.iter().map(|(print, _)| print.as_bytes().len()).collect::<Vec<_>>()
                };
                kinds(&self.lines[before]) == kinds(&self.lines[at])
            };
            match groups.last_mut() {
                Some(group) if group.end == at && same_kind(at - 1) => group.end = at + 1,
                _ => groups.push(at..at + 1),
            }
        }
        groups
    }

    fn judge(&self, group: Range<usize>) -> Vec<(usize, usize, Verdict)> {
        let header = self.header(group.start);
        let rows: Vec<usize> = group.clone().collect();
        let shown: Vec<usize> = header.into_iter().chain(group.clone()).collect();
        let texts: Vec<&str> = shown.iter().map(|&at| self.lines[at].text).collect();
        let opaque: Vec<_> = shown
            .iter()
            .map(|&at| self.lines[at].prints.iter().map(|(_, range)| range.clone()).collect())
            .collect();
        let mut cells = table::cells(&texts, &opaque);
        let heads = header.map(|_| cells.remove(0));
        let host_column = self.host_column(&rows, &cells, header.zip(heads.as_deref()));

        let mut verdicts = Vec::new();
        for (at, cells) in rows.iter().zip(&cells) {
            let line = &self.lines[*at];
            let holds_print =
                |cell: &Range<usize>| line.prints.iter().any(|(_, range)| cell.contains(&range.start));
            let host_cell =
                host_column.and_then(|column| cells.get(column)).filter(|cell| !holds_print(cell));
            let name = host_cell.and_then(|cell| line.text[cell.clone()].split_whitespace().next());
            let us = self.words.names_us(line.text).map_or(0, |(grade, _)| grade);
            let around = if group.len() == 1 { self.around(*at) } else { Verdict::default() };
            let mut labels = self.labels_on_line(*at, host_cell);
            if let Some((header, heads)) = header.zip(heads.as_deref()) {
                self.labels_by_column(*at, cells, header, heads, rows.len(), &mut labels);
            }
            for (print, label) in labels.into_iter().enumerate() {
                let labels = match label {
                    Told::Label(label) => vec![label],
                    Told::Both => vec![Label::Main, Label::Local],
                    Told::Denied => vec![],
                    Told::Nothing => around.labels.clone(),
                };
                let subject = name.map(without_port).map(str::to_owned).or_else(|| around.subject.clone());
                verdicts.push((*at, print, Verdict { labels, subject, us: us.max(around.us) }));
            }
        }
        verdicts
    }

    /// The line directly above a table, a rule of dashes skipped, if it may be its header.
    fn header(&self, first: usize) -> Option<usize> {
        let is_rule = |line: &Line<'_>| line.is_blank() && !line.text.trim().is_empty();
        let above = (0..first).rev().find(|&at| !is_rule(&self.lines[at]))?;
        let line = &self.lines[above];
        let heads = !line.is_blank() && line.prints.is_empty() && !line.text.trim_end().ends_with(':');
        heads.then_some(above)
    }

    /// The column of the servers' names: where this server's is, or by its heading.
    fn host_column(
        &self,
        rows: &[usize],
        cells: &[Vec<Range<usize>>],
        header: Option<(usize, &[Range<usize>])>,
    ) -> Option<usize> {
        let ours = rows.iter().zip(cells).find_map(|(&at, cells)| {
            let (_, place) = self.words.names_us(self.lines[at].text)?;
            cells.iter().position(|cell| cell.contains(&place.start))
        });
        let (at, heads) = header.unzip();
        let by_heading = || {
            let text = self.lines[at?].text;
            heads?.iter().position(|cell| heads_hosts(&text[cell.clone()]))
        };
        ours.or_else(by_heading)
    }

    /// What the words on its own line call each fingerprint: those before it; where the first has none before it, those
    /// after each. Words that contradict each other call it nothing.
    fn labels_on_line(&self, at: usize, host_cell: Option<&Range<usize>>) -> Vec<Told> {
        let line = &self.lines[at];
        let labels: Vec<_> = line
            .labels
            .iter()
            .filter(|(_, place)| !host_cell.is_some_and(|cell| cell.contains(&place.start)))
            .collect();
        let between =
            |from: usize, to: usize| labels.iter().filter(move |(_, at)| at.start >= from && at.end <= to);
        let starts_before =
            line.prints.first().is_some_and(|(_, first)| between(0, first.start).next().is_some());
        let mut told: Vec<Told> = Vec::new();
        for (number, (print, range)) in line.prints.iter().enumerate() {
            let from = number.checked_sub(1).map_or(0, |before| line.prints[before].1.end);
            let to = line.prints.get(number + 1).map_or(line.text.len(), |(_, next)| next.start);
            let words: Vec<_> = match starts_before {
                true => between(from, range.start).collect(),
                false => between(range.end, to).collect(),
            };
            // The SHA-1 and the SHA-256 of one certificate side by side.
            let other_kind =
                number > 0 && line.prints[number - 1].0.as_bytes().len() != print.as_bytes().len();
            told.push(match words.first() {
                Some((label, _)) if words.iter().all(|(other, _)| other == label) => Told::Label(*label),
                Some(_) => Told::Denied,
                None if other_kind => told[number - 1],
                None => Told::Nothing,
            });
        }
        // "SHA-1 …, SHA-256 … (Main)": the word at the end is about both.
        for number in (1..told.len()).rev() {
            let other_kind =
                line.prints[number - 1].0.as_bytes().len() != line.prints[number].0.as_bytes().len();
            if told[number - 1] == Told::Nothing && other_kind {
                told[number - 1] = told[number];
            }
        }
        told
    }

    /// What the columns call the fingerprints of a row: a column headed Main or Local that says true or false, or one
    /// that holds the fingerprint itself.
    fn labels_by_column(
        &self,
        at: usize,
        cells: &[Range<usize>],
        header: usize,
        heads: &[Range<usize>],
        rows: usize,
        told: &mut [Told],
    ) {
        let (row, head) = (&self.lines[at], &self.lines[header]);
        let label_of = |column: &Range<usize>| {
            let mut here =
                head.labels.iter().filter(|(_, at)| column.contains(&at.start)).map(|(label, _)| *label);
            let first = here.next()?;
            here.all(|label| label == first).then_some(first)
        };
        let mut said = Vec::new();
        for (cell, column) in cells.iter().zip(heads) {
            let Some(label) = label_of(column) else { continue };
            match row.text[cell.clone()].to_lowercase().as_str() {
                "true" | "yes" | "ja" | "x" | "*" | "1" | "wahr" => said.push(Some(label)),
                "false" | "no" | "nein" | "-" | "0" | "" | "falsch" => said.push(None),
                _ => {}
            }
        }
        if !said.is_empty() {
            let yes: Vec<Label> = said.into_iter().flatten().collect();
            let verdict = match yes.as_slice() {
                [label] => Told::Label(*label),
                [one, other] if one != other => Told::Both,
                _ => Told::Denied,
            };
            told.iter_mut().filter(|told| **told == Told::Nothing).for_each(|told| *told = verdict);
            return;
        }
        let mut in_columns = row.prints.iter().map(|(_, range)| {
            cells
                .iter()
                .zip(heads)
                .find(|(cell, _)| cell.contains(&range.start))
                .and_then(|(_, column)| label_of(column))
        });
        // A heading over one column of several rows is about all of them, so it tells none from the others.
        if rows > 1 && row.prints.len() == 1 {
            told.iter_mut().filter(|told| **told == Told::Nothing).for_each(|told| *told = Told::Denied);
            return;
        }
        for told in told.iter_mut() {
            if let (Told::Nothing, Some(Some(label))) = (*told, in_columns.next()) {
                *told = Told::Label(label);
            }
        }
    }

    /// What the lines around a fingerprint that stands alone say of it.
    fn around(&self, at: usize) -> Verdict {
        let same_kind = |line: &Line<'_>| {
            let kind = self.lines[at].prints.first().map(|(print, _)| print.as_bytes().len());
            line.prints.iter().any(|(print, _)| Some(print.as_bytes().len()) == kind)
        };
        let stops = |index: &usize| same_kind(&self.lines[*index]);
        let first = (0..at).rev().take(HEADING).take_while(|index| !stops(index)).last().unwrap_or(at);
        let paragraph =
            (first..at).rev().take_while(|&index| !self.lines[index].is_blank()).last().unwrap_or(at);
        let last = (at + 1..self.lines.len())
            .take(HEADING)
            .take_while(|index| !stops(index) && !self.lines[*index].is_blank())
            .last()
            .unwrap_or(at);
        let names =
            |range: Range<usize>| range.rev().find_map(|index| self.words.names_us(self.lines[index].text));
        let us = names(paragraph..at).or_else(|| names(at + 1..last + 1)).map_or(0, |(grade, _)| grade);
        let subject = (us == 0).then(|| self.host_line(paragraph..last + 1)).flatten();

        let nearest = |mut range: std::iter::Rev<Range<usize>>| {
            range.find(|&index| !self.lines[index].labels.is_empty())
        };
        let above = nearest((paragraph..at).rev());
        // Lines below belong to this one, unless the paragraph goes on with another whose heading they may be.
        let closed = self.lines.get(last + 1).is_none_or(|next| !same_kind(next));
        let below = || (at + 1..last + 1).find(|&index| closed && !self.lines[index].labels.is_empty());
        // A heading with a blank line below it; what follows a fingerprint further up belongs to that.
        let heading = || {
            nearest((first..paragraph).rev())
                .filter(|_| first == 0 || !stops(&(first - 1)) || self.is_heading(first..paragraph))
        };
        let label = above.or_else(below).or_else(heading).and_then(|index| self.lines[index].label());
        Verdict { labels: label.into_iter().collect(), subject, us }
    }

    /// Whether the last lines before a paragraph stand apart from what is above them: a heading, not the end of another paragraph.
    fn is_heading(&self, lines: Range<usize>) -> bool {
        let text = lines.clone().rev().skip_while(|&at| self.lines[at].is_blank());
        let block: Vec<usize> = text.take_while(|&at| !self.lines[at].is_blank()).collect();
        block.last().is_some_and(|&top| top > lines.start && self.lines[top - 1].is_blank())
    }

    /// The host a paragraph is about, by a line as `Server: ums2`.
    fn host_line(&self, mut lines: Range<usize>) -> Option<String> {
        lines.find_map(|at| {
            let (key, value) = self.lines[at].text.split_once([':', '='])?;
            let name = value.split_whitespace().next()?;
            (heads_hosts(key) && self.lines[at].prints.is_empty()).then(|| without_port(name).to_owned())
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Label(Label),
    /// Main and Local.
    Both,
    /// Something says that it is neither, or that nothing around tells.
    Denied,
}
