//! Leases: reports of filter VMs, and what ends by itself (spec/lease).

use std::sync::Arc;
use std::time::Duration;

use protocol::lease::{Answer, LeasesAnswer, LeasesRequest, MAX_REPORTS, Report, Terms};

use tokio::sync::watch;
use tokio::time::Instant;

use super::DEADLINE;
use super::endings::Endings;
use super::names::is_random_name;
use crate::domain::lease::Times;
use crate::domain::ledger::LedgerError;
use crate::domain::ports::Ledger;
use crate::faults;
use crate::metrics::{Metrics, StateLabels, StopLabels};

/// How often leases of which nothing was heard are ended: small beside the 2 s that a close waits
/// for them.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
/// How often it is looked for sessions that nobody uses.
const STOP_EVERY: Duration = Duration::from_secs(1);
/// How often old results are dropped and sessions counted.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// Sessions per step.
const BATCH: u32 = 256;

/// Why reports have no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LeaseError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// It took too long; whether it was done is not known, and to be reported again.
    #[error("the ledger did not answer in time")]
    Timeout,
}

/// The ledger's side of all leases.
pub struct Leases<L> {
    ledger: Arc<L>,
    times: Times,
    terms: Terms,
    endings: Arc<Endings>,
    metrics: Arc<Metrics>,
}

impl<L: Ledger> Leases<L> {
    /// On this ledger.
    #[must_use]
    pub fn new(ledger: Arc<L>, times: Times, terms: Terms, metrics: Arc<Metrics>) -> Self {
        Self {
            ledger,
            times,
            terms,
            endings: Arc::default(),
            metrics,
        }
    }

    /// Told whenever a session may have ended by what happens here.
    #[must_use]
    pub const fn endings(&self) -> &Arc<Endings> {
        &self.endings
    }

    /// What filters are told of how to keep their leases.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// The reports of one tick of one VM.
    ///
    /// # Errors
    /// Nonsense, or a ledger that fails or is slow; the next tick says the same again.
    pub async fn report(&self, request: LeasesRequest) -> Result<LeasesAnswer, LeaseError> {
        if !is_random_name(&request.vm) {
            return Err(LeaseError::Invalid("vm must be 32 hexadecimal digits"));
        }
        if request.reports.len() > MAX_REPORTS {
            return Err(LeaseError::Invalid("too many reports"));
        }
        let work = tokio::time::timeout(DEADLINE, self.apply(request.reports)).await;
        let answers = work.map_err(|_| LeaseError::Timeout)??;
        Ok(LeasesAnswer {
            answers,
            terms: self.terms,
        })
    }

    /// Answers to reports, in their order.
    pub(super) async fn apply(&self, reports: Vec<Report>) -> Result<Vec<Answer>, LedgerError> {
        let reported = self.ledger.report_leases(reports).await?;
        self.count_lost(reported.lost_units);
        for id in reported.settled {
            self.endings.settled(id);
        }
        Ok(reported.answers)
    }

    /// Units that were served and cannot be debited any more (spec/lease L6).
    pub(super) fn count_lost(&self, units: u64) {
        if units > 0 {
            self.metrics.lost_units.inc_by(units);
            tracing::warn!(units, "served and reported too late to be debited");
        }
    }

    /// Ends what must end, for ever. What takes long or fails elsewhere does not keep leases from
    /// ending.
    pub async fn keep(&self) {
        let swept = watch::Sender::new(Instant::now());
        tokio::join!(self.keep_sweeping(&swept), self.keep_tidy(&swept));
    }

    async fn keep_sweeping(&self, swept: &watch::Sender<Instant>) {
        let mut ticks = ticks(SWEEP_EVERY);
        loop {
            ticks.tick().await;
            let silence = swept.borrow().elapsed();
            match self.sweep_after(silence).await {
                Ok(()) => drop(swept.send_replace(Instant::now())),
                Err(error) => tracing::warn!(%error, "leases cannot be swept"),
            }
        }
    }

    async fn keep_tidy(&self, swept: &watch::Sender<Instant>) {
        let mut ticks = ticks(STOP_EVERY);
        let mut tidied = Instant::now();
        loop {
            ticks.tick().await;
            let silence = swept.borrow().elapsed();
            if !self.was_deaf(silence)
                && let Err(error) = self.stop_unused().await
            {
                tracing::warn!(%error, "sessions that nobody uses cannot be stopped");
            }
            if tidied.elapsed() >= TIDY_EVERY {
                tidied = Instant::now();
                if let Err(error) = self.tidy().await {
                    tracing::warn!(%error, "old results cannot be dropped, nor sessions counted");
                }
            }
        }
    }

