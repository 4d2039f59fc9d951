//! The ledger's own time.

use std::time::Instant;

use crate::adapters::system::unix_millis;

/// One moment, by two clocks; both in milliseconds since 1970, UTC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// By the machine's wall clock: for the books, and for what expires.
    pub(super) wall_ms: u64,
    /// By a clock that never goes back and begins at the wall clock's time when the file was
    /// opened: for how long ago something was heard.
    pub(super) steady_ms: u64,
}

impl Now {
    /// In whole seconds of the wall clock.
    pub(super) const fn seconds(self) -> u64 {
        self.wall_ms / 1_000
    }
}

/// Where both clocks are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreClock {
    opened_ms: u64,
    opened: Instant,
}

impl StoreClock {
    pub(super) fn new() -> Self {
        Self {
            opened_ms: unix_millis(),
            opened: Instant::now(),
        }
    }

    pub(super) fn now(self) -> Now {
        let elapsed = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now {
            wall_ms: unix_millis(),
            steady_ms: self.opened_ms.saturating_add(elapsed),
        }
    }
}
