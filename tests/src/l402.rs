//! The buyer's side of L402, written from the specification and apart from the product's code.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

use crate::macaroon::Macaroon;

/// A demand for payment: one `WWW-Authenticate` line.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// `L402` or `LSAT`, as spelt on the wire.
    pub scheme: String,
    /// The token that becomes valid when the invoice is paid: standard base64.
    pub macaroon: String,
    /// BOLT 11 invoice.
    pub invoice: String,
    /// All parameters.
    pub parameters: BTreeMap<String, String>,
}

/// All L402 and LSAT challenges among the headers, in order, one for each header line.
#[must_use]
pub fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|line| challenge(line.to_str().ok()?))
        .collect()
}

/// Reads `SCHEME name="value", name="value"`.
fn challenge(line: &str) -> Option<Challenge> {
    let (scheme, rest) = line.split_once(' ')?;
    if !["L402", "LSAT"].contains(&scheme) {
        return None;
    }
    let mut parameters = BTreeMap::new();
    for parameter in rest.split(", ") {
        let (name, value) = parameter.split_once('=')?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        parameters.insert(name.to_owned(), value.to_owned());
    }
    Some(Challenge {
        scheme: scheme.to_owned(),
        macaroon: parameters.get("macaroon")?.clone(),
        invoice: parameters.get("invoice")?.clone(),
        parameters,
    })
}

impl Challenge {
    /// The token as a macaroon.
    ///
    /// # Errors
    /// When it is none.
    pub fn decoded(&self) -> anyhow::Result<Macaroon> {
        Macaroon::from_base64(&self.macaroon)
    }

    /// The invoice, its signature checked.
    ///
    /// # Errors
    /// When it is none.
    pub fn invoice(&self) -> anyhow::Result<lightning_invoice::Bolt11Invoice> {
        self.invoice
            .parse()
            .map_err(|error| anyhow::anyhow!("not an invoice: {error:?}"))
    }

    /// What a careful buyer looks at before paying: that token and invoice belong together and
    /// that the price is as said. Gives the invoice's amount in millisatoshi.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> anyhow::Result<u64> {
        let invoice = self.invoice()?;
        let hash = invoice.payment_hash().to_string();
        ensure!(
            self.decoded()?.payment_hash()? == hash,
            "token and invoice differ in their hash"
        );
        invoice
            .amount_milli_satoshis()
            .context("the invoice names no amount")
    }

    /// The token with the preimage that was paid for.
    #[must_use]
    pub fn paid(&self, preimage: &str) -> Token {
        Token {
            macaroon: self.macaroon.clone(),
            preimage: preimage.to_owned(),
        }
    }
}

/// What a buyer holds after payment.
#[derive(Clone, Debug)]
pub struct Token {
    /// Standard base64.
    pub macaroon: String,
    /// 64 hex digits.
    pub preimage: String,
}

impl Token {
    /// Value of the `Authorization` header.
    #[must_use]
    pub fn authorization(&self) -> String {
        format!("L402 {}:{}", self.macaroon, self.preimage)
    }

    /// The token as a macaroon.
    ///
    /// # Errors
    /// When it is none.
    pub fn decoded(&self) -> anyhow::Result<Macaroon> {
        Macaroon::from_base64(&self.macaroon)
    }

    /// The same preimage with another macaroon.
    #[must_use]
    pub fn with(&self, macaroon: impl Into<String>) -> Self {
        Self {
            macaroon: macaroon.into(),
            preimage: self.preimage.clone(),
        }
    }
}
