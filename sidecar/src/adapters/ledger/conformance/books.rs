//! Bookkeeping: a ledger that was used adds up, and whatever does not is named.

use std::collections::BTreeSet;
use std::time::Duration;

use protocol::amount::Msat;
use protocol::lease::Report;
use protocol::time::UnixSeconds;

use super::session::{PATIENT, closed, hash, opened, report, say, top_up};
use super::{batch, claims, offer, settlement, with_key};
use crate::domain::books::{EntryKind, Place};
use crate::domain::claim::{ClaimTimes, Claimed, NewClaim};
use crate::domain::invoice::Settlement;
use crate::domain::lease::Times;
use crate::domain::offer::{OfferRow, Scheme, Validity};
use crate::domain::ports::Ledger;

const MOST: u32 = 100;
/// Some far day.
const LATER: u64 = 100_000_000_000;

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    a_ledger_in_use_adds_up(make().await).await;
    leases_that_are_forgotten_leave_what_they_spent(make().await).await;
    entries_are_read_in_pages_and_each_once(make().await).await;
    deposits_that_nobody_presented_are_listed(make().await).await;
    charges_that_nobody_presented_are_listed(make().await).await;
}

async fn deposits_that_nobody_presented_are_listed<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let deposits = [1, 2, 8, 9].map(|n| OfferRow {
        scheme: Scheme::Session,
        ..offer(n, Validity::Forever)
    });
    let other = offer(3, Validity::Forever);
    let offers = deposits.into_iter().chain([other]).collect();
    ledger.record_offers(batch(offers)).await.unwrap();
    // The first opens a session, the second is added to it.
    opened(&ledger, 1).await;
    top_up(&ledger, 2, 1).await;
    let paid = [1, 2, 3, 9].map(|n| settlement(n, n.into())).to_vec();
    ledger.record_settlements(super::NODE, paid).await.unwrap();
    let all = async || {
        let place = Place::since(EntryKind::UnclaimedDeposit, UnixSeconds(0));
        let all = ledger
            .entries(EntryKind::UnclaimedDeposit, place, MOST)
            .await;
        let all = all.unwrap();
        let kind = EntryKind::UnclaimedDeposit;
        assert!(all.iter().all(|entry| entry.kind == kind));
        all.iter().map(|e| (e.id, e.at.0)).collect::<Vec<_>>()
    };
    assert_eq!(all().await, [(hash(9), 200)]);
    // Late is not too late.
    top_up(&ledger, 9, 1).await;
    assert_eq!(all().await, []);
}

/// Charge 4 is claimed; 5 too, and its claim is forgotten; 6 is not; the claim of 7 is let go.
async fn charges_that_nobody_presented_are_listed<L: Ledger>(ledger: L) {
    with_key(&ledger).await;
    let of = |n, scheme| OfferRow {
        scheme,
        ..offer(n, Validity::Forever)
    };
    let charges = [4, 5, 6, 7, 8].map(|n| of(n, Scheme::Charge));
    let others = [of(1, Scheme::Session), of(3, Scheme::L402)];
    let offers = charges.into_iter().chain(others).collect();
    ledger.record_offers(batch(offers)).await.unwrap();
    let paid = [1, 3, 4, 5, 6, 7].map(|n| settlement(n, n.into())).to_vec();
    ledger.record_settlements(super::NODE, paid).await.unwrap();
    let all = async || {
        let kind = EntryKind::UnclaimedCharge;
        let all = ledger.entries(kind, Place::since(kind, UnixSeconds(0)), MOST);
        let all = all.await.unwrap();
        assert!(all.iter().all(|entry| entry.kind == kind));
        all.iter()
            .map(|e| (e.id, e.amount_msat))
            .collect::<Vec<_>>()
    };
    let listed = |numbers: &[u8]| -> Vec<_> { numbers.iter().map(|n| (hash(*n), 1_600)).collect() };
    assert_eq!(all().await, listed(&[4, 5, 6, 7]));

    let kept = |seconds| ClaimTimes {
        kept: Duration::from_secs(seconds),
        ..ClaimTimes::default()
    };
    let claim = |n, expires| NewClaim {
        expires: UnixSeconds(expires),
        ..claims::claim(n, 1)
    };
    for (n, expires) in [(4, LATER), (5, 1_000), (7, LATER)] {
        let claimed = ledger.claim(claim(n, expires), kept(LATER)).await;
        assert_eq!(claimed, Ok(Claimed::Won));
    }
    assert_eq!(all().await, listed(&[6]));
    assert_eq!(ledger.drop_old_claims(kept(0), 10).await, Ok(1));
    assert_eq!(all().await, listed(&[6]), "what was claimed stays claimed");
    assert_eq!(ledger.abandon(claims::attempt(7, 1)).await, Ok(1));
    assert_eq!(all().await, listed(&[6, 7]));
    let again = ledger.claim(claim(6, LATER), kept(LATER)).await;
    assert_eq!(again, Ok(Claimed::Won));
    assert_eq!(all().await, listed(&[7]));
}

