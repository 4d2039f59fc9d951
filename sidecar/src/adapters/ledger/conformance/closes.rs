//! The end of sessions: what goes back is fixed once, and so is what is answered.

use std::time::Duration;

use protocol::lease::{AccountState, Report};
use protocol::time::UnixSeconds;

use super::session::*;
use crate::domain::ports::Ledger;
use crate::domain::refund::{RefundState, RefundStatus};
use crate::domain::return_invoice::ReturnInvoice;
use crate::domain::session::{
    CloseBegun, Ending, NewClose, NewSession, Refunded, SessionState, Stopped,
};

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    a_session_without_leases_is_settled_at_once(make().await).await;
    a_session_waits_for_its_leases(make().await).await;
    leases_that_are_not_heard_of_do_not_hold_a_close_up(make().await).await;
    a_session_that_is_spent_owes_nothing(make().await).await;
    nothing_changes_once_it_is_settled(make().await).await;
    a_repeated_close_is_known_and_answered_the_same(make().await).await;
    a_close_is_refused_for_its_reason(make().await).await;
    one_challenge_may_close_the_sessions_of_several_buyers(make().await).await;
    what_nobody_uses_is_stopped(make().await).await;
    a_session_ends_before_its_return_invoice(make().await).await;
}

async fn ending<L: Ledger>(ledger: &L, n: u8) -> Ending {
    ledger.ending(hash(n)).await.unwrap().unwrap()
}

const fn pending(rest: u64) -> (SessionState, u64, Option<RefundState>) {
    (SessionState::Closed, rest, Some(RefundState::Pending))
}

async fn how<L: Ledger>(ledger: &L, n: u8) -> (SessionState, u64, Option<RefundState>) {
    let ending = ending(ledger, n).await;
    (ending.state, ending.rest.get(), ending.refund)
}

/// Gives out `granted` of session `n` to this holder and hears that `used` of it is spent.
async fn lease<L: Ledger>(ledger: &L, n: u8, holder: u8, granted: u64, used: u64) {
    let ask = Report {
        want: granted,
        need: granted,
        ..report(n, holder)
    };
    assert_eq!(say(ledger, ask.clone()).await.granted, granted);
    let spent = Report {
        used,
        need: 0,
        ..ask
    };
    say(ledger, spent).await;
}

fn begun(close: &CloseBegun) -> bool {
    matches!(close, CloseBegun::Begun { answered: None, .. })
}

async fn a_session_without_leases_is_settled_at_once<L: Ledger>(ledger: L) {
    assert_eq!(ledger.ending(hash(1)).await, Ok(None));
    opened(&ledger, 1).await;
    let open = (SessionState::Open, DEPOSIT, None);
    assert_eq!(how(&ledger, 1).await, open);
    assert!(begun(&closed(&ledger, 1, 9).await));
    assert_eq!(how(&ledger, 1).await, pending(DEPOSIT));
    assert!(find(&ledger, 1).await.closed_ms.is_some());
}

async fn a_session_waits_for_its_leases<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    lease(&ledger, 1, 1, 10, 3).await;
    lease(&ledger, 1, 2, 10, 0).await;
    let with_own = NewClose {
        lease: Some(Report {
            used: 4,
            release: true,
            ..report(1, 1)
        }),
        ..close(1, 9)
    };
    let CloseBegun::Begun { lease, .. } = ledger.begin_close(with_own).await.unwrap() else {
        panic!("not begun");
    };
    let own = lease.unwrap().answer;
    assert!(own.r#final);
    assert_eq!((own.spent, own.state), (4, AccountState::Closed));
    let waiting = (SessionState::Closing, DEPOSIT - 4, None);
    assert_eq!(how(&ledger, 1).await, waiting);
    ledger.sweep_leases(PATIENT, 10).await.unwrap();
    assert_eq!(how(&ledger, 1).await, waiting);

    // The other hears of it, gets no more, and brings back what is left.
    let more = Report {
        used: 2,
        need: 50,
        want: 50,
        ..report(1, 2)
    };
    let told = say(&ledger, more).await;
    assert!(told.recall && !told.r#final);
    assert_eq!(told.granted, 10);
    let back = Report {
        used: 5,
        release: true,
        ..report(1, 2)
    };
    assert!(say(&ledger, back).await.r#final);
    assert_eq!(how(&ledger, 1).await, pending(DEPOSIT - 9));
}

async fn leases_that_are_not_heard_of_do_not_hold_a_close_up<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    opened(&ledger, 2).await;
    lease(&ledger, 1, 1, 10, 3).await;
    lease(&ledger, 2, 1, 10, 3).await;
    closed(&ledger, 1, 9).await;
    // Those of open sessions are given more time.
    let times = crate::domain::lease::Times {
        closing_ms: 0,
        ..PATIENT
    };
    let swept = ledger.sweep_leases(times, 10).await.unwrap();
    assert_eq!(
        (swept.sessions, swept.reclaimed, swept.settled),
        (1, 7, vec![hash(1)]),
    );
    assert_eq!(how(&ledger, 1).await, pending(DEPOSIT - 3));
    let other = (SessionState::Open, DEPOSIT - 3, None);
    assert_eq!(how(&ledger, 2).await, other);
}

async fn a_session_that_is_spent_owes_nothing<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    lease(&ledger, 1, 1, DEPOSIT, DEPOSIT).await;
    closed(&ledger, 1, 9).await;
    ledger.sweep_leases(IMPATIENT, 10).await.unwrap();
    assert_eq!(how(&ledger, 1).await, (SessionState::Closed, 0, None));
    let nothing = Refunded {
        refund: sat(0),
        status: RefundStatus::Skipped,
    };
    assert_eq!(ending(&ledger, 1).await.answer(), Some(nothing));
}

