//! Claims: one winner, whatever happens at the same time.

use std::sync::Arc;
use std::time::Duration;

use protocol::amount::Sat;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use crate::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use crate::domain::ledger::LedgerError;
use crate::domain::ports::Ledger;

const HOUR: Duration = Duration::from_secs(3_600);
/// Every claim is young.
const YOUNG: ClaimTimes = ClaimTimes {
    young: HOUR,
    kept: HOUR,
};
/// No claim is.
const OLD: ClaimTimes = ClaimTimes {
    young: Duration::ZERO,
    ..YOUNG
};
/// Some far day.
const LATER: u64 = 100_000_000_000;

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    of_many_claims_of_one_payment_exactly_one_wins(Arc::new(make().await)).await;
    the_same_attempt_wins_again_and_another_loses(make().await).await;
    what_is_abandoned_goes_to_another_attempt(make().await).await;
    an_attempt_abandoned_before_its_claim_never_wins(make().await).await;
    claims_and_their_abandoning_may_cross(Arc::new(make().await)).await;
    claims_are_forgotten_after_their_challenge(make().await).await;
    abandoned_attempts_are_forgotten_after_a_while(make().await).await;
    nonsense_is_refused_by_the_store_too(make().await).await;
}

fn hash(n: u8) -> PaymentHash {
    PaymentHash([n; 32])
}

pub(super) fn claim(payment: u8, attempt: u8) -> NewClaim {
    NewClaim {
        payment_hash: hash(payment),
        attempt: AttemptId([attempt; 16]),
        challenge_id: "challenge".to_owned(),
        service: "weather".to_owned(),
        amount: Sat::new(10).unwrap(),
        expires: UnixSeconds(LATER),
    }
}

pub(super) fn attempt(payment: u8, attempt: u8) -> Vec<(PaymentHash, AttemptId)> {
    vec![(hash(payment), AttemptId([attempt; 16]))]
}

async fn of_many_claims_of_one_payment_exactly_one_wins<L: Ledger>(ledger: Arc<L>) {
    let mut tasks = tokio::task::JoinSet::new();
    for payment in 0..4 {
        for n in 0..64 {
            let ledger = Arc::clone(&ledger);
            tasks.spawn(async move {
                let claimed = ledger.claim(claim(payment, n), YOUNG).await.unwrap();
                (payment, n, claimed)
            });
        }
    }
    let mut winners = vec![Vec::new(); 4];
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            (payment, n, Claimed::Won) => winners[usize::from(payment)].push(n),
            (_, _, claimed) => assert_eq!(claimed, Claimed::Busy),
        }
    }
    for (payment, winners) in (0..).zip(winners) {
        assert_eq!(winners.len(), 1, "{winners:?}");
        for n in 0..64 {
            let expected = match n == winners[0] {
                true => Claimed::Won,
                false => Claimed::Lost,
            };
            assert_eq!(ledger.claim(claim(payment, n), OLD).await, Ok(expected));
        }
    }
}

async fn the_same_attempt_wins_again_and_another_loses<L: Ledger>(ledger: L) {
    for times in [YOUNG, OLD] {
        assert_eq!(ledger.claim(claim(1, 1), times).await, Ok(Claimed::Won));
    }
    assert_eq!(ledger.claim(claim(1, 2), YOUNG).await, Ok(Claimed::Busy));
    assert_eq!(ledger.claim(claim(1, 2), OLD).await, Ok(Claimed::Lost));
    assert_eq!(ledger.claim(claim(2, 2), OLD).await, Ok(Claimed::Won));
}

async fn what_is_abandoned_goes_to_another_attempt<L: Ledger>(ledger: L) {
    ledger.claim(claim(1, 1), OLD).await.unwrap();
    ledger.claim(claim(2, 1), OLD).await.unwrap();
    let stranger = [attempt(1, 7), attempt(3, 1)].concat();
    assert_eq!(ledger.abandon(stranger).await, Ok(0), "holds nothing");
    assert_eq!(ledger.claim(claim(1, 2), OLD).await, Ok(Claimed::Lost));
    assert_eq!(ledger.abandon(attempt(1, 1)).await, Ok(1));
    assert_eq!(ledger.abandon(attempt(1, 1)).await, Ok(0), "again");
    assert_eq!(ledger.claim(claim(1, 1), OLD).await, Ok(Claimed::Busy));
    assert_eq!(ledger.claim(claim(1, 2), OLD).await, Ok(Claimed::Won));
    assert_eq!(ledger.claim(claim(1, 1), OLD).await, Ok(Claimed::Lost));
    assert_eq!(ledger.abandon(attempt(1, 1)).await, Ok(0), "another has it");
    assert_eq!(ledger.claim(claim(1, 2), OLD).await, Ok(Claimed::Won));
    assert_eq!(ledger.claim(claim(2, 2), OLD).await, Ok(Claimed::Lost));
}

