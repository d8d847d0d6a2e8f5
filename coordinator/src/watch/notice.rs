//! What is told: for programs as JSON, for people as a mail.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use umsid_common::name::{ClusterName, random_bytes};

use super::memory::Change;
use crate::condition::{Condition, Finding, Level};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A cluster is in another state than was told before, or for other reasons.
    StateChanged,
    /// It was synchronized without a person.
    Synchronized,
    /// It was to be, and was not.
    SyncFailed,
    /// Nothing; somebody wants to know whether notices arrive.
    Test,
}

/// One notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The same however often it is delivered.
    pub id: String,
    /// What happened.
    pub event: Event,
    /// Where; `None`: nowhere.
    pub cluster: Option<ClusterName>,
    /// How the cluster is now.
    pub state: Level,
    /// How it was when it was told last.
    pub before: Level,
    /// When it was found out.
    pub time: Timestamp,
    /// In a line, for people; chats show it.
    pub text: String,
    /// What was not told before.
    pub news: Vec<String>,
    /// What was told and is over.
    pub over: Vec<String>,
    /// All that is not as it should be, seen just now.
    pub findings: Vec<Finding>,
    /// Who tells.
    pub from: String,
}

impl Notice {
    /// A change of state.
    pub fn of_change(change: &Change, condition: &Condition, from: &str) -> Self {
        let cluster = &condition.cluster;
        let mut text = format!("UMSID {} - {cluster}", change.now);
        if !change.news.is_empty() {
            let _ = write!(text, ": {}", change.news.join(", "));
        }
        if !change.over.is_empty() {
            let _ = write!(text, "; over: {}", change.over.join(", "));
        }
        if change.now == Level::Ok {
            let _ = write!(text, "; {}", condition.summary());
        }
        Self {
            news: change.news.clone(),
            over: change.over.clone(),
            findings: condition.findings.clone(),
            before: change.before,
            ..Self::new(Event::StateChanged, Some(cluster.clone()), change.now, text, from)
        }
    }

    /// A synchronization without a person has ended like that.
    pub fn of_sync(cluster: &ClusterName, state: Level, outcome: &Result<(), String>, from: &str) -> Self {
        let (event, how) = match outcome {
            Ok(()) => (Event::Synchronized, "synchronized without a person, and verified".to_owned()),
            Err(why) => (Event::SyncFailed, format!("not synchronized without a person: {why}")),
        };
        let text = format!("UMSID {cluster}: {how}");
        Self { before: state, ..Self::new(event, Some(cluster.clone()), state, text, from) }
    }

    /// Whether notices arrive.
    pub fn test(from: &str) -> Self {
        let text = "UMSID TEST - somebody wants to know whether notices arrive".to_owned();
        Self::new(Event::Test, None, Level::Ok, text, from)
    }

    fn new(event: Event, cluster: Option<ClusterName>, state: Level, text: String, from: &str) -> Self {
        Self {
            id: data_encoding::HEXLOWER.encode(&random_bytes::<16>()),
            event,
            cluster,
            state,
            before: Level::Ok,
            time: Timestamp::now(),
            text,
            news: Vec::new(),
            over: Vec::new(),
            findings: Vec::new(),
            from: from.to_owned(),
        }
    }

    /// As the text of a mail.
    pub fn letter(&self) -> String {
        let mut letter = format!("{}\n", self.text);
        for finding in &self.findings {
            let _ = write!(letter, "\n{:8} {finding}\n", finding.level);
            if !finding.detail.is_empty() {
                let _ = writeln!(letter, "         {}", line(&finding.detail));
            }
            if !finding.remedy.is_empty() {
                let _ = writeln!(letter, "         what to do: {}", finding.remedy);
            }
        }
        let _ = write!(letter, "\nfound out at {} by {}\nnotice {}\n", self.time, self.from, self.id);
        letter
    }

    /// As the subject of a mail: one line, and not too long.
    pub fn subject(&self) -> String {
        const LONGEST: usize = 150;
        let line = line(&self.text);
        if line.chars().count() <= LONGEST {
            return line;
        }
        line.chars().take(LONGEST).chain(['…']).collect()
    }
}

/// What servers say, as one line.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::condition::Kind;

    #[test]
    fn a_letter_says_what_to_do_and_what_a_server_says_makes_no_lines() {
        let mut notice = Notice::test("us");
        let finding = Finding::new(Level::Critical, Kind::Unwell, "UMS Server reports err");
        notice.findings = vec![finding.because("a\r\nBcc: b\u{1b}[2J").remedy("read its log")];
        let letter = notice.letter();
        assert!(letter.contains("\n         a  Bcc: b [2J\n         what to do: read its log\n"), "{letter}");
        assert!(letter.contains(&notice.id), "{letter}");
    }

    #[test]
    fn a_subject_is_one_line_of_bounded_length() {
        let mut notice = Notice::test("us");
        notice.text = format!("a\r\nb{}", "ü".repeat(300));
        let subject = notice.subject();
        assert!(subject.starts_with("a  b") && !subject.contains('\n'), "{subject}");
        assert_eq!(subject.chars().count(), 151);
    }
}
