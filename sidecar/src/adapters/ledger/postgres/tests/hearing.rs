//! What nobody could hear, and clocks that were set.

use super::*;
use crate::domain::lease::Times;

const SILENT: &str = "UPDATE lease_holders SET seen_ms = 1; UPDATE sessions SET active_ms = 1;
                      UPDATE hearing SET serving_since_ms = 1;";

async fn number(ledger: &PostgresLedger, query: &str) -> i64 {
    let client = ledger.pool.get().await.unwrap();
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// No sidecar was there for longer than leases and sessions live: nobody could hear them.
#[tokio::test]
async fn what_nobody_could_hear_is_not_ended() {
    let url = database().await;
    let ledger = open(&url).await;
    conformance::open_with_lease(&ledger).await;
    let deaf = "UPDATE hearing SET heard_ms = 0;";
    execute(&url, &format!("{SILENT}{deaf}")).await;
    ledger.begin_serving().await.unwrap();
    let times = Times::default();
    let swept = ledger.sweep_leases(times, 10).await.unwrap();
    assert_eq!((swept.sessions, swept.reclaimed), (0, 0));
    assert_eq!(ledger.stop_unused(10).await, Ok(Vec::new()));
    let rewritten = "SELECT (SELECT count(*) FROM sessions WHERE active_ms > 1)
                          + (SELECT count(*) FROM lease_holders WHERE seen_ms > 1)";
    assert_eq!(
        number(&ledger, rewritten).await,
        0,
        "one row says it for all"
    );

    // Another sidecar has heard all the time.
    execute(&url, SILENT).await;
    ledger.begin_serving().await.unwrap();
    let swept = ledger.sweep_leases(times, 10).await.unwrap();
    assert_eq!(swept.sessions, 1);
    assert!(swept.reclaimed > 0);
    assert_eq!(ledger.stop_unused(10).await.unwrap().len(), 1);
}

/// To the ledger a clock that was set forward is the same as a time in which nobody was there,
/// also when all sidecars go on.
#[tokio::test]
async fn a_clock_that_was_set_forward_ends_nothing() {
    let url = database().await;
    let ledger = open(&url).await;
    conformance::open_with_lease(&ledger).await;
    ledger.sweep_leases(Times::default(), 10).await.unwrap();
    let an_hour_ago = "UPDATE lease_holders SET seen_ms = seen_ms - 3600000;
                       UPDATE sessions SET active_ms = active_ms - 3600000;
                       UPDATE hearing SET heard_ms = heard_ms - 3600000,
                                          serving_since_ms = serving_since_ms - 3600000";
    execute(&url, an_hour_ago).await;
    assert_eq!(ledger.stop_unused(10).await, Ok(Vec::new()));
    execute(&url, an_hour_ago).await;
    let swept = ledger.sweep_leases(Times::default(), 10).await.unwrap();
    assert_eq!((swept.sessions, swept.reclaimed), (0, 0));
    assert_eq!(ledger.stop_unused(10).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_keep_leases_alive() {
    let url = database().await;
    let ledger = open(&url).await;
    conformance::open_with_lease(&ledger).await;
    ledger.sweep_leases(Times::default(), 10).await.unwrap();
    let in_an_hour = "UPDATE lease_holders SET seen_ms = seen_ms + 3600000;
                      UPDATE hearing SET heard_ms = heard_ms + 3600000,
                                         serving_since_ms = serving_since_ms + 3600000";
    execute(&url, in_an_hour).await;
    let swept = ledger.sweep_leases(Times::default(), 10).await.unwrap();
    assert_eq!(swept.reclaimed, 0, "not at once either");
    let times = Times {
        reclaim_ms: 0,
        ..Times::default()
    };
    let swept = ledger.sweep_leases(times, 10).await.unwrap();
    assert!(swept.reclaimed > 0);
}

#[tokio::test]
async fn a_clock_that_was_set_back_holds_no_refund_up_and_no_duty() {
    let url = database().await;
    let ledger = open(&url).await;
    let change = async |sql: &str| execute(&url, sql).await;
    conformance::refunds::a_clock_that_was_set_back_holds_no_refund_up(&ledger, change).await;
    let (me, you) = (WorkerId([1; 16]), WorkerId([2; 16]));
    let time = Duration::from_secs(6);
    assert_eq!(ledger.take_duty(Duty::Sweep, me, time).await, Ok(true));
    assert_eq!(ledger.take_duty(Duty::Sweep, you, time).await, Ok(false));
    execute(&url, "UPDATE duties SET until_ms = until_ms + 86400000").await;
    assert_eq!(ledger.take_duty(Duty::Sweep, you, time).await, Ok(true));
}

/// Somebody, frozen in the middle of a sweep, has the row: reports go on.
#[tokio::test]
async fn reports_do_not_wait_for_who_notes_that_they_can_be_heard() {
    let url = database().await;
    let (frozen, ledger) = (open(&url).await, open(&url).await);
    conformance::open_with_lease(&ledger).await;
    let mut client = frozen.pool.get().await.unwrap();
    let tx = client.transaction().await.unwrap();
    tx.execute("UPDATE hearing SET heard_ms = 0", &[])
        .await
        .unwrap();
    conformance::report_something(&ledger).await;
    tx.commit().await.unwrap();
}
