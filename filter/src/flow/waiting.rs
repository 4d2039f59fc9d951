//! Requests that are held: for the first bootstrap, for an offer, for a claim, or for a session.
//!
//! A stream that has gone is noticed only when its turn comes, so the number of held requests is
//! bounded and each has a deadline. Turns are taken from root callbacks, a bounded number each:
//! resumed requests with trailers nest, and some 1,500 of them overflow the VM's stack.

use std::collections::VecDeque;
use std::rc::Rc;

use super::claims::{Claimant, Claimed};
use super::limits::{Client, Prefix};
use super::payment;
use super::reply::{Manner, Reply, Why};
use super::session::{Errand, Spent, Units};
use super::stock::{Offer, Scheme};

/// A request that is held.
#[derive(Clone, Debug)]
pub(super) struct Waiter<T> {
    pub(super) stream: u32,
    pub(super) since_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) what: T,
}

impl<T> Waiter<T> {
    /// The stream, and since when it is held.
    pub(super) const fn place(&self) -> (u32, u64) {
        (self.stream, self.since_ms)
    }
}

/// What a request that waits for an offer will be told.
#[derive(Clone)]
pub(super) struct Unoffered {
    pub(super) manner: Manner,
    /// Why the credential that came with it was refused, if one came.
    pub(super) refused: Option<Why>,
    pub(super) client: Client,
    /// The schemes by which it is to be sold to.
    pub(super) wanted: Wanted,
    /// A deposit that its client has seen before; then none is wanted.
    pub(super) deposit: Option<Offer>,
}

/// Schemes by which something is offered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wanted {
    pub(super) l402: bool,
    pub(super) charge: bool,
    pub(super) session: bool,
}

impl Wanted {
    /// Nothing may be offered.
    pub(super) const NOTHING: Self = Self {
        l402: false,
        charge: false,
        session: false,
    };

    pub(super) const fn has(self, scheme: Scheme) -> bool {
        match scheme {
            Scheme::L402 => self.l402,
            Scheme::Charge => self.charge,
            Scheme::Session => self.session,
        }
    }
}

/// What is to be done with a request that need not wait any longer.
pub(super) enum Turn {
    /// Keys have come: decide as if it had just arrived.
    Decide,
    /// Show it these offers of the numbered service, one for each scheme.
    Challenge {
        service: usize,
        unoffered: Unoffered,
        offers: Vec<Offer>,
    },
    /// Tell it why its credential is refused where no invoice may be made.
    Unauthorized {
        service: usize,
        unoffered: Unoffered,
    },
    /// It has been paid for and claimed.
    Forward {
        service: usize,
        claimed: Rc<Claimed>,
    },
    /// A session has paid for it.
    Spent(Rc<Spent>),
    /// Tell it what has been done.
    Reply(Box<Reply>),
    /// Not now: this status and `Retry-After`.
    Refuse {
        service: Option<usize>,
        manner: Manner,
        status: u16,
        retry_after_seconds: u64,
    },
}

/// A request whose turn it is.
pub struct Due {
    /// The host's number of the stream.
    pub stream: u32,
    /// When it was held.
    pub since_ms: u64,
    pub(super) turn: Turn,
}

/// All held requests of one gate.
#[derive(Default)]
pub(super) struct Waiting {
    for_keys: VecDeque<Waiter<Manner>>,
    /// By the number of the service.
    for_offers: Vec<Queue>,
    offers_awaited: usize,
    /// In the order of their numbers.
    for_claims: VecDeque<Waiter<Box<Claimant>>>,
    pub(super) units: Units,
    pub(super) errands: VecDeque<Waiter<Box<Errand>>>,
    due: VecDeque<Due>,
    /// Of those, how many nothing was paid for.
    unpaid_due: usize,
}

/// Who waits for offers of one service, and how many of them for each scheme.
#[derive(Default)]
struct Queue {
    waiters: VecDeque<Waiter<Unoffered>>,
    counts: [usize; Scheme::ALL.len()],
}

impl Queue {
    fn count(&mut self, wanted: Wanted, change: fn(&mut usize)) {
        for (count, scheme) in self.counts.iter_mut().zip(Scheme::ALL) {
            if wanted.has(scheme) {
                change(count);
            }
        }
    }

    fn push(&mut self, waiter: Waiter<Unoffered>) {
        self.count(waiter.what.wanted, |count| *count += 1);
        self.waiters.push_back(waiter);
    }

