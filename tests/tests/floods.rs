//! Many who do not pay: one address, ten thousand addresses, and a thousand who wait. What is made
//! for them is bounded, everybody is answered, and nobody else is harmed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::envoy::merge;
use e2e::eventually;
use e2e::gate::{Builder, Gate};
use e2e::http_client::{Answer, Http, Request};
use e2e::l402::Token;
use e2e::unpaid::{self, MARK, challenge, fault, limited, none_arrived};
use futures_util::stream::{self, StreamExt as _};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;
use tokio::task::JoinHandle;

const FORECAST: &str = "/v1/forecast";
const HEALTH: &str = "/v1/health";
const FLOOD: u32 = 10_000;
const AT_ONCE: usize = 100;

/// A gate behind a proxy that tells clients' addresses.
fn gate(name: &str) -> Builder<'static> {
    Gate::dev(name).envoy(|config| config.trusted_hops = 1)
}

/// One worker, so that everybody waits in the same VM.
fn crowded_gate(name: &str) -> Builder<'static> {
    gate(name).envoy(|config| {
        config.trusted_hops = 1;
        config.concurrency = 1;
    })
}

fn from(http: &Http, address: &str) -> Request {
    let request = http.get(FORECAST).header(MARK, "1");
    request.header("x-forwarded-for", address)
}

fn address(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("10.{a}.{b}.{c}")
}

/// Answers to a flood, by kind; each was looked at.
#[derive(Debug, Default)]
struct Tally {
    invoices: BTreeSet<String>,
    limited: u32,
    faults: u32,
}

impl Tally {
    fn add(&mut self, answer: &Answer) -> anyhow::Result<()> {
        match answer.status {
            402 => ensure!(
                self.invoices.insert(challenge(answer)?),
                "an invoice was shown twice"
            ),
            429 => {
                limited(answer)?;
                self.limited += 1;
            }
            _ => {
                fault(answer)?;
                self.faults += 1;
            }
        }
        Ok(())
    }
}

async fn flood(gate: &Gate, address: impl Fn(u32) -> String) -> anyhow::Result<Tally> {
    let clients = [gate.http(), gate.h2()];
    let send = |number| {
        let http = clients.get(number as usize % 2).unwrap_or(&clients[0]);
        from(http, &address(number)).send()
    };
    let mut answers = stream::iter((0..FLOOD).map(send)).buffer_unordered(AT_ONCE);
    let mut tally = Tally::default();
    while let Some(answer) = answers.next().await {
        tally.add(&answer?)?;
    }
    Ok(tally)
}