async fn nothing_changes_once_it_is_settled<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    lease(&ledger, 1, 1, 10, 5).await;
    closed(&ledger, 1, 9).await;
    ledger.sweep_leases(IMPATIENT, 10).await.unwrap();
    assert_eq!(how(&ledger, 1).await, pending(DEPOSIT - 5));
    let late = Report {
        used: 9,
        returned: 2,
        want: 90,
        need: 1,
        ..report(1, 1)
    };
    let heard = ledger.report_leases(vec![late]).await.unwrap();
    assert_eq!((heard.lost_units, heard.settled), (4, Vec::new()));
    let new = Report {
        want: 9,
        ..report(1, 2)
    };
    let told = say(&ledger, new).await;
    assert!(told.r#final);
    assert_eq!((told.granted, told.state), (0, AccountState::Closed));
    assert_eq!(how(&ledger, 1).await, pending(DEPOSIT - 5));
    assert_eq!(ledger.stop_unused(10).await, Ok(Vec::new()));
    let swept = ledger.sweep_leases(IMPATIENT, 10).await.unwrap();
    assert_eq!((swept.sessions, swept.settled), (0, Vec::new()));
}

async fn a_repeated_close_is_known_and_answered_the_same<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    let first = closed(&ledger, 1, 9).await;
    let CloseBegun::Begun {
        at,
        is_repeated: false,
        ..
    } = first
    else {
        panic!("{first:?}");
    };
    let again = |answered| CloseBegun::Begun {
        at,
        is_repeated: true,
        answered,
        lease: None,
    };
    assert_eq!(closed(&ledger, 1, 9).await, again(None));
    let answer = |status| Refunded {
        refund: sat(DEPOSIT),
        status,
    };
    let (first, second) = (
        answer(RefundStatus::Failed),
        answer(RefundStatus::Succeeded),
    );
    let call = close(1, 9).call;
    for said in [first, second] {
        let noted = ledger.record_answer(call.clone(), hash(1), said).await;
        assert_eq!(noted, Ok(first));
    }
    assert_eq!(closed(&ledger, 1, 9).await, again(Some(first)));
    assert_eq!(ledger.drop_old_results(10).await, Ok(0), "remembered");
}

async fn a_close_is_refused_for_its_reason<L: Ledger>(ledger: L) {
    assert_eq!(closed(&ledger, 1, 9).await, CloseBegun::NotFound);
    for n in [1, 2, 3] {
        opened(&ledger, n).await;
    }
    top_up(&ledger, 7, 1).await;
    let theirs = closed(&ledger, 1, 2).await;
    assert_eq!(theirs, CloseBegun::Consumed, "another's deposit");
    let expired = |challenge| NewClose {
        must_be_own: true,
        ..close(1, challenge)
    };
    let foreign = ledger.begin_close(expired(9)).await.unwrap();
    assert_eq!(foreign, CloseBegun::Expired);
    assert_eq!(find(&ledger, 1).await.state, SessionState::Open);
    // A challenge of its own deposits will do, and is known again.
    for _ in 0..2 {
        assert!(begun(&ledger.begin_close(expired(7)).await.unwrap()));
    }
    let other_way = NewClose {
        call: call(7, 77),
        ..close(1, 7)
    };
    let altered = ledger.begin_close(other_way).await.unwrap();
    assert_eq!(altered, CloseBegun::Consumed);
    assert_eq!(closed(&ledger, 1, 10).await, CloseBegun::AlreadyClosed);
    // The challenge that opened a session may close it.
    assert!(begun(&closed(&ledger, 3, 3).await));
}

async fn one_challenge_may_close_the_sessions_of_several_buyers<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    opened(&ledger, 2).await;
    for n in [1, 2, 1, 2] {
        assert!(begun(&closed(&ledger, n, 9).await));
    }
    // Whoever pays for it afterwards has not lost his money.
    opened(&ledger, 9).await;
}

/// Gives what was stopped, as soon as something was.
async fn stopped<L: Ledger>(ledger: &L) -> Vec<Stopped> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let stopped = ledger.stop_unused(10).await.unwrap();
        if !stopped.is_empty() {
            return stopped;
        }
        assert!(tokio::time::Instant::now() < deadline, "never stopped");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn what_nobody_uses_is_stopped<L: Ledger>(ledger: L) {
    let short = |n| NewSession {
        idle_timeout_seconds: 1,
        ..session(n)
    };
    ledger.open_session(short(1)).await.unwrap();
    opened(&ledger, 2).await;
    let expected = Stopped {
        session_id: hash(1),
        was_idle: true,
    };
    assert_eq!(stopped(&ledger).await, [expected]);
    let row = find(&ledger, 1).await;
    assert!(row.closed_ms.is_some());
    assert_eq!(row.state, SessionState::Closing, "its lease is out");
    assert_eq!(find(&ledger, 2).await.state, SessionState::Open);
    assert_eq!(closed(&ledger, 1, 9).await, CloseBegun::AlreadyClosed);
    ledger.sweep_leases(IMPATIENT, 10).await.unwrap();
    assert_eq!(how(&ledger, 1).await, pending(DEPOSIT));
}

async fn a_session_ends_before_its_return_invoice<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    let soon = NewSession {
        return_invoice: ReturnInvoice {
            expires: UnixSeconds(1_000),
            ..return_invoice(2)
        },
        ..session(2)
    };
    ledger.open_session(soon).await.unwrap();
    let expected = Stopped {
        session_id: hash(2),
        was_idle: false,
    };
    assert_eq!(ledger.stop_unused(10).await, Ok(vec![expected]));
    assert_eq!(ledger.stop_unused(10).await, Ok(Vec::new()));
}