async fn used<L: Ledger>(ledger: &L) {
    with_key(ledger).await;
    for (n, sat) in [(1, 100), (2, 100), (3, 100), (11, 50)] {
        paid(ledger, n, sat).await;
    }
    super::open_with_lease(ledger).await;
    for n in [2, 3] {
        opened(ledger, n).await;
    }
    top_up(ledger, 11, 2).await;
    closed(ledger, 3, 33).await;
}

/// Deposit `n` is offered and paid.
pub(super) async fn paid<L: Ledger>(ledger: &L, n: u8, sat: u64) {
    let deposit = OfferRow {
        scheme: Scheme::Session,
        ..offer(n, Validity::Forever)
    };
    ledger.record_offers(batch(vec![deposit])).await.unwrap();
    let paid = Settlement {
        amount: Msat::new(sat * 1_000).unwrap(),
        ..settlement(n, 0)
    };
    let sold = ledger.record_settlements(super::NODE, vec![paid]).await;
    assert_eq!(sold.unwrap().len(), 1);
}

async fn a_ledger_in_use_adds_up<L: Ledger>(ledger: L) {
    assert_eq!(ledger.violations(MOST).await, Ok(Vec::new()), "empty");
    used(&ledger).await;
    assert_eq!(ledger.violations(MOST).await, Ok(Vec::new()));
}

/// 60 satoshis are granted to three leases of session 1. One has ended and is forgotten, one has
/// ended and is remembered, one lives; they used 20, 10 and 7, of which 5 were given back, once
/// while the lease lived and once when it had ended.
async fn spent_by_three_leases<L: Ledger>(ledger: &L) {
    with_key(ledger).await;
    paid(ledger, 1, 100).await;
    opened(ledger, 1).await;
    let lease = |holder| Report {
        want: 20,
        need: 20,
        ..report(1, holder)
    };
    for holder in [1, 2, 3] {
        assert_eq!(say(ledger, lease(holder)).await.granted, 20);
    }
    let over = |holder, used, returned| Report {
        used,
        returned,
        release: true,
        ..report(1, holder)
    };
    say(ledger, over(1, 20, 3)).await;
    let forget = Times {
        forget_ms: 0,
        ..PATIENT
    };
    ledger.sweep_leases(forget, 10).await.unwrap();
    say(ledger, over(2, 10, 0)).await;
    say(ledger, over(2, 10, 2)).await;
    let living = Report {
        used: 7,
        ..report(1, 3)
    };
    assert_eq!(say(ledger, living).await.spent, 32);
}

