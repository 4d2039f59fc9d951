//! What strangers can make us spend or lock up.

use sidecar::domain::refund::RefundState;

use super::{Shop, hash, owe};
use crate::fake_lnd::Routing;
use crate::support::eventually;

async fn held(shop: &Shop, reason: &str) {
    let line = format!("boltgate_sidecar_refunds_held{{reason=\"{reason}\"}}");
    eventually("held refunds", async || {
        (shop.sidecar.metric(&line).await? == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_sellers_bear_stays_within_the_budget_and_what_buyers_bear_needs_none() {
    let limits = "feeLimitMinSats: 5, dailyFeeBudgetSats: 22";
    let shop = Shop::owing(limits, |ledger, lnd| {
        // As dear as it may be.
        lnd.route(Routing::Arrive { fee_msat: 5_000 });
        for n in 1..=30 {
            owe(ledger, n, 100, 50);
        }
        for n in 31..=40 {
            owe(ledger, n, 100, 0);
        }
    })
    .await;
    held(&shop, "daily_fees").await;
    // Who opens and closes all day pays the routing, and nobody's refund waits for it.
    for n in 31..=40 {
        shop.refund_is(n, RefundState::Succeeded).await;
    }
    eventually("what the budget does not allow waits", async || {
        let line = "boltgate_sidecar_refunds{state=\"pending\"}";
        (shop.sidecar.metric(line).await? == 26.0).then_some(())
    })
    .await;
    let arrived = shop.lnd.arrived();
    let count = |msat| {
        let alike = arrived.iter().filter(|paid| (paid.1, paid.2) == msat);
        alike.count()
    };
    assert_eq!(count((100_000, 5_000)), 4, "with 5 of 22 sat each");
    assert_eq!(count((95_000, 5_000)), 10);
    assert_eq!(arrived.len(), 14);
}

#[tokio::test]
async fn hold_invoices_lock_up_no_more_than_the_cap_and_others_are_paid_when_they_end() {
    let shop = Shop::owing("maxInFlight: 3, timeout: 1s", |ledger, lnd| {
        lnd.route(Routing::Hold);
        for n in 1..=10 {
            owe(ledger, n, 900, 100);
        }
    })
    .await;
    held(&shop, "in_flight").await;
    eventually("three under way", async || {
        (shop.lnd.in_flight() == 3).then_some(())
    })
    .await;
    // They outlast the node's search for routes, and take up their places all the same.
    eventually("they are asked about", async || {
        let line = "boltgate_sidecar_lightning_call_seconds_count{rpc=\"track\",result=\"ok\"}";
        (shop.sidecar.metric(line).await? >= 9.0).then_some(())
    })
    .await;
    assert_eq!(shop.lnd.send_requests().len(), 3);
    assert_eq!(shop.lnd.in_flight(), 3);

    shop.lnd.route(Routing::Arrive { fee_msat: 0 });
    let mut stuck = Vec::new();
    for n in 1..=10 {
        if shop.refund(n).await.refund.state == RefundState::Sending {
            stuck.push(n);
        }
    }
    let [first, second, third] = stuck[..] else {
        panic!("{stuck:?}");
    };
    shop.lnd.resolve(hash(first), Ok(0));
    for n in (1..=10).filter(|n| ![second, third].contains(n)) {
        shop.refund_is(n, RefundState::Succeeded).await;
    }
    assert_eq!(shop.lnd.in_flight(), 2);
}
