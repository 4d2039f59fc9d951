//! What this VM may spend of accounts without asking: the filter's side of spec/lease.
//!
//! A pure state machine. Requests and stream events take units from a lease in memory; each tick
//! the reports of all leases go to the sidecar in one call, and its answers come back here. All
//! times are milliseconds of one clock that never goes back.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use protocol::lease::{AccountId, AccountState, Answer, HolderId, MAX_REPORTS, Report, VALID_MS};

/// Holders that have ended and may still give something back, at most.
const MOST_ENDED: usize = 4_096;
/// Reports of ended holders in one call, at most.
const ENDED_PER_CALL: usize = 256;
/// Leases on their way back beside the one in use, at most.
const MOST_RETURNING: usize = 4_096;
/// Accounts with a lease, at most: others wait until some are returned.
const MOST_LEASES: usize = 16_384;
/// A lease of which nothing was ever granted is forgotten after so long: by then the ledger has
/// taken back whatever it granted in an answer that was lost (L6).
const FORGET_MS: u64 = 10_000;

/// Units that are wanted of any account that is in use: the first quick requests of a session are
/// not to wait for a call each.
const SOME_UNITS: u64 = 8;

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
            valid_ms: VALID_MS,
            idle_ms: 2_000,
        }
    }
}

/// Whether units were taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Spend {
    /// They are spent, by this holder: let the request or event go.
    Taken(HolderId),
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
    returned: u64,
    /// What the newest report said of `used` and `returned`.
    told_used: u64,
    told_returned: u64,
    /// What the account had spent when that was answered.
    account_spent: u64,
    /// Before the first answer this is 0, and nothing can be spent.
    valid_until_ms: u64,
    returning: bool,
    /// What the request or event that waits costs; 0 if none waits.
    need: u64,
    /// Before then the need is not asked for: it is known that there is too little.
    rests_until_ms: u64,
    price: u64,
    /// What all who wait now would spend at once; said anew before each report.
    awaited: u64,
    wanted_at_ms: u64,
    pace: Pace,
}

