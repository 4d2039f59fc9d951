//! Metric names, in one place. Labels come from closed sets; no hash, token, address or service
//! name is ever one.

mod labels;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use self::labels::{
    CallResult, ClaimLabels, ClaimOutcome, DepositLabels, HttpLabels, OfferLabels, OfferOutcome,
    ReasonLabels, Route, Rpc, RpcLabels, SchemeLabels, SessionCallLabels, StateLabels, StopLabels,
};

/// All metrics of the sidecar.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Metrics {
    registry: Registry,
    pub offers: Family<OfferLabels, Counter>,
    pub claims: Family<ClaimLabels, Counter>,
    pub abandoned: Counter,
    pub freed: Counter,
    pub session_calls: Family<SessionCallLabels, Counter>,
    pub deposits: Family<DepositLabels, Counter>,
    pub deposits_sat: Family<DepositLabels, Counter>,
    pub sessions: Family<StateLabels, Gauge>,
    pub sessions_stopped: Family<StopLabels, Counter>,
    pub lease_holders: Gauge,
    pub lost_units: Counter,
    pub reclaimed_units: Counter,
    pub pool_ready: Gauge,
    pub pool_minting: Gauge,
    pub outstanding: Gauge,
    pub sales: Family<SchemeLabels, Counter>,
    pub sales_msat: Family<SchemeLabels, Counter>,
    pub rpc_seconds: Family<RpcLabels, Histogram>,
    pub refunds: Family<StateLabels, Gauge>,
    pub refunds_oldest: Gauge,
    pub refunds_held: Family<ReasonLabels, Gauge>,
    pub refunds_elsewhere: Gauge,
    pub clock_ahead: Gauge,
    pub refunds_paid: Counter,
    pub refunds_paid_sat: Counter,
    pub refund_fees_msat: Counter,
    pub node_state: Family<StateLabels, Gauge>,
    pub subscription_up: Gauge,
    pub commit_seconds: Histogram,
    pub commit_changes: Histogram,
    pub http: Family<HttpLabels, Counter>,
    pub filters_live: Gauge,
    pub generations: Family<StateLabels, Gauge>,
    pub revocations: Gauge,
    pub revocations_limit: Gauge,
}

