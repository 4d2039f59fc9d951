//! Paying invoices.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http_client::Http;
use crate::macaroon::{hex, unhex};

/// Who pays.
#[derive(Clone, Debug)]
pub enum Wallet {
    /// Everybody on the sidecar's embedded network.
    Dev(SocketAddr),
    /// An LND node, through its own command-line client.
    Lnd(Lncli),
}

impl Wallet {
    /// Pays an invoice and gives the preimage: 64 hex digits, checked against the payment hash
    /// that the payer reports.
    ///
    /// # Errors
    /// When the payment fails.
    pub async fn pay(&self, invoice: &str) -> anyhow::Result<String> {
        let result = match self {
            Self::Dev(address) => {
                let body = json!({ "invoice": invoice }).to_string();
                let answer = Http::new(*address)
                    .post("/pay", body)
                    .header("content-type", "application/json")
                    .send()
                    .await?;
                ensure!(
                    answer.status == 200,
                    "not paid: {} {}",
                    answer.status,
                    answer.text()
                );
                answer.json()
            }
            Self::Lnd(lncli) => {
                let result = lncli
                    .run(&["payinvoice", "--force", "--json", invoice])
                    .await?;
                let status = text(&result, "status");
                ensure!(
                    status == "SUCCEEDED",
                    "not paid: {status} {}",
                    text(&result, "failure_reason")
                );
                result
            }
        };
        let keys = match self {
            Self::Dev(_) => ("preimage", "payment_hash"),
            Self::Lnd(_) => ("payment_preimage", "payment_hash"),
        };
        let (preimage, hash) = (text(&result, keys.0), text(&result, keys.1));
        ensure!(
            hex(&Sha256::digest(unhex(preimage)?)) == hash,
            "the preimage is not the hash's"
        );
        Ok(preimage.to_owned())
    }
}

/// Life of a return invoice: thirty days, as sessions ask for.
const RETURN_EXPIRY_SECONDS: u64 = 30 * 86_400;

impl Wallet {
    /// An invoice of the wallet's own without an amount, for a refund.
    ///
    /// # Errors
    /// When it makes none.
    pub async fn return_invoice(&self) -> anyhow::Result<String> {
        let (result, key) = match self {
            Self::Dev(address) => {
                let body = json!({ "expiry_seconds": RETURN_EXPIRY_SECONDS }).to_string();
                let answer = Http::new(*address)
                    .post("/invoices", body)
                    .header("content-type", "application/json")
                    .send()
                    .await?;
                (answer.json(), "invoice")
            }
            Self::Lnd(lncli) => {
                let expiry = RETURN_EXPIRY_SECONDS.to_string();
                let made = lncli.run(&["addinvoice", "--expiry", &expiry]).await?;
                (made, "payment_request")
            }
        };
        let invoice = text(&result, key);
        ensure!(!invoice.is_empty(), "no invoice: {result}");
        Ok(invoice.to_owned())
    }

    /// What has arrived for such an invoice, in millisatoshi; `None` if nothing has.
    ///
    /// # Errors
    /// When the wallet does not know it.
    pub async fn received(&self, invoice: &str) -> anyhow::Result<Option<u64>> {
        let invoice: lightning_invoice::Bolt11Invoice = invoice
            .parse()
            .map_err(|error| anyhow::anyhow!("not an invoice: {error:?}"))?;
        let hash = invoice.payment_hash().to_string();
        match self {
            Self::Dev(address) => {
                let said = Http::new(*address).get(&format!("/invoices/{hash}")).send();
                let said = said.await?.json();
                let sum = said.get("received_msat").and_then(Value::as_u64);
                Ok(sum.filter(|_| text(&said, "state") == "settled"))
            }
            Self::Lnd(lncli) => {
                let said = lncli.run(&["lookupinvoice", &hash]).await?;
                let sum = text(&said, "amt_paid_msat").parse().ok();
                Ok(sum.filter(|_| text(&said, "state") == "SETTLED"))
            }
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// LND's command-line client with what it needs to reach one node.
#[derive(Clone, Debug)]
pub struct Lncli {
    /// The program.
    pub program: PathBuf,
    /// Host and port of the node's gRPC interface.
    pub server: String,
    /// The node's TLS certificate.
    pub tls_cert: PathBuf,
    /// The macaroon to use.
    pub macaroon: PathBuf,
}

impl Lncli {
    /// Runs one command and gives its JSON answer.
    ///
    /// # Errors
    /// When it fails or does not answer with JSON.
    pub async fn run(&self, args: &[&str]) -> anyhow::Result<Value> {
        let output = tokio::process::Command::new(&self.program)
            .args(self.flags())
            .args(args)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        answer(args, &output)
    }

    /// [`Self::run`] for code without a runtime.
    ///
    /// # Errors
    /// When it fails or does not answer with JSON.
    pub fn run_blocking(&self, args: &[&str]) -> anyhow::Result<Value> {
        answer(args, &self.output_blocking(args)?)
    }

    /// Runs one command that does not answer with JSON.
    ///
    /// # Errors
    /// When it fails.
    pub fn run_text_blocking(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = self.output_blocking(args)?;
        checked(args, &output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn output_blocking(&self, args: &[&str]) -> anyhow::Result<Output> {
        Command::new(&self.program)
            .args(self.flags())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", self.program.display()))
    }

    fn flags(&self) -> [String; 4] {
        [
            "--network=regtest".to_owned(),
            format!("--rpcserver={}", self.server),
            format!("--tlscertpath={}", self.tls_cert.display()),
            format!("--macaroonpath={}", self.macaroon.display()),
        ]
    }
}

fn checked(args: &[&str], output: &Output) -> anyhow::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    bail!(
        "lncli {}: {}",
        args.first().unwrap_or(&""),
        said.concat().trim()
    )
}

fn answer(args: &[&str], output: &Output) -> anyhow::Result<Value> {
    checked(args, output)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if stdout.trim().is_empty() {
        return Ok(Value::Null);
    }
    // `payinvoice --json` prints one document for each change of state: the last one counts.
    let documents = serde_json::Deserializer::from_str(&stdout).into_iter::<Value>();
    documents
        .map_while(Result::ok)
        .last()
        .with_context(|| format!("lncli said {stdout:?}"))
}
