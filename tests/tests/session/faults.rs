//! What fails, dies or is forgotten.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use e2e::eventually;
use e2e::gate::Gate;
use e2e::payment::present;
use serde_json::json;

use crate::{DEPOSIT, FORECAST, closed, deposit, further, opened, refunded, selling};

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
