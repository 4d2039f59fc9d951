//! One pool.

use std::collections::VecDeque;
use std::time::Duration;

use super::PoolError;
use super::demand::Demand;
use super::queue::Queue;
use crate::config::OffersConfig;
use crate::domain::invoice::Invoice;
use crate::domain::offer::ShowWindow;
use crate::domain::ports::Clock;

/// The ready invoices of one scheme, service and amount, and who waits for one.
pub(super) struct Pool {
    pub(super) ready: VecDeque<Invoice>,
    pub(super) waiting: Queue,
    pub(super) minting: usize,
    pub(super) demand: Demand,
    pub(super) paused_until: Duration,
}

impl Pool {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: Queue::default(),
            minting: 0,
            demand: Demand::new(now),
            paused_until: Duration::ZERO,
        }
    }

    /// Gives an invoice to who waits longest, which is then true, or keeps it.
    pub(super) fn accept(&mut self, invoice: Invoice) -> bool {
        let unwanted = self.waiting.answer(Ok(invoice));
        let handed_over = unwanted.is_none();
        self.ready.extend(unwanted.and_then(Result::ok));
        handed_over
    }

    pub(super) fn fail_one(&mut self, error: PoolError) {
        // If nobody waits, nobody need know.
        let _ = self.waiting.answer(Err(error));
    }

    /// How many in front are too close to their end. They are in the order of their making, which
    /// may differ from that of their ends by the time the node took.
    pub(super) fn stale(&self, window: ShowWindow, clock: &dyn Clock) -> usize {
        let now = clock.now();
        self.ready
            .iter()
            .take_while(|invoice| !window.may_hand_out(invoice.expires, now))
            .count()
    }

    pub(super) fn lacking(&self, config: &OffersConfig, now: Duration) -> usize {
        let ahead = if now < self.paused_until {
            0
        } else {
            let target = self.demand.target(config.pool_min, config.pool_max, now);
            target.saturating_sub(self.ready.len())
        };
        let wanted = self.waiting.open().saturating_add(ahead);
        wanted.saturating_sub(self.minting)
    }

    pub(super) fn is_unused(&self, now: Duration) -> bool {
        self.demand.is_idle(now)
            && self.ready.is_empty()
            && self.minting == 0
            && self.waiting.open() == 0
    }
}
