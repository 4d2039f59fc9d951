//! Requests that nobody has paid for, in every form at once, and what a gate may answer to them.

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::gate::Gate;
use crate::http_client::Answer;
use crate::impostor::token_under_claimed_key;

/// Header that every request of [`volley`] carries, so that the upstream would be found out.
pub const MARK: &str = "x-unpaid";

/// Each form as often as this, all at the same time.
const EACH: usize = 3;

/// A flood takes all that the machine has: of two at once each would be the other's. Held by every
/// test that floods, as long as it runs.
pub async fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    ONE_AT_A_TIME.lock().await
}

/// Limits so wide that they are not what refuses a [`volley`]: for the plugin's configuration.
pub fn without_limits(plugin: &mut Value) {
    let most = json!({ "challengesPerMinute": 1_000_000, "burst": 1_000_000 });
    if let Some(plugin) = plugin.as_object_mut() {
        plugin.insert("clientLimits".into(), most);
    }
}

/// The same for the sidecar's.
#[must_use]
pub fn sidecar_without_limits() -> Value {
    json!({ "offers": { "perSecond": 1_000_000, "burst": 1_000_000, "perClientPerMinute": 1_000_000 } })
}

/// `GET` and `POST` with a body, by HTTP/1.1 and HTTP/2, without a credential, with a forged one
/// and with one that is none, all at once.
///
/// # Errors
/// When one of them is not answered.
pub async fn volley(gate: &Gate, target: &str) -> anyhow::Result<Vec<Answer>> {
    let forged = token_under_claimed_key("weather")?.authorization();
    let credentials = [None, Some(&*forged), Some("L402 bm9uc2Vuc2U=:00")];
    let mut requests = Vec::new();
    for http in [gate.http(), gate.h2()] {
        for credential in credentials {
            for _ in 0..EACH {
                let body = vec![b'x'; 20_000];
                for request in [http.get(target), http.post(target, body)] {
                    let request = request.header(MARK, "1");
                    requests.push(match credential {
                        Some(credential) => request.header("authorization", credential).send(),
                        None => request.send(),
                    });
                }
            }
        }
    }
    try_join_all(requests).await
}

/// Whether this is how a fault of ours is told: 503, when to come again, and nothing to pay.
///
/// # Errors
/// What is wrong with it.
pub fn fault(answer: &Answer) -> anyhow::Result<()> {
    ensure!(answer.status == 503, "{} {}", answer.status, answer.text());
    come_again(answer)
}

/// Whether this is how a client is told that it asks too much.
///
/// # Errors
/// What is wrong with it.
pub fn limited(answer: &Answer) -> anyhow::Result<()> {
    ensure!(answer.status == 429, "{} {}", answer.status, answer.text());
    come_again(answer)
}

fn come_again(answer: &Answer) -> anyhow::Result<()> {
    let after: u64 = answer
        .header("retry-after")
        .parse()
        .with_context(|| format!("no Retry-After with {}", answer.status))?;
    ensure!(after > 0, "Retry-After: 0");
    let asks_for_money = answer.headers.contains_key("www-authenticate");
    ensure!(!asks_for_money, "a challenge with {}", answer.status);
    Ok(())
}

/// Whether this is a demand for payment that a careful buyer can pay. Gives the invoice.
///
/// # Errors
/// What is wrong with it.
pub fn challenge(answer: &Answer) -> anyhow::Result<String> {
    ensure!(answer.status == 402, "{} {}", answer.status, answer.text());
    let challenges = answer.challenges();
    ensure!(challenges.len() == 2, "{:?}", answer.headers);
    let last = challenges.last().context("no challenge")?;
    last.check()?;
    Ok(last.invoice.clone())
}

/// Whether nothing of [`volley`] has reached the upstream.
///
/// # Errors
/// What has.
pub fn none_arrived(gate: &Gate) -> anyhow::Result<()> {
    let arrived = gate.upstream.requests();
    let unpaid: Vec<_> = arrived
        .iter()
        .filter(|seen| seen.headers.contains_key(MARK))
        .collect();
    ensure!(unpaid.is_empty(), "unpaid at the upstream: {unpaid:?}");
    Ok(())
}

/// A [`volley`] that must end in faults of ours only, with nothing at the upstream.
///
/// # Errors
/// When it does not.
pub async fn only_faults(gate: &Gate, target: &str) -> anyhow::Result<()> {
    for answer in volley(gate, target).await? {
        fault(&answer)?;
    }
    none_arrived(gate)
}

/// A [`volley`] that may still sell what is in stock, with nothing at the upstream. Gives how many
/// were challenged.
///
/// # Errors
/// When it does not.
pub async fn faults_or_challenges(gate: &Gate, target: &str) -> anyhow::Result<usize> {
    let mut challenged = 0;
    for answer in volley(gate, target).await? {
        if answer.status == 402 {
            challenge(&answer)?;
            challenged += 1;
        } else {
            fault(&answer)?;
        }
    }
    none_arrived(gate)?;
    Ok(challenged)
}

/// A [`volley`] that must be challenged throughout, with nothing at the upstream.
///
/// # Errors
/// When it is not.
pub async fn only_challenges(gate: &Gate, target: &str) -> anyhow::Result<()> {
    for answer in volley(gate, target).await? {
        challenge(&answer)?;
    }
    none_arrived(gate)
}
