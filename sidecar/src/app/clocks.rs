//! Whether this process and the ledger agree on what time it is.
//!
//! A machine that boots with a wrong clock would delete keys that are in use, let revoked tokens in,
//! cancel invoices that can be paid and give up refunds, for all sidecars of the ledger. So what
//! cannot be undone is done only while both clocks agree, and by the earlier of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::time::UnixSeconds;
use tokio::time::Instant;

use crate::domain::ledger::LedgerError;
use crate::domain::ports::{Clock, Ledger};
use crate::metrics::Metrics;

/// Clocks that differ by more do not agree.
const MOST: Duration = Duration::from_secs(60);
/// For so long an answer is good.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two complaints.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Compares the clocks now and then.
pub struct Clocks<L> {
    ledger: Arc<L>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    /// When they were compared, and how far this process was ahead of the ledger, milliseconds.
    at: Option<(Instant, i64)>,
    told: Option<Instant>,
}

impl<L: Ledger> Clocks<L> {
    /// Nothing is compared yet.
    #[must_use]
    pub fn new(ledger: Arc<L>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            ledger,
            clock,
            metrics,
            seen: Mutex::default(),
        }
    }

    /// Now, by the clock that is behind; `None`: the clocks do not agree, so that nothing may be
    /// done that cannot be undone.
    ///
    /// # Errors
    /// The ledger fails.
    pub async fn now(&self) -> Result<Option<UnixSeconds>, LedgerError> {
        let ahead_ms = self.ahead_ms().await?;
        if ahead_ms.unsigned_abs() > millis(MOST) {
            self.complain(ahead_ms);
            return Ok(None);
        }
        let ahead_ms = u64::try_from(ahead_ms).unwrap_or(0);
        let now_ms = self.clock.unix_millis().saturating_sub(ahead_ms);
        Ok(Some(UnixSeconds(now_ms / 1_000)))
    }

    /// Whether the clocks agree.
    ///
    /// # Errors
    /// The ledger fails.
    pub async fn agree(&self) -> Result<bool, LedgerError> {
        Ok(self.now().await?.is_some())
    }

    async fn ahead_ms(&self) -> Result<i64, LedgerError> {
        let seen = self.lock().at;
        if let Some((at, ahead_ms)) = seen
            && at.elapsed() < LOOK_EVERY
        {
            return Ok(ahead_ms);
        }
        let asked = self.clock.unix_millis();
        let Some(ledgers) = self.ledger.now_millis().await? else {
            return Ok(0);
        };
        let answered = self.clock.unix_millis();
        // Somewhen between question and answer it was that late at the ledger.
        let ahead_ms = match ledgers {
            _ if ledgers < asked => signed(asked - ledgers),
            _ if ledgers > answered => -signed(ledgers - answered),
            _ => 0,
        };
        self.lock().at = Some((Instant::now(), ahead_ms));
        self.metrics.clock_ahead.set(ahead_ms / 1_000);
        Ok(ahead_ms)
    }

    fn complain(&self, ahead_ms: i64) {
        let now = Instant::now();
        let mut seen = self.lock();
        if seen
            .told
            .is_none_or(|told| now.duration_since(told) >= TELL_EVERY)
        {
            seen.told = Some(now);
            tracing::error!(
                ahead_seconds = ahead_ms / 1_000,
                "CLOCKS DIFFER: this machine's and the database's; nothing is swept, pruned or \
                 paid back by this sidecar"
            );
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
