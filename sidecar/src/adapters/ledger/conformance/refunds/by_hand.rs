//! What a human does about a refund: another invoice, another node, and what was paid after all.

use protocol::time::UnixSeconds;

use super::*;
use crate::adapters::ledger::conformance::{books, with_key};
use crate::domain::payout::{Moved, Replaced};
use crate::domain::return_invoice::ReturnText;

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    a_failed_one_is_paid_to_another_invoice(make().await).await;
    what_is_said_of_a_former_invoice_counts_no_more(make().await).await;
    what_was_paid_after_all_is_written_with_what_was_sent(make().await).await;
    what_was_never_sent_can_be_paid_by_another_node(make().await).await;
}

async fn a_failed_one_is_paid_to_another_invoice<L: Ledger>(ledger: L) {
    for n in 1..=2 {
        owe(&ledger, owed(n)).await;
    }
    let invoice = |n| ReturnInvoice {
        text: ReturnText(format!("lnbcrt{n}")),
        payment_hash: PaymentHash([n; 32]),
        expires: UnixSeconds(1),
    };
    let replace = async |n, by| {
        ledger
            .replace_return_invoice(hash(n), return_invoice(n).payment_hash, invoice(by))
            .await
            .unwrap()
    };
    let work = sent(&ledger).await;
    let n = work.refund.session_id.0[0];
    let other = 3 - n;
    let not_failed = Replaced::NotFailed(RefundState::Sending);
    assert_eq!(replace(n, 50).await, not_failed);
    assert_eq!(replace(99, 50).await, Replaced::NotFound);
    assert!(record(&ledger, &work, failed()).await);
    assert_eq!(replace(n, 128 + other).await, Replaced::InvoiceUsed);
    assert_eq!(found(&ledger, n).await.refund.state, RefundState::Failed);

    assert_eq!(replace(n, 50).await, Replaced::Replaced);
    let pending = Replaced::NotFailed(RefundState::Pending);
    assert_eq!(replace(n, 51).await, pending);
    let anew = found(&ledger, n).await;
    assert_eq!(anew.refund.return_hash, PaymentHash([50; 32]));
    assert_eq!(anew.refund.return_invoice.as_str(), "lnbcrt50");
    assert_eq!((anew.payout, anew.refund.attempts), (None, 0));
    assert_eq!(anew.refund.failure, None);
    // Who asked about the old invoice does not take the new one away, when that has failed too.
    let work = loop {
        let work = taken(&ledger).await;
        if work.refund.session_id == hash(n) {
            break work;
        }
    };
    assert!(record(&ledger, &work, failed()).await);
    assert_eq!(replace(n, 52).await, Replaced::OtherInvoice);
    let by_asking = ledger.replace_return_invoice(hash(n), PaymentHash([50; 32]), invoice(53));
    assert_eq!(by_asking.await, Ok(Replaced::Replaced));
}

async fn what_is_said_of_a_former_invoice_counts_no_more<L: Ledger>(ledger: L) {
    owe(&ledger, owed(1)).await;
    let work = sent(&ledger).await;
    assert!(record(&ledger, &work, failed()).await);
    let replaced =
        ledger.replace_return_invoice(hash(1), work.refund.return_hash, return_invoice(50));
    assert_eq!(replaced.await, Ok(Replaced::Replaced));
    let anew = found(&ledger, 1).await;
    assert!(!record(&ledger, &work, paid(0)).await);
    assert_eq!(taken(&ledger).await, anew);
}

/// A worker that was taken for dead has paid what another found to be failed.
async fn what_was_paid_after_all_is_written_with_what_was_sent<L: Ledger>(ledger: L) {
    owe(&ledger, owed(1)).await;
    let work = taken(&ledger).await;
    let less = ledger
        .begin_sending(&work, ONE, payout(890, 5_000), CAPS)
        .await;
    assert_eq!(less, Ok(Sending::Begun));
    assert!(record(&ledger, &work, failed()).await);
    assert_eq!(
        ledger.record_refund(&work, TWO, paid(7_000)).await,
        Ok(true)
    );
    let written = found(&ledger, 1).await;
    assert_eq!(written.refund.state, RefundState::Succeeded);
    assert_eq!(written.payout, Some(payout(900, 7_000)));
    assert_eq!(
        (written.refund.fee, written.refund.failure),
        (Msat::new(7_000), None)
    );
    assert!(!record(&ledger, &work, failed()).await, "it is over");
    // What failed without ever being sent may have been paid by a human.
    owe(&ledger, owed(2)).await;
    let work = taken(&ledger).await;
    assert!(record(&ledger, &work, failed()).await);
    assert!(record(&ledger, &work, paid(2)).await);
    assert_eq!(found(&ledger, 2).await.payout, Some(payout(900, 2)));
}

async fn what_was_never_sent_can_be_paid_by_another_node<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    for n in 1..=3 {
        books::paid(&ledger, n, 1_000).await;
        owe(&ledger, owed(n)).await;
    }
    let to_other = async |n| ledger.move_refund(hash(n), OTHER).await.unwrap();
    assert_eq!(to_other(9).await, Moved::NotFound);
    assert_eq!(ledger.move_refund(hash(1), NODE).await, Ok(Moved::Same));
    assert_eq!(to_other(1).await, Moved::Moved);
    let moved = ledger.take_refund(OTHER, TWO, LONG, false).await.unwrap();
    assert_eq!(moved.unwrap().refund.session_id, hash(1));
    assert_eq!(session::find(&ledger, 1).await.node, OTHER);
    assert_eq!(ledger.violations(10).await, Ok(Vec::new()));

    let work = taken(&ledger).await;
    let n = work.refund.session_id.0[0];
    assert_eq!(to_other(n).await, Moved::Taken);
    assert_eq!(begin(&ledger, &work, CAPS).await, Sending::Begun);
    assert_eq!(to_other(n).await, Moved::NotPending(RefundState::Sending));
    let again = RefundOutcome::Again {
        after: Duration::ZERO,
        why: String::new(),
    };
    assert!(record(&ledger, &work, again).await);
    assert_eq!(to_other(n).await, Moved::WasSent);

    // Who had it before and was silent can do nothing more.
    let stale = ledger.take_refund(NODE, ONE, Duration::ZERO, false).await;
    let stale = stale.unwrap().unwrap();
    let n = stale.refund.session_id.0[0];
    if n != work.refund.session_id.0[0] {
        assert_eq!(to_other(n).await, Moved::Moved);
        assert_eq!(begin(&ledger, &stale, CAPS).await, Sending::Lost);
    }
}