    /// The one that came first, if that `is_right`.
    fn pop_if(
        &mut self,
        is_right: impl FnOnce(&Waiter<Unoffered>) -> bool,
    ) -> Option<Waiter<Unoffered>> {
        let waiter = self.waiters.pop_front_if(|waiter| is_right(waiter))?;
        self.count(waiter.what.wanted, |count| *count = count.saturating_sub(1));
        Some(waiter)
    }
}

impl Waiting {
    pub(super) fn new(services: usize) -> Self {
        let mut for_offers = Vec::new();
        for_offers.resize_with(services, Queue::default);
        Self {
            for_offers,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.for_keys.len()
            + self.offers_awaited
            + self.for_claims.len()
            + self.units.len()
            + self.errands.len()
            + self.due.len()
    }

    /// How many of them nothing was paid for, as far as is known: they wait for keys or offers, or
    /// have waited for them.
    pub(super) fn unpaid(&self) -> usize {
        self.for_keys.len() + self.offers_awaited + self.unpaid_due
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// The first of those who wait for a call about a session that `is_right`.
    pub(super) fn take_errand(
        &mut self,
        is_right: impl Fn(&Waiter<Box<Errand>>) -> bool,
    ) -> Option<Waiter<Box<Errand>>> {
        let place = self.errands.iter().position(is_right)?;
        self.errands.remove(place)
    }

    /// Looks at all: only for streams with trailers that come while they are held.
    pub(super) fn holds(&self, stream: u32) -> bool {
        let mut offers = self.for_offers.iter().flat_map(|queue| &queue.waiters);
        self.for_keys.iter().any(|waiter| waiter.stream == stream)
            || offers.any(|waiter| waiter.stream == stream)
            || self.for_claims.iter().any(|waiter| waiter.stream == stream)
            || payment::IS_BUILT_IN
                && (self.errands.iter().any(|waiter| waiter.stream == stream)
                    || self.units.holds(stream))
            || self.due.iter().any(|due| due.stream == stream)
    }

    pub(super) fn for_keys(&mut self, waiter: Waiter<Manner>) {
        self.for_keys.push_back(waiter);
    }

    /// `false` if there is no such service.
    pub(super) fn for_offer(&mut self, service: usize, waiter: Waiter<Unoffered>) -> bool {
        let Some(queue) = self.for_offers.get_mut(service) else {
            return false;
        };
        queue.push(waiter);
        self.offers_awaited += 1;
        true
    }

    /// Numbers only ever grow.
    pub(super) fn for_claim(&mut self, waiter: Waiter<Box<Claimant>>) {
        self.for_claims.push_back(waiter);
    }

    /// Who waits for the claim of that number, unless it has been told to come again.
    pub(super) fn claimant_of(&self, number: u64) -> Option<&Claimant> {
        let place = self
            .for_claims
            .binary_search_by_key(&number, |waiter| waiter.what.number)
            .ok()?;
        self.for_claims.get(place).map(|waiter| &*waiter.what)
    }

    /// The same, who waits no longer.
    pub(super) fn claimant(&mut self, number: u64) -> Option<Waiter<Box<Claimant>>> {
        let place = self
            .for_claims
            .binary_search_by_key(&number, |waiter| waiter.what.number)
            .ok()?;
        self.for_claims.remove(place)
    }

    /// The claimant whose request this is.
    pub(super) fn claimant_on(&mut self, stream: u32) -> Option<Waiter<Box<Claimant>>> {
        let place = self.for_claims.iter().position(|w| w.stream == stream)?;
        self.for_claims.remove(place)
    }

    /// The next claimant whose deadline has passed.
    pub(super) fn late_claimant(&mut self, now_ms: u64) -> Option<Waiter<Box<Claimant>>> {
        self.for_claims.pop_front_if(|w| w.deadline_ms <= now_ms)
    }

    pub(super) fn count_for(&self, service: usize, scheme: Scheme) -> usize {
        let count = |queue: &Queue| match (queue.counts, scheme) {
            ([l402, ..], Scheme::L402) => l402,
            ([_, charge, _], Scheme::Charge) => charge,
            ([.., session], Scheme::Session) => session,
        };
        self.for_offers.get(service).map_or(0, count)
    }

    /// The prefix of all who wait for this service, if it is one and the same.
    pub(super) fn only_client(&self, service: usize) -> Option<Prefix> {
        let mut clients = self
            .for_offers
            .get(service)?
            .waiters
            .iter()
            .map(|waiter| waiter.what.client.prefix());
        let first = clients.next()??;
        clients.all(|client| client == Some(first)).then_some(first)
    }

    /// The stream's turn has come.
    pub(super) fn is_due(&mut self, (stream, since_ms): (u32, u64), turn: Turn) {
        self.unpaid_due += usize::from(!turn.is_of_a_payer());
        self.due.push_back(Due {
            stream,
            since_ms,
            turn,
        });
    }

    /// Keys are there: everyone who waited for them is decided afresh.
    pub(super) fn keys_arrived(&mut self) {
        while let Some(waiter) = self.for_keys.pop_front() {
            self.is_due(waiter.place(), Turn::Decide);
        }
    }

    /// Hands offers out in the order of arrival, as long as `take` has what the next one wants.
    pub(super) fn offers_arrived(
        &mut self,
        service: usize,
        mut take: impl FnMut(Wanted) -> Option<Vec<Offer>>,
    ) {
        loop {
            let Some(queue) = self.for_offers.get_mut(service) else {
                return;
            };
            let mut offers = None;
            let waiter = queue.pop_if(|waiter| {
                offers = take(waiter.what.wanted);
                offers.is_some()
            });
            let (Some(waiter), Some(offers)) = (waiter, offers) else {
                return;
            };
            self.offers_awaited = self.offers_awaited.saturating_sub(1);
            let place = waiter.place();
            let turn = Turn::Challenge {
                service,
                unoffered: waiter.what,
                offers,
            };
            self.is_due(place, turn);
        }
    }

    /// No offers come by that scheme: of the oldest `count` who wait those that wanted some are
    /// told so, and those before them. `give_back` is told who they were.
    pub(super) fn offers_refused(
        &mut self,
        (service, scheme): (usize, Scheme),
        count: usize,
        status: u16,
        retry_after_seconds: u64,
        mut give_back: impl FnMut(Client),
    ) {
        let mut left = count.min(self.count_for(service, scheme));
        while left > 0 {
            let queue = self.for_offers.get_mut(service);
            let Some(waiter) = queue.and_then(|queue| queue.pop_if(|_| true)) else {
                return;
            };
            self.offers_awaited = self.offers_awaited.saturating_sub(1);
            left -= usize::from(waiter.what.wanted.has(scheme));
            give_back(waiter.what.client);
            let turn = Turn::Refuse {
                service: Some(service),
                manner: waiter.what.manner,
                status,
                retry_after_seconds,
            };
            self.is_due(waiter.place(), turn);
        }
    }

    /// Whose deadline has passed is told to come again. Each queue is in the order of deadlines.
    pub(super) fn expire(&mut self, now_ms: u64, mut give_back: impl FnMut(Client)) {
        while let Some(waiter) = self.for_keys.pop_front_if(|w| w.deadline_ms <= now_ms) {
            self.is_due(waiter.place(), Turn::come_again(None, waiter.what));
        }
        if self.offers_awaited == 0 {
            return;
        }
        for service in 0..self.for_offers.len() {
            let mut late = || {
                let queue = self.for_offers.get_mut(service)?;
                queue.pop_if(|waiter| waiter.deadline_ms <= now_ms)
            };
            while let Some(waiter) = late() {
                self.offers_awaited = self.offers_awaited.saturating_sub(1);
                give_back(waiter.what.client);
                let turn = Turn::come_again(Some(service), waiter.what.manner);
                self.unpaid_due += 1;
                self.due.push_back(Due {
                    stream: waiter.stream,
                    since_ms: waiter.since_ms,
                    turn,
                });
            }
        }
    }

    pub(super) fn next_due(&mut self) -> Option<Due> {
        let due = self.due.pop_front()?;
        let is_unpaid = usize::from(!due.turn.is_of_a_payer());
        self.unpaid_due = self.unpaid_due.saturating_sub(is_unpaid);
        Some(due)
    }
}

impl Turn {
    /// Something was paid for the request.
    const fn is_of_a_payer(&self) -> bool {
        matches!(self, Self::Forward { .. } | Self::Spent(_) | Self::Reply(_))
    }

    /// 503: a fault of ours.
    pub(super) const fn come_again(service: Option<usize>, manner: Manner) -> Self {
        Self::Refuse {
            service,
            manner,
            status: 503,
            retry_after_seconds: super::RETRY_AFTER_SECONDS,
        }
    }
}
