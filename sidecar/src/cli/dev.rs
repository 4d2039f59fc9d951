//! `boltgate dev`.

use std::process::ExitCode;

use bitcoin::hashes::Hash as _;
use clap::{Args, Subcommand};
use lightning_invoice::SignedRawBolt11Invoice;
use protocol::hash::PaymentHash;
use serde_json::{Map, Value};

use super::{fail, print};
use crate::http::client;

#[derive(Debug, Subcommand)]
pub(super) enum DevCommand {
    /// Pay an invoice of the dev network and print the preimage. No money moves.
    Pay {
        /// BOLT 11 text.
        invoice: String,
        /// For an invoice without an amount: how much, in millisatoshi.
        #[arg(long, value_name = "MSAT")]
        amount_msat: Option<u64>,
        #[command(flatten)]
        door: DoorArgs,
    },
    /// Print an invoice of the dev wallet: without amount, as a session's return invoice must be.
    Invoice {
        /// Ask for this amount, in millisatoshi.
        #[arg(long, value_name = "MSAT")]
        amount_msat: Option<u64>,
        /// Life of the invoice; a day if not given.
        #[arg(long, value_name = "SECONDS")]
        expiry_seconds: Option<u64>,
        #[command(flatten)]
        door: DoorArgs,
    },
    /// Print what the dev wallet received for an invoice, in millisatoshi; exit status 1 if
    /// nothing yet.
    Received {
        /// BOLT 11 text or payment hash.
        invoice: String,
        #[command(flatten)]
        door: DoorArgs,
    },
}

#[derive(Args, Debug)]
pub(super) struct DoorArgs {
    /// The dev network's door.
    #[arg(
        long,
        env = "BOLTGATE_DEV_URL",
        default_value = "http://127.0.0.1:9404"
    )]
    url: String,
}

pub(super) async fn execute(command: DevCommand) -> ExitCode {
    let said = match command {
        DevCommand::Pay {
            invoice,
            amount_msat,
            door,
        } => pay(&door, invoice, amount_msat).await,
        DevCommand::Invoice {
            amount_msat,
            expiry_seconds,
            door,
        } => make_invoice(&door, amount_msat, expiry_seconds).await,
        DevCommand::Received { invoice, door } => received(&door, &invoice).await,
    };
    match said {
        Ok(text) => print(&text),
        Err(error) => fail(error),
    }
}

async fn pay(door: &DoorArgs, invoice: String, amount: Option<u64>) -> Result<String, String> {
    let mut body = Map::from_iter([("invoice".to_owned(), invoice.into())]);
    body.extend(amount.map(|amount| ("amount_msat".to_owned(), amount.into())));
    text_of(&ask(door, "/pay", Some(body)).await?, "preimage")
}

async fn make_invoice(
    door: &DoorArgs,
    amount: Option<u64>,
    expiry: Option<u64>,
) -> Result<String, String> {
    let mut body = Map::new();
    body.extend(amount.map(|amount| ("amount_msat".to_owned(), amount.into())));
    body.extend(expiry.map(|expiry| ("expiry_seconds".to_owned(), expiry.into())));
    text_of(&ask(door, "/invoices", Some(body)).await?, "invoice")
}

async fn received(door: &DoorArgs, invoice: &str) -> Result<String, String> {
    let hash = hash_of(invoice.trim()).ok_or("neither an invoice nor a payment hash")?;
    let answer = ask(door, &format!("/invoices/{hash}"), None).await?;
    match text_of(&answer, "state")?.as_str() {
        "settled" => Ok(answer
            .get("received_msat")
            .map(ToString::to_string)
            .unwrap_or_default()),
        state => Err(format!("nothing received: {state}")),
    }
}

fn hash_of(invoice: &str) -> Option<PaymentHash> {
    if let Ok(hash) = invoice.parse() {
        return Some(hash);
    }
    let invoice: SignedRawBolt11Invoice = invoice.parse().ok()?;
    let hash = invoice.raw_invoice().payment_hash()?.0.to_byte_array();
    Some(PaymentHash(hash))
}

async fn ask(
    door: &DoorArgs,
    path: &str,
    body: Option<Map<String, Value>>,
) -> Result<Value, String> {
    let url = format!("{}{path}", door.url.trim_end_matches('/'));
    let body = body.map(|body| Value::Object(body).to_string());
    let answer = client::request(&url, body).await?;
    let members: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match members.get("message") {
        _ if answer.status == 200 => Ok(members),
        Some(Value::String(message)) => Err(message.clone()),
        _ => Err(format!("status {}: {}", answer.status, answer.body)),
    }
}

fn text_of(answer: &Value, member: &str) -> Result<String, String> {
    match answer.get(member) {
        Some(Value::String(text)) => Ok(text.clone()),
        _ => Err(format!("the dev network's answer has no {member}")),
    }
}
