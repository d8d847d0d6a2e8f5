//! Columns of a table whose layout nobody has documented: by separators where every line has as many, else by the
//! blank strips that go through all lines.

use std::ops::Range;

const SEPARATORS: [char; 3] = [';', '|', '\t'];

/// The cells of each line, the same number in all lines, as places in bytes; without blanks around. `opaque`: places in
/// each line that are one piece whatever blanks they contain.
pub(super) fn cells(lines: &[&str], opaque: &[Vec<Range<usize>>]) -> Vec<Vec<Range<usize>>> {
    for separator in SEPARATORS {
        let count = |line: &&str| line.matches(separator).count();
        let first = lines.first().map_or(0, count);
        if first > 0 && lines.iter().all(|line| count(line) == first) {
            return lines.iter().map(|line| separated(line, separator)).collect();
        }
    }
    by_strips(lines, opaque)
}

fn separated(line: &str, separator: char) -> Vec<Range<usize>> {
    let mut start = 0;
    let piece = |piece: &str| {
        let range = start..start + piece.len();
        start = range.end + separator.len_utf8();
        trimmed(line, range)
    };
    line.split(separator).map(piece).collect()
}

fn by_strips(lines: &[&str], opaque: &[Vec<Range<usize>>]) -> Vec<Vec<Range<usize>>> {
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let mut used = vec![false; width];
    for (line, opaque) in lines.iter().zip(opaque) {
        for (column, (at, c)) in line.char_indices().enumerate() {
            if !c.is_whitespace() || opaque.iter().any(|range| range.contains(&at)) {
                used[column] = true;
            }
        }
    }
    let mut columns: Vec<Range<usize>> = Vec::new();
    for column in (0..width).filter(|&column| used[column]) {
        match columns.last_mut() {
            Some(range) if range.end == column => range.end = column + 1,
            _ => columns.push(column..column + 1),
        }
    }
    let cells_of = |line: &&str| {
        let places: Vec<usize> = line.char_indices().map(|(at, _)| at).collect();
        let place = |column: usize| places.get(column).copied().unwrap_or(line.len());
        columns.iter().map(|range| trimmed(line, place(range.start)..place(range.end))).collect()
    };
    lines.iter().map(cells_of).collect()
}

fn trimmed(line: &str, range: Range<usize>) -> Range<usize> {
    let text = &line[range.clone()];
    let start = range.start + (text.len() - text.trim_start().len());
    start..(start + text.trim().len())
}
