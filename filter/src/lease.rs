//! What this VM may spend of accounts without asking: the filter's side of spec/lease.
//!
//! A pure state machine. Requests and stream events take units from a lease in memory; each tick
//! the reports of all leases go to the sidecar in one call, and its answers come back here. All
//! times are milliseconds of one clock that never goes back.

use std::collections::BTreeMap;
use std::ops::Bound;

use protocol::lease::{AccountId, AccountState, Answer, HolderId, MAX_REPORTS, Report};

/// How long leases last.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// VALID: a lease may be spent until so long after the request for the newest answer was sent.
    pub valid_ms: u64,
    /// A lease that nobody wanted to spend for so long is returned.
    pub idle_ms: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            valid_ms: 5_000,
            idle_ms: 2_000,
        }
    }
}

/// Whether units were taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Spend {
    /// They are spent: let the request or event go.
    Taken,
    /// Not enough is here. The next report asks for it; try again after an answer.
    Lacking,
}

/// Why whoever waits for units of an account waits in vain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InVain {
    /// Even all that is left in the account is too little.
    Short,
    /// The account is closed.
    Closed,
    /// There is no such account.
    Unknown,
}

/// One lease of one account.
struct Lease {
    holder: HolderId,
    granted: u64,
    used: u64,
    /// Before the first answer this is 0, and nothing can be spent.
    valid_until_ms: u64,
    returning: bool,
    /// What the request or event that waits costs; 0 if none waits.
    need: u64,
    price: u64,
    wanted_at_ms: u64,
    pace: Pace,
}

impl Lease {
    const fn new(holder: HolderId, now_ms: u64) -> Self {
        Self {
            holder,
            granted: 0,
            used: 0,
            valid_until_ms: 0,
            returning: false,
            need: 0,
            price: 0,
            wanted_at_ms: now_ms,
            pace: Pace::new(),
        }
    }

    const fn unspent(&self) -> u64 {
        self.granted.saturating_sub(self.used)
    }

    /// L4.
    const fn may_spend(&self, price: u64, now_ms: u64) -> bool {
        price <= self.unspent() && !self.returning && now_ms < self.valid_until_ms
    }

    /// L3: about one second's worth, asked for when half of it is gone.
    fn want(&self, now_ms: u64) -> u64 {
        if self.returning {
            return self.used;
        }
        let second = self.pace.per_second(now_ms).max(self.need).max(self.price);
        if self.need == 0 && self.unspent() > second / 2 {
            return self.granted;
        }
        self.granted.max(self.used.saturating_add(second))
    }

    fn report(&self, account: AccountId, now_ms: u64) -> Report {
        Report {
            account,
            holder: self.holder,
            used: self.used,
            want: self.want(now_ms),
            need: if self.returning { 0 } else { self.need },
            price: self.price,
            release: self.returning,
        }
    }
}

/// Units spent per second: those of the fuller of this second and the one before.
#[derive(Clone, Copy)]
struct Pace {
    second: u64,
    this: u64,
    last: u64,
}

impl Pace {
    const fn new() -> Self {
        Self {
            second: 0,
            this: 0,
            last: 0,
        }
    }

    fn spent(&mut self, price: u64, now_ms: u64) {
        let second = now_ms / 1_000;
        if second != self.second {
            self.last = if second == self.second.saturating_add(1) {
                self.this
            } else {
                0
            };
            (self.second, self.this) = (second, 0);
        }
        self.this = self.this.saturating_add(price);
    }

    fn per_second(&self, now_ms: u64) -> u64 {
        match (now_ms / 1_000).checked_sub(self.second) {
            Some(0) => self.this.max(self.last),
            Some(1) => self.this,
            _ => 0,
        }
    }
}

/// All leases of this VM.
pub struct Leases {
    times: Times,
    next_holder: u128,
    leases: BTreeMap<AccountId, Lease>,
    /// Where the next round of reports begins, when there were too many for one call.
    cursor: Option<AccountId>,
}

impl Leases {
    /// No lease yet. `seed` is random: holders are numbered from it on, so that no two VMs ever
    /// use the same id.
    #[must_use]
    pub const fn new(times: Times, seed: [u8; 16]) -> Self {
        Self {
            times,
            next_holder: u128::from_le_bytes(seed),
            leases: BTreeMap::new(),
            cursor: None,
        }
    }

