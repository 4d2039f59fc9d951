//! What is said to the ledger, and what its answers do.

use std::ops::Bound;

use protocol::lease::{AccountId, AccountState, Answer, HolderId, MAX_REPORTS, Report};

use super::holder::{Lease, some_units};
use super::{Ended, InVain, Leases, MOST_ENDED, take_id};

/// Reports of ended holders in one call, at most.
const ENDED_PER_CALL: usize = 256;
/// A lease of which nothing was ever granted is forgotten after so long: by then the ledger has
/// taken back whatever it granted in an answer that was lost (L6).
const FORGET_MS: u64 = 10_000;

impl Leases {
    /// The first report of a lease that is to be granted together with opening the account (L10).
    /// It is no lease of ours before [`Self::begun`].
    pub const fn begin(&mut self, account: AccountId, price: u64) -> Report {
        Report {
            account,
            holder: take_id(&mut self.next_holder),
            used: 0,
            returned: 0,
            want: some_units(price),
            need: price,
            price,
            release: false,
        }
    }

    /// What came of a report of [`Self::begin`] that was sent at `sent_ms`. Says whether waiting is
    /// in vain. What was granted in an answer that was lost, or that is not needed since there is
    /// a lease already, is returned.
    pub fn begun(
        &mut self,
        report: &Report,
        answer: Option<&Answer>,
        sent_ms: u64,
    ) -> Option<InVain> {
        let mut lease = Lease::new(report.holder, sent_ms);
        lease.price = report.price;
        let answer = answer.filter(|a| a.account == report.account && a.holder == report.holder);
        if self.has(&report.account) || self.is_full() || answer.is_none() {
            self.give_up(report.account, lease);
        } else {
            self.leases.insert(report.account, lease);
        }
        answer.and_then(|answer| self.answered(answer, sent_ms))
    }

    /// Returns the lease of an account that this VM closes (L8): stops spending, and gives the
    /// report that goes with the close.
    pub fn release(&mut self, account: &AccountId, now_ms: u64) -> Option<Report> {
        let lease = self.leases.get_mut(account)?;
        lease.returning = true;
        Some(lease.report(*account, now_ms))
    }

    /// The reports of what is needed at once, between ticks.
    pub fn urgent_reports(&mut self, now_ms: u64) -> Vec<Report> {
        let (leases, idle_ms) = (&mut self.leases, self.times.idle_ms);
        let mut reports = Vec::new();
        self.needed.retain(|account| {
            let lease = leases.get_mut(account).filter(|lease| lease.need > 0);
            let Some(lease) = lease else {
                return false;
            };
            lease.look_at_clock(now_ms, idle_ms);
            if lease.asks(now_ms) && reports.len() < MAX_REPORTS {
                reports.push(lease.report(*account, now_ms));
            }
            true
        });
        reports
    }

    /// The reports of this tick; none when nothing is held, needed or returning (L9).
    pub fn reports(&mut self, now_ms: u64) -> Vec<Report> {
        for lease in self.leases.values_mut() {
            lease.look_at_clock(now_ms, self.times.idle_ms);
        }
        let is_forgotten = |lease: &Lease| {
            let age = now_ms.saturating_sub(lease.wanted_at_ms);
            lease.returning && lease.granted == 0 && age >= FORGET_MS
        };
        self.leases.retain(|_, lease| !is_forgotten(lease));
        let leases = &self.leases;
        self.needed
            .retain(|account| leases.get(account).is_some_and(|lease| lease.need > 0));
        self.returning.retain(|(_, lease)| !is_forgotten(lease));
        let mut reports = self.reports_of_leases(now_ms);
        let returning = self.returning.iter_mut().take(ENDED_PER_CALL);
        reports.extend(returning.map(|(account, lease)| lease.report(*account, now_ms)));
        let of_the_ended = self.ended.iter().filter(|one| one.returned > one.told);
        reports.extend(of_the_ended.take(ENDED_PER_CALL).map(|one| Report {
            account: one.account,
            holder: one.holder,
            used: one.used,
            returned: one.returned,
            want: 0,
            need: 0,
            price: 0,
            release: true,
        }));
        // A lease that begins and ends at once: the ledger hears of the account.
        for account in std::mem::take(&mut self.touched) {
            let mut lease = Lease::new(take_id(&mut self.next_holder), now_ms);
            lease.returning = true;
            reports.push(lease.report(account, now_ms));
        }
        reports.truncate(MAX_REPORTS);
        reports
    }

