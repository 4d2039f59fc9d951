//! What becomes of a request that is to be shown an offer.

use protocol::policy::PluginConfig;

use super::decide::seconds;
use super::stock::{NoOffers, Offer, Scheme, Shelf};
use super::waiting::{Turn, Unoffered, Waiter, Wanted};
use super::{RETRY_AFTER_SECONDS, State, patience_ms, payment};

/// The shelves of one service, by scheme.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shelves(pub(super) [Option<usize>; Scheme::ALL.len()]);

impl Shelves {
    fn wanted(self, wanted: Wanted) -> impl Iterator<Item = usize> {
        let shelves = self.0.into_iter().zip(Scheme::ALL);
        shelves
            .filter(move |(_, scheme)| wanted.has(*scheme))
            .filter_map(|(shelf, _)| shelf)
    }
}

impl State {
    /// Who was held is refused: with offers, or without where none may be made. `None` if it waits
    /// for offers.
    pub(super) fn refuse_held(
        &mut self,
        config: &PluginConfig,
        place: (u32, u64),
        service: usize,
        unoffered: Unoffered,
        now_ms: u64,
    ) -> Option<Turn> {
        if unoffered.wanted == Wanted::NOTHING {
            Some(Turn::Unauthorized { service, unoffered })
        } else {
            self.offer(config, place, service, unoffered, now_ms)
        }
    }

    /// A client that has a session may be shown a deposit again.
    fn find_deposit(&mut self, service: usize, unoffered: &mut Unoffered, now_ms: u64) {
        if payment::IS_BUILT_IN
            && unoffered.wanted.session
            && let Some(prefix) = unoffered.client.prefix()
            && let Some(offer) = self.sessions.deposits.again(prefix, service, now_ms)
        {
            unoffered.wanted.session = false;
            unoffered.deposit = Some(offer);
        }
    }

    /// Offers for a request that arrived `since`, a refusal, or `None` if it waits for offers.
    pub(super) fn offer(
        &mut self,
        config: &PluginConfig,
        (stream, since_ms): (u32, u64),
        service: usize,
        unoffered: Unoffered,
        now_ms: u64,
    ) -> Option<Turn> {
        let mut unoffered = unoffered;
        self.find_deposit(service, &mut unoffered, now_ms);
        let Unoffered {
            manner,
            client,
            wanted,
            ..
        } = unoffered;
        if wanted == Wanted::NOTHING {
            // All that is shown was shown before, and costs nothing.
            let offers = Vec::new();
            return Some(Turn::Challenge {
                service,
                unoffered,
                offers,
            });
        }
        let refuse = |status, retry_after_seconds| {
            Some(Turn::Refuse {
                service: Some(service),
                manner,
                status,
                retry_after_seconds,
            })
        };
        if let Err(retry_after) = self.clients.take(client, now_ms) {
            return refuse(429, retry_after);
        }
        let Some(shelves) = self.shelves_of.get(service).copied() else {
            self.clients.give_back(client, now_ms);
            return refuse(503, RETRY_AFTER_SECONDS);
        };
        for index in shelves.wanted(wanted) {
            if let Some(shelf) = self.shelves.get_mut(index) {
                shelf.note_demand(now_ms);
            }
        }
        // Who waits came first.
        let is_first = Scheme::ALL
            .iter()
            .all(|one| !wanted.has(*one) || self.waiting.count_for(service, *one) == 0);
        if is_first && let Some(offers) = take(&mut self.shelves, shelves, wanted, now_ms) {
            for index in shelves.wanted(wanted) {
                self.restock(config, index, now_ms);
            }
            return Some(Turn::Challenge {
                service,
                unoffered,
                offers,
            });
        }
        let refusal = shelves
            .wanted(wanted)
            .find_map(|index| self.shelves.get(index)?.refusal(now_ms));
        if let Some(NoOffers {
            status,
            retry_after_seconds,
        }) = refusal
        {
            self.clients.give_back(client, now_ms);
            return refuse(status, retry_after_seconds);
        }
        self.hold_for_offer(config, (stream, since_ms), service, unoffered, now_ms)
    }

    fn hold_for_offer(
        &mut self,
        config: &PluginConfig,
        (stream, since_ms): (u32, u64),
        service: usize,
        unoffered: Unoffered,
        now_ms: u64,
    ) -> Option<Turn> {
        let Unoffered { manner, client, .. } = unoffered;
        let waiter = Waiter {
            stream,
            since_ms,
            deadline_ms: now_ms.saturating_add(patience_ms(config)),
            what: unoffered,
        };
        if self.is_full_of_strangers(config) || !self.waiting.for_offer(service, waiter) {
            self.clients.give_back(client, now_ms);
            return Some(Turn::come_again(Some(service), manner));
        }
        self.restock_service(config, service, now_ms);
        None
    }

    /// No more requests may be held.
    pub(super) fn is_full(&self, config: &PluginConfig) -> bool {
        self.waiting.len() >= usize::try_from(config.max_waiting).unwrap_or(usize::MAX)
    }

    /// No more requests may be held for which nothing was paid, as far as is known: half of the
    /// room is for those that wait for a claim, for units or for what is done to a session.
    pub(super) fn is_full_of_strangers(&self, config: &PluginConfig) -> bool {
        let most = usize::try_from(config.max_waiting.div_ceil(2)).unwrap_or(usize::MAX);
        self.is_full(config) || self.waiting.unpaid() >= most
    }

    pub(super) fn restock_service(&mut self, config: &PluginConfig, service: usize, now_ms: u64) {
        let shelves = self.shelves_of.get(service).copied().unwrap_or_default();
        for index in shelves.0.into_iter().flatten() {
            self.restock(config, index, now_ms);
        }
    }

    /// Offers have come, or none will: hands out what there is.
    pub(super) fn hand_out(&mut self, service: usize, now_ms: u64) {
        let shelves = self.shelves_of.get(service).copied().unwrap_or_default();
        let (waiting, all) = (&mut self.waiting, &mut self.shelves);
        waiting.offers_arrived(service, |wanted| take(all, shelves, wanted, now_ms));
    }

    /// Offers that nobody has seen can be sold to somebody else.
    pub(super) fn put_back(&mut self, service: usize, offers: Vec<Offer>) {
        for offer in offers {
            let of_service = |shelf: &&mut Shelf| {
                shelf.service == service && shelf.wares.scheme() == offer.goods.scheme()
            };
            if let Some(shelf) = self.shelves.iter_mut().find(of_service) {
                shelf.put_back(offer);
            }
        }
    }
}

/// One offer of each wanted scheme, or none at all.
fn take(all: &mut [Shelf], shelves: Shelves, wanted: Wanted, now_ms: u64) -> Option<Vec<Offer>> {
    let now = seconds(now_ms);
    let mut indices = shelves.wanted(wanted);
    let has_all = indices.all(|index| all.get_mut(index).is_some_and(|shelf| shelf.has(now)));
    if !has_all {
        return None;
    }
    let offers: Vec<_> = shelves
        .wanted(wanted)
        .filter_map(|index| all.get_mut(index)?.take(now))
        .collect();
    (!offers.is_empty()).then_some(offers)
}
