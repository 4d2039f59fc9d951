//! Pools of ready invoices, one per scheme, service and amount.
//!
//! A pool begins with the first demand and holds about two seconds of it, so that a 402 does not
//! wait for the node. Each invoice is handed out once. What has too little life left is dropped;
//! a pool without demand is emptied and its invoices are cancelled at the node. Who finds a pool
//! empty waits, for a bounded time and in a bounded queue, and gets the next invoice made.
//!
//! Of the invoices that may be unpaid at a time a part is kept for clients that have paid before,
//! who also wait before all others: strangers who never pay cannot stop sales to customers.

mod demand;
mod queue;
mod room;
mod single;
mod taken;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::amount::Msat;
use protocol::hash::PaymentHash;
use tokio::sync::{Semaphore, oneshot};

use self::room::Room;
pub use self::room::Standing;
use self::single::Pool;
pub use self::taken::Taken;
use super::node::Node;
use crate::config::OffersConfig;
use crate::domain::invoice::{Invoice, InvoiceRequest, NodeStatus};
use crate::domain::ledger::LedgerError;
use crate::domain::offer::{Scheme, ShowWindow};
use crate::domain::ports::{Clock, Ledger, Lightning, LightningError};
use crate::metrics::Metrics;

/// Invoices being made at a time, over all pools.
const MINTING_OVERALL: usize = 64;
/// Invoices being made at a time for one pool, so that a large one does not starve the others.
const MINTING_PER_POOL: usize = 32;
/// Requests that wait for an invoice at a time, over all pools.
const MOST_WAITING: usize = 2_048;
/// After a failure nothing is made ahead of demand for this long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_secs(1);

/// What a pool's invoices are for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PoolKey {
    /// Scheme: what is paid under one must buy nothing under another.
    pub scheme: Scheme,
    /// Service, named in the invoice's text.
    pub service: String,
    /// Amount of each.
    pub amount: Msat,
}

impl PoolKey {
    /// What the payer's wallet shows.
    fn description(&self) -> String {
        match self.scheme {
            Scheme::L402 | Scheme::Charge => self.service.clone(),
            Scheme::Session => format!("Deposit for {}; the rest is refunded", self.service),
        }
    }
}

/// Why there is no invoice.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PoolError {
    /// As many unpaid invoices are out as may be.
    #[error("too many invoices are unpaid")]
    TooManyOutstanding,
    /// As many requests wait as may.
    #[error("too many requests wait for an invoice")]
    TooManyWaiting,
    /// The node is not in a state to make one.
    #[error("the Lightning node is {}", .0.as_str())]
    NodeDown(NodeStatus),
    /// The node failed.
    #[error(transparent)]
    Node(#[from] LightningError),
    /// None was made in time.
    #[error("the Lightning node made no invoice in time")]
    Timeout,
}

/// What a request for invoices got.
enum Asked {
    Ready(Vec<Invoice>),
    Queued(oneshot::Receiver<Result<Invoice, PoolError>>),
}

/// All pools.
pub struct Pools<N> {
    node: Arc<Node<N>>,
    clock: Arc<dyn Clock>,
    config: OffersConfig,
    window: ShowWindow,
    pools: Mutex<HashMap<PoolKey, Pool>>,
    permits: Arc<Semaphore>,
    /// Offers handed out and neither paid nor pruned, as the ledger knows them.
    handed_out: AtomicU64,
    /// Offers ever written to the ledger by this process.
    written: AtomicU64,
    /// Invoices taken and not yet written.
    in_hand: AtomicU64,
    metrics: Arc<Metrics>,
}

impl<N: Lightning> Pools<N> {
    /// No pool yet.
    #[must_use]
    pub fn new(
        node: Arc<Node<N>>,
        config: OffersConfig,
        clock: Arc<dyn Clock>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self {
            node,
            clock,
            config,
            window: ShowWindow::new(config.invoice_expiry.as_secs()),
            pools: Mutex::default(),
            permits: Arc::new(Semaphore::new(MINTING_OVERALL)),
            handed_out: AtomicU64::new(0),
            written: AtomicU64::new(0),
            in_hand: AtomicU64::new(0),
            metrics: Arc::clone(metrics),
        }
    }

    /// The times of these invoices.
    #[must_use]
    pub const fn window(&self) -> ShowWindow {
        self.window
    }

