//! Words that tell Main from Local, names of hosts, and lines that are log lines.

use std::ops::Range;

use umsid_proto::model::Label;

/// What to look for besides fingerprints.
#[derive(Clone, Debug, Default)]
pub struct Words {
    main: Vec<String>,
    local: Vec<String>,
    not_in_sync: Vec<String>,
    hosts: Vec<String>,
}

/// Last parts of a compound such as `Main-UMS-ID`, `MAIN_ID` or `mainUmsId`, by which it is known from a host's name
/// such as `ums-main-1`.
const ENDINGS: &[&str] =
    &["id", "ids", "kennung", "fingerprint", "certificate", "cert", "zertifikat", "status"];

const NEGATIONS: &[&str] = &["not", "nicht", "no", "non", "kein", "keine"];

const LEVELS: &[&str] = &[
    "TRACE",
    "DEBUG",
    "INFO",
    "INFORMATION",
    "WARN",
    "WARNING",
    "WARNUNG",
    "ERROR",
    "SEVERE",
    "FATAL",
    "FINE",
];

impl Words {
    /// Words that call a UMS ID Main and Local (`*` at the end: any ending), what says that a server is not in sync, and
    /// the names of this server.
    pub fn new(main: &[String], local: &[String], not_in_sync: &[String], hosts: &[String]) -> Self {
        let lower = |words: &[String]| words.iter().map(|word| word.to_lowercase()).collect::<Vec<_>>();
        let mut hosts = lower(hosts);
        hosts.retain(|host| {
            !host.is_empty() && host != "localhost" && host.parse::<std::net::IpAddr>().is_err()
        });
        Self { main: lower(main), local: lower(local), not_in_sync: lower(not_in_sync), hosts }
    }

    /// The names of this server.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The words in a line that call something Main or Local, with their places. `[main]` in a log line is a thread.
    pub(super) fn labels(&self, line: &str) -> Vec<(Label, Range<usize>)> {
        // "Not in sync with the Main UMS ID" calls nothing Main.
        let lower = line.to_ascii_lowercase();
        let end = self
            .not_in_sync
            .iter()
            .filter_map(|phrase| lower.find(phrase.as_str()))
            .min()
            .unwrap_or(line.len());
        let chunks: Vec<_> = chunks(line).into_iter().filter(|chunk| chunk.end <= end).collect();
        let text = |at: usize| chunks.get(at).map(|chunk| line[chunk.clone()].to_lowercase());
        let mut found = Vec::new();
        for (at, chunk) in chunks.iter().enumerate() {
            let Some(label) = self.label_of(&line[chunk.clone()]) else { continue };
            let negated = at > 0 && text(at - 1).is_some_and(|word| NEGATIONS.contains(&word.as_str()));
            let value = (at + 1..).find_map(|next| match text(next) {
                Some(word) if matches!(word.as_str(), "ums" | "id" | "ids") => None,
                other => Some(other),
            });
            let denied = matches!(value.flatten().as_deref(), Some("false" | "no" | "nein"));
            if !negated && !denied {
                found.push((label, chunk.clone()));
            }
        }
        found
    }

    fn label_of(&self, chunk: &str) -> Option<Label> {
        let parts = parts(chunk);
        let first = parts.first()?;
        let compound = parts.len() > 1;
        if compound && (chunk.contains('.') || !ENDINGS.contains(&parts.last()?.as_str())) {
            return None;
        }
        let is = |words: &[String]| {
            words.iter().any(|word| match word.strip_suffix('*') {
                Some(beginning) => first.starts_with(beginning),
                None => first == word,
            })
        };
        match (is(&self.main), is(&self.local)) {
            (true, false) => Some(Label::Main),
            (false, true) => Some(Label::Local),
            _ => None,
        }
    }

    /// How well a line names this server: 2 by a whole name, 1 by the first part of one, with the place.
    pub(super) fn names_us(&self, line: &str) -> Option<(u8, Range<usize>)> {
        let named = |range: Range<usize>| {
            let name = without_port(&line[range.clone()]).to_lowercase();
            let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
            let by_part =
                |host: &String| (host.contains('.') != name.contains('.')) && short(host) == short(&name);
            let grade = match () {
                () if self.hosts.contains(&name) => 2,
                () if self.hosts.iter().any(by_part) => 1,
                () => return None,
            };
            Some((grade, range))
        };
        host_chunks(line).into_iter().filter_map(named).max_by_key(|(grade, _)| *grade)
    }
}

/// Whether a word heads the column of servers' names.
pub(super) fn heads_hosts(cell: &str) -> bool {
    let heads = ["host", "hostname", "server", "servername", "rechner", "rechnername", "node", "knoten"];
    chunks(cell).into_iter().next().is_some_and(|first| heads.contains(&cell[first].to_lowercase().as_str()))
}

/// A host name as a program may print it: without `:8443` at its end.
pub(super) fn without_port(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => name.trim_end_matches(':'),
    }
}

/// Whether this is a line of a log: its level is among the first words, behind a date or at its very beginning.
pub fn is_log(line: &str) -> bool {
    let bare = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
    let mut dated = false;
    for (at, word) in line.split_whitespace().take(6).enumerate() {
        if LEVELS.contains(&bare(word).as_str()) && (dated || (at == 0 && word.ends_with([':', ']']))) {
            return true;
        }
        dated |= word.starts_with(|c: char| c.is_ascii_digit() || c == '[')
            && word.matches([':', '-', '.']).count() >= 2;
    }
    false
}

/// Pieces of a line between blanks and punctuation that no word contains.
fn chunks(line: &str) -> Vec<Range<usize>> {
    split(line, |c| {
        c.is_whitespace()
            || matches!(
                c,
                ';' | ','
                    | '"'
                    | '\''
                    | '('
                    | ')'
                    | '['
                    | ']'
                    | '{'
                    | '}'
                    | '|'
                    | '='
                    | ':'
                    | '<'
                    | '>'
                    | '#'
                    | '*'
            )
    })
}

/// Pieces that may be host names, with their ports.
fn host_chunks(line: &str) -> Vec<Range<usize>> {
    split(line, |c| {
        c.is_whitespace() || matches!(c, ';' | ',' | '"' | '\'' | '(' | ')' | '[' | ']' | '|' | '=' | '/')
    })
}

fn split(line: &str, is_between: impl Fn(char) -> bool) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    for (at, c) in line.char_indices().filter(|(_, c)| !is_between(*c)) {
        match pieces.last_mut() {
            Some(piece) if piece.end == at => piece.end = at + c.len_utf8(),
            _ => pieces.push(at..at + c.len_utf8()),
        }
    }
    pieces
}

/// The words a compound is made of, in lower case: `Haupt-UMS-ID`, `MAIN_UMS_ID` and `mainUmsId` are of three.
fn parts(chunk: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut last_lower = false;
    for c in chunk.trim_matches(|c: char| !c.is_alphanumeric()).chars() {
        if !c.is_alphanumeric() || (last_lower && c.is_uppercase()) {
            parts.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(part) = parts.last_mut()
        {
            part.extend(c.to_lowercase());
        }
        last_lower = c.is_lowercase();
    }
    parts.retain(|part| !part.is_empty());
    parts
}
