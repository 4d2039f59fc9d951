//! The same API by the Payment scheme: one response for one payment, and a session whose balance a
//! stream uses up.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::http_client::{Answer, Http, Streaming};
use e2e::payment::{Offer, Session, offer_of, present, receipt};
use e2e::wallet::Wallet;

use crate::shop::Shop;
use crate::tell::{self, Teller};
use crate::{FORECAST, expect};

const STREAM: &str = "/v1/stream";
/// Events of one stream of the example API.
const EVENTS: u64 = 8;
/// Longest wait for what comes at once.
const SOON: Duration = Duration::from_secs(10);

/// One payment, one response.
pub(crate) async fn charge(shop: &Shop, tell: &mut Teller) -> anyhow::Result<()> {
    let (http, wallet) = (Http::new(shop.envoy), Wallet::Dev(shop.pay));
    tell.step("Buy a single response", "Payment, intent charge");
    let offer = offered(&http, "charge").await?;
    tell.fact("price", &format!("{} sat", offer.said("/amount")?));
    let preimage = offer.pay(&wallet).await?;
    let credential = offer.credential(&serde_json::json!({ "preimage": preimage }));
    let served = expect(200, present(&http, FORECAST, &credential).await?)?;
    tell.answer("200 OK", &served);
    let receipt = receipt(&served)?;
    let reference = receipt.get("reference").and_then(|text| text.as_str());
    ensure!(reference == Some(offer.payment_hash()?), "{receipt}");
    tell.fact("receipt for", &tell::short(offer.payment_hash()?));

    tell.step("Show it again", "it bought one response");
    let before = shop.requests_seen().await?;
    // For three seconds a claim might yet be given back, so the first answer may be "come again".
    let refused = eventually("it is used up", SOON, || async {
        let answer = present(&http, FORECAST, &credential).await?;
        ensure!(answer.status != 200, "served twice");
        expect(402, answer)
    })
    .await?;
    tell.answer("402 Payment Required", &refused);
    ensure!(shop.requests_seen().await? == before, "served twice");
    Ok(())
}

/// A deposit, a stream that uses it up, a further deposit, and the rest back.
pub(crate) async fn session(shop: &Shop, tell: &mut Teller) -> anyhow::Result<()> {
    let (http, wallet) = (Http::new(shop.envoy), Wallet::Dev(shop.pay));
    tell.step("Open a session", "a deposit, and an invoice for the rest");
    let answer = http.get(FORECAST).send().await?;
    let return_invoice = wallet.return_invoice().await?;
    let session = Session::deposit(&answer, &wallet, &return_invoice).await?;
    let deposit: u64 = session.offer.said("/depositAmount")?.parse()?;
    let price: u64 = session.offer.said("/amount")?.parse()?;
    tell.fact("deposit", &format!("{deposit} sat, {price} sat a unit"));
    let opened = expect(200, present(&http, FORECAST, &session.open()).await?)?;
    tell.answer("200 OK, the first unit", &opened);
    let mut balance = deposit - price;
    tell.fact("balance", &format!("{balance} sat"));

    tell.step("Listen until it is dry", "GET /v1/stream, a unit an event");
    let mut streaming = listen(&http, &session).await?;
    let mut delivered = 0;
    let held = loop {
        let text = streaming.until("\n\n", SOON).await?;
        let events = text.matches("celsius").count() as u64;
        delivered += events;
        balance = balance
            .checked_sub(events * price)
            .context("served for nothing")?;
        if events > 0 {
            tell.fact("event", &format!("balance {balance} sat"));
        }
        if text.contains("payment-need-topup") {
            break text;
        }
        if text.ends_with("data: [DONE]\n\n") {
            ensure!(delivered == EVENTS, "{delivered} events");
            (streaming, delivered) = (listen(&http, &session).await?, 0);
        }
    };
    ensure!(balance == 0, "held with {balance} sat left: {held}");
    tell.fact("payment-need-topup", "the stream is held");

    tell.step("Top up", "answered by the gate, at any path");
    let offer = offered(&http, "session").await?;
    let preimage = offer.pay(&wallet).await?;
    let credential = session.top_up(&offer, &preimage)?;
    let topped = expect(200, present(&http, FORECAST, &credential).await?)?;
    let since = Instant::now();
    tell.answer("200 OK", &topped);
    balance += deposit;
    if delivered < EVENTS {
        let text = streaming.until("\n\n", SOON).await?;
        tell.fact(
            "the stream goes on",
            &format!("after {}", tell::time(since.elapsed())),
        );
        delivered += text.matches("celsius").count() as u64;
        balance -= text.matches("celsius").count() as u64 * price;
    }
    let rest = streaming.rest(SOON).await?;
    let events = rest.matches("celsius").count() as u64;
    ensure!(
        delivered + events == EVENTS,
        "{delivered} and {events} events"
    );
    ensure!(
        rest.contains("event: payment-receipt"),
        "no receipt: {rest}"
    );
    balance -= events * price;
    tell.fact(
        "to its end",
        &format!("{events} events more, balance {balance} sat"),
    );

    tell.step("Close it", "the rest goes to the return invoice");
    let closed = expect(200, present(&http, FORECAST, &session.close()?).await?)?;
    tell.answer("200 OK", &closed);
    let said = closed.json();
    let refund = said.get("refundSats").and_then(serde_json::Value::as_u64);
    ensure!(
        refund == Some(balance),
        "{said} with a balance of {balance}"
    );
    eventually("the refund arrives", SOON, || async {
        let received = wallet.received(&return_invoice).await?;
        ensure!(received == Some(balance * 1_000), "{received:?}");
        Ok(())
    })
    .await?;
    tell.fact("received by the buyer", &format!("{balance} sat"));
    Ok(())
}

/// A fresh offer.
async fn offered(http: &Http, intent: &str) -> anyhow::Result<Offer> {
    let answer: Answer = http.get(FORECAST).send().await?;
    offer_of(&answer, intent)
}

async fn listen(http: &Http, session: &Session) -> anyhow::Result<Streaming> {
    let request = http.get(STREAM).header("authorization", session.bearer()?);
    let streaming = request.stream().await?;
    ensure!(streaming.status == 200, "{}", streaming.status);
    Ok(streaming)
}
