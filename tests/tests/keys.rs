//! Rotation of the master key and revocation, seen by buyers.

use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::eventually;
use e2e::gate::Gate;
use e2e::l402::Token;

const FORECAST: &str = "/v1/forecast";

/// First byte of the token id: the key generation under which it was minted.
fn generation(token: &Token) -> anyhow::Result<String> {
    Ok(token.decoded()?.token_id()?.chars().take(2).collect())
}

#[tokio::test]
async fn a_rotation_refuses_no_token_at_any_moment() -> anyhow::Result<()> {
    let gate = Gate::dev("keys-rotation").start().await?;
    let old = gate.buy(FORECAST).await?;
    let first = generation(&old)?;
    gate.sidecar.command(&["keys", "rotate"]).await?;
    // While the new key spreads everybody is served, and offers go over to it by themselves.
    let mut bought = vec![old];
    let start = Instant::now();
    loop {
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "offers stay on the old key"
        );
        for token in &bought {
            let served = gate.http().get(FORECAST).token(token).send().await?;
            assert_eq!(served.status, 200, "{}", served.text());
        }
        let token = gate.buy(FORECAST).await?;
        let changed = generation(&token)? != first;
        bought.push(token);
        if changed {
            break;
        }
    }
    // The sidecar and Envoy each come back with both keys.
    let mut gate = gate;
    gate.sidecar.restart().await?;
    gate.envoy.restart().await?;
    gate.open(FORECAST).await?;
    for token in &bought {
        let served = gate.http().get(FORECAST).token(token).send().await?;
        assert_eq!(served.status, 200, "{}", served.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_revocation_reaches_every_worker_within_five_seconds() -> anyhow::Result<()> {
    let gate = Gate::dev("keys-revocation")
        .envoy(|envoy| envoy.concurrency = 4)
        .start()
        .await?;
    let (revoked, kept) = (gate.buy(FORECAST).await?, gate.buy(FORECAST).await?);
    let hash = revoked.decoded()?.payment_hash()?;
    gate.sidecar
        .command(&["tokens", "revoke", "--payment-hash", &hash])
        .await?;
    eventually(
        "all workers refuse the token",
        Duration::from_secs(5),
        || async {
            // New connections, so that several workers are asked.
            for _ in 0..24 {
                let answer = gate.http().get(FORECAST).token(&revoked).send().await?;
                ensure!(answer.status == 402, "{}", answer.status);
            }
            Ok(())
        },
    )
    .await?;
    for _ in 0..24 {
        let served = gate.http().get(FORECAST).token(&kept).send().await?;
        assert_eq!(served.status, 200, "{}", served.text());
    }
    // What was derived from it goes with it; and it stays gone after a restart.
    let derived = revoked.with(revoked.decoded()?.attenuate("note=child").to_base64());
    let mut gate = gate;
    gate.envoy.restart().await?;
    gate.open(FORECAST).await?;
    for token in [&revoked, &derived] {
        let answer = gate.http().get(FORECAST).token(token).send().await?;
        assert_eq!(
            (answer.status, &*answer.reason()),
            (402, "unknown or revoked root key")
        );
    }
    Ok(())
}
