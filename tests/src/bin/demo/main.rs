//! `demo [--once]`: an API is sold through Envoy, step by step, on the embedded Lightning network.
//!
//! Runs `envoy/envoy.yaml` as it is in the repository (with the Payment scheme, other ports where
//! its own are taken, and the filter's absolute path). Afterwards it stays up to be tried by hand;
//! with `--once` it exits, with status 0 only if every step held.

mod payment;
mod shop;
mod tell;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::args::{Args, end_signal};
use e2e::eventually;
use e2e::http_client::{Answer, Http};
use e2e::l402::Token;
use e2e::macaroon::{Macaroon, hex};
use e2e::wallet::Wallet;
use serde_json::Value;
use sha2::{Digest, Sha256};
use shop::Shop;
use tell::Teller;

const FORECAST: &str = "/v1/forecast";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = Args::from_env("demo [--once]");
    let once = args.flag("--once");
    args.finish()?;
    tokio::select! {
        shown = show(once) => shown,
        ended = end_signal() => ended,
    }
    // Whatever was started ends with its handle, which is dropped by now.
}

async fn show(once: bool) -> anyhow::Result<()> {
    println!("Boltgate: an API sold for Lightning, inside Envoy.");
    println!("The network is an embedded one, on regtest: no money moves.\n");
    let start = Instant::now();
    let shop = Shop::start().await?;
    println!(
        "Envoy, the sidecar and a weather API are up ({}).\n",
        tell::time(start.elapsed())
    );
    let mut tell = Teller::default();
    let shown = async {
        purchase(&shop, &mut tell).await?;
        payment::charge(&shop, &mut tell).await?;
        payment::session(&shop, &mut tell).await
    };
    shown.await.context("the demo does not hold what it says")?;
    println!();
    if once {
        println!("Every step held.");
        return Ok(());
    }
    shop.print_lines();
    std::future::pending().await
}

/// A token that is bought once and used often.
async fn purchase(shop: &Shop, tell: &mut Teller) -> anyhow::Result<()> {
    let http = Http::new(shop.envoy);

    tell.step("Ask without paying", &format!("GET {FORECAST}"));
    // Envoy's workers fetch their keys and first invoices right after the start.
    let refused = eventually("a demand for payment", Duration::from_secs(20), || async {
        let answer = http.get(FORECAST).send().await?;
        ensure!(answer.status == 402, "{}: {}", answer.status, answer.text());
        Ok(answer)
    })
    .await?;
    // The first answer pays for all the warming up; this one is what a client sees.
    let refused = expect(402, http.get(FORECAST).send().await.unwrap_or(refused))?;
    tell.answer("402 Payment Required", &refused);
    let challenge = refused
        .challenges()
        .into_iter()
        .next_back()
        .context("no L402 challenge")?;
    tell.fact(
        "www-authenticate",
        &format!(
            "{} macaroon=\"{}\", invoice=\"{}\", …",
            challenge.scheme,
            tell::short(&challenge.macaroon),
            tell::short(&challenge.invoice),
        ),
    );
    let seen = shop.requests_seen().await?;
    ensure!(seen == 0, "{seen} unpaid requests have reached the API");
    tell.fact("the API has seen", "0 requests");

    tell.step("Read the invoice", "BOLT 11, signed by the seller's node");
    let msat = challenge.check()?;
    let invoice = challenge.invoice()?;
    tell.fact("price", &format!("{} sat", msat / 1000));
    tell.fact(
        "pays",
        &tell::short(&invoice.get_payee_pub_key().to_string()),
    );
    tell.fact(
        "payment hash",
        &tell::short(&challenge.decoded()?.payment_hash()?),
    );
    tell.fact(
        "token allows",
        &challenge.decoded()?.caveat_texts().join(", "),
    );

    tell.step("Pay it", "any Lightning wallet could");
    let paying = Instant::now();
    let preimage = Wallet::Dev(shop.pay).pay(&challenge.invoice).await?;
    tell.fact(
        "preimage",
        &format!(
            "{} ({})",
            tell::short(&preimage),
            tell::time(paying.elapsed())
        ),
    );
    let token = challenge.paid(&preimage);

    tell.step(
        "Ask with the token",
        "authorization: L402 <macaroon>:<preimage>",
    );
    let served = expect(200, http.get(FORECAST).token(&token).send().await?)?;
    tell.answer("200 OK", &served);
    tell.fact("body", &tell::first_chars(&served.text(), 70));

    tell.step(
        "Ask again",
        "the token is good for a day, no second payment",
    );
    for _ in 0..3 {
        let served = expect(200, http.get(FORECAST).token(&token).send().await?)?;
        tell.answer("200 OK", &served);
    }
    let payments = shop.payments().await?;
    ensure!(payments == 1, "{payments} payments were made");
    tell.fact("payments made", "1");

    tell.step("Listen to a stream", "GET /v1/stream, server-sent events");
    let stream = expect(200, http.get("/v1/stream").token(&token).send().await?)?;
    let events = stream.text().matches("data: ").count();
    ensure!(events == 9, "{events} events");
    tell.answer(&format!("200 OK, {events} events"), &stream);

    tell.step(
        "Try a forged token",
        "the right form, a preimage that fits, no payment",
    );
    let forged = forge(&token)?;
    let before = shop.requests_seen().await?;
    let refused = expect(402, http.get(FORECAST).token(&forged).send().await?)?;
    tell.answer("402 Payment Required", &refused);
    ensure!(
        refused.reason() == "bad signature",
        "refused for {}",
        refused.reason()
    );
    tell.fact("reason", &refused.reason());
    ensure!(
        shop.requests_seen().await? == before,
        "the forged token has reached the API"
    );

    tell.step("Look at the free part", "GET /v1/health");
    tell.answer(
        "200 OK",
        &expect(200, http.get("/v1/health").send().await?)?,
    );

    tell.step("Look into the books", "the sidecar's ledger");
    let hash = challenge.decoded()?.payment_hash()?;
    let sale = eventually(
        "the sale is in the ledger",
        Duration::from_secs(10),
        || async {
            let sales = shop.sidecar.sales()?;
            ensure!(sales.len() == 1, "{} sales", sales.len());
            sales
                .into_iter()
                .find(|sale| sale.payment_hash == hash)
                .context("another sale")
        },
    )
    .await?;
    tell.fact(
        "sales",
        &format!("1: {} for {} sat", sale.service, sale.amount_msat / 1000),
    );
    Ok(())
}

fn expect(status: u16, answer: Answer) -> anyhow::Result<Answer> {
    ensure!(
        answer.status == status,
        "{} where {status} was due: {}",
        answer.status,
        answer.text()
    );
    Ok(answer)
}

/// A token that a cheat makes at home: same token id and services, a preimage of the cheat's own.
fn forge(token: &Token) -> anyhow::Result<Token> {
    let real = token.decoded()?;
    let preimage = [42; 32];
    let mut identifier = vec![0, 0];
    identifier.extend_from_slice(&Sha256::digest(preimage));
    identifier.extend_from_slice(real.identifier.get(34..).context("no token id")?);
    let caveats = real.caveat_texts();
    let caveats: Vec<&str> = caveats.iter().map(String::as_str).collect();
    let forged = Macaroon::mint(b"what could the key be?", identifier, &caveats);
    Ok(Token {
        macaroon: forged.to_base64(),
        preimage: hex(&preimage),
    })
}

/// One number out of a JSON answer.
fn number(answer: &Answer, name: &str) -> anyhow::Result<u64> {
    answer
        .json()
        .get(name)
        .and_then(Value::as_u64)
        .with_context(|| answer.text())
}