/// From 0.5 ms to 8 s.
const SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 8.0,
];
const CHANGES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 512.0];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("boltgate_sidecar"),
            offers: Family::default(),
            claims: Family::default(),
            abandoned: Counter::default(),
            freed: Counter::default(),
            session_calls: Family::default(),
            deposits: Family::default(),
            deposits_sat: Family::default(),
            sessions: Family::default(),
            sessions_stopped: Family::default(),
            lease_holders: Gauge::default(),
            lost_units: Counter::default(),
            reclaimed_units: Counter::default(),
            pool_ready: Gauge::default(),
            pool_minting: Gauge::default(),
            outstanding: Gauge::default(),
            sales: Family::default(),
            sales_msat: Family::default(),
            rpc_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            refunds: Family::default(),
            refunds_oldest: Gauge::default(),
            refunds_held: Family::default(),
            refunds_elsewhere: Gauge::default(),
            clock_ahead: Gauge::default(),
            refunds_paid: Counter::default(),
            refunds_paid_sat: Counter::default(),
            refund_fees_msat: Counter::default(),
            node_state: Family::default(),
            subscription_up: Gauge::default(),
            commit_seconds: seconds(),
            commit_changes: Histogram::new(CHANGES),
            http: Family::default(),
            filters_live: Gauge::default(),
            generations: Family::default(),
            revocations: Gauge::default(),
            revocations_limit: Gauge::default(),
        };
        metrics.register();
        metrics.register_refunds();
        metrics.register_sessions();
        metrics
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.registry) {
            tracing::error!(%error, "metrics cannot be written");
        }
        out
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the sidecar", build);
        registry.register(
            "offers",
            "Requests for offers by outcome",
            self.offers.clone(),
        );
        registry.register(
            "charge_claims",
            "Claims of charges by outcome",
            self.claims.clone(),
        );
        registry.register(
            "charge_attempts_abandoned",
            "Attempts to claim that were refused without forwarding, repeated reports included",
            self.abandoned.clone(),
        );
        registry.register(
            "charge_claims_freed",
            "Claims that were won and abandoned",
            self.freed.clone(),
        );
        registry.register(
            "pool_ready_invoices",
            "Invoices ready to be handed out",
            self.pool_ready.clone(),
        );
        registry.register(
            "pool_minting_invoices",
            "Invoices being made by the node",
            self.pool_minting.clone(),
        );
        registry.register(
            "outstanding_offers",
            "Offers handed out and neither paid nor pruned",
            self.outstanding.clone(),
        );
        registry.register("sales", "Settled payments recorded", self.sales.clone());
        registry.register(
            "sales_msat",
            "Sum of settled payments recorded, in millisatoshi",
            self.sales_msat.clone(),
        );
        registry.register_with_unit(
            "lightning_call",
            "Calls to the Lightning node",
            Unit::Seconds,
            self.rpc_seconds.clone(),
        );
        registry.register(
            "lightning_state",
            "1 for the state that the Lightning node is in",
            self.node_state.clone(),
        );
        registry.register(
            "lightning_subscription_up",
            "1 while settlements are being listened to",
            self.subscription_up.clone(),
        );
        registry.register_with_unit(
            "ledger_commit",
            "Transactions of the ledger, from begin to durable",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        registry.register(
            "ledger_commit_changes",
            "Changes in one transaction of the ledger",
            self.commit_changes.clone(),
        );
        registry.register(
            "http_requests",
            "API requests by route and status",
            self.http.clone(),
        );
        registry.register(
            "filters_live",
            "Filter VMs that polled within the live window",
            self.filters_live.clone(),
        );
        registry.register(
            "key_generations",
            "Key generations by state",
            self.generations.clone(),
        );
        registry.register(
            "revocations",
            "Tokens on the deny list",
            self.revocations.clone(),
        );
        registry.register(
            "revocations_limit",
            "Most tokens that the deny list can have",
            self.revocations_limit.clone(),
        );
    }

    fn register_refunds(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "refunds",
            "Refunds of the node that are not paid, by state",
            self.refunds.clone(),
        );
        registry.register_with_unit(
            "refunds_oldest",
            "Age of the oldest refund that is neither paid nor failed",
            Unit::Seconds,
            self.refunds_oldest.clone(),
        );
        registry.register(
            "refunds_held",
            "1 while refunds wait for this reason",
            self.refunds_held.clone(),
        );
        registry.register(
            "refunds_elsewhere",
            "Refunds that are not paid and that another node has to pay",
            self.refunds_elsewhere.clone(),
        );
        registry.register_with_unit(
            "clock_ahead",
            "How far this machine's clock is ahead of the database's; negative: behind",
            Unit::Seconds,
            self.clock_ahead.clone(),
        );
        registry.register("refunds_paid", "Refunds paid", self.refunds_paid.clone());
        registry.register(
            "refunds_paid_sat",
            "Sum of refunds paid, in satoshi",
            self.refunds_paid_sat.clone(),
        );
        registry.register(
            "refund_fees_msat",
            "Routing fees of refunds paid, in millisatoshi",
            self.refund_fees_msat.clone(),
        );
    }
}

impl Metrics {
    fn register_sessions(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "session_calls",
            "Calls that open, top up and close sessions by outcome",
            self.session_calls.clone(),
        );
        registry.register(
            "deposits",
            "Deposits credited to sessions",
            self.deposits.clone(),
        );
        registry.register(
            "deposits_sat",
            "Sum of deposits credited to sessions, in satoshis",
            self.deposits_sat.clone(),
        );
        registry.register(
            "sessions",
            "Sessions by state, without those that are closed",
            self.sessions.clone(),
        );
        registry.register(
            "sessions_stopped",
            "Sessions that the sidecar closed by itself",
            self.sessions_stopped.clone(),
        );
        registry.register(
            "lease_holders",
            "Leases of filter VMs that have not ended",
            self.lease_holders.clone(),
        );
        registry.register(
            "lost_units",
            "Units that were served and reported too late to be debited",
            self.lost_units.clone(),
        );
        registry.register(
            "reclaimed_units",
            "Units that went back to buyers because nothing was heard of their leases",
            self.reclaimed_units.clone(),
        );
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
