//! When a UMS Server that was started counts as healthy: good answers several times in a row, for a minimum time, within a
//! deadline. Pure: what it answered, and when, goes in.

use std::time::Duration;

use umsid_proto::model::{Health, HealthStatus};

use crate::config;

/// The time in which a new process has to prove itself.
pub struct Probation<'a> {
    rules: &'a config::Health,
    /// Good answers in a row, and when the first of them came.
    good: u32,
    good_since: Option<Duration>,
    check_status_works: bool,
}

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is healthy.
    Healthy,
    /// It may still become so: what is waited for.
    NotYet(String),
    /// It was not in time.
    TooLate,
}

impl<'a> Probation<'a> {
    /// By these rules.
    pub fn new(rules: &'a config::Health) -> Self {
        Self { rules, good: 0, good_since: None, check_status_works: false }
    }

    /// Whether serverstatus counts by now in place of a check-status that never said anything. `at`: since the process
    /// was there.
    pub fn may_fall_back(&self, at: Duration) -> bool {
        !self.check_status_works && at >= self.rules.fallback_after
    }

    /// Takes an answer. No bad one is the last word before the deadline: `init` for longer than 120 s becomes `err`, and
    /// `ok` all the same in the end (UMS_FACTS §5). `left`: until the deadline.
    pub fn take(&mut self, health: &Health, at: Duration, left: Duration) -> Verdict {
        self.check_status_works |=
            health.source == "check-status" && health.status != HealthStatus::Unreachable;
        if self.rules.is_good(health.status) {
            self.good += 1;
            let since = *self.good_since.get_or_insert(at);
            if self.good >= self.rules.successes && at.saturating_sub(since) >= self.rules.min_time {
                return Verdict::Healthy;
            }
        } else {
            (self.good, self.good_since) = (0, None);
        }
        if left.is_zero() {
            return Verdict::TooLate;
        }
        Verdict::NotYet(format!(
            "waiting for health: {}, {} of {} good answers",
            word(health.status),
            self.good,
            self.rules.successes
        ))
    }
}

impl config::Health {
    /// Whether such an answer is a good one.
    pub fn is_good(&self, status: HealthStatus) -> bool {
        match status {
            HealthStatus::Ok => true,
            HealthStatus::Warn => self.warn_is_good,
            HealthStatus::Unreachable | HealthStatus::Init | HealthStatus::Err => false,
        }
    }
}

/// An answer in a word.
pub fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Unreachable => "no answer",
        HealthStatus::Init => "init",
        HealthStatus::Ok => "ok",
        HealthStatus::Warn => "warn",
        HealthStatus::Err => "err",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came of a server by the rules of a standard installation, and after how many seconds. `answers`: from which
    /// second on it answers what.
    fn proved(answers: &[(u64, HealthStatus)]) -> (Verdict, u64) {
        let rules = config::Health::default();
        let mut probation = Probation::new(&rules);
        let mut at = Duration::ZERO;
        loop {
            let status = answers.iter().rev().find(|(from, _)| Duration::from_secs(*from) <= at).unwrap().1;
            let source = "check-status".to_owned();
            let (detail, ums_host, ums_uuid) = (String::new(), String::new(), String::new());
            let health = Health { status, source, detail, ums_host, ums_uuid };
            let left = rules.deadline.saturating_sub(at);
            match probation.take(&health, at, left) {
                Verdict::NotYet(_) => at += rules.interval.min(left),
                verdict => return (verdict, at.as_secs()),
            }
        }
    }

    #[test]
    fn a_server_that_needs_four_minutes_is_waited_for() {
        use HealthStatus::{Err, Init, Ok, Unreachable};
        // Its port opens late.
        assert_eq!(proved(&[(0, Unreachable), (240, Ok)]), (Verdict::Healthy, 250));
        // Its port opens early, and `init` has become `err` after 120 s.
        let slow = [(0, Unreachable), (10, Init), (130, Err), (240, Ok)];
        assert_eq!(proved(&slow), (Verdict::Healthy, 250));
        // There is an end to it all the same.
        assert_eq!(proved(&[(0, Unreachable)]), (Verdict::TooLate, 600));
        assert_eq!(proved(&[(0, Unreachable), (10, Init), (130, Err)]), (Verdict::TooLate, 600));
    }

    /// After 20 s it has proved itself already: such a death is seen by whoever looks again before the next server is
    /// touched, and before all is called well.
    #[test]
    fn good_answers_count_only_in_a_row_and_over_the_minimum_time() {
        use HealthStatus::{Ok, Unreachable, Warn};
        assert_eq!(proved(&[(0, Ok), (20, Unreachable)]), (Verdict::Healthy, 10));
        assert_eq!(proved(&[(0, Ok), (9, Unreachable)]), (Verdict::TooLate, 600));
        // Up for 8 s of every 20, and at last for good.
        let mut flaps: Vec<_> = (0..10).flat_map(|n| [(20 * n, Ok), (20 * n + 8, Unreachable)]).collect();
        flaps.push((200, Ok));
        assert_eq!(proved(&flaps), (Verdict::Healthy, 210));
        assert_eq!(proved(&[(0, Warn)]), (Verdict::TooLate, 600));
    }
}