async fn leases_that_are_forgotten_leave_what_they_spent<L: Ledger>(ledger: L) {
    spent_by_three_leases(&ledger).await;
    let adds_up = async || assert_eq!(ledger.violations(MOST).await, Ok(Vec::new()));
    adds_up().await;
    // The last one is ended by the sweep that forgets it, and so are all.
    let forget_all = Times {
        reclaim_ms: 0,
        closing_ms: 0,
        forget_ms: 0,
    };
    ledger.sweep_leases(forget_all, 10).await.unwrap();
    adds_up().await;
    ledger.sweep_leases(forget_all, 10).await.unwrap();
    adds_up().await;
    closed(&ledger, 1, 9).await;
    adds_up().await;
    assert_eq!(super::session::find(&ledger, 1).await.spent.get(), 32);
}

/// Made behind the ledger's back, taken back, and what is said of it meanwhile.
const UNEQUAL: [(&str, &str, &str); 8] = [
    (
        "UPDATE sessions SET spent_sat = spent_sat + 3",
        "UPDATE sessions SET spent_sat = spent_sat - 3",
        "what is spent is not what its leases have used and not given back, \
         spent 35, used_and_forgotten 17, used 15, difference 3",
    ),
    (
        "UPDATE sessions SET spent_sat = spent_sat - 4",
        "UPDATE sessions SET spent_sat = spent_sat + 4",
        "what is spent is not what its leases have used and not given back, \
         spent 28, used_and_forgotten 17, used 15, difference -4",
    ),
    (
        "UPDATE sessions SET forgotten_sat = forgotten_sat + 1",
        "UPDATE sessions SET forgotten_sat = forgotten_sat - 1",
        "what is spent is not what its leases have used and not given back, \
         spent 32, used_and_forgotten 18, used 15, difference -1",
    ),
    (
        "UPDATE lease_holders SET used = used + 2 WHERE used = 7",
        "UPDATE lease_holders SET used = used - 2 WHERE used = 9",
        "what is spent is not what its leases have used and not given back, \
         spent 32, used_and_forgotten 17, used 17, difference -2",
    ),
    (
        "UPDATE lease_holders SET granted = granted + 56 WHERE used = 7",
        "UPDATE lease_holders SET granted = granted - 56 WHERE used = 7",
        "more is spent and held than was deposited, \
         deposited 100, spent 32, held 69, too_much 1",
    ),
    (
        "UPDATE lease_holders SET granted = granted + 6 WHERE used = 10",
        "UPDATE lease_holders SET granted = granted - 6 WHERE used = 10",
        "leases that have ended hold what is to go back, held 6, leases 1",
    ),
    (
        "UPDATE lease_holders SET late = 9 WHERE used = 7",
        "UPDATE lease_holders SET late = 0 WHERE used = 7",
        "leases that had ended live again, reported_late 9, leases 1",
    ),
    (
        "DELETE FROM lease_holders WHERE used = 10",
        "UPDATE sessions SET forgotten_sat = forgotten_sat + 8",
        "what is spent is not what its leases have used and not given back, \
         spent 32, used_and_forgotten 17, used 7, difference 8",
    ),
];

/// Whose it is and by how much, whichever side of the account was changed.
pub(crate) async fn an_account_that_is_not_its_leases_is_named<L: Ledger>(
    ledger: &L,
    execute: impl AsyncFn(&str),
) {
    spent_by_three_leases(ledger).await;
    for (plant, take_back, said) in UNEQUAL {
        execute(plant).await;
        let found = ledger.violations(MOST).await.unwrap();
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(lines, [format!("{}: {said}", hash(1))], "{plant}");
        execute(take_back).await;
        assert_eq!(ledger.violations(MOST).await, Ok(Vec::new()), "{take_back}");
    }
}

