//! Several sidecars on one database.

use super::*;
use crate::domain::keys::FilterHeard;

#[tokio::test]
async fn sidecars_that_migrate_at_once_make_one_ledger() {
    let url = database().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let url = url.to_string();
        tasks.spawn(async move {
            let ledger = open(&url).await;
            ledger.snapshot().await.unwrap().epoch
        });
    }
    let epochs = tasks.join_all().await;
    assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
}

#[tokio::test]
async fn a_schema_of_another_version_is_refused() {
    let url = database().await;
    let refused = PostgresLedger::open(&config(&url), Migration::Never).await;
    assert!(matches!(refused, Err(LedgerError::TooOld { found: 0, .. })));
    open(&url).await;
    let opened = PostgresLedger::open(&config(&url), Migration::Never).await;
    assert!(opened.is_ok(), "{opened:?}");
    execute(&url, "UPDATE boltgate_schema SET version = 99").await;
    for migration in [Migration::Never, Migration::ToLatest] {
        let refused = PostgresLedger::open(&config(&url), migration).await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused, LedgerError::TooNew { found: 99, .. }));
        assert!(
            refused.to_string().contains("schema version 99"),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_database_of_something_else_is_left_alone() {
    let url = database().await;
    execute(&url, "CREATE TABLE offers (x int)").await;
    let refused = PostgresLedger::open(&config(&url), Migration::ToLatest).await;
    assert!(
        matches!(refused, Err(LedgerError::Foreign(_))),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_claims_of_one_payment_at_two_sidecars_one_wins() {
    let url = database().await;
    let ledgers = [open(&url).await, open(&url).await].map(Arc::new);
    for payment in 0..20 {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..64 {
            let ledger = Arc::clone(&ledgers[usize::from(n % 2)]);
            tasks.spawn(async move { ledger.claim(claim(payment, n), YOUNG).await });
        }
        let claimed = tasks.join_all().await;
        let won = claimed.iter().filter(|c| **c == Ok(Claimed::Won)).count();
        let busy = claimed.iter().filter(|c| **c == Ok(Claimed::Busy)).count();
        assert_eq!((won, busy), (1, 63), "{claimed:?}");
    }
}

/// The crossing that a store with snapshots is prone to: a claim at one sidecar beside the
/// abandoning of the same attempt at another.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_and_its_abandoning_at_another_sidecar_may_cross() {
    let url = database().await;
    let ledgers = [open(&url).await, open(&url).await].map(Arc::new);
    for round in 0..40 {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..8 {
            let [one, other] = ledgers.clone();
            let claim = claim(round * 8 + n, 1);
            let attempt = vec![(claim.payment_hash, claim.attempt)];
            tasks.spawn(async move { one.claim(claim, YOUNG).await.map(|_| ()) });
            tasks.spawn(async move { other.abandon(attempt).await.map(|_| ()) });
        }
        for done in tasks.join_all().await {
            assert_eq!(done, Ok(()));
        }
        for n in 0..8 {
            let free = ledgers[0].claim(claim(round * 8 + n, 2), YOUNG).await;
            assert_eq!(free, Ok(Claimed::Won), "an abandoned attempt holds it");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_is_not_issued_with_after_it_was_replaced_elsewhere() {
    let url = database().await;
    let [one, other] = [open(&url).await, open(&url).await].map(Arc::new);
    one.install_first_key(key(1), 1).await.unwrap();
    for generation in 0..20u8 {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..8u8 {
            let one = Arc::clone(&one);
            let mut offer = offer(n);
            offer.payment_hash.0[1] = generation;
            offer.token_id.0[..2].copy_from_slice(&[generation, n]);
            tasks.spawn(async move {
                let offers = vec![offer];
                one.record_offers(OfferBatch { generation, offers }).await
            });
        }
        let next = generation + 1;
        other.begin_rotation(key(next + 1), 1).await.unwrap();
        assert_eq!(other.promote(next, 1, Duration::ZERO).await, Ok(true));
        let mut issued = false;
        let all = tasks.join_all().await;
        for done in &all {
            assert!(
                matches!(done, Ok(()) | Err(LedgerError::NotCurrent(_))),
                "{done:?}"
            );
            issued |= done.is_ok();
        }
        let generations = other.snapshot().await.unwrap().generations;
        let replaced = generations.iter().find(|g| g.id == generation).unwrap();
        let noted = replaced.issued == Some(Validity::Forever);
        assert_eq!(noted, issued, "what was issued is noted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_that_two_sidecars_hear_are_one_sale_each() {
    let url = database().await;
    let ledgers = [open(&url).await, open(&url).await].map(Arc::new);
    ledgers[0].install_first_key(key(1), 1).await.unwrap();
    let offers = (1..=100).map(offer).collect();
    ledgers[0].record_offers(batch(offers)).await.unwrap();
    let node = NodeId([2; 33]);
    let mut tasks = tokio::task::JoinSet::new();
    for (n, ledger) in ledgers.iter().cycle().take(8).enumerate() {
        let ledger = Arc::clone(ledger);
        tasks.spawn(async move {
            let mut hashes: Vec<u8> = (1..=100).collect();
            if n % 3 == 0 {
                hashes.reverse();
            }
            let mut sold = 0;
            for some in hashes.chunks(7) {
                let settlements = some.iter().map(|hash| Settlement {
                    payment_hash: PaymentHash([*hash; 32]),
                    amount: Msat::new(1).unwrap(),
                    settled_at: UnixSeconds(200),
                    settle_index: u64::from(*hash),
                });
                let sales = ledger.record_settlements(node, settlements.collect()).await;
                sold += sales.unwrap().len();
            }
            sold
        });
    }
    assert_eq!(tasks.join_all().await.iter().sum::<usize>(), 100);
    let kept = ledgers[1].sales(UnixSeconds(0), 1_000).await.unwrap();
    assert_eq!(kept.len(), 100);
    assert_eq!(ledgers[1].settle_index(node).await, Ok(100));
}

#[tokio::test]
async fn sidecars_know_of_each_others_filters() {
    let url = database().await;
    let (one, other) = (open(&url).await, open(&url).await);
    let heard = |vm: &str, known: u64, silent| FilterHeard {
        vm: vm.repeat(32),
        known: Some(Version(known)),
        silent: Duration::from_secs(silent),
    };
    let window = Duration::from_secs(30);
    let told = async |ledger: &PostgresLedger, heard| {
        let mut all = ledger.share_filters(heard, window).await.unwrap().unwrap();
        all.sort_by(|a, b| a.vm.cmp(&b.vm));
        all
    };
    let all = told(&one, vec![heard("a", 5, 2), heard("b", 4, 31)]).await;
    assert_eq!(all.len(), 1, "one was silent for too long: {all:?}");
    let all = told(&other, vec![heard("c", 4, 0), heard("a", 3, 9)]).await;
    let [a, c] = &all[..] else {
        panic!("{all:?}");
    };
    assert_eq!((&a.vm, a.known), (&"a".repeat(32), Some(Version(5))));
    assert!(
        (2..9).contains(&a.silent.as_secs()),
        "not what is older: {a:?}"
    );
    assert_eq!(c.known, Some(Version(4)));
    assert_eq!(told(&one, Vec::new()).await.len(), 2);
}

#[tokio::test]
async fn a_duty_is_for_one_and_is_taken_over_when_it_is_not_renewed() {
    let url = database().await;
    let (one, other) = (open(&url).await, open(&url).await);
    let (me, you) = (WorkerId([1; 16]), WorkerId([2; 16]));
    let long = Duration::from_secs(3_600);
    assert_eq!(one.take_duty(Duty::Sweep, me, long).await, Ok(true));
    assert_eq!(other.take_duty(Duty::Sweep, you, long).await, Ok(false));
    assert_eq!(one.take_duty(Duty::Sweep, me, long).await, Ok(true));
    // Its last time is short, and then it is gone.
    let short = Duration::from_millis(1);
    assert_eq!(one.take_duty(Duty::Sweep, me, short).await, Ok(true));
    let deadline = Instant::now() + Duration::from_secs(10);
    while other.take_duty(Duty::Sweep, you, long).await != Ok(true) {
        assert!(Instant::now() < deadline, "never taken over");
    }
    assert_eq!(one.take_duty(Duty::Sweep, me, long).await, Ok(false));
}
