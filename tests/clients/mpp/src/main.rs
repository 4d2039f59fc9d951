//! The crate mpp, an engine of the Payment scheme. It brings no lightning of its own: this plugs a
//! charge in. It keeps nothing; each request begins with a 402. The conversation with the test is
//! that of `../buyer.cjs`.

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mpp::client::{Fetch as _, PaymentProvider};
use mpp::{MppError, PaymentChallenge, PaymentCredential, parse_receipt};
use serde_json::{Value, json};

type Failed = Box<dyn Error + Send + Sync>;

/// Pays at the wallet that the test offers, and counts.
#[derive(Clone)]
struct Lightning {
    http: reqwest::Client,
    pay_url: String,
    payments: Arc<AtomicU64>,
}

impl Lightning {
    /// Pays a BOLT 11 invoice and gives the preimage in hexadecimal.
    async fn preimage(&self, invoice: &str) -> Result<String, Failed> {
        let request = self.http.post(&self.pay_url);
        let request = request.header("content-type", "application/json");
        let answer = request.body(json!({ "invoice": invoice }).to_string());
        let answer = answer.send().await?.error_for_status()?;
        let paid: Value = serde_json::from_str(&answer.text().await?)?;
        self.payments.fetch_add(1, Ordering::Relaxed);
        let preimage = paid.get("preimage").and_then(Value::as_str);
        Ok(preimage.ok_or("no preimage")?.to_owned())
    }
}

impl PaymentProvider for Lightning {
    fn supports(&self, method: &str, intent: &str) -> bool {
        (method, intent) == ("lightning", "charge")
    }

    async fn pay(&self, challenge: &PaymentChallenge) -> Result<PaymentCredential, MppError> {
        let request = challenge.request.decode_value()?;
        let invoice = request.pointer("/methodDetails/invoice");
        let invoice = invoice.and_then(Value::as_str).unwrap_or_default();
        let preimage = self.preimage(invoice).await;
        let preimage = preimage.map_err(|error| MppError::Http(error.to_string()))?;
        let payload = json!({ "preimage": preimage });
        Ok(PaymentCredential::new(challenge.to_echo(), payload))
    }
}

async fn get(wallet: &Lightning, url: &str) -> Result<Value, Failed> {
    // Without this header on the request itself the crate pays nothing.
    let request = wallet
        .http
        .get(url)
        .header("accept-payment", "lightning/charge");
    let answer = request.send_with_payment(wallet).await?;
    let status = answer.status().as_u16();
    let receipt = match answer.headers().get("payment-receipt") {
        Some(receipt) => Some(parse_receipt(receipt.to_str()?)?),
        None => None,
    };
    Ok(json!({ "status": status, "body": answer.text().await?, "receipt": receipt }))
}

fn main() -> Result<(), Failed> {
    let wallet = Lightning {
        http: reqwest::Client::new(),
        pay_url: std::env::args()
            .nth(1)
            .ok_or("usage: boltgate-test-mpp PAY_URL")?,
        payments: Arc::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for line in std::io::stdin().lock().lines() {
        let said = runtime.block_on(get(&wallet, line?.trim()));
        let mut said = said.unwrap_or_else(|error| json!({ "error": error.to_string() }));
        said["payments"] = wallet.payments.load(Ordering::Relaxed).into();
        writeln!(std::io::stdout(), "{said}")?;
    }
    Ok(())
}
