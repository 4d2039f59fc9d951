//! Refunds: each is one worker's at a time, within the caps, and paid once.

mod by_hand;
mod caps;

use std::sync::Arc;
use std::time::Duration;

use protocol::amount::{Msat, Sat};
use protocol::hash::PaymentHash;
use protocol::lease::Report;

use super::NODE;
use super::session::{self, closed, hash, report, return_invoice, sat, say};
use crate::domain::invoice::NodeId;
use crate::domain::payout::{
    Payout, RefundCaps, RefundCounts, RefundOutcome, RefundWork, Sending, WorkerId,
};
use crate::domain::ports::Ledger;
use crate::domain::refund::RefundState;
use crate::domain::return_invoice::ReturnInvoice;
use crate::domain::session::{CloseBegun, NewSession, Opened};

/// A closed session with its refund.
pub(crate) struct Owed {
    /// All bytes of the session's id.
    pub(crate) n: u8,
    /// Who pays.
    pub(crate) node: NodeId,
    /// How much, satoshi.
    pub(crate) amount: u64,
    /// What was spent, satoshi.
    pub(crate) spent: u64,
    /// Where it goes.
    pub(crate) invoice: ReturnInvoice,
}

/// Opens a session, spends from it and closes it.
pub(crate) async fn owe<L: Ledger>(ledger: &L, owed: Owed) {
    let lease = Report {
        want: owed.spent,
        need: owed.spent,
        ..report(owed.n, 1)
    };
    let opened = ledger.open_session(NewSession {
        node: owed.node,
        deposited: sat(owed.amount + owed.spent),
        return_invoice: owed.invoice,
        lease: lease.clone(),
        ..session::session(owed.n)
    });
    let opened = opened.await.unwrap();
    assert!(matches!(opened, Opened::Opened { .. }), "{opened:?}");
    let spent = Report {
        used: owed.spent,
        need: 0,
        release: true,
        ..lease
    };
    say(ledger, spent).await;
    let begun = closed(ledger, owed.n, owed.n).await;
    assert!(matches!(begun, CloseBegun::Begun { .. }), "{begun:?}");
    assert!(ledger.find_refund(hash(owed.n)).await.unwrap().is_some());
}

const OTHER: NodeId = NodeId([3; 33]);
const ONE: WorkerId = WorkerId([1; 16]);
const TWO: WorkerId = WorkerId([2; 16]);
/// Below the hour past which a hold is taken for one from before the clock was set back.
const LONG: Duration = Duration::from_secs(600);
const CAPS: RefundCaps = RefundCaps {
    in_flight: 100,
    daily_fees: Sat::MAX,
};

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    a_refund_is_one_workers_at_a_time(Arc::new(make().await)).await;
    only_its_node_gets_it(make().await).await;
    who_is_silent_is_taken_over(make().await).await;
    it_is_written_before_it_is_sent_and_its_outcome_once(make().await).await;
    what_failed_is_due_again_after_a_pause(make().await).await;
    what_was_paid_counts_whoever_says_it(make().await).await;
    what_was_sent_is_taken_alone_on_request(make().await).await;
    the_unpaid_are_listed_and_counted(make().await).await;
    caps::all(make).await;
    by_hand::all(make).await;
}

fn owed(n: u8) -> Owed {
    Owed {
        n,
        node: NODE,
        amount: 900,
        spent: 100,
        invoice: return_invoice(n),
    }
}

fn payout(sent: u64, fee_limit_msat: u64) -> Payout {
    Payout {
        sent: Sat::new(sent).unwrap(),
        fee_limit: Msat::new(fee_limit_msat).unwrap(),
    }
}

async fn take<L: Ledger>(ledger: &L, worker: WorkerId) -> Option<RefundWork> {
    ledger.take_refund(NODE, worker, LONG, false).await.unwrap()
}

async fn taken<L: Ledger>(ledger: &L) -> RefundWork {
    take(ledger, ONE).await.unwrap()
}

async fn begin<L: Ledger>(ledger: &L, work: &RefundWork, caps: RefundCaps) -> Sending {
    let payout = payout(900, 5_000);
    ledger.begin_sending(work, ONE, payout, caps).await.unwrap()
}

async fn sent<L: Ledger>(ledger: &L) -> RefundWork {
    let work = taken(ledger).await;
    assert_eq!(begin(ledger, &work, CAPS).await, Sending::Begun);
    work
}

