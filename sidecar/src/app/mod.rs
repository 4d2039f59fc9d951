//! The use cases, generic over the ports.
//!
//! | module | job |
//! |---|---|
//! | [`state`] | what filters poll: keys and deny list; key rotation |
//! | [`issue`] | offers, within limits |
//! | [`pool`] | ready invoices |
//! | [`claims`] | one response for one payment |
//! | [`clocks`] | whether this process and the ledger agree on the time |
//! | [`payments`] | whether money has arrived |
//! | [`sessions`] | deposits, and what goes back of them |
//! | [`endings`] | who waits for the end of a session |
//! | [`leases`] | what filters spend of sessions; sessions that nobody uses |
//! | [`settle`] | sales, from the node's settlements |
//! | [`refunds`] | what closed sessions owe |
//! | [`sweep`] | what expired |
//! | [`node`] | how the node is; measured calls |

pub mod claims;
pub mod clocks;
pub mod endings;
#[cfg(test)]
pub(crate) mod fixture;
pub mod issue;
pub mod keys;
pub mod leases;
mod names;
pub mod node;
pub mod payments;
pub mod pool;
pub mod refunds;
pub mod sessions;
pub mod settle;
pub mod state;
pub mod sweep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::claims::Claims;
use self::clocks::Clocks;
use self::issue::Issuer;
use self::keys::MasterKeys;
use self::leases::Leases;
use self::node::Node;
use self::payments::Payments;
use self::pool::Pools;
use self::refunds::{Refunder, RefunderParts};
use self::sessions::Sessions;
use self::state::{StateError, StateKeeper};
use crate::config::{FiltersConfig, OffersConfig, RefundsConfig};
use crate::domain::lease::Times;
use crate::domain::payout::WorkerId;
use crate::domain::ports::{Clock, Ledger, Lightning, Random};
use crate::metrics::Metrics;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a request waits for the node. With what follows it stays below the filter's
/// [callout timeout](crate::domain::claim::CALLOUT_TIMEOUT), so that our own answer arrives and not
/// Envoy's.
const PATIENCE: Duration = Duration::from_millis(2_300);
/// The same for the whole request.
const DEADLINE: Duration = Duration::from_millis(2_800);

/// The sidecar without its doors.
pub struct App<L, N> {
    /// The durable store.
    pub ledger: Arc<L>,
    /// The node.
    pub node: Arc<Node<N>>,
    /// What filters poll.
    pub state: Arc<StateKeeper<L>>,
    /// Offers.
    pub issuer: Arc<Issuer<L, N>>,
    /// Claims of charges.
    pub claims: Claims<L, N>,
    refunder: Arc<Refunder<L, N>>,
    /// What filters spend of sessions.
    pub leases: Arc<Leases<L>>,
    /// Sessions.
    pub sessions: Sessions<L, N>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Which of several sidecars on one ledger this is.
    process: WorkerId,
    clocks: Arc<Clocks<L>>,
    draining: AtomicBool,
}

/// What the use cases are made of.
pub struct Parts<L, N> {
    /// The durable store.
    pub ledger: Arc<L>,
    /// The node.
    pub lightning: N,
    /// Master keys of the operator.
    pub master_keys: MasterKeys,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl<L: Ledger, N: Lightning> App<L, N> {
    /// Makes the first key if there is none, and reads what is in the ledger.
    ///
    /// # Errors
    /// The ledger fails, or a key is missing in the operator's file.
    pub async fn start(
        parts: Parts<L, N>,
        offers: OffersConfig,
        filters: FiltersConfig,
        refunds: RefundsConfig,
    ) -> Result<Arc<Self>, StateError> {
        let Parts {
            ledger,
            lightning,
            master_keys,
            clock,
            random,
            metrics,
        } = parts;
        let first = master_keys.first_key(&*random)?;
        ledger.install_first_key(first, clock.unix_millis()).await?;
        let clocks = Clocks::new(
            Arc::clone(&ledger),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        );
        let clocks = Arc::new(clocks);
        clocks.agree().await?;
        let state = Arc::new(StateKeeper::new(
            Arc::clone(&ledger),
            master_keys,
            Arc::clone(&clocks),
            Arc::clone(&clock),
            filters,
            offers.invoice_expiry,
            Arc::clone(&metrics),
        ));
        state.refresh().await?;
        let node = Arc::new(Node::new(lightning, Arc::clone(&metrics)));
        let pools = Arc::new(Pools::new(
            Arc::clone(&node),
            offers,
            Arc::clone(&clock),
            &metrics,
        ));
        let worker = WorkerId::random(&*random)?;
        let issuer = Arc::new(Issuer::new(
            Arc::clone(&ledger),
            Arc::clone(&state),
            pools,
            offers,
            Arc::clone(&clock),
            random,
            Arc::clone(&metrics),
        ));
        issuer.recount().await?;
        let payments = Arc::new(Payments::new(
            Arc::clone(&ledger),
            Arc::clone(&node),
            Arc::clone(&metrics),
        ));
        let claims = Claims::new(
            Arc::clone(&ledger),
            Arc::clone(&payments),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        );
        let leases = Arc::new(Leases::new(
            Arc::clone(&ledger),
            Times {
                reclaim_ms: u64::try_from(filters.reclaim_after.as_millis()).unwrap_or(u64::MAX),
                ..Times::default()
            },
            filters.lease_terms,
            Arc::clone(&metrics),
        ));
        let refunder = Arc::new(Refunder::new(RefunderParts {
            ledger: Arc::clone(&ledger),
            node: Arc::clone(&node),
            config: refunds,
            worker,
            clocks: Arc::clone(&clocks),
            clock: Arc::clone(&clock),
            endings: Arc::clone(leases.endings()),
            metrics: Arc::clone(&metrics),
        }));
        let sessions = Sessions::new(
            Arc::clone(&ledger),
            Arc::clone(&node),
            payments,
            Arc::clone(&leases),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        );
        ledger.begin_serving().await.map_err(StateError::from)?;
        let draining = AtomicBool::new(false);
        Ok(Arc::new(Self {
            ledger,
            node,
            state,
            issuer,
            claims,
            refunder,
            leases,
            sessions,
            metrics,
            process: worker,
            clocks,
            draining,
        }))
    }

    /// Starts the work that nobody asks for; it ends when `stop` is cancelled.
    pub fn spawn_background(self: &Arc<Self>, tasks: &TaskTracker, stop: &CancellationToken) {
        let state = Arc::clone(&self.state);
        tasks.spawn(until(stop.clone(), async move { state.keep().await }));
        let node = Arc::clone(&self.node);
        tasks.spawn(until(stop.clone(), async move { node.watch().await }));
        let issuer = Arc::clone(&self.issuer);
        tasks.spawn(until(
            stop.clone(),
            async move { issuer.pools().keep().await },
        ));
        let leases = Arc::clone(&self.leases);
        tasks.spawn(until(stop.clone(), async move { leases.keep().await }));
        let settler = settle::Settler::new(
            Arc::clone(&self.ledger),
            Arc::clone(&self.node),
            Arc::clone(&self.metrics),
        );
        tasks.spawn(until(stop.clone(), async move { settler.run().await }));
        let refunder = Arc::clone(&self.refunder);
        tasks.spawn(until(stop.clone(), async move {
            refunder.run().await;
        }));
        let sweeper = sweep::Sweeper::new(self);
        tasks.spawn(until(stop.clone(), async move { sweeper.run().await }));
    }

    /// From now on this process is going away.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::begin_drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()> + Send) {
    stop.run_until_cancelled(work).await;
}
