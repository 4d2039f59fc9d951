//! Refunds: what closed sessions owe to their buyers, paid once each.
//!
//! The node decides what happened, never we: before anything is sent it is asked what became of
//! this payment hash, and every unknown outcome is cleared up in the same way. It makes one
//! payment of a hash at most, so that nothing is paid twice whatever dies in between.

mod replace;
mod step;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

pub use self::replace::{ReplaceError, accept, replace, take_over};
use super::clocks::Clocks;
use super::endings::Endings;
use super::node::Node;
use crate::config::RefundsConfig;
use crate::domain::invoice::{NodeId, NodeStatus};
use crate::domain::payout::{RefundCounts, RefundWork, WorkerId};
use crate::domain::ports::{Clock, Ledger, Lightning};
use crate::domain::refund::RefundState;
use crate::metrics::{Metrics, ReasonLabels, StateLabels};

/// Between two looks at what is due; of a new refund of this process the worker is
/// [told](Endings).
const EVERY: Duration = Duration::from_secs(1);
/// A refund is one worker's for so long without a word: another sidecar takes over within 10 s.
const HOLD: Duration = Duration::from_secs(8);
/// Pause of those that a cap keeps from being sent.
const HELD: Duration = Duration::from_secs(5);
/// Between two complaints about it.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at the counts.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// Room beside those that may be under way, to ask about them.
const SPARE: usize = 4;

/// Why refunds that are due are not sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cap {
    InFlight,
    DailyFees,
}

impl Cap {
    const ALL: [Self; 2] = [Self::InFlight, Self::DailyFees];

    const fn as_str(self) -> &'static str {
        match self {
            Self::InFlight => "in_flight",
            Self::DailyFees => "daily_fees",
        }
    }

    const fn setting(self) -> &'static str {
        match self {
            Self::InFlight => "refunds.maxInFlight",
            Self::DailyFees => "refunds.dailyFeeBudgetSats",
        }
    }
}

/// Since when which cap keeps refunds from being sent.
#[derive(Clone, Copy)]
struct Held {
    cap: Cap,
    since: Instant,
    told: Instant,
}

impl Held {
    /// Says so, loudly, now and then.
    fn at(cap: Cap, before: Option<Self>) -> Self {
        let since = Instant::now();
        let told = before
            .filter(|before| before.cap == cap && before.told.elapsed() < TELL_EVERY)
            .map(|before| before.told);
        if told.is_none() {
            tracing::error!(
                limit = cap.setting(),
                "REFUNDS WAIT: a limit is reached and buyers are not paid back"
            );
        }
        Self {
            cap,
            since,
            told: told.unwrap_or(since),
        }
    }
}

/// What the worker makes of one look at a refund.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Done {
    /// It was looked at.
    Seen,
    /// Others will not be sent either.
    Held(Cap),
}

/// Pays refunds.
pub struct Refunder<L, N>(Arc<Inner<L, N>>);

struct Inner<L, N> {
    ledger: Arc<L>,
    node: Arc<Node<N>>,
    config: RefundsConfig,
    clocks: Arc<Clocks<L>>,
    clock: Arc<dyn Clock>,
    endings: Arc<Endings>,
    metrics: Arc<Metrics>,
    me: WorkerId,
    hold: Duration,
    /// Refunds that were taken to be sent and are not written as sending yet.
    starting: Arc<AtomicUsize>,
    /// When it was last said that there are refunds of another node.
    told_elsewhere: Mutex<Option<Instant>>,
}

/// What a worker needs.
pub struct RefunderParts<L, N> {
    /// Where refunds stand.
    pub ledger: Arc<L>,
    /// Who pays them.
    pub node: Arc<Node<N>>,
    /// Limits.
    pub config: RefundsConfig,
    /// Its name.
    pub worker: WorkerId,
    /// Whether it is right.
    pub clocks: Arc<Clocks<L>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Tells of sessions that ended, and is told of refunds that did.
    pub endings: Arc<Endings>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl<L: Ledger, N: Lightning> Refunder<L, N> {
    /// A worker that has not begun.
    #[must_use]
    pub fn new(parts: RefunderParts<L, N>) -> Self {
        Self(Arc::new(Inner {
            ledger: parts.ledger,
            node: parts.node,
            config: parts.config,
            clocks: parts.clocks,
            clock: parts.clock,
            endings: parts.endings,
            metrics: parts.metrics,
            me: parts.worker,
            hold: HOLD,
            starting: Arc::default(),
            told_elsewhere: Mutex::default(),
        }))
    }

    /// Pays for ever. What is under way when it is dropped is cleared up by the next worker.
    pub async fn run(&self) -> Infallible {
        let inner = &self.0;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut working = JoinSet::new();
        let (mut held, mut full): (Option<Held>, Option<Held>) = (None, None);
        let mut counted: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = inner.endings.due() => {}
                Some(done) = working.join_next() => {
                    if let Ok(Done::Held(cap)) = done {
                        held = Some(Held::at(cap, held));
                    }
                }
            }
            // Those held are looked at again after a pause; if none was, nothing is held any more.
            held = held.filter(|held| held.since.elapsed() < HELD * 3);
            let Some(node) = inner.node_id().await else {
                continue;
            };
            if counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
                counted = Some(Instant::now());
                full = inner.count(node, held, full).await;
            }
            // An invoice that seems to have expired is given up for good.
            if !inner.clocks.agree().await.unwrap_or(false) {
                continue;
            }
            while working.len() < inner.places().saturating_add(SPARE) {
                let is_held = held.is_some_and(|held| held.since.elapsed() < HELD);
                let only_sending = is_held || !inner.has_place(node).await;
                let Some(work) = inner.take(node, only_sending).await else {
                    break;
                };
                let place = Place::of(&work, &inner.starting);
                let inner = Arc::clone(inner);
                working.spawn(async move { inner.work(work, place).await });
            }
        }
    }
}