impl Lease {
    const fn new(holder: HolderId, now_ms: u64) -> Self {
        Self {
            holder,
            granted: 0,
            used: 0,
            returned: 0,
            told_used: 0,
            told_returned: 0,
            account_spent: 0,
            valid_until_ms: 0,
            returning: false,
            need: 0,
            rests_until_ms: 0,
            price: 0,
            awaited: 0,
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

    /// L3: about one second's worth, or some units to begin with, asked for when half of it is gone.
    /// Who waits would have spent in this second: a burst is not to wait for its first requests to
    /// show the rate.
    fn want(&self, now_ms: u64) -> u64 {
        if self.returning {
            return self.used;
        }
        let second = self.pace.per_second(now_ms).max(self.awaited);
        let second = second.max(self.need).max(some_units(self.price));
        if self.need == 0 && self.unspent() > second / 2 {
            return self.granted;
        }
        self.granted.max(self.used.saturating_add(second))
    }

    /// L5: what has lapsed or is not wanted is returned.
    const fn look_at_clock(&mut self, now_ms: u64, idle_ms: u64) {
        let has_lapsed = self.granted > 0 && now_ms >= self.valid_until_ms;
        let is_idle = now_ms.saturating_sub(self.wanted_at_ms) >= idle_ms;
        if is_idle {
            self.need = 0;
        }
        self.returning |= has_lapsed || is_idle;
    }

    /// Whoever waits is to ask now.
    const fn asks(&self, now_ms: u64) -> bool {
        self.need > 0 && now_ms >= self.rests_until_ms
    }

    /// There is nothing to say that would not be in vain.
    const fn rests(&self, now_ms: u64) -> bool {
        now_ms < self.rests_until_ms
            && self.need > 0
            && !self.returning
            && self.unspent() == 0
            && self.told_used == self.used
            && self.told_returned == self.returned
    }

    fn report(&mut self, account: AccountId, now_ms: u64) -> Report {
        (self.told_used, self.told_returned) = (self.used, self.returned);
        let want = self.want(now_ms);
        self.awaited = 0;
        Report {
            account,
            holder: self.holder,
            used: self.used,
            returned: self.returned,
            want,
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

/// A holder that has ended. What it spent may still be given back.
struct Ended {
    account: AccountId,
    holder: HolderId,
    used: u64,
    returned: u64,
    /// How much of `returned` the ledger has heard.
    told: u64,
}

/// All leases of this VM.
pub struct Leases {
    times: Times,
    next_holder: u128,
    leases: BTreeMap<AccountId, Lease>,
    /// Accounts of which somebody may need something at once, in their order.
    needed: Vec<AccountId>,
    /// Leases that are returned although another one of the account may be in use.
    returning: VecDeque<(AccountId, Lease)>,
    /// Oldest first.
    ended: VecDeque<Ended>,
    /// Accounts without a lease that are in use all the same.
    touched: Vec<AccountId>,
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
            needed: Vec::new(),
            returning: VecDeque::new(),
            ended: VecDeque::new(),
            touched: Vec::new(),
            cursor: None,
        }
    }

    /// No lease of an account that has none can be begun now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.leases.len() >= MOST_LEASES
    }

    /// Something of the account may be spent here, or is asked for.
    #[must_use]
    pub fn has(&self, account: &AccountId) -> bool {
        self.leases.contains_key(account)
    }

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

    /// Takes over the leases of a part of this VM that has ended: what they hold is returned.
    pub fn absorb(&mut self, other: Self) {
        for (account, lease) in other.leases.into_iter().chain(other.returning) {
            self.give_up(account, lease);
        }
        self.ended.extend(other.ended);
        while self.ended.len() > MOST_ENDED {
            self.ended.pop_front();
        }
    }

    fn give_up(&mut self, account: AccountId, mut lease: Lease) {
        lease.returning = true;
        lease.need = 0;
        if self.returning.len() >= MOST_RETURNING {
            self.returning.pop_front();
        }
        self.returning.push_back((account, lease));
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
            return Spend::Taken(lease.holder);
        }
        if lease.need == 0
            && let Err(place) = self.needed.binary_search(&account)
        {
            self.needed.insert(place, account);
        }
        lease.need = price;
        Spend::Lacking
    }

    /// Gives back what `holder` spent for something that was never delivered.
    pub fn give_back(&mut self, account: &AccountId, holder: HolderId, price: u64) {
        if let Some(lease) = self.leases.get_mut(account)
            && lease.holder == holder
        {
            lease.returned = lease.returned.saturating_add(price).min(lease.used);
        } else if let Some((_, lease)) = self.returning_of(holder) {
            lease.returned = lease.returned.saturating_add(price).min(lease.used);
        } else if let Some(ended) = self.ended.iter_mut().rev().find(|one| one.holder == holder) {
            ended.returned = ended.returned.saturating_add(price).min(ended.used);
        }
    }

    fn returning_of(&mut self, holder: HolderId) -> Option<&mut (AccountId, Lease)> {
        self.returning
            .iter_mut()
            .find(|(_, lease)| lease.holder == holder)
    }

    /// The account is in use although nothing of it is spent (L9).
    pub fn touch(&mut self, account: AccountId) {
        if !self.leases.contains_key(&account) && !self.touched.contains(&account) {
            self.touched.push(account);
        }
    }

    /// What the account has spent, as far as this VM knows; `None` without a lease.
    #[must_use]
    pub fn spent_of(&self, account: &AccountId) -> Option<u64> {
        let lease = self.leases.get(account)?;
        let since = lease.used.saturating_sub(lease.told_used);
        Some(lease.account_spent.saturating_add(since))
    }

    /// So many units of the account are waited for, all together.
    pub fn expect(&mut self, account: &AccountId, units: u64) {
        if let Some(lease) = self.leases.get_mut(account) {
            lease.awaited = units;
        }
    }

    /// Nobody waits any longer for units of the account.
    pub fn stop_waiting(&mut self, account: &AccountId) {
        if let Some(lease) = self.leases.get_mut(account) {
            lease.need = 0;
        }
    }

    /// Even all that is left of the account is too little for those who wait: nothing is asked on
    /// their behalf before that time, unless somebody says [`Self::ask_now`].
    pub fn rest(&mut self, account: &AccountId, until_ms: u64) {
        if let Some(lease) = self.leases.get_mut(account) {
            lease.rests_until_ms = until_ms;
        }
    }

    /// There may be money, or somebody who does not know better asks for it.
    pub fn ask_now(&mut self, account: &AccountId) {
        self.rest(account, 0);
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

const fn some_units(price: u64) -> u64 {
    price.saturating_mul(SOME_UNITS)
}

const fn take_id(next: &mut u128) -> HolderId {
    let id = *next;
    *next = next.wrapping_add(1);
    HolderId(id.to_le_bytes())
}

#[cfg(test)]
mod tests;
