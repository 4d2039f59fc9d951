//! What must not touch one another: a node that hangs and traffic that is paid or free; a sidecar
//! that hangs and the same; two listeners that share a VM; an old configuration and a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::envoy::merge;
use e2e::eventually;
use e2e::gate::{Builder, Gate};
use e2e::http_client::Http;
use e2e::l402::Token;
use e2e::unpaid::{self, MARK, none_arrived};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const FORECAST: &str = "/v1/forecast";
const HEALTH: &str = "/v1/health";
/// Requests that the gate in good health serves in one race, of each kind.
const RACE: usize = 300;
/// The other one may be as much slower, on a machine that does other things as well.
const SLOWER: usize = 4;

fn gate(name: &str) -> Builder<'static> {
    Gate::dev(name)
        .plugin(unpaid::without_limits)
        .sidecar(unpaid::sidecar_without_limits())
}

/// People who ask and do not pay, one after the other on each of some connections.
fn pressure(gate: &Gate, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<anyhow::Result<()>>> {
    let one = |_| {
        let (http, stop) = (gate.http(), Arc::clone(stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = http.get(FORECAST).header(MARK, "1").send().await?;
                if answer.status == 402 {
                    unpaid::challenge(&answer)?;
                } else {
                    unpaid::fault(&answer)?;
                }
            }
            Ok(())
        })
    };
    (0..8).map(one).collect()
}

/// One client that asks for one thing again and again.
fn runner(
    gate: &Gate,
    target: &'static str,
    token: &Token,
    stop: &Arc<AtomicBool>,
) -> (Arc<AtomicUsize>, JoinHandle<anyhow::Result<()>>) {
    let served = Arc::new(AtomicUsize::new(0));
    let (http, token) = (gate.http(), token.clone());
    let (count, stop) = (Arc::clone(&served), Arc::clone(stop));
    let task = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let answer = http.get(target).token(&token).send().await?;
            ensure!(
                answer.status == 200,
                "{target}: {} {}",
                answer.status,
                answer.text()
            );
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    (served, task)
}