    /// Takes `price` units of the account, if they are here.
    pub fn spend(&mut self, account: AccountId, price: u64, now_ms: u64) -> Spend {
        let next = &mut self.next_holder;
        let lease = self
            .leases
            .entry(account)
            .or_insert_with(|| Lease::new(take_id(next), now_ms));
        lease.wanted_at_ms = now_ms;
        lease.price = price;
        if lease.may_spend(price, now_ms) {
            lease.used = lease.used.saturating_add(price);
            lease.need = 0;
            lease.pace.spent(price, now_ms);
            return Spend::Taken;
        }
        lease.need = price;
        Spend::Lacking
    }

    /// Nobody waits any longer for units of the account.
    pub fn stop_waiting(&mut self, account: &AccountId) {
        if let Some(lease) = self.leases.get_mut(account) {
            lease.need = 0;
        }
    }

    /// Returns the lease of an account that this VM closes (L8): stops spending, and gives the
    /// report that goes with the close.
    pub fn release(&mut self, account: &AccountId, now_ms: u64) -> Option<Report> {
        let lease = self.leases.get_mut(account)?;
        lease.returning = true;
        Some(lease.report(*account, now_ms))
    }

    /// The reports of this tick; none when nothing is held, needed or returning (L9).
    pub fn reports(&mut self, now_ms: u64) -> Vec<Report> {
        for lease in self.leases.values_mut() {
            let has_lapsed = lease.granted > 0 && now_ms >= lease.valid_until_ms;
            let is_idle = now_ms.saturating_sub(lease.wanted_at_ms) >= self.times.idle_ms;
            if is_idle {
                lease.need = 0;
            }
            lease.returning |= has_lapsed || is_idle;
        }
        let start = self.cursor.take().map_or(Bound::Unbounded, Bound::Excluded);
        let reports: Vec<_> = self
            .leases
            .range((start, Bound::Unbounded))
            .take(MAX_REPORTS)
            .map(|(account, lease)| lease.report(*account, now_ms))
            .collect();
        if reports.len() == MAX_REPORTS {
            self.cursor = reports.last().map(|report| report.account);
        } else if reports.is_empty() && start != Bound::Unbounded {
            return self.reports(now_ms);
        }
        reports
    }

