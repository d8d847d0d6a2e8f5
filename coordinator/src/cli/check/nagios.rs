//! A line, performance data, and more lines: <https://nagios-plugins.org/doc/guidelines.html#PLUGOUTPUT>.

use std::fmt::Write as _;

use crate::condition::{Bounds, Condition, Level};

/// What the service is called at the beginning of the line.
const SERVICE: &str = "UMSID";

/// The whole of it.
pub(super) fn text(level: Level, conditions: &[Condition], certificate: Bounds, skew: Bounds) -> String {
    let told: Vec<String> = conditions
        .iter()
        .map(|condition| format!("{}: {}", condition.cluster, condition.summary()))
        .collect();
    let data: Vec<String> =
        conditions.iter().flat_map(|condition| data(condition, certificate, skew)).collect();
    let mut text = format!("{SERVICE} {level} - {} | {}\n", plain(&told.join("; ")), data.join(" "));
    for condition in conditions {
        for line in details(condition) {
            text.push_str(&plain(&line));
            text.push('\n');
        }
    }
    text
}

/// Where nothing can be told.
pub(super) fn unknown(what: &str) -> String {
    format!("{SERVICE} {} - {}\n", Level::Unknown, plain(what))
}

/// Everything there is to say, a line each.
pub(super) fn details(condition: &Condition) -> Vec<String> {
    let cluster = &condition.cluster;
    let mut lines: Vec<String> = condition
        .findings
        .iter()
        .map(|finding| {
            let mut line = format!("{} {cluster}: {finding}", finding.level);
            if !finding.detail.is_empty() {
                let _ = write!(line, " ({})", finding.detail);
            }
            if !finding.remedy.is_empty() {
                let _ = write!(line, "; what to do: {}", finding.remedy);
            }
            line
        })
        .collect();
    let well = condition.servers.iter().filter(|(server, _)| {
        condition.findings.iter().all(|finding| finding.server.as_ref() != Some(*server))
    });
    lines.extend(
        well.map(|(server, standing)| format!("{} {cluster}: {server} {}", Level::Ok, standing.state)),
    );
    lines
}

/// `'label'=value[unit];[warn];[crit];[min];[max]`. Names of clusters need no quotes.
fn data(condition: &Condition, certificate: Bounds, skew: Bounds) -> Vec<String> {
    let (cluster, servers) = (&condition.cluster, condition.servers.len());
    let mut data = vec![
        format!("{cluster}.in_sync={};{servers}:;{servers}:;0;{servers}", condition.in_sync()),
        format!("{cluster}.not_in_sync={};0;0;0;{servers}", condition.not_in_sync()),
        format!("{cluster}.unanswered={};0;0;0;{servers}", condition.unanswered()),
        format!("{cluster}.unfinished_runs={};0;;0", condition.unfinished_runs()),
    ];
    if let Some(largest) = condition.largest_skew_ms() {
        let (warning, critical) = (skew.warning.as_secs(), skew.critical.as_secs());
        data.push(format!(
            "{cluster}.clock_skew={}.{:03}s;{warning};{critical};0",
            largest / 1000,
            largest % 1000
        ));
    }
    if let Some(left) = condition.certificate_s() {
        let (warning, critical) = (certificate.warning.as_secs(), certificate.critical.as_secs());
        data.push(format!("{cluster}.certificate={left}s;{warning}:;{critical}:"));
    }
    data.push(format!("{cluster}.time={:.3}s;;;0", condition.took.as_secs_f64()));
    data
}

/// Without what ends the line or begins the performance data.
pub(super) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '|' => '/',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}
