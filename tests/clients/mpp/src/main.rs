//! The crate mpp, an engine of the Payment scheme. It brings no lightning of its own: this plugs in
//! a charge, or a session if the second argument says so. Each request begins with a 402. The
//! conversation with the test is that of `../buyer.cjs`.
//!
//! In a session that 402 is echoed, and its deposit invoice is paid for the first request and for a
//! top-up only. A line of the conversation may name an action after the URL: `topUp` or `close`.

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mpp::client::{Fetch as _, PaymentProvider};
use mpp::{MppError, PaymentChallenge, PaymentCredential, parse_receipt};
use serde_json::{Value, json};

type Failed = Box<dyn Error + Send + Sync>;

/// Pays at the wallet that the test offers, and counts.
#[derive(Clone)]
struct Lightning {
    http: reqwest::Client,
    pay_url: reqwest::Url,
    intent: String,
    payments: Arc<AtomicU64>,
    session: Arc<Mutex<Session>>,
}

/// What is kept of a session, and what the next request is to do with it.
#[derive(Clone, Default)]
struct Session {
    /// Its id and the preimage of its first deposit.
    open: Option<(String, String)>,
    action: String,
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str, Failed> {
    let text = value.pointer(pointer).and_then(Value::as_str);
    text.ok_or_else(|| format!("no {pointer} in {value}").into())
}

impl Lightning {
    /// Asks the wallet for something.
    async fn ask(&self, what: &str, body: Value) -> Result<Value, Failed> {
        let request = self.http.post(self.pay_url.join(what)?);
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await?;
        let answer = answer.error_for_status()?.text().await?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Pays a BOLT 11 invoice and gives the preimage in hexadecimal.
    async fn preimage(&self, invoice: &str) -> Result<String, Failed> {
        let paid = self.ask("pay", json!({ "invoice": invoice })).await?;
        self.payments.fetch_add(1, Ordering::Relaxed);
        Ok(text(&paid, "/preimage")?.to_owned())
    }

    fn session(&self, change: impl FnOnce(&mut Session)) -> Session {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut session);
        session.clone()
    }

    async fn payload(&self, request: &Value) -> Result<Value, Failed> {
        if self.intent == "charge" {
            let invoice = text(request, "/methodDetails/invoice")?;
            return Ok(json!({ "preimage": self.preimage(invoice).await? }));
        }
        let invoice = text(request, "/depositInvoice")?;
        let Session { open, action } = self.session(|_| {});
        let Some((id, preimage)) = open else {
            let preimage = self.preimage(invoice).await?;
            let id = text(request, "/paymentHash")?.to_owned();
            self.session(|session| session.open = Some((id, preimage.clone())));
            let returned = self.ask("return-invoice", json!({})).await?;
            let returned = text(&returned, "/invoice")?;
            return Ok(
                json!({ "action": "open", "preimage": preimage, "returnInvoice": returned }),
            );
        };
        Ok(if action == "topUp" {
            let preimage = self.preimage(invoice).await?;
            json!({ "action": action, "sessionId": id, "topUpPreimage": preimage })
        } else {
            json!({ "action": action, "sessionId": id, "preimage": preimage })
        })
    }
}

impl PaymentProvider for Lightning {
    fn supports(&self, method: &str, intent: &str) -> bool {
        (method, intent) == ("lightning", &self.intent)
    }

    async fn pay(&self, challenge: &PaymentChallenge) -> Result<PaymentCredential, MppError> {
        let request = challenge.request.decode_value()?;
        let payload = self.payload(&request).await;
        let payload = payload.map_err(|error| MppError::Http(error.to_string()))?;
        Ok(PaymentCredential::new(challenge.to_echo(), payload))
    }
}

async fn get(wallet: &Lightning, line: &str) -> Result<Value, Failed> {
    let (url, action) = line.split_once(' ').unwrap_or((line, "bearer"));
    wallet.session(|session| action.clone_into(&mut session.action));
    // Without this header on the request itself the crate pays nothing.
    let accepted = format!("lightning/{}", wallet.intent);
    let request = wallet.http.get(url).header("accept-payment", accepted);
    let answer = request.send_with_payment(wallet).await?;
    let status = answer.status().as_u16();
    let receipt = match answer.headers().get("payment-receipt") {
        Some(receipt) => Some(parse_receipt(receipt.to_str()?)?),
        None => None,
    };
    Ok(json!({ "status": status, "body": answer.text().await?, "receipt": receipt }))
}

fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let pay_url = args
        .next()
        .ok_or("usage: boltgate-test-mpp PAY_URL [INTENT]")?;
    let wallet = Lightning {
        http: reqwest::Client::new(),
        pay_url: pay_url.parse()?,
        intent: args.next().unwrap_or_else(|| "charge".to_owned()),
        payments: Arc::default(),
        session: Arc::default(),
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
