//! A wallet behind HTTP, for clients that cannot speak to a node: the same form as the embedded
//! network's `POST /pay`.

use std::net::SocketAddr;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use e2e::wallet::Wallet;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running payer; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Payer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Payer {
    /// Offers `wallet` on a free port.
    pub(crate) async fn start(wallet: Wallet) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let service = Router::new().route("/pay", post(pay)).with_state(wallet);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, service).await;
        });
        Ok(Self { address, task })
    }

    /// Where invoices are posted.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/pay", self.address)
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pay(State(wallet): State<Wallet>, Json(body): Json<Value>) -> Response {
    let invoice = body
        .get("invoice")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match wallet.pay(invoice).await {
        Ok(preimage) => Json(json!({ "preimage": preimage })).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}
