//! One pool.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::oneshot;

use super::PoolError;
use super::demand::Demand;
use crate::config::OffersConfig;
use crate::domain::invoice::Invoice;
use crate::domain::offer::ShowWindow;
use crate::domain::ports::Clock;

pub(super) type Waiter = oneshot::Sender<Result<Invoice, PoolError>>;

/// The ready invoices of one service and amount, and who waits for one.
pub(super) struct Pool {
    pub(super) ready: VecDeque<Invoice>,
    pub(super) waiting: VecDeque<Waiter>,
    pub(super) minting: usize,
    pub(super) demand: Demand,
    pub(super) paused_until: Duration,
}

impl Pool {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            minting: 0,
            demand: Demand::new(now),
            paused_until: Duration::ZERO,
        }
    }

    /// Gives an invoice to who waits longest, which is then true, or keeps it.
    pub(super) fn accept(&mut self, invoice: Invoice) -> bool {
        let mut answer = Ok(invoice);
        while let Some(waiter) = self.waiting.pop_front() {
            match waiter.send(answer) {
                Ok(()) => return true,
                Err(unsent) => answer = unsent,
            }
        }
        self.ready.extend(answer);
        false
    }

    pub(super) fn fail_one(&mut self, error: PoolError) {
        let mut answer = Err(error);
        while let Some(waiter) = self.waiting.pop_front() {
            match waiter.send(answer) {
                Ok(()) => return,
                Err(unsent) => answer = unsent,
            }
        }
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
        let waiting = self
            .waiting
            .iter()
            .filter(|waiter| !waiter.is_closed())
            .count();
        let ahead = if now < self.paused_until {
            0
        } else {
            let target = self.demand.target(config.pool_min, config.pool_max, now);
            target.saturating_sub(self.ready.len())
        };
        waiting.saturating_add(ahead).saturating_sub(self.minting)
    }

    pub(super) fn is_unused(&self, now: Duration) -> bool {
        self.demand.is_idle(now)
            && self.ready.is_empty()
            && self.minting == 0
            && self.waiting.iter().all(oneshot::Sender::is_closed)
    }
}
