//! Requests that are held: for the first bootstrap, or for an offer.
//!
//! A stream that has gone is noticed only when its turn comes, so the number of held requests is
//! bounded and each has a deadline. Turns are taken from root callbacks, a bounded number each:
//! some 300 replies from one callback overflow the VM's stack.

use std::collections::VecDeque;

use super::limits::{Client, Prefix};
use super::reply::Manner;
use super::stock::Offer;

/// A request that is held.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter<T> {
    pub(super) stream: u32,
    pub(super) since_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) what: T,
}

/// What a request that waits for an offer will be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unoffered {
    pub(super) manner: Manner,
    /// Why the credential that came with it was refused, if one came.
    pub(super) refused: Option<&'static str>,
    pub(super) client: Client,
}

/// What is to be done with a request that need not wait any longer.
pub(super) enum Turn {
    /// Keys have come: decide as if it had just arrived.
    Decide,
    /// Show it this offer of the numbered service.
    Challenge {
        shelf: usize,
        unoffered: Unoffered,
        offer: Offer,
    },
    /// The sidecar has none: this status and `Retry-After`.
    Refuse {
        shelf: Option<usize>,
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
    for_offers: Vec<VecDeque<Waiter<Unoffered>>>,
    offers_awaited: usize,
    due: VecDeque<Due>,
}

impl Waiting {
    pub(super) fn new(shelves: usize) -> Self {
        let mut for_offers = Vec::new();
        for_offers.resize_with(shelves, VecDeque::new);
        Self {
            for_offers,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.for_keys.len() + self.offers_awaited + self.due.len()
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Looks at all: only for streams with trailers that come while they are held.
    pub(super) fn holds(&self, stream: u32) -> bool {
        let mut offers = self.for_offers.iter().flatten();
        self.for_keys.iter().any(|waiter| waiter.stream == stream)
            || offers.any(|waiter| waiter.stream == stream)
            || self.due.iter().any(|due| due.stream == stream)
    }

    pub(super) fn for_keys(&mut self, waiter: Waiter<Manner>) {
        self.for_keys.push_back(waiter);
    }

    /// `false` if there is no such shelf.
    pub(super) fn for_offer(&mut self, shelf: usize, waiter: Waiter<Unoffered>) -> bool {
        let Some(queue) = self.for_offers.get_mut(shelf) else {
            return false;
        };
        queue.push_back(waiter);
        self.offers_awaited += 1;
        true
    }

    pub(super) fn count_for(&self, shelf: usize) -> usize {
        self.for_offers.get(shelf).map_or(0, VecDeque::len)
    }

    /// The prefix of all who wait for this shelf, if it is one and the same.
    pub(super) fn only_client(&self, shelf: usize) -> Option<Prefix> {
        let mut clients = self
            .for_offers
            .get(shelf)?
            .iter()
            .map(|waiter| waiter.what.client.prefix());
        let first = clients.next()??;
        clients.all(|client| client == Some(first)).then_some(first)
    }

    /// Keys are there: everyone who waited for them is decided afresh.
    pub(super) fn keys_arrived(&mut self) {
        for waiter in self.for_keys.drain(..) {
            let Waiter {
                stream, since_ms, ..
            } = waiter;
            self.due.push_back(Due {
                stream,
                since_ms,
                turn: Turn::Decide,
            });
        }
    }

    /// Hands offers out in the order of arrival, as long as `take` has some.
    pub(super) fn offers_arrived(&mut self, shelf: usize, mut take: impl FnMut() -> Option<Offer>) {
        let Some(queue) = self.for_offers.get_mut(shelf) else {
            return;
        };
        while !queue.is_empty() {
            let Some(offer) = take() else { return };
            let Some(waiter) = queue.pop_front() else {
                return;
            };
            self.offers_awaited = self.offers_awaited.saturating_sub(1);
            let turn = Turn::Challenge {
                shelf,
                unoffered: waiter.what,
                offer,
            };
            self.due.push_back(Due {
                stream: waiter.stream,
                since_ms: waiter.since_ms,
                turn,
            });
        }
    }

    /// No offers come: the oldest `count` who wait are told so. `give_back` is told who they were.
    pub(super) fn offers_refused(
        &mut self,
        shelf: usize,
        count: usize,
        status: u16,
        retry_after_seconds: u64,
        mut give_back: impl FnMut(Client),
    ) {
        let Some(queue) = self.for_offers.get_mut(shelf) else {
            return;
        };
        let count = count.min(queue.len());
        for waiter in queue.drain(..count) {
            self.offers_awaited = self.offers_awaited.saturating_sub(1);
            let manner = waiter.what.manner;
            give_back(waiter.what.client);
            let turn = Turn::Refuse {
                shelf: Some(shelf),
                manner,
                status,
                retry_after_seconds,
            };
            self.due.push_back(Due {
                stream: waiter.stream,
                since_ms: waiter.since_ms,
                turn,
            });
        }
    }

    /// Whose deadline has passed is told to come again. Each queue is in the order of deadlines.
    pub(super) fn expire(&mut self, now_ms: u64, mut give_back: impl FnMut(Client)) {
        let refuse = |shelf, manner| Turn::Refuse {
            shelf,
            manner,
            status: 503,
            retry_after_seconds: super::RETRY_AFTER_SECONDS,
        };
        while let Some(waiter) = self.for_keys.pop_front_if(|w| w.deadline_ms <= now_ms) {
            let Waiter {
                stream,
                since_ms,
                what,
                ..
            } = waiter;
            self.due.push_back(Due {
                stream,
                since_ms,
                turn: refuse(None, what),
            });
        }
        if self.offers_awaited == 0 {
            return;
        }
        for (shelf, queue) in self.for_offers.iter_mut().enumerate() {
            while let Some(waiter) = queue.pop_front_if(|w| w.deadline_ms <= now_ms) {
                self.offers_awaited = self.offers_awaited.saturating_sub(1);
                let Waiter {
                    stream,
                    since_ms,
                    what,
                    ..
                } = waiter;
                give_back(what.client);
                let turn = refuse(Some(shelf), what.manner);
                self.due.push_back(Due {
                    stream,
                    since_ms,
                    turn,
                });
            }
        }
    }

    pub(super) fn next_due(&mut self) -> Option<Due> {
        self.due.pop_front()
    }
}