/// Keeps a place among those under way for a refund that is not written as such yet.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn of(work: &RefundWork, starting: &Arc<AtomicUsize>) -> Option<Self> {
        (work.refund.state == RefundState::Pending).then(|| {
            starting.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(starting))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<L: Ledger, N: Lightning> Inner<L, N> {
    /// Nothing can be done without the node, so nothing is taken.
    async fn node_id(&self) -> Option<NodeId> {
        if self.node.status() != Some(NodeStatus::Ready) {
            return None;
        }
        // The key itself is looked at again before each refund.
        self.node.known_info().await.ok().map(|info| info.id)
    }

    async fn take(&self, node: NodeId, only_sending: bool) -> Option<RefundWork> {
        let taken = self
            .ledger
            .take_refund(node, self.me, self.hold, only_sending)
            .await;
        taken.unwrap_or_else(|error| {
            tracing::error!(%error, "refunds cannot be read");
            None
        })
    }

    fn places(&self) -> usize {
        usize::try_from(self.config.caps.in_flight).unwrap_or(usize::MAX)
    }

    /// Whether one more may be sent. Looked at before a refund is taken, so that those that must
    /// wait are not touched; what counts is asked again when it is written.
    async fn has_place(&self, node: NodeId) -> bool {
        let starting = self.starting.load(Ordering::SeqCst);
        match self.ledger.refunds_under_way(node).await {
            Ok(sending) => {
                let sending = usize::try_from(sending).unwrap_or(usize::MAX);
                sending.saturating_add(starting) < self.places()
            }
            Err(_) => false,
        }
    }

    /// Shows how things stand; gives whether the cap of those under way is reached.
    async fn count(
        &self,
        node: NodeId,
        held: Option<Held>,
        full_before: Option<Held>,
    ) -> Option<Held> {
        let counts = match self.ledger.refund_counts(node).await {
            Ok(counts) => counts,
            Err(error) => {
                tracing::warn!(%error, "refunds cannot be counted");
                return full_before;
            }
        };
        self.show(&counts);
        if counts.elsewhere > 0 && self.may_tell_elsewhere() {
            tracing::error!(
                refunds = counts.elsewhere,
                "REFUNDS OF ANOTHER NODE: only that node pays them (`boltgate refunds list`)"
            );
        }
        let is_full = counts.sending >= u64::from(self.config.caps.in_flight);
        let full = (is_full && counts.pending > 0).then(|| Held::at(Cap::InFlight, full_before));
        for cap in Cap::ALL {
            let is_held = [held, full].iter().flatten().any(|held| held.cap == cap);
            let reason = cap.as_str();
            let gauge = self
                .metrics
                .refunds_held
                .get_or_create_owned(&ReasonLabels { reason });
            gauge.set(i64::from(is_held));
        }
        full
    }

    /// Once a minute is enough.
    fn may_tell_elsewhere(&self) -> bool {
        let now = Instant::now();
        let mut told = (self.told_elsewhere.lock()).unwrap_or_else(PoisonError::into_inner);
        let may = told.is_none_or(|at| now.duration_since(at) >= TELL_EVERY);
        if may {
            *told = Some(now);
        }
        may
    }

    fn show(&self, counts: &RefundCounts) {
        for (state, count) in [
            ("pending", counts.pending),
            ("sending", counts.sending),
            ("failed", counts.failed),
        ] {
            let gauge = self
                .metrics
                .refunds
                .get_or_create_owned(&StateLabels { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let oldest = counts.oldest_ms / 1_000;
        self.metrics
            .refunds_oldest
            .set(i64::try_from(oldest).unwrap_or(i64::MAX));
        let elsewhere = i64::try_from(counts.elsewhere).unwrap_or(i64::MAX);
        self.metrics.refunds_elsewhere.set(elsewhere);
    }
}
