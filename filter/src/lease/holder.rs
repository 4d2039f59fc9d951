//! One lease of one account: what may be spent of it, and what is to be said of it.

use protocol::lease::{AccountId, HolderId, Report};

/// Units that are wanted of any account that is in use: the first quick requests of a session are
/// not to wait for a call each.
const SOME_UNITS: u64 = 8;

/// One lease of one account.
pub(super) struct Lease {
    pub(super) holder: HolderId,
    pub(super) granted: u64,
    pub(super) used: u64,
    pub(super) returned: u64,
    /// What the newest report said of `used` and `returned`.
    pub(super) told_used: u64,
    pub(super) told_returned: u64,
    /// What the account had spent when that was answered.
    pub(super) account_spent: u64,
    /// Before the first answer this is 0, and nothing can be spent.
    pub(super) valid_until_ms: u64,
    pub(super) returning: bool,
    /// What the request or event that waits costs; 0 if none waits.
    pub(super) need: u64,
    /// Before then the need is not asked for: it is known that there is too little.
    pub(super) rests_until_ms: u64,
    pub(super) price: u64,
    /// What all who wait now would spend at once; said anew before each report.
    pub(super) awaited: u64,
    pub(super) wanted_at_ms: u64,
    pub(super) pace: Pace,
}

impl Lease {
    pub(super) const fn new(holder: HolderId, now_ms: u64) -> Self {
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

    pub(super) const fn unspent(&self) -> u64 {
        self.granted.saturating_sub(self.used)
    }

    /// L4.
    pub(super) const fn may_spend(&self, price: u64, now_ms: u64) -> bool {
        price <= self.unspent() && !self.returning && now_ms < self.valid_until_ms
    }

    /// L3: about one second's worth, or some units to begin with, asked for when half of it is gone.
    /// Who waits would have spent in this second: a burst is not to wait for its first requests to
    /// show the rate.
    pub(super) fn want(&self, now_ms: u64) -> u64 {
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
    pub(super) const fn look_at_clock(&mut self, now_ms: u64, idle_ms: u64) {
        let has_lapsed = self.granted > 0 && now_ms >= self.valid_until_ms;
        let is_idle = now_ms.saturating_sub(self.wanted_at_ms) >= idle_ms;
        if is_idle {
            self.need = 0;
        }
        self.returning |= has_lapsed || is_idle;
    }

    /// Whoever waits is to ask now.
    pub(super) const fn asks(&self, now_ms: u64) -> bool {
        self.need > 0 && now_ms >= self.rests_until_ms
    }

    /// There is nothing to say that would not be in vain.
    pub(super) const fn rests(&self, now_ms: u64) -> bool {
        now_ms < self.rests_until_ms
            && self.need > 0
            && !self.returning
            && self.unspent() == 0
            && self.told_used == self.used
            && self.told_returned == self.returned
    }

    pub(super) fn report(&mut self, account: AccountId, now_ms: u64) -> Report {
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
pub(super) struct Pace {
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

    pub(super) fn spent(&mut self, price: u64, now_ms: u64) {
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

pub(super) const fn some_units(price: u64) -> u64 {
    price.saturating_mul(SOME_UNITS)
}
