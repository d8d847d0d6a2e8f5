//! Fingerprints in a line of text, by content alone.

use std::ops::Range;

use umsid_common::digest::Fingerprint;

/// The lengths in bytes of SHA-256 and SHA-1.
const LENGTHS: [usize; 2] = [32, 20];

/// Every fingerprint in a line, with its place in bytes: 64 or 40 hex digits in any case, in one piece or in pairs with
/// colons or blanks between. Hex inside something longer, as a 128-digit number, a path or a file name, is none.
pub(super) fn fingerprints(line: &str) -> Vec<(Fingerprint, Range<usize>)> {
    let words = words(line);
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(word) = words.get(next) {
        let run = pairs(line, &words[next..]);
        let range = word.start..words[next + run - 1].end;
        let whole = match run {
            1 => is_hex(&line[range.clone()]) && LENGTHS.contains(&(range.len() / 2)) && range.len() % 2 == 0,
            pairs => LENGTHS.contains(&pairs),
        };
        if whole
            && !is_part(line, &range)
            && let Ok(fingerprint) = line[range.clone()].parse()
        {
            found.push((fingerprint, range));
        }
        next += run;
    }
    found
}

/// Places of the longest pieces of letters and digits.
pub(super) fn words(line: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for (at, c) in line.char_indices().filter(|(_, c)| c.is_alphanumeric()) {
        match words.last_mut() {
            Some(word) if word.end == at => word.end = at + c.len_utf8(),
            _ => words.push(at..at + c.len_utf8()),
        }
    }
    words
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// How many words from the first on are pairs of hex digits with the same colon or single blank between; at least 1.
fn pairs(line: &str, words: &[Range<usize>]) -> usize {
    let is_pair = |word: &Range<usize>| word.len() == 2 && is_hex(&line[word.clone()]);
    if !words.first().is_some_and(is_pair) {
        return 1;
    }
    let separator = |pair: &[Range<usize>]| match &line[pair[0].end..pair[1].start] {
        ":" => Some(':'),
        " " => Some(' '),
        _ => None,
    };
    let mut separators = words.windows(2).take_while(|pair| is_pair(&pair[1])).map(separator);
    let Some(Some(first)) = separators.next() else { return 1 };
    2 + separators.take_while(|next| *next == Some(first)).count()
}

/// Whether what stands directly before or after makes it a part of something longer.
fn is_part(line: &str, range: &Range<usize>) -> bool {
    let joins = |c: char| matches!(c, '/' | '\\' | '.' | '-' | '_' | '+' | '@');
    let mut before = line[..range.start].chars().rev();
    let mut after = line[range.end..].chars();
    let joined_before = match before.next() {
        // `SHA256:…` is a label, `AB:…` is more of the same.
        Some(':') => {
            let word: String = before.take_while(|c| c.is_alphanumeric()).collect();
            word.len() == 2 && is_hex(&word)
        }
        Some(c) if joins(c) => before.next().is_some_and(char::is_alphanumeric),
        _ => false,
    };
    let joined_after = match after.next() {
        Some(c) if c == ':' || joins(c) => after.next().is_some_and(char::is_alphanumeric),
        _ => false,
    };
    joined_before || joined_after
}
