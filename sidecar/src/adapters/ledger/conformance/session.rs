//! What the tests of sessions are made of.

use protocol::amount::Sat;
use protocol::hash::PaymentHash;
use protocol::lease::{AccountId, Answer, HolderId, Report};
use protocol::time::UnixSeconds;

use super::NODE;
use crate::domain::lease::Times;
use crate::domain::ports::Ledger;
use crate::domain::return_invoice::{ReturnInvoice, ReturnText};
use crate::domain::session::{
    CallMark, CloseBegun, Deposited, NewClose, NewDeposit, NewSession, Opened, SessionRow,
};

/// Some far day.
const LATER: u64 = 100_000_000_000;
pub(super) const DEPOSIT: u64 = 100;
pub(super) const IDLE_SECONDS: u64 = 3_600;

/// Nothing has been silent for long enough.
pub(super) const PATIENT: Times = Times {
    reclaim_ms: 3_600_000,
    closing_ms: 3_600_000,
    forget_ms: 3_600_000,
};
/// Everything has.
pub(super) const IMPATIENT: Times = Times {
    reclaim_ms: 0,
    closing_ms: 0,
    forget_ms: 3_600_000,
};

pub(super) fn hash(n: u8) -> PaymentHash {
    PaymentHash([n; 32])
}

pub(super) fn sat(amount: u64) -> Sat {
    Sat::new(amount).unwrap()
}

/// A call with the challenge of deposit `n`.
pub(super) fn call(n: u8, what: u8) -> CallMark {
    CallMark {
        challenge_id: format!("challenge-{n}"),
        fingerprint: [what; 32],
        payment_hash: hash(n),
        expires: UnixSeconds(LATER),
        generation: 0,
    }
}

/// Asks for nothing.
pub(super) fn report(session: u8, holder: u8) -> Report {
    Report {
        account: AccountId([session; 32]),
        holder: HolderId([holder; 16]),
        used: 0,
        returned: 0,
        want: 0,
        need: 0,
        price: 1,
        release: false,
    }
}

pub(super) fn return_invoice(n: u8) -> ReturnInvoice {
    ReturnInvoice {
        text: ReturnText(format!("lnbcrt-{n}")),
        payment_hash: PaymentHash([n ^ 0x80; 32]),
        expires: UnixSeconds(LATER),
    }
}

/// A session of [`DEPOSIT`] satoshis under key generation 0.
pub(super) fn session(n: u8) -> NewSession {
    NewSession {
        call: call(n, n),
        service: "weather".to_owned(),
        deposited: sat(DEPOSIT),
        return_invoice: return_invoice(n),
        node: NODE,
        idle_timeout_seconds: IDLE_SECONDS,
        lease: report(n, 255),
    }
}

/// Opens session `n`; its first lease is over.
pub(super) async fn opened<L: Ledger>(ledger: &L, n: u8) {
    let new = NewSession {
        lease: Report {
            release: true,
            ..report(n, 255)
        },
        ..session(n)
    };
    let opened = ledger.open_session(new).await.unwrap();
    assert!(matches!(opened, Opened::Opened { .. }), "{opened:?}");
}

pub(super) fn deposit(n: u8, session: u8) -> NewDeposit {
    NewDeposit {
        call: call(n, n),
        session_id: hash(session),
        service: "weather".to_owned(),
        amount: sat(50),
    }
}

pub(super) async fn top_up<L: Ledger>(ledger: &L, n: u8, session: u8) -> Deposited {
    ledger.top_up(deposit(n, session)).await.unwrap()
}

/// A close of a session with a challenge that was made for `challenge` and never paid.
pub(super) fn close(session: u8, challenge: u8) -> NewClose {
    NewClose {
        call: call(challenge, session.wrapping_add(100)),
        session_id: hash(session),
        must_be_own: false,
        lease: None,
    }
}

pub(super) async fn closed<L: Ledger>(ledger: &L, session: u8, challenge: u8) -> CloseBegun {
    ledger.begin_close(close(session, challenge)).await.unwrap()
}

pub(super) async fn find<L: Ledger>(ledger: &L, n: u8) -> SessionRow {
    ledger.find_session(hash(n)).await.unwrap().unwrap()
}

/// One report, answered.
pub(super) async fn say<L: Ledger>(ledger: &L, report: Report) -> Answer {
    let mut answers = ledger.report_leases(vec![report]).await.unwrap().answers;
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

pub(super) async fn open_with_lease<L: Ledger>(ledger: &L) {
    let new = NewSession {
        lease: Report {
            want: 10,
            ..report(1, 1)
        },
        ..session(1)
    };
    let opened = ledger.open_session(new).await.unwrap();
    assert!(matches!(opened, Opened::Opened { .. }), "{opened:?}");
}
