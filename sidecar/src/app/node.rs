//! The Lightning node with every call measured, and how it is.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use protocol::hash::PaymentHash;

use crate::domain::invoice::{
    Cancellation, Invoice, InvoiceRequest, InvoiceState, NodeId, NodeInfo, NodeStatus,
};
use crate::domain::payment::{PaymentOrder, PaymentState};
use crate::domain::ports::{Lightning, LightningError};
use crate::faults;
use crate::metrics::{CallResult, Metrics, Rpc, RpcLabels, StateLabels};

/// How often the node is asked how it is.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const STATES: [NodeStatus; 5] = [
    NodeStatus::Ready,
    NodeStatus::Locked,
    NodeStatus::Starting,
    NodeStatus::Unauthorized,
    NodeStatus::Unreachable,
];

/// A node.
pub struct Node<N> {
    lightning: N,
    /// Index in [`STATES`]; larger: not asked yet.
    status: AtomicU8,
    /// As it was last told.
    info: RwLock<Option<NodeInfo>>,
    metrics: Arc<Metrics>,
}

impl<N: Lightning> Node<N> {
    /// Its state is not known yet.
    #[must_use]
    pub const fn new(lightning: N, metrics: Arc<Metrics>) -> Self {
        Self {
            lightning,
            status: AtomicU8::new(u8::MAX),
            info: RwLock::new(None),
            metrics,
        }
    }

    /// How it was when last asked; `None` if it was not asked yet.
    #[must_use]
    pub fn status(&self) -> Option<NodeStatus> {
        STATES
            .get(usize::from(self.status.load(Ordering::Relaxed)))
            .copied()
    }

    /// Asks it now and then, for ever.
    pub async fn watch(&self) {
        let mut ticks = tokio::time::interval(PROBE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.probe().await;
        }
    }

    async fn probe(&self) {
        let begun = Instant::now();
        let status = self.lightning.status().await;
        let result = if status == NodeStatus::Ready {
            CallResult::Ok
        } else {
            CallResult::Error
        };
        self.observe(Rpc::Status, result, begun);
        let index = STATES
            .iter()
            .position(|state| *state == status)
            .unwrap_or(STATES.len());
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        if self.status.swap(index, Ordering::Relaxed) != index {
            if status == NodeStatus::Ready {
                tracing::info!(state = status.as_str(), "lightning node");
            } else {
                tracing::warn!(state = status.as_str(), "lightning node");
            }
        }
        for state in STATES {
            let gauge = self.metrics.node_state.get_or_create_owned(&StateLabels {
                state: state.as_str(),
            });
            gauge.set(i64::from(state == status));
        }
    }

    /// As the port.
    ///
    /// # Errors
    /// As the port.
    pub async fn add_invoice(&self, request: InvoiceRequest) -> Result<Invoice, LightningError> {
        let made = self.measured(Rpc::AddInvoice, self.lightning.add_invoice(request));
        let mut invoice = made.await?;
        if invoice.node.is_none() {
            invoice.node = self.known_info().await.ok().map(|info| info.id);
        }
        Ok(invoice)
    }

    /// As the port.
    ///
    /// # Errors
    /// As the port.
    pub async fn lookup(&self, hash: PaymentHash) -> Result<InvoiceState, LightningError> {
        self.measured(Rpc::Lookup, self.lightning.lookup(hash))
            .await
    }

    /// As the port.
    ///
    /// # Errors
    /// As the port.
    pub async fn cancel(&self, hash: PaymentHash) -> Result<Cancellation, LightningError> {
        self.measured(Rpc::Cancel, self.lightning.cancel(hash))
            .await
    }

    /// As the port.
    ///
    /// # Errors
    /// As the port.
    pub async fn pay(&self, order: PaymentOrder) -> Result<PaymentState, LightningError> {
        faults::stop_at("pay", "asked");
        let paid = self.measured(Rpc::Pay, self.lightning.pay(order)).await;
        faults::stop_at("pay", "answered");
        paid
    }

    /// As the port.
    ///
    /// # Errors
    /// As the port.
    pub async fn track(&self, hash: PaymentHash) -> Result<PaymentState, LightningError> {
        self.measured(Rpc::Track, self.lightning.track(hash)).await
    }

    /// As the port.
    ///
    /// # Errors
    /// As the port.
    pub async fn info(&self) -> Result<NodeInfo, LightningError> {
        let info = self.lightning.info().await?;
        *self.info.write().unwrap_or_else(PoisonError::into_inner) = Some(info.clone());
        Ok(info)
    }

    /// Which node this is, if it was ever asked.
    #[must_use]
    pub fn known_id(&self) -> Option<NodeId> {
        let known = self.info.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().map(|info| info.id)
    }

    /// Which node this is, asked only the first time: it is asked again each time that
    /// settlements begin to be listened to.
    ///
    /// # Errors
    /// As the port, while nothing is known.
    pub async fn known_info(&self) -> Result<NodeInfo, LightningError> {
        let known = (self.info.read())
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match known {
            Some(info) => Ok(info),
            None => self.info().await,
        }
    }

    /// As the port.
    ///
    /// # Errors
    /// As the port.
    pub async fn settlements(&self, since: u64) -> Result<N::Settlements, LightningError> {
        self.lightning.settlements(since).await
    }

    async fn measured<T>(
        &self,
        rpc: Rpc,
        call: impl Future<Output = Result<T, LightningError>>,
    ) -> Result<T, LightningError> {
        let begun = Instant::now();
        let result = call.await;
        let outcome = match &result {
            Ok(_) => CallResult::Ok,
            Err(LightningError::Timeout { .. }) => CallResult::Timeout,
            Err(_) => CallResult::Error,
        };
        self.observe(rpc, outcome, begun);
        result
    }

    fn observe(&self, rpc: Rpc, result: CallResult, begun: Instant) {
        let histogram = self
            .metrics
            .rpc_seconds
            .get_or_create_owned(&RpcLabels { rpc, result });
        histogram.observe(begun.elapsed().as_secs_f64());
    }
}
