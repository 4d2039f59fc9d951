//! A wallet behind HTTP, for clients that cannot speak to a node: the same form as the embedded
//! network's `POST /pay`, and `POST /return-invoice` beside it for what is paid back.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

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
    returns: Returns,
    task: JoinHandle<()>,
}

/// Invoices that were made for what is paid back.
#[derive(Clone, Debug, Default)]
struct Returns(Arc<Mutex<Vec<String>>>);

impl Payer {
    /// Offers `wallet` on a free port.
    pub(crate) async fn start(wallet: Wallet) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let returns = Returns::default();
        let service = Router::new()
            .route("/pay", post(pay))
            .route("/return-invoice", post(return_invoice))
            .with_state((wallet, returns.clone()));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, service).await;
        });
        Ok(Self {
            address,
            returns,
            task,
        })
    }

    /// Where invoices are posted.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/pay", self.address)
    }

    /// Invoices that it has made for what is paid back.
    pub(crate) fn return_invoices(&self) -> Vec<String> {
        self.returns.all(|all| all.clone())
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Returns {
    fn all<T>(&self, look: impl FnOnce(&mut Vec<String>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn return_invoice(State((wallet, returns)): State<(Wallet, Returns)>) -> Response {
    match wallet.return_invoice().await {
        Ok(invoice) => {
            returns.all(|all| all.push(invoice.clone()));
            Json(json!({ "invoice": invoice })).into_response()
        }
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

async fn pay(State((wallet, _)): State<(Wallet, Returns)>, Json(body): Json<Value>) -> Response {
    let invoice = body
        .get("invoice")
        .and_then(Value::as_str)
        .unwrap_or_default();
    match wallet.pay(invoice).await {
        Ok(preimage) => Json(json!({ "preimage": preimage })).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}
