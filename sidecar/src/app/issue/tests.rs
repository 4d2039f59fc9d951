use std::sync::atomic::Ordering;

use tempfile::TempDir;

use super::*;
use crate::app::fixture::{ManualClock, OFFERS, app, charge_wish, ledger_path, wish, wish_of};
use crate::domain::ledger::OfferName;
use crate::domain::offer::Validity;

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

#[tokio::test]
async fn charges_and_tokens_share_limits_but_no_invoice() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::default()));
    let four = OffersConfig { burst: 4, ..OFFERS };
    let (app, node) = app(&dir, &clock, four).await;
    let mut hashes = std::collections::HashSet::new();
    for _ in 0..2 {
        let token = app.issuer.offers(&wish()).await.unwrap().offers.remove(0);
        let charge = app.issuer.charges(&charge_wish()).await.unwrap();
        let charge = charge.offers.first().unwrap().clone();
        assert!(hashes.insert(token.payment_hash));
        assert!(hashes.insert(charge.payment_hash.to_string()));
        assert_eq!(charge.expires, clock.now().0 + 600);
        assert_eq!(charge.show_until, clock.now().0 + 480);
        let paid = node.pay(&charge.invoice, None).await.unwrap();
        assert_eq!(paid.amount, charge_wish().amount.to_msat());
    }
    assert!(matches!(
        app.issuer.charges(&charge_wish()).await,
        Err(IssueError::LimitedOverall(_))
    ));
    assert_eq!(
        app.ledger.outstanding(None).await,
        Ok(4),
        "all written before they left"
    );
}

#[tokio::test]
async fn an_invoice_for_something_else_is_no_charge() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::default()));
    let (app, _node) = app(&dir, &clock, OFFERS).await;
    let request = crate::domain::invoice::InvoiceRequest {
        amount: charge_wish().amount.to_msat(),
        description: "weather".to_owned(),
        expiry_seconds: 600,
    };
    let invoice = app.node.add_invoice(request.clone()).await.unwrap();
    let other = app.node.add_invoice(request).await.unwrap();
    let wish = charge_wish();
    let product = Ask::<Charge>::of(&wish);
    assert!(product.accepts(&invoice));
    let mut dearer = charge_wish();
    dearer.amount = protocol::amount::Sat::new(dearer.amount.get() + 1).unwrap();
    assert!(!Ask::<Charge>::of(&dearer).accepts(&invoice));
    for bolt11 in [other.bolt11, "lnbcrt1".to_owned()] {
        let swapped = Invoice {
            bolt11,
            ..invoice.clone()
        };
        assert!(!product.accepts(&swapped));
        let issued = app.issuer.hand_out(&product, &[swapped]).await;
        assert_eq!(issued, Err(IssueError::WrongInvoice));
    }
    assert_eq!(app.ledger.outstanding(None).await, Ok(0));
}

#[tokio::test]
async fn a_deposit_has_an_invoice_of_its_own_that_says_so() {
    let (dir, clock) = (TempDir::new().unwrap(), Arc::new(ManualClock::default()));
    let (app, _node) = app(&dir, &clock, OFFERS).await;
    let charges = app.issuer.charges(&charge_wish()).await.unwrap();
    let deposits = app.issuer.deposits(&charge_wish()).await.unwrap();
    let (charge, deposit) = (&charges.offers[0], &deposits.offers[0]);
    assert_ne!(charge.payment_hash, deposit.payment_hash);
    let text = |invoice: &str| {
        let invoice: lightning_invoice::Bolt11Invoice = invoice.parse().unwrap();
        assert_eq!(invoice.amount_milli_satoshis(), Some(1_000));
        invoice.description().to_string()
    };
    assert_eq!(text(&charge.invoice), "weather");
    assert_eq!(
        text(&deposit.invoice),
        "Deposit for weather; the rest is refunded"
    );
    assert_eq!(app.ledger.outstanding(None).await, Ok(2));
}
