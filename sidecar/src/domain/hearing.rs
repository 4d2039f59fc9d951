//! What was heard and when, after a time in which nobody could hear (spec/lease L6).

/// A moment, and since when reports have been heard without a break until then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hearing {
    /// The moment, by the ledger's clock.
    pub now_ms: u64,
    /// Begin of hearing, by the same clock.
    pub since_ms: u64,
}

impl Hearing {
    /// When something counts as heard of that was noted at `noted_ms`: not before somebody could
    /// hear it. What was noted in the future was so before the clock was set back.
    #[must_use]
    pub fn heard(self, noted_ms: u64) -> u64 {
        let since = self.since_ms.min(self.now_ms);
        match noted_ms > self.now_ms {
            true => since,
            false => noted_ms.max(since),
        }
    }
}

/// That a session was used is written once in so long, and it counts as idle as much later: the row
/// has an index on it, and reports come many times a second.
pub const USED_EVERY_MS: u64 = 1_000;

/// Whether to write that a session was used now, that was last used at `noted_ms`.
#[must_use]
pub const fn is_use_news(noted_ms: u64, now_ms: u64) -> bool {
    noted_ms.saturating_add(USED_EVERY_MS) <= now_ms || now_ms < noted_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_counts_as_heard_of_before_somebody_could_hear_nor_in_the_future() {
        let hearing = Hearing {
            now_ms: 1_000,
            since_ms: 600,
        };
        for (noted, heard) in [
            (0, 600),
            (600, 600),
            (601, 601),
            (1_000, 1_000),
            (1_001, 600),
        ] {
            assert_eq!(hearing.heard(noted), heard, "{noted}");
        }
    }
}
