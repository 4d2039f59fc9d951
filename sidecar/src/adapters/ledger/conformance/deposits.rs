//! Deposits: each is credited once, and to whoever came first.

use std::sync::Arc;

use protocol::lease::Report;
use protocol::time::UnixSeconds;

use super::session::*;
use super::{KEPT, NOW, key};
use crate::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use crate::domain::ledger::{GenerationUse, LedgerError};
use crate::domain::ports::Ledger;
use crate::domain::session::{
    CallKind, CallMark, CloseBegun, Deposited, NewDeposit, NewSession, Opened, SessionState,
    close_by,
};

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    of_many_opens_of_one_deposit_one_makes_a_session(Arc::new(make().await)).await;
    a_session_is_kept_as_it_began(make().await).await;
    the_first_lease_comes_with_the_session(make().await).await;
    a_return_invoice_serves_one_session(make().await).await;
    a_deposit_is_credited_once_to_one_session(Arc::new(make().await)).await;
    a_top_up_that_lost_to_close_may_open_a_session(make().await).await;
    a_payment_buys_one_thing(make().await).await;
    deposits_are_never_abandoned(make().await).await;
    what_was_answered_is_found_again(make().await).await;
    a_key_stays_while_a_session_may_show_its_challenges(make().await).await;
    nonsense_leaves_nothing(make().await).await;
}

fn claim(n: u8, attempt: u8) -> NewClaim {
    NewClaim {
        payment_hash: hash(n),
        attempt: AttemptId([attempt; 16]),
        challenge_id: format!("challenge-{n}"),
        service: "weather".to_owned(),
        amount: sat(DEPOSIT),
        expires: UnixSeconds(100_000_000_000),
    }
}

async fn of_many_opens_of_one_deposit_one_makes_a_session<L: Ledger>(ledger: Arc<L>) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let ledger = Arc::clone(&ledger);
        let new = NewSession {
            return_invoice: return_invoice(n),
            ..session(1)
        };
        tasks.spawn(async move { ledger.open_session(new).await.unwrap() });
    }
    let mut made = 0;
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            Opened::Opened { .. } => made += 1,
            Opened::Claimed => {}
            Opened::ReturnInvoiceUsed => panic!("each has its own"),
        }
    }
    assert_eq!(made, 1);
    assert_eq!(find(&*ledger, 1).await.deposited, sat(DEPOSIT));
}

async fn a_session_is_kept_as_it_began<L: Ledger>(ledger: L) {
    assert_eq!(ledger.find_session(hash(1)).await, Ok(None));
    let new = session(1);
    let Opened::Opened { at_ms, lease } = ledger.open_session(new.clone()).await.unwrap() else {
        panic!("not opened");
    };
    assert_eq!(lease.lost_units, 0);
    let row = find(&ledger, 1).await;
    assert_eq!(row.id, hash(1));
    assert_eq!(row.service, new.service);
    assert_eq!((row.deposited, row.spent), (sat(DEPOSIT), sat(0)));
    assert_eq!(row.return_invoice, new.return_invoice);
    assert_eq!((row.node, row.generation), (new.node, 0));
    assert_eq!(row.idle_timeout_seconds, IDLE_SECONDS);
    let by = close_by(new.return_invoice.expires, IDLE_SECONDS);
    assert_eq!(row.close_by, by);
    assert_eq!((row.state, row.closed_ms), (SessionState::Open, None));
    assert_eq!(row.opened_ms, at_ms);
}

async fn the_first_lease_comes_with_the_session<L: Ledger>(ledger: L) {
    let new = NewSession {
        lease: Report {
            need: 3,
            want: 3,
            price: 3,
            ..report(1, 9)
        },
        ..session(1)
    };
    let Opened::Opened { lease, .. } = ledger.open_session(new).await.unwrap() else {
        panic!("not opened");
    };
    assert_eq!((lease.answer.granted, lease.answer.r#final), (3, false));
    let spent = Report {
        used: 3,
        ..report(1, 9)
    };
    assert_eq!(say(&ledger, spent).await.spent, 3);
    assert_eq!(find(&ledger, 1).await.spent, sat(3));
}

async fn a_return_invoice_serves_one_session<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    let same = NewSession {
        return_invoice: return_invoice(1),
        ..session(2)
    };
    let refused = ledger.open_session(same).await;
    assert_eq!(refused, Ok(Opened::ReturnInvoiceUsed));
    assert_eq!(ledger.find_session(hash(2)).await, Ok(None));
    opened(&ledger, 2).await;
    // Also when the session is over.
    let over = closed(&ledger, 1, 9).await;
    assert!(matches!(over, CloseBegun::Begun { .. }), "{over:?}");
    let late = NewSession {
        return_invoice: return_invoice(1),
        ..session(3)
    };
    let refused = ledger.open_session(late).await;
    assert_eq!(refused, Ok(Opened::ReturnInvoiceUsed));
}

async fn a_deposit_is_credited_once_to_one_session<L: Ledger>(ledger: Arc<L>) {
    opened(&*ledger, 1).await;
    opened(&*ledger, 2).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move { top_up(&*ledger, 7, 1 + n % 2).await });
    }
    let mut credited = 0;
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            Deposited::Credited(_) => credited += 1,
            other => assert_eq!(other, Deposited::Claimed),
        }
    }
    assert_eq!(credited, 1);
    let all = find(&*ledger, 1).await.deposited.get() + find(&*ledger, 2).await.deposited.get();
    assert_eq!(all, 2 * DEPOSIT + 50);
    let own = top_up(&*ledger, 1, 1).await;
    assert_eq!(own, Deposited::Claimed, "its first deposit");
}

