use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::*;
use crate::app::fixture::{ManualClock, OFFERS, app, ledger_path, wish, wish_of};
use crate::domain::ledger::OfferName;

#[tokio::test]
async fn a_request_that_runs_into_its_deadline_costs_nothing_of_the_limits() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::default()));
    let one_each = OffersConfig {
        per_client_per_minute: 1,
        burst: 1,
        ..OFFERS
    };
    let (app, _node) = app(&dir, &clock, one_each).await;
    let wish = wish_of("192.0.2.1/32", false);
    // Another writer keeps the ledger for itself, so the offer is not written in time.
    let other = rusqlite::Connection::open(ledger_path(&dir)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(app.issuer.offers(&wish).await, Err(IssueError::Timeout));
    other.execute_batch("ROLLBACK").unwrap();
    // The clock stands still, so nothing has flowed back into the buckets by itself.
    assert_eq!(app.issuer.offers(&wish).await.unwrap().offers.len(), 1);
    assert!(matches!(
        app.issuer.offers(&wish).await,
        Err(IssueError::LimitedClient(_))
    ));
}

#[tokio::test]
async fn who_pays_in_the_last_second_of_a_day_gets_a_token_that_lives() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::default()));
    let day = OffersConfig {
        invoice_expiry: Duration::from_secs(86_400),
        ..OFFERS
    };
    let (app, node) = app(&dir, &clock, day).await;
    let mut wish = wish();
    wish.template.lifetime_seconds = Some(1);
    let offer = app.issuer.offers(&wish).await.unwrap().offers.remove(0);
    clock.0.fetch_add(86_399, Ordering::SeqCst);
    let paid = node.pay(&offer.invoice, None).await.unwrap();
    let name = OfferName::PaymentHash(paid.payment_hash);
    let row = app.ledger.find_offer(name).await.unwrap().unwrap();
    let Validity::Until(end) = row.valid_until else {
        panic!("for ever");
    };
    assert!(end.0 > clock.now().0, "dead when it was paid");
}
