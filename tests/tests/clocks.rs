//! The sidecar's clock and Envoy's are a minute apart: what is paid for is served and adds up, and
//! tokens end that much earlier or later.

#![allow(clippy::indexing_slicing, reason = "a test may panic")]

use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::{Builder, Gate, by_every_scheme};
use e2e::http_client::Answer;
use e2e::l402::Token;
use e2e::payment::{Session, offer_of, present, receipt};
use e2e::regtest::Regtest;
use e2e::unpaid::{sidecar_without_limits, without_limits};
use serde_json::json;

const FORECAST: &str = "/v1/forecast";
const STREAM: &str = "/v1/stream";
const DEPOSIT: usize = 100;
const MINUTE: i64 = 60;
/// Of a token, in seconds.
const LIFETIME: i64 = 3_600;
/// How long it is good from when its invoice was made: that may be paid until it expires.
const LONGEST: i64 = 600 + 30 + LIFETIME;

fn now() -> anyhow::Result<i64> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(since.as_secs().try_into()?)
}

fn gate<'a>(builder: Builder<'a>, sidecar_clock: i64) -> Builder<'a> {
    let builder = builder.plugin(|plugin| {
        by_every_scheme(plugin, DEPOSIT);
        without_limits(plugin);
        plugin["services"][0]["lifetime"] = json!(format!("{LIFETIME}s"));
    });
    let builder = builder.sidecar(sidecar_without_limits());
    builder.sidecar_clock(sidecar_clock)
}

async fn challenged(gate: &Gate) -> anyhow::Result<Answer> {
    eventually("the gate sells", Duration::from_secs(20), || async {
        let answer = gate.http().get(FORECAST).send().await?;
        offer_of(&answer, "session").map(|_| answer)
    })
    .await
}

async fn served(gate: &Gate, target: &str, authorization: &str) -> anyhow::Result<Answer> {
    let answer = present(&gate.http(), target, authorization).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(answer)
}

/// Until when a token is good, by the machine's clock.
fn valid_until(token: &Token) -> anyhow::Result<i64> {
    let caveats = token.decoded()?.caveats;
    let mut caveats = caveats
        .iter()
        .filter_map(|text| std::str::from_utf8(text).ok());
    let until = caveats.find_map(|text| text.strip_prefix("weather_valid_until="));
    Ok(until.context("no end")?.parse()?)
}

/// Buys by every scheme, spends, tops up, closes and is paid back; gives the token.
async fn story(gate: &Gate) -> anyhow::Result<Token> {
    let answer = challenged(gate).await?;
    let token = gate.buy(FORECAST).await?;
    served(gate, FORECAST, &token.authorization()).await?;

    let charge = offer_of(&answer, "charge")?;
    let paid = charge.pay(&gate.wallet).await?;
    let paid = charge.credential(&json!({ "preimage": paid }));
    receipt(&served(gate, FORECAST, &paid).await?)?;
    eventually("it is used up", Duration::from_secs(15), || async {
        let again = present(&gate.http(), FORECAST, &paid).await?;
        ensure!(again.status == 402, "{}", again.status);
        Ok(())
    })
    .await?;

    let invoice = gate.wallet.return_invoice().await?;
    let session = Session::deposit(&answer, &gate.wallet, &invoice).await?;
    let open = session.open();
    served(gate, FORECAST, &open).await?;
    for _ in 0..20 {
        served(gate, FORECAST, &session.bearer()?).await?;
    }
    served(gate, STREAM, &session.bearer()?).await?;
    let further = offer_of(&challenged(gate).await?, "session")?;
    let preimage = further.pay(&gate.wallet).await?;
    let top_up = session.top_up(&further, &preimage)?;
    for _ in 0..2 {
        served(gate, FORECAST, &top_up).await?;
    }
    // A lease comes and goes meanwhile: no clock of the day has a part in that.
    eventually("the lease is back", Duration::from_secs(15), || async {
        let held = gate.sidecar.held(session.id()?)?;
        ensure!(held == 0, "{held} held");
        Ok(())
    })
    .await?;
    served(gate, FORECAST, &session.bearer()?).await?;
    let rest = 2 * DEPOSIT as u64 - 1 - 20 - 8 - 1;
    let closed = served(gate, FORECAST, &session.close()?).await?;
    assert_eq!(closed.json()["refundSats"], json!(rest));
    assert_eq!(closed.json()["refundStatus"], "succeeded");
    eventually("it arrives", Duration::from_secs(10), || async {
        let received = gate.wallet.received(&invoice).await?;
        ensure!(received == Some(rest * 1_000), "{received:?}");
        Ok(())
    })
    .await?;
    let lost = gate
        .sidecar
        .metric("boltgate_sidecar_lost_units_total", &[]);
    assert!(lost.await? == 0.0);
    gate.sidecar.command(&["ledger", "check"]).await?;
    Ok(token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_a_minute_ahead_sells_and_pays_back_and_its_tokens_live_longer()
-> anyhow::Result<()> {
    let gate = gate(Gate::dev("clock-ahead"), MINUTE).start().await?;
    let token = story(&gate).await?;
    let left = valid_until(&token)? - now()?;
    // Less what the story took, which is far less than a minute.
    ensure!(
        left > LONGEST,
        "{left} s left; is the sidecar one for tests?"
    );
    ensure!(left <= LONGEST + MINUTE, "{left} s left");
    served(&gate, FORECAST, &token.authorization())
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_a_minute_behind_sells_and_pays_back_and_its_tokens_end_early()
-> anyhow::Result<()> {
    let gate = gate(Gate::dev("clock-behind"), -MINUTE).start().await?;
    let token = story(&gate).await?;
    let left = valid_until(&token)? - now()?;
    ensure!(
        left <= LONGEST - MINUTE,
        "{left} s left; is the sidecar one for tests?"
    );
    served(&gate, FORECAST, &token.authorization())
        .await
        .map(drop)
}

/// Here the node has Envoy's time.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_a_minute_off_its_node_sells_and_pays_back() -> anyhow::Result<()> {
    let regtest = Regtest::start("clock-lnd")?;
    for (name, seconds) in [("clock-lnd-ahead", MINUTE), ("clock-lnd-behind", -MINUTE)] {
        let gate = gate(Gate::lnd(name, &regtest), seconds).start().await?;
        story(&gate).await?;
    }
    Ok(())
}
