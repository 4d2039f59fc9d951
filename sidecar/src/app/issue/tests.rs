use tempfile::TempDir;

use super::*;
use crate::app::fixture::{ManualClock, OFFERS, app, ledger_path, wish_of};

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
