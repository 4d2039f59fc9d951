//! The dev network's own door: pay an invoice of the node, let the dev wallet make invoices for the
//! node to pay, look at the counts. Loopback only.
//!
//! | call | answer |
//! |---|---|
//! | `POST /pay {"invoice": "lnbcrt…", "amount_msat"?: n}` | `{"preimage", "payment_hash", "amount_msat"}` |
//! | `POST /invoices {"amount_msat"?: n, "expiry_seconds"?: n, "hold"?: true}` | an invoice of the wallet, without amount if none is named: `{"invoice", "payment_hash", "expires"}` |
//! | `GET /invoices/{payment_hash}` | `{"state": "open" \| "in_flight" \| "settled" \| "cancelled", "received_msat"}` |
//! | `POST /invoices/{payment_hash}/settle` | takes a held payment |
//! | `POST /invoices/{payment_hash}/cancel` | sends it back; later ones fail |
//! | `GET /stats` | `{"invoices", "payments", "paid_msat", "sent", "sent_msat"}` |
//!
//! Errors have the shape and codes of LND's REST gateway.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use protocol::amount::Msat;
use protocol::encoding::hex_encode;
use protocol::hash::PaymentHash;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{DevNode, PayError, Received, Stats, WalletInvoice};
use crate::domain::ports::LightningError;

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

/// Body of `POST /invoices`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InvoiceRequest {
    #[serde(default)]
    amount_msat: Option<Msat>,
    #[serde(default)]
    expiry_seconds: Option<u64>,
    #[serde(default)]
    hold: bool,
}

#[derive(Serialize)]
struct InvoiceAnswer {
    invoice: String,
    payment_hash: String,
    expires: u64,
}

/// The routes.
pub fn router(node: DevNode) -> Router {
    Router::new()
        .route("/pay", post(pay))
        .route("/invoices", post(invoice))
        .route("/invoices/{payment_hash}", get(received))
        .route("/invoices/{payment_hash}/settle", post(settle))
        .route("/invoices/{payment_hash}/cancel", post(cancel))
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

async fn invoice(
    State(node): State<DevNode>,
    Json(request): Json<InvoiceRequest>,
) -> Result<Json<InvoiceAnswer>, PayError> {
    let default = WalletInvoice::default();
    let invoice = node
        .wallet_invoice(&WalletInvoice {
            amount: request.amount_msat.filter(|amount| *amount > Msat::ZERO),
            expiry_seconds: request.expiry_seconds.unwrap_or(default.expiry_seconds),
            hold: request.hold,
        })
        .map_err(|error: LightningError| PayError::Store(error.to_string()))?;
    Ok(Json(InvoiceAnswer {
        invoice: invoice.bolt11,
        payment_hash: invoice.payment_hash.to_string(),
        expires: invoice.expires.0,
    }))
}

async fn received(
    State(node): State<DevNode>,
    Path(hash): Path<PaymentHash>,
) -> Result<Json<serde_json::Value>, PayError> {
    let (state, amount) = match node.received(hash)? {
        Received::Open => ("open", Msat::ZERO),
        Received::InFlight => ("in_flight", Msat::ZERO),
        Received::Settled(amount) => ("settled", amount),
        Received::Cancelled => ("cancelled", Msat::ZERO),
    };
    Ok(Json(json!({ "state": state, "received_msat": amount })))
}

async fn settle(
    State(node): State<DevNode>,
    Path(hash): Path<PaymentHash>,
) -> Result<Json<serde_json::Value>, PayError> {
    Ok(Json(json!({ "resolved": node.resolve(hash, true)? })))
}

async fn cancel(
    State(node): State<DevNode>,
    Path(hash): Path<PaymentHash>,
) -> Result<Json<serde_json::Value>, PayError> {
    Ok(Json(json!({ "resolved": node.resolve(hash, false)? })))
}

async fn stats(State(node): State<DevNode>) -> Result<Json<Stats>, PayError> {
    node.stats().map(Json)
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
