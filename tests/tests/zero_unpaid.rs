//! Nothing unpaid reaches the upstream, whatever fails: the sidecar, its node, the filter's VM, a
//! new configuration. The upstream counts; clients are told a fault of ours as 503 and never asked
//! for money then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::envoy::merge;
use e2e::eventually;
use e2e::gate::{Builder, Gate};
use e2e::impostor::{Behaviour, Impostor, token_under_claimed_key};
use e2e::l402::Token;
use e2e::paths;
use e2e::regtest::Regtest;
use e2e::unpaid::{self, MARK, fault, faults_or_challenges, none_arrived, only_faults};
use futures_util::future::join_all;
use serde_json::{Value, json};

const FORECAST: &str = "/v1/forecast";
const HEALTH: &str = "/v1/health";

/// Waits are short and limits wide, so that failures alone decide.
fn quick(plugin: &mut Value) {
    unpaid::without_limits(plugin);
    let quick = json!({ "bootstrapWait": "500ms", "sidecar": { "timeout": "1s" } });
    merge(plugin, quick);
}

fn gate(name: &str) -> Builder<'static> {
    Gate::dev(name)
        .plugin(quick)
        .sidecar(unpaid::sidecar_without_limits())
}

async fn status(gate: &Gate, target: &str, token: &Token) -> anyhow::Result<u16> {
    Ok(gate.http().get(target).token(token).send().await?.status)
}

/// Every worker of Envoy answers in the same way: new connections meet all of them.
async fn everywhere(gate: &Gate, target: &str, token: &Token, status: u16) -> anyhow::Result<()> {
    for _ in 0..12 {
        let answer = gate.http().get(target).token(token).send().await?;
        ensure!(
            answer.status == status,
            "{} {}",
            answer.status,
            answer.text()
        );
        if status == 503 {
            fault(&answer)?;
        }
    }
    Ok(())
}

async fn until_only_faults(gate: &Gate) -> anyhow::Result<()> {
    eventually("the stock is gone", Duration::from_secs(30), || {
        only_faults(gate, FORECAST)
    })
    .await
}

/// The gate works: it sells, and what it sells is good.
async fn sells_again(gate: &Gate) -> anyhow::Result<()> {
    let token = eventually("the gate sells again", Duration::from_secs(60), || {
        gate.buy(FORECAST)
    })
    .await?;
    // The worker that sold it may be ahead of the other.
    eventually("what it sells is good", Duration::from_secs(10), || {
        everywhere(gate, FORECAST, &token, 200)
    })
    .await?;
    none_arrived(gate)
}

#[tokio::test]
async fn without_a_sidecar_only_free_and_foreign_requests_pass() -> anyhow::Result<()> {
    let mut gate = gate("zero-absent").without_sidecar().start().await?;
    only_faults(&gate, FORECAST).await?;
    assert_eq!(gate.upstream.count(), 0);
    assert_eq!(gate.http().get(HEALTH).send().await?.status, 200);
    let foreign = gate.http().host("other.test");
    assert_eq!(foreign.get(FORECAST).send().await?.status, 200);
    only_faults(&gate, FORECAST).await?;

    gate.sidecar.start().await?;
    sells_again(&gate).await
}