    fn reports_of_leases(&mut self, now_ms: u64) -> Vec<Report> {
        let start = self.cursor.take().map_or(Bound::Unbounded, Bound::Excluded);
        let reports: Vec<_> = self
            .leases
            .range_mut((start, Bound::Unbounded))
            .filter(|(_, lease)| !lease.rests(now_ms))
            .take(MAX_REPORTS)
            .map(|(account, lease)| lease.report(*account, now_ms))
            .collect();
        if reports.len() == MAX_REPORTS {
            self.cursor = reports.last().map(|report| report.account);
        } else if reports.is_empty() && start != Bound::Unbounded {
            return self.reports_of_leases(now_ms);
        }
        reports
    }

    /// One answer to a report that was sent at `sent_ms`. Says whether waiting is in vain.
    pub fn answered(&mut self, answer: &Answer, sent_ms: u64) -> Option<InVain> {
        let lease = self.leases.get_mut(&answer.account);
        let Some(lease) = lease.filter(|lease| lease.holder == answer.holder) else {
            self.answered_late(answer);
            return None;
        };
        lease.account_spent = lease.account_spent.max(answer.spent);
        // Of an account that there is not nothing is kept, whatever else is said.
        let is_over = answer.r#final || answer.state == AccountState::Unknown;
        if is_over && let Some(lease) = self.leases.remove(&answer.account) {
            // Who waits is heard again under a new id.
            let (need, price, wanted_at_ms) = (lease.need, lease.price, lease.wanted_at_ms);
            self.has_ended(answer.account, &lease, answer);
            if need > 0 && answer.state == AccountState::Open {
                let mut lease = Lease::new(take_id(&mut self.next_holder), wanted_at_ms);
                (lease.need, lease.price) = (need, price);
                self.leases.insert(answer.account, lease);
            }
        } else if let Some(lease) = self.leases.get_mut(&answer.account) {
            if !lease.returning {
                lease.granted = lease.granted.max(answer.granted);
                let until = sent_ms.saturating_add(self.times.valid_ms);
                lease.valid_until_ms = lease.valid_until_ms.max(until);
            }
            lease.returning |= answer.recall;
        }
        match answer.state {
            AccountState::Unknown => Some(InVain::Unknown),
            AccountState::Closed => Some(InVain::Closed),
            AccountState::Open => answer.short.then_some(InVain::Short),
        }
    }

    /// An answer to a lease that is returned beside the one in use, or has ended.
    fn answered_late(&mut self, answer: &Answer) {
        let is_asked = |holder: HolderId| holder == answer.holder;
        let ended = self.ended.iter_mut().find(|one| is_asked(one.holder));
        if let Some(ended) = ended {
            ended.told = ended.told.max(answer.returned);
        } else if answer.r#final
            && let Some(at) = self
                .returning
                .iter()
                .position(|(_, lease)| is_asked(lease.holder))
            && let Some((account, lease)) = self.returning.remove(at)
        {
            self.has_ended(account, &lease, answer);
        }
    }

    /// What the holder spent may still be given back.
    fn has_ended(&mut self, account: AccountId, lease: &Lease, answer: &Answer) {
        if lease.used > answer.returned {
            if self.ended.len() >= MOST_ENDED {
                self.ended.pop_front();
            }
            self.ended.push_back(Ended {
                account,
                holder: lease.holder,
                used: lease.used,
                returned: lease.returned,
                told: answer.returned,
            });
        }
    }
}
