//! The calls for charges of the Payment scheme.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use protocol::api::charge::{AbandonRequest, ChargeOffersRequest, ClaimsAnswer, ClaimsRequest};
use serde_json::json;

use super::api::{ApiState, Received, json, read};
use super::problem::ApiProblem;
use crate::domain::ports::{Ledger, Lightning};

pub(super) async fn offers<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    body: Received,
) -> Result<Response, ApiProblem> {
    let request: ChargeOffersRequest = read(body)?;
    // A task of its own: if the filter has gone, what was taken from the pool still ends well.
    let app = Arc::clone(&state.app);
    let task = tokio::spawn(async move { app.issuer.charges(&request).await });
    let offers = task.await.map_err(ApiProblem::unavailable)??;
    json(&offers)
}

/// If the filter goes away meanwhile, it abandons the attempts.
pub(super) async fn claim<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    body: Received,
) -> Result<Response, ApiProblem> {
    let request: ClaimsRequest = read(body)?;
    let claims = state.app.claims.claim(&request).await?;
    json(&ClaimsAnswer { claims })
}

pub(super) async fn abandon<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    body: Received,
) -> Result<Response, ApiProblem> {
    let request: AbandonRequest = read(body)?;
    state.app.claims.abandon(&request).await?;
    json(&json!({}))
}