async fn an_attempt_abandoned_before_its_claim_never_wins<L: Ledger>(ledger: L) {
    assert_eq!(ledger.abandon(attempt(1, 1)).await, Ok(0));
    for times in [YOUNG, OLD] {
        assert_eq!(ledger.claim(claim(1, 1), times).await, Ok(Claimed::Busy));
    }
    assert_eq!(ledger.claim(claim(1, 2), OLD).await, Ok(Claimed::Won));
    assert_eq!(ledger.claim(claim(1, 1), OLD).await, Ok(Claimed::Lost));
}

/// In whatever order each pair comes, in the end nobody abandoned has anything.
async fn claims_and_their_abandoning_may_cross<L: Ledger>(ledger: Arc<L>) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let (one, other) = (Arc::clone(&ledger), Arc::clone(&ledger));
        tasks.spawn(async move { one.claim(claim(1, n), OLD).await.map(|_| ()) });
        tasks.spawn(async move { other.abandon(attempt(1, n)).await.map(|_| ()) });
    }
    while let Some(done) = tasks.join_next().await {
        assert_eq!(done.unwrap(), Ok(()));
    }
    assert_eq!(ledger.claim(claim(1, 100), OLD).await, Ok(Claimed::Won));
}

async fn claims_are_forgotten_after_their_challenge<L: Ledger>(ledger: L) {
    let at_once = ClaimTimes {
        kept: Duration::ZERO,
        ..OLD
    };
    let never = ClaimTimes {
        kept: Duration::from_secs(LATER),
        ..OLD
    };
    let expired = |payment| NewClaim {
        expires: UnixSeconds(1_000),
        ..claim(payment, 1)
    };
    for payment in 1..=5 {
        assert_eq!(
            ledger.claim(expired(payment), never).await,
            Ok(Claimed::Won)
        );
    }
    ledger.claim(claim(6, 1), never).await.unwrap();
    assert_eq!(ledger.drop_old_claims(never, 10).await, Ok(0));
    assert_eq!(ledger.drop_old_claims(at_once, 3).await, Ok(3));
    assert_eq!(ledger.drop_old_claims(at_once, 3).await, Ok(2));
    assert_eq!(ledger.drop_old_claims(at_once, 3).await, Ok(0));
    assert_eq!(ledger.claim(claim(6, 2), OLD).await, Ok(Claimed::Lost));
    // What may have been forgotten cannot be won once more.
    assert_eq!(ledger.claim(expired(1), at_once).await, Ok(Claimed::Lost));
    assert_eq!(ledger.claim(expired(1), OLD).await, Ok(Claimed::Lost));
}

async fn abandoned_attempts_are_forgotten_after_a_while<L: Ledger>(ledger: L) {
    let attempts = (1..=5).flat_map(|n| attempt(n, 1)).collect();
    ledger.abandon(attempts).await.unwrap();
    assert_eq!(ledger.drop_old_claims(YOUNG, 10).await, Ok(0));
    let at_once = ClaimTimes {
        kept: Duration::ZERO,
        ..YOUNG
    };
    assert_eq!(ledger.drop_old_claims(at_once, 3).await, Ok(3));
    assert_eq!(ledger.drop_old_claims(at_once, 3).await, Ok(2));
}

async fn nonsense_is_refused_by_the_store_too<L: Ledger>(ledger: L) {
    let good = claim(1, 1);
    for broken in [
        NewClaim {
            amount: Sat::ZERO,
            ..good.clone()
        },
        NewClaim {
            challenge_id: String::new(),
            ..good.clone()
        },
        NewClaim {
            service: String::new(),
            ..good.clone()
        },
    ] {
        let refused = ledger.claim(broken, OLD).await;
        assert!(matches!(refused, Err(LedgerError::Store(_))), "{refused:?}");
    }
    assert_eq!(ledger.claim(good, OLD).await, Ok(Claimed::Won));
}