/// Traffic of others: it must be served as if there were no flood. Ends when `stop` is set, and
/// gives how many were.
fn others(
    gate: &Gate,
    token: &Token,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<anyhow::Result<u32>>> {
    let loops = [Some(FORECAST), Some(HEALTH), None]
        .into_iter()
        .map(|target| {
            let (http, token, stop) = (gate.http(), token.clone(), Arc::clone(stop));
            tokio::spawn(async move {
                let mut served = 0;
                while !stop.load(Ordering::Relaxed) {
                    match target {
                        Some(target) => {
                            let answer = http.get(target).token(&token).send().await?;
                            ensure!(answer.status == 200, "{target}: {}", answer.status);
                        }
                        // Somebody who wants to buy, at an ordinary pace.
                        None => {
                            let answer = from(&http, &format!("192.0.2.{}", served % 200))
                                .send()
                                .await?;
                            challenge(&answer)?;
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                    served += 1;
                }
                Ok(served)
            })
        });
    loops.collect()
}

async fn no_reload(gate: &Gate) -> anyhow::Result<()> {
    let reloads = gate.envoy.stats("vm_reload").await?;
    ensure!(reloads.iter().all(|(_, count)| *count == 0), "{reloads:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_is_limited_before_anything_is_made_for_it() -> anyhow::Result<()> {
    let _alone = unpaid::alone().await;
    let gate = gate("flood-one").start().await?;
    let token = gate.buy(FORECAST).await?;
    gate.open(FORECAST).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let others = others(&gate, &token, &stop);
    let start = Instant::now();
    let tally = flood(&gate, |_| "203.0.113.7".to_owned()).await?;
    let seconds = start.elapsed().as_secs() + 1;
    stop.store(true, Ordering::Relaxed);
    let mut bought = 0;
    for other in others {
        let served = other.await??;
        assert!(served > 0);
        bought = u64::from(served);
    }
    // Sixty at once and sixty a minute in each of two workers.
    let challenged = tally.invoices.len() as u64;
    assert!(
        challenged <= 2 * (60 + seconds),
        "{challenged} in {seconds} s"
    );
    assert_eq!(tally.faults, 0);
    assert_eq!(u64::from(tally.limited) + challenged, u64::from(FLOOD));
    // What was made is what was shown and what filters and sidecar keep ahead of it, some of it
    // twice where an answer came too late; it has nothing to do with what was asked for.
    let made = gate.sidecar.dev_stats().await?.invoices;
    assert!(
        made < u64::from(FLOOD) / 4,
        "{made} made, {challenged} + {bought} shown"
    );
    none_arrived(&gate)?;
    no_reload(&gate).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_addresses_get_no_more_than_may_be_outstanding() -> anyhow::Result<()> {
    let _alone = unpaid::alone().await;
    const MOST: u64 = 500;
    let gate = gate("flood-many")
        .sidecar(
            json!({ "offers": { "maxOutstanding": MOST, "perSecond": 10_000, "burst": 10_000 } }),
        )
        .start()
        .await?;
    let token = gate.buy(FORECAST).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut others = others(&gate, &token, &stop);
    // Who wants to buy now is one of ten thousand.
    others.pop().context("no buyer")?.abort();
    let tally = flood(&gate, address).await?;
    stop.store(true, Ordering::Relaxed);
    for other in others {
        assert!(other.await?? > 0, "paid and free traffic goes on");
    }
    let shown = tally.invoices.len() as u64;
    let made = gate.sidecar.dev_stats().await?.invoices;
    assert!(shown > 0 && shown <= made, "{shown} shown of {made} made");
    // The one that was bought is not outstanding.
    assert!(made <= MOST + 1, "{made} made");
    assert!(tally.limited + tally.faults > 0);
    none_arrived(&gate)?;
    no_reload(&gate).await
}

/// Requests that wait: half of their clients leave after a while.
struct Crowd {
    leaving: Vec<(bool, JoinHandle<anyhow::Result<Answer>>)>,
    staying: Vec<(bool, JoinHandle<anyhow::Result<Answer>>)>,
}

impl Crowd {
    const SIZE: u32 = 1_000;

    /// Every other one will leave; of each half, four of five have paid if there is a token.
    fn gather(gate: &Gate, token: Option<&Token>) -> Self {
        let http = gate.http();
        let (mut leaving, mut staying) = (Vec::new(), Vec::new());
        for number in 0..Self::SIZE {
            let token = token.filter(|_| number % 10 > 1);
            let request = match token {
                Some(token) => http.post(FORECAST, "paid").token(token),
                None => from(&http, &address(number)),
            };
            let task = tokio::spawn(request.timeout(Duration::from_secs(60)).send());
            if number % 2 == 0 {
                leaving.push((token.is_some(), task));
            } else {
                staying.push((token.is_some(), task));
            }
        }
        Self { leaving, staying }
    }

    async fn is_held(gate: &Gate, range: std::ops::RangeInclusive<u64>) -> anyhow::Result<()> {
        eventually("requests are held", Duration::from_secs(30), || async {
            let active = gate.envoy.stat("http.ingress.downstream_rq_active").await?;
            ensure!(range.contains(&active), "{active} requests are under way");
            Ok(())
        })
        .await
    }

    fn leave(&mut self) {
        for (_, task) in self.leaving.drain(..) {
            task.abort();
        }
    }
}

/// With those who leave, or without.
async fn wait_for_keys(name: &str, some_leave: bool) -> anyhow::Result<()> {
    let _alone = unpaid::alone().await;
    let mut gate = crowded_gate(name)
        .plugin(|plugin| {
            unpaid::without_limits(plugin);
            merge(plugin, json!({ "bootstrapWait": "30s" }));
        })
        .sidecar(unpaid::sidecar_without_limits())
        .start()
        .await?;
    let token = gate.buy(FORECAST).await?;
    gate.sidecar.kill();
    gate.envoy.restart().await?;

    let mut crowd = Crowd::gather(&gate, Some(&token));
    let all = u64::from(Crowd::SIZE);
    Crowd::is_held(&gate, all..=all).await?;
    if some_leave {
        crowd.leave();
        Crowd::is_held(&gate, 1..=all / 2).await?;
    }
    assert_eq!(gate.upstream.count(), 0);
    gate.sidecar.start().await?;

    let (mut tally, mut served) = (Tally::default(), 0);
    for (has_paid, task) in crowd.leaving.into_iter().chain(crowd.staying) {
        let answer = task.await??;
        if has_paid {
            assert_eq!(answer.status, 200, "{}", answer.text());
            served += 1;
        } else {
            tally.add(&answer)?;
        }
    }
    let arrived = gate.upstream.count();
    assert_eq!(arrived, served, "of those who left, none arrives");
    assert!(!tally.invoices.is_empty(), "nothing was sold");
    none_arrived(&gate)?;
    no_reload(&gate).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_who_wait_for_the_first_keys_are_all_answered() -> anyhow::Result<()> {
    wait_for_keys("flood-keys", false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_who_wait_for_the_first_keys_half_may_leave() -> anyhow::Result<()> {
    wait_for_keys("flood-keys-leave", true).await
}

/// A call with trailers enters the VM once more while it is let go, and from there Envoy lets the
/// next one go: in one turn, some 1,500 of them would overflow the VM's stack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_with_trailers_who_wait_for_the_first_keys_are_all_served() -> anyhow::Result<()>
{
    let _alone = unpaid::alone().await;
    const CALLS: usize = 1_900;
    /// On one connection.
    const STREAMS: usize = 100;
    let mut gate = crowded_gate("flood-trailers")
        .plugin(|plugin| merge(plugin, json!({ "bootstrapWait": "30s" })))
        .start()
        .await?;
    let token = gate.buy(FORECAST).await?;
    gate.sidecar.kill();
    gate.envoy.restart().await?;

    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("x-checksum"),
        HeaderValue::from_static("1"),
    )]);
    let mut calls = Vec::new();
    for _ in 0..CALLS / STREAMS {
        let http = gate.h2();
        calls.extend((0..STREAMS).map(|_| {
            let call = http.post(FORECAST, "paid").token(&token);
            // Goes to the upstream by HTTP/2, with which trailers arrive.
            let call = call.header("content-type", "application/grpc");
            let call = call.trailers(trailers.clone());
            tokio::spawn(call.timeout(Duration::from_secs(60)).send())
        }));
    }
    let all = u64::try_from(CALLS)?;
    Crowd::is_held(&gate, all..=all).await?;
    assert_eq!(gate.upstream.count(), 0);
    gate.sidecar.start().await?;

    for call in calls {
        let answer = call.await??;
        assert_eq!(&*answer.body, b"paid", "{answer:?}");
    }
    let arrived = gate.upstream.requests();
    assert_eq!(arrived.len(), CALLS);
    assert!(arrived.iter().all(|call| call.trailers == trailers));
    no_reload(&gate).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_whose_time_is_up_at_once_are_all_answered() -> anyhow::Result<()> {
    let _alone = unpaid::alone().await;
    let gate = crowded_gate("flood-expired")
        .plugin(|plugin| {
            unpaid::without_limits(plugin);
            merge(plugin, json!({ "bootstrapWait": "8s" }));
        })
        .without_sidecar()
        .start()
        .await?;
    let crowd = Crowd::gather(&gate, None);
    let all = u64::from(Crowd::SIZE);
    Crowd::is_held(&gate, all..=all).await?;
    // Envoy finds them all due in one and the same tick.
    gate.envoy.process.freeze()?;
    let start = Instant::now();
    eventually("their time is up", Duration::from_secs(20), || async {
        ensure!(start.elapsed() > Duration::from_secs(8), "it is not");
        Ok(())
    })
    .await?;
    gate.envoy.process.thaw()?;
    for (_, task) in crowd.leaving.into_iter().chain(crowd.staying) {
        let answer = task.await??;
        fault(&answer)?;
        // From the gate, not from Envoy in place of a VM that has died.
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    none_arrived(&gate)?;
    no_reload(&gate).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_who_wait_for_a_slow_node_are_all_answered() -> anyhow::Result<()> {
    let _alone = unpaid::alone().await;
    let gate = crowded_gate("flood-slow")
        .plugin(unpaid::without_limits)
        .sidecar(unpaid::sidecar_without_limits())
        .sidecar(json!({ "lightning": { "dev": { "invoiceDelay": "1s" } } }))
        .start()
        .await?;
    let token = gate.buy(FORECAST).await?;

    let mut crowd = Crowd::gather(&gate, None);
    Crowd::is_held(&gate, 100..=u64::from(Crowd::SIZE)).await?;
    crowd.leave();
    // Paid traffic overtakes all of them.
    let served = gate.http().get(FORECAST).token(&token).send().await?;
    assert_eq!(served.status, 200);
    let mut tally = Tally::default();
    for (_, task) in crowd.staying {
        tally.add(&task.await??)?;
    }
    assert!(!tally.invoices.is_empty(), "nothing was sold");
    none_arrived(&gate)?;
    no_reload(&gate).await
}
