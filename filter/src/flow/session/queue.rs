//! Requests that wait for units of a session, in the order of their arrival.
//!
//! Who waits asks anew whenever an answer for its account comes, at most for a second: then the
//! units are held elsewhere, which is no fault of the buyer's.

use std::collections::VecDeque;
use std::rc::Rc;

use protocol::lease::AccountId;
use protocol::time::UnixSeconds;

use super::Bearer;
use crate::flow::limits::Client;
use crate::flow::reply::Manner;
use crate::flow::waiting::{Waiter, Wanted};

/// Requests that wait for one session, at most.
const MOST_PER_ACCOUNT: usize = 128;
/// Sessions that strangers have looked up at a time, at most: what they make up must not be in the
/// way of paid traffic.
const MOST_STRANGERS: usize = 256;

/// Who wants a unit of a session.
#[derive(Clone, Debug)]
pub(in crate::flow) struct Asker {
    pub(in crate::flow) bearer: Rc<Bearer>,
    pub(in crate::flow) service: usize,
    pub(in crate::flow) manner: Manner,
    pub(in crate::flow) client: Client,
    /// What it is offered if it cannot be had.
    pub(in crate::flow) wanted: Wanted,
    /// When the session was opened, if that was just done.
    pub(in crate::flow) opened: Option<UnixSeconds>,
    /// Reports from this number on speak for it.
    pub(in crate::flow) asks_from: u64,
}

/// A session that this VM knew nothing of is asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::flow) struct LookUp {
    pub(in crate::flow) client: Client,
    /// The client is not known to have paid anything.
    pub(in crate::flow) is_stranger: bool,
}

struct Queue {
    account: AccountId,
    waiters: VecDeque<Waiter<Asker>>,
    look_up: Option<LookUp>,
}

/// All who wait.
#[derive(Default)]
pub(in crate::flow) struct Units {
    /// In the order of their accounts.
    queues: Vec<Queue>,
    count: usize,
    strangers: usize,
}

impl Units {
    pub(in crate::flow) const fn len(&self) -> usize {
        self.count
    }

    fn place_of(&self, account: &AccountId) -> Result<usize, usize> {
        self.queues
            .binary_search_by(|queue| queue.account.cmp(account))
    }

    fn queue(&self, account: &AccountId) -> Option<&Queue> {
        self.queues.get(self.place_of(account).ok()?)
    }

    fn queue_mut(&mut self, account: &AccountId) -> Option<&mut Queue> {
        let place = self.place_of(account).ok()?;
        self.queues.get_mut(place)
    }

    pub(in crate::flow) fn waits_for(&self, account: &AccountId) -> bool {
        self.place_of(account).is_ok()
    }

    /// No more may wait for that account.
    pub(in crate::flow) fn is_full_for(&self, account: &AccountId) -> bool {
        let queue = self.queue(account);
        queue.is_some_and(|queue| queue.waiters.len() >= MOST_PER_ACCOUNT)
    }

    pub(in crate::flow) const fn is_full_of_strangers(&self) -> bool {
        self.strangers >= MOST_STRANGERS
    }

    pub(in crate::flow) fn push(&mut self, waiter: Waiter<Asker>, look_up: Option<LookUp>) {
        let account = waiter.what.bearer.account;
        let place = self.place_of(&account).unwrap_or_else(|place| {
            let queue = Queue {
                account,
                waiters: VecDeque::new(),
                look_up: None,
            };
            self.queues.insert(place, queue);
            place
        });
        let Some(queue) = self.queues.get_mut(place) else {
            return;
        };
        if let Some(look_up) = look_up.filter(|_| queue.look_up.is_none()) {
            self.strangers += usize::from(look_up.is_stranger);
            queue.look_up = Some(look_up);
        }
        queue.waiters.push_back(waiter);
        self.count += 1;
    }

    /// Who has waited longest.
    pub(in crate::flow) fn first(&self, account: &AccountId) -> Option<&Waiter<Asker>> {
        self.queue(account)?.waiters.front()
    }

    /// The same, who waits no longer.
    pub(in crate::flow) fn pop(&mut self, account: &AccountId) -> Option<Waiter<Asker>> {
        self.take(account, |_| true)
    }

    /// The first of those who are not to wait any longer.
    pub(in crate::flow) fn take(
        &mut self,
        account: &AccountId,
        is_right: impl Fn(&Waiter<Asker>) -> bool,
    ) -> Option<Waiter<Asker>> {
        let queue = self.queue_mut(account)?;
        let place = queue.waiters.iter().position(is_right)?;
        let waiter = queue.waiters.remove(place)?;
        self.count = self.count.saturating_sub(1);
        Some(waiter)
    }

    /// The look-up has been answered, or is given up.
    pub(in crate::flow) fn looked_up(&mut self, account: &AccountId) -> Option<LookUp> {
        let look_up = self.queue_mut(account)?.look_up.take()?;
        self.strangers = self
            .strangers
            .saturating_sub(usize::from(look_up.is_stranger));
        Some(look_up)
    }

    /// Forgets an account for which nobody waits any longer.
    pub(in crate::flow) fn forget_empty(&mut self, account: &AccountId) {
        let Ok(place) = self.place_of(account) else {
            return;
        };
        let is_empty = |queue: &Queue| queue.waiters.is_empty() && queue.look_up.is_none();
        if self.queues.get(place).is_some_and(is_empty) {
            self.queues.remove(place);
        }
    }

    /// Accounts for which somebody waits, and what all of those would spend.
    pub(in crate::flow) fn awaited(&self) -> impl Iterator<Item = (&AccountId, u64)> {
        self.queues.iter().map(|queue| {
            let prices = queue.waiters.iter().map(|one| one.what.bearer.price.get());
            (&queue.account, prices.fold(0, u64::saturating_add))
        })
    }

    /// Accounts of which somebody's deadline has passed.
    pub(in crate::flow) fn late(&self, now_ms: u64) -> Vec<AccountId> {
        let is_late = |queue: &Queue| {
            let first = queue.waiters.front();
            first.is_none_or(|waiter| waiter.deadline_ms <= now_ms)
        };
        let queues = self.queues.iter();
        queues
            .filter(|queue| is_late(queue))
            .map(|queue| queue.account)
            .collect()
    }

    /// Reports sent so far do not speak for those who wait.
    pub(in crate::flow) fn ask_again(&mut self, account: &AccountId, from: u64) {
        let queue = self.queue_mut(account);
        for waiter in queue.into_iter().flat_map(|queue| &mut queue.waiters) {
            waiter.what.asks_from = from;
        }
    }

    fn all(&self) -> impl Iterator<Item = &Waiter<Asker>> {
        self.queues.iter().flat_map(|queue| &queue.waiters)
    }

    pub(in crate::flow) fn holds(&self, stream: u32) -> bool {
        self.all().any(|waiter| waiter.stream == stream)
    }

    /// The stream does not wait any longer: its account.
    pub(in crate::flow) fn let_go(&mut self, stream: u32) -> Option<AccountId> {
        let waiter = self.all().find(|waiter| waiter.stream == stream)?;
        let account = waiter.what.bearer.account;
        self.take(&account, |waiter| waiter.stream == stream)?;
        Some(account)
    }
}