/// What every worker does while the sidecar is away: first what is in stock, then 503; tokens are
/// good until the deny list is too old.
async fn outage(gate: &Gate, token: &Token) -> anyhow::Result<()> {
    everywhere(gate, FORECAST, token, 200).await?;
    faults_or_challenges(gate, FORECAST).await?;
    until_only_faults(gate).await?;
    eventually("the deny list is too old", Duration::from_secs(20), || {
        everywhere(gate, FORECAST, token, 503)
    })
    .await?;
    only_faults(gate, FORECAST).await?;
    assert_eq!(gate.http().get(HEALTH).send().await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_sidecar_that_dies_or_hangs_costs_sales_and_nothing_else() -> anyhow::Result<()> {
    let mut gate = gate("zero-outage")
        .plugin(|plugin| merge(plugin, json!({ "revocationMaxAge": "8s" })))
        .start()
        .await?;
    let token = gate.buy(FORECAST).await?;
    everywhere(&gate, FORECAST, &token, 200).await?;

    gate.sidecar.kill();
    outage(&gate, &token).await?;
    gate.sidecar.start().await?;
    sells_again(&gate).await?;
    eventually("tokens are good again", Duration::from_secs(20), || {
        everywhere(&gate, FORECAST, &token, 200)
    })
    .await?;

    gate.sidecar.running()?.freeze()?;
    outage(&gate, &token).await?;
    gate.sidecar.running()?.thaw()?;
    sells_again(&gate).await?;
    eventually("tokens are good again", Duration::from_secs(20), || {
        everywhere(&gate, FORECAST, &token, 200)
    })
    .await
}

#[tokio::test]
async fn nobody_but_the_sidecar_is_believed() -> anyhow::Result<()> {
    let mut gate = gate("zero-impostor").without_sidecar().start().await?;
    let forged = token_under_claimed_key("weather")?;
    for behaviour in [
        Behaviour::Garbage,
        Behaviour::Fails,
        Behaviour::Unmarked,
        Behaviour::Nonsense,
    ] {
        let impostor = Impostor::start(gate.sidecar.address(), behaviour)?;
        eventually("it is asked", Duration::from_secs(10), || async {
            ensure!(impostor.asked() > 2, "{behaviour:?} was not asked");
            Ok(())
        })
        .await?;
        only_faults(&gate, FORECAST).await?;
        everywhere(&gate, FORECAST, &forged, 503).await?;
        assert_eq!(gate.upstream.count(), 0, "{behaviour:?}");
    }

    // The control: the same keys, with the marker, are believed. So the ones above were not.
    let impostor = Impostor::start(gate.sidecar.address(), Behaviour::Believable)?;
    eventually("its token is good", Duration::from_secs(10), || {
        everywhere(&gate, FORECAST, &forged, 200)
    })
    .await?;
    drop(impostor);

    // The true sidecar takes over: other keys, and what was good is so no more.
    gate.sidecar.start().await?;
    eventually("its keys are gone", Duration::from_secs(20), || {
        everywhere(&gate, FORECAST, &forged, 402)
    })
    .await?;
    sells_again(&gate).await?;

    // And the other way round, with everything known: tokens stay good, sales end.
    let token = gate.buy(FORECAST).await?;
    gate.sidecar.kill();
    for behaviour in [Behaviour::Garbage, Behaviour::Fails, Behaviour::Unmarked] {
        let _impostor = Impostor::start(gate.sidecar.address(), behaviour)?;
        until_only_faults(&gate).await?;
        everywhere(&gate, FORECAST, &token, 200).await?;
    }
    none_arrived(&gate)
}

#[tokio::test]
async fn with_a_wrong_token_for_the_sidecar_nothing_is_sold() -> anyhow::Result<()> {
    for wrong in ["wrong-token-0123456789abcdef-wrong", ""] {
        let gate = gate("zero-wrong-token")
            .envoy(|config| wrong.clone_into(&mut config.token))
            .start()
            .await?;
        only_faults(&gate, FORECAST).await?;
        assert_eq!(gate.upstream.count(), 0);
        assert_eq!(gate.http().get(HEALTH).send().await?.status, 200);
        let invoices = gate.sidecar.dev_stats().await?.invoices;
        assert_eq!(invoices, 0, "made for a stranger");
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_hangs_dies_or_is_locked_costs_sales_and_nothing_else() -> anyhow::Result<()> {
    let network = Regtest::start("zero-regtest")?;
    let gate = Gate::lnd("zero-lnd", &network)
        .plugin(unpaid::without_limits)
        .sidecar(unpaid::sidecar_without_limits())
        .start()
        .await?;
    let token = gate.buy(FORECAST).await?;
    let seller = &network.seller;

    let start = Instant::now();
    seller.freeze()?;
    while start.elapsed() < Duration::from_secs(30) {
        faults_or_challenges(&gate, FORECAST).await?;
        everywhere(&gate, FORECAST, &token, 200).await?;
    }
    until_only_faults(&gate).await?;
    seller.thaw()?;
    network.wait_payable()?;
    sells_again(&gate).await?;

    seller.kill();
    until_only_faults(&gate).await?;
    everywhere(&gate, FORECAST, &token, 200).await?;

    seller.restart_locked()?;
    until_only_faults(&gate).await?;
    everywhere(&gate, FORECAST, &token, 200).await?;
    eventually("it is said why", Duration::from_secs(20), || async {
        let ready = gate.sidecar.readiness().await?;
        ensure!(ready.contains("locked"), "{ready}");
        Ok(())
    })
    .await?;

    seller.restart()?;
    network.wait_payable()?;
    sells_again(&gate).await?;
    everywhere(&gate, FORECAST, &token, 200).await
}

#[tokio::test]
async fn a_vm_that_traps_takes_nothing_with_it_but_its_own_requests() -> anyhow::Result<()> {
    let module = paths::trap_wasm()?;
    let gate = gate("zero-trap")
        .plugin(|plugin| merge(plugin, json!({ "sidecar": { "timeout": "20s" } })))
        .envoy(|config| {
            config.module = module;
            config.concurrency = 1;
            config.stream_idle_timeout = "2s".to_owned();
        })
        .start()
        .await?;
    let token = gate.buy(FORECAST).await?;
    let reloads = "wasm.boltgate.vm_reload_success";

    // With a body, without, and even with a good token: the request that kills it is not forwarded.
    let before = gate.upstream.count();
    for request in [
        gate.http().get(FORECAST),
        gate.h2()
            .post(FORECAST, vec![b'x'; 20_000])
            .header(MARK, "1"),
        gate.http().get(FORECAST).token(&token),
        gate.http().get(HEALTH),
    ] {
        let answer = request.header("x-trap", "1").send().await?;
        assert_eq!(answer.status, 503);
        assert!(answer.challenges().is_empty());
        eventually("there is a new VM", Duration::from_secs(20), || async {
            unpaid::only_challenges(&gate, FORECAST).await
        })
        .await?;
    }
    assert_eq!(gate.upstream.count(), before);
    assert!(gate.envoy.stat(reloads).await? >= 4);
    assert_eq!(status(&gate, FORECAST, &token).await?, 200);

    // Requests that wait in the VM while it dies are freed by the stream's idle timeout.
    gate.sidecar.running()?.freeze()?;
    until_held(&gate).await?;
    let held = (0..20).map(|_| {
        gate.http()
            .post(FORECAST, "unpaid")
            .header(MARK, "1")
            .send()
    });
    let held = tokio::spawn(join_all(held.collect::<Vec<_>>()));
    eventually("they are held", Duration::from_secs(10), || async {
        let active = gate.envoy.stat("http.ingress.downstream_rq_active").await?;
        ensure!(active >= 20, "{active} requests are under way");
        Ok(())
    })
    .await?;
    let killed = gate.http().get(HEALTH).header("x-trap", "1").send().await?;
    assert_eq!(killed.status, 503);
    for answer in held.await? {
        let answer = answer?;
        assert!(answer.status >= 408, "{} {}", answer.status, answer.text());
        assert!(answer.challenges().is_empty());
    }
    gate.sidecar.running()?.thaw()?;
    sells_again(&gate).await?;
    assert_eq!(status(&gate, FORECAST, &token).await?, 200);
    Ok(())
}

/// Takes the stock, until a request is held.
async fn until_held(gate: &Gate) -> anyhow::Result<()> {
    eventually("the stock is gone", Duration::from_secs(20), || async {
        let request = gate.http().get(FORECAST).header(MARK, "1");
        let answer = request.timeout(Duration::from_millis(500)).send().await;
        ensure!(answer.is_err(), "answered");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_new_configuration_neither_drops_nor_opens_anything() -> anyhow::Result<()> {
    let mut gate = gate("zero-reload").start().await?;
    let token = gate.buy(FORECAST).await?;
    let good = gate.envoy.config.plugin.clone();

    // Bad ones are refused, and what was good before goes on.
    let mut negative: Value = serde_json::from_str(&good)?;
    negative["services"][0]["price"] = json!({ "sat": -1 });
    let mut unknown: Value = serde_json::from_str(&good)?;
    unknown["serivces"] = json!([]);
    for bad in [
        "",
        "{",
        "{}",
        "null",
        &negative.to_string(),
        &unknown.to_string(),
    ] {
        bad.clone_into(&mut gate.envoy.config.plugin);
        assert!(!gate.envoy.reload().await?, "taken: {bad}");
        unpaid::only_challenges(&gate, FORECAST).await?;
        everywhere(&gate, FORECAST, &token, 200).await?;
    }

    // Good ones are taken under load: every request is answered as if nothing had happened.
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for kind in 0..6 {
        let (stop, token) = (Arc::clone(&stop), token.clone());
        let http = if kind % 2 == 0 {
            gate.http()
        } else {
            gate.h2()
        };
        load.push(tokio::spawn(async move {
            let mut answered = 0_usize;
            while !stop.load(Ordering::Relaxed) {
                let answer = match kind / 2 {
                    0 => http.get(FORECAST).token(&token).send().await?,
                    1 => http.get(HEALTH).send().await?,
                    _ => http.post(FORECAST, "x").header(MARK, "1").send().await?,
                };
                match kind / 2 {
                    2 => drop(unpaid::challenge(&answer)?),
                    _ => ensure!(answer.status == 200, "{} {}", answer.status, answer.text()),
                }
                answered += 1;
            }
            Ok(answered)
        }));
    }
    for price in [20, 30, 40] {
        let mut next: Value = serde_json::from_str(&good)?;
        next["services"][0]["price"] = json!({ "sat": price });
        gate.envoy.config.plugin = next.to_string();
        assert!(gate.envoy.reload().await?, "a good configuration is taken");
        eventually(
            "the new price is asked",
            Duration::from_secs(20),
            || async {
                for _ in 0..8 {
                    let asked = gate.challenge(FORECAST).await?.check()?;
                    ensure!(asked == price * 1_000, "{asked} msat");
                }
                Ok(())
            },
        )
        .await?;
    }
    stop.store(true, Ordering::Relaxed);
    for loaded in load {
        let answered = loaded.await??;
        assert!(answered > 0);
    }
    none_arrived(&gate)
}
