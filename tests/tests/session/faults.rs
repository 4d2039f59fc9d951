//! What fails, dies or is forgotten.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::envoy::Envoy;
use e2e::eventually;
use e2e::gate::Gate;
use e2e::http_client::Http;
use e2e::macaroon::hex;
use e2e::payment::{Session, offer_of, present};
use e2e::regtest::Regtest;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{DEPOSIT, FORECAST, challenged, closed, deposit, further, opened, refunded, selling};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_answered_costs_nothing() -> anyhow::Result<()> {
    let builder = selling(Gate::dev("session-unanswered"));
    let gate = builder.start().await?;
    let session = opened(&gate).await?;
    for _ in 0..5 {
        let answer = present(&gate.http(), "/v1/reset", &session.bearer()?).await?;
        assert_eq!((answer.status, answer.header("payment-receipt")), (503, ""));
    }
    // What the upstream itself says is an answer, whatever it says.
    let answer = present(&gate.http(), "/v1/broken", &session.bearer()?).await?;
    assert_eq!((answer.status, answer.header("payment-receipt")), (503, ""));
    assert_eq!(closed(&gate, &session).await?, (98, "succeeded".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_call_that_nobody_answered_costs_nothing() -> anyhow::Result<()> {
    let builder = selling(Gate::dev("session-grpc-unanswered"));
    let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
    let builder = builder.envoy(move |config| config.grpc_upstream = nobody);
    let gate = builder.start().await?;
    let session = opened(&gate).await?;
    for deadline in ["", "1H"] {
        let mut call = gate
            .h2()
            .post("/v1/Forecast", vec![0_u8; 5])
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", session.bearer()?);
        if !deadline.is_empty() {
            call = call.header("grpc-timeout", deadline);
        }
        let answer = call.send().await?;
        assert_eq!((answer.status, answer.header("grpc-status")), (200, "14"));
        assert_eq!(answer.header("payment-receipt"), "", "{answer:?}");
    }
    let unit_of_the_open = 1;
    let rest = DEPOSIT as u64 - unit_of_the_open;
    assert_eq!(
        closed(&gate, &session).await?,
        (rest, "succeeded".to_owned())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_choose_when_envoy_gives_up_on_the_upstream() -> anyhow::Result<()> {
    // Of clients that it takes for services of the same owner Envoy does what they say.
    let here = json!({ "address_prefix": "127.0.0.0", "prefix_len": 8 });
    let trusting = json!({ "internal_address_config": { "cidr_ranges": [here] } });
    let builder = selling(Gate::dev("session-hurry"));
    let builder = builder.envoy(move |config| config.manager = trusting);
    let gate = builder.start().await?;
    let session = opened(&gate).await?;
    let answer = gate
        .http()
        .get("/v1/slow")
        .header("authorization", session.bearer()?)
        .header("x-envoy-upstream-rq-timeout-ms", "50")
        .header("x-envoy-upstream-rq-timeout-alt-response", "204")
        .send()
        .await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = gate.upstream.last()?;
    assert_eq!(seen.header("x-envoy-upstream-rq-timeout-ms"), "");
    assert_eq!(closed(&gate, &session).await?.0, DEPOSIT as u64 - 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn open_top_up_and_close_survive_the_sidecar_that_died_over_them() -> anyhow::Result<()> {
    let mut gate = selling(Gate::dev("session-crash")).start().await?;
    let session = deposit(&gate).await?;
    let (offer, preimage) = further(&gate).await?;
    let steps = [
        session.open(),
        session.top_up(&offer, &preimage)?,
        session.close()?,
    ];
    for (step, authorization) in steps.iter().enumerate() {
        gate.sidecar.running()?.freeze()?;
        let refused = {
            let http = gate.http();
            let presented = present(&http, FORECAST, authorization);
            let killed = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                gate.sidecar.kill();
            };
            tokio::join!(presented, killed).0?
        };
        assert_eq!(refused.status, 503, "step {step}: {}", refused.text());
        assert!(refused.header("www-authenticate").is_empty());
        gate.sidecar.start().await?;
        gate.sidecar.ready().await?;
        let done = eventually("it is done", Duration::from_secs(20), || async {
            let answer = present(&gate.http(), FORECAST, authorization).await?;
            ensure!(
                answer.status == 200,
                "step {step}: {} {}",
                answer.status,
                answer.text()
            );
            Ok(answer)
        })
        .await?;
        if step == 2 {
            assert_eq!(refunded(&done)?.0, 2 * DEPOSIT as u64 - 1);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_uses_is_closed_and_paid_back() -> anyhow::Result<()> {
    let builder = selling(Gate::dev("session-idle")).plugin(|plugin| {
        if let Some(payment) = plugin.pointer_mut("/payment") {
            payment["idleTimeout"] = json!("10s");
        }
    });
    let gate = builder.start().await?;
    let session = opened(&gate).await?;
    assert_eq!(session.offer.said("/idleTimeout")?, "10");
    eventually("the rest comes back", Duration::from_secs(40), || async {
        let received = gate.wallet.received(&session.return_invoice).await?;
        ensure!(received == Some(99_000), "{received:?}");
        Ok(())
    })
    .await?;
    let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
    assert_eq!(answer.status, 402);
    assert!(
        answer.text().contains("lightning/session-closed"),
        "{}",
        answer.text()
    );
    Ok(())
}

/// Spends some units; gives how many, all of them reported, when more are held.
async fn spent_and_held(gate: &Gate, session: &Session) -> anyhow::Result<u64> {
    const UNITS: u64 = 21;
    for _ in 1..UNITS {
        let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    }
    eventually("some is held", Duration::from_secs(5), || async {
        let (_, spent) = gate.sidecar.session(session.id()?)?;
        let held = gate.sidecar.held(session.id()?)?;
        ensure!(spent == UNITS && held > 2, "{spent} spent, {held} held");
        Ok(UNITS)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_envoy_held_when_it_was_killed_goes_back_to_the_buyer() -> anyhow::Result<()> {
    let mut gate = selling(Gate::dev("session-envoy-killed")).start().await?;
    let session = opened(&gate).await?;
    let served = spent_and_held(&gate, &session).await?;
    gate.envoy.process.kill();
    assert!(gate.sidecar.held(session.id()?)? > 0);
    eventually("it goes back", Duration::from_secs(20), || async {
        let held = gate.sidecar.held(session.id()?)?;
        ensure!(held == 0, "{held} held");
        Ok(())
    })
    .await?;
    let back = "boltgate_sidecar_reclaimed_units_total";
    assert!(gate.sidecar.metric(back, &[]).await? > 0.0);
    assert_eq!(gate.sidecar.session(session.id()?)?.1, served);

    // The balance is all there, for whoever comes to another Envoy or to this one when it is back.
    gate.envoy.restart().await?;
    challenged(&gate.http()).await?;
    for number in 0..10 {
        let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
        assert_eq!(answer.status, 200, "{number}: {}", answer.text());
    }
    let rest = DEPOSIT as u64 - served - 10;
    assert_eq!(closed(&gate, &session).await?.0, rest);
    gate.sidecar.command(&["ledger", "check"]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_does_not_wait_for_an_envoy_that_was_killed() -> anyhow::Result<()> {
    let mut gate = selling(Gate::dev("session-envoy-killed-close"))
        .start()
        .await?;
    let folder = gate.folder.join("second");
    std::fs::create_dir(&folder)?;
    let second = Envoy::start(&folder, gate.envoy.config.clone()).await?;
    challenged(&Http::new(second.address())).await?;
    let session = opened(&gate).await?;
    let served = spent_and_held(&gate, &session).await?;
    gate.envoy.process.kill();
    let http = Http::new(second.address());
    let answer = present(&http, FORECAST, &session.close()?).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let rest = DEPOSIT as u64 - served;
    assert_eq!(refunded(&answer)?, (rest, "succeeded".to_owned()));
    gate.sidecar.command(&["ledger", "check"]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_envoy_had_not_reported_is_the_sellers_loss() -> anyhow::Result<()> {
    let mut gate = selling(Gate::dev("session-envoy-lost")).start().await?;
    let session = opened(&gate).await?;
    let reported = spent_and_held(&gate, &session).await?;
    // From its lease it serves on, and nobody hears of it.
    gate.sidecar.running()?.freeze()?;
    let mut served = reported;
    for _ in 0..2 {
        let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
        served += u64::from(answer.status == 200);
    }
    assert!(served > reported, "nothing was served");
    gate.envoy.process.kill();
    gate.sidecar.running()?.thaw()?;
    gate.envoy.restart().await?;
    challenged(&gate.http()).await?;
    // A report that was on its way is heard after all.
    let (refund, status) = closed(&gate, &session).await?;
    let spent = DEPOSIT as u64 - refund;
    assert!(
        (reported..=served).contains(&spent),
        "{reported} {spent} {served}"
    );
    assert_eq!(status, "succeeded");
    gate.sidecar.command(&["ledger", "check"]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_is_paid_once_by_a_node_that_was_killed_over_it() -> anyhow::Result<()> {
    let regtest = Regtest::start("session-node-killed")?;
    let builder = selling(Gate::lnd("session-node-killed-gate", &regtest));
    let mut gate = builder.start().await?;
    let answer = challenged(&gate.http()).await?;
    // The buyer's node holds the payment until it is told to take it.
    let preimage: [u8; 32] = rand::random();
    let hash = hex(&Sha256::digest(preimage));
    let buyer = regtest.buyer.lncli();
    let hold = ["addholdinvoice", "--expiry", "2592000", &hash];
    let made = buyer.run(&hold).await?;
    let invoice = made["payment_request"].as_str().context("no invoice")?;
    let session = Session::deposit(&answer, &gate.wallet, invoice).await?;
    offer_of(&answer, "session")?;
    let opened = present(&gate.http(), FORECAST, &session.open()).await?;
    assert_eq!(opened.status, 200, "{}", opened.text());
    let state = async |wanted: &str| {
        eventually(wanted, Duration::from_secs(60), || async {
            let said = regtest.buyer.lookup(&hash).await?;
            ensure!(said["state"] == wanted, "{said}");
            Ok(said)
        })
        .await
    };
    // What came of it is not known in time, so it is told as failed; it goes on.
    let rest = DEPOSIT as u64 - 1;
    assert_eq!(closed(&gate, &session).await?, (rest, "failed".to_owned()));
    state("ACCEPTED").await?;

    regtest.seller.kill();
    gate.sidecar.kill();
    regtest.seller.restart()?;
    regtest.seller.wait_channel()?;
    gate.sidecar.start().await?;
    buyer.run(&["settleinvoice", &hex(&preimage)]).await?;
    let said = state("SETTLED").await?;
    assert_eq!(said["amt_paid_msat"], json!((rest * 1_000).to_string()));
    eventually("it is known", Duration::from_secs(60), || async {
        let owed = gate.sidecar.command(&["refunds", "list"]).await?;
        ensure!(!owed.contains(session.id()?), "{owed}");
        Ok(())
    })
    .await?;
    let books = ["ledger", "export", "--format", "jsonl"];
    let books = gate.sidecar.command(&books).await?;
    let refunds: Vec<Value> = books
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|entry: &Value| entry["kind"] == "refund")
        .collect();
    assert_eq!(refunds.len(), 1, "{books}");
    assert_eq!(refunds[0]["state"], "succeeded");
    assert_eq!(refunds[0]["sent_msat"], json!(rest * 1_000));
    let sent = regtest.seller.lncli().run(&["listpayments"]).await?;
    let sent = sent["payments"].as_array().context("no payments")?;
    let mine = sent
        .iter()
        .filter(|payment| payment["payment_hash"] == hash.as_str());
    assert_eq!(mine.count(), 1);
    gate.sidecar.command(&["ledger", "check"]).await.map(drop)
}
