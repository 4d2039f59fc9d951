//! The calls for sessions of the Payment scheme and their leases.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use protocol::api::charge::ChargeOffersRequest;
use protocol::api::session::{CloseRequest, OpenRequest, TopUpRequest};
use protocol::lease::LeasesRequest;

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
    let task = tokio::spawn(async move { app.issuer.deposits(&request).await });
    let offers = task.await.map_err(ApiProblem::unavailable)??;
    json(&offers)
}

pub(super) async fn open<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    body: Received,
) -> Result<Response, ApiProblem> {
    let request: OpenRequest = read(body)?;
    json(&state.app.sessions.open(&request).await?)
}

pub(super) async fn top_up<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    body: Received,
) -> Result<Response, ApiProblem> {
    let request: TopUpRequest = read(body)?;
    json(&state.app.sessions.top_up(&request).await?)
}

pub(super) async fn close<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    body: Received,
) -> Result<Response, ApiProblem> {
    let request: CloseRequest = read(body)?;
    json(&state.app.sessions.close(&request).await?)
}

pub(super) async fn leases<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    body: Received,
) -> Result<Response, ApiProblem> {
    let request: LeasesRequest = read(body)?;
    json(&state.app.leases.report(request).await?)
}
