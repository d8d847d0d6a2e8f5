//! How clusters are, as OpenMetrics text.
//!
//! Only gauges: what collects from a text file knows fewer types than OpenMetrics has, and takes these.

use std::fmt;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::condition::Condition;
use crate::survey::SyncState;

/// What OpenMetrics text is sent as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Name and help of what tells a look that came to nothing.
const SUCCESS: (&str, &str) =
    ("umsid_check_success", "Whether umsid could look at all; where it could not, this is all there is");

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// The text, to its `# EOF`. `own`: end of the certificate that was used to look.
pub fn openmetrics(conditions: &[Condition], own: Option<Timestamp>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let mut family = |name: &str, help: &str, unit: Option<Unit>| register(&mut registry, name, help, unit);
    set(&family(SUCCESS.0, SUCCESS.1, None), &Labels::new(), 1.0);
    let clusters = Clusters::new(&mut family);
    let servers = Servers::new(&mut family);
    let own_not_after = family(
        "umsid_certificate_not_after_timestamp",
        "When the certificate ends by which the agents were asked",
        Some(Unit::Seconds),
    );
    for condition in conditions {
        clusters.show(condition);
        servers.show(condition);
    }
    if let Some(own) = own {
        set(&own_not_after, &Labels::new(), seconds(own));
    }
    let mut written = String::new();
    text::encode(&mut written, &registry)?;
    Ok(written)
}

/// The text of a look that came to nothing: it says so, and that nobody takes old values for new ones it says nothing else.
pub fn nothing() -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    set(&register(&mut registry, SUCCESS.0, SUCCESS.1, None), &Labels::new(), 0.0);
    let mut written = String::new();
    text::encode(&mut written, &registry)?;
    Ok(written)
}

fn register(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>) -> Gauges {
    let family = Gauges::default();
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, family.clone()),
        None => registry.register(name, help, family.clone()),
    }
    family
}

struct Clusters {
    state: Gauges,
    servers: Gauges,
    runs: Gauges,
    taken: Gauges,
    took: Gauges,
}

impl Clusters {
    fn new(family: &mut impl FnMut(&str, &str, Option<Unit>) -> Gauges) -> Self {
        Self {
            state: family(
                "umsid_cluster_state",
                "How the cluster is: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN",
                None,
            ),
            servers: family(
                "umsid_cluster_servers",
                "Servers of the cluster by the state of their UMS ID",
                None,
            ),
            runs: family("umsid_cluster_unfinished_runs", "Runs that were begun and are not over", None),
            taken: family(
                "umsid_cluster_survey_timestamp",
                "When the servers of the cluster were asked last",
                Some(Unit::Seconds),
            ),
            took: family(
                "umsid_cluster_survey_duration",
                "How long it took to ask the servers of the cluster",
                Some(Unit::Seconds),
            ),
        }
    }

    fn show(&self, condition: &Condition) {
        let labels = vec![("cluster", condition.cluster.to_string())];
        set(&self.state, &labels, f64::from(condition.level().code()));
        for state in STATES {
            let number = condition.servers.values().filter(|server| server.state == state).count();
            set(&self.servers, &with(&labels, "state", state), count(number));
        }
        set(&self.runs, &labels, count(condition.unfinished_runs()));
        set(&self.taken, &labels, seconds(condition.taken));
        set(&self.took, &labels, condition.took.as_secs_f64());
    }
}

struct Servers {
    state: Gauges,
    answered: Gauges,
    well: Gauges,
    skew: Gauges,
    not_after: Gauges,
}

impl Servers {
    fn new(family: &mut impl FnMut(&str, &str, Option<Unit>) -> Gauges) -> Self {
        Self {
            state: family(
                "umsid_server_state",
                "1 for the state the server's UMS ID is in, 0 for all others",
                None,
            ),
            answered: family("umsid_server_answered", "Whether the server's agent answered", None),
            well: family("umsid_server_healthy", "Whether the server's UMS Server is well", None),
            skew: family(
                "umsid_server_clock_skew",
                "How far the server's clock is ahead of ours",
                Some(Unit::Seconds),
            ),
            not_after: family(
                "umsid_server_certificate_not_after_timestamp",
                "When the certificate of the server's agent ends",
                Some(Unit::Seconds),
            ),
        }
    }

    fn show(&self, condition: &Condition) {
        for (server, standing) in &condition.servers {
            let labels = vec![
                ("cluster", condition.cluster.to_string()),
                ("server", server.to_string()),
                ("site", standing.site.as_ref().map(ToString::to_string).unwrap_or_default()),
            ];
            for state in STATES {
                set(&self.state, &with(&labels, "state", state), flag(standing.state == state));
            }
            set(&self.answered, &labels, flag(standing.answered));
            if !standing.answered {
                continue;
            }
            set(&self.well, &labels, flag(standing.well));
            if let Some(skew_ms) = standing.skew_ms {
                // Exact for any difference that a clock has.
                #[expect(
                    clippy::cast_precision_loss,
                    reason = "a clock that is off by 300 000 years may be off by more"
                )]
                set(&self.skew, &labels, skew_ms as f64 / 1000.0);
            }
            if let Some(not_after) = standing.certificate_not_after {
                set(&self.not_after, &labels, seconds(not_after));
            }
        }
    }
}

const STATES: [SyncState; 4] = [SyncState::Main, SyncState::InSync, SyncState::NotInSync, SyncState::Unknown];

fn with(labels: &Labels, name: &'static str, value: SyncState) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_string()));
    labels
}

fn set(family: &Gauges, labels: &Labels, value: f64) {
    family.get_or_create(labels).set(value);
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn seconds(moment: Timestamp) -> f64 {
    // Seconds of years that people live in.
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 million years")]
    let seconds = moment.as_second() as f64;
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_label_is_escaped() {
        let mut registry = Registry::default();
        let family = register(&mut registry, "umsid_test", "A test", None);
        set(&family, &vec![("site", "a\"b\\c\nd".to_owned())], 1.0);
        let mut written = String::new();
        text::encode(&mut written, &registry).unwrap();
        assert!(written.contains("umsid_test{site=\"a\\\"b\\\\c\\nd\"} 1.0\n"), "{written}");
    }
}
