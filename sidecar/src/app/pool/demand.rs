//! How much a pool is asked for, and how much it should therefore hold.

use std::time::Duration;

/// A pool holds what is asked for in this many seconds.
const SECONDS_AHEAD: f64 = 2.0;
/// Share of the newest second in the average.
const WEIGHT: f64 = 0.3;
/// Without demand for this long a pool is idle.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// A moving average of demand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    per_second: f64,
    this_second: usize,
    last: Duration,
}

impl Demand {
    pub(super) const fn new(now: Duration) -> Self {
        Self {
            per_second: 0.0,
            this_second: 0,
            last: now,
        }
    }

    pub(super) fn add(&mut self, count: usize, now: Duration) {
        self.this_second = self.this_second.saturating_add(count);
        self.last = now;
    }

    /// A second has passed.
    pub(super) fn tick(&mut self) {
        let fresh = self.this_second as f64;
        self.per_second += WEIGHT * (fresh - self.per_second);
        self.this_second = 0;
    }

    pub(super) fn is_idle(&self, now: Duration) -> bool {
        now.saturating_sub(self.last) > IDLE_AFTER
    }

    /// How many invoices to hold. What was asked for in this second is expected again, so a pool
    /// that has just begun is filled at once.
    pub(super) fn target(&self, least: u32, most: u32, now: Duration) -> usize {
        if self.is_idle(now) {
            return 0;
        }
        let ahead = (self.per_second * SECONDS_AHEAD).ceil() as usize;
        ahead
            .max(self.this_second)
            .clamp(least as usize, most as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_pool_follows_demand_within_its_bounds() {
        let mut demand = Demand::new(second(0));
        demand.add(50, second(0));
        assert_eq!(demand.target(0, 1_000, second(0)), 50);
        for now in 1..30 {
            demand.add(100, second(now));
            demand.tick();
        }
        assert_eq!(demand.target(0, 1_000, second(29)), 200);
        assert_eq!(demand.target(0, 64, second(29)), 64);
        for _ in 0..60 {
            demand.tick();
        }
        assert_eq!(demand.target(3, 64, second(80)), 3);
    }

    #[test]
    fn nothing_is_held_for_an_idle_service() {
        let mut demand = Demand::new(second(0));
        demand.add(50, second(0));
        assert_eq!(demand.target(10, 64, second(61)), 0);
    }
}
