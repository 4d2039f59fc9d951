//! No more is under way, sent or paid in fees than may be.

use super::*;
use crate::domain::ledger::LedgerError;

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    no_more_are_under_way_than_may_be(make().await).await;
    fees_of_a_day_stay_within_the_budget(make().await).await;
    nothing_is_sent_beyond_the_amount(make().await).await;
}

async fn no_more_are_under_way_than_may_be<L: Ledger>(ledger: L) {
    for n in 1..=3 {
        owe(&ledger, owed(n)).await;
    }
    let elsewhere = Owed {
        node: OTHER,
        ..owed(4)
    };
    owe(&ledger, elsewhere).await;
    let caps = RefundCaps {
        in_flight: 2,
        ..CAPS
    };
    let other = ledger.take_refund(OTHER, ONE, LONG, false).await.unwrap();
    let other = other.unwrap();
    assert_eq!(begin(&ledger, &other, caps).await, Sending::Begun);
    let first = taken(&ledger).await;
    let second = taken(&ledger).await;
    let third = taken(&ledger).await;
    assert_eq!(begin(&ledger, &first, caps).await, Sending::Begun);
    assert_eq!(begin(&ledger, &second, caps).await, Sending::Begun);
    assert_eq!(begin(&ledger, &third, caps).await, Sending::InFlightFull);
    let third_now = found(&ledger, third.refund.session_id.0[0]).await;
    assert_eq!(third_now, third, "nothing was done");
    assert_eq!(
        begin(&ledger, &first, caps).await,
        Sending::Begun,
        "one that is under way takes no second place"
    );
    assert!(record(&ledger, &first, paid(0)).await);
    assert_eq!(begin(&ledger, &third, caps).await, Sending::Begun);
}

async fn fees_of_a_day_stay_within_the_budget<L: Ledger>(ledger: L) {
    for n in 1..=4 {
        owe(&ledger, owed(n)).await;
    }
    // Each reserves 5.
    let caps = RefundCaps {
        daily_fees: Sat::new(12).unwrap(),
        ..CAPS
    };
    let works = [
        taken(&ledger).await,
        taken(&ledger).await,
        taken(&ledger).await,
        taken(&ledger).await,
    ];
    assert_eq!(begin(&ledger, &works[0], caps).await, Sending::Begun);
    assert_eq!(begin(&ledger, &works[1], caps).await, Sending::Begun);
    assert_eq!(begin(&ledger, &works[2], caps).await, Sending::BudgetSpent);
    // What was not used of a reserve is free again, and what failed cost nothing.
    assert!(record(&ledger, &works[0], paid(2_000)).await);
    assert_eq!(begin(&ledger, &works[2], caps).await, Sending::Begun);
    assert_eq!(begin(&ledger, &works[3], caps).await, Sending::BudgetSpent);
    assert!(record(&ledger, &works[1], failed()).await);
    assert_eq!(begin(&ledger, &works[3], caps).await, Sending::Begun);
}

async fn nothing_is_sent_beyond_the_amount<L: Ledger>(ledger: L) {
    owe(&ledger, owed(1)).await;
    let work = taken(&ledger).await;
    for sent in [901, 0] {
        let begun = ledger
            .begin_sending(&work, ONE, payout(sent, 0), CAPS)
            .await;
        assert!(matches!(begun, Err(LedgerError::Store(_))), "{begun:?}");
    }
    assert_eq!(found(&ledger, 1).await, work);
}
