//! Sessions of the Payment scheme through real Envoy: a deposit, then units of it, and the rest
//! back; whoever asks at once, and whatever dies meanwhile.

#![allow(clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod faults;
mod races;
mod refusals;
mod story;

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::{Builder, Gate, by_every_scheme};
use e2e::http_client::{Answer, Http};
use e2e::payment::{Offer, Session, offer_of, present, receipt};
use e2e::unpaid::without_limits;
use serde_json::json;

pub(crate) const FORECAST: &str = "/v1/forecast";
pub(crate) const STREAM: &str = "/v1/stream";
/// Deposit of every session, in satoshis; a unit costs one.
pub(crate) const DEPOSIT: usize = 100;

/// Sells `/v1/` by session as well; events of the stream are units.
pub(crate) fn selling<'a>(builder: Builder<'a>) -> Builder<'a> {
    selling_by(builder, DEPOSIT)
}

pub(crate) fn selling_by<'a>(builder: Builder<'a>, deposit: usize) -> Builder<'a> {
    // All clients of a test have one address.
    let many = json!({ "offers": { "perClientPerMinute": 1_000_000 } });
    builder.sidecar(many).plugin(move |plugin| {
        by_every_scheme(plugin, deposit);
        without_limits(plugin);
    })
}

pub(crate) async fn challenged(http: &Http) -> anyhow::Result<Answer> {
    eventually("the gate sells", Duration::from_secs(15), || async {
        let answer = http.get(FORECAST).send().await?;
        offer_of(&answer, "session").map(|_| answer)
    })
    .await
}

/// Pays a deposit.
pub(crate) async fn deposit(gate: &Gate) -> anyhow::Result<Session> {
    let answer = challenged(&gate.http()).await?;
    let invoice = gate.wallet.return_invoice().await?;
    Session::deposit(&answer, &gate.wallet, &invoice).await
}

/// Opens a session by a request that costs one unit.
pub(crate) async fn opened(gate: &Gate) -> anyhow::Result<Session> {
    let session = deposit(gate).await?;
    let answer = present(&gate.http(), FORECAST, &session.open()).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(session)
}

/// Pays a further deposit.
pub(crate) async fn further(gate: &Gate) -> anyhow::Result<(Offer, String)> {
    let answer = challenged(&gate.http()).await?;
    let offer = offer_of(&answer, "session")?;
    let preimage = offer.pay(&gate.wallet).await?;
    Ok((offer, preimage))
}

/// Closes a session: what comes back to the buyer, and whether it has arrived.
pub(crate) async fn closed(gate: &Gate, session: &Session) -> anyhow::Result<(u64, String)> {
    let answer = present(&gate.http(), FORECAST, &session.close()?).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    refunded(&answer)
}

pub(crate) fn refunded(answer: &Answer) -> anyhow::Result<(u64, String)> {
    let said = answer.json();
    ensure!(said["status"] == "closed", "{said}");
    let receipt = receipt(answer)?;
    ensure!(
        receipt["refundSats"] == said["refundSats"]
            && receipt["refundStatus"] == said["refundStatus"],
        "{receipt} {said}"
    );
    let sats = said["refundSats"].as_u64().context("no refundSats")?;
    Ok((sats, said["refundStatus"].as_str().unwrap_or("").to_owned()))
}
