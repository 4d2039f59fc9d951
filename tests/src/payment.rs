//! The buyer's side of the Payment scheme, written from the specification and apart from the
//! product's code: charges, and sessions as a wallet with a browser would use them.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use serde_json::{Value, json};

use crate::http_client::{Answer, Http};
use crate::wallet::Wallet;

/// One `WWW-Authenticate: Payment` line.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Parameters as they came.
    pub parameters: BTreeMap<String, String>,
    /// What `request` says.
    pub request: Value,
}

/// The offers among the headers, in order.
#[must_use]
pub fn offers(headers: &HeaderMap) -> Vec<Offer> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|line| offer(line.to_str().ok()?))
        .collect()
}

/// The offer of one intent.
///
/// # Errors
/// When the answer is not 402, or has no such offer.
pub fn offer_of(answer: &Answer, intent: &str) -> anyhow::Result<Offer> {
    ensure!(answer.status == 402, "{} {}", answer.status, answer.text());
    offers(&answer.headers)
        .into_iter()
        .find(|offer| offer.parameter("intent") == intent)
        .with_context(|| format!("no {intent} in {:?}", answer.headers))
}

/// Reads `Payment name="value", name="value"`.
fn offer(line: &str) -> Option<Offer> {
    let mut parameters = BTreeMap::new();
    for parameter in line.strip_prefix("Payment ")?.split(", ") {
        let (name, value) = parameter.split_once('=')?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        parameters.insert(name.to_owned(), value.to_owned());
    }
    let json = URL_SAFE_NO_PAD.decode(parameters.get("request")?).ok()?;
    Some(Offer {
        parameters,
        request: serde_json::from_slice(&json).ok()?,
    })
}

impl Offer {
    /// A parameter; empty if there is none.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }

    /// What the request says at this JSON pointer.
    ///
    /// # Errors
    /// When it says nothing there, or no text.
    pub fn said(&self, pointer: &str) -> anyhow::Result<&str> {
        let value = self.request.pointer(pointer).and_then(Value::as_str);
        value.with_context(|| format!("no {pointer} in {}", self.request))
    }

    /// The payment hash of its invoice.
    ///
    /// # Errors
    /// When it has none.
    pub fn payment_hash(&self) -> anyhow::Result<&str> {
        self.said("/paymentHash")
            .or_else(|_| self.said("/methodDetails/paymentHash"))
    }

    /// Its invoice.
    ///
    /// # Errors
    /// When it has none.
    pub fn invoice(&self) -> anyhow::Result<&str> {
        self.said("/depositInvoice")
            .or_else(|_| self.said("/methodDetails/invoice"))
    }

    /// Pays the invoice, which must be that of the offer, and gives the preimage.
    ///
    /// # Errors
    /// When it is not, or the payment fails.
    pub async fn pay(&self, wallet: &Wallet) -> anyhow::Result<String> {
        let invoice: lightning_invoice::Bolt11Invoice = self
            .invoice()?
            .parse()
            .map_err(|error| anyhow::anyhow!("not an invoice: {error:?}"))?;
        ensure!(
            invoice.payment_hash().to_string() == self.payment_hash()?,
            "offer and invoice differ in their hash"
        );
        let asked = self
            .said("/depositAmount")
            .or_else(|_| self.said("/amount"))?;
        let sats: u64 = asked.parse()?;
        ensure!(
            invoice.amount_milli_satoshis() == Some(sats * 1_000),
            "offer and invoice differ in their amount"
        );
        wallet.pay(self.invoice()?).await
    }

    /// The value of `Authorization` that presents `payload` under this offer.
    #[must_use]
    pub fn credential(&self, payload: &Value) -> String {
        let echoed = ["id", "realm", "method", "intent", "request", "expires"];
        let challenge: serde_json::Map<String, Value> = echoed
            .into_iter()
            .filter(|name| self.parameters.contains_key(*name))
            .map(|name| (name.to_owned(), self.parameter(name).into()))
            .collect();
        let credential = json!({ "challenge": challenge, "payload": payload });
        let text = URL_SAFE_NO_PAD.encode(credential.to_string());
        ["Payment ", &text].concat()
    }
}

/// What a receipt says.
///
/// # Errors
/// When the answer has none.
pub fn receipt(answer: &Answer) -> anyhow::Result<Value> {
    let text = answer.header("payment-receipt");
    ensure!(!text.is_empty(), "no receipt: {:?}", answer.headers);
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text)?)?)
}

/// A session from its buyer's side.
#[derive(Clone, Debug)]
pub struct Session {
    /// The offer whose deposit opened it.
    pub offer: Offer,
    /// The preimage of that deposit.
    pub preimage: String,
    /// Where the rest is to go.
    pub return_invoice: String,
}

impl Session {
    /// Pays a deposit. Nothing is opened yet.
    ///
    /// # Errors
    /// When there is no such offer, or it cannot be paid.
    pub async fn deposit(
        answer: &Answer,
        wallet: &Wallet,
        return_invoice: &str,
    ) -> anyhow::Result<Self> {
        let offer = offer_of(answer, "session")?;
        let preimage = offer.pay(wallet).await?;
        Ok(Self {
            offer,
            preimage,
            return_invoice: return_invoice.to_owned(),
        })
    }

    /// Its id.
    ///
    /// # Errors
    /// When the offer has no hash.
    pub fn id(&self) -> anyhow::Result<&str> {
        self.offer.payment_hash()
    }

    /// Value of `Authorization` that opens it.
    #[must_use]
    pub fn open(&self) -> String {
        self.offer.credential(&json!({
            "action": "open",
            "preimage": self.preimage,
            "returnInvoice": self.return_invoice,
        }))
    }

    /// Value of `Authorization` that spends from it, under its own challenge (X2).
    ///
    /// # Errors
    /// When the offer has no hash.
    pub fn bearer(&self) -> anyhow::Result<String> {
        self.bearer_under(&self.offer)
    }

    /// The same under another challenge, as clients do that ask for one before every request.
    ///
    /// # Errors
    /// When the offer has no hash.
    pub fn bearer_under(&self, offer: &Offer) -> anyhow::Result<String> {
        Ok(offer.credential(&json!({
            "action": "bearer",
            "sessionId": self.id()?,
            "preimage": self.preimage,
        })))
    }

    /// Value of `Authorization` that adds a deposit paid under `offer`.
    ///
    /// # Errors
    /// When the offer has no hash.
    pub fn top_up(&self, offer: &Offer, preimage: &str) -> anyhow::Result<String> {
        Ok(offer.credential(&json!({
            "action": "topUp",
            "sessionId": self.id()?,
            "topUpPreimage": preimage,
        })))
    }

    /// Value of `Authorization` that ends it, under its own challenge.
    ///
    /// # Errors
    /// When the offer has no hash.
    pub fn close(&self) -> anyhow::Result<String> {
        Ok(self.offer.credential(&json!({
            "action": "close",
            "sessionId": self.id()?,
            "preimage": self.preimage,
        })))
    }
}

/// Presents a credential.
///
/// # Errors
/// When no answer comes.
pub async fn present(http: &Http, target: &str, authorization: &str) -> anyhow::Result<Answer> {
    http.get(target)
        .header("authorization", authorization)
        .send()
        .await
}
