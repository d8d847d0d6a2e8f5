//! When something may be done: `Sun 02:00-04:00`, `Mon-Fri 22:00-05:00`, `Sat,Sun 00:00-24:00`, `daily 01:00-03:00`.
//!
//! A window is read off a clock on the wall: of the time zone named behind it, as in `Sun 02:00-04:00 Europe/Berlin`, or else
//! of the one in which the moment asked about is given. One that ends before it begins ends the day after. Where the wall's
//! clock is put forward or back, a window may be shorter than it says, and is never longer: what the clock skips is no part of
//! it, and of an hour that comes twice it has the last beginning and the first end.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Zoned};
use serde::{Deserialize, Serialize};

/// All days a window may begin on, in the order in which they are written.
const WEEK: [(Weekday, &str); 7] = [
    (Weekday::Monday, "Mon"),
    (Weekday::Tuesday, "Tue"),
    (Weekday::Wednesday, "Wed"),
    (Weekday::Thursday, "Thu"),
    (Weekday::Friday, "Fri"),
    (Weekday::Saturday, "Sat"),
    (Weekday::Sunday, "Sun"),
];

/// How far ahead windows are looked at that follow each other without a gap: one that is always open has a week left.
const FAR: i32 = 8;

/// How far ahead one is looked for that is long enough: windows repeat every week, but for the days the clock is changed.
const FAR_FOR: i32 = 22;

/// How far ahead the next window is looked for; one that the clock skips comes again a week later.
const FARTHEST: i32 = 366;

/// Times of the week in which something may be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// Whether it begins on that day of [`WEEK`].
    days: [bool; 7],
    from: Time,
    /// Midnight is that of the next day.
    until: Time,
    /// Whose clock; `None`: that of whoever asks.
    zone: Option<TimeZone>,
}

/// A text that is no window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no window: {why}; one looks like `Sun 02:00-04:00`, `Mon-Fri 22:00-05:00` or `daily 01:00-03:00`"
)]
pub struct ParseWindowError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl Window {
    /// How long the window is still open; `None`: it is closed.
    pub fn room(&self, now: &Zoned) -> Option<SignedDuration> {
        room(std::slice::from_ref(self), now)
    }

    /// When it opens next, later than this moment; in the time zone of the window.
    pub fn next(&self, after: &Zoned) -> Zoned {
        let after = self.on_its_clock(after);
        let next = self.spans(&after, 0, FARTHEST).map(|(opens, _)| opens).find(|opens| *opens > after);
        // There is one within days, unless the calendar ends before.
        next.unwrap_or(after)
    }

    /// The same window by this clock, unless it names one itself.
    #[must_use]
    pub fn or_by(mut self, zone: Option<&TimeZone>) -> Self {
        self.zone = self.zone.or_else(|| zone.cloned());
        self
    }

    fn on_its_clock(&self, moment: &Zoned) -> Zoned {
        match &self.zone {
            Some(zone) => moment.with_time_zone(zone.clone()),
            None => moment.clone(),
        }
    }

    /// When it opens and closes on the days around a moment, in their order; those the clock skips are left out.
    fn spans(&self, around: &Zoned, from: i32, to: i32) -> impl Iterator<Item = (Zoned, Zoned)> + use<'_> {
        let (zone, date) = (around.time_zone().clone(), around.date());
        (from..=to).filter_map(move |days| {
            let date = date.checked_add(jiff::Span::new().days(days)).ok()?;
            let open = self.days[WEEK.iter().position(|(day, _)| *day == date.weekday())?];
            if open { self.span(date, &zone) } else { None }
        })
    }

    fn span(&self, date: Date, zone: &TimeZone) -> Option<(Zoned, Zoned)> {
        let last = if self.until <= self.from { date.tomorrow().ok()? } else { date };
        let opens = moment(zone, date.to_datetime(self.from), Turn::Last)?;
        let until = last.to_datetime(self.until);
        let first = moment(zone, until, Turn::First)?;
        // Both in the hour that comes twice.
        let closes = if first <= opens { moment(zone, until, Turn::Last)? } else { first };
        (opens < closes).then_some((opens, closes))
    }
}

/// How long one of these windows is still open, with those that follow it without a gap; `None`: all are closed.
pub fn room(windows: &[Window], now: &Zoned) -> Option<SignedDuration> {
    let spans = |window: &Window| {
        let now = window.on_its_clock(now);
        window.spans(&now, -2, FAR).collect::<Vec<_>>()
    };
    let mut spans: Vec<(Zoned, Zoned)> = windows.iter().flat_map(spans).collect();
    spans.sort();
    let mut close = None;
    for (opens, closes) in spans {
        let goes_on = match &close {
            None => opens <= *now && *now < closes,
            Some(close) => opens <= *close && *close < closes,
        };
        if goes_on {
            close = Some(closes);
        }
    }
    close.map(|close| close.duration_since(now))
}