    /// As [`Self::sweep`], when the sweep before ended so long ago. Whatever kept us from sweeping,
    /// a halted process or a disk that did not answer, has kept us from hearing as well: then
    /// everybody is given the time to report once more.
    async fn sweep_after(&self, silence: Duration) -> Result<(), LedgerError> {
        if self.was_deaf(silence) {
            tracing::warn!(
                seconds = silence.as_secs(),
                "nothing could be heard of leases"
            );
            self.ledger.begin_serving().await?;
        }
        self.sweep().await
    }

    fn was_deaf(&self, silence: Duration) -> bool {
        silence >= Duration::from_millis(self.times.reclaim_ms / 2)
    }

    /// Ends leases of which nothing was heard, and settles what they held up.
    ///
    /// # Errors
    /// The ledger fails.
    pub async fn sweep(&self) -> Result<(), LedgerError> {
        loop {
            let swept = self.ledger.sweep_leases(self.times, BATCH).await?;
            if swept.reclaimed > 0 {
                faults::stop_at("reclaim", "committed");
                self.metrics.reclaimed_units.inc_by(swept.reclaimed);
                tracing::info!(
                    units = swept.reclaimed,
                    sessions = swept.sessions,
                    "went back to buyers: nothing was heard of their leases"
                );
            }
            for id in swept.settled {
                self.endings.settled(id);
            }
            if swept.sessions < BATCH as usize {
                return Ok(());
            }
        }
    }

    /// Begins to close sessions that nobody uses, and those whose return invoice expires.
    ///
    /// # Errors
    /// The ledger fails.
    pub async fn stop_unused(&self) -> Result<(), LedgerError> {
        loop {
            let stopped = self.ledger.stop_unused(BATCH).await?;
            for one in &stopped {
                let reason = match one.was_idle {
                    true => "idle",
                    false => "return_invoice_expires",
                };
                let labels = StopLabels { reason };
                self.metrics.sessions_stopped.get_or_create(&labels).inc();
                tracing::info!(session_id = %one.session_id, reason, "session stopped");
            }
            if stopped.len() < BATCH as usize {
                return Ok(());
            }
        }
    }

    async fn tidy(&self) -> Result<(), LedgerError> {
        while self.ledger.drop_old_results(BATCH).await? >= BATCH as usize {}
        let counts = self.ledger.session_counts().await?;
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        for (state, count) in [("open", counts.open), ("closing", counts.closing)] {
            let labels = StateLabels { state };
            let sessions = self.metrics.sessions.get_or_create_owned(&labels);
            sessions.set(gauge(count));
        }
        self.metrics.lease_holders.set(gauge(counts.holders));
        Ok(())
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::adapters::ledger::conformance;
    use crate::adapters::ledger::sqlite::SqliteLedger;
    use crate::domain::ports::SessionLedger as _;

    #[tokio::test]
    async fn who_could_not_be_heard_is_given_time_once_more() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("l.db");
        let ledger = Arc::new(SqliteLedger::open(&path).unwrap());
        conformance::open_with_lease(&*ledger).await;
        let silent = "UPDATE lease_holders SET seen_ms = 1; UPDATE sessions SET active_ms = 1;
                      UPDATE hearing SET serving_since_ms = 1";
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch(silent).unwrap();
        let metrics = Arc::new(Metrics::new());
        let leases = Leases::new(
            Arc::clone(&ledger),
            Times::default(),
            Terms::default(),
            metrics,
        );

        leases.sweep_after(Duration::from_secs(4)).await.unwrap();
        leases.sweep_after(Duration::ZERO).await.unwrap();
        leases.stop_unused().await.unwrap();
        let counts = ledger.session_counts().await.unwrap();
        assert_eq!((counts.open, counts.holders), (1, 1));

        other.execute_batch(silent).unwrap();
        leases.sweep_after(SWEEP_EVERY).await.unwrap();
        leases.stop_unused().await.unwrap();
        let counts = ledger.session_counts().await.unwrap();
        assert_eq!((counts.open, counts.closing, counts.holders), (0, 0, 0));
        assert!(leases.metrics.reclaimed_units.get() > 0);
    }
}
