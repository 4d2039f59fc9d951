//! The API for filters, version 1.
//!
//! | call | answer |
//! |---|---|
//! | `GET /v1/bootstrap?vm=…&known=…` | 200 keys and deny list, 304 nothing new |
//! | `POST /v1/offers`, `/v1/charges/offers` | 200 offers, 429 limits, 503 a fault of ours |
//! | `POST /v1/charges/claim` | 200 who has the payment, 503 a fault of ours |
//! | `POST /v1/charges/abandon` | 200 done, 503 to be repeated |
//! | `POST /v1/sessions/offers` | as for charges |
//! | `POST /v1/sessions/{open,topup,close}` | 200 what became of it, 503 to be repeated |
//! | `POST /v1/leases` | 200 an answer for each report, 503 to be repeated |
//!
//! Every answer carries the marker header, every error is a problem document.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use protocol::api::charge::{ABANDON_PATH, CHARGE_OFFERS_PATH, CLAIM_PATH};
use protocol::api::session::{CLOSE_PATH, DEPOSIT_OFFERS_PATH, OPEN_PATH, TOP_UP_PATH};
use protocol::api::{
    BOOTSTRAP_PATH, BootstrapQuery, MARKER_HEADER, MARKER_VALUE, OFFERS_PATH, OffersRequest,
};
use protocol::lease::{LEASES_PATH, MAX_REPORTS};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::charges;
use super::problem::ApiProblem;
use super::sessions;
use super::silence::Proof;
use super::strangers::{Peer, Strangers};
use crate::app::App;
use crate::config::BearerTokens;
use crate::domain::ports::{Ledger, Lightning};
use crate::metrics::{HttpLabels, Route};

/// Largest request body; an offer request has a few hundred bytes.
const MOST_BODY: usize = 64 * 1024;
/// The same for the reports of one tick, of at most 400 bytes each.
const MOST_REPORTS_BODY: usize = MAX_REPORTS * 400;
/// A request that takes longer than this is a fault of ours.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the routes need.
pub struct ApiState<L, N> {
    /// The use cases.
    pub app: Arc<App<L, N>>,
    /// Who may ask at present.
    pub tokens: watch::Receiver<BearerTokens>,
    /// Who asked without being one of them.
    pub strangers: Strangers,
}

/// The routes.
pub fn router<L: Ledger, N: Lightning>(state: ApiState<L, N>) -> Router {
    let state = Arc::new(state);
    Router::new()
        .route(BOOTSTRAP_PATH, get(bootstrap))
        .route(OFFERS_PATH, post(offers))
        .route(CHARGE_OFFERS_PATH, post(charges::offers))
        .route(CLAIM_PATH, post(charges::claim))
        .route(ABANDON_PATH, post(charges::abandon))
        .route(DEPOSIT_OFFERS_PATH, post(sessions::offers))
        .route(OPEN_PATH, post(sessions::open))
        .route(TOP_UP_PATH, post(sessions::top_up))
        .route(CLOSE_PATH, post(sessions::close))
        .route(
            LEASES_PATH,
            post(sessions::leases).layer(DefaultBodyLimit::max(MOST_REPORTS_BODY)),
        )
        .fallback(|| async { ApiProblem::new(StatusCode::NOT_FOUND, "not found", "no such call") })
        .method_not_allowed_fallback(|| async {
            ApiProblem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method not allowed",
                "other method",
            )
        })
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(from_fn_with_state(Arc::clone(&state), guard))
        .with_state(state)
}

/// Around every route: who asks, how long, the marker, and the count.
async fn guard<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    request: Request,
    next: Next,
) -> Response {
    let route = match request.uri().path() {
        BOOTSTRAP_PATH => Route::Bootstrap,
        OFFERS_PATH => Route::Offers,
        CHARGE_OFFERS_PATH => Route::ChargeOffers,
        CLAIM_PATH => Route::Claim,
        ABANDON_PATH => Route::Abandon,
        DEPOSIT_OFFERS_PATH => Route::DepositOffers,
        OPEN_PATH => Route::Open,
        TOP_UP_PATH => Route::TopUp,
        CLOSE_PATH => Route::Close,
        LEASES_PATH => Route::Leases,
        _ => Route::Other,
    };
    let is_authorized = is_authorized(&state.tokens.borrow(), request.headers());
    let mut response = if is_authorized {
        if let Some(connection) = request.extensions().get::<Proof>() {
            connection.give();
        }
        let answered = tokio::time::timeout(DEADLINE, next.run(request)).await;
        answered.unwrap_or_else(|_| ApiProblem::unavailable("took too long").into_response())
    } else {
        let peer = request.extensions().get::<Peer>();
        state.strangers.refused(peer.copied());
        ApiProblem::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "no valid bearer token",
        )
        .into_response()
    };
    let headers = response.headers_mut();
    headers.insert(MARKER_HEADER, HeaderValue::from_static(MARKER_VALUE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let labels = HttpLabels {
        route,
        status: response.status().as_u16(),
    };
    state.app.metrics.http.get_or_create(&labels).inc();
    response
}

fn is_authorized(tokens: &BearerTokens, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    let Some((scheme, token)) = value.as_bytes().split_at_checked(7) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"bearer ") && tokens.accept(token)
}

async fn bootstrap<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    query: Result<Query<BootstrapQuery>, QueryRejection>,
) -> Result<Response, ApiProblem> {
    let Query(query) = query.map_err(|error| ApiProblem::invalid(error.body_text()))?;
    match state.app.state.bootstrap(&query)? {
        None => Ok(StatusCode::NOT_MODIFIED.into_response()),
        Some(bootstrap) => json(&bootstrap),
    }
}

/// A request's body as it came.
pub(super) type Received = Result<Bytes, BytesRejection>;

async fn offers<L: Ledger, N: Lightning>(
    State(state): State<Arc<ApiState<L, N>>>,
    body: Received,
) -> Result<Response, ApiProblem> {
    let request: OffersRequest = read(body)?;
    // A task of its own: if the filter has gone, what was taken from the pool still ends well.
    let app = Arc::clone(&state.app);
    let task = tokio::spawn(async move { app.issuer.offers(&request).await });
    let offers = task.await.map_err(ApiProblem::unavailable)??;
    json(&offers)
}

/// What it says.
pub(super) fn read<T: DeserializeOwned>(body: Received) -> Result<T, ApiProblem> {
    let body = body.map_err(|rejection| {
        ApiProblem::new(rejection.status(), "unreadable body", rejection.body_text())
    })?;
    serde_json::from_slice(&body).map_err(ApiProblem::invalid)
}

/// An answer.
pub(super) fn json(value: &impl Serialize) -> Result<Response, ApiProblem> {
    let body = serde_json::to_vec(value).map_err(ApiProblem::unavailable)?;
    let mut response = Response::new(Body::from(body));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
