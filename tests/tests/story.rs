//! The L402 story through real Envoy: refused, paid, served, served again, expired, revoked, with
//! crashes in between; once with real LND nodes and once with the embedded network.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::{Builder, Gate};
use e2e::l402::Token;
use e2e::paths;
use e2e::regtest::Regtest;
use serde_json::{Value, json};

const FORECAST: &str = "/v1/forecast";
/// A service whose tokens live three seconds.
const BRIEF: &str = "/brief/forecast";

/// Adds the second service to the first one's policy.
fn with_brief_service(plugin: &mut Value) {
    let brief = json!({
        "name": "brief",
        "match": [{ "hosts": ["127.0.0.1"], "path": { "prefix": "/brief/" } }],
        "price": { "msat": 1500 },
        "lifetime": "3s",
    });
    if let Some(services) = plugin.get_mut("services").and_then(Value::as_array_mut) {
        services.push(brief);
    }
}

async fn status(gate: &Gate, target: &str, token: &Token) -> anyhow::Result<u16> {
    Ok(gate.http().get(target).token(token).send().await?.status)
}

/// Waits until exactly one sale of this token is in the ledger, and looks whether it is right.
async fn recorded_once(gate: &Gate, token: &Token, service: &str, msat: i64) -> anyhow::Result<()> {
    let hash = token.decoded()?.payment_hash()?;
    eventually("the sale is recorded", Duration::from_secs(30), || async {
        let sales = gate.sidecar.sales()?;
        let ours: Vec<_> = sales
            .iter()
            .filter(|sale| sale.payment_hash == hash)
            .collect();
        ensure!(
            ours.len() == 1,
            "{} sales of {hash} in {sales:?}",
            ours.len()
        );
        let sale = ours.first().context("no sale")?;
        ensure!(
            (&*sale.scheme, &*sale.service) == ("l402", service),
            "{sale:?}"
        );
        ensure!(sale.amount_msat == msat, "{sale:?}");
        Ok(())
    })
    .await
}

/// What is the same whatever the node is. Gives a token that is still good at the end.
async fn story(builder: Builder<'_>) -> anyhow::Result<(Gate, Token)> {
    // A token lives as long as was sold, counted from the last moment at which its invoice can be
    // paid; so invoices are short-lived here.
    let offers = json!({ "offers": { "invoiceExpiry": "20s" } });
    let mut gate = builder
        .plugin(with_brief_service)
        .sidecar(offers)
        .start()
        .await?;

    // Refused without payment: challenge lines in the fixed order, a body for people and clients.
    let refused = gate.http().get(FORECAST).send().await?;
    assert_eq!(refused.status, 402, "{}", refused.text());
    let challenges = refused.challenges();
    let schemes: Vec<&str> = challenges.iter().map(|one| one.scheme.as_str()).collect();
    assert_eq!(schemes, ["LSAT", "L402"]);
    for challenge in &challenges {
        assert_eq!(challenge.check()?, 10_000);
    }
    let l402 = challenges.last().context("no challenge")?;
    assert_eq!(
        l402.parameters.get("version").map(String::as_str),
        Some("0")
    );
    assert_eq!(l402.parameters.get("token"), Some(&l402.macaroon));
    assert_eq!(refused.header("content-type"), "application/problem+json");
    let body = refused.json();
    assert_eq!(
        body.get("invoice").and_then(Value::as_str),
        Some(&*l402.invoice)
    );
    assert_eq!(
        body.get("macaroon").and_then(Value::as_str),
        Some(&*l402.macaroon)
    );
    assert_eq!(body.get("price_sats").and_then(Value::as_u64), Some(10));
    assert_eq!(gate.upstream.count(), 0, "unpaid, and yet at the upstream");

    // Every challenge is of its own.
    let other = gate.challenge(FORECAST).await?;
    assert_ne!(other.invoice, l402.invoice);

    // Free paths are free, and sell nothing.
    let free = gate.http().get("/v1/health").send().await?;
    assert_eq!((free.status, free.challenges().len()), (200, 0));

    // Paid, served, served again, also by HTTP/2; the upstream sees who, and never the token.
    let token = gate.buy(FORECAST).await?;
    gate.upstream.clear();
    for http in [gate.http(), gate.http(), gate.h2()] {
        let served = http.get(FORECAST).token(&token).send().await?;
        assert_eq!(served.status, 200, "{}", served.text());
        assert!(served.challenges().is_empty());
    }
    let token_id = token.decoded()?.token_id()?;
    assert_eq!(gate.upstream.count(), 3);
    for seen in gate.upstream.requests() {
        assert_eq!(seen.header("x-boltgate-service"), "weather");
        assert_eq!(seen.header("x-boltgate-scheme"), "l402");
        assert_eq!(seen.header("x-boltgate-token-id"), token_id);
        assert_eq!(seen.header("x-boltgate-tier"), "0");
        let all = format!("{:?}", seen.headers);
        assert!(
            !all.contains(&token.preimage) && !all.contains(&token.macaroon),
            "{all}"
        );
    }
    let stream = gate.http().get("/v1/stream").token(&token).send().await?;
    assert_eq!(
        stream.text().matches("data: ").count(),
        9,
        "{}",
        stream.text()
    );
    recorded_once(&gate, &token, "weather", 10_000).await?;

    // A token ends by itself, and then it is the buyer's turn again.
    let brief = gate.buy(BRIEF).await?;
    assert_eq!(status(&gate, BRIEF, &brief).await?, 200);
    // Its life is counted from when its invoice could be paid at the latest: 20 s and 30 s of grace.
    eventually("the token expires", Duration::from_secs(90), || async {
        let answer = gate.http().get(BRIEF).token(&brief).send().await?;
        ensure!(answer.status == 402, "{}", answer.status);
        assert_eq!(answer.reason(), "expired");
        assert_eq!(
            answer.challenges().len(),
            2,
            "an expired token gets a fresh challenge"
        );
        Ok(())
    })
    .await?;
    recorded_once(&gate, &brief, "brief", 1_500).await?;

    // A sidecar that crashes and comes back: paid traffic does not notice, sales go on.
    gate.sidecar.kill();
    assert_eq!(status(&gate, FORECAST, &token).await?, 200);
    gate.sidecar.start().await?;
    gate.sidecar.ready().await?;
    let later = eventually("the gate sells again", Duration::from_secs(15), || {
        gate.buy(FORECAST)
    })
    .await?;
    assert_eq!(status(&gate, FORECAST, &later).await?, 200);
    assert_eq!(status(&gate, FORECAST, &token).await?, 200);
    recorded_once(&gate, &later, "weather", 10_000).await?;
    recorded_once(&gate, &token, "weather", 10_000).await?;

    // Revoked: refused within five seconds, and another token is not touched by it.
    let id = later.decoded()?.token_id()?;
    gate.sidecar
        .command(&["tokens", "revoke", "--token-id", &id])
        .await?;
    eventually("the token is refused", Duration::from_secs(5), || async {
        let answer = gate.http().get(FORECAST).token(&later).send().await?;
        ensure!(answer.status == 402, "{}", answer.status);
        assert_eq!(answer.reason(), "unknown or revoked root key");
        Ok(())
    })
    .await?;
    assert_eq!(status(&gate, FORECAST, &token).await?, 200);

    no_secret_is_printed(&gate, &[&token, &later, &brief]);
    Ok((gate, token))
}

