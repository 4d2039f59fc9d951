//! Several sidecars on one PostgreSQL database.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::StatusCode;
use protocol::amount::Sat;
use protocol::api::charge::{CLAIM_PATH, Claim, ClaimAnswer, ClaimRequest};
use protocol::hash::PaymentHash;
use sidecar::adapters::system::unix_millis;
use sidecar::domain::ports::Ledger as _;
use tempfile::TempDir;

use crate::process::{Program, write_config_on};
use crate::support::{Answer, Api, Store, VM, eventually};

/// Of payment number `payment`, by attempt number `attempt`.
pub(crate) fn claim_of(payment: u32, attempt: u32) -> ClaimRequest {
    let mut hash = [7; 32];
    hash[..4].copy_from_slice(&payment.to_be_bytes());
    ClaimRequest {
        vm: VM.to_owned(),
        attempt: format!("{attempt:032x}"),
        payment_hash: PaymentHash(hash),
        challenge_id: "7LCHF9ff5XBms3Src3hlyNwshUVNwr4sGcurbKhCdWQ".to_owned(),
        service: "weather".to_owned(),
        amount: Sat::new(10).unwrap(),
        expires: unix_millis() / 1_000 + 600,
        settled: false,
    }
}

async fn two(store: &Store) -> [(TempDir, Program); 2] {
    let [one, other] = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    for dir in [&one, &other] {
        write_config_on(store, dir.path());
    }
    let start = |dir: &Path| {
        let dir = dir.to_owned();
        async move { Program::start(&dir).await }
    };
    // At once: both find an empty database.
    let (first, second) = tokio::join!(start(one.path()), start(other.path()));
    [(one, first), (other, second)]
}

async fn post(api: Api, request: &ClaimRequest) -> Answer {
    let body = serde_json::to_vec(request).unwrap();
    api.send(api.request("POST", CLAIM_PATH, body)).await
}

fn read(answer: &Answer) -> Claim {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let answer: ClaimAnswer = serde_json::from_slice(&answer.body).unwrap();
    answer.claim
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_presentations_at_two_sidecars_one_wins_and_both_have_the_same_keys() {
    let store = Store::postgres().await;
    let sidecars = two(&store).await;
    let apis = sidecars.each_ref().map(|(_, program)| program.api);
    for payment in 0..5 {
        let mut tasks = tokio::task::JoinSet::new();
        for attempt in 0..64 {
            let api = apis[attempt as usize % 2];
            tasks.spawn(async move { read(&post(api, &claim_of(payment, attempt)).await) });
        }
        let claims = tasks.join_all().await;
        let won = claims.iter().filter(|claim| **claim == Claim::Won);
        assert_eq!(won.count(), 1, "{claims:?}");
    }
    let [one, other] = apis.map(|api| async move { api.bootstrap(None).await.unwrap() });
    let (one, other) = (one.await, other.await);
    assert_eq!(one.keys, other.keys);
    assert_eq!(one.version, other.version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_killed_under_load_loses_nothing_and_sells_nothing_twice() {
    const PAYMENTS: u32 = 2_000;
    let store = Store::postgres().await;
    let [(dir, killed), (_other_dir, other)] = two(&store).await;
    let apis = [killed.api, other.api];
    let won: Arc<Mutex<HashMap<u32, Vec<u32>>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..16u32 {
        let won = Arc::clone(&won);
        tasks.spawn(async move {
            for payment in 0..PAYMENTS {
                // Each payment is presented by several workers, half of them at each sidecar.
                if (payment + worker) % 4 == 0 {
                    let api = apis[worker as usize % 2];
                    let request = claim_of(payment, worker);
                    // The one that is killed answers nothing any more.
                    let answer = tokio::spawn(async move { post(api, &request).await });
                    let Ok(answer) = answer.await else { continue };
                    if answer.status == StatusCode::OK && read(&answer) == Claim::Won {
                        won.lock().unwrap().entry(payment).or_default().push(worker);
                    }
                }
            }
        });
    }
    eventually("half way", async || {
        (won.lock().unwrap().len() > PAYMENTS as usize / 2).then_some(())
    })
    .await;
    killed.kill();
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let before: HashMap<u32, Vec<u32>> = won.lock().unwrap().clone();
    assert!(
        before.values().all(|winners| winners.len() == 1),
        "sold twice"
    );

    let again = Program::start(dir.path()).await;
    for (payment, winners) in &before {
        // Whoever won has it still, at every sidecar, and nobody else gets it.
        let winner = claim_of(*payment, winners[0]);
        for api in [again.api, other.api] {
            assert_eq!(read(&post(api, &winner).await), Claim::Won, "{payment}");
        }
        let stranger = read(&post(other.api, &claim_of(*payment, 999)).await);
        assert_ne!(stranger, Claim::Won, "{payment}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sales_that_two_sidecars_could_record_are_recorded_once() {
    let store = Store::postgres().await;
    let [(dir, one), (_other_dir, _other)] = two(&store).await;
    let offers = one.api.collect(4).await;
    for offer in &offers {
        crate::support::pay(one.dev, &offer.invoice).await.unwrap();
    }
    let ledger = store.open(dir.path()).await;
    let since = protocol::time::UnixSeconds(0);
    eventually("the sales", async || {
        let sales = ledger.sales(since, 100).await.unwrap();
        (sales.len() == offers.len()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_of_a_sidecar_that_was_killed_is_taken_over_within_10_seconds() {
    use sidecar::domain::ledger::Duty;
    use sidecar::domain::payout::WorkerId;
    let store = Store::postgres().await;
    let [(dir, one), (_other_dir, other)] = two(&store).await;
    let ledger = store.open(dir.path()).await;
    let mine = || ledger.take_duty(Duty::Sweep, WorkerId([9; 16]), Duration::from_secs(60));
    eventually("somebody sweeps", async || {
        (!mine().await.unwrap()).then_some(())
    })
    .await;
    one.kill();
    other.kill();
    let begun = std::time::Instant::now();
    eventually("nobody does", async || mine().await.unwrap().then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(10));
}