/// Whether what takes so long and is begun now is over before these windows close.
pub fn fits(windows: &[Window], now: &Zoned, takes: SignedDuration) -> bool {
    room(windows, now).is_some_and(|room| room >= takes)
}

/// When one of these windows opens next, later than this moment, for at least so long, in its time zone; `None`: they are never
/// open so long.
pub fn next_for(windows: &[Window], after: &Zoned, takes: SignedDuration) -> Option<Zoned> {
    let next = |window: &Window| {
        let after = window.on_its_clock(after);
        let mut openings = window.spans(&after, -1, FAR_FOR).map(|(opens, _)| opens);
        openings.find(|opens| *opens > after && fits(windows, opens, takes))
    };
    windows.iter().filter_map(next).min_by_key(Zoned::timestamp)
}

/// Which of two, in an hour that comes twice.
#[derive(Clone, Copy)]
enum Turn {
    First,
    Last,
}

/// The moment at which the clock on the wall shows this, or, if it skips it, at which it does so.
fn moment(zone: &TimeZone, shown: DateTime, turn: Turn) -> Option<Zoned> {
    let ambiguous = zone.to_ambiguous_zoned(shown);
    match (ambiguous.offset(), turn) {
        (AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. }, Turn::First) => {
            ambiguous.earlier()
        }
        (AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. }, Turn::Last) => ambiguous.later(),
        (AmbiguousOffset::Gap { .. }, _) => {
            let before = ambiguous.earlier().ok()?.timestamp();
            let skips = zone.following(before).next()?;
            Ok(skips.timestamp().to_zoned(zone.clone()))
        }
    }
    .ok()
}

impl FromStr for Window {
    type Err = ParseWindowError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |why: String| ParseWindowError { text: text.to_owned(), why };
        let (when, zone) = match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            [days, times] => ((*days, *times), None),
            [days, times, zone] => ((*days, *times), Some(*zone)),
            _ => {
                return Err(wrong(
                    "it wants days and times, and perhaps a time zone, with a space between".to_owned(),
                ));
            }
        };
        let days = days(when.0).map_err(wrong)?;
        let (from, until) =
            when.1.split_once('-').ok_or_else(|| wrong(format!("`{}` are no two times", when.1)))?;
        if from == until {
            return Err(wrong("it ends when it begins; the whole day is 00:00-24:00".to_owned()));
        }
        let from = time(from).map_err(wrong)?;
        let until = if until == "24:00" { Time::midnight() } else { time(until).map_err(wrong)? };
        let zone = zone
            .map(|name| {
                TimeZone::get(name).map_err(|_| wrong(format!("no time zone `{name}` is known here")))
            })
            .transpose()?;
        Ok(Self { days, from, until, zone })
    }
}

fn days(text: &str) -> Result<[bool; 7], String> {
    if text.eq_ignore_ascii_case("daily") {
        return Ok([true; 7]);
    }
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // `Fri-Mon` goes over the end of the week.
        let length = (last + 7 - first) % 7;
        (first..=first + length).for_each(|day| days[day % 7] = true);
    }
    Ok(days)
}

fn day(text: &str) -> Result<usize, String> {
    WEEK.iter()
        .position(|(_, name)| name.eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("`{text}` is no day; they are Mon, Tue, Wed, Thu, Fri, Sat, Sun and daily"))
}

fn time(text: &str) -> Result<Time, String> {
    let two = |digits: &str| -> Option<i8> {
        let digits =
            (digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(digits)?;
        digits.parse().ok()
    };
    let read = || {
        let (hour, minute) = text.split_once(':')?;
        Time::new(two(hour)?, two(minute)?, 0, 0).ok()
    };
    read().ok_or_else(|| format!("`{text}` is no time; one looks like 02:00"))
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days == [true; 7] {
            f.write_str("daily")?;
        } else {
            let mut runs: Vec<(usize, usize)> = Vec::new();
            for day in (0..7).filter(|day| self.days[*day]) {
                match runs.last_mut() {
                    Some((_, last)) if *last + 1 == day => *last = day,
                    _ => runs.push((day, day)),
                }
            }
            let name = |day: usize| WEEK[day].1;
            let runs = runs.iter().map(|(first, last)| match last - first {
                0 => name(*first).to_owned(),
                1 => format!("{},{}", name(*first), name(*last)),
                _ => format!("{}-{}", name(*first), name(*last)),
            });
            f.write_str(&runs.collect::<Vec<_>>().join(","))?;
        }
        let until = match self.until {
            midnight if midnight == Time::midnight() => "24:00".to_owned(),
            until => until.strftime("%H:%M").to_string(),
        };
        write!(f, " {}-{until}", self.from.strftime("%H:%M"))?;
        match self.zone.as_ref().and_then(TimeZone::iana_name) {
            Some(zone) => write!(f, " {zone}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Window {
    type Error = ParseWindowError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

#[cfg(test)]
mod tests;
