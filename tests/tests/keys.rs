//! Rotation of the master key and revocation, seen by buyers.

#![allow(clippy::indexing_slicing, reason = "a test may panic")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::eventually;
use e2e::gate::{Gate, by_every_scheme};
use e2e::http_client::Answer;
use e2e::l402::Token;
use e2e::payment::{Offer, Session, offer_of, present};
use e2e::unpaid::{sidecar_without_limits, without_limits};
use serde_json::json;

const FORECAST: &str = "/v1/forecast";
const DEPOSIT: u64 = 100;

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

/// The key generation of a Payment challenge: the first byte of its id.
fn generation_of(offer: &Offer) -> anyhow::Result<u8> {
    let id = URL_SAFE_NO_PAD.decode(offer.parameter("id"))?;
    id.first().copied().context("an empty id")
}

/// What a buyer holds when the key changes.
struct Outstanding {
    /// Open.
    session: Session,
    /// Paid and not presented.
    deposit: Session,
    further: (Offer, String),
    charge: String,
    /// Neither paid nor presented.
    unpaid: Answer,
}

impl Outstanding {
    async fn new(gate: &Gate) -> anyhow::Result<Self> {
        let session = paid_deposit(gate).await?;
        served(gate, &session.open()).await?;
        let answer = asked(gate).await?;
        let further = offer_of(&answer, "session")?;
        let preimage = further.pay(&gate.wallet).await?;
        let charge = offer_of(&answer, "charge")?;
        let paid = charge.pay(&gate.wallet).await?;
        Ok(Self {
            session,
            deposit: paid_deposit(gate).await?,
            further: (further, preimage),
            charge: charge.credential(&json!({ "preimage": paid })),
            unpaid: asked(gate).await?,
        })
    }

    /// All of it is served.
    async fn used(&self, gate: &Gate) -> anyhow::Result<()> {
        served(gate, &self.session.bearer()?).await?;
        let (offer, preimage) = &self.further;
        served(gate, &self.session.top_up(offer, preimage)?).await?;
        served(gate, &self.charge).await?;
        served(gate, &self.deposit.open()).await?;
        served(gate, &self.deposit.bearer()?).await?;

        let charge = offer_of(&self.unpaid, "charge")?;
        let paid = charge.pay(&gate.wallet).await?;
        let paid = charge.credential(&json!({ "preimage": paid }));
        served(gate, &paid).await?;
        let invoice = gate.wallet.return_invoice().await?;
        let late = Session::deposit(&self.unpaid, &gate.wallet, &invoice).await?;
        served(gate, &late.open()).await?;
        // Three units of the first, two and one of the others.
        served(gate, &self.session.bearer()?).await?;
        let sessions = [
            (&self.session, 2 * DEPOSIT - 3),
            (&self.deposit, DEPOSIT - 2),
            (&late, DEPOSIT - 1),
        ];
        for (session, rest) in sessions {
            let closed = served(gate, &session.close()?).await?;
            assert_eq!(closed.json()["refundSats"], json!(rest));
            assert_eq!(closed.json()["refundStatus"], "succeeded");
        }
        Ok(())
    }
}

/// As somebody new each time: who has a session is shown the same deposits again.
async fn asked(gate: &Gate) -> anyhow::Result<Answer> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, a, b, c] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let (http, address) = (gate.http(), format!("10.{a}.{b}.{c}"));
    eventually("the gate sells", Duration::from_secs(20), || async {
        let request = http.get(FORECAST).header("x-forwarded-for", &address);
        let answer = request.send().await?;
        offer_of(&answer, "session").map(|_| answer)
    })
    .await
}

async fn paid_deposit(gate: &Gate) -> anyhow::Result<Session> {
    let invoice = gate.wallet.return_invoice().await?;
    Session::deposit(&asked(gate).await?, &gate.wallet, &invoice).await
}

/// Comes again when it is told to; any other refusal is an error.
async fn served(gate: &Gate, authorization: &str) -> anyhow::Result<Answer> {
    let start = Instant::now();
    loop {
        let answer = present(&gate.http(), FORECAST, authorization).await?;
        if answer.status == 200 {
            return Ok(answer);
        }
        let may_come_again = answer.status == 503 && start.elapsed() < Duration::from_secs(20);
        ensure!(may_come_again, "{} {}", answer.status, answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_refuses_no_session_and_no_challenge_that_is_outstanding() -> anyhow::Result<()>
{
    let mut gate = Gate::dev("keys-rotation-sessions")
        .plugin(|plugin| {
            by_every_scheme(plugin, DEPOSIT as usize);
            without_limits(plugin);
        })
        .sidecar(sidecar_without_limits())
        .envoy(|envoy| envoy.trusted_hops = 1)
        .start()
        .await?;
    let (early, late) = (
        Outstanding::new(&gate).await?,
        Outstanding::new(&gate).await?,
    );
    let first = generation_of(&early.session.offer)?;
    // Spends all the while, under its first challenge and as clients do that ask each time.
    let constant = paid_deposit(&gate).await?;
    served(&gate, &constant.open()).await?;
    gate.sidecar.command(&["keys", "rotate"]).await?;
    early.used(&gate).await?;

    let (start, mut spent) = (Instant::now(), 1);
    loop {
        ensure!(
            start.elapsed() < Duration::from_secs(90),
            "offers stay on the old key"
        );
        let fresh = offer_of(&asked(&gate).await?, "session")?;
        for bearer in [constant.bearer()?, constant.bearer_under(&fresh)?] {
            served(&gate, &bearer).await?;
            spent += 1;
        }
        if generation_of(&fresh)? != first {
            break;
        }
        // It is topped up before it runs dry.
        if spent % 50 == 1 {
            let preimage = fresh.pay(&gate.wallet).await?;
            served(&gate, &constant.top_up(&fresh, &preimage)?).await?;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    late.used(&gate).await?;

    // The sidecar and Envoy each come back with both keys.
    gate.sidecar.restart().await?;
    gate.envoy.restart().await?;
    served(&gate, &constant.bearer()?).await?;
    let closed = served(&gate, &constant.close()?).await?;
    assert_eq!(closed.json()["refundStatus"], "succeeded");
    gate.sidecar.command(&["ledger", "check"]).await.map(drop)
}
