//! The dev network's own door: pay an invoice, look at the counts. Loopback only.
//!
//! | call | answer |
//! |---|---|
//! | `POST /pay {"invoice": "lnbcrt…", "amount_msat"?: n}` | `{"preimage", "payment_hash", "amount_msat"}` |
//! | `GET /stats` | `{"invoices", "payments", "paid_msat"}` |
//!
//! Errors have the shape and codes of LND's REST gateway.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::amount::Msat;
use protocol::encoding::hex_encode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{DevNode, PayError};

/// Body of `POST /pay`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PayRequest {
    invoice: String,
    #[serde(default)]
    amount_msat: Option<Msat>,
}

#[derive(Serialize)]
struct PayAnswer {
    preimage: String,
    payment_hash: String,
    amount_msat: Msat,
}

/// The routes.
pub fn router(node: DevNode) -> Router {
    Router::new()
        .route("/pay", post(pay))
        .route("/stats", get(stats))
        .with_state(node)
}

async fn pay(
    State(node): State<DevNode>,
    Json(request): Json<PayRequest>,
) -> Result<Json<PayAnswer>, PayError> {
    let payment = node
        .pay(request.invoice.trim(), request.amount_msat)
        .await?;
    tracing::info!(payment_hash = %payment.payment_hash, amount_msat = payment.amount.get(),
        "dev network: invoice paid; no money moved");
    Ok(Json(PayAnswer {
        preimage: hex_encode(payment.preimage.expose()),
        payment_hash: payment.payment_hash.to_string(),
        amount_msat: payment.amount,
    }))
}

async fn stats(State(node): State<DevNode>) -> Result<Json<serde_json::Value>, PayError> {
    let (invoices, payments, paid_msat) = node.stats()?;
    Ok(Json(
        json!({ "invoices": invoices, "payments": payments, "paid_msat": paid_msat }),
    ))
}

impl IntoResponse for PayError {
    fn into_response(self) -> Response {
        // gRPC codes and the HTTP statuses that LND's gateway makes of them.
        let (status, code) = match self {
            Self::AlreadyPaid => (StatusCode::CONFLICT, 6),
            Self::Invalid(_) | Self::Amount(_) => (StatusCode::BAD_REQUEST, 3),
            Self::NoRoute(_) | Self::Expired(_) | Self::Cancelled | Self::Store(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, 2)
            }
        };
        let body = json!({ "code": code, "message": self.to_string(), "details": [] });
        (status, Json(body)).into_response()
    }
}
