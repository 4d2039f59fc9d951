//! `boltgate dev`.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

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
        /// The dev network's door.
        #[arg(
            long,
            env = "BOLTGATE_DEV_URL",
            default_value = "http://127.0.0.1:9404"
        )]
        url: String,
    },
}

pub(super) async fn execute(command: DevCommand) -> ExitCode {
    let DevCommand::Pay {
        invoice,
        amount_msat,
        url,
    } = command;
    let mut body = json!({ "invoice": invoice });
    if let (Some(amount), Some(members)) = (amount_msat, body.as_object_mut()) {
        members.insert("amount_msat".to_owned(), amount.into());
    }
    let url = format!("{}/pay", url.trim_end_matches('/'));
    let answer = match client::request(&url, Some(body.to_string())).await {
        Ok(answer) => answer,
        Err(error) => return fail(error),
    };
    let members: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match (members.get("preimage"), members.get("message")) {
        (Some(Value::String(preimage)), _) if answer.status == 200 => print(preimage),
        (_, Some(Value::String(message))) => fail(message),
        _ => fail(format!("status {}: {}", answer.status, answer.body)),
    }
}
