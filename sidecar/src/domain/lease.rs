//! Leases: the ledger's side of spec/lease, as pure rules.
//!
//! A store reads one account with its holders under that account's lock, applies one of these
//! functions and writes back what changed, in one transaction: the same rules on every store.
//!
//! Always `0 ≤ spent + held ≤ deposited`, where `held` is what live holders have and have not
//! spent, and `spent` is what all holders ever have used and not given back, those that are
//! forgotten included.

use std::collections::BTreeMap;

use protocol::lease::{AccountState, Answer, HolderId, Report};

/// Live leases of one account, at most: more than any fleet has workers that one buyer uses at
/// once, and few enough to be read and written for each report.
pub const MOST_LIVE: usize = 256;

/// How long the ledger waits.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// RECLAIM: a holder of which nothing was heard for so long is made final (L6).
    pub reclaim_ms: u64,
    /// RECLAIM once the account is closed (L8).
    pub closing_ms: u64,
    /// Final holders are forgotten after so long: far beyond the longest life of a message (L11).
    pub forget_ms: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            reclaim_ms: 8_000,
            closing_ms: 2_000,
            forget_ms: 3_600_000,
        }
    }
}

/// An account with its holders. Amounts are in the unit that the account sells.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Account {
    /// Paid in.
    pub deposited: u64,
    /// Debited.
    pub spent: u64,
    /// What forgotten holders had used and not given back: their part of `spent`.
    pub forgotten: u64,
    /// Units may be granted.
    pub is_open: bool,
    /// Closed, and what goes back to the buyer is fixed: nothing is debited or given back any more.
    pub is_settled: bool,
    /// Leases, live and final.
    pub holders: BTreeMap<HolderId, Holder>,
}

/// One lease of one VM.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Holder {
    /// Granted, ever.
    pub granted: u64,
    /// Reported as spent, ever, and debited.
    pub used: u64,
    /// Reported as given back, ever, and no longer debited; never more than `used`.
    pub returned: u64,
    /// Reported as spent after the holder was made final: never debited, the seller's loss.
    pub late: u64,
    /// Not final.
    pub is_live: bool,
    /// Asked to return what is left.
    pub is_recalled: bool,
    /// When it was last heard of, by the ledger's clock.
    pub seen_ms: u64,
}

impl Holder {
    const fn unspent(&self) -> u64 {
        self.granted.saturating_sub(self.used)
    }

    /// Its part of what is debited.
    const fn kept(&self) -> u64 {
        self.used.saturating_sub(self.returned)
    }

    /// L6: what was not reported goes back.
    const fn end(&mut self) {
        self.granted = self.used;
        self.is_live = false;
    }

    /// How much of `used` was never heard of before.
    fn told_too_late(&mut self, used: u64) -> u64 {
        let known = self.used.max(self.late);
        self.late = self.late.max(used);
        used.saturating_sub(known)
    }
}

/// What a report led to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reported {
    /// For the VM.
    pub answer: Answer,
    /// Units that were served and can no longer be debited (L6).
    pub lost_units: u64,
}

/// The answer to a report on an account that is not there: the VM forgets the lease.
#[must_use]
pub const fn unknown(report: &Report) -> Answer {
    Answer {
        account: report.account,
        holder: report.holder,
        granted: 0,
        returned: report.returned,
        spent: 0,
        recall: true,
        r#final: true,
        short: false,
        state: AccountState::Unknown,
    }
}

