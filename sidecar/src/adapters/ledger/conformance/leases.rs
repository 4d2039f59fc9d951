//! Leases: every store does what the pure rules of [`crate::domain::lease`] say.

use std::sync::Arc;

use protocol::lease::{AccountState, HolderId, Report};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::session::*;
use crate::domain::lease::Account;
use crate::domain::ports::Ledger;
use crate::domain::session::{CloseBegun, Deposited, NewClose, NewSession, SessionState};

/// Sequences, and calls in each.
const WALKS: u64 = 12;
const STEPS: usize = 120;

pub(super) async fn all<L: Ledger>(make: &impl AsyncFn() -> L) {
    a_store_does_what_the_rules_say(make().await).await;
    many_leases_at_once_never_share_more_than_there_is(Arc::new(make().await)).await;
    a_batch_is_answered_in_its_order(make().await).await;
    a_session_that_is_not_there_is_unknown(make().await).await;
    what_is_heard_too_late_is_lost_to_the_seller_only(make().await).await;
    leases_that_ended_long_ago_are_forgotten(make().await).await;
    that_a_session_is_used_is_not_written_with_every_report(make().await).await;
}

/// One account in the store and beside it, through the same calls.
struct Twin<'a, L> {
    ledger: &'a L,
    n: u8,
    account: Account,
    steps: u64,
    deposits: u8,
}

impl<L: Ledger> Twin<'_, L> {
    async fn step(&mut self, random: &mut StdRng) {
        self.steps += 1;
        match random.random_range(0..100) {
            0..88 => self.report(random).await,
            88..92 => self.top_up().await,
            92..96 => self.sweep(PATIENT).await,
            96..98 => self.sweep(IMPATIENT).await,
            _ => self.close(random).await,
        }
        self.check().await;
    }

    fn some_report(&self, random: &mut StdRng) -> Report {
        let id = random.random_range(0..6);
        let holder = HolderId([id; 16]);
        let known = self.account.holders.get(&holder).copied();
        let known = known.unwrap_or_default();
        let amount = |random: &mut StdRng| match random.random_range(0..10) {
            0..7 => random.random_range(0..12),
            7..9 => random.random_range(0..200),
            _ => random.random(),
        };
        let used = match random.random_range(0..10) {
            0..6 => random.random_range(0..=known.granted.min(1_000)),
            6..9 => known.granted,
            _ => amount(random),
        };
        Report {
            used,
            returned: if random.random_ratio(1, 5) {
                random.random_range(0..=used.min(20))
            } else {
                known.returned
            },
            want: used.saturating_add(amount(random)),
            need: amount(random) * u64::from(random.random_ratio(1, 3)),
            price: random.random_range(1..6),
            release: random.random_ratio(1, 6),
            ..report(self.n, id)
        }
    }

    async fn report(&mut self, random: &mut StdRng) {
        let report = self.some_report(random);
        let expected = self.account.report(&report, self.steps);
        let settled = self.account.settle().is_some();
        let heard = self.ledger.report_leases(vec![report.clone()]);
        let heard = heard.await.unwrap();
        assert_eq!(heard.answers, [expected.answer], "{report:?}");
        assert_eq!(heard.lost_units, expected.lost_units);
        assert_eq!(heard.settled, self.if_settled(settled));
    }

    async fn top_up(&mut self) {
        self.deposits += 1;
        let id = 100 + self.n * 10 + self.deposits % 10;
        let heard = top_up(self.ledger, id, self.n).await;
        match heard {
            Deposited::Credited(_) => {
                assert!(self.account.is_open);
                self.account.deposited += 50;
            }
            Deposited::Claimed => assert!(self.account.is_open && self.deposits > 10),
            other => assert_eq!((other, self.account.is_open), (Deposited::Closed, false)),
        }
    }

    async fn sweep(&mut self, times: crate::domain::lease::Times) {
        // The store's clock is another, so nothing but "all" and "none" can be compared.
        let swept = self.ledger.sweep_leases(times, 100).await.unwrap();
        let reclaimed = self.account.sweep(&times, self.steps + 1);
        assert_eq!(swept.reclaimed, reclaimed);
        let settled = self.account.settle().is_some();
        assert_eq!(swept.settled, self.if_settled(settled));
    }

    fn if_settled(&self, settled: bool) -> Vec<protocol::hash::PaymentHash> {
        match settled {
            true => vec![hash(self.n)],
            false => Vec::new(),
        }
    }

    async fn close(&mut self, random: &mut StdRng) {
        let was_open = self.account.is_open;
        let new = NewClose {
            lease: random.random::<bool>().then(|| Report {
                release: true,
                ..self.some_report(random)
            }),
            ..close(self.n, random.random_range(240..250))
        };
        let begun = self.ledger.begin_close(new.clone()).await.unwrap();
        let CloseBegun::Begun { lease, .. } = begun else {
            assert_eq!((begun, was_open), (CloseBegun::AlreadyClosed, false));
            return;
        };
        self.account.close();
        let expected = new
            .lease
            .map(|report| self.account.report(&report, self.steps));
        assert_eq!(lease, expected);
        self.account.settle();
    }

    async fn check(&self) {
        let row = find(self.ledger, self.n).await;
        let account = &self.account;
        assert_eq!(row.deposited.get(), account.deposited);
        assert_eq!(row.spent.get(), account.spent);
        assert!(account.spent + account.held() <= account.deposited);
        let state = match (account.is_open, account.is_settled) {
            (true, _) => SessionState::Open,
            (false, false) => SessionState::Closing,
            (false, true) => SessionState::Closed,
        };
        assert_eq!(row.state, state);
        let ending = self.ledger.ending(hash(self.n)).await.unwrap().unwrap();
        assert_eq!(ending.rest.get(), account.deposited - account.spent);
        let owed = account.is_settled && ending.rest.get() > 0;
        assert_eq!(ending.refund.is_some(), owed);
    }
}

