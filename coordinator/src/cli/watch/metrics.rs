//! What was seen last, at `/metrics`, for whoever scrapes it on this host.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use jiff::Timestamp;
use umsid_common::name::ClusterName;

use crate::condition::Condition;
use crate::metrics::{CONTENT_TYPE, openmetrics};

/// What was seen last.
#[derive(Default)]
pub(super) struct Shown(Mutex<Content>);

#[derive(Default)]
struct Content {
    conditions: BTreeMap<ClusterName, Condition>,
    own_not_after: Option<Timestamp>,
}

impl Shown {
    pub(super) fn show(&self, condition: Condition, own_not_after: Option<Timestamp>) {
        let mut content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        content.conditions.insert(condition.cluster.clone(), condition);
        content.own_not_after = own_not_after.or(content.own_not_after);
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let conditions: Vec<Condition> = content.conditions.values().cloned().collect();
        openmetrics(&conditions, content.own_not_after)
    }
}

/// Listens at once; what is given serves until it fails.
pub(super) async fn serve(
    listen: SocketAddr,
    shown: Arc<Shown>,
) -> anyhow::Result<impl Future<Output = anyhow::Error>> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("`metrics.listen`: cannot listen on {listen}"))?;
    let router = Router::new().route("/metrics", get(metrics)).with_state(shown);
    Ok(async move {
        match axum::serve(listener, router).await {
            Ok(()) => anyhow::anyhow!("the listener has ended"),
            Err(error) => error.into(),
        }
    })
}

async fn metrics(State(shown): State<Arc<Shown>>) -> impl IntoResponse {
    match shown.text() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text)),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}
