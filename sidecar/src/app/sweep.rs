//! What expired: unpaid offers leave the ledger and the node, paid ones when their token is over,
//! claims when their challenge is.

use std::sync::Arc;
use std::time::Duration;

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use super::App;
use super::clocks::Clocks;
use super::issue::Issuer;
use super::node::Node;
use super::settle;
use crate::domain::claim::ClaimTimes;
use crate::domain::invoice::{Cancellation, NodeId};
use crate::domain::ledger::{Duty, LedgerError};
use crate::domain::offer::LATE_PAYMENT_SECONDS;
use crate::domain::payout::WorkerId;
use crate::domain::ports::{Ledger, Lightning, LightningError};
use crate::metrics::Metrics;

const EVERY: Duration = Duration::from_secs(3);
/// For so long nobody else sweeps; with the time between two sweeps, another takes over in 10 s.
const DUTY: Duration = Duration::from_secs(6);
/// Offers per step.
const BATCH: u32 = 256;
/// Cancellations at a time.
const AT_A_TIME: usize = 16;

/// Sweeps.
pub struct Sweeper<L, N> {
    ledger: Arc<L>,
    node: Arc<Node<N>>,
    issuer: Arc<Issuer<L, N>>,
    clocks: Arc<Clocks<L>>,
    metrics: Arc<Metrics>,
    process: WorkerId,
}

impl<L: Ledger, N: Lightning> Sweeper<L, N> {
    /// For this sidecar.
    #[must_use]
    pub fn new(app: &App<L, N>) -> Self {
        Self {
            ledger: Arc::clone(&app.ledger),
            node: Arc::clone(&app.node),
            issuer: Arc::clone(&app.issuer),
            clocks: Arc::clone(&app.clocks),
            metrics: Arc::clone(&app.metrics),
            process: app.process,
        }
    }

    /// Sweeps for ever.
    pub async fn run(&self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.issuer.tidy_limits();
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "expired offers cannot be swept");
            }
        }
    }

    /// One sweep; of several sidecars on one ledger one does it.
    ///
    /// # Errors
    /// The ledger fails. A node that fails only leaves more for the next sweep.
    pub async fn sweep(&self) -> Result<(), LedgerError> {
        let duty = self.ledger.take_duty(Duty::Sweep, self.process, DUTY);
        // A sidecar whose clock is wrong leaves it to another.
        if let Some(now) = self.clocks.now().await?
            && duty.await?
        {
            self.drop_expired(now).await?;
        }
        self.issuer.recount().await
    }

    async fn drop_expired(&self, now: UnixSeconds) -> Result<(), LedgerError> {
        // First, since the node has no part in it.
        let times = ClaimTimes::default();
        while self.ledger.drop_old_claims(times, BATCH).await? >= BATCH as usize {}
        self.prune_unpaid(UnixSeconds(now.0.saturating_sub(LATE_PAYMENT_SECONDS)))
            .await?;
        while self.ledger.drop_expired_tokens(now, BATCH).await? == BATCH as usize {}
        Ok(())
    }

    /// An offer goes only after the node has said that it can never be paid, so that no payment
    /// is ever without its offer.
    async fn prune_unpaid(&self, expired_before: UnixSeconds) -> Result<(), LedgerError> {
        let Ok(node) = self.node.info().await else {
            return Ok(());
        };
        let mut after: Option<PaymentHash> = None;
        loop {
            // To another node's invoices this one would say that there are none.
            let hashes = self
                .ledger
                .unpaid(node.id, after, expired_before, BATCH)
                .await?;
            let Some(last) = hashes.last().copied() else {
                return Ok(());
            };
            after = Some(last);
            let dead = self.cancel_all(node.id, hashes).await?;
            let count = dead.len();
            self.ledger.drop_unpaid(dead).await?;
            tracing::debug!(count, "unpaid offers pruned");
        }
    }

    /// Those that can never be paid.
    async fn cancel_all(
        &self,
        node: NodeId,
        hashes: Vec<PaymentHash>,
    ) -> Result<Vec<PaymentHash>, LedgerError> {
        let mut dead = Vec::with_capacity(hashes.len());
        let mut running = tokio::task::JoinSet::new();
        let mut hashes = hashes.into_iter();
        loop {
            while running.len() < AT_A_TIME {
                let Some(hash) = hashes.next() else { break };
                let lightning = Arc::clone(&self.node);
                running.spawn(async move { (hash, lightning.cancel(hash).await) });
            }
            let Some(done) = running.join_next().await else {
                return Ok(dead);
            };
            let Ok((hash, outcome)) = done else { continue };
            match outcome {
                Ok(Cancellation::Cancelled) => dead.push(hash),
                Ok(Cancellation::Settled(settlement)) => {
                    // Looked up, so it may be ahead of the subscription: its index says nothing.
                    let settlement = crate::domain::invoice::Settlement {
                        settle_index: 0,
                        ..settlement
                    };
                    settle::record(&*self.ledger, &self.metrics, node, settlement).await?;
                }
                Err(error @ LightningError::Unavailable { .. }) => {
                    tracing::debug!(%error, "sweep waits for the node");
                    return Ok(dead);
                }
                Err(error) => tracing::debug!(%error, payment_hash = %hash, "not cancelled"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