    /// Asks `ledger` how many offers are out.
    ///
    /// # Errors
    /// The ledger fails.
    pub async fn recount<L: Ledger>(&self, ledger: &L) -> Result<(), LedgerError> {
        let before = self.written.load(Ordering::Relaxed);
        let count = ledger.outstanding(self.node.known_id()).await?;
        // What was written meanwhile may be in the count or not; it is better counted twice.
        let meanwhile = self.written.load(Ordering::Relaxed).saturating_sub(before);
        let count = count.saturating_add(meanwhile);
        self.handed_out.store(count, Ordering::Relaxed);
        self.metrics
            .outstanding
            .set(i64::try_from(count).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Up to `want` invoices, at least one; waits for one at most `patience`.
    ///
    /// # Errors
    /// There is none, and why.
    pub async fn take(
        self: &Arc<Self>,
        key: &PoolKey,
        want: u16,
        standing: Standing,
        patience: Duration,
    ) -> Result<Taken<N>, PoolError> {
        let want = usize::from(want.max(1));
        let mut waiter = match self.ask(key, want, standing)? {
            Asked::Ready(ready) => return Ok(self.taken(key, ready)),
            Asked::Queued(waiter) => waiter,
        };
        let invoice = match tokio::time::timeout(patience, &mut waiter).await {
            Ok(answer) => answer.unwrap_or(Err(PoolError::Timeout))?,
            Err(_) => {
                // It may have arrived just now; then it must not be lost.
                waiter.close();
                waiter.try_recv().unwrap_or(Err(PoolError::Timeout))?
            }
        };
        let mut invoices = vec![invoice];
        let mut pools = self.lock();
        if let Some(pool) = pools.get_mut(key) {
            let spare = pool.ready.len().min(want - 1);
            self.in_hand.fetch_add(spare as u64, Ordering::Relaxed);
            invoices.extend(pool.ready.drain(..spare));
            self.mint(&mut pools, key);
        }
        drop(pools);
        Ok(self.taken(key, invoices))
    }

    fn taken(self: &Arc<Self>, key: &PoolKey, invoices: Vec<Invoice>) -> Taken<N> {
        Taken {
            pools: Arc::clone(self),
            key: key.clone(),
            invoices,
        }
    }

    /// Follows demand, for ever.
    pub async fn keep(self: &Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let dropped = self.tick();
            if !dropped.is_empty() {
                self.cancel(dropped).await;
            }
        }
    }

    /// Empties all pools and cancels their invoices at the node, as far as `deadline` lets.
    pub async fn close(self: &Arc<Self>, deadline: Duration) {
        self.permits.close();
        let leftovers = self
            .lock()
            .drain()
            .flat_map(|(_, pool)| pool.ready)
            .map(|invoice| invoice.payment_hash)
            .collect::<Vec<_>>();
        let count = leftovers.len();
        if tokio::time::timeout(deadline, self.cancel(leftovers))
            .await
            .is_err()
        {
            tracing::warn!(
                count,
                "unused invoices were not all cancelled; they expire by themselves"
            );
        }
    }

    /// Takes what is ready, or a place in the queue.
    fn ask(
        self: &Arc<Self>,
        key: &PoolKey,
        want: usize,
        standing: Standing,
    ) -> Result<Asked, PoolError> {
        let now = self.clock.monotonic();
        let mut pools = self.lock();
        let waiting: usize = pools.values().map(|pool| pool.waiting.len()).sum();
        let room = self.room(&pools).of(standing);
        let pool = pools.entry(key.clone()).or_insert_with(|| Pool::new(now));
        pool.demand.add(want, now);
        // Invoices too close to their end stay in front, where the next tick finds them.
        let fresh_from = pool.stale(self.window, &*self.clock);
        let end = pool.ready.len().min(fresh_from.saturating_add(want));
        let ready: Vec<Invoice> = pool.ready.drain(fresh_from..end).collect();
        if !ready.is_empty() {
            self.in_hand
                .fetch_add(ready.len() as u64, Ordering::Relaxed);
            self.mint(&mut pools, key);
            return Ok(Asked::Ready(ready));
        }
        if let Some(status) = self
            .node
            .status()
            .filter(|status| *status != NodeStatus::Ready)
        {
            return Err(PoolError::NodeDown(status));
        }
        if waiting >= MOST_WAITING {
            return Err(PoolError::TooManyWaiting);
        }
        // What is being made is for those who wait in front.
        if room == 0 && pool.minting <= pool.waiting.in_front_of(standing) {
            return Err(PoolError::TooManyOutstanding);
        }
        let place = pool.waiting.push(standing);
        self.mint(&mut pools, key);
        if standing == Standing::HasPaid {
            self.mint_kept(&mut pools, key);
        }
        Ok(Asked::Queued(place))
    }

    /// How many more invoices may be made.
    fn room(&self, pools: &HashMap<PoolKey, Pool>) -> Room {
        let held = pools
            .values()
            .map(|pool| (pool.ready.len() + pool.minting) as u64)
            .sum::<u64>();
        let out = self
            .handed_out
            .load(Ordering::Relaxed)
            .saturating_add(self.in_hand.load(Ordering::Relaxed))
            .saturating_add(held);
        Room::beside(out, self.config.max_outstanding)
    }

    /// Starts making what a pool lacks, within the limits.
    fn mint(self: &Arc<Self>, pools: &mut HashMap<PoolKey, Pool>, key: &PoolKey) {
        let now = self.clock.monotonic();
        let room = self.room(pools).of(Standing::New);
        let Some(pool) = pools.get_mut(key) else {
            return;
        };
        let count = pool
            .lacking(&self.config, now)
            .min(room)
            .min(MINTING_PER_POOL.saturating_sub(pool.minting));
        for _ in 0..count {
            self.begin(pool, key);
        }
    }

    /// Makes one of those that are kept for clients like the one that has just come, unless what
    /// is being made is enough for all who wait. One for each such client at most, so nobody else
    /// can use them up.
    fn mint_kept(self: &Arc<Self>, pools: &mut HashMap<PoolKey, Pool>, key: &PoolKey) {
        let room = self.room(pools).of(Standing::HasPaid);
        if let Some(pool) = pools.get_mut(key)
            && room > 0
            && pool.minting < pool.waiting.open().min(MINTING_PER_POOL)
        {
            self.begin(pool, key);
        }
    }

    fn begin(self: &Arc<Self>, pool: &mut Pool, key: &PoolKey) {
        pool.minting += 1;
        tokio::spawn(Arc::clone(self).mint_one(key.clone()));
    }

    async fn mint_one(self: Arc<Self>, key: PoolKey) {
        let result = match Arc::clone(&self.permits).acquire_owned().await {
            Err(_) => Err(PoolError::Timeout),
            Ok(_permit) => {
                let request = InvoiceRequest {
                    amount: key.amount,
                    description: key.description(),
                    expiry_seconds: self.config.invoice_expiry.as_secs(),
                };
                self.node
                    .add_invoice(request)
                    .await
                    .map_err(PoolError::from)
            }
        };
        if let Some(orphan) = self.minted(&key, result) {
            self.cancel(vec![orphan]).await;
        }
    }

    /// Hands on what was made and begins the next; gives an invoice for which there is no pool
    /// any more.
    fn minted(
        self: &Arc<Self>,
        key: &PoolKey,
        result: Result<Invoice, PoolError>,
    ) -> Option<PaymentHash> {
        let now = self.clock.monotonic();
        let mut pools = self.lock();
        let Some(pool) = pools.get_mut(key) else {
            return result.ok().map(|invoice| invoice.payment_hash);
        };
        pool.minting = pool.minting.saturating_sub(1);
        match result {
            Ok(invoice) => {
                let handed_over = pool.accept(invoice);
                self.in_hand
                    .fetch_add(u64::from(handed_over), Ordering::Relaxed);
            }
            Err(error) => {
                if pool.paused_until <= now {
                    tracing::warn!(%error, service = key.service, "no invoice was made");
                }
                pool.paused_until = now.saturating_add(PAUSE_AFTER_FAILURE);
                pool.fail_one(error);
            }
        }
        self.mint(&mut pools, key);
        None
    }

    /// Follows demand; gives the invoices to cancel.
    fn tick(self: &Arc<Self>) -> Vec<PaymentHash> {
        let now = self.clock.monotonic();
        let mut dropped = Vec::new();
        let mut pools = self.lock();
        for pool in pools.values_mut() {
            pool.demand.tick();
            let unwanted = if pool.demand.is_idle(now) {
                pool.ready.len()
            } else {
                pool.stale(self.window, &*self.clock)
            };
            dropped.extend(
                pool.ready
                    .drain(..unwanted)
                    .map(|invoice| invoice.payment_hash),
            );
        }
        pools.retain(|_, pool| !pool.is_unused(now));
        let keys: Vec<PoolKey> = pools.keys().cloned().collect();
        for key in &keys {
            self.mint(&mut pools, key);
        }
        let ready = pools.values().map(|pool| pool.ready.len()).sum::<usize>();
        let minting = pools.values().map(|pool| pool.minting).sum::<usize>();
        self.metrics
            .pool_ready
            .set(i64::try_from(ready).unwrap_or(i64::MAX));
        self.metrics
            .pool_minting
            .set(i64::try_from(minting).unwrap_or(i64::MAX));
        dropped
    }

    async fn cancel(self: &Arc<Self>, hashes: Vec<PaymentHash>) {
        let count = hashes.len();
        let mut failed = 0_usize;
        let mut running = tokio::task::JoinSet::new();
        for hash in hashes {
            if running.len() >= MINTING_PER_POOL {
                failed += usize::from(matches!(running.join_next().await, Some(Ok(false))));
            }
            let node = Arc::clone(&self.node);
            running.spawn(async move { node.cancel(hash).await.is_ok() });
        }
        while let Some(done) = running.join_next().await {
            failed += usize::from(!matches!(done, Ok(true)));
        }
        tracing::debug!(count, failed, "unused invoices cancelled");
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PoolKey, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
