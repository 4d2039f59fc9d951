//! The whole life of a session.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::Gate;
use e2e::payment::{present, receipt};
use e2e::regtest::Regtest;
use serde_json::{Value, json};

use crate::{DEPOSIT, FORECAST, STREAM, closed, deposit, further, selling};

/// The whole life of a session; the wallet is whoever's the gate has.
async fn story(gate: &Gate) -> anyhow::Result<()> {
    let session = deposit(gate).await?;
    gate.upstream.clear();
    let answer = present(&gate.http(), FORECAST, &session.open()).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = receipt(&answer)?;
    assert_eq!(said["reference"], json!(session.id()?));
    assert_eq!(said["challengeId"], json!(session.offer.parameter("id")));
    assert!(answer.header("cache-control").contains("private"));
    let seen = gate.upstream.last()?;
    assert_eq!(seen.header("x-boltgate-scheme"), "session");
    assert_eq!(seen.header("x-boltgate-session-id"), session.id()?);
    assert_eq!(seen.header("authorization"), "");

    // Fifty requests over both workers.
    for _ in 0..50 {
        let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        receipt(&answer)?;
    }
    assert_eq!(gate.upstream.count(), 51);
    // A stream of eight events.
    let answer = present(&gate.http(), STREAM, &session.bearer()?).await?;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    assert_eq!(text.matches("celsius").count(), 8, "{text}");
    let (before, after) = text
        .split_once("event: payment-receipt\n")
        .context("no receipt")?;
    assert!(
        before.ends_with("\n\n") && after.ends_with("\n\ndata: [DONE]\n\n"),
        "{text}"
    );
    assert!(
        after.contains(r#""units":8"#) && after.contains(r#""spent":8"#),
        "{after}"
    );

    // 41 are left. Five more streams and a bit: the last one runs dry after one event.
    for _ in 0..5 {
        let answer = present(&gate.http(), STREAM, &session.bearer()?).await?;
        assert_eq!(answer.text().matches("celsius").count(), 8);
    }
    let request = gate.http().get(STREAM);
    let request = request.header("authorization", session.bearer()?);
    let mut streaming = request.stream().await?;
    assert_eq!(streaming.status, 200);
    let held = streaming.until("}\n\n", Duration::from_secs(10)).await?;
    let held = match held.contains("need-topup") {
        true => held,
        false => held + &streaming.until("}\n\n", Duration::from_secs(10)).await?,
    };
    assert_eq!(held.matches("celsius").count(), 1, "{held}");
    let (_, event) = held
        .split_once("event: payment-need-topup\ndata: ")
        .context("not held")?;
    let need: Value = serde_json::from_str(event.trim())?;
    assert_eq!(
        need,
        json!({ "sessionId": session.id()?, "balanceSpent": DEPOSIT, "balanceRequired": 1 })
    );
    // While it is held: another request finds nothing left.
    let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
    assert_eq!(answer.status, 402, "{}", answer.text());
    assert!(answer.text().contains("lightning/insufficient-balance"));

    let (offer, preimage) = further(gate).await?;
    let top_up = session.top_up(&offer, &preimage)?;
    let answer = present(&gate.http(), FORECAST, &top_up).await?;
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({ "status": "ok" }))
    );
    let first = receipt(&answer)?;
    let rest = streaming.rest(Duration::from_secs(10)).await?;
    assert_eq!(rest.matches("celsius").count(), 7, "{rest}");
    assert!(
        rest.contains("payment-receipt") && rest.ends_with("data: [DONE]\n\n"),
        "{rest}"
    );
    // The same again: the same answer, and nothing more on the account.
    let answer = present(&gate.http(), FORECAST, &top_up).await?;
    assert_eq!((answer.status, receipt(&answer)?), (200, first));

    let upstream = gate.upstream.count();
    let (sats, status) = closed(gate, &session).await?;
    assert_eq!((sats, status.as_str()), (93, "succeeded"));
    eventually("the refund arrives", Duration::from_secs(10), || async {
        let received = gate.wallet.received(&session.return_invoice).await?;
        ensure!(received == Some(93_000), "{received:?}");
        Ok(())
    })
    .await?;
    // The same again, and then nothing else.
    assert_eq!(closed(gate, &session).await?, (93, "succeeded".to_owned()));
    let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
    assert_eq!(answer.status, 402);
    assert!(
        answer.text().contains("lightning/session-closed"),
        "{}",
        answer.text()
    );
    assert_eq!(gate.upstream.count(), upstream);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_its_deposit_to_its_refund() -> anyhow::Result<()> {
    let builder = selling(Gate::dev("session-story"));
    let gate = builder.envoy(|envoy| envoy.concurrency = 2).start().await?;
    story(&gate).await
}

async fn on_real_nodes(name: &str, ledger: Value) -> anyhow::Result<()> {
    let regtest = Regtest::start(name)?;
    let gate = format!("{name}-gate");
    let builder = selling(Gate::lnd(&gate, &regtest)).sidecar(ledger);
    let gate = builder.envoy(|envoy| envoy.concurrency = 2).start().await?;
    story(&gate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_real_nodes_balances_to_the_sat() -> anyhow::Result<()> {
    on_real_nodes("session-lnd", json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_real_nodes_and_postgresql_balances_to_the_sat() -> anyhow::Result<()> {
    let database = tokio::task::spawn_blocking(test_postgres::database).await??;
    let ledger = json!({ "ledger": { "postgres": { "url": database.url() } } });
    on_real_nodes("session-lnd-postgres", ledger).await
}
