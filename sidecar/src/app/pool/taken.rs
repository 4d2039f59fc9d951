//! Invoices on their way from a pool into the ledger.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{PoolKey, Pools};
use crate::domain::invoice::Invoice;
use crate::domain::ports::Lightning;

/// Invoices that one request has taken. They count as outstanding as long as this lives; it ends
/// by one of its methods, or, if the request is given up, by being dropped: then the invoices are
/// used by nobody and expire.
pub struct Taken<N> {
    pub(super) pools: Arc<Pools<N>>,
    pub(super) key: PoolKey,
    pub(super) invoices: Vec<Invoice>,
}

impl<N> Taken<N> {
    /// The invoices.
    #[must_use]
    pub fn invoices(&self) -> &[Invoice] {
        &self.invoices
    }
}

impl<N: Lightning> Taken<N> {
    /// They are in the ledger as offers.
    pub fn written(self) {
        let count = self.invoices.len() as u64;
        self.pools.written.fetch_add(count, Ordering::Relaxed);
        self.pools.handed_out.fetch_add(count, Ordering::Relaxed);
    }

    /// Certainly nobody was shown them and they are not in the ledger: for the next request.
    pub fn give_back(mut self) {
        let mut pools = self.pools.lock();
        let Some(pool) = pools.get_mut(&self.key) else {
            return;
        };
        let mut handed_over = 0;
        for invoice in std::mem::take(&mut self.invoices) {
            self.pools.in_hand.fetch_sub(1, Ordering::Relaxed);
            handed_over += u64::from(pool.accept(invoice));
        }
        self.pools.in_hand.fetch_add(handed_over, Ordering::Relaxed);
    }

    /// Nobody was shown them; whether they are in the ledger is not known.
    pub fn discard(self) {
        let hashes = self
            .invoices
            .iter()
            .map(|invoice| invoice.payment_hash)
            .collect();
        let pools = Arc::clone(&self.pools);
        tokio::spawn(async move { pools.cancel(hashes).await });
    }
}

impl<N> Drop for Taken<N> {
    fn drop(&mut self) {
        self.pools
            .in_hand
            .fetch_sub(self.invoices.len() as u64, Ordering::Relaxed);
    }
}