async fn a_store_does_what_the_rules_say<L: Ledger>(ledger: L) {
    for n in 1..=WALKS {
        let mut random = StdRng::seed_from_u64(n);
        let n = n as u8;
        opened(&ledger, n).await;
        let mut account = Account {
            deposited: DEPOSIT,
            is_open: true,
            ..Account::default()
        };
        // The lease that opened it is over, and known to be.
        let first = Report {
            release: true,
            ..report(n, 255)
        };
        account.report(&first, 0);
        let mut twin = Twin {
            ledger: &ledger,
            n,
            account,
            steps: 0,
            deposits: 0,
        };
        for _ in 0..STEPS {
            twin.step(&mut random).await;
        }
        // The next walk's sweep must not find anything of this one.
        closed(&ledger, n, 251).await;
        ledger.sweep_leases(IMPATIENT, 100).await.unwrap();
        assert_eq!(find(&ledger, n).await.state, SessionState::Closed);
    }
    let counts = ledger.session_counts().await.unwrap();
    assert_eq!((counts.open, counts.closing, counts.holders), (0, 0, 0));
}

async fn many_leases_at_once_never_share_more_than_there_is<L: Ledger>(ledger: Arc<L>) {
    opened(&*ledger, 1).await;
    let mut tasks = tokio::task::JoinSet::new();
    for holder in 0..64 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            let ask = Report {
                need: 1,
                want: 5,
                ..report(1, holder)
            };
            say(&*ledger, ask).await.granted
        });
    }
    let mut granted = 0;
    while let Some(done) = tasks.join_next().await {
        granted += done.unwrap();
    }
    assert!(granted <= DEPOSIT, "{granted}");
    // Nobody waits for what is free.
    assert_eq!(granted, DEPOSIT);
    assert_eq!(ledger.session_counts().await.unwrap().holders, 64);
}

async fn a_batch_is_answered_in_its_order<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    opened(&ledger, 2).await;
    let order = [(1, 1), (2, 1), (9, 1), (1, 2), (2, 1)];
    let reports = order.map(|(session, holder)| Report {
        want: 4,
        ..report(session, holder)
    });
    let heard = ledger.report_leases(reports.to_vec()).await.unwrap();
    let told: Vec<_> = heard
        .answers
        .iter()
        .map(|a| (a.account.0[0], a.holder.0[0]))
        .collect();
    assert_eq!(told, order);
    let granted: Vec<_> = heard.answers.iter().map(|a| a.granted).collect();
    assert_eq!(granted, [4, 4, 0, 4, 4]);
    assert_eq!(ledger.report_leases(Vec::new()).await.unwrap().answers, []);
}

async fn a_session_that_is_not_there_is_unknown<L: Ledger>(ledger: L) {
    let ask = Report {
        used: 3,
        want: 9,
        need: 1,
        ..report(1, 1)
    };
    let answer = say(&ledger, ask).await;
    assert_eq!(answer.state, AccountState::Unknown);
    assert!(answer.r#final && answer.recall);
    assert_eq!((answer.granted, answer.spent), (0, 0));
}

async fn what_is_heard_too_late_is_lost_to_the_seller_only<L: Ledger>(ledger: L) {
    let new = NewSession {
        lease: Report {
            want: 10,
            ..report(1, 1)
        },
        ..session(1)
    };
    ledger.open_session(new).await.unwrap();
    let swept = ledger.sweep_leases(PATIENT, 10).await.unwrap();
    assert_eq!(swept.reclaimed, 0);
    let swept = ledger.sweep_leases(IMPATIENT, 10).await.unwrap();
    assert_eq!(swept.reclaimed, 10);
    let late = Report {
        used: 4,
        ..report(1, 1)
    };
    for lost in [4, 0] {
        let heard = ledger.report_leases(vec![late.clone()]).await.unwrap();
        assert_eq!(heard.lost_units, lost, "counted once");
        assert!(heard.answers[0].r#final);
    }
    assert_eq!(find(&ledger, 1).await.spent, sat(0));
}

async fn leases_that_ended_long_ago_are_forgotten<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    let (live, over) = (report(1, 1), report(1, 2));
    say(&ledger, live.clone()).await;
    let release = Report {
        release: true,
        ..over.clone()
    };
    assert!(say(&ledger, release).await.r#final);
    assert!(say(&ledger, over.clone()).await.r#final, "remembered");
    let forget = crate::domain::lease::Times {
        forget_ms: 0,
        ..PATIENT
    };
    ledger.sweep_leases(forget, 10).await.unwrap();
    assert!(!say(&ledger, over).await.r#final, "as if it were new");
    assert!(!say(&ledger, live).await.r#final);
}

async fn that_a_session_is_used_is_not_written_with_every_report<L: Ledger>(ledger: L) {
    opened(&ledger, 1).await;
    let before = find(&ledger, 1).await;
    // Many within a second, and then on until it is written once more.
    let mut noted = 0_u32;
    let mut last = before.active_ms;
    let begun = std::time::Instant::now();
    while noted < 2 {
        assert!(begun.elapsed().as_secs() < 20, "never written");
        say(&ledger, report(1, 1)).await;
        let active = find(&ledger, 1).await.active_ms;
        if active != last {
            assert!(active >= last + 1_000, "{last} {active}");
            (noted, last) = (noted + 1, active);
        }
    }
}
