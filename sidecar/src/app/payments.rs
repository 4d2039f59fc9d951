//! Whether money has arrived: by the ledger, else by the node.

use std::sync::Arc;
use std::time::Duration;

use protocol::amount::Sat;
use protocol::hash::PaymentHash;
use tokio::sync::Semaphore;

use super::PATIENCE;
use super::node::Node;
use super::settle;
use crate::domain::invoice::{InvoiceState, Settlement};
use crate::domain::ledger::LedgerError;
use crate::domain::offer::{Sale, Scheme};
use crate::domain::ports::{Ledger, Lightning};
use crate::metrics::Metrics;

/// Between two questions to the node about one payment.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Questions to the node at a time; more wait.
const ASKING: usize = 32;

/// What is known of a payment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// It is settled, for an offer of ours.
    Sold(Sale),
    /// It is settled at the node, and for nothing that we know to have offered.
    Foreign,
    /// It can still be made, or is on its way.
    Open,
    /// It can never be made.
    Never,
    /// The node did not say.
    Unknown,
}

/// Why there is nothing to credit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoDeposit {
    /// It was paid, and not as a deposit of ours.
    Elsewhere,
    /// It was not paid.
    NotThere,
    /// The node did not say.
    Unknown,
}

/// Looks for payments.
pub struct Payments<L, N> {
    ledger: Arc<L>,
    node: Arc<Node<N>>,
    metrics: Arc<Metrics>,
    asking: Semaphore,
}

impl<L: Ledger, N: Lightning> Payments<L, N> {
    /// By this ledger and this node.
    #[must_use]
    pub fn new(ledger: Arc<L>, node: Arc<Node<N>>, metrics: Arc<Metrics>) -> Self {
        Self {
            ledger,
            node,
            metrics,
            asking: Semaphore::new(ASKING),
        }
    }

    /// Whether the money has arrived, by the ledger or, for as long as there is time, by the node.
    /// What the node says to be settled is recorded.
    ///
    /// # Errors
    /// The ledger fails.
    pub async fn arrival(&self, hash: PaymentHash) -> Result<Arrival, LedgerError> {
        if let Some(sale) = self.ledger.find_sale(hash).await? {
            return Ok(Arrival::Sold(sale));
        }
        let mut last = Arrival::Unknown;
        let asked = tokio::time::timeout(PATIENCE, self.ask_node(hash, &mut last)).await;
        let Ok(settlement) = asked else {
            return Ok(last);
        };
        let Some(settlement) = settlement else {
            return Ok(Arrival::Never);
        };
        self.record(settlement).await?;
        let sale = self.ledger.find_sale(hash).await?;
        if sale.is_none() {
            tracing::warn!(payment_hash = %hash, "settled, and no offer of this ledger");
        }
        Ok(sale.map_or(Arrival::Foreign, Arrival::Sold))
    }

    /// What was really paid as a deposit, in whole satoshis.
    ///
    /// # Errors
    /// The ledger fails.
    pub async fn deposit(&self, hash: PaymentHash) -> Result<Result<Sat, NoDeposit>, LedgerError> {
        Ok(match self.arrival(hash).await? {
            Arrival::Sold(sale) if sale.scheme == Scheme::Session => {
                Sat::new(sale.amount.to_sat_floor())
                    .filter(|sats| *sats > Sat::ZERO)
                    .ok_or(NoDeposit::NotThere)
            }
            Arrival::Sold(_) | Arrival::Foreign => Err(NoDeposit::Elsewhere),
            Arrival::Open | Arrival::Never => Err(NoDeposit::NotThere),
            Arrival::Unknown => Err(NoDeposit::Unknown),
        })
    }

    /// Until the node says that it is settled, or never will be: `None`.
    async fn ask_node(&self, hash: PaymentHash, last: &mut Arrival) -> Option<Settlement> {
        loop {
            let permit = self.asking.acquire().await.ok()?;
            let state = self.node.lookup(hash).await;
            drop(permit);
            match state {
                Ok(InvoiceState::Settled(settlement)) => return Some(settlement),
                Ok(InvoiceState::Cancelled | InvoiceState::Unknown) => return None,
                Ok(InvoiceState::Open) => *last = Arrival::Open,
                Err(error) => {
                    *last = Arrival::Unknown;
                    tracing::debug!(%error, payment_hash = %hash, "not looked up");
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn record(&self, settlement: Settlement) -> Result<(), LedgerError> {
        let Ok(node) = self.node.known_info().await else {
            return Ok(());
        };
        // Looked up, so it may be ahead of the subscription: its index says nothing.
        let settlement = Settlement {
            settle_index: 0,
            ..settlement
        };
        settle::record(&*self.ledger, &self.metrics, node.id, settlement).await
    }
}