async fn a_top_up_that_lost_to_close_may_open_a_session<L: Ledger>(ledger: L) {
    assert_eq!(top_up(&ledger, 7, 1).await, Deposited::NotFound);
    opened(&ledger, 1).await;
    closed(&ledger, 1, 9).await;
    assert_eq!(top_up(&ledger, 7, 1).await, Deposited::Closed);
    opened(&ledger, 2).await;
    let lease = Report {
        want: 1,
        ..report(2, 1)
    };
    say(&ledger, lease).await;
    closed(&ledger, 2, 9).await;
    assert_eq!(find(&ledger, 2).await.state, SessionState::Closing);
    assert_eq!(top_up(&ledger, 7, 2).await, Deposited::Closed);
    opened(&ledger, 7).await;
}

async fn a_payment_buys_one_thing<L: Ledger>(ledger: L) {
    let times = ClaimTimes::default();
    opened(&ledger, 1).await;
    assert!(matches!(
        top_up(&ledger, 2, 1).await,
        Deposited::Credited(_)
    ));
    for n in [1, 2] {
        // At once and for good: nobody may yet abandon it.
        assert_eq!(ledger.claim(claim(n, 5), times).await, Ok(Claimed::Lost));
        assert_eq!(ledger.open_session(session(n)).await, Ok(Opened::Claimed));
        assert_eq!(top_up(&ledger, n, 1).await, Deposited::Claimed);
    }
    assert_eq!(ledger.claim(claim(3, 5), times).await, Ok(Claimed::Won));
    assert_eq!(ledger.open_session(session(3)).await, Ok(Opened::Claimed));
    assert_eq!(top_up(&ledger, 3, 1).await, Deposited::Claimed);
    let free = vec![(hash(3), AttemptId([5; 16]))];
    assert_eq!(ledger.abandon(free).await, Ok(1));
    opened(&ledger, 3).await;
    assert_eq!(ledger.claim(claim(3, 6), times).await, Ok(Claimed::Lost));
}

async fn deposits_are_never_abandoned<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    for attempt in [0, 1, 255] {
        let free = vec![(hash(1), AttemptId([attempt; 16]))];
        assert_eq!(ledger.abandon(free).await, Ok(0));
        let claimed = ledger.claim(claim(1, attempt), ClaimTimes::default()).await;
        assert_eq!(claimed, Ok(Claimed::Lost));
    }
}

async fn what_was_answered_is_found_again<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    top_up(&ledger, 2, 1).await;
    let find = async |n: u8, session: u8, kind| {
        let challenge = call(n, n).challenge_id;
        let found = ledger.recorded_deposit(challenge, hash(session), kind);
        found.await.unwrap()
    };
    let open = find(1, 1, CallKind::Open).await.unwrap();
    assert_eq!(open.fingerprint, [1; 32]);
    let opened_ms = ledger
        .find_session(hash(1))
        .await
        .unwrap()
        .unwrap()
        .opened_ms;
    assert_eq!(open.at, UnixSeconds(opened_ms / 1_000));
    let top_up = find(2, 1, CallKind::TopUp).await.unwrap();
    assert_eq!(top_up.fingerprint, [2; 32]);
    assert_eq!(find(1, 1, CallKind::TopUp).await, None);
    assert_eq!(find(2, 2, CallKind::TopUp).await, None);
    assert_eq!(find(3, 1, CallKind::Open).await, None);
}

async fn a_key_stays_while_a_session_may_show_its_challenges<L: Ledger>(ledger: L) {
    let under = |generation, call: CallMark| CallMark { generation, ..call };
    ledger.install_first_key(key(1), NOW).await.unwrap();
    opened(&ledger, 1).await;
    for next in 1..=2 {
        let key = key(next + 1);
        assert_eq!(ledger.begin_rotation(key, NOW).await, Ok(next));
        ledger.promote(next, NOW, KEPT).await.unwrap();
        if next == 1 {
            let base = deposit(8, 1);
            let top_up = NewDeposit {
                call: under(1, base.call.clone()),
                ..base
            };
            ledger.top_up(top_up).await.unwrap();
        }
    }
    let later = NOW + 1_000_000_000;
    let ids = async || -> Vec<u8> {
        ledger.prune_expired(later).await.unwrap();
        let generations = ledger.snapshot().await.unwrap().generations;
        generations.iter().map(|g| g.id).collect()
    };
    assert_eq!(ids().await, [0, 1, 2]);
    let used = GenerationUse {
        sessions: 1,
        ..GenerationUse::default()
    };
    for generation in [0, 1] {
        let now = UnixSeconds(later / 1_000);
        assert_eq!(ledger.generation_use(generation, now).await, Ok(used));
    }
    closed(&ledger, 1, 9).await;
    assert_eq!(find(&ledger, 1).await.state, SessionState::Closed);
    assert_eq!(ids().await, [2]);
}

async fn nonsense_leaves_nothing<L: Ledger>(ledger: L) {
    let none = NewSession {
        deposited: sat(0),
        ..session(1)
    };
    let nameless = NewSession {
        service: String::new(),
        ..session(1)
    };
    for broken in [none, nameless] {
        let refused = ledger.open_session(broken).await;
        assert!(matches!(refused, Err(LedgerError::Store(_))), "{refused:?}");
        assert_eq!(ledger.find_session(hash(1)).await, Ok(None));
    }
    opened(&ledger, 1).await;
    let none = NewDeposit {
        amount: sat(0),
        ..deposit(2, 1)
    };
    let refused = ledger.top_up(none).await;
    assert!(matches!(refused, Err(LedgerError::Store(_))), "{refused:?}");
    assert!(matches!(
        top_up(&ledger, 2, 1).await,
        Deposited::Credited(_)
    ));
}