/// Each of these changes, made behind the ledger's back, breaks one rule at least.
pub(crate) const FAULTS: [&str; 15] = [
    "UPDATE lease_holders SET granted = granted + 1000000",
    "UPDATE lease_holders SET granted = 1000000, used = 1000000",
    "UPDATE sessions SET deposited_sat = deposited_sat + 1",
    "UPDATE claims SET purpose = 'charge'",
    "DELETE FROM session_results",
    "UPDATE session_results SET payment_hash = (SELECT min(return_hash) FROM sessions)
     WHERE payment_hash = (SELECT min(payment_hash) FROM session_results WHERE kind <> 'close')",
    "UPDATE sessions SET state = 'open', closed_ms = NULL",
    "DELETE FROM refunds",
    "UPDATE refunds SET return_hash = (SELECT min(session_id) FROM sessions)",
    "UPDATE session_results SET refund_sats = 1000000, refund_status = 'failed'
     WHERE kind = 'close'",
    "DELETE FROM sales",
    "UPDATE sales SET amount_msat = amount_msat + 1000",
    "UPDATE offers SET state = 'offered'",
    "UPDATE sessions SET state = 'closing', closed_ms = 1 WHERE deposited_sat = 150",
    "UPDATE refunds SET state = 'succeeded', sent_sat = 1, fee_limit_msat = 1, fee_msat = 2",
];

/// Each of these is refused by the database itself.
pub(crate) const REFUSED: [&str; 5] = [
    "UPDATE refunds SET state = 'succeeded'",
    "UPDATE refunds SET state = 'sending', worker = NULL",
    "UPDATE refunds SET sent_sat = 1",
    "UPDATE refunds SET state = 'succeeded', sent_sat = 1, fee_limit_msat = 1",
    "UPDATE session_results SET payment_hash = (SELECT min(payment_hash) FROM session_results)",
];

/// A ledger that was used.
pub(crate) async fn in_use<L: Ledger>(ledger: &L) {
    used(ledger).await;
}

/// On a ledger of its own for each of [`FAULTS`]; `execute` changes what is behind it.
pub(crate) async fn a_fault_is_named<L: Ledger>(
    ledger: &L,
    fault: &str,
    execute: impl AsyncFn(&str),
) -> BTreeSet<&'static str> {
    used(ledger).await;
    execute(fault).await;
    let found = ledger.violations(MOST).await.unwrap();
    assert!(!found.is_empty(), "{fault} is not noticed");
    for violation in &found {
        let line = violation.to_string();
        assert!(line.contains(violation.rule) && line.len() > 66, "{line}");
    }
    found.iter().map(|violation| violation.rule).collect()
}

async fn entries_are_read_in_pages_and_each_once<L: Ledger>(ledger: L) {
    used(&ledger).await;
    for (kind, expected) in [
        (
            EntryKind::Sale,
            vec![(1, 100_000), (2, 100_000), (3, 100_000), (11, 50_000)],
        ),
        (
            EntryKind::Session,
            vec![(1, 100_000), (2, 150_000), (3, 100_000)],
        ),
        (EntryKind::Refund, vec![(3, 100_000)]),
    ] {
        let mut place = Place::since(kind, UnixSeconds(0));
        let mut read = Vec::new();
        loop {
            let page = ledger.entries(kind, place, 2).await.unwrap();
            assert!(page.len() <= 2);
            let Some(last) = page.last() else { break };
            place = last.place;
            read.extend(page);
        }
        let mut seen: Vec<_> = read.iter().map(|e| (e.id.0[0], e.amount_msat)).collect();
        seen.sort_unstable();
        assert_eq!(seen, expected, "{kind:?}");
        assert!(read.iter().all(|entry| entry.kind == kind));
        let later = Place::since(kind, UnixSeconds(u64::MAX / 1_000_000));
        assert_eq!(ledger.entries(kind, later, 2).await, Ok(Vec::new()));
    }
    let sessions = Place::since(EntryKind::Session, UnixSeconds(0));
    let sessions = ledger.entries(EntryKind::Session, sessions, 9).await;
    let sessions = sessions.unwrap();
    let closed = sessions.iter().find(|entry| entry.id == hash(3)).unwrap();
    assert_eq!(
        (closed.state.as_str(), closed.spent_msat),
        ("closed", Some(0))
    );
}
