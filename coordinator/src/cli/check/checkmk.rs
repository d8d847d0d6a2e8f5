//! Lines of local checks: `STATE "SERVICE" METRICS TEXT`, <https://docs.checkmk.com/latest/en/localchecks.html>.

use super::nagios::{details, plain};
use crate::condition::{Bounds, Condition, Level};

/// A service for each cluster.
pub(super) fn text(conditions: &[Condition], skew: Bounds) -> String {
    conditions.iter().map(|condition| line(condition, skew)).collect()
}

/// Where nothing can be told, of no cluster.
pub(super) fn unknown(what: &str) -> String {
    format!("{} \"UMS ID\" - {}\n", Level::Unknown.code(), escaped(what))
}

fn line(condition: &Condition, skew: Bounds) -> String {
    let mut text = escaped(&condition.summary());
    for detail in details(condition) {
        // What begins a new line there.
        text.push_str("\\n");
        text.push_str(&escaped(&detail));
    }
    let (code, cluster, metrics) = (condition.level().code(), &condition.cluster, metrics(condition, skew));
    format!("{code} \"UMS ID {cluster}\" {metrics} {text}\n")
}

/// `name=value;warn;crit;min;max`. The state is ours and not computed there, so that bounds which are lower ones, as those of
/// certificates, are left out.
fn metrics(condition: &Condition, skew: Bounds) -> String {
    let servers = condition.servers.len();
    let mut metrics = vec![
        format!("in_sync={};;;0;{servers}", condition.in_sync()),
        format!("not_in_sync={};;;0;{servers}", condition.not_in_sync()),
        format!("unanswered={};;;0;{servers}", condition.unanswered()),
        format!("unfinished_runs={}", condition.unfinished_runs()),
    ];
    if let Some(largest) = condition.largest_skew_ms() {
        let (warning, critical) = (skew.warning.as_secs(), skew.critical.as_secs());
        metrics.push(format!("clock_skew={}.{:03};{warning};{critical}", largest / 1000, largest % 1000));
    }
    if let Some(left) = condition.certificate_s() {
        metrics.push(format!("certificate={left}"));
    }
    metrics.push(format!("time={:.3}", condition.took.as_secs_f64()));
    metrics.join("|")
}

/// A backslash would begin something there.
fn escaped(text: &str) -> String {
    plain(text).replace('\\', "\\\\")
}
