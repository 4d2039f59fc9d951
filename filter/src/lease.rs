//! What this VM may spend of accounts without asking: the filter's side of spec/lease.
//!
//! A pure state machine. Requests and stream events take units from a lease in memory; each tick
//! the reports of all leases go to the sidecar in one call, and its answers come back here. All
//! times are milliseconds of one clock that never goes back.

mod exchange;
mod holder;

use std::collections::{BTreeMap, VecDeque};

use protocol::lease::{AccountId, HolderId, Terms};

use self::holder::Lease;

/// Holders that have ended and may still give something back, at most.
const MOST_ENDED: usize = 4_096;
/// Leases on their way back beside the one in use, at most.
const MOST_RETURNING: usize = 4_096;
/// Accounts with a lease, at most: others wait until some are returned.
const MOST_LEASES: usize = 16_384;

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
            valid_ms: Terms::USUAL.valid_ms,
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

    /// VALID of what the next answers grant.
    pub const fn set_valid_ms(&mut self, valid_ms: u64) {
        self.times.valid_ms = valid_ms;
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
mod tests;
