//! A sidecar on a machine whose clock is wrong.

use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::*;
use crate::app::clocks::Clocks;
use crate::app::fixture::{ManualClock, OFFERS, app_on, wish};
use crate::app::sweep::Sweeper;
use crate::domain::keys::Generation;
use crate::domain::ports::{Clock, Lightning as _};
use crate::metrics::Metrics;

const HOUR: u64 = 3_600;

/// Seconds ahead of the database.
struct Ahead(i64, AtomicU64);

impl Clock for Ahead {
    fn unix_millis(&self) -> u64 {
        let now = crate::adapters::system::unix_millis();
        now.saturating_add_signed(self.0 * 1_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.1.load(Ordering::SeqCst))
    }
}

#[tokio::test]
async fn clocks_that_differ_by_more_than_a_minute_do_not_agree() {
    let ledger = Arc::new(open(&database().await).await);
    for (ahead, agrees) in [
        (0, true),
        (40, true),
        (-40, true),
        (7_200, false),
        (-7_200, false),
    ] {
        let metrics = Arc::new(Metrics::new());
        let clock = Arc::new(Ahead(ahead, AtomicU64::default()));
        let clocks = Clocks::new(Arc::clone(&ledger), clock, Arc::clone(&metrics));
        let now = clocks.now().await.unwrap();
        assert_eq!(now.is_some(), agrees, "{ahead}");
        let shown = metrics.clock_ahead.get();
        assert!((shown - ahead).abs() <= 2, "{shown} for {ahead}");
        if let Some(now) = now {
            let real = crate::adapters::system::unix_millis() / 1_000;
            let by_the_later = now.0.abs_diff(real.saturating_add_signed(ahead.min(0)));
            assert!(by_the_later <= 2, "{ahead}: {now:?}");
        }
    }
}

/// One that is ahead by months, to which everything has expired.
#[tokio::test]
async fn a_sidecar_whose_clock_is_wrong_deletes_and_cancels_nothing() {
    let ledger = open(&database().await).await;
    let dir = TempDir::new().unwrap();
    let real = crate::adapters::system::unix_millis() / 1_000;
    let clock = Arc::new(ManualClock::default());
    // What is offered is valid by every clock.
    let (app, node) = app_on(ledger, &dir, &clock, OFFERS).await;
    let offer = app.issuer.offers(&wish()).await.unwrap().offers.remove(0);
    let ahead = clock.now().0.abs_diff(real) + 1_000 * HOUR;
    clock.0.fetch_add(ahead, Ordering::SeqCst);
    Sweeper::new(&app).sweep().await.unwrap();
    assert_eq!(app.ledger.outstanding(None).await, Ok(1));
    let state = node.lookup(offer.payment_hash.parse().unwrap()).await;
    assert_eq!(state, Ok(crate::domain::invoice::InvoiceState::Open));
}

/// The database looks at its own clock too.
#[tokio::test]
async fn what_has_not_expired_by_the_databases_clock_stays() {
    let ledger = open(&database().await).await;
    let now_ms = ledger.now_millis().await.unwrap().unwrap();
    let (now, wrong_ms) = (now_ms / 1_000, now_ms + 24 * HOUR * 1_000);
    let valid = OfferRow {
        created: UnixSeconds(now),
        expires: UnixSeconds(now + 600),
        valid_until: Validity::Until(UnixSeconds(now + HOUR)),
        ..offer(1)
    };
    ledger.install_first_key(key(1), now_ms).await.unwrap();
    let paid = OfferRow {
        payment_hash: PaymentHash([2; 32]),
        token_id: TokenId::new(0, [2; 31]),
        ..valid.clone()
    };
    ledger
        .record_offers(batch(vec![valid, paid]))
        .await
        .unwrap();
    let settlement = Settlement {
        payment_hash: PaymentHash([2; 32]),
        amount: Msat::new(1).unwrap(),
        settled_at: UnixSeconds(now),
        settle_index: 1,
    };
    let sold = ledger
        .record_settlements(NodeId([2; 33]), vec![settlement])
        .await;
    assert_eq!(sold.unwrap().len(), 1);
    ledger.begin_rotation(key(2), now_ms).await.unwrap();
    ledger.promote(1, now_ms, Duration::ZERO).await.unwrap();
    let revocation = NewRevocation {
        identifier_hash: [1; 32],
        expires: Validity::Until(UnixSeconds(now + HOUR)),
        at: UnixSeconds(now),
    };
    ledger.revoke(revocation, now_ms).await.unwrap();

    assert_eq!(ledger.prune_expired(wrong_ms).await, Ok(0));
    let kept: Vec<Generation> = ledger.snapshot().await.unwrap().generations;
    assert_eq!(kept.len(), 2);
    let wrong = UnixSeconds(wrong_ms / 1_000);
    assert_eq!(ledger.drop_expired_tokens(wrong, 10).await, Ok(0));
}