/// Neither Envoy's logs nor the sidecar's hold a preimage or a token.
fn no_secret_is_printed(gate: &Gate, tokens: &[&Token]) {
    let logs = [
        gate.sidecar.log(),
        gate.envoy.process.output(),
        format!("{:?}", gate.envoy.access_log()),
    ];
    for token in tokens {
        for log in &logs {
            assert!(!log.contains(&token.preimage), "a preimage in a log");
            assert!(!log.contains(&token.macaroon), "a token in a log");
        }
    }
}

#[tokio::test]
async fn an_api_is_sold_on_the_embedded_network() -> anyhow::Result<()> {
    let (gate, token) = story(Gate::dev("story-dev")).await?;

    // Who pays nothing cannot put a token id into the access log.
    let request = gate.http().get(FORECAST);
    let forged = request
        .header("x-boltgate-token-id", "forged")
        .send()
        .await?;
    assert_eq!(forged.status, 402);

    // Access log: outcome, service and token id of each request.
    let token_id = token.decoded()?.token_id()?;
    eventually(
        "the access log is written",
        Duration::from_secs(5),
        || async {
            let log = gate.envoy.access_log();
            let field = |line: &Value, name: &str| {
                line.get(name)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let count = |outcome: &str, id: &str| {
                log.iter()
                    .filter(|line| {
                        field(line, "outcome") == outcome && field(line, "token_id") == id
                    })
                    .count()
            };
            ensure!(count("paid", &token_id) >= 4, "{log:#?}");
            ensure!(count("challenged", "") >= 2, "{log:#?}");
            assert_eq!(count("challenged", "forged"), 0);
            Ok(())
        },
    )
    .await
}

#[tokio::test]
async fn an_api_is_sold_by_the_filter_without_the_payment_scheme() -> anyhow::Result<()> {
    let module = paths::l402_wasm()?;
    let builder = Gate::dev("story-l402").envoy(|envoy| envoy.module = module);
    story(builder).await.map(drop)
}

#[tokio::test]
async fn an_api_is_sold_between_real_nodes_that_crash_in_between() -> anyhow::Result<()> {
    let network = Regtest::start("story-regtest")?;
    let (mut gate, token) = story(Gate::lnd("story-lnd", &network)).await?;

    // A sale that settles while the sidecar is down is found afterwards, once.
    let challenge = gate.challenge(FORECAST).await?;
    gate.sidecar.kill();
    let preimage = gate.wallet.pay(&challenge.invoice).await?;
    let bought = challenge.paid(&preimage);
    assert_eq!(
        status(&gate, FORECAST, &bought).await?,
        200,
        "paid is paid, sidecar or not"
    );
    let hash = bought.decoded()?.payment_hash()?;
    assert!(
        gate.sidecar
            .sales()?
            .iter()
            .all(|sale| sale.payment_hash != hash)
    );
    gate.sidecar.start().await?;
    recorded_once(&gate, &bought, "weather", 10_000).await?;
    gate.sidecar.restart().await?;
    gate.sidecar.ready().await?;
    recorded_once(&gate, &bought, "weather", 10_000).await?;

    // The node says the same as the ledger.
    let invoice = network.seller.lookup(&hash).await?;
    assert_eq!(
        invoice.get("state").and_then(Value::as_str),
        Some("SETTLED"),
        "{invoice}"
    );

    // The seller's node dies: what is paid for is served, and nobody is asked to pay twice.
    network.seller.kill();
    for _ in 0..5 {
        assert_eq!(status(&gate, FORECAST, &token).await?, 200);
    }
    network.seller.restart()?;
    network.wait_payable()?;
    let again = eventually("the gate sells again", Duration::from_secs(60), || {
        gate.buy(FORECAST)
    })
    .await?;
    assert_eq!(status(&gate, FORECAST, &again).await?, 200);
    recorded_once(&gate, &again, "weather", 10_000).await?;
    recorded_once(&gate, &bought, "weather", 10_000).await
}
