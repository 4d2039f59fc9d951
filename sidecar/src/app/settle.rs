//! Sales, recorded from the node's settlements, each once, also those of an outage.

use std::sync::Arc;
use std::time::Duration;

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use super::node::Node;
use crate::domain::invoice::{InvoiceState, NodeId, Settlement};
use crate::domain::ledger::LedgerError;
use crate::domain::ports::{Ledger, Lightning, LightningError, Settlements as _};
use crate::metrics::{Metrics, SchemeLabels};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How often open offers are looked up one by one while no settle index is known.
const LOOK_UP_EVERY: Duration = Duration::from_secs(15);
const LOOK_UPS: u32 = 256;

/// Listens to the node.
pub struct Settler<L, N> {
    ledger: Arc<L>,
    node: Arc<Node<N>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error(transparent)]
    Node(#[from] LightningError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl<L: Ledger, N: Lightning> Settler<L, N> {
    /// Not listening yet.
    #[must_use]
    pub const fn new(ledger: Arc<L>, node: Arc<Node<N>>, metrics: Arc<Metrics>) -> Self {
        Self {
            ledger,
            node,
            metrics,
        }
    }

    /// Listens for ever and begins again after each failure, with growing pauses.
    pub async fn run(&self) {
        let mut wait = FIRST_WAIT;
        loop {
            let begun = tokio::time::Instant::now();
            let Err(error) = self.listen().await;
            self.metrics.subscription_up.set(0);
            // What held for a while was no failed beginning.
            if begun.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            tracing::warn!(%error, "settlements are not being heard; will try again");
            tokio::time::sleep(wait).await;
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
        }
    }

    async fn listen(&self) -> Result<std::convert::Infallible, SettleError> {
        let node = self.node.info().await?.id;
        let mut since = self.ledger.settle_index(node).await?;
        let mut settlements = self.node.settlements(since).await?;
        self.metrics.subscription_up.set(1);
        tracing::info!(since, "listening to settlements");
        loop {
            if since > 0 {
                let settlement = settlements.next().await?;
                self.record(node, settlement).await?;
                continue;
            }
            // A node gives past settlements only after an index, and we have none yet: what was
            // paid before we listened is found by asking for each open offer.
            tokio::select! {
                settlement = settlements.next() => {
                    let settlement = settlement?;
                    self.record(node, settlement).await?;
                    // All before it that are ours may still be missing.
                    self.look_up_all(node).await?;
                    since = settlement.settle_index;
                }
                looked = self.look_up_later(node) => looked?,
            }
        }
    }

    async fn look_up_later(&self, node: NodeId) -> Result<(), SettleError> {
        self.look_up_all(node).await?;
        tokio::time::sleep(LOOK_UP_EVERY).await;
        Ok(())
    }

    async fn look_up_all(&self, node: NodeId) -> Result<(), SettleError> {
        let ever = UnixSeconds(u64::MAX);
        let mut after: Option<PaymentHash> = None;
        loop {
            let hashes = self.ledger.unpaid(node, after, ever, LOOK_UPS).await?;
            let Some(last) = hashes.last().copied() else {
                return Ok(());
            };
            for hash in hashes {
                if let InvoiceState::Settled(settlement) = self.node.lookup(hash).await? {
                    // Not its index: settlements before it may not have been seen.
                    self.record(
                        node,
                        Settlement {
                            settle_index: 0,
                            ..settlement
                        },
                    )
                    .await?;
                }
            }
            after = Some(last);
        }
    }

    async fn record(&self, node: NodeId, settlement: Settlement) -> Result<(), SettleError> {
        record(&*self.ledger, &self.metrics, node, settlement).await?;
        Ok(())
    }
}

/// Records one settlement, if it is of an offer of ours and new.
///
/// # Errors
/// The ledger fails.
pub async fn record<L: Ledger>(
    ledger: &L,
    metrics: &Metrics,
    node: NodeId,
    settlement: Settlement,
) -> Result<(), LedgerError> {
    for sale in ledger.record_settlements(node, vec![settlement]).await? {
        let labels = SchemeLabels {
            scheme: sale.scheme.as_str(),
        };
        metrics.sales.get_or_create(&labels).inc();
        metrics
            .sales_msat
            .get_or_create(&labels)
            .inc_by(sale.amount.get());
        tracing::info!(
            payment_hash = %sale.payment_hash,
            service = sale.service,
            amount_msat = sale.amount.get(),
            scheme = sale.scheme.as_str(),
            "sale"
        );
    }
    Ok(())
}
