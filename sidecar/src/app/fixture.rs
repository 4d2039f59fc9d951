//! A whole sidecar without doors, for the tests of its parts: SQLite, the dev network, and a clock
//! that the test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::amount::{Msat, Sat};
use protocol::api::charge::ChargeOffersRequest;
use protocol::api::{ClientHint, OfferTemplate, OffersRequest};
use protocol::lease::Terms;
use tempfile::TempDir;

use super::keys::MasterKeys;
use super::{App, Parts};
use crate::adapters::ledger::sqlite::SqliteLedger;
use crate::adapters::lightning::dev::DevNode;
use crate::adapters::system::SystemRandom;
use crate::config::{FiltersConfig, OffersConfig, RefundsConfig};
use crate::domain::payout::{FeeTerms, RefundCaps};
use crate::domain::ports::{Clock, Ledger};
use crate::metrics::Metrics;

/// Stands still until it is moved; in seconds.
#[derive(Default)]
pub(crate) struct ManualClock(pub(crate) AtomicU64);

impl Clock for ManualClock {
    fn unix_millis(&self) -> u64 {
        (1_800_000_000 + self.0.load(Ordering::SeqCst)) * 1_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) const OFFERS: OffersConfig = OffersConfig {
    invoice_expiry: Duration::from_secs(600),
    per_second: 100,
    burst: 100,
    max_outstanding: 100,
    per_client_per_minute: 100,
    paid_factor: 1,
    pool_min: 0,
    pool_max: 8,
};

const FILTERS: FiltersConfig = FiltersConfig {
    revocation_poll: Duration::from_millis(500),
    live_window: Duration::from_secs(30),
    reclaim_after: Duration::from_secs(8),
    lease_terms: Terms::USUAL,
};

pub(crate) const REFUNDS: RefundsConfig = RefundsConfig {
    fees: FeeTerms {
        percent: 1,
        least: Sat::ZERO,
    },
    cltv_limit: 720,
    timeout: Duration::from_secs(1),
    caps: RefundCaps {
        in_flight: 2,
        daily_fees: Sat::MAX,
    },
    attempts: 3,
};

pub(crate) fn ledger_path(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("l.db")
}

pub(crate) async fn app(
    dir: &TempDir,
    clock: &Arc<ManualClock>,
    offers: OffersConfig,
) -> (Arc<App<SqliteLedger, DevNode>>, DevNode) {
    let ledger = SqliteLedger::open(&ledger_path(dir)).unwrap();
    app_on(ledger, dir, clock, offers).await
}

pub(crate) async fn app_on<L: Ledger>(
    ledger: L,
    dir: &TempDir,
    clock: &Arc<ManualClock>,
    offers: OffersConfig,
) -> (Arc<App<L, DevNode>>, DevNode) {
    let time: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    let dev = dir.path().join("dev.db");
    let random = Arc::new(SystemRandom);
    let node = DevNode::open(&dev, Duration::ZERO, Arc::clone(&time), random).unwrap();
    let parts = Parts {
        ledger: Arc::new(ledger),
        lightning: node.clone(),
        master_keys: MasterKeys::new(Vec::new(), None),
        clock: time,
        random: Arc::new(SystemRandom),
        metrics: Arc::new(Metrics::new()),
    };
    (
        App::start(parts, offers, FILTERS, REFUNDS).await.unwrap(),
        node,
    )
}

pub(crate) fn wish() -> OffersRequest {
    OffersRequest {
        vm: String::new(),
        request_id: String::new(),
        count: 1,
        template: OfferTemplate {
            service: "weather".to_owned(),
            tier: 0,
            price_msat: Msat::new(1_000).unwrap(),
            lifetime_seconds: Some(3_600),
            capabilities: Vec::new(),
            constraints: Vec::new(),
        },
        client: None,
    }
}

pub(crate) fn wish_of(prefix: &str, has_paid: bool) -> OffersRequest {
    let client = ClientHint {
        prefix: prefix.to_owned(),
        has_paid,
    };
    OffersRequest {
        client: Some(client),
        ..wish()
    }
}

/// As dear as [`wish`], so that only the scheme tells them apart.
pub(crate) fn charge_wish() -> ChargeOffersRequest {
    ChargeOffersRequest {
        vm: "0".repeat(32),
        request_id: "1".repeat(32),
        count: 1,
        service: "weather".to_owned(),
        amount: Sat::new(1).unwrap(),
        client: None,
    }
}
