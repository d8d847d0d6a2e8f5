//! Samples, their medians, and figures made of them.

use serde::{Deserialize, Serialize};

/// What was measured several times of one thing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Samples {
    /// As `sync of 20`.
    pub(super) what: String,
    /// Who did it, as `umsid`.
    pub(super) who: String,
    /// As `s`, `MB/s`.
    pub(super) unit: String,
    /// In the order they were taken.
    pub(super) values: Vec<f64>,
}

impl Samples {
    /// Nothing yet.
    pub(super) fn new(what: impl Into<String>, who: &str, unit: &str) -> Self {
        Self { what: what.into(), who: who.to_owned(), unit: unit.to_owned(), values: Vec::new() }
    }

    /// The value in the middle.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len() / 2, sorted.len() % 2) {
            (_, _) if sorted.is_empty() => f64::NAN,
            (half, 0) => f64::midpoint(sorted[half - 1], sorted[half]),
            (half, _) => sorted[half],
        }
    }
}

/// What is told of it, beside what was to be reached.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    what: String,
    measured: String,
    reach: String,
    reached: bool,
}

impl Figure {
    /// A value that may be this large.
    pub(super) fn at_most(what: impl Into<String>, value: f64, most: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            measured: format!("{} {unit}", rounded(value)),
            reach: format!("≤ {} {unit}", rounded(most)),
            reached: value <= most,
        }
    }

    /// How many times better than the peer, and how many it is to be, if something is asked; `both` says what the two are.
    pub(super) fn times(what: impl Into<String>, ratio: f64, least: Option<f64>, both: &str) -> Self {
        let measured = format!("{} × ({both})", rounded(ratio));
        let Some(least) = least else { return Self::told(what, measured) };
        Self {
            what: what.into(),
            measured,
            reach: format!("≥ {} ×", rounded(least)),
            reached: ratio >= least,
        }
    }

    /// A value that nothing is asked of.
    pub(super) fn told(what: impl Into<String>, measured: String) -> Self {
        Self { what: what.into(), measured, reach: String::new(), reached: true }
    }

    /// As a row of the README's table.
    pub(super) fn row(&self) -> String {
        if self.reach.is_empty() {
            return format!("| {} | {} | | |\n", self.what, self.measured);
        }
        let mark = if self.reached { "reached" } else { "**not reached**" };
        format!("| {} | {} | {} | {mark} |\n", self.what, self.measured, self.reach)
    }
}

/// Three digits are more than these machines repeat.
pub(super) fn rounded(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The samples of one thing by one peer.
pub(super) fn find<'a>(all: &'a [Samples], what: &str, who: &str) -> Option<&'a Samples> {
    all.iter().find(|samples| samples.what == what && samples.who == who)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_value_in_the_middle() {
        let of = |values: &[f64]| Samples { values: values.to_vec(), ..Samples::new("", "", "s") }.median();
        assert_eq!((of(&[3.0, 1.0, 100.0]), of(&[4.0, 1.0, 2.0, 3.0])), (2.5 + 0.5, 2.5));
        assert!(of(&[]).is_nan());
    }

    #[test]
    fn what_was_not_measured_reaches_nothing() {
        assert!(Figure::times("x", f64::NAN, Some(1.0), "").row().contains("not reached"));
        assert!(Figure::at_most("x", f64::NAN, 1.0, "s").row().contains("not reached"));
    }
}
