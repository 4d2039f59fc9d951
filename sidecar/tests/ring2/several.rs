//! Several sidecars on one PostgreSQL database.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::StatusCode;
use protocol::amount::Sat;
use protocol::api::charge::{CLAIM_PATH, Claim, ClaimRequest, ClaimsAnswer};
use protocol::api::session::CLOSE_PATH;
use protocol::hash::PaymentHash;
use protocol::lease::Report;
use sidecar::adapters::system::unix_millis;
use sidecar::domain::ports::{Ledger as _, RefundLedger as _};
use sidecar::domain::refund::RefundState;
use tempfile::TempDir;

use crate::process::{Program, write_config_on};
use crate::session_client::{self, DEPOSIT};
use crate::support::{Answer, Api, Store, claims, eventually, pay};

/// Of payment number `payment`, by attempt number `attempt`.
pub(crate) fn claim_of(payment: u32, attempt: u32) -> ClaimRequest {
    let mut hash = [7; 32];
    hash[..4].copy_from_slice(&payment.to_be_bytes());
    ClaimRequest {
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
    let body = serde_json::to_vec(&claims(std::slice::from_ref(request))).unwrap();
    api.send(api.request("POST", CLAIM_PATH, body)).await
}

fn read(answer: &Answer) -> Claim {
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let answer: ClaimsAnswer = serde_json::from_slice(&answer.body).unwrap();
    let [claim] = answer.claims[..] else {
        panic!("{answer:?}")
    };
    claim
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
        let decided = tasks.join_all().await;
        let won = decided.iter().filter(|claim| **claim == Claim::Won);
        assert_eq!(won.count(), 1, "{decided:?}");
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
        pay(one.dev, &offer.invoice).await.unwrap();
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

/// A closed session whose refund one of two sidecars begins to pay and dies over, `step` of it.
async fn taken_over(step: &str) {
    let store = Store::postgres().await;
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    for dir in &dirs {
        write_config_on(&store, dir.path());
    }
    // Both have the same node.
    let network = |dir: &TempDir| format!("{}/ledger.db-dev.db", dir.path().display());
    let config = dirs[1].path().join("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(&network(&dirs[1]), &network(&dirs[0]));
    std::fs::write(&config, text).unwrap();
    let one = Program::start(dirs[0].path()).await;
    let other = Program::start(dirs[1].path()).await;
    let mut programs = [one, other];

    let (api, door) = (programs[0].api, programs[0].dev);
    let offer = session_client::offer(api).await;
    pay(door, &offer.invoice).await.unwrap();
    let url = |path: &str| format!("http://{door}{path}");
    let made = sidecar::http::client::request(&url("/invoices"), Some("{}".to_owned())).await;
    let made: serde_json::Value = serde_json::from_str(&made.unwrap().body).unwrap();
    let mut open = session_client::open_of(&offer, 1);
    open.return_invoice = made["invoice"].as_str().unwrap().to_owned();
    session_client::opened(api, &open).await;
    let id = offer.payment_hash;
    let mut closing = session_client::Buyer { offer, id }.close(9);
    closing.lease = Some(Report {
        used: 2,
        release: true,
        ..session_client::report(id, 1)
    });

    let stops = dirs.each_ref().map(|dir| dir.path().join("stop"));
    for stop in &stops {
        std::fs::write(stop, step).unwrap();
    }
    let body = serde_json::to_vec(&closing).unwrap();
    let request = api.request("POST", CLOSE_PATH, body);
    // It may be the one that dies.
    tokio::spawn(async move { api.try_send(request).await });
    eventually("one of them has died", async || {
        let died = programs.iter_mut().any(Program::has_stopped);
        died.then_some(())
    })
    .await;
    let begun = std::time::Instant::now();
    for stop in &stops {
        std::fs::remove_file(stop).unwrap();
    }
    let ledger = store.open(dirs[0].path()).await;
    let refund = eventually("the other one has paid", async || {
        let refund = ledger.find_refund(id).await.unwrap().unwrap();
        (refund.refund.state == RefundState::Succeeded).then_some(refund)
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(refund.payout.unwrap().sent.get(), DEPOSIT - 2);
    let alive = programs
        .iter_mut()
        .filter_map(|program| (!program.has_stopped()).then_some(program.dev));
    let alive: Vec<_> = alive.collect();
    assert_eq!(alive.len(), 1);
    let url = format!("http://{}/stats", alive[0]);
    let stats = sidecar::http::client::request(&url, None).await.unwrap();
    let stats: serde_json::Value = serde_json::from_str(&stats.body).unwrap();
    let sent = [&stats["sent"], &stats["sent_msat"]].map(|sent| sent.as_u64().unwrap());
    assert_eq!(sent, [1, (DEPOSIT - 2) * 1_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_was_written_and_not_sent_is_taken_over_within_10_seconds() {
    taken_over("begin_sending.committed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_that_was_paid_and_not_written_is_taken_over_within_10_seconds() {
    taken_over("pay.answered").await;
}
