use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::*;
use crate::adapters::lightning::dev::PayError;
use crate::adapters::system::SystemRandom;
use crate::app::fixture::{ManualClock, OFFERS, app, wish};
use crate::app::keys::MasterKeys;
use crate::domain::ports::Clock as _;

#[tokio::test]
async fn an_expired_unpaid_offer_is_cancelled_at_the_node_and_forgotten_and_a_paid_one_kept() {
    let dir = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::default());
    let (app, node) = app(&dir, &clock, OFFERS).await;
    let sweeper = Sweeper::new(&app);
    let unpaid = app.issuer.offers(&wish()).await.unwrap().offers.remove(0);
    let paid = app.issuer.offers(&wish()).await.unwrap().offers.remove(0);
    node.pay(&paid.invoice, None).await.unwrap();
    sweeper.sweep().await.unwrap();
    assert_eq!(
        app.ledger.outstanding(None).await,
        Ok(2),
        "nothing has expired"
    );

    clock
        .0
        .fetch_add(600 + LATE_PAYMENT_SECONDS + 1, Ordering::SeqCst);
    sweeper.sweep().await.unwrap();
    assert_eq!(app.ledger.outstanding(None).await, Ok(0));
    let sales = app.ledger.sales(UnixSeconds(0), 10).await.unwrap();
    assert_eq!(sales.len(), 1, "a payment that nobody told us of was found");
    assert_eq!(sales[0].payment_hash.to_string(), paid.payment_hash);
    let refused = node.pay(&unpaid.invoice, None).await.unwrap_err();
    assert!(matches!(refused, PayError::Expired(_)));
    let state = app
        .node
        .lookup(unpaid.payment_hash.parse().unwrap())
        .await
        .unwrap();
    assert_eq!(state, crate::domain::invoice::InvoiceState::Cancelled);

    // The paid one stays for as long as its token lives, so that it can be revoked by its hash.
    let name = crate::domain::ledger::OfferName::PaymentHash(sales[0].payment_hash);
    assert!(app.ledger.find_offer(name).await.unwrap().is_some());
    clock.0.fetch_add(3_600, Ordering::SeqCst);
    sweeper.sweep().await.unwrap();
    assert!(app.ledger.find_offer(name).await.unwrap().is_none());
    assert_eq!(app.ledger.sales(UnixSeconds(0), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_offered_under_a_revoked_key_cannot_be_paid_any_more() {
    let dir = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::default());
    let (app, node) = app(&dir, &clock, OFFERS).await;
    let offer = app.issuer.offers(&wish()).await.unwrap().offers.remove(0);
    let key = MasterKeys::new(Vec::new(), None).next_key(&[], &SystemRandom);
    let now = clock.unix_millis();
    let key = key.unwrap().unwrap();
    app.ledger.begin_rotation(key, now).await.unwrap();
    app.ledger.promote(1, now, Duration::ZERO).await.unwrap();
    app.ledger.revoke_generation(0, now).await.unwrap();
    clock
        .0
        .fetch_add(LATE_PAYMENT_SECONDS + 1, Ordering::SeqCst);
    Sweeper::new(&app).sweep().await.unwrap();
    let refused = node.pay(&offer.invoice, None).await.unwrap_err();
    assert!(matches!(refused, PayError::Cancelled), "{refused}");
}

#[tokio::test]
async fn claims_leave_the_ledger_an_hour_after_their_challenge() {
    let dir = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::default());
    let (app, _node) = app(&dir, &clock, OFFERS).await;
    let now = crate::adapters::system::unix_millis() / 1_000;
    let claim = |n: u8, expires| crate::domain::claim::NewClaim {
        payment_hash: PaymentHash([n; 32]),
        attempt: crate::domain::claim::AttemptId([n; 16]),
        challenge_id: "id".to_owned(),
        service: "weather".to_owned(),
        amount: protocol::amount::Sat::new(1).unwrap(),
        expires: UnixSeconds(expires),
    };
    let long = ClaimTimes {
        kept: Duration::from_secs(100_000),
        ..ClaimTimes::default()
    };
    // The ledger's own clock counts, not the one that stands still here.
    for (n, expires) in [(1, now - 3_700), (2, now - 3_500), (3, now + 600)] {
        app.ledger.claim(claim(n, expires), long).await.unwrap();
    }
    Sweeper::new(&app).sweep().await.unwrap();
    let left = rusqlite::Connection::open(crate::app::fixture::ledger_path(&dir)).unwrap();
    let left: i64 = left
        .query_row("SELECT count(*) FROM claims", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 2);
}