    /// One answer to a report that was sent at `sent_ms`. Says whether waiting is in vain.
    pub fn answered(&mut self, answer: &Answer, sent_ms: u64) -> Option<InVain> {
        let lease = self.leases.get_mut(&answer.account)?;
        if lease.holder != answer.holder {
            return None;
        }
        if answer.r#final {
            // Who waits is heard again under a new id.
            let (need, price, wanted_at_ms) = (lease.need, lease.price, lease.wanted_at_ms);
            self.leases.remove(&answer.account);
            if need > 0 && answer.state == AccountState::Open {
                let mut lease = Lease::new(take_id(&mut self.next_holder), wanted_at_ms);
                (lease.need, lease.price) = (need, price);
                self.leases.insert(answer.account, lease);
            }
        } else {
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

    /// How many leases there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }
}

const fn take_id(next: &mut u128) -> HolderId {
    let id = *next;
    *next = next.wrapping_add(1);
    HolderId(id.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: AccountId = AccountId([1; 32]);

    fn leases() -> Leases {
        Leases::new(Times::default(), [9; 16])
    }

    /// What the ledger would say to the only report.
    fn granted(leases: &mut Leases, now_ms: u64, units: u64) -> Answer {
        let reports = leases.reports(now_ms);
        let [report] = &reports[..] else {
            panic!("{reports:?}");
        };
        Answer {
            account: report.account,
            holder: report.holder,
            granted: units,
            recall: false,
            r#final: false,
            short: false,
            state: AccountState::Open,
        }
    }

    #[test]
    fn nothing_is_spent_before_it_is_granted_and_no_more_than_that() {
        let mut leases = leases();
        assert_eq!(leases.spend(ACCOUNT, 2, 0), Spend::Lacking);
        let answer = granted(&mut leases, 0, 5);
        assert_eq!(leases.answered(&answer, 0), None);
        assert_eq!(leases.spend(ACCOUNT, 2, 10), Spend::Taken);
        assert_eq!(leases.spend(ACCOUNT, 2, 10), Spend::Taken);
        assert_eq!(leases.spend(ACCOUNT, 2, 10), Spend::Lacking);
    }

    #[test]
    fn a_lease_lasts_from_when_its_report_was_sent() {
        let mut leases = leases();
        assert_eq!(leases.spend(ACCOUNT, 1, 0), Spend::Lacking);
        let answer = granted(&mut leases, 0, 5);
        // The answer took 4 s.
        assert_eq!(leases.answered(&answer, 0), None);
        assert_eq!(leases.spend(ACCOUNT, 1, 4_999), Spend::Taken);
        assert_eq!(leases.spend(ACCOUNT, 1, 5_000), Spend::Lacking);
        assert!(leases.reports(5_000)[0].release);
    }

    #[test]
    fn a_lease_that_is_returned_is_not_spent_and_its_id_is_not_used_again() {
        let mut leases = leases();
        assert_eq!(leases.spend(ACCOUNT, 1, 0), Spend::Lacking);
        let answer = granted(&mut leases, 0, 5);
        leases.answered(&answer, 0);
        let recalled = Answer {
            recall: true,
            ..answer.clone()
        };
        leases.answered(&recalled, 100);
        assert_eq!(leases.spend(ACCOUNT, 1, 100), Spend::Lacking);
        assert!(leases.reports(100)[0].release);
        let ended = Answer {
            r#final: true,
            ..recalled
        };
        leases.answered(&ended, 100);
        let again = &leases.reports(200)[0];
        assert!(again.holder != answer.holder && again.need == 1 && !again.release);
        // Late words to the old holder change nothing.
        leases.answered(&answer, 0);
        assert_eq!(leases.spend(ACCOUNT, 1, 200), Spend::Lacking);
    }

    #[test]
    fn what_nobody_wants_is_returned_and_then_nothing_is_sent() {
        let mut leases = leases();
        assert_eq!(leases.spend(ACCOUNT, 1, 0), Spend::Lacking);
        let answer = granted(&mut leases, 0, 1);
        leases.answered(&answer, 0);
        assert_eq!(leases.spend(ACCOUNT, 1, 0), Spend::Taken);
        let report = leases.reports(2_000).remove(0);
        assert!(report.release && report.used == 1);
        leases.answered(
            &Answer {
                r#final: true,
                ..answer
            },
            2_000,
        );
        assert!(leases.is_empty() && leases.reports(3_000).is_empty());
    }

    #[test]
    fn a_quick_spender_asks_for_a_second_ahead_of_need() {
        let mut leases = leases();
        assert_eq!(leases.spend(ACCOUNT, 1, 0), Spend::Lacking);
        let answer = granted(&mut leases, 0, 100);
        leases.answered(&answer, 0);
        for _ in 0..60 {
            assert_eq!(leases.spend(ACCOUNT, 1, 100), Spend::Taken);
        }
        let report = &leases.reports(200)[0];
        assert_eq!((report.used, report.want, report.need), (60, 100, 0));
        for _ in 0..20 {
            assert_eq!(leases.spend(ACCOUNT, 1, 300), Spend::Taken);
        }
        assert_eq!(leases.reports(300)[0].want, 160);
    }

    #[test]
    fn more_leases_than_one_call_holds_take_turns() {
        let mut leases = leases();
        for number in 0..1_500_u16 {
            let mut account = [0; 32];
            account[..2].copy_from_slice(&number.to_be_bytes());
            assert_eq!(leases.spend(AccountId(account), 1, 0), Spend::Lacking);
        }
        let first = leases.reports(0);
        let second = leases.reports(100);
        assert_eq!(
            (first.len(), second.len()),
            (MAX_REPORTS, 1_500 - MAX_REPORTS)
        );
        assert!(second[0].account > first[MAX_REPORTS - 1].account);
        assert_eq!(leases.reports(200)[0].account, first[0].account);
    }
}