async fn record<L: Ledger>(ledger: &L, work: &RefundWork, outcome: RefundOutcome) -> bool {
    ledger.record_refund(work, ONE, outcome).await.unwrap()
}

fn paid(fee_msat: u64) -> RefundOutcome {
    RefundOutcome::Paid {
        sent: sat(900),
        fee: Msat::new(fee_msat).unwrap(),
    }
}

fn failed() -> RefundOutcome {
    RefundOutcome::Failed {
        why: "no_route".to_owned(),
    }
}

async fn found<L: Ledger>(ledger: &L, n: u8) -> RefundWork {
    ledger.find_refund(hash(n)).await.unwrap().unwrap()
}

async fn a_refund_is_one_workers_at_a_time<L: Ledger>(ledger: Arc<L>) {
    for n in 1..=20 {
        owe(&*ledger, owed(n)).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..40 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move { take(&*ledger, WorkerId([n; 16])).await });
    }
    let mut ids = Vec::new();
    while let Some(done) = tasks.join_next().await {
        ids.extend(done.unwrap().map(|work| work.refund.session_id.0[0]));
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=20).collect::<Vec<_>>());
}

async fn only_its_node_gets_it<L: Ledger>(ledger: L) {
    let elsewhere = Owed {
        node: OTHER,
        ..owed(1)
    };
    owe(&ledger, elsewhere).await;
    assert_eq!(take(&ledger, ONE).await, None);
    let work = ledger.take_refund(OTHER, ONE, LONG, false).await.unwrap();
    let work = work.unwrap();
    assert_eq!(work.refund.session_id, hash(1));
    assert_eq!((work.refund.amount.get(), work.spent.get()), (900, 100));
    assert_eq!((work.payout, work.refund.attempts), (None, 0));
}

async fn who_is_silent_is_taken_over<L: Ledger>(ledger: L) {
    owe(&ledger, owed(1)).await;
    let at_once = Duration::ZERO;
    let take = async |worker, hold| ledger.take_refund(NODE, worker, hold, false).await.unwrap();
    assert!(take(ONE, at_once).await.is_some());
    assert!(take(TWO, at_once).await.is_some(), "one was silent");
    let keep = async |worker| ledger.keep_refund(hash(1), worker, LONG).await.unwrap();
    assert!(!keep(ONE).await, "no longer its own");
    assert!(keep(TWO).await);
    assert_eq!(take(ONE, LONG).await, None, "two is not silent");

    // What the first still wants to do is not done.
    let work = found(&ledger, 1).await;
    assert_eq!(begin(&ledger, &work, CAPS).await, Sending::Lost);
    assert!(!record(&ledger, &work, failed()).await);
    assert_eq!(found(&ledger, 1).await.refund.state, RefundState::Pending);
}

async fn it_is_written_before_it_is_sent_and_its_outcome_once<L: Ledger>(ledger: L) {
    owe(&ledger, owed(1)).await;
    let work = sent(&ledger).await;
    let written = found(&ledger, 1).await;
    assert_eq!(written.refund.state, RefundState::Sending);
    assert_eq!(written.refund.attempts, 1);
    assert_eq!(written.payout, Some(payout(900, 5_000)));

    assert!(record(&ledger, &work, paid(1_200)).await);
    let written = found(&ledger, 1).await;
    assert_eq!(written.refund.state, RefundState::Succeeded);
    assert_eq!(written.refund.fee, Msat::new(1_200));
    for outcome in [paid(1), failed()] {
        assert!(!record(&ledger, &work, outcome).await, "it is over");
    }
    assert_eq!(begin(&ledger, &work, CAPS).await, Sending::Lost);
    assert_eq!(found(&ledger, 1).await, written);
    assert_eq!(take(&ledger, ONE).await, None);
}

async fn what_failed_is_due_again_after_a_pause<L: Ledger>(ledger: L) {
    owe(&ledger, owed(1)).await;
    let again = |after| RefundOutcome::Again {
        after,
        why: "no_route".to_owned(),
    };
    let work = sent(&ledger).await;
    assert!(record(&ledger, &work, again(Duration::ZERO)).await);
    let work = taken(&ledger).await;
    assert_eq!(work.refund.state, RefundState::Pending);
    assert_eq!(work.refund.failure.as_deref(), Some("no_route"));
    assert_eq!(work.refund.attempts, 1);
    assert_eq!(begin(&ledger, &work, CAPS).await, Sending::Begun);
    assert_eq!(found(&ledger, 1).await.refund.attempts, 2);
    assert!(record(&ledger, &work, again(LONG)).await);
    assert_eq!(take(&ledger, ONE).await, None, "not due");
}

