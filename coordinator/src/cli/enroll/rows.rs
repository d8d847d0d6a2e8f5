//! What came of the enrolment of several servers.

use jiff::Timestamp;
use serde::Serialize;
use umsid_common::name::{ClusterName, ServerName};

use crate::cli::{Context, Format, day};
use crate::enrolment::{Candidate, Enrolled, EnrolmentError};
use crate::printout::{Cell, Tone};

/// One server.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) cluster: ClusterName,
    pub(super) server: ServerName,
    pub(super) address: String,
    /// "enrolled", "waiting", "failed"
    pub(super) state: &'static str,
    pub(super) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate_until: Option<Timestamp>,
}

/// What came of the enrolment of one server.
pub(super) fn row_of(candidate: &Candidate, result: &Result<Enrolled, EnrolmentError>) -> Row {
    let (state, detail, certificate_until) = match result {
        Ok(enrolled) => {
            let old = match enrolled.revoked {
                0 => String::new(),
                _ => ", its old certificate is revoked".into(),
            };
            let detail = format!(
                "agent {}, certificate until {}{old}",
                enrolled.agent_version,
                day(enrolled.certificate_until)
            );
            ("enrolled", detail, Some(enrolled.certificate_until))
        }
        Err(error) if error.is_not_yet() => ("waiting", "for its agent".to_owned(), None),
        Err(error) => {
            let error: &dyn std::error::Error = error;
            let chain: Vec<_> =
                std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
            ("failed", chain.join(": "), None)
        }
    };
    Row {
        cluster: candidate.cluster.clone(),
        server: candidate.name.clone(),
        address: candidate.place(),
        state,
        detail,
        certificate_until,
    }
}

/// A server that cannot be enrolled before its gateway is.
pub(super) fn behind_nobody(candidate: &Candidate, gateway: &ServerName) -> Row {
    let detail = format!("for its gateway {gateway}, which is to be enrolled first");
    Row { state: "waiting", detail, ..already(candidate) }
}

/// A server that is enrolled, and is left as it is.
pub(super) fn already(candidate: &Candidate) -> Row {
    Row {
        cluster: candidate.cluster.clone(),
        server: candidate.name.clone(),
        address: candidate.place(),
        state: "enrolled",
        detail: "since an earlier time".into(),
        certificate_until: None,
    }
}

/// All of them, on standard output.
pub(super) fn print(context: &Context, rows: &[Row]) -> std::io::Result<()> {
    if context.out.format() == Format::Json {
        return context.out.json(&rows);
    }
    let cells = rows.iter().map(|row| {
        let tone = match row.state {
            "enrolled" => Tone::Good,
            "waiting" => Tone::Doubtful,
            _ => Tone::Bad,
        };
        vec![
            Cell::plain(format_args!("{}/{}", row.cluster, row.server)),
            Cell::plain(&row.address),
            Cell::new(row.state, tone),
            Cell::plain(&row.detail),
        ]
    });
    context.out.table(&["SERVER", "ADDRESS", "STATE", "DETAIL"], cells.collect())
}
