//! The admin listener: `/healthz`, `/readyz`, `/metrics`, `/rotation`. No secrets, no token.
//!
//! `/readyz` is about what filters need: keys and deny list from a ledger that can be read. A
//! Lightning node that is down is told in the body and does not make the sidecar unready: filters
//! would lose the keys with which they serve paid traffic. `/readyz?require=lightning` asks for
//! the node as well.
//!
//! `/rotation` tells the command line what a rotation of the master key waits for.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::problem::ApiProblem;
use crate::app::App;
use crate::domain::invoice::NodeStatus;
use crate::domain::keys::{Behind, Promotion};
use crate::domain::ports::{Ledger, Lightning};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Most filters that `/rotation` names.
const MOST_NAMED: usize = 20;

/// Answer of `/rotation`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RotationStatus {
    /// The generation that is to become current; nothing else counts if there is none.
    pub next: Option<u8>,
    /// Too little time has passed to have heard of every filter.
    pub listening: bool,
    /// How many live filters have not acknowledged it.
    pub behind: usize,
    /// The first of them, the longest silent first.
    pub named: Vec<FilterBehind>,
}

/// A live filter that holds a rotation up.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FilterBehind {
    /// Name of its VM.
    pub vm: String,
    /// How long ago it was heard of.
    pub seen_seconds_ago: u64,
}

impl From<Behind> for FilterBehind {
    fn from(behind: Behind) -> Self {
        Self {
            vm: behind.vm,
            seen_seconds_ago: behind.silent.as_secs(),
        }
    }
}

/// Query of `/readyz`.
#[derive(Deserialize)]
struct ReadyQuery {
    #[serde(default)]
    require: String,
}

/// The routes.
pub fn router<L: Ledger, N: Lightning>(app: Arc<App<L, N>>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/rotation", get(rotation))
        .with_state(app)
}

async fn ready<L: Ledger, N: Lightning>(
    State(app): State<Arc<App<L, N>>>,
    Query(query): Query<ReadyQuery>,
) -> Response {
    let ledger = app
        .state
        .view()
        .map(|_| ())
        .map_err(|error| error.to_string());
    let node = app.node.status();
    let draining = app.is_draining();
    let node_needed = query.require == "lightning";
    let is_ready = ledger.is_ok() && !draining && (!node_needed || node == Some(NodeStatus::Ready));
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "ready": is_ready,
        "checks": {
            "ledger": ledger.err().unwrap_or_else(|| "ready".to_owned()),
            "lightning": node.map_or("not asked yet", NodeStatus::as_str),
            "draining": draining,
        },
    });
    (status, Json(body)).into_response()
}

async fn metrics<L: Ledger, N: Lightning>(State(app): State<Arc<App<L, N>>>) -> Response {
    ([(CONTENT_TYPE, OPENMETRICS)], app.metrics.encode()).into_response()
}

async fn rotation<L: Ledger, N: Lightning>(
    State(app): State<Arc<App<L, N>>>,
) -> Result<Json<RotationStatus>, ApiProblem> {
    let Some(rotation) = app.state.rotation()? else {
        return Ok(Json(RotationStatus::default()));
    };
    Ok(Json(RotationStatus {
        next: Some(rotation.next),
        listening: rotation.promotion == Promotion::Listening,
        behind: rotation.behind.len(),
        named: (rotation.behind.into_iter().map(FilterBehind::from))
            .take(MOST_NAMED)
            .collect(),
    }))
}