async fn what_was_paid_counts_whoever_says_it<L: Ledger>(ledger: L) {
    owe(&ledger, owed(1)).await;
    let work = taken(&ledger).await;
    assert!(!record(&ledger, &work, paid(0)).await, "was never sent");
    assert_eq!(begin(&ledger, &work, CAPS).await, Sending::Begun);
    let by_two = ledger.record_refund(&work, TWO, failed()).await;
    assert_eq!(by_two, Ok(false), "a failure is the worker's to say");
    assert_eq!(ledger.record_refund(&work, TWO, paid(3)).await, Ok(true));
    assert_eq!(found(&ledger, 1).await.refund.fee, Msat::new(3));
}

async fn what_was_sent_is_taken_alone_on_request<L: Ledger>(ledger: L) {
    owe(&ledger, owed(1)).await;
    let sending = async || ledger.take_refund(NODE, TWO, LONG, true).await.unwrap();
    assert_eq!(sending().await, None);
    let work = sent(&ledger).await;
    owe(&ledger, owed(2)).await;
    let later = RefundOutcome::Later {
        after: Duration::ZERO,
    };
    assert!(record(&ledger, &work, later).await);
    let again = sending().await.unwrap();
    assert_eq!(again.refund.session_id, hash(1));
    assert_eq!(again.refund.state, RefundState::Sending);
    assert_eq!(sending().await, None);
    assert_eq!(taken(&ledger).await.refund.session_id, hash(2));
}

async fn the_unpaid_are_listed_and_counted<L: Ledger>(ledger: L) {
    let none = RefundCounts::default();
    assert_eq!(ledger.refund_counts(NODE).await, Ok(none));
    assert_eq!(ledger.unpaid_refunds(10).await, Ok(Vec::new()));
    for n in 1..=4 {
        owe(&ledger, owed(n)).await;
    }
    let first = sent(&ledger).await;
    assert!(record(&ledger, &first, paid(0)).await);
    let second = sent(&ledger).await;
    assert!(record(&ledger, &second, failed()).await);
    sent(&ledger).await;
    let counts = ledger.refund_counts(NODE).await.unwrap();
    assert_eq!((counts.pending, counts.sending, counts.failed), (1, 1, 1));
    assert!(counts.oldest_ms < 3_600_000);
    assert_eq!(ledger.refunds_under_way(NODE).await, Ok(1));
    assert_eq!(ledger.refunds_under_way(OTHER).await, Ok(0));
    let of_others = RefundCounts {
        elsewhere: 3,
        ..none
    };
    assert_eq!(counts.elsewhere, 0);
    assert_eq!(ledger.refund_counts(OTHER).await, Ok(of_others));
    let listed = ledger.unpaid_refunds(10).await.unwrap();
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[0].refund.session_id, second.refund.session_id);
    assert_eq!(ledger.unpaid_refunds(2).await.unwrap().len(), 2);
}

/// `execute` changes what is behind the ledger: as if its clock had been set back by a day.
pub(crate) async fn a_clock_that_was_set_back_holds_no_refund_up<L: Ledger>(
    ledger: &L,
    execute: impl AsyncFn(&str),
) {
    owe(ledger, owed(1)).await;
    owe(ledger, owed(2)).await;
    let work = taken(ledger).await;
    let later = RefundOutcome::Later { after: LONG };
    assert!(record(ledger, &work, later).await);
    let other = taken(ledger).await;
    assert_ne!(other.refund.session_id, work.refund.session_id);
    assert_eq!(take(ledger, TWO).await, None);
    execute(
        "UPDATE refunds SET due_ms = due_ms + 86400000 WHERE worker IS NULL;
         UPDATE refunds SET worked_until_ms = worked_until_ms + 86400000",
    )
    .await;
    assert!(take(ledger, TWO).await.is_some());
    assert!(take(ledger, TWO).await.is_some());
    assert_eq!(take(ledger, TWO).await, None);
}