impl Account {
    /// What live holders have and have not spent.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.live().map(|(_, holder)| holder.unspent()).sum()
    }

    /// What is neither spent nor held.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.deposited
            .saturating_sub(self.spent)
            .saturating_sub(self.held())
    }

    fn live(&self) -> impl Iterator<Item = (&HolderId, &Holder)> {
        self.holders.iter().filter(|(_, holder)| holder.is_live)
    }

    /// One report of one holder (L2, L3, L6, L7, L11).
    pub fn report(&mut self, report: &Report, now_ms: u64) -> Reported {
        let Some(mut holder) = self.holder_of(report, now_ms) else {
            return self.answer(report, Holder::default(), 0, false);
        };
        if !holder.is_live {
            let lost_units = holder.told_too_late(report.used);
            self.give_back(&mut holder, report.returned);
            self.holders.insert(report.holder, holder);
            return self.answer(report, holder, lost_units, false);
        }
        let used = report.used.min(holder.granted);
        self.spent = self.spent.saturating_add(used.saturating_sub(holder.used));
        holder.used = holder.used.max(used);
        self.give_back(&mut holder, report.returned);
        holder.seen_ms = now_ms;
        self.holders.insert(report.holder, holder);
        let mut is_short = false;
        if report.release {
            holder.end();
        } else if self.is_open && !holder.is_recalled {
            let others = self.held().saturating_sub(holder.unspent());
            let lacking = report.need.saturating_sub(holder.unspent());
            let free = self.free();
            if report.need == 0 || lacking <= free {
                holder.granted = holder.granted.saturating_add(grant(report, &holder, free));
            } else if lacking <= free.saturating_add(others) {
                self.recall_others(report.holder);
            } else {
                is_short = true;
            }
        }
        self.holders.insert(report.holder, holder);
        self.answer(report, holder, 0, is_short)
    }

    /// What was spent for nothing is no longer debited.
    fn give_back(&mut self, holder: &mut Holder, returned: u64) {
        let returned = returned.min(holder.used).max(holder.returned);
        if !self.is_settled {
            let more = returned.saturating_sub(holder.returned);
            self.spent = self.spent.saturating_sub(more);
            holder.returned = returned;
        }
    }

    /// The holder that reports; a new one only where something can be granted or a release has to
    /// be remembered (L11). Who asks when there are enough of them is told that its lease is final,
    /// and asks again until its patience ends.
    fn holder_of(&self, report: &Report, now_ms: u64) -> Option<Holder> {
        if let Some(holder) = self.holders.get(&report.holder) {
            return Some(*holder);
        }
        let has_room = report.release || self.live().count() < MOST_LIVE;
        (report.used == 0 && self.is_open && has_room).then_some(Holder {
            is_live: !report.release,
            seen_ms: now_ms,
            ..Holder::default()
        })
    }

    /// L7: whoever else holds unspent units is to return them.
    fn recall_others(&mut self, asker: HolderId) {
        for (id, holder) in &mut self.holders {
            if *id != asker && holder.is_live && holder.unspent() > 0 {
                holder.is_recalled = true;
            }
        }
    }

    fn answer(&self, report: &Report, holder: Holder, lost_units: u64, short: bool) -> Reported {
        let state = match self.is_open {
            true => AccountState::Open,
            false => AccountState::Closed,
        };
        Reported {
            answer: Answer {
                account: report.account,
                holder: report.holder,
                granted: holder.granted,
                returned: report.returned,
                spent: self.spent,
                recall: holder.is_recalled || !holder.is_live || !self.is_open,
                r#final: !holder.is_live,
                short,
                state,
            },
            lost_units,
        }
    }

    /// Ends holders that were not heard of, and forgets those that ended long ago (L6, L8, L11).
    /// The units that went back to the buyer.
    pub fn sweep(&mut self, times: &Times, now_ms: u64) -> u64 {
        let patience = match self.is_open {
            true => times.reclaim_ms,
            false => times.closing_ms,
        };
        let before = self.held();
        for holder in self.holders.values_mut() {
            if holder.is_live && now_ms.saturating_sub(holder.seen_ms) >= patience {
                holder.end();
            }
        }
        let forgotten = self.holders.extract_if(.., |_, holder| {
            !holder.is_live && now_ms.saturating_sub(holder.seen_ms) >= times.forget_ms
        });
        for (_, holder) in forgotten {
            self.forgotten = self.forgotten.saturating_add(holder.kept());
        }
        before.saturating_sub(self.held())
    }

    /// Fixes what goes back to the buyer, once no lease lives: gives it the first time only.
    pub fn settle(&mut self) -> Option<u64> {
        let refund = self.refund().filter(|_| !self.is_settled)?;
        self.is_settled = true;
        Some(refund)
    }

    /// Stops granting (L8). What is to be refunded is known when [`Self::refund`] says it.
    pub const fn close(&mut self) {
        self.is_open = false;
    }

    /// What goes back to the buyer: fixed when the account is closed and no lease lives.
    #[must_use]
    pub fn refund(&self) -> Option<u64> {
        let is_settled = !self.is_open && self.live().next().is_none();
        is_settled.then(|| self.deposited.saturating_sub(self.spent))
    }
}

/// What to grant when the need, if there is one, can be met (L3): the need in any case; beyond it
/// what is wanted, as long as others find something too.
fn grant(report: &Report, holder: &Holder, free: u64) -> u64 {
    let asked = report.want.saturating_sub(holder.granted);
    let least = report.need.saturating_sub(holder.unspent());
    let share = match free <= report.price.saturating_mul(4) {
        true => free,
        false => free / 2,
    };
    least.max(asked.min(share)).min(free)
}

#[cfg(test)]
mod tests;