/// The same traffic on both at the same time, until the one in good health has served its part.
/// Whatever else the machine does slows both; what counts is how many requests each has served.
async fn race(healthy: (&Gate, &Token), ill: (&Gate, &Token), what: &str) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = pressure(healthy.0, &stop);
    tasks.extend(pressure(ill.0, &stop));
    let mut pairs = Vec::new();
    for target in [FORECAST, HEALTH] {
        let (one, task) = runner(healthy.0, target, healthy.1, &stop);
        let (other, second) = runner(ill.0, target, ill.1, &stop);
        tasks.extend([task, second]);
        pairs.push((target, one, other));
    }
    eventually("the race is run", Duration::from_secs(60), || async {
        let counts = pairs.iter().map(|(_, one, _)| one.load(Ordering::Relaxed));
        let least = counts.min().unwrap_or_default();
        ensure!(least >= RACE, "{least} served");
        Ok(())
    })
    .await?;
    let counts: Vec<_> = pairs
        .iter()
        .map(|(target, one, other)| {
            (
                target,
                one.load(Ordering::Relaxed),
                other.load(Ordering::Relaxed),
            )
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await??;
    }
    for (target, one, other) in counts {
        assert!(
            other * SLOWER >= one,
            "{what}, {target}: {other} against {one}"
        );
    }
    none_arrived(healthy.0)?;
    none_arrived(ill.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_or_a_sidecar_that_hangs_slows_nobody_who_has_paid() -> anyhow::Result<()> {
    let healthy = gate("race-healthy").start().await?;
    let token = healthy.buy(FORECAST).await?;
    let mut ill = gate("race-ill").start().await?;
    let other = ill.buy(FORECAST).await?;
    race((&healthy, &token), (&ill, &other), "both are well").await?;

    let path = ill.sidecar.config();
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    merge(
        &mut config,
        json!({ "lightning": { "dev": { "invoiceDelay": "30s" } } }),
    );
    std::fs::write(&path, config.to_string())?;
    ill.sidecar.restart().await?;
    race((&healthy, &token), (&ill, &other), "the node hangs").await?;

    ill.sidecar.running()?.freeze()?;
    race((&healthy, &token), (&ill, &other), "the sidecar hangs").await
}

async fn price(http: &Http, target: &str) -> anyhow::Result<u64> {
    let answer = http.get(target).header(MARK, "1").send().await?;
    unpaid::challenge(&answer)?;
    let challenges = answer.challenges();
    challenges.last().context("no challenge")?.check()
}

fn two_policies(plain: &Value, sat: u64) -> Value {
    let mut plugin = plain.clone();
    let services = json!([{
        "name": "maps",
        "match": [{ "hosts": ["127.0.0.1"], "path": { "prefix": "/" } }],
        "price": { "sat": sat },
        "freePaths": [{ "prefix": "/v1/" }],
    }]);
    merge(&mut plugin, json!({ "services": services }));
    plugin
}

#[tokio::test]
async fn two_listeners_in_one_vm_keep_to_their_own_policies() -> anyhow::Result<()> {
    let mut gate = gate("isolation-listeners")
        .envoy(|config| {
            let plain: Value = serde_json::from_str(&config.plugin).unwrap_or_default();
            config.second = Some(two_policies(&plain, 25).to_string());
        })
        .start()
        .await?;
    let plain: Value = serde_json::from_str(&gate.envoy.config.plugin)?;
    let (first, second) = (gate.http(), Http::new(gate.envoy.second_address()));
    let token = gate.buy(FORECAST).await?;
    // New connections each time: they meet every worker.
    for _ in 0..8 {
        let (one, two) = (gate.http(), Http::new(gate.envoy.second_address()));
        assert_eq!(price(&one, FORECAST).await?, 10_000);
        assert_eq!(price(&two, "/v2/tile").await?, 25_000);
        // Free on the second, sold on the first; unknown on the first, sold on the second.
        assert_eq!(two.get(FORECAST).send().await?.status, 200);
        assert_eq!(one.get("/v2/tile").send().await?.status, 404);
        assert_eq!(one.get(FORECAST).token(&token).send().await?.status, 200);
        // Seen and accepted by the first's cache: that says nothing to the second.
        let refused = two
            .get("/v2/tile")
            .token(&token)
            .header(MARK, "1")
            .send()
            .await?;
        assert_eq!(
            (refused.status, &*refused.reason()),
            (402, "service not authorised")
        );
    }

    // The second changes while connections to both stay open.
    gate.envoy.config.second = Some(two_policies(&plain, 70).to_string());
    assert!(gate.envoy.reload().await?);
    eventually(
        "the new price is asked",
        Duration::from_secs(20),
        || async {
            for _ in 0..8 {
                let asked = price(&Http::new(gate.envoy.second_address()), "/v2/tile").await?;
                ensure!(asked == 70_000, "{asked}");
                // Old connections know the old price or the new one, and nothing else.
                let asked = price(&second, "/v2/tile").await?;
                ensure!([25_000, 70_000].contains(&asked), "{asked}");
                ensure!(price(&first, FORECAST).await? == 10_000);
                let served = first.get(FORECAST).token(&token).send().await?;
                ensure!(served.status == 200, "{}", served.status);
            }
            Ok(())
        },
    )
    .await?;
    // And the second goes away: the first does not mind.
    gate.envoy.config.second = None;
    assert!(gate.envoy.reload().await?);
    for _ in 0..8 {
        assert_eq!(price(&gate.http(), FORECAST).await?, 10_000);
        assert_eq!(price(&first, FORECAST).await?, 10_000);
    }
    none_arrived(&gate)?;
    let reloads = gate.envoy.stats("vm_reload").await?;
    assert!(reloads.iter().all(|(_, count)| *count == 0), "{reloads:?}");
    Ok(())
}
